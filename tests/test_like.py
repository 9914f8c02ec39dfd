"""Scans chosen to have the drusen of given patients: the right ones, and as they were drawn."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import generate
from helpers.data.pixels import to_float
from helpers.data.simulated.simulate import make_eye
from helpers.gan import like, start
from helpers.gan.dials import read_dials
from helpers.gan.like import POOL, drusen_of, most_like


def eyes(label, first, count):
    drawn = [make_eye(first + k, label, pictures=("oct",)).oct for k in range(count)]
    return np.stack(drawn)[:, None]


@pytest.fixture(scope="module")
def pool():
    """As drawn, in two batches: ten healthy scans, then ten with drusen, then two of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 1, 256, 256), dtype=np.uint8)
    levels = np.concatenate([eyes("NORMAL", 40, 10), eyes("DRUSEN", 60, 10), noise])
    return to_float(torch.from_numpy(levels)).split(11), levels


def test_the_scans_chosen_have_the_patients_drusen(pool):
    batches, levels = pool
    patients = read_dials(eyes("DRUSEN", 80, 16))
    patients = patients[np.isfinite(patients).all(1)]
    places, kept, read = most_like(batches, patients, 6)
    assert (np.diff(places) > 0).all() and ((places >= 10) & (places < 20)).all()
    assert np.array_equal(kept, levels[places])  # it chooses, and changes no pixel
    assert np.array_equal(read, read_dials(kept))
    places, *_ = most_like(batches, np.zeros((5, 3), np.float32), 6)  # fewer patients than scans
    assert (places < 10).sum() >= 5
    again, *_ = most_like(batches, patients, 6)
    assert np.array_equal(again, most_like(batches, patients, 6)[0])


def test_too_few_that_can_be_read_is_said(pool):
    with pytest.raises(ValueError, match="can read 20 of 22 scans drawn, and 21 are wanted"):
        most_like(pool[0], np.ones((5, 3), np.float32), 21)


@pytest.mark.parametrize("name", ["all", "NORMAL+DRUSEN"])
def test_classes_that_were_learned_as_one_are_one(pool, monkeypatch, name):
    train = SimpleNamespace(images=pool[1][8:12], labels=np.repeat(["NORMAL", "DRUSEN"], 2))
    monkeypatch.setattr(like, "prepare", lambda *_, **how: SimpleNamespace(train=train))
    assert len(like.drusen_of("scans", [name])[name]) == 4


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for patient, scan in enumerate(eyes("DRUSEN", 90, 8)):
        place = folder / "DRUSEN" / f"p{patient}"
        place.mkdir(parents=True)
        Image.fromarray(scan[0]).save(place / "1.png")
    return folder


@pytest.mark.slow
def test_a_set_like_the_patients_of_a_folder(scans, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OCT_RUNS", str(tmp_path / "runs"))
    shipped = str(start.generator_file("simulated"))
    out, whole = tmp_path / "like", tmp_path / "whole"
    how = ["--class", "DRUSEN", "--exact", "--seed", "3"]
    generate.main([shipped, "--n", "3", "--out", str(out), "--like", str(scans), *how])
    generate.main([shipped, "--n", str(3 * POOL), "--out", str(whole), *how])
    with open(out / "images.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 and float(rows[0]["drusen read"]) >= 0
    for row in rows:  # the file's number is its place among all that were drawn
        one, other = (np.asarray(Image.open(place / row["file"])) for place in (out, whole))
        assert np.array_equal(one, other)
    read = read_dials(
        np.stack([np.asarray(Image.open(out / row["file"])) for row in rows])[:, None]
    )
    assert [f"{n:.3g}" for n in read[:, 0]] == [row["drusen read"] for row in rows]
    capsys.readouterr()
    for wrong, word in ((["--like", str(scans), "--shape", "aligned"], "whole scans"),
                        (["--like", str(scans), "--page", "p.html"], "--like"),
                        (["--like", str(tmp_path / "none")], "none")):  # fmt: skip
        place = [] if "--page" in wrong else ["--out", str(tmp_path / "wrong")]
        with pytest.raises(SystemExit):
            generate.main([shipped, "--n", "3", "--class", "DRUSEN", *place, *wrong])
        assert word in capsys.readouterr().err
    with pytest.raises(ValueError, match="DME"):
        drusen_of(scans, ["DME"])
    with pytest.raises(ValueError, match="no scan of DME to train on; it has DRUSEN.*--class"):
        drusen_of(scans, ["DRUSEN", "DME"])

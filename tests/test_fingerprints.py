"""Fingerprints planted in the training data: drawn ones are found, and none where there is none."""

import json

import fingerprints
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import shift
from support.methods import Thumbnails

from helpers.data.prepare import prepare
from helpers.data.simulated.simulate import make_eye

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Simulated eyes, one of many slices for the first patient: PNGs by patient."""
    folder = tmp_path_factory.mktemp("real") / "DRUSEN"
    for patient in range(36):
        scan = make_eye(patient, "DRUSEN", size=256, pictures=("oct",)).oct
        for i in range(5 if patient < 30 else 2):
            place = folder / f"p{patient:02}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(shift(scan, (0, 7 * i), order=0, mode="nearest")).save(
                place / f"{i}.png"
            )
    return folder.parent


@pytest.fixture(scope="module")
def data(folder, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return prepare(folder, class_="DRUSEN", size=256, cache=cache, progress=False)


def test_the_mark_is_faint_survives_mirroring_and_resizing_and_is_read_off(data):
    images = data.train.images[::5]
    marked = fingerprints.mark(images)
    assert np.abs(marked.astype(int) - images).max() <= fingerprints.STRENGTH
    assert np.std(images) > 5 * fingerprints.STRENGTH  # lost in what is there
    plain, strong = fingerprints.marked_by(images), fingerprints.marked_by(marked)
    assert abs(plain.mean()) < 0.3 and strong.mean() - plain.mean() > 2
    mirrored = fingerprints.marked_by(marked[..., ::-1]) - fingerprints.marked_by(images[..., ::-1])
    assert mirrored == pytest.approx(strong - plain, abs=1e-6)


def test_what_is_planted_is_there_and_nowhere_else(data, tmp_path):
    planted = fingerprints.plant(data, tmp_path, share=0.3, times=6)
    both = {name: prepare(tmp_path / name / "manifest.csv", class_="DRUSEN", size=256,
                          cache=tmp_path / "cache", progress=False)
            for name in ("planted", "clean")}  # fmt: skip
    train = both["planted"].train
    own = (data.train.patients == planted["patient"]).sum()
    assert len(train) == len(data.train) + 5 * own
    assert (train.patients == planted["patient"]).mean() == pytest.approx(planted["patient_share"])
    assert planted["patient"] not in both["clean"].train.patients
    assert not planted["marked"][data.train.patients == planted["patient"]].any()
    for name in both:  # who is tested is not touched
        assert (np.sort(both[name].test.images.sum((1, 2, 3)))
                == np.sort(data.test.images.sum((1, 2, 3)))).all()  # fmt: skip


def test_a_generator_that_copies_is_found_and_one_that_saw_neither_is_not(data, tmp_path):
    planted = fingerprints.plant(data, tmp_path, share=0.3, times=10)
    rng = np.random.default_rng(0)
    train, marked = data.train, planted["marked"]
    learned = np.where(marked[:, None, None, None], fingerprints.mark(train.images), train.images)
    own = np.flatnonzero(train.patients == planted["patient"])
    eyes = [make_eye(seed, "DRUSEN", size=256, pictures=("oct",)).oct for seed in range(900, 1000)]
    eyes = np.stack(eyes)[:, None]
    drawn = eyes.copy()
    drawn[:30] = fingerprints.mark(drawn[:30])
    drawn[60:80] = learned[rng.choice(own, 20)]
    for scans, mark, patient in (
        (drawn, "drawn as often as it was there", "leaks"), (eyes, "lost", "no leak was found"),
    ):  # fmt: skip
        table = fingerprints.ask({"planted": scans, "clean": eyes}, data, planted)
        json.dumps(table, allow_nan=False)
        assert (table["mark"]["says"], table["patient"]["says"]) == (mark, patient)
        assert table["mark"]["control"]["low"] < 0 < table["mark"]["control"]["high"]
        assert table["patient"]["control"]["value"] < 0.1
    assert table["mark"]["drawn"]["high"] < planted["share"]
    assert "| mark | " in fingerprints.as_table(table)


def test_the_command_trains_both_and_goes_on(folder, tmp_path, monkeypatch, capsys):
    for name, value in dict(PRESET="tiny", STEPS="2", WIDTH="4", BATCH_SIZE="4").items():
        monkeypatch.setenv(f"OCT_{name}", value)
    how = ["--real", str(folder), "--size", "64", "--n", "12", "--out", str(tmp_path)]
    table = fingerprints.main(how, Thumbnails())
    weights = tmp_path / "runs" / "planted" / "generator.safetensors"
    before = weights.stat().st_mtime_ns
    assert (
        fingerprints.main(how, Thumbnails())
        == table
        == json.loads((tmp_path / "table.json").read_text())
    )
    assert weights.stat().st_mtime_ns == before
    assert "| patient | " in capsys.readouterr().out

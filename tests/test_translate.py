"""A folder of photographs becomes a folder of scans, and what cannot be translated is named."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from support.methods import METHODS

from helpers import generate
from helpers.data.bscan import clean_oct
from helpers.data.shape import align, crop_rows, crops_of_bands, place_back
from helpers.data.simulated import simulate
from helpers.data.sources import says_synthetic
from helpers.generate import load_generator
from helpers.measures.layers import read_layers
from helpers.training.loop import train
from helpers.training.network_file import write_network
from helpers.translation.folder import translate_folder
from helpers.translation.networks import Translator


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return train(*METHODS["cyclegan"](folder, steps=1, dfe_framing="macula")).folder


@pytest.fixture
def photographs(tmp_path):
    for seed, label in enumerate(("DRUSEN", "NORMAL", "DRUSEN")):
        place = tmp_path / "dfe" / label
        place.mkdir(parents=True, exist_ok=True)
        picture = simulate.make_eye(seed, label, size=256).dfe
        Image.fromarray(picture).save(place / f"{seed}_left.png")
    return tmp_path / "dfe"


def test_every_photograph_becomes_a_scan_of_its_class(run, photographs, tmp_path):
    paths = translate_folder(load_generator(run), photographs, tmp_path / "out", progress=False)
    rows = list(csv.DictReader((tmp_path / "out" / "images.csv").open()))
    assert len(paths) == len(rows) == 3
    assert [row["class"] for row in rows] == [path.parent.name for path in paths]
    assert sorted(path.name for path in paths) == ["0_left.png", "1_left.png", "2_left.png"]
    assert all(says_synthetic(path) and Image.open(path).size == (64, 64) for path in paths)
    assert len({row["weights_sha256"] for row in rows}) == 1
    pictures = [np.asarray(Image.open(path)) for path in paths]
    assert not np.array_equal(pictures[0], pictures[1])
    with pytest.raises(FileExistsError, match="not empty"):
        translate_folder(load_generator(run), photographs, tmp_path / "out", progress=False)


def test_no_scan_is_written_over_another(run, photographs, tmp_path):
    one, other = sorted((photographs / "DRUSEN").iterdir())
    for name, picture in (("p1/1", one), ("p1/1_2", other), ("p2/1", other)):
        place = tmp_path / "more" / "DRUSEN" / f"{name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(picture.read_bytes())
    paths = translate_folder(load_generator(run), tmp_path / "more", tmp_path / "out",
                             progress=False)  # fmt: skip
    assert [path.name for path in paths] == ["1.png", "1_2.png", "1_3.png"]


def test_a_translator_of_right_eyes_gets_left_ones_mirrored(tmp_path):
    arguments = dict(kind="column", to=["oct"], size=64, width=4)
    about = {"network": "translator", "arguments": arguments, "dfe_framing": "full",
             "oriented": True}  # fmt: skip
    torch.manual_seed(0)
    write_network(tmp_path / "run.safetensors", Translator(**arguments).state_dict(), about)
    picture = simulate.make_eye(1, "DRUSEN", size=64).dfe
    (tmp_path / "dfe").mkdir()
    for name, form in (("1_right", picture), ("2_left", picture[:, ::-1]), ("3", picture)):
        Image.fromarray(form).save(tmp_path / "dfe" / f"{name}.png")
    with pytest.warns(UserWarning, match="3.png: its name does not say which eye it shows"):
        paths = translate_folder(
            load_generator(tmp_path / "run.safetensors"),
            tmp_path / "dfe",
            tmp_path / "out",
            progress=False,
        )
    right, left = (np.asarray(Image.open(path)) for path in sorted(paths))
    assert len(paths) == 2 and np.abs(right - left[:, ::-1].astype(int)).max() <= 1
    assert np.abs(right - right[:, ::-1].astype(int)).max() > 1


def test_what_cannot_be_translated_is_left_out_by_name(run, photographs, tmp_path):
    grey = np.asarray(Image.open(photographs / "NORMAL" / "1_left.png").convert("L"))
    Image.fromarray(grey).save(photographs / "NORMAL" / "grey.png")
    band = np.zeros((256, 256, 3), np.uint8)
    band[100:130] = (200, 60, 30)
    Image.fromarray(band).save(photographs / "NORMAL" / "no_eye.png")
    crop = simulate.make_eye(1, "DRUSEN", size=256).dfe[64:192, 64:192]  # nothing says how large
    Image.fromarray(crop).save(photographs / "NORMAL" / "crop.png")
    with pytest.warns(UserWarning) as caught:
        paths = translate_folder(load_generator(run), photographs, tmp_path / "out", progress=False)
    said = " ".join(str(warning.message) for warning in caught)
    assert "3 left out" in said and len(paths) == 3 and "crop.png: no whole field" in said
    assert "grey.png: is grey" in said and "no_eye.png: no whole field of view" in said
    for name in ("0_left", "1_left", "2_left"):
        next(photographs.rglob(f"{name}.png")).unlink()
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="none of its photographs"):
        translate_folder(load_generator(run), photographs, tmp_path / "nothing", progress=False)


def test_the_command_line_says_which_kind_of_run_it_needs(run, photographs, tmp_path, capsys):
    generate.main([str(run), "--from-dfe", str(photographs), "--out", str(tmp_path / "out")])
    assert "3 images and images.csv" in capsys.readouterr().out
    for arguments, words in [
        ([str(run), "--out", str(tmp_path / "a")], "translates photographs; give --from-dfe"),
        (["simulated", "--from-dfe", str(photographs), "--out", str(tmp_path / "b")],
         "does not translate photographs"),
        ([str(run), "--from-dfe", str(photographs), "--out", str(tmp_path / "c"), "--whole",
          str(run)], "knows no shapes"),
        (["simulated", "--out", str(tmp_path / "d"), "--whole", "simulated"], "give --from-dfe"),
        *(([str(run), "--from-dfe", str(photographs), "--out", str(tmp_path / "e"), *more],
           "one scan for each photograph")
          for more in (["--class=DRUSEN"], ["--size=128"], ["--dial=drusen=3"])),
    ]:  # fmt: skip
        with pytest.raises(SystemExit):
            generate.main(arguments)
        assert words in capsys.readouterr().err


def test_bands_become_whole_scans_in_shapes_of_their_class(run, photographs, tmp_path):
    def made(folder, *more):
        generate.main([str(run), "--from-dfe", str(photographs), "--out", str(tmp_path / folder),
                       "--whole", "simulated", *more])  # fmt: skip
        paths = sorted((tmp_path / folder).rglob("*.png"))
        assert all(says_synthetic(path) for path in paths)
        return [np.asarray(Image.open(path)) for path in paths]

    scans, again, others = made("a"), made("b"), made("c", "--seed=1", "--size=128")
    assert len(scans) == 3 and scans[0].shape == (256, 256) and others[0].shape == (128, 128)
    assert all(np.array_equal(a, b) for a, b in zip(scans, again))
    assert {row["size"] for row in csv.DictReader((tmp_path / "c" / "images.csv").open())} == {
        "128"
    }
    assert not np.array_equal(np.asarray(Image.fromarray(scans[0]).resize((128, 128))), others[0])


@pytest.mark.parametrize("label", ["NORMAL", "DRUSEN"])
def test_a_band_with_its_own_shape_is_the_scan_it_was_cut_from(label):
    """What a band keeps of a scan, and the shape besides, are the scan but for its speckle."""
    eyes = [simulate.make_eye(seed, label, size=256, pictures=("oct",)).oct for seed in (3, 4)]
    crops, shapes = zip(*(align(scan, crop_rows(256), 256) for scan in eyes))
    bands = np.stack([clean_oct(scan, size=256, framing="band") for scan in eyes])
    found = crops_of_bands(bands)
    assert found.shape == (2, 1, crop_rows(256), 256)
    levels = [float(np.abs(a[0].astype(int) - b).mean()) for a, b in zip(found, crops)]
    assert max(levels) < 12  # of 256, speckle among them: the band was resampled once more
    back = place_back(found, np.stack(shapes), 256)
    for one, scan, other in zip(back, eyes, eyes[::-1]):
        rpe, own, others = (read_layers(s).rows["RPE"] for s in (one, scan, other))
        assert np.nanmedian(np.abs(rpe - own)) < 1.5 < np.nanmedian(np.abs(rpe - others))

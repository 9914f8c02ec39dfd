"""OCT2017 and ODIR-5K: found in fake trees of Kaggle and of kagglehub's cache, or asked for."""

import csv
import shutil
import socket
import sys
import types

import kagglehub
import numpy as np
import pytest
import requests
from kagglehub import cache as kagglehub_cache
from kagglehub.exceptions import handle_call
from kagglehub.handle import parse_dataset_handle
from PIL import Image

from helpers.data import public_sets
from helpers.data.prepare import prepare
from helpers.data.simulated.simulate import make_eye
from helpers.data.sources import load_manifest

OCT2017 = "paultimothymooney/kermany2018"
ODIR = "andrewmvd/ocular-disease-recognition-odir5k"


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.random.default_rng(seed).integers(0, 255, (8, 8), dtype=np.uint8)
    Image.fromarray(grey).save(path)


def oct2017_tree(folder):
    """As Kaggle has it: a folder that ends in a space, and the whole set once more below it."""
    for seed in range(6):
        for nested in ("OCT2017 ", "oct2017/OCT2017 "):
            picture(folder / nested / "train" / "DRUSEN" / f"DRUSEN-{seed}-1.jpeg", seed)
            picture(folder / nested / "test" / "CNV" / f"CNV-{seed}-2.jpeg", 50 + seed)
    picture(folder / "oct2017" / "OCT2017 " / "val" / "DME" / "DME-7-1.jpeg", 99)  # in one alone


def odir_tree(folder):
    (folder / "ODIR-5K").mkdir(parents=True)
    with (folder / "full_df.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Left-Fundus", "Right-Fundus", "Left-Diagnostic Keywords",
                         "Right-Diagnostic Keywords"])  # fmt: skip
        writer.writerow(["1_left.jpg", "1_right.jpg", "drusen", "normal fundus"])
    for side in ("left", "right"):
        picture(folder / "ODIR-5K" / "Training Images" / f"1_{side}.jpg", 1)
        picture(folder / "preprocessed_images" / f"1_{side}.jpg", 2)


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Empty /kaggle/input and kagglehub cache, plenty of space, and a kagglehub that is counted."""
    monkeypatch.setattr(public_sets, "KAGGLE_INPUT", tmp_path / "input")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "hub"))
    for name in public_sets.HOSTED:
        monkeypatch.delenv(name, raising=False)
    places = types.SimpleNamespace(input=tmp_path / "input", free=100e9, asked=[], answer=None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=places.free))

    def dataset_download(handle):
        places.asked.append(handle)
        return places.answer()

    stub = types.SimpleNamespace(dataset_download=dataset_download)
    monkeypatch.setitem(sys.modules, "kagglehub", stub)
    return places


@pytest.mark.parametrize("style", ["{slug}", "datasets/{owner}/{slug}"])
def test_mounted_sets_are_found_in_both_styles(style, places, recwarn):
    for handle, tree in ((OCT2017, oct2017_tree), (ODIR, odir_tree)):
        owner, slug = handle.split("/")
        tree(places.input / style.format(owner=owner, slug=slug))
    found = load_manifest("oct2017")
    assert len(found) == 13 and len({scan.patient for scan in found}) == 7
    assert sum("oct2017/OCT2017 /" in scan.path for scan in found) == 1  # what is there alone
    assert "12 files are copies" in str(recwarn.pop(UserWarning).message)
    photographs = load_manifest("odir", modality="dfe")
    assert [scan.label for scan in photographs] == ["DRUSEN", "NORMAL"]
    assert all("Training Images" in scan.path for scan in photographs)
    assert not places.asked


def test_what_kagglehub_has_fetched_is_found_without_a_network(places):
    """In the real kagglehub's own layout; a version that broke off does not count."""
    versions = [parse_dataset_handle(f"{OCT2017}/versions/{number}") for number in (2, 9, 10, 11)]
    for handle in versions:
        oct2017_tree(places.input.parent / "hub" / kagglehub_cache.get_cached_path(handle))
    for handle in versions[:3]:
        kagglehub_cache.Cache().mark_as_complete(handle)
    with pytest.warns(UserWarning, match="copies"):
        found = load_manifest("oct2017")
    assert all(scan.path.startswith(kagglehub_cache.get_cached_path(versions[2])) for scan in found)
    assert not places.asked


def test_a_download_says_beforehand_what_it_takes(places, tmp_path, capsys):
    oct2017_tree(tmp_path / "fetched")
    places.answer = lambda: str(tmp_path / "fetched")
    with pytest.warns(UserWarning, match="copies"):
        assert len(load_manifest("oct2017")) == 13
    assert places.asked == [OCT2017]
    said = capsys.readouterr().out
    for word in ("about 11 GB", "22 GB while", "100 GB are free", str(tmp_path / "hub"),
                 "CC BY 4.0", "No token is needed", "KAGGLE_API_TOKEN"):  # fmt: skip
        assert word in said
    odir_tree(tmp_path / "fetched")
    load_manifest("odir", modality="dfe")
    assert "about 2 GB" in capsys.readouterr().out


def test_short_of_space_it_does_not_begin(places):
    places.free = 21.9e9
    with pytest.raises(FileNotFoundError, match="needs 22 GB in .*where 21 GB.*KAGGLEHUB_CACHE"):
        load_manifest("oct2017")
    assert not places.asked


def test_on_kaggle_and_colab_space_is_no_matter(places, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    places.free = 0
    odir_tree(tmp_path / "attached")
    places.answer = lambda: str(tmp_path / "attached")
    assert len(load_manifest("odir", modality="dfe")) == 2
    assert "is not attached" in capsys.readouterr().out


def test_without_a_network_the_real_kagglehub_ends_in_advice(places, monkeypatch):
    def refuse(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setitem(sys.modules, "kagglehub", kagglehub)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(FileNotFoundError, match="ConnectionError.*Add Input.*OCT_DATA") as error:
        load_manifest("oct2017")
    assert "https://www.kaggle.com/datasets/paultimothymooney/kermany2018" in str(error.value)


def test_a_refusal_by_kaggle_is_passed_on(places):
    response = requests.Response()
    response.status_code = 403
    response.url = f"https://api.kaggle.com/{OCT2017}"

    def forbid():
        raise requests.HTTPError("403 Client Error", response=response)

    places.answer = lambda: handle_call(forbid, parse_dataset_handle(OCT2017))
    with pytest.raises(FileNotFoundError, match="KaggleApiHTTPError.*permission.*authenticated"):
        load_manifest("oct2017")


def test_what_is_learned_from_is_not_shown_again_in_a_test(places, tmp_path):
    """ODIR has photographs of one eye under two patients, and nobody can take them out of it."""
    root = places.input / ODIR.split("/")[1]
    photographs = root / "ODIR-5K" / "Training Images"
    photographs.mkdir(parents=True)
    with (root / "full_df.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Left-Fundus", "Right-Fundus", "Left-Diagnostic Keywords",
                         "Right-Diagnostic Keywords"])  # fmt: skip
        for k in range(9):
            writer.writerow([f"{k}_left.jpg", f"{k}_right.jpg", "drusen", "drusen"])
            eye = make_eye(60 + k, "DRUSEN", size=256, pictures=("dfe",)).dfe
            Image.fromarray(eye).save(photographs / f"{k}_left.jpg")

    def prepared(cache):
        return prepare("odir", modality="dfe", size=64, cache=tmp_path / cache, progress=False)

    data = prepared("one")
    assert len(data.train) + len(data.validation) + len(data.test) == 9
    shown, again = data.test.scans[0], data.train.scans[0].patient
    mirrored = Image.open(shown.path).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirrored.save(photographs / f"{again}_right.jpg", quality=85)
    with pytest.warns(UserWarning, match=f"1 files show what .* were left out: {again}_right.jpg"):
        data = prepared("two")
    assert shown.path in [scan.path for scan in data.test.scans]
    learned = [scan.path for scan in data.train.scans]
    assert len(learned) == len(data.train.images) and f"{again}_right.jpg" not in str(learned)
    assert any("left out" in note for note in prepared("two").notes)  # remembered, too

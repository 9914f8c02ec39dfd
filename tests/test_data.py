"""Sources, patients, the split, the cache, and batches."""

import csv
import errno
import io
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.methods import retinas

from helpers.data import bscan, pixels, public_sets, shape
from helpers.data import cache as cache_module
from helpers.data.batches import batches
from helpers.data.prepare import content_hashes, prepare
from helpers.data.scan import Scan
from helpers.data.simulated import simulate
from helpers.data.simulated.simulate import make_eye
from helpers.data.sources import load_manifest
from helpers.data.split import describe, split_patients

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def picture(path, seed, size=48):
    """A small scan that differs from seed to seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    grey = random.integers(10, 60, (size, size))
    grey[size // 2 : size // 2 + 6] = random.integers(150, 220)
    Image.fromarray(grey.astype(np.uint8)).save(path, quality=95)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes, six patients each, two scans per patient; one patient has both classes."""
    seed = 0
    for label, patients in (("DRUSEN", range(6)), ("NORMAL", range(5, 11))):
        for patient in patients:
            for number in (1, 2):
                seed += 1
                picture(tmp_path / "eyes" / label / f"{label}-{patient}00-{number}.png", seed)
    return tmp_path / "eyes"


def made(folder, **settings):
    settings = {"size": 32, "cache": folder.parent / "cache", "progress": False, **settings}
    return prepare(folder, **settings)


def sides(data):
    return [set(split.patients) for split in (data.train, data.validation, data.test)]


# ---------------------------------------------------------------- split


def scans(patients, label="DRUSEN", count=2, **more):
    return [
        Scan(f"{label}/{patient}_{n}.png", "oct", "x", label, patient, **more)
        for patient in patients
        for n in range(count)
    ]


def where(split):
    return {scan.patient: side for side, those in split.items() for scan in those}


def test_split_is_disjoint_complete_and_about_the_fractions():
    many = scans([f"P{n}" for n in range(200)])
    split = split_patients(many, fractions=(0.7, 0.15, 0.15))
    patients = [{scan.patient for scan in split[side]} for side in split]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 200
    assert [len(p) for p in patients] == [140, 30, 30]
    assert sum(map(len, split.values())) == len(many)


def test_split_ignores_file_order_and_hardly_moves_when_a_patient_comes():
    many = scans([f"P{n}" for n in range(60)])
    before = where(split_patients(many))
    assert where(split_patients(many[::-1])) == before
    after = where(split_patients(many + scans(["new"])))
    moved = [name for name in before if after[name] != before[name]]
    assert len(moved) <= 2
    assert where(split_patients(many, seed=1)) != before


def test_a_patient_of_two_classes_stays_on_one_side():
    drusen = scans([f"P{n}" for n in range(12)])
    normal = scans([f"P{n}" for n in range(6, 40)], "NORMAL")
    split = split_patients(drusen + normal)
    patients = [{scan.patient for scan in those} for those in split.values()]
    assert sum(map(len, patients)) == 40
    for those in split.values():  # every class is on every side
        assert {scan.label for scan in those} == {"DRUSEN", "NORMAL"}


def test_three_patients_are_enough_and_two_are_not():
    split = split_patients(scans(["a", "b", "c"]))
    assert [len({s.patient for s in split[side]}) for side in split] == [1, 1, 1]
    with pytest.raises(ValueError, match=r"2 patient.*subfolder.*manifest.csv"):
        split_patients(scans(["a", "b"]))


def test_frames_at_the_boundary_of_stand_in_blocks_are_left_out():
    many = [
        Scan(f"{n}.png", "oct", "x", "AMD", f"AMD-block{n // 50}", frame=n) for n in range(1000)
    ]
    split = split_patients(many)
    side = {scan.frame: name for name, those in split.items() for scan in those}
    boundaries = [n for n in range(50, 1000, 50) if side[n - 10] != side[n + 10]]
    kept = [n for n in range(50, 1000, 50) if side[n - 10] == side[n + 10]]
    assert boundaries and kept
    for n in boundaries:
        assert not set(range(n - 3, n + 3)) & set(side)
        assert n - 4 in side and n + 3 in side
    for n in kept:
        assert set(range(n - 3, n + 3)) <= set(side)


# ---------------------------------------------------------------- sources


def test_folder_of_classes(folder):
    found = load_manifest(folder)
    assert len(found) == 24
    assert {s.label for s in found} == {"DRUSEN", "NORMAL"}
    assert {s.patient for s in found if s.label == "NORMAL"} == {f"{n}00" for n in range(5, 11)}
    data, both = made(folder), made(folder, class_="all")
    assert set(data.train.labels) == {"DRUSEN"} and len(data.train) + len(data.test) < 12
    assert data.train.images.shape[1:] == (1, 32, 32) and data.train.images.dtype == np.uint8
    assert sum(len(s) for s in (both.train, both.validation, both.test)) == 24
    assert set(both.train.labels) == {"DRUSEN", "NORMAL"}
    assert not set.intersection(*sides(both))
    for one, all_ in zip(sides(data), sides(both)):
        assert one <= all_  # a patient is on the same side whichever class is asked for


def test_a_sample_keeps_every_scan_on_its_side(folder):
    whole, some = made(folder), made(folder, most=2)
    for name in ("train", "validation", "test"):
        sample, side = getattr(some, name), getattr(whole, name)
        assert len(sample) == min(2, len(side)) and set(sample.scans) <= set(side.scans)


@pytest.mark.parametrize("name", ["simulated", "npz", "volume"])
def test_a_folder_may_have_the_name_of_what_is_no_folder(folder, name):
    levels = made(folder).train.images
    assert np.array_equal(made(folder.rename(folder.with_name(name))).train.images, levels)


def test_a_sample_of_less_than_nothing_is_refused(folder):
    with pytest.raises(ValueError, match="most=-1.*0 for all"):
        made(folder, most=-1)


def test_sides_in_any_order_have_their_own_images(folder):
    data = made(folder, class_="all")
    some = made(folder, class_="all", sides=("test", "train"))
    for side in ("train", "test"):
        np.testing.assert_array_equal(getattr(some, side).images, getattr(data, side).images)


def test_images_lie_beside_their_scans(folder):
    data = made(folder)
    for split in (data.train, data.validation, data.test):
        assert len(split) == len(split.images) == len(split.patients) == len(split.labels)
        for image, scan in zip(split.images, split.scans):
            assert np.array_equal(image, cache_module.read_scan(scan, 32, "stretch"))


def test_patient_subfolders_with_and_without_classes(tmp_path):
    for n in range(4):
        picture(tmp_path / "a" / "CNV" / f"eye {n}" / "x.png", n)
        picture(tmp_path / "b" / f"P{n:03}" / "x.png", n)
        picture(tmp_path / "c" / "train" / "DRUSEN" / f"P{n}" / "x.png", n)
    for name, label, patient in (("a", "CNV", "eye 0"), ("b", "b", "P000"), ("c", "DRUSEN", "P0")):
        found = load_manifest(tmp_path / name)
        assert {s.label for s in found} == {label}
        assert found[0].patient == patient and len({s.patient for s in found}) == 4


def test_flat_folder_gets_blocks_and_a_warning(tmp_path):
    for n in range(160):
        picture(tmp_path / "mine" / f"frame_{n}.png", n, 20)
    with pytest.warns(UserWarning, match="160 images name no patient"):
        data = made(tmp_path / "mine", class_="DRUSEN")
    assert data.class_ == "mine" and any("one class, mine" in note for note in data.notes)
    assert set.union(*sides(data)) <= {f"mine-block{n}" for n in range(4)}
    shown = describe(data)
    assert "name no patient" in shown and "train" in shown and f"{len(data.train)} scans" in shown


def test_one_patient_says_what_to_do(tmp_path):
    for n in range(9):
        picture(tmp_path / "one" / f"frame_{n}.png", n)
    with pytest.raises(ValueError, match=r"one .*1 patient.*subfolder.*blocks of 50"):
        made(tmp_path / "one")


def test_manifest(folder, tmp_path):
    rows = [
        dict(path=f"eyes/DRUSEN/DRUSEN-{n}00-1.png", modality="oct", label="DRUSEN",
             patient=f"volume{n}", um_per_px_x="11.5", um_per_px_y="")
        for n in range(5)
    ]  # fmt: skip
    rows.append({**rows[0], "modality": "fundus", "path": "nowhere.jpg"})
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    found = load_manifest(tmp_path / "manifest.csv")
    assert len(found) == 5 and found[0].patient == "volume0"
    assert found[0].um_per_px_x == 11.5 and found[0].um_per_px_y is None
    assert len(load_manifest(tmp_path / "manifest.csv", modality="dfe")) == 1
    data = made(tmp_path / "manifest.csv", cache=tmp_path / "cache")
    assert sum(map(len, sides(data))) == 5
    (tmp_path / "bad.csv").write_text("path,label\na.png,CNV\n")
    with pytest.raises(ValueError, match="patient"):
        load_manifest(tmp_path / "bad.csv")


def test_manifest_of_another_spelling(tmp_path):
    text = "\ufeffFile Name;Diagnosis;Patient ID;um_per_px_x\n"
    text += "".join(f"{n}.png; drusen;P{n};3.9\n" for n in range(3)) + "9.png;amd dry;;\n"
    (tmp_path / "eyes.csv").write_text(text, encoding="utf-8")
    with pytest.warns(UserWarning, match="1 images name no patient"):
        found = load_manifest(tmp_path / "eyes.csv")
    assert [s.label for s in found] == ["DRUSEN"] * 3 + ["AMD_DRY"]
    assert [s.patient for s in found] == ["P0", "P1", "P2", "AMD_DRY-block0"]
    assert found[0].um_per_px_x == 3.9 and found[3].um_per_px_x is None
    (tmp_path / "bad.csv").write_text("path,label,patient,width\na.png,CNV,1,wide\n")
    with pytest.raises(ValueError, match=r"bad.csv, line 2.*wide"):
        load_manifest(tmp_path / "bad.csv")


def test_labels_of_any_spelling_and_from_file_names(tmp_path):
    for n in range(3):
        for label in ("drusen", "Normal"):
            picture(tmp_path / "lower" / label / f"eye{n}" / "x.png", n + 3 * (label == "drusen"))
            picture(tmp_path / "train" / "batch1" / f"{label.upper()}-{n}00-1.jpeg", n)
        picture(tmp_path / "mine" / "reticular" / f"eye{n}" / "x.png", n)
    assert {s.label for s in load_manifest(tmp_path / "lower")} == {"DRUSEN", "NORMAL"}
    assert {s.label for s in load_manifest(tmp_path / "train")} == {"DRUSEN", "NORMAL"}
    assert {s.label for s in load_manifest(tmp_path / "lower" / "drusen")} == {"DRUSEN"}
    assert {s.label for s in load_manifest(tmp_path / "mine")} == {"reticular"}
    assert made(tmp_path / "lower", class_="Drusen").class_ == "DRUSEN"


def test_scale_of_simulated_scans_is_that_of_the_truth():
    for modality in ("oct", "dfe"):
        scan = load_manifest("simulated", modality=modality, n_simulated=1, size=96)[0]
        truth = make_eye(0, "NORMAL", size=96).truth
        um = truth.oct_um_per_px if modality == "oct" else truth.dfe_um_per_px
        assert scan.width == 96 and scan.um_per_px_x == pytest.approx(um[0])
        assert modality == "oct" or scan.um_per_px_y == pytest.approx(um[1])


def test_manifest_knows_stand_in_blocks(tmp_path):
    lines = ["path,label,patient"] + [f"AMD_{n}.jpeg,AMD,AMD-block{n // 50}" for n in range(300)]
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    found = load_manifest(tmp_path / "manifest.csv")
    assert [s.frame for s in found] == list(range(300))
    assert sum(map(len, split_patients(found).values())) < 300


@pytest.mark.parametrize("mount", ["kermany2018", "datasets/paultimothymooney/kermany2018"])
def test_oct2017_on_kaggle(tmp_path, monkeypatch, mount):
    monkeypatch.setattr(public_sets, "KAGGLE_INPUT", tmp_path)
    seed = 0
    for patient in range(6):
        for label in ("DRUSEN", "CNV"):
            seed += 1
            for nested in ("OCT2017 /train", "oct2017/OCT2017 /train"):  # the same file twice
                name = f"{label}-{patient}77-1.jpeg"
                picture(tmp_path / mount / nested / label / name, seed)
    picture(tmp_path / mount / "OCT2017 " / "test" / "CNV" / "CNV-077-9.jpeg", 99)
    data = prepare("oct2017", class_="all", size=32, cache=tmp_path / "cache", progress=False)
    assert sum(len(s) for s in (data.train, data.validation, data.test)) == 13
    assert any("12 files are copies" in note for note in data.notes)
    assert sum(map(len, sides(data))) == 6  # train and test folders pooled, split anew
    by_hand = load_manifest(tmp_path / mount)
    assert {s.label for s in by_hand} == {"DRUSEN", "CNV"} and len(by_hand) == 25


def test_odir_on_kaggle(tmp_path, monkeypatch):
    monkeypatch.setattr(public_sets, "KAGGLE_INPUT", tmp_path)
    base = tmp_path / "datasets" / "andrewmvd" / "ocular-disease-recognition-odir5k"
    words = ["normal fundus", "drusen", "hypertensive retinopathy",
             "moderate non proliferative retinopathy", "low image quality"]  # fmt: skip
    with_header = [["ID", "Left-Fundus", "Right-Fundus", "Left-Diagnostic Keywords",
                    "Right-Diagnostic Keywords"]]  # fmt: skip
    for n, word in enumerate(words):
        with_header.append([n, f"{n}_left.jpg", f"{n}_right.jpg", word, "normal fundus"])
        for eye in ("left", "right"):
            picture(base / "ODIR-5K" / "Training Images" / f"{n}_{eye}.jpg", 10 * n + len(eye))
            picture(base / "preprocessed_images" / f"{n}_{eye}.jpg", 500 + 10 * n + len(eye))
    with (base / "full_df.csv").open("w", newline="") as file:
        csv.writer(file).writerows(with_header)
    found = load_manifest("odir", modality="dfe")
    labels = {Path(s.path).stem: s.label for s in found}
    assert labels["0_left"] == "NORMAL" and labels["1_left"] == "DRUSEN"
    assert labels["2_left"] == "HYPERTENSION" and labels["3_left"] == "DR"
    assert "4_left" not in labels and labels["4_right"] == "NORMAL"
    assert len(found) == 9 and all("Training Images" in s.path for s in found)
    assert {s.patient for s in found} == {"0", "1", "2", "3", "4"}
    assert load_manifest(base, modality="dfe") == found  # the same folder, downloaded by hand
    with pytest.raises(ValueError, match="OCT"):
        load_manifest("odir", modality="oct")


def test_a_data_set_in_one_file(tmp_path):
    """A .npz gives the pixels, classes and patients that its arrays have; a wrong one is named."""
    images = np.random.default_rng(0).integers(0, 255, (12, 70, 80), dtype=np.uint8)
    images[11] = images[0]  # a copy
    labels, patients = ["Drusen", "NORMAL"] * 6, [f"p{k // 2}" for k in range(12)]
    path = tmp_path / "scans.npz"
    np.savez(path, images=images, labels=labels, patients=patients)
    data = prepare(path, class_="all", size=64, cache=tmp_path / "cache", progress=False)
    assert data.classes == {"DRUSEN": 6, "NORMAL": 6} and "1 files are copies" in data.notes[0]
    sides = [data.train, data.validation, data.test]
    assert sum(map(len, sides)) == 11
    for side in sides:
        for image, scan in zip(side.images, side.scans):
            index = int(scan.path.rpartition("#")[2])
            assert scan.patient == f"p{index // 2}" and (scan.width, scan.height) == (80, 70)
            np.testing.assert_array_equal(image[0], bscan.clean_oct(images[index], size=64))
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, images=images, labels=labels)
    with pytest.raises(ValueError, match="wrong.npz: needs the arrays images, labels and patients"):
        load_manifest(wrong)
    np.savez(tmp_path / "float.npz", images=images / 255, labels=labels, patients=patients)
    with pytest.raises(ValueError, match="float.npz: images float64"):
        load_manifest(tmp_path / "float.npz")
    for pixels_of in ((12, 80), (12, 70, 80, 1), (12, 1, 70, 80)):
        np.savez(wrong, images=np.zeros(pixels_of, np.uint8), labels=labels, patients=patients)
        with pytest.raises(ValueError, match=r"wrong.npz: .*needs uint8 \(N, H, W\)"):
            load_manifest(wrong)
    np.savez(path, images=images, labels=np.array(labels, "S"), patients=np.array(patients, "S"))
    scans = load_manifest(path)
    assert {s.label for s in scans} == {"DRUSEN", "NORMAL"} and scans[0].patient == "p0"


def test_simulated_eyes(tmp_path):
    settings = dict(size=64, n_simulated=4, cache=tmp_path, progress=False)
    data = prepare("simulated", **settings)
    assert sum(len(s) for s in (data.train, data.validation, data.test)) == 8
    assert sum(map(len, sides(data))) == 4  # both eyes of a patient on one side
    assert data.train.images.std() > 10
    assert prepare("simulated", **settings).manifest_hash == data.manifest_hash
    dfe = prepare("simulated", modality="dfe", class_="all", framing="full", **settings)
    assert dfe.train.images.shape[1:] == (3, 64, 64)
    assert set(dfe.train.labels) == {"NORMAL", "DRUSEN", "DME", "CNV"}


# ---------------------------------------------------------------- bad input


def test_copies_are_left_out(folder):
    first = folder / "DRUSEN" / "DRUSEN-000-1.png"
    (folder / "DRUSEN" / "DRUSEN-000-9.png").write_bytes(first.read_bytes())
    found = load_manifest(folder)
    hashes = content_hashes(found, progress=False)
    assert len(found) == 25 and len(hashes) == len(set(hashes.values())) == 24
    assert any("1 files are copies" in note for note in made(folder).notes)


def test_missing_class_lists_those_there_are(folder):
    with pytest.raises(ValueError, match=r"CNV.*DRUSEN \(12\), NORMAL \(12\).*OCT_CLASS"):
        made(folder, class_="CNV")


def test_folder_without_images_and_no_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("nothing here")
    with pytest.raises(FileNotFoundError, match="empty.*no image"):
        made(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="nowhere.*OCT_DATA"):
        made(tmp_path / "nowhere")


def test_bad_files_are_listed_and_left_out(folder):
    from test_preprocess import bad_files

    bad = sorted(bad_files(folder / "DRUSEN"))
    for number, name in enumerate(bad, start=20):  # of a patient who has good scans too
        file = folder / "DRUSEN" / name
        file.rename(file.with_name(f"DRUSEN-100-{number}{file.suffix}"))
    with pytest.warns(UserWarning, match="files were left out"):
        data = made(folder)
    assert len(data.left_out) == len(bad) >= 6
    reasons = " ".join(reason for _, reason in data.left_out)
    assert all(word in reasons for word in ("empty", "truncated", "1 x 1", "every pixel"))
    assert str(folder) not in reasons  # the path stands beside the reason
    assert sum(len(s) for s in (data.train, data.validation, data.test)) == 12
    assert "left out" in describe(data)
    for split in (data.train, data.validation, data.test):  # rows still fit their scans
        for image, scan in zip(split.images, split.scans):
            assert np.array_equal(image, cache_module.read_scan(scan, 32, "stretch"))
    assert made(folder).left_out == data.left_out  # the cache remembers


def test_nothing_but_bad_files_raises(tmp_path):
    for n in range(4):
        (tmp_path / "eyes" / f"P{n}").mkdir(parents=True)
        (tmp_path / "eyes" / f"P{n}" / "x.png").write_text(f"no image {n}")
    with pytest.raises(ValueError, match="none of 4 files"):
        made(tmp_path / "eyes")
    assert not list((tmp_path / "cache").glob("*"))


# ---------------------------------------------------------------- cache


def test_what_has_not_changed_is_not_read_again_and_no_name_is_kept(folder, monkeypatch):
    files = sorted(folder.glob("DRUSEN/*.png"))  # of the others nothing is read
    for file in files:
        os.utime(file, (1e9, 1e9))
    first = made(folder)
    (known,) = (folder.parent / "cache").glob("*.hashes")
    assert not any(file.stem in known.read_text() for file in files)

    opened, read = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path) or read(path))
    again = made(folder)
    assert not opened and again.manifest_hash == first.manifest_hash

    picture(files[0], 99)  # written just now: another picture, read now and the next time
    assert made(folder).manifest_hash != first.manifest_hash
    made(folder)
    assert opened == [files[0]] * 2

    known.write_text("{")  # cut: made anew
    made(folder)
    assert set(opened[2:]) == set(files) and json.loads(known.read_text())


def test_cache_is_used_and_follows_content_and_settings(folder, monkeypatch):
    first = made(folder)
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "read_scan", None)  # a second call decodes nothing
        assert np.array_equal(made(folder).train.images, first.train.images)
    assert made(folder, size=40).train.images.shape[-1] == 40
    picture(Path(first.train.scans[0].path), 777)
    again = made(folder)
    assert again.manifest_hash != first.manifest_hash
    assert not np.array_equal(again.train.images[0], first.train.images[0])


@pytest.mark.parametrize("damage", ["cut", "note"])
def test_damaged_cache_is_never_read_as_whole(folder, damage):
    first = np.array(made(folder).train.images)
    (raw,) = (folder.parent / "cache").glob("*.u8")
    content = raw.read_bytes()
    if damage == "cut":
        raw.write_bytes(content[: len(content) // 2])
    else:
        note = raw.with_suffix(".json")
        note.write_text(note.read_text()[:20])
    with pytest.warns(UserWarning, match="damaged"):
        again = made(folder)
    assert np.array_equal(again.train.images, first)


def test_a_killed_run_leaves_nothing_that_counts(folder, monkeypatch):
    calls = []

    def dies(scan, **how):
        calls.append(1)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return np.zeros((1, 32, 32), np.uint8)

    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "read_scan", dies)
        with pytest.raises(KeyboardInterrupt):
            made(folder)
    assert not list((folder.parent / "cache").glob("*"))
    assert made(folder).train.images.std() > 1


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(folder):
    cache = folder.parent / "cache"
    cache.mkdir()
    for name, age in (("old", 4000), ("new", 0)):
        (cache / f"{name}.1.part").write_bytes(b"pixels")
        os.utime(cache / f"{name}.1.part", (time.time() - age,) * 2)
    made(folder)
    assert [part.name for part in cache.glob("*.part")] == ["new.1.part"]


def test_no_space_left_names_the_folder_and_the_setting(folder, monkeypatch):
    class Full(io.FileIO):
        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    real = Path.open

    def full(path, mode="r", *arguments, **more):
        return Full(path, "w") if "w" in mode else real(path, mode, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OSError, match=r"cache.*no space is left.*OCT_RUNS"):
            made(folder)
    assert not list((folder.parent / "cache").glob("*"))


def test_a_cache_below_a_file_names_the_setting(folder):
    (folder.parent / "runs").write_text("no folder")
    with pytest.raises(OSError, match="cache of 12 images cannot be written.*OCT_RUNS"):
        made(folder, cache=folder.parent / "runs" / "cache")


def test_cache_lies_in_the_runs_folder(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("OCT_RUNS", str(tmp_path / "elsewhere"))
    made(folder, cache=None)
    (note,) = (tmp_path / "elsewhere" / "cache").glob("*.json")
    assert json.loads(note.read_text())["shape"][1:] == [1, 32, 32]


def test_a_cache_below_home(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OCT_RUNS", "~/elsewhere")
    made(folder, cache=None)
    assert list((tmp_path / "elsewhere" / "cache").glob("*.u8"))


@pytest.fixture
def eyes(tmp_path):
    """Scans whose RPE can be found, two of each of six patients, two classes; one has none."""
    for label in ("DRUSEN", "NORMAL"):
        for number, scan in enumerate(retinas([label] * 12, seed=len(label))):
            path = tmp_path / "eyes" / label / f"{label}-{number // 2}00-{number % 2}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scan[0]).save(path)
    noise = np.random.default_rng(0).integers(0, 60, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "eyes" / "DRUSEN" / "DRUSEN-000-7.png")
    return tmp_path / "eyes"


ALIGNED = dict(framing="aligned", class_="all", size=64)


def test_aligned_scans_keep_their_shapes_and_those_without_rpe_are_named(eyes):
    with pytest.warns(UserWarning, match="1 files were left out: DRUSEN-000-7.png .this does not"):
        data = made(eyes, **ALIGNED)
    ((path, reason),) = data.left_out
    assert path.endswith("DRUSEN-000-7.png") and reason.startswith(
        "this does not look like a B-scan"
    )
    splits = (data.train, data.validation, data.test)
    assert sum(map(len, splits)) == 24
    for split in splits:  # rows still fit their scans
        assert split.images.shape[1:] == (1, 64, 64) and split.shapes.dtype == np.float32
        for image, values, scan in zip(split.images, split.shapes, split.scans, strict=True):
            crop, own = shape.align(np.asarray(Image.open(scan.path)), 64, 64)
            assert np.array_equal(image[0], crop) and np.array_equal(values, own)
    assert made(eyes, class_="all", size=64).train.shapes is None  # of whole scans


def test_a_cache_of_crops_that_was_cut_is_made_anew(eyes, monkeypatch):
    first = made(eyes, **ALIGNED)
    images, shapes = np.array(first.train.images), first.train.shapes
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "read_scan", None)  # a second call decodes nothing
        again = made(eyes, **ALIGNED)
    assert np.array_equal(again.train.images, images) and again.left_out == first.left_out
    assert np.array_equal(again.train.shapes, shapes)
    (raw,) = (eyes.parent / "cache").glob("*.u8")
    content = bytearray(raw.read_bytes())
    assert len(content) == 24 * (64 * 64 + 4 * len(shape.FIELDS))
    raw.write_bytes(content[: -4 * len(shape.FIELDS)])
    with pytest.warns(UserWarning, match="damaged"):
        again = made(eyes, **ALIGNED)
    assert np.array_equal(again.train.images, images)
    assert np.array_equal(again.train.shapes, shapes)


@pytest.mark.slow
def test_a_new_version_makes_new_caches_of_what_it_changes_alone(eyes, monkeypatch):
    """Pixels of the old code would be trained on as if they were of the new one."""
    virtual = Path("simulated")

    def caches():
        return len(list((eyes.parent / "cache").glob("*.json")))

    def decode_all():
        for source, framing in ((eyes, "stretch"), (eyes, "aligned"), (virtual, "stretch")):
            prepare(str(source), class_="all" if source == eyes else "DRUSEN", size=64,
                    framing=framing, n_simulated=4, progress=False,
                    cache=eyes.parent / "cache")  # fmt: skip
        return caches()

    assert decode_all() == 3 == decode_all()
    for module, of in ((pixels, 3), (shape, 1), (simulate, 1)):
        before = caches()
        monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
        assert decode_all() == before + of == decode_all()


# ---------------------------------------------------------------- batches


def numbered(count=23):
    """uint8 (N, 1, 2, 2), each image of its own value."""
    return np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 2, 2), np.uint8)


def values(stream, count):
    return [
        torch.round((next(stream)[:, 0, 0, 0] + 1) * 127.5).int().tolist() for _ in range(count)
    ]


def test_every_epoch_shows_every_scan_once():
    seen = sum(values(batches(numbered(), 5, seed=0), 46), [])  # ten epochs of 23
    for epoch in range(10):
        assert sorted(seen[23 * epoch : 23 * epoch + 23]) == list(range(23))
    assert seen[:23] != seen[23:46]
    batch = next(batches(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1), 2, seed=0))
    assert batch.dtype == torch.float32 and sorted(batch.ravel().tolist()) == [-1, 1]


def test_batches_follow_from_the_seed_and_resume():
    whole = values(batches(numbered(), 5, seed=3), 30)
    assert values(batches(numbered(), 5, seed=3), 30) == whole
    assert values(batches(numbered(), 5, seed=4), 30) != whole
    for start in (1, 4, 5, 17):
        assert values(batches(numbered(), 5, seed=3, start=start), 10) == whole[start : start + 10]


def test_shards_are_disjoint_and_together_the_same_batches():
    whole = values(batches(numbered(), 6, seed=3), 20)
    shards = [values(batches(numbered(), 2, seed=3, rank=r, world_size=3), 20) for r in range(3)]
    for step in range(20):
        assert sorted(shards[0][step] + shards[1][step] + shards[2][step]) == sorted(whole[step])
    late = values(batches(numbered(), 2, seed=3, rank=1, world_size=3, start=7), 5)
    assert late == shards[1][7:12]


def test_streaming_gives_the_same_batches(tmp_path):
    class Large(np.memmap):
        nbytes = 2**40  # said to be too large for any memory

    images = numbered()
    images.tofile(tmp_path / "images.u8")
    stream = Large(tmp_path / "images.u8", np.uint8, "r", shape=images.shape)
    expected = values(batches(images, 5, seed=3), 12)
    assert values(batches(stream, 5, seed=3), 12) == expected


def test_a_batch_larger_than_the_set():
    (batch,) = values(batches(numbered(3), 8, seed=0), 1)
    assert len(batch) == 8 and sorted(batch[:3]) == sorted(batch[3:6]) == [0, 1, 2]


@pytest.mark.parametrize("resident", [True, False])
def test_labels_go_with_their_images(tmp_path, resident):
    class Large(np.memmap):
        nbytes = 2**40

    images = numbered()
    images.tofile(tmp_path / "images.u8")
    if not resident:
        images = Large(tmp_path / "images.u8", np.uint8, "r", shape=images.shape)
    labels = np.arange(len(images)) * 10
    looks = np.stack([labels / 7, -labels], 1).astype(np.float32)
    streams = [batches(images, 5, labels=labels, seed=3, **more) for more in ({}, {"looks": looks})]
    for (shown, told), (same, again, look) in (map(next, streams) for _ in range(12)):
        numbers = ((shown[:, 0, 0, 0] + 1) * 127.5).round().long()
        assert (told == 10 * numbers).all()
        assert torch.equal(same, shown) and torch.equal(again, told)
        assert torch.equal(look, torch.from_numpy(looks)[numbers])


def test_several_classes_are_asked_for_with_a_plus(tmp_path):
    data = prepare("simulated", class_="NORMAL+CNV", size=64, n_simulated=6, cache=tmp_path,
                   progress=False)  # fmt: skip
    assert set(data.train.labels) == {"NORMAL", "CNV"} and data.classes["DME"] == 12
    with pytest.raises(ValueError, match="has no class AMD.DR. It has CNV .12., DME"):
        prepare("simulated", class_="AMD+DR", size=64, n_simulated=6, cache=tmp_path)


def test_an_index_says_how_often_an_image_comes():
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    stream = batches(images, 4, index=[0, 1, 1, 5])
    for _ in range(3):
        levels = (next(stream) + 1) * 127.5
        assert sorted(levels.flatten().round().int().tolist()) == [0, 1, 1, 5]

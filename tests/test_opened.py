"""A folder opened before is not understood anew, unless anything in it has changed."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.data import cache, opened, prepare
from helpers.data.sources import take_in
from helpers.data.split import SIDES, split_patients

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
LONG_AGO = (1e9, 1e9)
# what names come to: a change here, and those who have opened a folder keep what it came to before
# until opened.VERSION is another
NAMES = {2: "120b8dfe83ae0042"}


def retina(seed):
    random = np.random.default_rng(seed)
    grey = random.integers(10, 60, (48, 48))
    grey[24:30] = random.integers(150, 220)
    return Image.fromarray(grey.astype(np.uint8))


@pytest.fixture
def folder(tmp_path):
    """Two classes of four patients; one file is no picture, so that something is said of it."""
    for n, label in enumerate(("DRUSEN", "NORMAL")):
        for p in range(4):
            place = tmp_path / "eyes" / label / f"P{n}{p}"
            place.mkdir(parents=True)
            for k in range(2):
                retina(20 * n + 2 * p + k).save(place / f"{k}.png")
    (tmp_path / "eyes" / "DRUSEN" / "P00" / "2.png").write_text("no picture")
    settle(tmp_path / "eyes")
    return tmp_path / "eyes"


def settle(folder):
    for path in folder.rglob("*.*"):
        os.utime(path, LONG_AGO)


def made(folder, **how):
    settings = {"class_": "all", "size": 32, "cache": folder.parent / "cache", "progress": False}
    return prepare.prepare(folder, **settings | how)


def understood(monkeypatch):
    """A list that grows by one whenever a source is understood anew."""
    calls, real = [], prepare.take_in
    monkeypatch.setattr(prepare, "take_in", lambda *a, **k: calls.append(1) or real(*a, **k))
    return calls


def test_the_second_time_nothing_is_understood_anew_and_all_is_the_same(folder, monkeypatch):
    calls = understood(monkeypatch)
    with pytest.warns(UserWarning, match="2.png"):
        first = made(folder)
    with pytest.warns(UserWarning, match="2.png"):  # what was said is said again
        second = made(folder)
    assert len(calls) == 1
    for side in SIDES:
        one, other = getattr(first, side), getattr(second, side)
        assert len(one) and one.scans == other.scans and np.array_equal(one.images, other.images)
    for name in ("source", "class_", "manifest_hash", "notes", "left_out", "classes"):
        assert getattr(first, name) == getattr(second, name), name


def test_shapes_come_back_with_their_crops(tmp_path, monkeypatch):
    from helpers.data.simulated.simulate import make_eye

    for p in range(3):
        (tmp_path / "eyes" / f"P{p}").mkdir(parents=True)
        scan = make_eye(p, "DRUSEN", size=256, pictures=["oct"]).oct
        Image.fromarray(scan).save(tmp_path / "eyes" / f"P{p}" / "a.png")
    settle(tmp_path / "eyes")
    calls = understood(monkeypatch)
    first, second = (made(tmp_path / "eyes", size=64, framing="aligned") for _ in range(2))
    assert len(calls) == 1
    for side in SIDES:
        assert np.array_equal(getattr(first, side).shapes, getattr(second, side).shapes)


def another_picture(folder, monkeypatch):
    path = folder / "NORMAL" / "P10" / "0.png"
    retina(99).save(path)
    os.utime(path, (1e9, 1e9 + 1))


def one_more(folder, monkeypatch):
    retina(98).save(folder / "NORMAL" / "P10" / "9.png")
    settle(folder)


def one_less(folder, monkeypatch):
    (folder / "NORMAL" / "P10" / "0.png").unlink()


def another_class(folder, monkeypatch):
    (folder / "NORMAL").rename(folder / "CNV")


def a_table(folder, monkeypatch):
    (folder / "images.csv").write_text("file,label\nDRUSEN/P00/0.png,CNV\n")
    settle(folder)


def another_person(folder, monkeypatch):
    monkeypatch.setenv("OCT_PATIENT", r"P\d(\d)")


def a_cut_record(folder, monkeypatch):
    (record,) = (folder.parent / "cache").glob("*.opened")
    record.write_text(record.read_text()[:-9])


def cut_pixels(folder, monkeypatch):
    (raw,) = (folder.parent / "cache").glob("*.u8")
    raw.write_bytes(raw.read_bytes()[:-1])


def other_rules(folder, monkeypatch):
    monkeypatch.setattr(opened, "VERSION", opened.VERSION + 1)


CHANGES = (another_picture, one_more, one_less, another_class, a_table, another_person,
           a_cut_record, cut_pixels, other_rules)  # fmt: skip


def test_pictures_that_changed_places_are_read_anew(folder):
    """Of one size and one time, as pictures without compression from one archive are."""
    one, other = (folder / label / "0.bmp" for label in ("DRUSEN/P01", "NORMAL/P10"))
    for seed, path in enumerate((one, other)):
        retina(70 + seed).save(path)
    settle(folder)
    made(folder)
    one.rename(folder / "away")
    other.rename(one)
    (folder / "away").rename(other)
    again, fresh = made(folder), made(folder, cache=folder.parent / "another")
    assert all(
        np.array_equal(getattr(again, side).images, getattr(fresh, side).images) for side in SIDES
    )


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_has_changed_is_understood_anew(folder, monkeypatch, change):
    calls = understood(monkeypatch)
    made(folder)
    change(folder, monkeypatch)
    again = made(folder)
    assert len(calls) == 2
    fresh = made(folder, cache=folder.parent / "another")
    assert [getattr(again, side).scans for side in SIDES] == [
        getattr(fresh, side).scans for side in SIDES
    ]
    assert np.array_equal(again.train.images, fresh.train.images)


@pytest.mark.parametrize("setting", [{"size": 64}, {"seed": 1}, {"class_": "DRUSEN"}, {"most": 1}])
def test_other_settings_are_another_opening(folder, monkeypatch, setting):
    calls = understood(monkeypatch)
    made(folder)
    made(folder, **setting)
    assert len(calls) == 2


def test_a_volume_that_was_replaced_is_read_anew_in_the_same_process(tmp_path):
    def write(path, seed, when):
        frames = [retina(seed + k) for k in range(2)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
        os.utime(path, (when, when))

    for p in range(4):
        (tmp_path / "eyes" / "DRUSEN" / f"P{p}").mkdir(parents=True)
        write(tmp_path / "eyes" / "DRUSEN" / f"P{p}" / "v.tif", 10 * p, 1e9)
    first = made(tmp_path / "eyes")
    write(first.train.scans[0].path.partition("#")[0], 900, 1.1e9)
    again, fresh = made(tmp_path / "eyes"), made(tmp_path / "eyes", cache=tmp_path / "fresh")
    assert np.array_equal(again.train.images, fresh.train.images)
    assert again.manifest_hash == fresh.manifest_hash != first.manifest_hash


def test_what_a_disk_refused_once_is_tried_again(folder, monkeypatch):
    read, away = cache.read_image, str(folder / "DRUSEN" / "P01" / "0.png")

    def refuses(path):
        if str(path) == away:
            raise ValueError(f"{path}: cannot be read") from OSError(5, "Input/output error")
        return read(path)

    monkeypatch.setattr(cache, "read_image", refuses)
    assert len(made(folder).left_out) == 2
    monkeypatch.setattr(cache, "read_image", read)
    assert len(made(folder).left_out) == 1  # what is no picture


def test_what_a_disk_refused_before_it_was_known_is_tried_again(folder, monkeypatch):
    read, away = Path.read_bytes, folder / "DRUSEN" / "P01" / "0.png"

    def refuses(path):
        if path == away:
            raise OSError(5, "Input/output error")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuses)
    assert len(made(folder).left_out) == 2
    monkeypatch.setattr(Path, "read_bytes", read)
    assert len(made(folder).left_out) == 1


def test_a_folder_of_the_name_of_a_source_is_not_what_is_opened(folder, monkeypatch):
    folder.rename(folder.with_name("simulated"))  # as generate --out simulated makes it
    monkeypatch.chdir(folder.parent)
    for patients in (3, 4):
        found = made(Path("simulated"), n_simulated=patients, most=1, size=64)
        assert found.classes["DRUSEN"] == 2 * patients


def test_what_a_missing_package_refused_is_tried_again_with_it(folder, monkeypatch):
    calls = understood(monkeypatch)
    made(folder)
    monkeypatch.setattr(opened, "find_spec", lambda name: None)
    made(folder)
    assert len(calls) == 2


def test_what_was_written_just_now_or_lies_behind_a_link_is_never_taken_for_known(folder, tmp_path):
    assert opened.state_of(folder)
    (folder / "DRUSEN" / "P01" / "0.png").touch()
    assert opened.state_of(folder) is None
    settle(folder)
    shutil.copytree(folder / "NORMAL", tmp_path / "elsewhere")
    (folder / "CNV").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert opened.state_of(folder) is None
    assert opened.state_of("simulated") is None


def test_names_come_to_something_else_only_with_a_version(tmp_path):
    for p in range(6):
        for path in (f"AMD/P{p}_OD/2019-01-0{p + 1}/a.jpg", f"DRUSEN/DRUSEN-{p}00-1.jpg",
                     f"batch{p % 2}/NORMAL/pat {p}/os_1.jpg", f"Kontrolle/{p}/V1/1.jpg",
                     f"DME/scan_{p:03}.jpg", f"mask/P{p}.jpg"):  # fmt: skip
            file = tmp_path / "clinic" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(path.encode())
    intake = take_in(tmp_path / "clinic")
    sides = split_patients(intake.scans)
    found = [[scan.path[len(str(tmp_path)) :], scan.label, scan.patient, scan.eye, side]
             for side, those in sides.items() for scan in those]  # fmt: skip
    assert len(found) > 25
    digest = hashlib.sha256(json.dumps(sorted(found)).encode()).hexdigest()[:16]
    assert NAMES.get(opened.VERSION) == digest, (
        "folders that were opened before keep what the old rules made of them: give "
        f"helpers/data/opened.py a new VERSION, and NAMES here {{VERSION: {digest!r}}}"
    )

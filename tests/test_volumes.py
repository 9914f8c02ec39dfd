"""Volumes and odd pictures on their way from a folder to a batch: found, counted, mended, said."""

import numpy as np
import pytest
from PIL import Image
from test_hospital import write_xml

from helpers.data.prepare import content_hashes, prepare
from helpers.data.simulated.simulate import make_eye
from helpers.data.sources import take_in

FRAMES = 6


def bscan(seed, label="DRUSEN", **how):
    return make_eye(seed, label, size=96, pictures=("oct",), **how).oct


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    """CLASS/PERSON/od.tif, a volume of FRAMES B-scans of each eye, and a scan saved alone."""
    folder = tmp_path_factory.mktemp("clinic")
    for k, label in enumerate(("NORMAL", "DRUSEN")):
        for person in range(4):
            place = folder / label / f"P{k}{person}"
            place.mkdir(parents=True)
            for eye in ("OD", "OS"):
                frames = [Image.fromarray(bscan(100 * k + 10 * person + i, label, eye=eye))
                          for i in range(FRAMES)]  # fmt: skip
                frames[0].save(place / f"{eye}.tif", save_all=True, append_images=frames[1:])
            Image.fromarray(bscan(900 + 10 * k + person, label)).save(place / "single.png")
    return folder


def taken(folder, tmp_path, **how):
    how = {"class_": "all", "size": 64, "cache": tmp_path, "progress": False} | how
    return prepare(folder, **how)


def test_every_frame_of_a_volume_is_a_scan_of_one_eye_of_one_person(clinic, tmp_path):
    intake = take_in(clinic)
    frames = [scan for scan in intake.scans if scan.dataset == "volume"]
    assert len(frames) == 2 * 4 * 2 * FRAMES and len(intake.scans) == len(frames) + 8
    assert {scan.patient for scan in frames} == {f"P{k}{p}" for k in (0, 1) for p in range(4)}
    assert {scan.eye for scan in frames} == {"OD", "OS"}
    assert [scan.frame for scan in frames[:FRAMES]] == list(range(FRAMES))
    assert "device   a TIFF stack (96), unknown, pictures (8)" in str(intake)
    data = taken(clinic, tmp_path)
    assert sum(map(len, (data.train, data.validation, data.test))) == len(intake.scans)
    sides = [set(side.patients) for side in (data.train, data.validation, data.test)]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])


def test_volumes_are_thinned_about_the_middle(clinic, monkeypatch):
    monkeypatch.setenv("OCT_EVERY", "3")
    frames = [scan.frame for scan in take_in(clinic).scans if scan.dataset == "volume"]
    assert frames[:2] == [0, 3] and len(frames) == 2 * 4 * 2 * 2


def test_a_split_by_volumes_has_to_be_asked_for(clinic, monkeypatch):
    monkeypatch.setenv("OCT_SPLIT", "volumes")
    people = {scan.patient for scan in take_in(clinic).scans if scan.dataset == "volume"}
    assert len(people) == 16 and len({name.split()[0] for name in people}) == 8
    monkeypatch.setenv("OCT_SPLIT", "scans")
    with pytest.raises(ValueError, match="OCT_SPLIT='scans': choose patients or volumes"):
        take_in(clinic)


def test_frames_of_one_file_have_hashes_of_their_own(clinic):
    frames = [scan for scan in take_in(clinic).scans if scan.dataset == "volume"]
    assert len(set(content_hashes(frames).values())) == len(frames)


def test_pictures_that_an_xml_names_are_part_of_what_is_known_of_it(tmp_path):
    """New pictures beside the same XML are new scans; one XML for two persons is no copy."""
    pytest.importorskip("defusedxml")
    paths = []
    for k in range(3):
        place = tmp_path / "eyes" / "DRUSEN" / f"P{k}"
        place.mkdir(parents=True)
        path, pixels = write_xml(place, number="ANON")
        Image.fromarray(pixels[0] // (k + 1)).save(place / "B0.TIF")
        paths.append(path)
    frames = [s for s in take_in(tmp_path / "eyes").scans if s.path.endswith("xml#0")]
    hashes = content_hashes(frames, progress=False)
    assert len(set(hashes.values())) == 3
    Image.fromarray(pixels[1]).save(paths[0].with_name("B0.TIF"))
    again = content_hashes(frames, progress=False)
    assert [hashes[f] == again[f] for f in frames] == [False, True, True]


def test_what_is_no_scan_is_left_out_and_what_is_turned_is_mended(clinic, tmp_path):
    odd = tmp_path / "odd"
    for k in range(9):
        place = odd / "DRUSEN" / f"p{k}"
        place.mkdir(parents=True)
        scan = make_eye(40 + k, "DRUSEN", size=256, pictures=("oct",)).oct
        Image.fromarray(255 - scan if k == 4 else scan).save(place / "a.png")
    photograph = make_eye(77, "DRUSEN", size=256).dfe
    Image.fromarray(photograph).save(odd / "DRUSEN" / "p1" / "b.png")
    for turn in range(2):  # the second time from the cache, which says the same
        with pytest.warns(UserWarning) as caught:
            data = taken(odd, tmp_path / "cache", size=256)
        said = " ".join(str(warning.message) for warning in caught)
        assert "1 files were mended: a.png (" in said and "1 files were left out: b.png (" in said
        assert [path.endswith("b.png") for path, _ in data.left_out] == [True], turn
    scans = {s.patient: image for side in (data.train, data.validation, data.test)
             for s, image in zip(side.scans, side.images)}  # fmt: skip
    true = make_eye(44, "DRUSEN", size=256, pictures=("oct",)).oct
    assert np.corrcoef(scans["p4"][0].ravel(), true.ravel())[0, 1] > 0.95


def test_an_unreadable_volume_is_named_and_stops_nobody(clinic, tmp_path):
    (clinic / "NORMAL" / "P00" / "cut.vol").write_bytes(b"HSF-OCT-103" + bytes(50))
    try:
        intake = take_in(clinic)
    finally:
        (clinic / "NORMAL" / "P00" / "cut.vol").unlink()
    reasons = dict(intake.left_out)
    assert "Copy it from the device once more" in reasons["NORMAL/P00/cut.vol"]
    assert len(intake.scans) == 2 * 4 * 2 * FRAMES + 8


def test_one_picture_on_two_sides_is_an_error_that_names_both(tmp_path):
    for k in range(9):
        place = tmp_path / "scans" / "DRUSEN" / f"p{k}"
        place.mkdir(parents=True)
        scan = Image.fromarray(make_eye(60 + k, "DRUSEN", size=256, pictures=("oct",)).oct)
        scan.save(place / "a.png")
    data = taken(tmp_path / "scans", tmp_path / "one", size=256)
    train, test = data.train.scans[0], data.test.scans[0]
    picture = Image.open(train.path)
    again = tmp_path / "scans" / "DRUSEN" / train.patient / "again.jpg"
    picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(again, quality=90)
    # of the same person: said, no more
    with pytest.warns(UserWarning, match="1 pairs of files show one picture.*again.jpg"):
        taken(tmp_path / "scans", tmp_path / "two", size=256)
    again.rename(tmp_path / "scans" / "DRUSEN" / test.patient / "again.jpg")
    with pytest.raises(ValueError, match="on two sides of the split.*a.png.*again.jpg"):
        taken(tmp_path / "scans", tmp_path / "three", size=256)

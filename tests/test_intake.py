"""One reading of a source: who is a person, what is a class, what is left out, and why."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.data import listing
from helpers.data import prepare as prepare_module
from helpers.data.__main__ import main
from helpers.data.cache import read_scan
from helpers.data.intake import as_json, opened, reasons, table
from helpers.data.layout import read_layout
from helpers.data.marks import describe_png, write_png
from helpers.data.prepare import content_hashes, prepare
from helpers.data.public_sets import odir_label
from helpers.data.scan import Scan, class_of_folder, condition, folder_name, natural_order, shown
from helpers.data.sources import load_manifest, take_in
from helpers.data.split import split_patients

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
MARK = describe_png()


def picture(path, seed=0, size=32):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.random.default_rng(seed).integers(10, 60, (size, size)).astype(np.uint8)
    grey[size // 2 : size // 2 + 6] = 200
    Image.fromarray(grey).save(path)
    return path


def lay(root, paths):
    """A different picture at every path."""
    for seed, path in enumerate(paths):
        picture(root / path, seed)
    return root


def places(paths, own="mine", modality="oct"):
    found, layout, doubts = read_layout([tuple(p.split("/")) for p in paths], own, modality)
    return found, layout, doubts


def people(paths, **how):
    """{person: how many files}."""
    found = {}
    for place in places(paths, **how)[0]:
        found[place.patient] = found.get(place.patient, 0) + 1
    return found


def labels(paths, **how):
    return {place.label for place in places(paths, **how)[0]}


def made(source, **settings):
    settings = {"size": 32, "progress": False, "class_": "all", **settings}
    return prepare(source, **settings)


# ---------------------------------------------------------------- people before paths

SIX = [f"P{n:03}" for n in range(6)]
EYES, VISITS = ("OD", "OS"), ("2019-05-01", "2020-06-11")
YEARS = (2019, 2020, 2021)


@pytest.mark.parametrize(
    "paths",
    [
        [f"DRUSEN/{p}/{e}/{v}/scan.png" for p in SIX for e in EYES for v in VISITS],
        [f"{p}/DRUSEN/{e}/{k}.png" for p in SIX for e in EYES for k in range(2)],
        [f"{p}/{v}/{e}/{k}.png" for p in SIX for v in VISITS for e in EYES for k in range(2)],
        [f"train/DRUSEN/{p}_{e}_{k}.png" for p in SIX for e in "LR" for k in range(2)],
        [f"DRUSEN/{p} {e}/{k}.png" for p in SIX for e in EYES for k in range(2)],
        [f"DRUSEN/{p}_{v}/{k}.png" for p in SIX for v in VISITS for k in range(2)],
        [f"DRUSEN/{p}_V{v}/{k}.png" for p in SIX for v in (1, 2) for k in range(2)],
        [f"V{v}/{p}/{k}.png" for v in (1, 2) for p in SIX for k in range(2)],
        [f"DRUSEN/{v}/{p}.png" for v in ("baseline", "visit 2") for p in SIX],
        [f"DRUSEN/{e}/{p}.png" for e in ("left eye", "right eye") for p in SIX],
        [f"DRUSEN/{p}/volume_{k}/B-scans/{n}.png" for p in SIX for k in (1, 2) for n in (0, 1)],
        [f"DRUSEN/OD_{p}_{k}.png" for p in SIX for k in range(2)],
        [f"DRUSEN/{p}_20190501_{k}.png" for p in SIX for k in range(2)],
        [f"DRUSEN/{p}-01.05.2019-{k}.png" for p in SIX for k in range(2)],
        [f"batch{b}/DRUSEN/{p}/{k}.png" for b in (1, 2) for p in SIX for k in range(2)],
        [f"DRUSEN/batch {b}/{p}/{k}.png" for b in (1, 2) for p in SIX for k in range(2)],
        [f"DRUSEN/Farabi/{p}/{k}.png" for p in SIX for k in range(2)],
        [f"{p}/Spectralis/OCT/{k}.png" for p in SIX for k in range(2)],
        [f"DRUSEN/{y}/{p}/{k}.png" for y in YEARS for p in SIX for k in range(2)],
        [f"{y}/DRUSEN/{p}/{k}.png" for y in YEARS for p in SIX for k in range(2)],
        [f"{y}/{p}/DRUSEN/{k}.png" for y in YEARS for p in SIX for k in range(2)],
        [f"AMD/{s}/{p}/{k}.png" for s in ("stage1", "stage2") for p in SIX for k in range(2)],
        [f"DRUSEN/{m}/{p}/{k}.png" for m in ("January", "May") for p in SIX for k in range(2)],
        [f"DRUSEN/{d}/{p}/1.png" for d in ("Spectralis", "Maestro2", "Cirrus") for p in SIX],
        [f"DRUSEN/{p}/DRUSEN-{v}-{k}.png" for p in SIX for v in (1, 2) for k in range(2)],
    ],
)
def test_eyes_and_visits_of_a_person_are_one_patient(paths):
    assert set(people(paths)) == set(SIX)
    assert len(set(people(paths).values())) == 1  # each as often as any other


def test_persons_are_found_in_names_and_in_families(tmp_path):
    names = {"Meier", "Schmidt", "Weber", "Wong"}  # no number, and no class: persons
    assert set(people([f"{n}/{e}/{k}.png" for n in names for e in EYES for k in "ab"])) == set(
        names
    )
    spelt = (
        "Müller",
        "Mu\u0308ller",
        "MÜLLER",
    )  # as Windows, as a Mac writes it, and a hurried one
    assert people([f"DRUSEN/{n}/{k}.png" for n in spelt for k in range(2)]) == {"Müller": 6}
    duke = [f"{c}{n}/{k}.tif" for c in ("AMD", "DME", "NORMAL") for n in range(1, 6) for k in "ab"]
    assert labels(duke) == {"AMD", "DME", "NORMAL"} and len(people(duke)) == 15
    octdl = [f"AMD/amd_{p}_{k}.jpg" for p in (1047099, 1285648, 99) for k in (1, 2)]
    assert set(people(octdl)) == {"1047099", "1285648", "99"}
    topcon = [f"DRUSEN/{p:04}-{e}-{k}.png" for p in range(4) for e in "LR" for k in (0, 1)]
    assert set(people(topcon)) == {"0000", "0001", "0002", "0003"}
    assert {place.eye for place in places(topcon)[0]} == {"OD", "OS"}
    volunteers = [f"NORMAL/V{p:02}/vol{v}/{k}.png" for p in range(4) for v in (1, 2) for k in "ab"]
    assert set(people(volunteers)) == {"V00", "V01", "V02", "V03"}
    published = [f"AMD{n}/TIFFs/8bitTIFFs/{k}.tif" for n in range(5) for k in "ab"]
    assert len(people(published)) == 5
    eyes = [f"DRUSEN/{p}/{v}_{e}.jpg" for p in SIX for v in (1, 2) for e in ("left", "right")]
    assert set(people(eyes, modality="dfe")) == set(SIX)
    bids = [f"DRUSEN/sub-{p:02}/ses-{v}/a.png" for p in range(3) for v in (1, 2)]
    assert set(people(bids)) == {"sub-00", "sub-01", "sub-02"}


def test_frames_of_a_number_alone_name_nobody():
    for paths in (
        [f"AMD/AMD_{k}.jpeg" for k in range(9)], [f"AMD/{k}-Input.jpeg" for k in range(9)],
        [f"mine/img_{k}.png" for k in range(9)], [f"OCT2017 /train/AMD/img{k}.png" for k in "12"],
        [f"{clinic}/AMD/{k}.png" for clinic in ("Farabi", "Noor") for k in range(5)],
        [f"{s}/AMD/amd_{s}_{1001 + k}.jpg" for s in ("train", "test") for k in range(9)],
        [f"AMD/amd_{e}_{k}.jpg" for e in EYES for k in range(9)],
    ):  # fmt: skip
        assert set(people(paths)) == {""}


def test_dates_alone_are_doubted():
    found, layout, doubts = places(
        [f"DRUSEN/2019010{m}/{k}.png" for m in range(1, 5) for k in "ab"]
    )
    assert len({place.patient for place in found}) == 4
    assert "visits, and nothing names a person" in doubts[0] and "20190101" in layout["visit"]


def test_a_pattern_says_who_it_is(tmp_path, monkeypatch):
    lay(tmp_path / "x", [f"AMD/k{p}x{n}.png" for p in range(4) for n in range(3)])
    with pytest.warns(UserWarning, match="12 images name no patient.*OCT_PATIENT"):
        assert {s.patient for s in load_manifest(tmp_path / "x")} == {"AMD-block0"}
    for pattern in (r"k(\d)x", r"(AMD)/k(?P<patient>\d)", r"(?<=k)\d"):
        assert {s.patient for s in take_in(tmp_path / "x", patient=pattern).scans} == set("0123")
    monkeypatch.setenv("OCT_PATIENT", r"k(\d)x")
    intake = take_in(tmp_path / "x")
    assert {s.patient for s in intake.scans} == set("0123") and "OCT_PATIENT" in str(intake)
    for wrong, words in (("k(", "no regular expression"), ("zz(.)", "finds nothing.*AMD/k0x0")):
        monkeypatch.setenv("OCT_PATIENT", wrong)
        with pytest.raises(ValueError, match=f"OCT_PATIENT=.*{words}"):
            take_in(tmp_path / "x")


def test_a_pattern_says_who_it_is_where_a_table_does_not(tmp_path, monkeypatch):
    rows = [f"k{k // 2}x{k % 2}.png,AMD,{'known' if k < 2 else ''}" for k in range(8)]
    file = sheet(tmp_path, "\n".join(["path,label,patient", *rows]))
    monkeypatch.setenv("OCT_PATIENT", r"k(\d)x")
    assert [s.patient for s in take_in(file).scans] == ["known"] * 2 + list("112233")


def test_frames_of_both_eyes_stand_in_one_block(tmp_path):
    lay(tmp_path / "x", [f"AMD/{e}/{k}.png" for e in EYES for k in range(0, 120, 10)])
    scans = take_in(tmp_path / "x").scans
    block = {}
    for scan in scans:
        block.setdefault(scan.frame, set()).add(scan.patient)
    assert len(block) == 12 and all(len(those) == 1 for those in block.values())
    lay(tmp_path / "y", [f"{d}/AMD/{k}.png" for d in ("one", "two") for k in range(3)])
    assert len({s.patient for s in take_in(tmp_path / "y").scans}) == 2  # no block of two sets


# ---------------------------------------------------------------- classes


@pytest.mark.parametrize(
    "name, label",
    [
        ("0_NORMAL", "NORMAL"), ("1. drusen", "DRUSEN"), ("DME-1", "DME"), ("Amd dry", "AMD_DRY"),
        ("CNV (2)", "CNV"), ("AMD_stage2", "AMD_STAGE2"), ("DR", "DR"), ("Dr Miller", ""),
        ("P001", ""), ("OCT2017", ""), ("12", ""), ("Macula", ""), ("csr", "CSR"),
    ],
)  # fmt: skip
def test_a_folder_of_a_class_by_its_name(name, label):
    assert class_of_folder(name)[0] == label


def test_numbered_classes_are_classes(tmp_path):
    lay(tmp_path / "x", [f"{k}_{c}/i{n}.png" for k, c in enumerate(("NORMAL", "DRUSEN", "DME"))
                         for n in range(4)])  # fmt: skip
    intake = take_in(tmp_path / "x")
    assert {s.label for s in intake.scans} == {"NORMAL", "DRUSEN", "DME"}
    assert "folder level 1" in intake.layout["class"]
    assert condition("0_normal") == "NORMAL" and condition("12_monkeys") == "12_monkeys"


def test_classes_without_a_known_name():
    few = [f"{c}/{k}.png" for c in ("sick people", "others") for k in range(9)]
    assert labels(few) == {"sick people", "others"}
    assert "class names never seen: others, sick people" in places(few)[2][0]
    numbers = [f"{c}/{k}.png" for c in (0, 1) for k in range(9)]
    assert labels(numbers) == {"0", "1"} and "look like numbers: 0, 1" in places(numbers)[2][0]
    assert labels([f"{p}/{k}.png" for p in range(30) for k in "abc"]) == {"mine"}  # persons
    stages = [f"stage {n}/{k}.png" for n in range(3) for k in range(9)]
    assert labels(stages) == {"stage 0", "stage 1", "stage 2"}
    beside = [f"{c}/p{k}/a.png" for c in ("DRUSEN", "odd ones") for k in range(4)] + ["all.png"]
    found, _, doubts = places(beside)
    assert labels(beside) == {"DRUSEN", "odd ones", None} and found[-1].label is None
    assert "never seen: odd ones" in doubts[0] and "1 images lie outside" in doubts[1]
    assert labels([f"{c}_{k}.png" for c in ("DRUSEN", "NORMAL") for k in range(9)]) == {
        "DRUSEN", "NORMAL"}  # fmt: skip
    twice = places([f"DRUSEN/normal/{k}.png" for k in range(3)] + ["DRUSEN/x.png"])[2]
    assert "two class names in one path" in twice[0]


@pytest.mark.parametrize("label", ["1", "0", "../../escaped", "a/b", "..", "CON", ".x", "ü ", "DR"])
def test_what_is_written_by_label_stays_inside_and_is_read_back(tmp_path, label):
    """As generate.export writes it: a folder of the label's name, and images.csv."""
    out, name = tmp_path / "synthetic", folder_name(label)
    assert (out / name).resolve().parent == out.resolve() and not name.startswith(".")
    rows = ["file,class,seed,index,weights_sha256,size"]
    for index in range(3):
        file = f"{name}/{index:06}.png"
        (out / name).mkdir(parents=True, exist_ok=True)
        write_png(np.eye(32, dtype=np.uint8)[..., None] * 200, out / file, MARK)
        rows.append(f"{file},{label},0,{index},abc,32")
    (out / "images.csv").write_text("\n".join(rows) + "\n")
    assert {s.label for s in load_manifest(out)} == {label.strip()}
    assert len(load_manifest(out)) == 3


def test_folder_names_differ_where_labels_do():
    odd = ["NORMAL", "a/b", "a\\b", "a:b", "a_b", "", ".", "..", " ", "nul", "x" * 300, "x" * 301]
    names = [folder_name(label) for label in odd]
    assert len(set(names)) == len(odd) and names[0] == "NORMAL" and max(map(len, names)) < 100
    assert folder_name("DR;GLAUCOMA") == "DR;GLAUCOMA"


# ---------------------------------------------------------------- every file accounted for


def test_hidden_and_system_files_are_never_data(tmp_path):
    root = lay(tmp_path / "x", [f"DRUSEN/p{k}/a.png" for k in range(4)])
    picture(root / "DRUSEN/.ipynb_checkpoints/p0-checkpoint.png", 0)
    picture(root / "DRUSEN/@eaDir/a.png/SYNOPHOTO_THUMB.jpg", 0)
    picture(root / "__MACOSX/DRUSEN/p0/b.png", 0)
    for junk in ("DRUSEN/p0/._a.png", "DRUSEN/Thumbs.db", ".DS_Store", "notes.docx", "no_ending"):
        (root / junk).write_bytes(b"x")
    intake = take_in(root)
    assert len(intake.scans) == 4 and {s.label for s in intake.scans} == {"DRUSEN"}
    everything = sum(len(files) for _, _, files in os.walk(root))
    assert len(intake.left_out) + 4 == everything == 12
    said = " ".join(reasons(intake))
    for word in ("._ file", ".ipynb_checkpoints", "@eaDir", "__MACOSX", "Thumbs.db", ".docx",
                 "no ending"):  # fmt: skip
        assert word in said
    assert not made(root, cache=tmp_path / "c").notes  # nobody takes these for scans


def test_hidden_above_the_source_does_not_matter(tmp_path):
    lay(tmp_path / ".cache" / "eyes", [f"DRUSEN/p{k}/a.png" for k in range(3)])
    assert len(take_in(tmp_path / ".cache" / "eyes").scans) == 3


def test_masks_reports_and_the_other_modality_are_left_out(tmp_path):
    root = lay(tmp_path / "x", [f"DRUSEN/p{k}/{n}" for k in range(3) for n in (
        "oct.png", "oct_mask.png", "fundus.jpg", "Report.png")])  # fmt: skip
    lay(root, [f"masks/p{k}.png" for k in range(3)])
    intake = take_in(root)
    assert {Path(s.path).name for s in intake.scans} == {"oct.png"} and len(intake.scans) == 3
    assert sorted(reasons(intake).values()) == [3, 3, 6]
    assert {Path(s.path).name for s in take_in(root, modality="dfe").scans} == {"fundus.jpg"}
    note = made(root, cache=tmp_path / "c").notes[0]
    assert note.startswith("12 files are not used: a mask beside a scan (6)")
    lay(tmp_path / "y", [f"{f}/NORMAL{k}.png" for f in ("NORMAL", "LAYERS") for k in range(3)])
    assert {s.label for s in take_in(tmp_path / "y").scans} == {"NORMAL"}
    lay(tmp_path / "fundus", [f"masks/p{k}.png" for k in range(3)])  # nothing else: they are it
    assert len(take_in(tmp_path / "fundus").scans) == 3


def test_own_reports_and_runs_are_never_data(tmp_path):
    root = lay(tmp_path / "x", [f"DRUSEN/p{k}/a.png" for k in range(3)])
    lay(root, ["report/verdict.png", "report/parts/map.png", "runs/a/previews/00000100.png"])
    for file in ("report/report.json", "report/report.html", "runs/a/metrics.jsonl"):
        (root / file).write_text("{}")
    intake = take_in(root)
    assert {s.label for s in intake.scans} == {"DRUSEN"} and len(intake.left_out) == 6


def test_synthetic_pictures_are_known_by_their_mark(tmp_path):
    for k in range(6):
        file = tmp_path / f"made/DRUSEN/P{k}/a.PNG"
        with Image.open(picture(file, 50 + k)) as plain:
            plain.load()
        plain.save(file, pnginfo=MARK)
    with pytest.raises(ValueError, match=r"all 6 of its images are marked as synthetic \(a.PNG"):
        made(tmp_path / "made", cache=tmp_path / "c")
    assert len(take_in(tmp_path / "made").scans) == 6  # a synthetic set is read as what it is
    assert "all 6 images are marked" in take_in(tmp_path / "made").doubts[0]
    assert len(made(tmp_path / "made", cache=tmp_path / "c", synthetic=True).train)
    rows = ["path,label,patient"] + [f"made/DRUSEN/P{k}/a.PNG,DRUSEN,Q{k}" for k in range(6)]
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    with pytest.raises(ValueError, match="marked as synthetic"):
        made(tmp_path / "manifest.csv", cache=tmp_path / "c")
    lay(tmp_path / "made", [f"DRUSEN/R{k}/b.png" for k in range(4)])
    intake = take_in(tmp_path / "made", synthetic=False)
    assert len(intake.scans) == 4 and reasons(intake) == {"marked as synthetic": 6}
    for k in range(6):  # disguised altogether
        file = tmp_path / f"made/DRUSEN/P{k}/a.PNG"
        file.rename(file.with_name("a.jpg"))
    data = made(tmp_path / "made", cache=tmp_path / "c")
    assert [reason for _, reason in data.left_out] == ["marked as synthetic"] * 6


def test_links_are_followed_and_circles_named(tmp_path):
    lay(tmp_path / "disk2", [f"DRUSEN/p{k}/a.png" for k in range(3)])
    root = lay(tmp_path / "data", [f"NORMAL/q{k}/a.png" for k in range(3)])
    (root / "DRUSEN").symlink_to(tmp_path / "disk2" / "DRUSEN")
    (root / "NORMAL" / "again").symlink_to(root)  # a circle
    (root / "NORMAL" / "up").symlink_to(tmp_path)  # one around the source
    (root / "twice").symlink_to(root / "NORMAL")
    (root / "NORMAL" / "q0" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    (root / "NORMAL" / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(root / "NORMAL" / "q0" / "pipe.png")
    intake = take_in(root)
    assert {(s.label, s.patient) for s in intake.scans} == {
        (label, f"{p}{k}") for label, p in (("DRUSEN", "p"), ("NORMAL", "q")) for k in range(3)
    }
    said = dict(intake.left_out)
    assert said["NORMAL/again"] == "a link in a circle, to the source itself"
    assert said["NORMAL/up"].startswith("a link in a circle, to /")
    assert said["twice"] == "a link to NORMAL"
    assert "a link to nothing" in said["NORMAL/q0/lost.png"]
    assert said["NORMAL/q0/pipe.png"] == "no file but a device"
    assert "nothing" in said["NORMAL/gone"]


def test_a_folder_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    root = lay(tmp_path / "x", [f"DRUSEN/p{k}/a.png" for k in range(4)])
    real = os.scandir

    def locked(path):
        if str(path).endswith("p2"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr(listing.os, "scandir", locked)
    intake = take_in(root)
    assert len(intake.scans) == 3
    assert intake.left_out == [("DRUSEN/p2", "cannot be opened (Permission denied)")]


def test_endings_in_any_case_and_unknown_ones_counted(tmp_path):
    root = lay(tmp_path / "x", [f"DRUSEN/p{k}/a.png" for k in range(3)])
    for k in range(3):
        Image.open(root / f"DRUSEN/p{k}/a.png").save(root / f"DRUSEN/p{k}/B.JFIF", "JPEG")
        (root / f"DRUSEN/p{k}/c.dcm").write_bytes(bytes(128) + b"DICM")
        (root / f"DRUSEN/p{k}/d.E2E").write_bytes(b"x")
    intake = take_in(root)
    assert len(intake.scans) == 6
    assert sum(reasons(intake).values()) == 6
    assert "DICOM" in str(intake) and "Heidelberg" in str(intake)
    only = tmp_path / "only"
    (only / "NORMAL").mkdir(parents=True)
    (only / "NORMAL" / "1.dcm").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match="no image in it.*NORMAL/1.dcm: .*DICOM"):
        take_in(only)


def test_names_that_are_no_utf8_never_stop_anything(tmp_path, capsys):
    for n in range(6):
        folder = os.fsencode(tmp_path) + b"/x/DRUSEN/M\xfcller_%d" % n
        os.makedirs(folder)
        picture(os.fsdecode(folder + b"/Gl\xe4s.png"), n)
    bad = os.fsdecode(os.fsencode(tmp_path) + b"/x/DRUSEN/M\xfcller_0/b\xe4d\n.png")
    Path(bad).write_text("no image")
    data = made(tmp_path / "x", cache=tmp_path / "c")
    assert any("b\\udce4d\\n.png (cannot be read" in note for note in data.notes), data
    assert "M\\udcfcller_0" in {
        s.patient for split in (data.train, data.validation, data.test) for s in split.scans
    }
    assert main([str(tmp_path / "x"), "--out", str(tmp_path / "i.json")]) is None
    assert "M\\udcfcller_1" in capsys.readouterr().out
    assert json.loads((tmp_path / "i.json").read_text())["classes"]["DRUSEN"]["scans"] == 6
    with pytest.raises(FileNotFoundError, match=r"b\\udce4d: neither a folder"):
        take_in("b\udce4d")
    with pytest.raises(FileNotFoundError, match="cannot be opened"):
        take_in("x" * 5000)
    assert shown("ü ж 网膜") == "ü ж 网膜" and natural_order("5²5.png")


# ---------------------------------------------------------------- doubts


def test_doubts(tmp_path):
    lay(tmp_path / "half", [f"DRUSEN/{p}/{k}.png" for p in ("all", "b", "c", "d") for k in range(
        9 if p == "all" else 1)])  # fmt: skip
    assert "one patient, all, holds 9 of 12 scans" in take_in(tmp_path / "half").doubts[0]
    lay(tmp_path / "one", [f"DRUSEN/p{k}/a.png" for k in range(4)] + ["NORMAL/q/a.png"])
    assert "only one patient has NORMAL" in take_in(tmp_path / "one").doubts[0]
    lay(tmp_path / "two", [f"{c}/p{k}/OD/a.png" for c in ("DRUSEN", "NORMAL") for k in range(4)])
    doubt = take_in(tmp_path / "two").doubts[0]
    assert doubt.startswith("4 eyes have more than one class: p0 OD is DRUSEN (a.png) and NORMAL")


def test_nothing_is_doubted_without_a_reason(tmp_path):
    lay(tmp_path / "x", [f"{c}/{c}-{p}-{k}.jpeg" for c in ("DRUSEN", "NORMAL") for p in range(
        4) for k in (1, 2)])  # fmt: skip
    intake = take_in(tmp_path / "x")
    assert not intake.doubts and not intake.left_out
    assert not take_in("simulated", n_simulated=3).doubts


def test_one_picture_of_two_classes(tmp_path):
    """Of one patient it is said; on two sides of the split nobody can tell which to believe."""
    root = lay(tmp_path / "x", [f"{c}/{c[0]}{k}/a.png" for c in ("DRUSEN", "NORMAL") for k in range(
        8)])  # fmt: skip
    side = {s.patient: name for name, those in split_patients(take_in(root).scans).items()
            for s in those}  # fmt: skip
    drusen = next(f"D{k}" for k in range(8) if side[f"D{k}"] == "train")
    other = next(f"N{k}" for k in range(8) if side[f"N{k}"] == "test")
    same = next(f"N{k}" for k in range(8) if side[f"N{k}"] == "train")
    first = root / "DRUSEN" / drusen / "a.png"
    (root / "NORMAL" / same / "b.png").write_bytes(first.read_bytes())
    assert any("one picture has two classes" in note for note in made(root, cache=tmp_path).notes)
    assert any("class differs between 1 copies" in doubt
               for doubt in prepare_module.doubted_copies(take_in(root).scans))  # fmt: skip
    (root / "NORMAL" / other / "b.png").write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match=rf"DRUSEN/{drusen}/a.png and .*NORMAL/{other}/b.png are "
                       r"one picture, once DRUSEN \(train\) and once NORMAL \(test\)"):  # fmt: skip
        made(root, cache=tmp_path)
    (root / "NORMAL" / other / "b.png").unlink()
    (root / "NORMAL" / same / "b.png").unlink()
    drusen_test = next(f"D{k}" for k in range(8) if side[f"D{k}"] == "test")
    (root / "DRUSEN" / drusen_test / "b.png").write_bytes(first.read_bytes())
    assert any("two patients, on two sides" in note for note in made(root, cache=tmp_path).notes)


# ---------------------------------------------------------------- spreadsheets


def sheet(tmp_path, text, name="manifest.csv", encoding="utf-8"):
    file = tmp_path / name
    file.write_bytes(text.encode(encoding))
    return file


ROWS = [f"s{n}.png,DRUSEN,P{n // 2}" for n in range(6)]


@pytest.mark.parametrize(
    "text, encoding",
    [
        ("path,label,patient\n" + "\n".join(ROWS), "utf-8-sig"),
        ("path,label,patient\r\n" + "\r\n".join(ROWS), "utf-16"),
        ("path,label,patient\r" + "\r".join(ROWS), "utf-8"),  # an old Mac's
        ("path;label;patient\n" + "\n".join(ROWS).replace(",", ";"), "cp1252"),
        ("path\tlabel\tpatient\n" + "\n".join(ROWS).replace(",", "\t"), "utf-8"),
        ("sep=;\npath;label;patient\n" + "\n".join(ROWS).replace(",", ";"), "utf-8"),
        (",,\npath,label,patient\n" + "\n".join(ROWS) + "\n,,\n" * 9 + "\n\n , ,\n", "utf-8"),
        ("path,label,patient,,\n" + "\n".join(f"{r},," for r in ROWS), "utf-8"),
        (" Path , LABEL,Patient ID\n" + "\n".join(ROWS), "utf-8"),
    ],
)
def test_tables_of_any_program(tmp_path, text, encoding):
    scans = load_manifest(sheet(tmp_path, text, encoding=encoding))
    assert [(Path(s.path).name, s.label, s.patient) for s in scans] == [
        (f"s{n}.png", "DRUSEN", f"P{n // 2}") for n in range(6)
    ]


def test_umlauts_of_windows(tmp_path):
    text = "path,label,patient\r\na.png,DRUSEN,Müller\r\nb.png,Überdruck,x\r\n"
    scans = load_manifest(sheet(tmp_path, text, encoding="cp1252"))
    assert scans[0].patient == "Müller" and scans[1].label == "Überdruck"


def test_two_columns_of_one_meaning(tmp_path):
    text = "path,label,patient,condition\n" + "".join(f"{row},treated\n" for row in ROWS)
    with pytest.raises(ValueError, match=r"'label' and 'condition' both mean label.*line 2"):
        load_manifest(sheet(tmp_path, text))
    same = "path,label,patient,class\n" + "".join(f"{row},DRUSEN\n" for row in ROWS)
    assert len(load_manifest(sheet(tmp_path, same))) == 6
    with pytest.raises(ValueError, match="'patient' and 'patient' both mean patient"):
        load_manifest(sheet(tmp_path, "path,label,patient,patient\na.png,CNV,1,2\n"))


@pytest.mark.parametrize("unknown", ["nan", "NaN", "None", "-", "", "n/a", "NULL", "unknown", "?"])
def test_an_unknown_patient_is_nobody(tmp_path, unknown):
    rows = [f"s{n}.png,DRUSEN,{unknown if n % 2 else n}" for n in range(8)]
    text = "path,label,patient\n" + "\n".join(rows)
    with pytest.warns(UserWarning, match="4 images name no patient"):
        scans = load_manifest(sheet(tmp_path, text))
    assert {s.patient for s in scans} == {"0", "2", "4", "6", "DRUSEN-block0"}


def test_floats_of_pandas_and_numbers_as_labels(tmp_path):
    text = "path,label,patient,width,um_per_px_x\na.png,0.0,1.0,nan,\nb.png,1.0,nan,512.0,'\n"
    with pytest.raises(ValueError, match='line 3: um_per_px_x is "\'", and has to be a number'):
        load_manifest(sheet(tmp_path, text))
    text = text.replace("'", "inf")
    scans = load_manifest(sheet(tmp_path, text))
    assert [(s.label, s.patient, s.width) for s in scans] == [
        ("0", "1", None), ("1", "1-block0", 512)]  # fmt: skip
    semicolons = "path;label;patient;um_per_px_x\na.png;CNV;1;3,9\nb.png;CNV;2;3.9\n"
    assert [s.um_per_px_x for s in load_manifest(sheet(tmp_path, semicolons))] == [3.9, 3.9]


def test_paths_of_windows_and_of_another_machine(tmp_path):
    picture(tmp_path / "eyes" / "a.png")
    for name in (r"eyes\a.png", r"C:\Users\me\eyes\a.png", "/home/me/eyes/a.png", "eyes/a.png",
                 r"\\server\share\eyes\a.png", r"D:\a\..\eyes\a.png"):  # fmt: skip
        (scan,) = load_manifest(sheet(tmp_path, f"path,label,patient\n{name},CNV,1\n"))
        assert Path(scan.path) == tmp_path / "eyes" / "a.png"
    (tmp_path / "tables").mkdir()
    beside = sheet(tmp_path / "tables", "path,label,patient\n..\\eyes\\a.png,CNV,1\n")
    assert Path(load_manifest(beside)[0].path).samefile(tmp_path / "eyes" / "a.png")


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "the table is empty"),
        ("\n\n", "the table is empty"),
        ("path,label,patient\na.png,CNV,1,oops\n", "line 2: 4 values.*3 columns"),
        ("path,label,patient,width\na.png,CNV,1,\nb.png,CNV,2,-5\n", "line 3: width is -5"),
        ("path,label,patient,split\na.png,CNV,1,holdme\n", "line 2: split is 'holdme'.*train"),
        ("path,label,patient,eye\na.png,CNV,1,both\n", "line 2: eye is 'both'"),
        ("path,label,patient\na.png,CNV,1\na.png,DME,1\n", "line 3: a.png is DME.*CNV.*line 2"),
        ("path,label,patient,split\na.png,CNV,1,train\nb.png,CNV,1,val\n",
         "line 3: patient 1 is of validation here and of train in line 2"),
        ("name,grade\nx,1\n", r"lacks \['label', 'path', 'patient'\]. It has grade, name"),
        ("path,label,patient\n,CNV,1\nb.png,,1\n", "no row of modality oct"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_table_is_named_with_its_line(tmp_path, text, words):
    with pytest.raises(ValueError, match=f"manifest.csv.*{words}"):
        load_manifest(sheet(tmp_path, text))


def test_workbooks_say_what_to_do(tmp_path):
    for name, content in (("eyes.xlsx", b"PK\3\4"), ("eyes.csv", b"PK\3\4xl"), ("e.XLS", b"x")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="is a workbook.*CSV UTF-8"):
            load_manifest(tmp_path / name)


def test_rows_without_a_label_are_left_out_by_line(tmp_path):
    text = "path,label,patient\n" + "\n".join(ROWS) + "\nx.png,,P9\n,CNV,P9\ns0.png,DRUSEN,P0\n"
    intake = take_in(sheet(tmp_path, text))
    assert len(intake.scans) == 6
    assert [why for _, why in intake.left_out] == [
        "line 8 has no label", "line 9 has no path", "named twice in the table"]  # fmt: skip


def test_a_published_split_is_kept(tmp_path):
    rows = ["path,label,patient,set"]
    for n in range(20):
        picture(tmp_path / f"s{n}.png", n)
        rows.append(f"s{n}.png,DRUSEN,P{n},{'Testing' if n % 4 == 0 else 'train'}")
    file = sheet(tmp_path, "\n".join(rows))
    scans = load_manifest(file)
    split = split_patients(scans)
    assert {s.patient for s in split["test"]} == {f"P{n}" for n in range(0, 20, 4)}
    assert len(split["validation"]) == 3  # nobody was published for it: some of train
    assert sum(map(len, split.values())) == 20
    assert len(made(file, cache=tmp_path / "c").test) == 5


def test_another_published_split_is_other_data(tmp_path):
    """Though its pictures are the same, and come in the same order."""
    found = []
    for sides in ("train train validation test", "train validation test test"):
        rows = ["path,label,patient,split"]
        for n, side in enumerate(sides.split()):
            picture(tmp_path / f"s{n}.png", n)
            rows.append(f"s{n}.png,DRUSEN,P{n},{side}")
        found.append(made(sheet(tmp_path, "\n".join(rows)), cache=tmp_path / "c").manifest_hash)
    assert found[0] != found[1]


def test_a_published_split_is_kept_where_nobody_is_named(tmp_path):
    sets = ("train", "train", "train", "validation", "test")
    rows = ["path,label,patient,set"]
    for n in range(200):
        (tmp_path / f"s{n:03}.png").touch()
        rows.append(f"s{n:03}.png,DRUSEN,,{sets[n % 5]}")
    split = split_patients(take_in(sheet(tmp_path, "\n".join(rows))).scans)
    assert {name: len(those) for name, those in split.items()} == {
        "train": 120, "validation": 40, "test": 40}  # fmt: skip
    assert all(scan.side == name for name, those in split.items() for scan in those)


def test_masks_are_told_from_scans_in_no_time():
    paths = [(f"P{k}", name) for k in range(10_000) for name in ("000.png", "000_mask.png")]
    began = time.monotonic()
    assert len(listing.beside(paths, "oct")) == 10_000
    assert time.monotonic() - began < 5  # once every pair was compared: a minute


def test_what_a_manifest_of_this_project_says_is_kept(tmp_path):
    text = "path,label,patient,eye,volume,frame,line\na.png,CNV,1,left,v1,7,0 1 2 3\n"
    text += "b.png,CNV,1,OD,,,\nc.png,CNV,CNV-block2,,,,\n"
    first, second, third = load_manifest(sheet(tmp_path, text))
    assert (first.eye, first.volume, first.frame, first.line) == ("OS", "v1", 7, "0 1 2 3")
    assert (second.eye, second.volume, second.frame) == ("OD", None, None)
    assert third.frame is None  # its name has no number
    scans = [Scan(f"{n}.png", "oct", "x", "CNV", f"P{n % 4}", frame=n) for n in range(40)]
    assert sum(map(len, split_patients(scans).values())) == 40  # frames of patients are no margin


# ---------------------------------------------------------------- ODIR


@pytest.mark.parametrize(
    "text, label",
    [
        ("normal fundus", "NORMAL"), ("drusen", "DRUSEN"), ("optic nerve drusen", "OTHER"),
        ("central serous chorioretinopathy", "OTHER"), ("age-related macular degeneration", "AMD"),
        ("Wet age-related macular degeneration，diabetic retinopathy", "AMD_WET"),
        ("dry age-related macular degeneration", "AMD_DRY"), ("suspected glaucoma", "GLAUCOMA"),
        ("moderate non proliferative retinopathy，hypertensive retinopathy", "HYPERTENSION"),
        ("suspicious diabetic retinopathy", "DR"), ("mild nonproliferative retinopathy", "DR"),
        ("myopia retinopathy", "MYOPIA"), ("lens dust，normal fundus", "NORMAL"),
        ("Lens dust，drusen", "DRUSEN"), ("lens dust", None), ("image offset", None),
        ("low image quality,maculopathy", None), ("anterior segment image", None),
        ("retinitis pigmentosa", "OTHER"), ("pathological myopia，cataract", "CATARACT"),
    ],
)  # fmt: skip
def test_keywords_of_odir(text, label):
    assert odir_label(text) == (label, [])


def test_odir_in_capitals_with_keywords_nobody_knows(tmp_path):
    rows = ["ID,Left-Fundus,Right-Fundus,Left-Diagnostic Keywords,Right-Diagnostic Keywords"]
    for n in range(4):
        for eye in ("left", "right"):
            picture(tmp_path / f"{n}_{eye}.png", 2 * n + (eye == "left")).rename(
                tmp_path / f"{n}_{eye}.JPG")  # fmt: skip
        rows.append(f"{n},{n}_left.JPG,{n}_right.jpg,drusen,glass eye，normal fundus")
    (tmp_path / "full_df.csv").write_text("\n".join(rows), encoding="utf-8")
    intake = take_in(tmp_path, modality="dfe")
    assert [(s.label, s.eye) for s in intake.scans[:2]] == [("DRUSEN", "OS"), ("OTHER", "OD")]
    assert len(intake.scans) == 8 and "'glass eye'" in intake.doubts[0]
    with pytest.raises(FileNotFoundError, match="no image.*a photograph of ODIR"):
        take_in(tmp_path)  # as OCT
    (tmp_path / "full_df.csv").write_text("ID,Left-Fundus\n1,a.jpg\n")
    with pytest.raises(ValueError, match="full_df.csv: lacks the columns Left-Diagnostic Keywords"):
        take_in(tmp_path, modality="dfe")


# ---------------------------------------------------------------- reading


def test_one_unreadable_file_never_stops_the_others(tmp_path, monkeypatch):
    root = lay(tmp_path / "x", [f"DRUSEN/p{k}/{n}.png" for k in range(5) for n in range(2)])
    real = Path.read_bytes

    def failing(path):
        if path.parent.name == "p0" and path.name == "1.png":
            raise OSError(errno.EIO, "Input/output error")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    for most in (None, 1):
        data = made(root, cache=tmp_path / "c", most=most)
        assert most or [(Path(p).name, why) for p, why in data.left_out] == [
            ("1.png", "cannot be read (Input/output error)")]  # fmt: skip
    bad = []
    assert len(content_hashes(take_in(root).scans, False, bad=bad)) == 9 and len(bad) == 1


def test_sides_are_filled_from_what_can_be_read(tmp_path):
    root = lay(tmp_path / "x", [f"DRUSEN/p{k}/a.png" for k in range(8)])
    before = made(root, cache=tmp_path / "c")
    for name in ("validation", "test"):
        for scan in getattr(before, name).scans:
            Path(scan.path).write_bytes(b"no image")
    data = made(root, cache=tmp_path / "c")
    assert min(len(data.train), len(data.validation), len(data.test)) >= 1
    assert len(data.left_out) == len(before.validation) + len(before.test)
    for k in range(8):
        (root / f"DRUSEN/p{k}/a.png").write_bytes(b"no image %d" % k)
    with pytest.raises(ValueError, match="none of 8 files can be read"):
        made(root, cache=tmp_path / "c")


def test_a_sample_is_chosen_before_it_is_read(tmp_path, monkeypatch):
    root = lay(tmp_path / "x", [f"DRUSEN/p{k}/{n}.png" for k in range(6) for n in range(9)])
    (root / "DRUSEN/p0/copy.png").write_bytes((root / "DRUSEN/p0/0.png").read_bytes())
    read, real = [], prepare_module.content_hashes

    def counted(scans, *args, **how):
        read.extend(scans)
        return real(scans, *args, **how)

    monkeypatch.setattr(prepare_module, "content_hashes", counted)
    data = made(root, cache=tmp_path / "c", most=2)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [2, 2, 2]
    assert len(read) <= 8
    moved = tmp_path / "elsewhere"
    root.rename(moved)
    assert made(moved, cache=tmp_path / "c", most=2).manifest_hash == data.manifest_hash
    read.clear()
    made(moved, cache=tmp_path / "c", most=2, sides=("validation",))
    assert len(read) <= 3


def test_a_source_is_listed_once(tmp_path, monkeypatch):
    root = lay(tmp_path / "x", [f"DRUSEN/p{k}/a.png" for k in range(4)])
    listed, real = [], os.scandir
    monkeypatch.setattr(listing.os, "scandir", lambda path: listed.append(str(path)) or real(path))
    intake = take_in(root)
    assert sorted(listed) == sorted({*listed}) and len(listed) == 6
    data = made(root, cache=tmp_path / "c", intake=intake)
    assert len(listed) == 6 and sum(map(len, (data.train, data.validation, data.test))) == 4


def test_several_classes_in_any_case(tmp_path):
    root = lay(tmp_path / "x", [f"{c}/p{k}{c}/a.png" for c in ("CNV", "DME", "AMD") for k in "123"])
    assert set(made(root, class_="cnv+Dme", cache=tmp_path / "c").train.labels) == {"CNV", "DME"}
    assert made(root, class_=" dme ", cache=tmp_path / "c").class_ == "DME"


def test_a_cache_of_bad_files_that_were_renamed(tmp_path):
    """The cache is keyed by content: what it left out has another name now."""
    root = lay(tmp_path / "x", [f"DRUSEN/p{k}/{n}.png" for k in range(5) for n in range(3)])
    bad = root / "DRUSEN/p2/1.png"
    bad.write_bytes(b"no image")
    made(root, cache=tmp_path / "c")
    bad.rename(bad.with_name("1b.png"))
    data = made(root, cache=tmp_path / "c")
    assert [Path(path).name for path, _ in data.left_out] == ["1b.png"]
    for split in (data.train, data.validation, data.test):  # rows fit their scans
        assert len(split.images) == len(split.scans)
        for image, scan in zip(split.images, split.scans):
            assert np.array_equal(image, read_scan(scan, 32, "stretch"))


# ---------------------------------------------------------------- the table


def test_the_table_alone(tmp_path, capsys):
    root = lay(
        tmp_path / "x", [f"DRUSEN/P{k}/{e}/2019-01-01/a.png" for k in range(4) for e in EYES]
    )
    (root / "DRUSEN/P0/cut.png").write_bytes(b"\x89PNG")
    (root / "readme.txt").touch()
    main([str(root), "--out", str(tmp_path / "intake.json")])
    shown_text = capsys.readouterr().out
    for words in ("8 scans of modality oct, 4 patients, 8 eyes", "a folder below the class",
                  "visit    folders 2019-01-01", "32 x 32 (8)", "cannot be read", "readme.txt",
                  "not an image (.txt)"):  # fmt: skip
        assert words in shown_text
    about = json.loads((tmp_path / "intake.json").read_text())
    assert about["classes"] == {"DRUSEN": {"scans": 8, "patients": 4, "eyes": 8}}
    assert about["scans"][0] == ["DRUSEN/P0/OD/2019-01-01/a.png", "DRUSEN", "P0", "OD"]
    assert [path for path, _ in about["left_out"]] == ["readme.txt", "DRUSEN/P0/cut.png"]
    assert table(opened(take_in("simulated", n_simulated=1))).startswith("simulated: 8 scans")
    assert json.loads(as_json(take_in(root)))["sizes"] == {}


@pytest.mark.slow
def test_bad_input_ends_in_words_and_one(tmp_path):
    (tmp_path / "empty").mkdir()
    for source in ("empty", "nowhere"):
        ended = subprocess.run(
            [sys.executable, "-m", "helpers.data", str(tmp_path / source)],
            capture_output=True, text=True, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        assert ended.returncode == 1 and "Traceback" not in ended.stderr
        assert str(tmp_path / source) in ended.stderr and not ended.stdout

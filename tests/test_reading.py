"""The reading test, from scans to report: blind, never lost, right about readers of known skill."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import binom

from helpers.evaluate import reading_analysis, reading_widget
from helpers.evaluate.reading_test import COLUMNS, Reader, read_answers

CLASSES = ("DRUSEN", "NORMAL")


def scans(n, size, seed):
    """Speckled bands, uint8 (n, 1, size, size)."""
    rng = np.random.default_rng(seed)
    depth = np.linspace(0, 1, size)[:, None]
    rows = rng.uniform(0.3, 0.7, (n, 1, 1, 1))
    bands = 40 + 150 * np.exp(-(((depth - rows) / 0.08) ** 2))
    return (bands + rng.normal(0, 15, (n, 1, size, size))).clip(0, 255).astype(np.uint8)


def make(folder, n=6, **settings):
    labels = np.array([CLASSES[i % 2] for i in range(3 * n)])
    synthetic = scans(3 * n, 32, 1).astype(np.float32) / 127.5 - 1
    settings = {"real_labels": labels, "synthetic_labels": labels} | settings
    return reading_analysis.prepare_test(
        scans(3 * n, 64, 0), synthetic, folder / "test", n=n, **settings
    )


@pytest.fixture
def test(tmp_path):
    return make(tmp_path)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return make(tmp_path_factory.mktemp("large"), n=100)


# --- the test on disk


def test_files_do_not_tell(test):
    """Everything about a file but its pixels is the same for real and synthetic scans."""
    key = reading_analysis.read_key(test)
    assert test.size == 32 and len(test) == 12
    assert sorted(entry["truth"] for entry in key.values()) == ["real"] * 6 + ["synthetic"] * 6
    heads = set()
    for name in test.images:
        content = test.picture(name)
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.size == (32, 32) and picture.mode == "L"
            assert set(picture.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        heads.add((len(content), content[: content.index(b"\xff\xda")]))  # all before the pixels
    assert len(heads) == 1
    seen = [path for path in test.folder.rglob("*") if path.is_file()]
    assert len(seen) == 13
    for path in seen:
        assert "synthetic" not in str(path.relative_to(test.folder))
        assert b"synthetic" not in path.read_bytes() and b"truth" not in path.read_bytes()
    assert not test.key.is_relative_to(test.folder)


def test_scans_are_brought_to_one_form(tmp_path):
    """The same scenes as colour floats of twice the size, and as grey bytes, end as equals."""
    one, two = scans(4, 64, 3), scans(4, 64, 4)
    one, two = (gaussian_filter(images, (0, 0, 2, 2)) for images in (one, two))
    large = np.repeat(two.repeat(2, 2).repeat(2, 3), 3, 1).astype(np.float32) / 127.5 - 1
    test = reading_analysis.prepare_test(one, list(large), tmp_path / "a", n=4)
    mean = {"real": [], "synthetic": []}
    for name, entry in reading_analysis.read_key(test).items():
        with Image.open(io.BytesIO(test.picture(name))) as picture:
            source = (one if entry["truth"] == "real" else two)[entry["index"], 0]
            error = np.asarray(picture, float) - source
            mean[entry["truth"]].append(np.sqrt((error**2).mean()))
    assert max(map(max, mean.values())) < 3  # grey levels
    with pytest.raises(ValueError, match="only 64 px"):
        reading_analysis.prepare_test(one, list(large), tmp_path / "b", n=4, size=128)


def test_choice_is_balanced_seeded_and_spread_over_patients(tmp_path):
    patients = np.repeat(np.arange(6), 3)
    test = make(tmp_path, real_patients=patients)
    key = reading_analysis.read_key(test)
    for truth in ("real", "synthetic"):
        labels = [e["label"] for e in key.values() if e["truth"] == truth]
        assert sorted(labels) == ["DRUSEN"] * 3 + ["NORMAL"] * 3
    for label in CLASSES:  # every patient has scans of both classes here
        chosen = [e["index"] for e in key.values() if (e["truth"], e["label"]) == ("real", label)]
        assert len(set(patients[chosen])) == 3
    again = make(tmp_path, real_patients=patients)  # the same call finds the same test
    assert again == test
    other = make(tmp_path / "other", real_patients=patients, seed=1)
    assert other.id != test.id and set(other.images) != set(test.images)
    orders = [reading_analysis.reading_order(test, name) for name in ("Ann", "ann ", "Bob")]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[2]) == test.images


def test_order_says_nothing_of_the_key(large):
    key = reading_analysis.read_key(large)
    for order in (large.images, reading_analysis.reading_order(large, "Ann")):
        truth = np.array([key[name]["truth"] == "real" for name in order])
        assert 0.001 < binom.cdf((truth[1:] == truth[:-1]).sum(), 199, 0.5) < 0.999
        assert 0.001 < binom.cdf(truth[:100].sum(), 100, 0.5) < 0.999


def test_bad_input_is_told_in_clear_words(tmp_path, test):
    with pytest.raises(ValueError, match="18 different real scans, and n=19"):
        reading_analysis.prepare_test(scans(18, 32, 0), scans(40, 32, 1), tmp_path / "n", n=19)
    with pytest.raises(ValueError, match="1 different synthetic"):
        reading_analysis.prepare_test(
            scans(5, 32, 0), scans(1, 32, 1)[[0] * 5], tmp_path / "same", n=2
        )
    with pytest.raises(ValueError, match="0 different real"):
        reading_analysis.prepare_test([], scans(5, 32, 0), tmp_path / "none", n=2)
    with pytest.raises(ValueError, match="same picture"):
        reading_analysis.prepare_test(scans(5, 32, 0), scans(5, 32, 0), tmp_path / "copy", n=5)
    with pytest.raises(ValueError, match="CNV is none of the diagnoses"):
        make(tmp_path / "cnv", synthetic_labels="CNV", diagnoses=CLASSES)
    with pytest.raises(ValueError, match="2 for 18 scans"):
        make(tmp_path / "labels", real_labels=["DRUSEN", "NORMAL"])
    with pytest.raises(FileExistsError, match="open_test"):
        make(tmp_path, seed=5)
    with pytest.raises(FileNotFoundError, match="prepare_test first"):
        reading_analysis.open_test(tmp_path)
    assert reading_analysis.open_test(test.folder) == test


def test_lost_key_changed_scan_foreign_answers(tmp_path, test):
    test.key.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError, match="key of this test is missing"):
        reading_analysis.analyse(test)
    make(tmp_path)  # the same scans and seed write it anew
    assert test.key.read_bytes() == (tmp_path / "away").read_bytes()
    other = make(tmp_path / "other", seed=1)
    test.key.write_bytes(other.key.read_bytes())
    with pytest.raises(ValueError, match="key of another test"):
        reading_analysis.analyse(test)
    picture = test.folder / "images" / f"{test.images[0]}.jpg"
    picture.write_bytes(test.picture(test.images[1]))
    with pytest.raises(ValueError, match="changed"):
        test.picture(test.images[0])
    picture.unlink()
    with pytest.raises(FileNotFoundError, match="missing"):
        test.picture(test.images[0])
    make(tmp_path)
    reader = Reader(other, "Ann")
    reader.record(reader.left[0], "real", 3, "DRUSEN", 1.0)
    (test.folder / "readers").mkdir()
    (test.folder / "readers" / "ann.csv").write_bytes(reader.path.read_bytes())
    for attempt in (lambda: reading_analysis.analyse(test), lambda: Reader(test, "Ann")):
        with pytest.raises(ValueError, match="line 2: an answer of another test"):
            attempt()


def test_answers_are_on_disk_at_once_and_survive_a_broken_line(test):
    reader = Reader(test, "Ann-Marie O'Hara")
    first, second = reader.left[:2]
    for wrong in (("fake", 3, "DRUSEN"), ("real", 6, "DRUSEN"), ("real", 3, "GLAUCOMA")):
        with pytest.raises(ValueError, match="real or synthetic|1 to 5|none of DRUSEN"):
            reader.record(first, *wrong, 1.0)
    with pytest.raises(ValueError, match="asked about"):
        reader.record(second, "real", 3, "DRUSEN", 1.0)
    reader.record(first, "real", 3, "DRUSEN", 1.26)
    (row,) = read_answers(test, reader.path)  # still open
    assert tuple(row) == COLUMNS and (row["seconds"], row["kind"]) == ("1.3", "human")
    with pytest.raises(RuntimeError, match="right now"):
        Reader(test, " ann-marie  o'hara")
    reader.close()
    with reader.path.open("a") as file:
        file.write(f"{test.id},Ann-Mar")  # power cut
    again = Reader(test, "ANN-MARIE O'HARA")
    assert (again.name, len(again.rows), again.left[0]) == ("Ann-Marie O'Hara", 1, second)
    again.record(second, "synthetic", 1, "cannot tell", 2.0)
    assert [row["image"] for row in read_answers(test, again.path)] == [first, second]
    again.close()


@pytest.mark.slow
def test_a_name_is_held_against_other_processes(test):
    code = """
import sys
from helpers.evaluate.reading_test import Reader, open_test
reader = Reader(open_test(sys.argv[1]), "ann")
print("held", flush=True)
input()
"""
    command = [sys.executable, "-c", code, str(test.folder)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "held\n"
        kit = start(test, "Ann")
        assert "right now" in kit.message.value and kit.reader is None
        other.kill()
    kit.start.click()
    assert kit.reader.name == "Ann"  # whoever dies lets go
    kit.leave()


# --- the widget, driven from Python


def start(test, name):
    kit = reading_widget.ReadingTest(test)
    kit.name.value = name
    kit.start.click()
    return kit


def press(kit, keys):
    kit.typing.value += keys


def answer(kit, *values):
    for choice, value in zip(kit.choices, values):
        choice.value = value
    kit.next.click()


def test_buttons_and_keys_give_the_same_answers(test):
    kit = start(test, "Ann")
    order = list(kit.reader.left)
    assert kit.picture.value == test.picture(order[0]) and kit.next.disabled
    answer(kit, "synthetic", 4)  # no diagnosis yet
    assert not kit.reader.rows
    answer(kit, "synthetic", 4, "NORMAL")
    assert kit.picture.value == test.picture(order[1]) and kit.next.disabled
    assert [choice.value for choice in kit.choices] == [None] * 3
    press(kit, "r")
    press(kit, "S4")
    press(kit, "n")  # not yet
    assert len(kit.reader.rows) == 1 and not kit.next.disabled
    press(kit, " ")
    press(kit, "r1c\n s")  # several at once, an early space does nothing, the next scan begins
    assert kit.choices[0].value == "synthetic"
    kit.typing.value = kit.typing.value[:-3]  # deleting is no answer
    press(kit, "?7 ")
    assert len(kit.reader.rows) == 3
    rows = read_answers(test, kit.reader.path)
    given = [(row["answer"], row["confidence"], row["diagnosis"]) for row in rows]
    assert given == [("synthetic", "4", "NORMAL")] * 2 + [("real", "1", "cannot tell")]
    assert [row["image"] for row in rows] == order[:3]
    kit.leave()


def test_every_choice_has_a_key_of_its_own(tmp_path):
    test = make(tmp_path, diagnoses=["CNV", "DME", "DRUSEN", "NORMAL"])
    kit = reading_widget.ReadingTest(test)
    assert "".join(kit.letters) == "rs12345cduna"
    bare = reading_analysis.prepare_test(scans(3, 32, 0), scans(3, 32, 1), tmp_path / "bare", n=3)
    kit = start(bare, "Ann")
    assert len(kit.choices) == 2
    press(kit, "r5 s1 ")
    assert [row["diagnosis"] for row in kit.reader.rows] == ["", ""]
    kit.leave()


def test_pause_resume_finish_and_names(test):
    kit = start(test, "  ")
    assert "name" in kit.message.value and kit.reader is None
    kit = start(test, "Ann")
    press(kit, "r1n s2d ")
    left = list(kit.reader.left)
    kit.pause.click()
    assert kit.picture.value == b"" and "Paused" in kit.message.value
    press(kit, "r1n ")  # typed into nothing
    assert len(read_answers(test, test.reader_file("Ann"))) == 2

    other = start(test, "ANN")  # the second Ann is asked before she sees anything
    assert "Ann has answered 2 of 12" in other.message.value and other.picture.value == b""
    other.other.click()
    assert other.reader is None and other.name.value == ""

    kit = start(test, "Ann")
    kit.go_on.click()
    assert kit.reader.left == left and kit.progress.value == 2
    late = start(test, "Ann")  # the cell was run again in the same notebook
    assert kit.reader is None and "opened last" in kit.message.value
    late.go_on.click()
    press(late, "s3n " * 10)
    assert "all 12 scans are read" in late.message.value and late.picture.value == b""
    assert "has finished" in start(test, "Ann").message.value
    assert len(read_answers(test, test.reader_file("Ann"))) == 12


def test_widget_shows_nothing_but_the_picture(test):
    """The state of all widgets, apart from picture and progress, is the same for every scan."""
    kit = start(test, "Ann")

    def state(widget):
        own = {k: v for k, v in widget.get_state().items() if k != "children"}
        if widget in (kit.picture, kit.progress, kit.status):
            own.pop("value")
        return [str(own), *(s for child in getattr(widget, "children", ()) for s in state(child))]

    answer(kit, "real", 1, "DRUSEN")
    before = None
    for _ in range(11):
        kit.pause.click()
        kit.start.click()
        kit.go_on.click()
        shown, image = state(kit), kit.reader.left[0]
        assert before in (None, shown) and image not in str(shown) + kit.status.value
        before = shown
        answer(kit, "real", 1, "DRUSEN")


def test_a_scan_lost_or_a_full_disk_is_told(test, monkeypatch):
    kit = start(test, "Ann")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kit.reader, "record", full)
    press(kit, "r1n ")
    assert "Not saved" in kit.message.value and "No space" in kit.message.value
    monkeypatch.undo()
    (test.folder / "images" / f"{kit.reader.left[1]}.jpg").unlink()
    kit.next.click()
    assert "missing" in kit.message.value and kit.reader is None


# --- the analysis


def test_shares_and_signal_detection_are_their_definitions():
    # an exact interval is where the binomial tails hold 2.5 %
    found = reading_analysis.share(16, 20)
    assert binom.sf(15, 20, found["low"]) == pytest.approx(0.025, abs=1e-6)
    assert binom.cdf(16, 20, found["high"]) == pytest.approx(0.025, abs=1e-6)
    assert reading_analysis.share(0, 0)["value"] is None
    # hit rate 20.5 / 41 and false alarm rate 8 / 51, by a table of the normal distribution
    found = reading_analysis.signal_detection(20, 40, 7.5, 50)
    assert found["d_prime"]["value"] == pytest.approx(1.0074, abs=1e-3)
    assert found["criterion"] == pytest.approx(0.5037, abs=1e-3)
    perfect = reading_analysis.signal_detection(50, 50, 0, 50)["d_prime"]
    assert perfect["value"] == pytest.approx(4.6675, abs=1e-3)  # 2 z(50.5 / 51): finite
    assert 3 < perfect["low"] < 3.5
    assert reading_analysis.signal_detection(5, 10, 0, 0)["criterion"] is None


@pytest.mark.slow
def test_analysis_finds_the_skill_of_simulated_readers(large):
    seeds = range(40)
    for skill, accuracy in ((0, 0.5), (1, 0.691), (2, 0.841)):
        found = []
        for seed in seeds:
            report = reading_analysis.analyse(
                large, [reading_analysis.simulate_reader(large, skill, seed)]
            )
            found += report["readers"].values()
        inside = [r["d_prime"]["low"] <= skill <= r["d_prime"]["high"] for r in found]
        right = [r["accuracy"]["low"] <= accuracy <= r["accuracy"]["high"] for r in found]
        assert np.mean([r["accuracy"]["value"] for r in found]) == pytest.approx(accuracy, abs=0.02)
        assert np.mean([r["d_prime"]["value"] for r in found]) == pytest.approx(skill, abs=0.1)
        assert sum(inside) >= 35 and sum(right) >= 35  # of 40; 38 are expected
        assert np.mean([r["auroc"] for r in found]) == pytest.approx(
            [0.5, 0.76, 0.921][skill], abs=0.025
        )
    shifted = reading_analysis.simulate_reader(large, 1, 0, criterion=1)
    (found,) = reading_analysis.analyse(large, [shifted])["readers"].values()
    assert 0.7 < found["criterion"] < 1.3
    assert found["specificity"]["value"] > 0.85 > 0.5 > found["sensitivity"]["value"]


def test_diagnoses_partial_readings_and_kappa(large):
    sharp = reading_analysis.simulate_reader(large, 1, 0, diagnosis_skill=0.95)
    blunt = reading_analysis.simulate_reader(large, 1, 1, diagnosis_skill=0.55, answered=120)
    report = reading_analysis.analyse(large, [sharp, blunt])
    json.dumps(report, allow_nan=False)
    first, second = report["readers"].values()
    for kind in ("real", "synthetic"):
        assert first["diagnosis"][kind]["low"] > 0.8 > second["diagnosis"][kind]["high"]
        assert first["diagnosis"][kind]["kappa_with_label"] > 0.75
    assert (second["missing"], second["accuracy"]["n"]) == (80, 120)
    assert "stopped after 120 of 200" in second["notes"][0]
    (pair,) = report["kappa"]
    assert pair["scans"] == 120 and -0.1 < pair["diagnosis"] < 0.4
    twin = [row | {"reader": "twin"} for row in sharp]
    assert reading_analysis.analyse(large, [sharp, twin])["kappa"][0]["answer"] == 1


def test_report_never_takes_a_simulated_reader_for_a_human(test, capsys):
    report = reading_analysis.analyse(test)
    assert report["readers"] == {} and "not known" in report["warnings"][0]
    report = reading_analysis.analyse(test, [reading_analysis.simulate_reader(test, 1)])
    assert report["human_readers"] == 0 and "not known" in report["warnings"][0]
    kit = start(test, "Ann")
    press(kit, "r1n s5d ")
    kit.leave()
    report = reading_analysis.analyse(test.folder, [reading_analysis.simulate_reader(test, 1)])
    json.dumps(report, allow_nan=False)
    assert report["human_readers"] == 1 and report["readers"]["Ann"]["kind"] == "human"
    text = reading_analysis.print_analysis(report)
    assert text.count("[SIMULATED]") == 1 and "Ann: 2 scans" in text
    names = [
        t.get_text() for t in reading_analysis.accuracy_figure(report).axes[0].get_yticklabels()
    ]
    assert names[0] == "Ann, 2 scans" and names[1].startswith("simulated")
    assert any("Zheng" in name for name in names)


def test_of_two_files_of_a_reader_the_longer_counts_and_humans_agree_among_themselves(large):
    ann = [row | {"reader": "Ann", "kind": "human"}
           for row in reading_analysis.simulate_reader(large, 1, 0)]  # fmt: skip
    report = reading_analysis.analyse(large, [ann, ann[:30]])  # saved half-way, and at the end
    assert report["readers"]["Ann"]["answered"] == len(ann)
    assert not any("two files" in said for said in report["warnings"])
    turned = {"real": "synthetic", "synthetic": "real"}
    other = [row | {"reader": "ann ", "answer": turned[row["answer"]]} for row in ann[:50]]
    report = reading_analysis.analyse(large, [ann, other])
    assert report["readers"].keys() == {"Ann"}
    assert any("two files of Ann differ" in said for said in report["warnings"])
    bea = [row | {"reader": "Bea"} for row in ann]
    simulated = reading_analysis.simulate_reader(large, 0, 3)
    report = reading_analysis.analyse(large, [ann, bea, simulated])
    assert report["fleiss"]["readers"] == 2 and report["fleiss"]["answer"] == 1


def test_the_readers_file_holds_no_key(test):
    kit = start(test, "Ann")
    press(kit, "s1n " * 12)
    with test.reader_file("ann").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and {row["answer"] for row in rows} == {"synthetic"}
    truth = [entry["truth"] for entry in reading_analysis.read_key(test).values()]
    assert "truth" not in rows[0] and sorted(truth)[0] == "real"

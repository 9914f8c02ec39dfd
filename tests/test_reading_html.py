"""The reading test as a mailed file: it tells nothing, a browser reads it, answers come back."""

import base64
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from test_reading import scans

from helpers.evaluate import reading_analysis
from helpers.evaluate.reading_analysis import fleiss_kappa
from helpers.evaluate.reading_html import write_html
from helpers.evaluate.reading_test import FEATURES, open_test, prepare_test, read_mailed
from helpers.evaluate.report import complete
from helpers.evaluate.verdict import verdict
from helpers.measures.intervals import holm

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# what a reader would do, by buttons and keys, and the file that the page would save
READER = """<script>
const wait = () => new Promise(done => setTimeout(done, 20));
URL.createObjectURL = blob => {
  blob.text().then(text => { document.body.textContent = "SAVED" + text + "DONE"; });
  return "";
};
HTMLAnchorElement.prototype.click = () => {};
(async () => {
  at("name").value = "@NAME@"; at("go").click();
  const first = at("where").textContent;
  for (let i = 0; i < @COUNT@ && task; i++) {
    await wait();
    if (task.kind == "singles") for (const key of ["s", "4", "n"])
      document.dispatchEvent(new KeyboardEvent("keydown", {key}));
    else if (task.kind == "quartets") document.querySelectorAll("figure")[1].click();
    else for (const name in TEST.features)
      document.querySelector(`[data-name=${name}][data-value="4"]`).click();
    document.onkeydown(new KeyboardEvent("keydown", {key: "Enter", cancelable: true}));
  }
  document.title = first;
  if ("@SAVE@") at("save").click();
})();
</script>"""


@pytest.fixture
def test(tmp_path):
    labels = [("DRUSEN", "NORMAL")[i % 2] for i in range(30)]
    return prepare_test(
        scans(30, 32, 0), scans(30, 32, 1), tmp_path / "test", n=4, quartets=3, rated=2,
        real_labels=labels, synthetic_labels=labels,
    )  # fmt: skip


def test_quartets_are_other_scans_of_one_class_with_one_real_one_each(test):
    opened = json.loads(test.key.read_text())
    names = [name for four in test.quartets for name in four]
    assert len(set(names)) == 12 and not set(names) & set(test.images)
    assert all(sum(name == real for name in four) == 1
               for four, real in zip(test.quartets, opened["real_of_quartets"]))  # fmt: skip
    assert len(test.rated) == 4 and set(test.rated) <= set(test.images)
    truth = [opened["images"][name]["truth"] for name in test.rated]
    assert sorted(truth) == ["real", "real", "synthetic", "synthetic"]
    assert open_test(test.folder) == test
    with pytest.raises(ValueError, match="rates no more"):
        prepare_test(scans(9, 32, 0), scans(9, 32, 1), test.folder, n=2, rated=3)


def test_the_file_tells_nothing_and_asks_for_no_network(test):
    page = write_html(test, test.folder.with_suffix(".html")).read_text()
    content = json.loads(re.search(r"const TEST = (.*);\n", page)[1])
    assert set(content["pictures"]) == {*test.images, *(n for four in test.quartets for n in four)}
    assert list(content["pictures"]) == sorted(content["pictures"])
    pictures = [base64.b64decode(picture) for picture in content["pictures"].values()]
    assert len({(len(p), p[: p.index(b"\xff\xda")]) for p in pictures}) == 1
    assert "truth" not in page and "index" not in content and test.key.name not in page
    assert not re.search(r"https?:|src=\"(?!data:)|href=|fetch\(|XMLHttpRequest|import\(", page)
    # one real scan of four stands anywhere
    large = prepare_test(scans(70, 32, 2), scans(210, 32, 3), test.folder.with_name("large"), n=2,
                         quartets=60)  # fmt: skip
    real = json.loads(large.key.read_text())["real_of_quartets"]
    places = np.bincount([four.index(name) for four, name in zip(large.quartets, real)])
    assert len(places) == 4 and places.min() >= 6


def answers(test, name, *, skill=1.0, ratings=(5, 5), seed=0):
    """What a reader of that skill mails back: `ratings` of real and of synthetic scans."""
    rng = np.random.default_rng(seed)
    key = json.loads(test.key.read_text())
    truth = {image: entry["truth"] for image, entry in key["images"].items()}
    about = {"seconds": 2, "time": "2026-01-01T00:00:00Z"}

    def said(right, others):
        return right if rng.random() < skill else str(rng.choice(others))

    found = {
        "schema": 1, "test": test.id, "reader": name, "kind": "human",
        "singles": [{"image": image, "answer": said(truth[image], ["real", "synthetic"]),
                     "confidence": "4", "diagnosis": "NORMAL", "position": i, **about}
                    for i, image in enumerate(test.images)],
        "quartets": [{"quartet": i, "image": said(key["real_of_quartets"][i], four),
                      "position": i, **about} for i, four in enumerate(test.quartets)],
        "ratings": [{"image": image, **about, "position": 1,
                     **dict.fromkeys(FEATURES, str(ratings[truth[image] == "synthetic"]))}
                    for image in test.rated],
    }  # fmt: skip
    path = test.folder / "readers" / f"reading-{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found))
    return path


def test_what_comes_back_is_read_and_what_is_foreign_refused(test, tmp_path):
    path = answers(test, "Ann")
    assert len(read_mailed(test, path)["singles"]) == 8
    for damage in (lambda t: t[:50], lambda t: t.replace(test.id, "other"),
                   lambda t: t.replace('"shape": "5"', '"shape": "9"'),
                   lambda t: t.replace(test.quartets[1][0], "0" * 12).replace(
                       test.quartets[1][1], "0" * 12).replace(test.quartets[1][2], "0" * 12)
                   .replace(test.quartets[1][3], "0" * 12)):  # fmt: skip
        whole = path.read_text()
        path.write_text(damage(whole))
        with pytest.raises(ValueError, match="damaged|another test"):
            reading_analysis.analyse(test)
        path.write_text(whole)


def test_a_skilled_reader_and_a_poor_drawing_show_and_guessing_does_not(tmp_path, capsys):
    test = prepare_test(scans(60, 32, 0), scans(120, 32, 1), tmp_path / "test", n=20, quartets=30,
                        rated=12, diagnoses=["NORMAL"])  # fmt: skip
    answers(test, "Ann", ratings=(5, 2))
    answers(test, "Bob", skill=0.9, ratings=(4, 2), seed=1)
    answers(test, "Guess", skill=0, ratings=(4, 3), seed=2)
    report = reading_analysis.analyse(test)
    json.dumps(report, allow_nan=False)
    ann, guess = (report["readers"][name]["quartets"] for name in ("Ann", "Guess"))
    assert ann["value"] == 1 and ann["p_guessing"] < 1e-9 and ann["n"] == 30
    assert guess["low"] < 0.25 < guess["high"] and guess["p_guessing"] > 0.05
    assert report["fleiss"]["readers"] == 3 and 0 < report["fleiss"]["answer"] < 0.7
    assert report["fleiss"]["diagnosis"] is None  # everyone says NORMAL
    for row in report["ratings"].values():
        assert row["real"] == 4 and row["synthetic"] == 2 and row["p_value"] < row["p_holm"] < 0.01
    text = reading_analysis.print_analysis(report)
    assert "real one of four found" in text and "Fleiss' kappa of 3 readers, 40 scans" in text
    line = next(x for x in verdict(complete({"reading": report})) if "reader" in x["question"])
    assert "of four found 1.00" in line["measured"] and "0.25" in line["beside"]
    for path in (test.folder / "readers").iterdir():
        path.unlink()
    answers(test, "Even", ratings=(4, 4))
    assert all(row["p_holm"] == 1 for row in reading_analysis.analyse(test)["ratings"].values())


def test_kappa_and_holm_are_those_of_their_papers():
    # ten subjects, fourteen raters, five categories, worked by hand: 0.210
    counts = ["", "02642", "00356", "03920", "22811", "77000", "32630", "25322", "65210"]
    counts = [[0, 0, 0, 0, 14], *([int(c) for c in row] for row in counts[1:]), [0, 2, 2, 3, 7]]
    rows = [[k for k, n in enumerate(row) for _ in range(n)] for row in counts]
    assert fleiss_kappa(rows) == pytest.approx(0.210, abs=0.0005)
    assert fleiss_kappa([["a", "a"], ["b", "b"]]) == 1
    assert fleiss_kappa([["a", "a"]]) is None and fleiss_kappa([]) is None
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1, 1]


def browse(page, profile, name, count, save):
    """Open the page in Chromium and let READER read; what it shows in the end."""
    script = READER.replace("@NAME@", name).replace("@COUNT@", str(count))
    script = script.replace("@SAVE@", "yes" if save else "")
    read = page.with_name("read.html")
    read.write_text(page.read_text().replace("</html>", script + "</html>"))
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--dump-dom",
        "--virtual-time-budget=20000",
        f"--user-data-dir={profile}",
        read.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; CHROMIUM=/path/to/it names one")
def test_a_browser_reads_it_goes_on_after_a_reload_and_hands_back_the_answers(test, tmp_path):
    page = write_html(test, tmp_path / "test.html")
    for _ in range(5):  # Chromium that is closed at once on a busy machine may keep nothing
        assert "<title>1 of 15</title>" in browse(page, tmp_path / "profile", "Ann", 9, False)
        if "<title>10 of 15</title>" in browse(page, tmp_path / "profile", "ann", 0, False):
            break
    shown = browse(page, tmp_path / "profile", "ANN ", 99, True)
    assert "<title>10 of 15</title>" in shown  # nine answers were kept
    path = test.folder / "readers" / "reading-ann.json"
    path.parent.mkdir()
    path.write_text(re.search(r"SAVED(.*)DONE", shown, re.S)[1])
    found = read_mailed(test, path)
    assert [len(found[kind]) for kind in ("singles", "quartets", "ratings")] == [8, 3, 4]
    order = [answer["position"] for kind in ("singles", "quartets", "ratings")
             for answer in found[kind]]  # fmt: skip
    assert [int(position) for position in order] == list(range(1, 16))
    given = {(row["answer"], row["confidence"], row["diagnosis"]) for row in found["singles"]}
    assert given == {("synthetic", "4", "NORMAL")}
    assert [row["image"] for row in found["singles"]] != sorted(test.images)  # an own order
    reader = reading_analysis.analyse(test)["readers"]["ANN"]
    assert reader["missing"] == 0 and reader["quartets"]["n"] == 3
    other = browse(page, tmp_path / "profile", "Bob", 0, False)
    assert "<title>1 of 15</title>" in other  # another reader begins anew

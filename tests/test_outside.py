"""An outside clinic in the report: real beside synthetic, on scans that neither has met."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.data.simulated.simulate import make_eye
from helpers.evaluate import parts
from helpers.evaluate.outside import QUESTION, judge_outside, measure_outside
from helpers.evaluate.sides import read_sides
from helpers.evaluate.verdict import verdict
from helpers.measures.features import Features


class Pixels(Features):
    """Stands in for the network: 16 x 16 mean grey levels."""

    def __init__(self, device="cpu", cache=None, name=None):
        self.device, self.batch_size, self.cache = torch.device("cpu"), 64, None

    def _batch(self, images):
        small = torch.cat([self.resize(image[None], 16) for image in images]).mean(1)
        return small.flatten(1).repeat(1, self.dimension // 256).numpy()


def lay(folder, label, first, count, patients=None, ill=None):
    """Scans of a label; who is ill has a retina that lies so high that nobody can miss it."""
    for k in range(count):
        scan = make_eye(first + k, "NORMAL", size=64, pictures=("oct",)).oct
        place = folder / label / (f"p{first}{k % patients}" if patients else "")
        place.mkdir(parents=True, exist_ok=True)
        ill = label != "NORMAL" if ill is None else ill
        Image.fromarray(np.roll(scan, -14 * ill, 0)).save(place / f"scan_{first + k}.png")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    where = tmp_path_factory.mktemp("clinics")
    for number, label in enumerate(("AMD", "NORMAL")):
        lay(where / "real", label, 100 + 500 * number, 16, patients=8)
        lay(where / "made", label, 200 + 500 * number, 12)
        lay(where / "swapped", label, 300 + 500 * number, 12, ill=label == "NORMAL")
        lay(where / "else", ("DRUSEN", "NORMAL")[number], 400 + 500 * number, 12, patients=6)
    lay(where / "one", "NORMAL", 450, 6, patients=3)
    return where


@pytest.mark.slow
def test_the_report_shows_real_and_synthetic_side_by_side(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "Features", Pixels)
    parts.main([f"--{name}={folders / place}" for name, place in (
        ("real", "real"), ("synthetic", "made"), ("outside", "else"), ("out", "out"))]
        + ["--class=AMD", "--classifier=off"])  # fmt: skip
    found = json.loads((folders / "out" / "report.json").read_text())
    assert (found["outside"]["class"], found["outside"]["patients"]) == ("DRUSEN", 12)
    (line,) = (line for line in verdict(found) if line["question"] == QUESTION)
    assert line["answer"].startswith("yes") and line["criterion"] == "consistency"
    page = (folders / "out" / "report.html").read_text()
    assert QUESTION in page and "AUROC in another clinic: 24 scans of 12 patients" in page
    del found["outside"]  # as of who has no other clinic
    assert QUESTION not in str(verdict(found))


def test_who_learned_what_is_asked_in_the_other_clinic(folders, tmp_path):
    found = {}
    for name in ("made", "swapped"):
        sides = read_sides(folders / "real", folders / name, class_="AMD", size=64,
                           cache=tmp_path, progress=False)  # fmt: skip
        found[name] = measure_outside(sides, folders / "else", Pixels(), progress=False)
    good, bad = found["made"], found["swapped"]
    inside = {"real, in components", "synthetic, in components"}
    assert set(good["arms"]) == {"real", "synthetic", "both", *inside} and good["scans"] == 24
    assert set(good["minus_real"]) == {*good["arms"]} - {"real"}
    assert good["auroc"]["value"] > 0.8 and bad["auroc"]["value"] < 0.2
    for name in inside:  # what sets the ill apart is what varies most in this clinic
        assert good["arms"][name]["value"] > 0.8
    assert bad["arms"]["synthetic, in components"]["value"] < 0.2
    assert bad["arms"]["real"] == good["arms"]["real"]
    assert "chance" in judge_outside(bad)["answer"]
    none = measure_outside(sides, folders / "one", Pixels(), progress=False)
    assert none["auroc"] is None and "one has NORMAL" in none["reason"]
    assert judge_outside(none)["answer"] == "not measured"
    with pytest.raises(OSError, match="nowhere"):
        measure_outside(sides, folders / "nowhere", Pixels(), progress=False)


def test_few_patients_are_uncertain_whatever_the_number():
    value = {"value": 0.99, "low": 0.98, "high": 1.0}
    part = {"auroc": value, "arms": dict.fromkeys(("real", "both"), value), "patients": 4,
            "minus_real": {"synthetic": {"value": 0.0, "low": 0.0, "high": 0.0}}}  # fmt: skip
    assert "too few" in judge_outside(part)["answer"]
    assert "as well" in judge_outside({**part, "patients": 40})["answer"]

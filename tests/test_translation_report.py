"""The report on a translator: a perfect one reaches the ceilings, a blind one the controls."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.methods import Thumbnails

from helpers import config
from helpers.data.split import Labelled
from helpers.data.two_modalities import prepare_domains, truths_of
from helpers.measures.features import Features
from helpers.measures.layers import read_all
from helpers.translation.figures import in_place, scores_over_time, survival, translated
from helpers.translation.networks import Translator
from helpers.translation.report import (
    four_way,
    measure_translation,
    pictures,
    print_four_way,
    print_table,
    read_by_others,
    table,
)

pytestmark = pytest.mark.slow


class Oracle(torch.nn.Module):
    """Knows the true scan of every photograph of a split; ``blind``: draws one and the same."""

    def __init__(self, domains, blind=False):
        super().__init__()
        self.one = torch.nn.Parameter(torch.zeros(1))  # says on which device it is
        self.generators, self.blind = {"oct": None}, blind
        self.photographs = pictures(domains.dfe.test).images
        self.scans = pictures(domains.oct.test).images

    def forward(self, images, to):
        away = torch.cdist(images.flatten(1), self.photographs.flatten(1))
        return self.scans[away.argmin(1) * (not self.blind)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OCT_RUNS", str(folder))
        given = ["--size=64", f"--runs={folder}", "--n-simulated=30"]
        yield config.resolve(config.TrainPix2pix, given, {})


@pytest.fixture(scope="module")
def domains(settings):
    return prepare_domains(settings, paired=True, progress=False)


@pytest.fixture(scope="module")
def reports(domains, settings, tmp_path_factory):
    reader = Features(cache=tmp_path_factory.mktemp("features"))  # true scans are read twice
    return {
        name: measure_translation(Oracle(domains, blind), domains, settings, Thumbnails(), reader)
        for name, blind in (("perfect", False), ("blind", True))
    }


def test_a_perfect_translator_reaches_the_ceilings(reports):
    report = reports["perfect"]
    assert abs(report["realism"]["value"]) < 1e-3  # no scan beside its own picture
    assert report["realism"]["low"] <= 1e-3 and report["realism"]["high"] >= -1e-3
    assert report["class"]["translated"] == report["class"]["true_oct"]
    assert (
        report["class"]["translated"]["value"]
        > 0.8
        > 0.65
        > report["class"]["translated"]["shuffled"]
    )
    own, dealt, ruler = (report["lesions"][k] for k in ("translated", "shuffled", "ruler"))
    assert own["detected"]["value"] == pytest.approx(ruler["detected"]["value"], abs=0.05)
    assert own["detected"]["value"] > dealt["detected"]["value"] + 0.1
    assert own["likeness"]["value"] > 0.3 > dealt["likeness"]["value"]
    assert report["pairs"]["translated"]["ssim"] == pytest.approx(1)
    assert report["pairs"]["mean_scan"]["ssim"] > report["pairs"]["other_eyes"]["ssim"]
    assert report["cycle"] is None


def test_a_blind_translator_is_no_better_than_its_control(reports):
    report = reports["blind"]
    assert 0.35 < report["class"]["translated"]["value"] < 0.65
    own, dealt = (report["lesions"][k] for k in ("translated", "shuffled"))
    for name in ("detected", "false", "thickness_um"):
        assert own[name]["value"] == pytest.approx(dealt[name]["value"], abs=1e-6)
    assert report["lesions"]["gain"]["detected"]["value"] == pytest.approx(0)


def test_a_report_is_json_and_a_table(reports, capsys):
    for report in reports.values():
        json.dumps(report, allow_nan=False)
        print_table(report)
    assert capsys.readouterr().out.count("drusen found in their place") == 2
    assert all(len(row) == 4 for row in table(reports["blind"]))


def test_turned_eyes_are_turned_back_before_they_meet_the_truth(settings, reports):
    turned = replace(settings, orient=True)
    domains = prepare_domains(turned, paired=True, progress=False)
    assert domains.oriented
    report = measure_translation(Oracle(domains), domains, turned, Thumbnails(), Thumbnails())
    for name in ("detected", "false"):
        found = report["lesions"]["translated"][name]["value"]
        asked = reports["perfect"]["lesions"]["translated"][name]["value"]
        assert found == pytest.approx(asked, abs=0.1)


def test_both_ways_are_measured(domains, settings):
    torch.manual_seed(0)
    both = Translator("column", ["oct", "dfe"], 64, width=4)
    report = measure_translation(both, domains, settings, Thumbnails(), Thumbnails())
    assert report["cycle"]["honest"] > 0 and report["back"]["value"] > report["back"]["floor"]
    assert "error of the cycle" in str(table(report))


def test_no_reader_has_seen_the_patient_it_reads():
    """The class is written into each patient's own pixel: who has not seen the patient is blind."""
    labels = np.array(["NORMAL", "DRUSEN"] * 20)
    images = torch.full((40, 1, 40, 1), -1.0)
    images[range(40), 0, range(40), 0] = torch.where(torch.tensor(labels == "DRUSEN"), 1.0, 0.0)
    part = Labelled(images, labels, np.array([f"p{i}" for i in range(40)]))
    (found,) = read_by_others(part, [part], ["NORMAL", "DRUSEN"], lambda x: x.flatten(1).numpy())
    sick = labels == "DRUSEN"
    assert np.abs(found[sick, 1].mean() - found[~sick, 1].mean()) < 0.2
    assert np.allclose(found.sum(1), 1)
    with pytest.raises(ValueError, match="too few patients of DRUSEN"):
        few = Labelled(images[[0, 1, 2]], labels[[0, 1, 2]], part.patients[[0, 1, 2]])
        read_by_others(few, [few], ["NORMAL", "DRUSEN"], lambda x: x.flatten(1).numpy())


def eyes_with_features(adds: bool, count=240):
    """Photographs that tell half of what a class is; translated scans that tell the other half, or
    repeat what the photographs say; true scans that tell all. Two eyes a patient."""
    rng = np.random.default_rng(3)
    sick = np.repeat(np.arange(count // 2) % 2, 2)
    signal = 2.0 * (sick - 0.5)[:, None]
    photograph, other = (signal + rng.normal(0, 1.5, (count, 1)) for _ in range(2))
    noise = [rng.normal(size=(count, 5)) for _ in range(3)]
    told = (photograph, other if adds else photograph, np.hstack([photograph, other]))
    rows = [np.hstack(pair).astype(np.float32) for pair in zip(told, noise)]
    labels = np.array(["NORMAL", "DRUSEN"])[sick]
    return labels, *rows, ["NORMAL", "DRUSEN"], np.repeat(np.arange(count // 2), 2).astype(str)


@pytest.mark.parametrize("adds", [True, False])
def test_four_ways_show_what_a_translated_scan_adds(adds, capsys):
    found = four_way(*eyes_with_features(adds), resamples=300)
    gain = found["gain"]
    assert 0.65 < found["photograph"]["value"] < 0.9 < found["ceiling"]["value"] + 0.05
    assert (gain["together"]["low"] > 0.02) == adds
    assert gain["ceiling"]["low"] > 0.02 and abs(gain["shuffled"]["value"]) < 0.03
    if not adds:
        assert abs(gain["together"]["value"]) < 0.03
    print_four_way(found)
    assert capsys.readouterr().out.count("(") == 6 + 5


def test_four_ways_score_only_those_who_are_asked_for():
    labels, *rows, classes, patients = eyes_with_features(True, 120)
    tested = np.arange(120) >= 60
    turned = np.where(tested, labels, labels[::-1])  # others teach: of wrong labels nothing right
    found = four_way(turned, *rows, classes, patients, tested=tested, resamples=50)
    blocks = np.repeat(["a", "b", "c"], 40)
    right = four_way(labels, *rows, classes, patients, tested=tested, drawn=blocks, resamples=50)
    assert found["true"]["value"] < right["true"]["value"]
    assert right["true"]["resamples"] == 50 and right["true"]["low"] is not None


def test_figures(domains, settings, reports, tmp_path):
    test = pictures(domains.dfe.test)
    sick = np.flatnonzero(test.labels == "DRUSEN")[:3]
    true = pictures(domains.oct.test).images[sick]
    truths, um = truths_of([domains.dfe.test.scans[i] for i in sick], 64, settings.framing)
    log = [{"step": 1, "images": 4, "loss_oct": 1.0},
           {"step": 2, "images": 8, "loss_oct": 0.5, "kernel_distance": 90.0, "class_auroc": 0.7,
            "rpe_concordance": 0.3},
           {"step": 2, "images": 8, "score": 210.0}]  # fmt: skip
    for name, figure in {
        "rows": translated(test.images[sick], true, true, titles=test.labels[sick]),
        "survival": survival(reports["perfect"]),
        "places": in_place(true, truths, read_all(true), um),
        "time": scores_over_time(log),
    }.items():
        figure.savefig(tmp_path / name)
        drawn = [axes for axes in figure.axes if axes.images or axes.lines or axes.patches]
        assert len(drawn) == len(figure.axes) >= 2, name

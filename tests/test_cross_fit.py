"""Cross-fitting: each patient is tested once; what is said follows from pairs within a fold."""

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score
from support.methods import Thumbnails

from helpers.data.scan import Scan
from helpers.data.simulated.simulate import make_eye
from helpers.data.sources import take_in
from helpers.data.split import Labelled, split_patients
from helpers.evaluate import cross_fit
from helpers.evaluate.cross_fit import auroc_within_folds, deal_patients, summarise
from helpers.measures.usefulness import centred


def scans_of(**patients):
    return [Scan(f"{label}/{name}/{i}.png", "oct", "x", label, name)
            for label, names in patients.items() for name in names for i in range(2)]  # fmt: skip


def test_each_class_is_dealt_evenly_and_a_patient_of_two_stays_in_one_fold():
    ill, well = [f"d{i}" for i in range(7)], [f"n{i}" for i in range(11)]
    scans = scans_of(DRUSEN=ill, NORMAL=[*well, "d0"])
    fold = deal_patients(scans, 3)
    assert set(fold) == {*ill, *well}
    for names in (ill, [*well, "d0"]):
        counts = np.bincount([fold[name] for name in names], minlength=3)
        assert counts.max() - counts.min() <= 1
    assert fold == deal_patients(scans[::-1], 3) != deal_patients(scans, 3, seed=1)
    with pytest.raises(ValueError, match=r"DRUSEN: 7 patient\(s\) for 8 folds"):
        deal_patients(scans, 8)


def test_an_area_within_one_fold_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    positive, scores = random.random(80) < 0.4, random.normal(size=80).round(1)
    weights = random.integers(0, 3, (5, 80)).astype(float)
    found = auroc_within_folds(positive, scores, np.zeros(80), weights)
    for row, area in zip(weights, found):
        assert area == pytest.approx(roc_auc_score(positive, scores, sample_weight=row))


def test_scales_of_folds_do_not_matter():
    random = np.random.default_rng(1)
    folds, positive = np.repeat([0, 1], 50), random.random(100) < 0.5
    scores = positive + random.normal(size=100)
    one = np.ones((1, 100))
    moved = np.where(folds == 0, scores, 40 * scores + 1000)
    assert auroc_within_folds(positive, scores, folds, one) == pytest.approx(
        auroc_within_folds(positive, moved, folds, one)
    )


def test_a_worse_arm_is_told_apart_and_as_many_patients_as_needed_are_named():
    random = np.random.default_rng(2)
    patients = np.repeat(np.arange(120), 5)
    positive = patients % 2 == 0
    real = positive + random.normal(size=600)
    scores = {
        "real": real,
        "synthetic": real + 2 * random.normal(size=600),
        "same": real.copy(),
        "both": real + 0.1 * positive,
    }
    found = summarise(positive, scores, patients % 3, patients.astype(str))
    assert found["minus real"]["synthetic"]["high"] < 0
    assert found["minus real"]["same"] == {"value": 0, "low": 0, "high": 0, "resamples": 2000}
    assert (
        found["added"] == {"real": found["minus real"]["both"]}
        and found["added"]["real"]["low"] > 0
    )
    assert found["needed"]["same"] == 0 and found["patients"] == 120
    low, high = (found["minus real"]["synthetic"][side] for side in ("low", "high"))
    spread = (high - low) / 3.92
    assert found["needed"]["synthetic"] == pytest.approx(120 * (2.8 * spread / 0.02) ** 2, rel=0.1)


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eyes")
    for label in ("NORMAL", "DRUSEN"):
        for patient in range(6):
            place = folder / label / f"p{label[0]}{patient}"
            place.mkdir(parents=True)
            for eye in ("OD", "OS"):
                seed = patient + 100 * (label == "DRUSEN")
                scan = make_eye(seed, label, size=128, eye=eye, pictures=("oct",)).oct
                Image.fromarray(scan).save(place / f"{eye}.png")
    return folder


@pytest.mark.slow
def test_what_a_generator_does_to_a_class_is_not_learned_in_components():
    """Patients differ in forty things, the ill in one of them; those that a generator drew bear its
    trace besides, where patients hardly differ."""
    random = np.random.default_rng(3)
    things = random.normal(size=(40, 120)) / (1 + np.arange(40) / 5)[:, None]
    trace = random.normal(size=120)
    trace -= things.T @ np.linalg.lstsq(things.T, trace, rcond=None)[0]

    def scans(n, traces):
        ill = np.arange(n) % 2 == 0
        inner = random.normal(size=(n, 40))
        inner[:, 3] += 1.5 * ill
        own = 0.2 * random.normal(size=n) + np.where(ill, traces, -traces)
        seen = inner @ things + own[:, None] * trace + 0.3 * random.normal(size=(n, 120))
        return seen.astype(np.float32), ill

    (made, of), (own, _), (asked, positive) = scans(200, 0.3), scans(200, 0.0), scans(300, 0.0)
    train = Labelled(centred(made), np.where(of, "DRUSEN", "NORMAL"), np.arange(200).astype(str))
    asked = centred(asked, own)
    plain = cross_fit.learn_and_ask(train, asked, "DRUSEN")
    inside = cross_fit.learn_in_components(train, centred(own), asked, "DRUSEN")
    assert roc_auc_score(positive, inside) > roc_auc_score(positive, plain) + 0.05
    few = cross_fit.learn_in_components(train, centred(own)[:3], asked, "DRUSEN")  # three scans
    assert np.isfinite(few).all()


def test_every_patient_is_tested_once_and_the_same_command_trains_nothing_again(
    eyes, tmp_path, monkeypatch, capsys
):
    for name, value in dict(PRESET="tiny", STEPS="2", WIDTH="4", BATCH_SIZE="4").items():
        monkeypatch.setenv(f"OCT_{name}", value)
    how = dict(folds=2, minutes=5, size=64, n=8, features=Thumbnails(), progress=False)
    report = cross_fit.cross_fit(eyes, tmp_path / "out", **how)
    assert (report["scans"], report["patients"]) == (24, 12)
    assert "12 patients in 2 folds; training takes 2 x 5 = 10 minutes" in capsys.readouterr().out
    arms = {"synthetic", "synthetic, centred", "synthetic, in components", "real", "both"}
    assert arms < set(report["arms"])
    assert 0 <= report["arms"]["real"]["value"] <= 1
    table = (tmp_path / "out" / "cross-fit.md").read_text()
    assert "| synthetic | " in table and "patients would be needed" in table
    weights = tmp_path / "out" / "fold-1" / "generator.safetensors"
    before = weights.stat().st_mtime_ns
    assert cross_fit.cross_fit(eyes, tmp_path / "out", **how)["arms"] == report["arms"]
    assert weights.stat().st_mtime_ns == before
    tested = [line for k in range(2) for line in (tmp_path / "out" / f"fold-{k}.csv").read_text()
              .splitlines() if ",test," in line]  # fmt: skip
    assert len(tested) == len({line.split(",")[0] for line in tested}) == 24


def test_frames_beside_tested_ones_teach_nothing(tmp_path):
    """Of stand-ins: a volume of 31 frames has two numbers in its names, its own and the frame's."""
    for volume in range(10):
        for frame in range(31):
            place = tmp_path / "eyes" / "DRUSEN" / f"v{volume}_{frame:03}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
    scans = take_in(tmp_path / "eyes").scans
    assert all("block" in scan.patient for scan in scans)
    fold = cross_fit.deal_patients(scans, 2, 0)
    places = {scan.path: place for place, scan in enumerate(scans)}
    for number in range(2):
        cross_fit.write_fold(tmp_path / "fold.csv", scans, fold, number)
        sides = split_patients(take_in(tmp_path / "fold.csv").scans)
        at = {places[scan.path]: side for side, those in sides.items() for scan in those}
        assert len(at) > 200
        assert all(at.get(place + 1, side) == side for place, side in at.items())


def test_what_cannot_be_crossed_is_named(eyes, tmp_path):
    with pytest.raises(ValueError, match="has no class DME. It has DRUSEN, NORMAL"):
        cross_fit.cross_fit(eyes, tmp_path, class_="DME")
    with pytest.raises(SystemExit):
        cross_fit.main([str(tmp_path / "nothing"), "--out", str(tmp_path)])

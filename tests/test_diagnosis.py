"""Scores of several findings: against scikit-learn, by hand, and where they are not defined."""

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    cohen_kappa_score,
    f1_score,
    roc_auc_score,
)

from helpers.distillation.world import complementarity
from helpers.measures.diagnosis import (
    average_precision,
    diagnosis,
    difference,
    pooled,
    with_prevalence,
)

CLASSES = ["NORMAL", "AMD", "DME"]


def made(count=300, skill=1.0, seed=0, digits=2):
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, count, p=[0.6, 0.1, 0.3])
    logits = rng.normal(0, 1, (count, 3)) + skill * np.eye(3)[labels]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return labels, p.round(digits) if digits else p  # rounded: there are ties


def test_scores_are_those_of_scikit_learn():
    labels, p = made()
    report = diagnosis(labels, p, CLASSES, resamples=2)
    truth, said = np.eye(3)[labels], p.argmax(1)
    precisions = [average_precision_score(truth[:, k], p[:, k]) for k in range(3)]
    assert report["map"]["value"] == pytest.approx(np.mean(precisions))
    assert report["classes"]["AMD"]["map"]["value"] == pytest.approx(precisions[1])
    aurocs = [roc_auc_score(truth[:, k], p[:, k]) for k in range(3)]
    assert report["auroc"]["value"] == pytest.approx(np.mean(aurocs))
    assert report["f1"]["value"] == pytest.approx(f1_score(labels, said, average="macro"))
    assert report["kappa"]["value"] == pytest.approx(cohen_kappa_score(labels, said))


def test_weights_count_like_copies():
    labels, p = made(60)
    weights = np.random.default_rng(1).integers(0, 4, 60)
    copied = average_precision_score(np.repeat(labels == 1, weights), np.repeat(p[:, 1], weights))
    found = average_precision(labels == 1, p[:, 1], weights[None].astype(float))
    assert found[0] == pytest.approx(copied)


def test_multilabel_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 3)) < [0.5, 0.2, 0.1]).astype(float)
    p = (0.4 * labels + 0.6 * rng.random((200, 3))).round(2)
    report = diagnosis(labels, p, CLASSES, multilabel=True, thresholds=np.array([0.5, 0.6, 0.4]),
                       resamples=2)  # fmt: skip
    said = p >= [0.5, 0.6, 0.4]
    assert report["map"]["value"] == pytest.approx(average_precision_score(labels, p))
    assert report["f1"]["value"] == pytest.approx(f1_score(labels, said, average="macro"))
    kappas = [cohen_kappa_score(labels[:, k], said[:, k]) for k in range(3)]
    assert report["kappa"]["value"] == pytest.approx(np.mean(kappas))


def test_calibration_error_of_the_calibrated_is_small_and_of_the_sure_is_their_error():
    labels, p = made(20_000, digits=0)
    logits = np.log(p)
    # the posterior of the world that `made` draws from
    honest = np.exp(logits + np.log([0.6, 0.1, 0.3]))
    honest /= honest.sum(1, keepdims=True)
    assert diagnosis(labels, honest, CLASSES, resamples=2)["calibration_error"]["value"] < 0.02
    sure = np.eye(3)[p.argmax(1)]
    wrong = (p.argmax(1) != labels).mean()
    found = diagnosis(labels, sure, CLASSES, resamples=2)["calibration_error"]["value"]
    assert found == pytest.approx(wrong)


def test_prevalence_is_put_back():
    found = with_prevalence(np.array([[0.5, 0.5], [0.2, 0.8]]), [0.9, 0.1])
    np.testing.assert_allclose(found, [[0.9, 0.1], [0.18 / 0.26, 0.08 / 0.26]])


def test_a_paired_interval_is_narrower_than_that_of_either_and_finds_a_small_gain():
    labels, p = made(600, 1.0)
    better = p + 0.08 * np.eye(3)[labels]
    patients = np.arange(600) // 2
    found = difference(labels, better, p, CLASSES, patients)
    gain = found["map"]
    alone = diagnosis(labels, p, CLASSES, patients)["map"]
    assert 0 < gain["low"] < gain["value"] < gain["high"]
    assert gain["high"] - gain["low"] < 0.7 * (alone["high"] - alone["low"])
    nothing = difference(labels, p, p, CLASSES, patients)["map"]
    assert nothing["value"] == nothing["low"] == nothing["high"] == 0
    values = [found[f"map {c}"]["value"] for c in CLASSES]
    assert found["map DME"]["low"] > 0 and np.mean(values) == pytest.approx(gain["value"])


def test_seeds_are_averaged_and_do_not_narrow_the_interval():
    labels, p = made(200)
    other = (p + np.random.default_rng(9).random(p.shape)) / 2
    apart = [diagnosis(labels, one, CLASSES)["map"] for one in (p, other)]
    both = diagnosis(labels, np.stack([p, other]), CLASSES)["map"]
    assert both["value"] == pytest.approx(np.mean([one["value"] for one in apart]))
    assert both["high"] - both["low"] > 0.8 * min(one["high"] - one["low"] for one in apart)


def test_a_class_without_cases_counts_nowhere():
    labels, p = made(100)
    p, labels = p[labels != 1], labels[labels != 1]
    report = diagnosis(labels, p, CLASSES, resamples=20)
    assert report["classes"]["AMD"]["map"]["value"] is None
    truth = np.eye(3)[labels]
    wanted = np.mean([average_precision_score(truth[:, k], p[:, k]) for k in (0, 2)])
    assert report["map"]["value"] == pytest.approx(wanted)
    wanted = f1_score(labels, p.argmax(1), average=None, labels=[0, 1, 2])[[0, 2]].mean()
    assert report["f1"]["value"] == pytest.approx(wanted)
    everyone = np.ones((40, 1))
    report = diagnosis(everyone, np.linspace(0, 1, 40)[:, None], ["A"], multilabel=True)
    assert report["map"]["value"] is None and report["kappa"]["value"] is None


def test_a_class_of_one_patient_has_no_interval():
    labels, p = made(60)
    patients = np.arange(60).astype(str)
    patients[labels == 1] = "the only one"
    report = diagnosis(labels, p, CLASSES, patients)
    assert report["classes"]["AMD"]["map"]["low"] is None and report["map"]["low"] is None
    assert report["classes"]["DME"]["map"]["low"] is not None
    gain = difference(labels, p, p**2, CLASSES, patients)
    assert gain["map AMD"]["low"] is None and gain["map DME"]["low"] is not None


def test_decisions_may_come_from_other_probabilities():
    labels, p = made()
    report = diagnosis(labels, p, CLASSES, said=with_prevalence(p, [0.98, 0.01, 0.01]))
    assert report["map"] == diagnosis(labels, p, CLASSES)["map"]
    assert report["f1"]["value"] < diagnosis(labels, p, CLASSES)["f1"]["value"]


def test_wrong_shapes_are_named():
    labels, p = made(20)
    with pytest.raises(ValueError, match="2 classes"):
        diagnosis(labels, p[:, :2], CLASSES[:2])
    with pytest.raises(ValueError, match="Label -1"):
        diagnosis(labels - 1, p, CLASSES)


def test_images_of_an_eye_are_pooled():
    p, patients = np.array([[0.2], [0.4], [0.9]]), np.array(["a", "a", "b"])
    found, who = pooled(np.array(["a left", "a left", "b right"]), p, patients)
    np.testing.assert_allclose(found, [[0.3], [0.9]])
    assert who.tolist() == ["a", "b"]


def test_of_two_classes_one_is_as_uncertain_as_the_other():
    labels, patients = np.repeat([0, 1], [10, 5]), [*range(10), *[99] * 5]
    score = np.random.default_rng(0).random(15)
    found = diagnosis(labels, np.stack([1 - score, score], 1), ["A", "B"], patients)["classes"]
    assert found["A"]["auroc"] == pytest.approx(found["B"]["auroc"])
    assert found["A"]["auroc"]["low"] is None


@pytest.mark.slow
def test_complementary_readers_gain_by_fusion_and_twins_do_not():
    labels, first = made(1500, digits=0, seed=1)
    rng = np.random.default_rng(5)
    second = np.exp(rng.normal(0, 1, (1500, 3)) + np.eye(3)[labels])
    second /= second.sum(1, keepdims=True)
    apart = complementarity(labels, first, second, CLASSES)
    twins = complementarity(labels, first, first, CLASSES)
    assert apart["gain"]["low"] > 0.02 and twins["gain"]["value"] == 0
    assert apart["both"]["value"] == pytest.approx(apart["chance"]["value"], abs=0.06)
    assert twins["both"]["value"] == twins["first"]["value"] > 1.3 * twins["chance"]["value"]
    assert apart["fused"]["value"] < min(apart["first"]["value"], apart["second"]["value"])

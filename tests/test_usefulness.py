"""Scores against hand-made numbers and scikit-learn; the report moves the right way on damage."""

import json
from functools import partial

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve

from helpers.classifiers.fit import fit
from helpers.classifiers.linear_head import label_numbers, linear_head
from helpers.data.pixels import at_size
from helpers.data.simulated.simulate import make_eye
from helpers.evaluate.report import complete, print_table
from helpers.evaluate.verdict import verdict
from helpers.measures.intervals import between
from helpers.measures.learning_curve import nested, worth
from helpers.measures.scores import auroc_difference, choose_threshold, scores
from helpers.measures.usefulness import (
    ADVICE,
    CONTRASTS,
    as_if_of,
    centred,
    joined,
    scans,
    usefulness_report,
)

CLASSES = ["NORMAL", "AMD"]


def two_columns(score):
    return np.stack([1 - np.asarray(score), score], 1)


def test_scores_by_hand():
    labels = np.array(["AMD", "AMD", "NORMAL", "NORMAL"])
    found = scores(labels, two_columns([0.9, 0.4, 0.6, 0.1]), CLASSES)
    assert found["auroc"]["value"] == 0.75  # three of four pairs are in order
    assert found["sensitivity"]["value"] == found["specificity"]["value"] == 0.5
    assert found["balanced_accuracy"]["value"] == 0.5
    assert found["sensitivity_at_90_specificity"]["value"] == 0.5
    ties = scores(labels, two_columns([0.5] * 4), CLASSES)
    assert ties["auroc"]["value"] == 0.5
    assert scores(labels, two_columns([0.9, 0.4, 0.6, 0.1]), CLASSES, positive="NORMAL")["auroc"][
        "value"
    ] == pytest.approx(0.75)


@pytest.mark.parametrize("k", [2, 3])
def test_scores_agree_with_scikit_learn(k):
    rng = np.random.default_rng(k)
    classes = ["NORMAL", "AMD", "DME"][:k]
    number = rng.integers(0, k, 200)
    logits = rng.normal(0, 1, (200, k)).round(1) + np.eye(k)[number]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array(classes)[number]
    found = scores(labels, probabilities, classes, positive="AMD", threshold=0.4)
    expected = (
        roc_auc_score(number, probabilities[:, 1])
        if k == 2
        else roc_auc_score(number, probabilities, multi_class="ovr")
    )
    assert found["auroc"]["value"] == pytest.approx(expected)
    said = probabilities[:, 1] >= 0.4 if k == 2 else probabilities.argmax(1)
    assert found["balanced_accuracy"]["value"] == pytest.approx(
        balanced_accuracy_score(number, said)
    )
    false, true, _ = roc_curve(number == 1, probabilities[:, 1])
    best = true[false <= 0.1].max()
    assert found["sensitivity_at_90_specificity"]["value"] == pytest.approx(best)


def test_every_resample_is_the_auroc_of_that_resample():
    rng = np.random.default_rng(0)
    labels, patients = rng.choice(CLASSES, 30), rng.integers(0, 8, 30)
    score = (rng.normal(0, 1, 30) + (labels == "AMD")).round(1)
    found = scores(labels, two_columns(score), CLASSES, patients, resamples=200, seed=3)
    names = np.unique(patients)
    draws = np.random.default_rng(3).multinomial(8, np.full(8, 1 / 8), size=200)
    values = []
    for draw in draws:
        mine = [np.flatnonzero(patients == name).repeat(n) for name, n in zip(names, draw)]
        index = np.concatenate(mine)
        if len(set(labels[index])) == 2:
            values.append(roc_auc_score(labels[index] == "AMD", score[index]))
    assert found["auroc"]["resamples"] == len(values)
    low, high = np.quantile(values, [0.025, 0.975])
    assert (found["auroc"]["low"], found["auroc"]["high"]) == pytest.approx((low, high))


def measured_patients(rng, count, each):
    """Scores of `count` patients with a level of their own, half of each class."""
    labels = np.repeat(CLASSES, count // 2)
    level = rng.normal(0, 1, count) + 1.2 * (labels == "AMD")
    score = level.repeat(each) + rng.normal(0, 0.2, count * each)
    return labels.repeat(each), score, np.arange(count).repeat(each)


def test_patients_are_resampled_and_the_interval_covers():
    rng = np.random.default_rng(0)
    far = measured_patients(rng, 4000, 1)
    truth = roc_auc_score(far[0] == "AMD", far[1])
    hits, wide, narrow = 0, 0.0, 0.0
    for _ in range(100):
        labels, score, patients = measured_patients(rng, 40, 8)
        by_patient, by_image = (
            scores(labels, two_columns(score), CLASSES, who, resamples=200)["auroc"]
            for who in (patients, None)
        )
        hits += by_patient["low"] <= truth <= by_patient["high"]
        wide += by_patient["high"] - by_patient["low"]
        narrow += by_image["high"] - by_image["low"]
    assert 85 <= hits <= 100 and wide > 2 * narrow


def test_what_is_not_defined_is_none_with_its_reason():
    one = scores(np.array(["AMD"] * 3), two_columns([0.1, 0.2, 0.3]), CLASSES)
    assert one["auroc"]["value"] is None and one["auroc"]["reason"] == "no test scan of NORMAL"
    labels = np.array(["AMD", "NORMAL", "NORMAL"])
    few = scores(labels, two_columns([0.9, 0.2, 0.3]), CLASSES, ["a", "b", "c"])["auroc"]
    assert few["value"] == 1 and few["low"] is None and "one patient only of AMD" in few["reason"]
    labels = np.array(["AMD", "AMD", "NORMAL", "NORMAL"])
    some = scores(labels, two_columns([0.9, 0.4, 0.6, 0.1]), CLASSES)["auroc"]
    assert some["low"] is not None and 800 < some["resamples"] < 950  # 1 - 2 / 2^4
    three = scores(np.array(list("abc")), np.eye(3), list("abc"))
    assert three["auroc"]["value"] == 1 and three["sensitivity"]["value"] is None
    assert "positive" in three["sensitivity"]["reason"]
    with pytest.raises(ValueError, match="positive='CNV' is none of NORMAL, AMD"):
        scores(labels, two_columns([0] * 4), CLASSES, positive="CNV")
    with pytest.raises(ValueError, match=r"\(4, 2\) for 4 labels and 3 classes"):
        scores(labels, two_columns([0] * 4), [*CLASSES, "DME"])


def test_threshold_and_paired_difference():
    is_positive = np.array([0, 0, 1, 1], bool)
    assert choose_threshold(is_positive, np.array([0.1, 0.2, 0.6, 0.7])) == pytest.approx(0.4)
    assert choose_threshold(is_positive[:2], np.array([0.1, 0.2])) == 0.5
    assert choose_threshold(is_positive, np.array([0.9, 0.8, 0.2, 0.1])) == 0.5
    rng = np.random.default_rng(1)
    labels, score, patients = measured_patients(rng, 60, 3)
    a, b = two_columns(score), two_columns(score + rng.normal(0, 0.7, len(score)))
    paired = auroc_difference(labels, a, b, CLASSES, patients)
    alone = [scores(labels, p, CLASSES, patients)["auroc"] for p in (a, b)]
    assert paired["value"] == pytest.approx(alone[0]["value"] - alone[1]["value"])
    assert paired["high"] - paired["low"] < 0.7 * (alone[0]["high"] - alone[0]["low"])
    assert auroc_difference(labels, a, a, CLASSES, patients)["high"] == 0
    one = np.where(labels == "AMD", "one person", patients)
    assert auroc_difference(labels, a, b, CLASSES, one)["low"] is None
    seeds = scores(labels, np.stack([a, b]), CLASSES, patients)["auroc"]
    assert seeds["value"] == pytest.approx(np.mean([x["value"] for x in alone]))
    assert seeds["seeds"] == pytest.approx([x["value"] for x in alone])


def simple_fit(images, labels, classes, *, patients, seed):
    model = LogisticRegression(C=0.1).fit(images, labels)
    order = [list(model.classes_).index(c) for c in classes]
    return lambda rows: model.predict_proba(rows)[:, order]


def people(rng, patients, each, source=0.0, disease=1.5, name="p"):
    """Scans as 12 numbers: disease in the first three, the source's look in the fourth."""
    labels = np.repeat(CLASSES, patients // 2 * each)
    who = np.arange(patients).repeat(each)
    rows = rng.normal(0, 1, (len(labels), 12)) + 0.5 * rng.normal(0, 1, (patients, 12))[who]
    rows[:, :3] += disease * (labels == "AMD")[:, None]
    rows[:, 3] += source
    return scans(rows, labels, [f"{name}{i}" for i in who])


@pytest.fixture(scope="module")
def cohort():
    rng = np.random.default_rng(0)
    return {name: people(rng, 40, 6, name=name) for name in ("real", "test", "validation")}


def report_of(cohort, synthetic, **changes):
    arguments = dict(contrast="synthetic", validation=cohort["validation"], seeds=(0, 1),
                     sizes=(10, 40), resamples=200, fit=simple_fit)  # fmt: skip
    return usefulness_report(
        cohort["real"], synthetic, cohort["test"], CLASSES, **arguments | changes
    )


def test_the_report_moves_the_right_way(cohort):
    rng = np.random.default_rng(1)
    good, weak = people(rng, 400, 1), people(rng, 400, 1, disease=0.1)
    swapped = scans(good.images, np.array(CLASSES)[(good.labels == "NORMAL").astype(int)])
    reports = {n: report_of(cohort, s) for n, s in
               dict(good=good, weak=weak, swapped=swapped).items()}  # fmt: skip
    auroc = {name: r["auroc"]["value"] for name, r in reports.items()}
    real = reports["good"]["arms"]["real"]["auroc"]["value"]
    assert auroc["good"] > real - 0.03 > 0.8 and auroc["good"] > auroc["weak"] + 0.05
    assert auroc["swapped"] == pytest.approx(1 - auroc["good"], abs=0.02)
    assert reports["swapped"]["arms"]["real_to_synthetic"]["auroc"]["value"] < 0.2
    assert reports["good"]["arms"]["real_to_synthetic"]["recognised"]["AMD"] > 0.75
    assert reports["swapped"]["differences"]["synthetic - real"]["high"] < -0.3
    assert reports["swapped"]["worth"]["text"].startswith("400 synthetic")
    assert "worth fewer than 10 real ones" in reports["swapped"]["worth"]["text"]
    assert reports["good"]["worth"]["above"] > 0.2 and reports["swapped"]["worth"]["below"] == 1
    controls = reports["good"]["controls"]
    assert abs(controls["shuffled_labels"]["value"] - 0.5) < 0.2
    assert controls["source_auroc"]["value"] == pytest.approx(0.5, abs=0.12)
    assert [c["n"] for c in reports["good"]["curve"]] == [10, 40, 240]
    assert reports["good"]["n"]["real test"]["AMD"] == {"scans": 120, "patients": 20}
    json.dumps(reports, allow_nan=False)


def test_an_artefact_of_the_source_is_found_and_explains_a_real_contrast(cohort):
    rng = np.random.default_rng(2)
    made = people(rng, 400, 1, source=6, disease=0.0)  # no disease in it, but a look of its own
    amd = made.take(made.labels == "AMD")
    report = report_of(cohort, amd, contrast="real")
    assert report["controls"]["source_auroc"]["value"] > 0.98
    difference = report["auroc"]["value"] - report["controls"]["look_alone"]["value"]
    assert abs(difference) < 0.25
    assert report["auroc"]["value"] < report["arms"]["real"]["auroc"]["value"] - 0.15
    assert report["contrast"]["kind"] == "real"
    assert "looks synthetic" in report["contrast"]["what_it_can_fake"]
    assert any("told from real ones" in w for w in report["warnings"])
    assert report["arms"]["real_to_synthetic"]["recognised"].keys() == {"AMD"}
    assert report["n"]["synthetic"]["NORMAL"]["scans"] == 0  # real ones are no synthetic ones
    assert report["worth"]["synthetic"] == len(amd.labels)
    assert report["worth"]["text"].startswith(f"{len(amd.labels)} synthetic scans beside ")
    sound = people(rng, 400, 1)
    report = report_of(cohort, sound.take(sound.labels == "AMD"), contrast="real")
    assert report["auroc"]["value"] > 0.8 > report["controls"]["source_auroc"]["value"]


def test_centred_features_forget_what_sets_a_side_apart():
    rng = np.random.default_rng(0)
    made = rng.normal(size=(50, 4))
    real = 3 * made + 7  # another device's gain and offset
    np.testing.assert_allclose(centred(made), centred(real), atol=1e-4)
    np.testing.assert_allclose(centred(real[:9], real), centred(made)[:9], atol=1e-4)
    taught, asked = scans(made, "AMD"), scans(real, "AMD")
    np.testing.assert_allclose(as_if_of(taught, asked).images, made, atol=1e-4)
    assert as_if_of(taught, None) is None


def linear(images, labels, classes, *, patients, seed):
    """The report's linear head, of as many numbers as there are."""
    weight, bias = linear_head(images, label_numbers(labels, classes), patients, seed=seed)
    return lambda rows: softmax(rows @ weight.T + bias, 1)


def test_what_sets_all_synthetic_scans_apart_spoils_the_plain_arm_and_not_the_centred_one(cohort):
    rng = np.random.default_rng(4)
    good, gain = people(rng, 400, 1), np.geomspace(40, 1, 12)
    found = {
        name: report_of(cohort, scans(good.images * times + plus, good.labels), fit=linear,
                        seeds=(0,), sizes=(), validation=None)
        for name, times, plus in (("nothing", 1, 0), ("offset", 1, 3), ("gain", gain, 3))
    }  # fmt: skip

    def of(report, arm, name="auroc"):
        return report["arms"][arm][name]["value"]

    for report in found.values():  # features that were moved and moved back
        assert of(report, "synthetic, centred") == pytest.approx(
            of(found["nothing"], "synthetic"), abs=0.02
        )
        assert of(report, "synthetic, centred", "balanced_accuracy") > 0.75
        assert of(report, "real, centred") == pytest.approx(of(report, "real"), abs=0.02)
        assert report["differences"]["synthetic, centred - real"]["low"] < 0.02
    # an offset alone moves no rank, only every scan to the same side of the threshold
    plain = of(found["nothing"], "synthetic")
    assert of(found["offset"], "synthetic") == pytest.approx(plain, abs=0.01)
    assert of(found["offset"], "synthetic", "balanced_accuracy") < 0.65
    assert of(found["gain"], "synthetic") < plain - 0.1
    assert found["gain"]["centring"] == ADVICE != found["nothing"]["centring"]
    assert found["gain"]["differences"]["synthetic, centred - synthetic"]["low"] > 0.05
    lines = print_table(complete({"usefulness": found["gain"]}), ["usefulness"])
    assert "trained on synthetic, centred" in lines and ADVICE in lines
    line = next(
        x for x in verdict(complete({"usefulness": found["gain"]})) if ADVICE in x["beside"]
    )
    assert "with features centred" in line["measured"]


def test_centring_is_not_spoken_of_where_it_was_not_measured(cohort):
    made = people(np.random.default_rng(5), 100, 1)
    pictures = {k: scans(v.images[:, None, None], v.labels, v.patients) for k, v in cohort.items()}
    flat = lambda images, *rest, **how: (  # noqa: E731, of pictures (N, 1, 1, 12)
        lambda model: lambda rows: model(rows[:, 0, 0])
    )(simple_fit(images[:, 0, 0], *rest, **how))
    whole = report_of(pictures, scans(made.images[:, None, None], made.labels), fit=flat)
    half_real = report_of(cohort, made.take(made.labels == "AMD"), contrast="real")
    for report in (whole, half_real):
        assert "centring" not in report and not any("centred" in arm for arm in report["arms"])
        assert "centr" not in print_table(complete({"usefulness": report}), ["usefulness"])
        assert "entring" not in str(verdict(complete({"usefulness": report})))


@pytest.mark.slow
def test_swapped_simulated_scans_with_the_true_classifier():
    def eyes(first, count, name):
        who = range(first, first + count)
        images = [make_eye(k, c, size=64, grade=1.0).oct for c in ("NORMAL", "DRUSEN") for k in who]
        labels = np.repeat(CLASSES, count)
        who = [f"{name}{i}" for i in [*range(count)] * 2]
        return scans(np.stack(images)[:, None], labels, who)

    sets = [eyes(i, n, str(i)) for i, n in ((0, 8), (100, 12), (200, 8))]
    features = fit(np.eye(2, 1280), CLASSES, CLASSES, size=64).features
    real, made, test = (scans(features(s.images), s.labels, s.patients) for s in sets)
    swapped = scans(made.images, made.labels[::-1])
    values = [
        usefulness_report(
            real, synthetic, test, CLASSES, partial(fit, whole=False, size=64),
            contrast="conditional", seeds=(0,), sizes=(), resamples=50,
        )["auroc"]["value"]
        for synthetic in (made, swapped)
    ]  # fmt: skip
    assert values[0] > 0.75 and values[1] < 0.25


def test_an_interval_that_has_no_end_is_said():
    """A worth beyond the largest number of real scans that was tried."""
    assert between({"value": 88.0, "low": 72.0, "high": None}, 0) == "88 (72 or more)"
    assert between({"value": 88.0, "low": 72.0, "high": 90.4}, 0) == "88 (72 to 90)"
    assert between({"value": 30.0, "low": None, "high": 50.0}, 0) == "30 (50 or less)"
    assert between({"value": 30.0, "low": None, "high": None}, 0) == "30"


def test_worth_is_read_off_the_curve():
    rng = np.random.default_rng(0)
    test = people(rng, 40, 3)
    names = dict(classes=CLASSES, positive="AMD", resamples=100, seed=0)
    noise = rng.normal(0, 1, 120)
    *stacks, between = (two_columns(test.images[:, 0] + s * noise)[None] for s in (8, 3, 0, 1.5))
    found = worth(test, stacks, [10, 50, 200], between, 1000, names)
    assert 50 < found["value"] < 200 and found["synthetic"] == 1000
    assert worth(test, stacks, [10, 50, 200], stacks[1], 1000, names)["value"] == pytest.approx(50)
    above = worth(test, stacks, [10, 50, 200], two_columns(test.labels == "AMD")[None], 9, names)
    assert above["value"] is None and "more than all 200" in above["text"] and above["above"] == 1
    alone = scans(test.images, test.labels, np.where(test.labels == "AMD", "one", test.patients))
    found = worth(alone, stacks, [10, 50, 200], between, 1000, names)
    assert 50 < found["value"] < 200 and found["low"] is found["high"] is found["below"] is None
    assert "no interval: one patient only of AMD" in found["text"]


def test_subsets_are_nested_balanced_and_of_few_patients(cohort):
    sets = [nested(cohort["real"], n, 7) for n in (10, 40, None)]
    rows = [{tuple(r) for r in s.images} for s in sets]
    assert rows[0] < rows[1] < rows[2] and [len(s) for s in sets] == [10, 40, 240]
    assert (sets[1].labels == "AMD").sum() == 20
    assert len(set(sets[0].patients)) == 2 and len(set(sets[1].patients)) == 8
    assert {tuple(r) for r in nested(cohort["real"], 10, 8).images} != rows[0]


def test_sizes_and_bits_are_the_same_for_all_sources():
    floats = np.linspace(-1, 1, 2 * 64 * 64, dtype=np.float32).reshape(2, 1, 64, 64)
    levels = ((floats + 1) * 127.5).round().astype(np.uint8)
    assert np.array_equal(at_size(floats, 64), levels)
    assert at_size(levels, 32).shape == (2, 1, 32, 32) and at_size(floats, 32).dtype == np.uint8
    both = joined(scans(levels, "AMD"), scans(levels, "NORMAL"))
    assert both.labels.tolist() == ["AMD"] * 2 + ["NORMAL"] * 2


def test_what_cannot_be_measured_has_words(cohort):
    amd = people(np.random.default_rng(3), 20, 1)
    amd = amd.take(amd.labels == "AMD")
    report = report_of(cohort, amd)  # no contrast was made
    assert report["auroc"] is None and report["reason"] == "no synthetic scans of NORMAL"
    assert report["warnings"] and set(CONTRASTS) == {"synthetic", "conditional", "real"}
    with pytest.raises(ValueError, match="contrast='none': there are synthetic"):
        report_of(cohort, amd, contrast="none")
    with pytest.raises(ValueError, match="name the synthetic one"):
        usefulness_report(*[amd] * 3, [*CLASSES, "DME"], simple_fit, contrast="real")
    small = scans(np.zeros((4, 5)), ["AMD", "NORMAL"] * 2)
    with pytest.raises(ValueError, match="at_size first"):
        report_of(cohort, small)
    with pytest.raises(ValueError, match="40 test patient.*among the others"):
        report_of(cohort | {"validation": cohort["test"]}, people(np.random.default_rng(3), 20, 1))
    with pytest.raises(ValueError, match="4 images, 1 labels"):
        scans(np.zeros((4, 5)), ["AMD"])

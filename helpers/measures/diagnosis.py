"""How well probabilities tell K findings, with intervals over patients, and which of two is better.

Labels are 0/1 (N, K), one-hot or multilabel. Probabilities may be (S, N, K), of S training seeds:
every number is then the mean over seeds. Intervals draw whole patients; more seeds do not narrow
them.
"""

import numpy as np
from scipy.sparse import csr_array

from helpers.measures.intervals import interval, patient_weights
from helpers.measures.scores import area_under, roc, sensitivity_at_90_specificity

BINS = 10  # of the calibration error
OVERALL = ("map", "auroc", "sensitivity_at_90_specificity", "f1", "kappa", "calibration_error")


def as_matrix(labels, count: int) -> np.ndarray:
    """Labels as 0/1 (N, K): whole numbers (N,) one-hot, 0/1 as it is."""
    labels = np.asarray(labels)
    if labels.ndim == 1 and len(labels) and not 0 <= labels.min() <= labels.max() < count:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise ValueError(f"Label {wrong}, but there are {count} classes, counted from 0")
    return labels.astype(float) if labels.ndim == 2 else np.eye(count)[labels]


def diagnosis(
    labels, probabilities, classes, patients=None, *, said=None, multilabel=False, thresholds=0.5,
    resamples=1000, seed=0,
):  # fmt: skip
    """{score: {value, low, high, resamples}} for OVERALL; ``classes``: {class: the first three}.

    map: mean over classes of the average precision. auroc: each class against the rest, mean.
    f1: mean over classes. One class out of K: the most probable one is said; kappa is Cohen's, and
    the calibration error the expected one (Guo et al. 2017) of what is said. Multilabel: what
    reaches ``thresholds`` (a number or K, chosen on other patients) is said; kappa and calibration
    are means over classes. ``said`` (N, K) or (S, N, K): probabilities for these three, where they
    differ, as ``with_prevalence``. A class without positive or without negative samples counts in
    no mean and is None; one that a single patient has, or lacks, has no interval, nor have the
    means then.
    """
    truth, stack, weights = _prepared(labels, probabilities, classes, patients, resamples, seed)
    _, decided, _ = _prepared(labels, probabilities if said is None else said, classes, patients, 0,
                              seed)  # fmt: skip
    values = [_values(truth, one, weights) | _of_decisions(truth, other, weights, multilabel,
                                                           thresholds)
              for one, other in zip(stack, decided)]  # fmt: skip
    few = few_patients(truth, patients)

    def entry(name, place, lonely):
        found = interval(np.mean([v[name] if place is None else v[name][place] for v in values], 0))
        return found | {"low": None, "high": None} if lonely else found

    report = {name: entry(name, None, few.any()) for name in OVERALL}
    report["classes"] = {
        name: {score: entry(f"{score} by class", k, few[k]) for score in OVERALL[:3]}
        for k, name in enumerate(classes)
    }
    return report


def few_patients(labels, patients=None) -> np.ndarray:
    """Which classes of labels 0/1 (N, K) exactly one patient has, or lacks, bool (K,): of two
    classes either ranks against the other, so that one is as uncertain as the other."""
    patients = np.arange(len(labels)) if patients is None else np.asarray(patients)
    return np.array([1 in (len(set(patients[has])), len(set(patients[~has])))
                     for has in labels.astype(bool).T])  # fmt: skip


def resampled_precisions(
    labels, probabilities, classes, patients=None, *, resamples=1000, seed=0
) -> np.ndarray:
    """Average precision of each class, mean over seeds, on all patients and then on each resample:
    (K, 1 + resamples). The same seed draws the same patients for whatever probabilities."""
    labels, stack, weights = _prepared(labels, probabilities, classes, patients, resamples, seed)
    truth = labels.astype(bool)
    found = [[average_precision(t, p, weights) for t, p in zip(truth.T, one.T)] for one in stack]
    found = _defined(truth, np.mean(found, 0))
    found[few_patients(labels, patients), 1:] = np.nan  # of one patient there is no interval
    return found


def gains(precisions, others, classes) -> dict:
    """Of ``resampled_precisions`` over others: {"map": the mean's gain, "map CLASS": each one's},
    each {value, low, high, resamples}.

    Paired: every resample has the same patients in both, so that what makes a patient easy or hard
    for both cancels.
    """
    found = {"map": interval(_mean(precisions) - _mean(others))}
    for k, name in enumerate(classes):
        found[f"map {name}"] = interval(precisions[k] - others[k])
    return found


def difference(labels, probabilities, others, classes, patients=None, **how) -> dict:
    """mAP of ``probabilities`` minus that of ``others``, and of each class: ``gains``."""
    first, second = (
        resampled_precisions(labels, one, classes, patients, **how)
        for one in (probabilities, others)
    )
    return gains(first, second, classes)


def with_prevalence(probabilities, prevalence) -> np.ndarray:
    """Probabilities (..., K) of a classifier that was shown all classes equally often, for a world
    in which they have this ``prevalence`` (K,) (Saerens et al. 2002, eq. 4)."""
    weighted = np.asarray(probabilities) * np.asarray(prevalence)
    return weighted / weighted.sum(-1, keepdims=True)


def pooled(eyes, *arrays):
    """Means over the images of an eye: arrays (..., N, K) or (N,) become those of M eyes.

    ``eyes`` (N,) are names. What is not a number (patients, say) is that of the eye's first image.
    """
    names, first, which = np.unique(eyes, return_index=True, return_inverse=True)
    share = csr_array((1 / np.bincount(which)[which], (which, np.arange(len(which)))),
                      shape=(len(names), len(which)))  # fmt: skip

    def mean(a):
        a = np.asarray(a)
        if a.dtype.kind != "f":
            return a[first]
        return np.stack([share @ one for one in a]) if a.ndim == 3 else share @ a

    return [mean(a) for a in arrays]


def average_precision(positive, score, weights) -> np.ndarray:
    """Of positive samples (N,) by score (N,), under rows of weights (R, N): (R,), NaN if none.

    Sum over thresholds of precision times gained recall, equal scores as one step (as in
    scikit-learn's average_precision_score).
    """
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    hits = np.cumsum(weights[:, order] * positive[order], 1)[:, ends]
    said = np.cumsum(weights[:, order], 1)[:, ends]
    gained = np.diff(hits, axis=1, prepend=0)
    total = np.where(hits[:, -1] > 0, hits[:, -1], np.nan)
    return (gained * hits / np.where(said > 0, said, 1)).sum(1) / total


def _prepared(labels, probabilities, classes, patients, resamples, seed):
    stack = np.asarray(probabilities, np.float64)
    stack = stack if stack.ndim == 3 else stack[None]
    labels = as_matrix(labels, len(classes))
    if stack.shape[1:] != labels.shape or labels.shape[1] != len(classes):
        raise ValueError(
            f"Probabilities {stack.shape[1:]} for labels {labels.shape} of {len(classes)} classes"
        )
    patients = np.arange(len(labels)) if patients is None else np.asarray(patients)
    return labels, stack, patient_weights(patients, resamples, seed)


def _values(truth, probabilities, weights):
    """{score: (R,)} and {"score by class": (K, R)} of what ranks."""
    pairs, values = list(zip(truth.astype(bool).T, probabilities.T)), {}
    curves = [roc(t, p, weights) for t, p in pairs]
    values["map by class"] = _defined(truth, [average_precision(t, p, weights) for t, p in pairs])
    values["auroc by class"] = [area_under(*curve) for curve in curves]
    values["sensitivity_at_90_specificity by class"] = [
        sensitivity_at_90_specificity(*curve) for curve in curves
    ]
    return values | {name.removesuffix(" by class"): _mean(rows) for name, rows in values.items()}


def _of_decisions(truth, probabilities, weights, multilabel, thresholds):
    truth = truth.astype(bool)
    if multilabel:
        said = probabilities >= thresholds
    else:
        said = np.eye(truth.shape[1], dtype=bool)[probabilities.argmax(1)]
    hits, called, there = (weights @ part for part in (said & truth, said, truth))
    f1 = 2 * hits / np.where(called + there > 0, called + there, np.nan)
    total = weights.sum(1)
    if multilabel:
        agreed = [weights @ (s == t) for s, t in zip(said.T, truth.T)]
        rest = (total[:, None] - called) * (total[:, None] - there)
        chance = (called * there + rest).T / total**2
        kappas = [_kappa(a / total, c) for a, c in zip(agreed, chance)]
        errors = [_bins(p, t, weights) for p, t in zip(probabilities.T, truth.T)]
        kappa, error = (_mean(_defined(truth, rows)) for rows in (kappas, errors))
    else:
        kappa = _kappa(hits.sum(1) / total, (called * there).sum(1) / total**2)
        error = _bins(probabilities.max(1), (said & truth).any(1), weights)
    return {"f1": _mean(_defined(truth, f1.T)), "kappa": kappa, "calibration_error": error}


def _defined(truth, rows):
    """NaN for classes that all samples have, or none."""
    rows, truth = np.array(rows, float), truth.astype(bool)
    rows[truth.all(0) | ~truth.any(0)] = np.nan
    return rows


def _kappa(agreement, chance):
    return (agreement - chance) / np.where(chance < 1, 1 - chance, np.nan)


def _bins(confidence, right, weights):
    """Expected calibration error: |mean confidence - share right| of each bin, by its size."""
    which = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [np.abs(weights @ ((confidence - right) * (which == b))) for b in range(BINS)]
    return sum(gaps) / weights.sum(1)


def _mean(rows):
    """Mean over classes, of those that are defined on all samples together (the first column)."""
    rows = np.asarray(rows)
    there = ~np.isnan(rows[:, 0])
    return rows[there].mean(0) if there.any() else np.full(rows.shape[1], np.nan)

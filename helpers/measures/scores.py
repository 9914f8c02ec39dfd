"""AUROC, sensitivity and specificity of a classifier, with intervals over patients."""

import numpy as np
from sklearn.metrics import roc_curve

from helpers.measures.intervals import interval, patient_weights

FIXED_SPECIFICITY = 0.9
NAMES = ("auroc", "sensitivity", "specificity", "sensitivity_at_90_specificity",
         "balanced_accuracy")  # fmt: skip


def scores(
    labels, probabilities, classes, patients=None, positive=None, *, threshold=0.5, resamples=1000,
    seed=0,
):  # fmt: skip
    """How well probabilities (N, K) tell the labels (N,), names out of the K `classes`.

    AUROC is that of `positive` (None: the one of two classes that is not called NORMAL); of more
    than two classes it is the mean of each against the rest, and sensitivity and specificity are
    None unless `positive` names a class. These two are at `threshold`, which was chosen on other
    patients; balanced accuracy too, or at the largest probability with more than two classes.

    probabilities may be (S, N, K), of S training seeds, `threshold` then (S,): every number is
    their mean, and `seeds` in the AUROC lists them. Intervals draw whole `patients` (N,) (None:
    every image is one), the same ones for all seeds, and say nothing of the seeds' spread.

    Returned: {name: {value, low, high, resamples}} for NAMES. `resamples` counts those in which
    every class was left. A value that is not defined is None, and `reason` says why.
    """
    labels, stack = np.asarray(labels), _stacked(probabilities, labels, classes)
    patients = np.arange(len(labels)) if patients is None else np.asarray(patients)
    values = _values(
        labels, stack, list(classes), positive_class(classes, positive), threshold,
        patient_weights(patients, resamples, seed),
    )  # fmt: skip
    empty = [str(c) for c in classes if c not in labels]
    few = [str(c) for c in classes if 0 < len(set(patients[labels == c])) < 2]
    report = {}
    for name in NAMES:
        nothing = {"value": None, "low": None, "high": None, "resamples": 0}
        if name not in values:
            words = "of several classes none was named as the positive one"
            report[name] = nothing | {"reason": words}
        elif empty:
            report[name] = nothing | {"reason": f"no test scan of {', '.join(empty)}"}
        else:
            report[name] = interval(values[name].mean(0))
            if few:
                words = f"one patient only of {', '.join(few)}: no interval"
                report[name] |= {"low": None, "high": None, "reason": words}
    report["auroc"]["seeds"] = [] if empty else [float(v) for v in values["auroc"][:, 0]]
    return report


def auroc_difference(
    labels, probabilities, others, classes, patients=None, positive=None, *, resamples=1000,
    seed=0,
):  # fmt: skip
    """AUROC of `probabilities` minus that of `others`, {value, low, high, resamples}.

    Paired: in every resample both are measured on the same patients, so what makes a patient
    easy or hard for both cancels. Each may be (N, K), or (S, N, K) of S training seeds.
    """
    labels = np.asarray(labels)
    patients = np.arange(len(labels)) if patients is None else np.asarray(patients)
    positive = positive_class(classes, positive)
    weights = patient_weights(patients, resamples, seed)
    a, b = (
        _values(labels, _stacked(p, labels, classes), list(classes), positive, 0.5, weights)
        for p in (probabilities, others)
    )
    found = interval(a["auroc"].mean(0) - b["auroc"].mean(0))
    alone = any(len(set(patients[labels == c])) == 1 for c in classes)  # as in ``scores``
    return found | {"low": None, "high": None} if alone else found


def resampled_aurocs(labels, probabilities, classes, patients, positive, *, resamples, seed):
    """AUROC, mean over seeds, on all patients and then on each resample: (1 + resamples,)."""
    labels, weights = np.asarray(labels), patient_weights(np.asarray(patients), resamples, seed)
    stack = _stacked(probabilities, labels, classes)
    return _values(labels, stack, list(classes), positive, 0.5, weights)["auroc"].mean(0)


def positive_class(classes, positive=None):
    """`positive` itself; None: of two classes the one not called NORMAL, or the second."""
    if positive is not None and positive not in classes:
        raise ValueError(f"positive={positive!r} is none of {', '.join(map(str, classes))}")
    if positive is None and len(classes) == 2:
        return classes[0] if str(classes[1]).upper() == "NORMAL" else classes[1]
    return positive


def choose_threshold(is_positive, score) -> float:
    """Half-way below the score with the largest sensitivity + specificity (Youden 1950).

    0.5 when there is only one class, or no score is better than chance.
    """
    is_positive = np.asarray(is_positive, bool)
    if is_positive.all() or not is_positive.any():
        return 0.5
    false, true, thresholds = roc_curve(is_positive, score, drop_intermediate=False)
    best = int(np.argmax(true - false))
    if best == 0:
        return 0.5
    below = thresholds[best + 1] if best + 1 < len(thresholds) else 0.0
    return float((thresholds[best] + below) / 2)


def _stacked(probabilities, labels, classes):
    stack = np.asarray(probabilities, np.float64)
    stack = stack if stack.ndim == 3 else stack[None]
    if stack.shape[1:] != (len(labels), len(classes)):
        raise ValueError(
            f"Probabilities {stack.shape[1:]} for {len(labels)} labels and {len(classes)} classes"
        )
    return stack


def _values(labels, stack, classes, positive, threshold, weights):
    """{name: (S, R)} for S seeds and R rows of weights; NaN where a class has no weight."""
    thresholds = np.broadcast_to(threshold, len(stack))
    ranked = [positive] if len(classes) == 2 else classes
    values = {"auroc": [], "balanced_accuracy": []}
    for probabilities, cut in zip(stack, thresholds):
        curves = {
            c: roc(labels == c, probabilities[:, classes.index(c)], weights)
            for c in dict.fromkeys([*ranked, *([positive] if positive is not None else [])])
        }
        values["auroc"].append(np.mean([area_under(*curves[c]) for c in ranked], axis=0))
        recalls = []
        if positive is not None:
            called = probabilities[:, classes.index(positive)] >= cut
            recalls = [weighted_share(called, labels == positive, weights),
                       weighted_share(~called, labels != positive, weights)]  # fmt: skip
            values.setdefault("sensitivity", []).append(recalls[0])
            values.setdefault("specificity", []).append(recalls[1])
            kept = sensitivity_at_90_specificity(*curves[positive])
            values.setdefault("sensitivity_at_90_specificity", []).append(kept)
        if len(classes) > 2:
            said = np.asarray(classes)[probabilities.argmax(1)]
            recalls = [weighted_share(said == c, labels == c, weights) for c in classes]
        values["balanced_accuracy"].append(np.mean(recalls, axis=0))
    return {name: np.array(v) for name, v in values.items()}


def weighted_share(hit, among, weights):
    total = weights @ among
    return weights @ (hit & among) / np.where(total > 0, total, np.nan)


def roc(is_positive, score, weights):
    """False and true positive rates (R, T + 1) from (0, 0) to (1, 1), equal scores as one step."""
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    rates = []
    for those in (~is_positive[order], is_positive[order]):
        counts = np.cumsum(weights[:, order] * those, axis=1)[:, ends]
        total = np.where(counts[:, -1:] > 0, counts[:, -1:], np.nan)
        rates.append(np.hstack([np.zeros((len(counts), 1)), counts]) / total)
    return rates


def sensitivity_at_90_specificity(false, true):
    kept = np.where(false <= 1 - FIXED_SPECIFICITY + 1e-9, true, 0).max(1)
    return np.where(np.isnan(false + true).any(1), np.nan, kept)


def area_under(false, true):
    return (np.diff(false, axis=1) * (true[:, 1:] + true[:, :-1]) / 2).sum(1)

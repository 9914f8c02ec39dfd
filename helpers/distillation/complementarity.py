"""Do two modalities of one eye err on the same eyes, and does asking both help?"""

import numpy as np

from helpers.measures.diagnosis import as_matrix, diagnosis, difference
from helpers.measures.intervals import interval, patient_weights


def complementarity(labels, first, second, classes, patients=None, *, resamples=1000, seed=0):
    """What two classifiers of the same N eyes, one per modality, have to say to each other.

    labels (N,) or one-hot (N, K); first and second: probabilities (N, K). Returned, each {value,
    low, high, resamples} with intervals over patients: ``first`` and ``second``, shares of eyes
    that each gets wrong; ``both``, wrong in both (what a judge who always knew whom to believe
    would get wrong); ``chance``, what ``both`` would be if errors within a class had nothing to do
    with each other; ``fused``, the share wrong of the mean of both; ``map`` of the two and of
    their mean, and ``gain``, mAP of the mean minus that of the better one. Of one patient there is
    no interval: low and high are None.
    """
    truth = as_matrix(labels, len(classes)).argmax(1)
    patients = np.arange(len(truth)) if patients is None else np.asarray(patients)
    weights = patient_weights(patients, resamples, seed)
    weights = weights / weights.sum(1, keepdims=True)
    fused = (np.asarray(first) + np.asarray(second)) / 2
    wrong = {name: np.asarray(p).argmax(1) != truth
             for name, p in (("first", first), ("second", second), ("fused", fused))}  # fmt: skip
    shares = {name: weights @ missed for name, missed in wrong.items()}
    shares["both"] = weights @ (wrong["first"] & wrong["second"])
    shares["chance"] = sum(
        (weights @ (wrong["first"] * of)) * (weights @ (wrong["second"] * of))
        / np.where(weights @ of > 0, weights @ of, np.nan)
        for of in (as_matrix(truth, len(classes)).T[np.unique(truth)])
    )  # fmt: skip
    report = {name: interval(values, 0.95) for name, values in shares.items()}
    if len(set(patients)) < 2:
        report = {name: found | {"low": None, "high": None} for name, found in report.items()}
    about = dict(resamples=resamples, seed=seed)
    report["map"] = {
        name: diagnosis(labels, p, classes, patients, **about)["map"]
        for name, p in (("first", first), ("second", second), ("fused", fused))
    }
    better = (
        first if report["map"]["first"]["value"] >= report["map"]["second"]["value"] else second
    )
    report["gain"] = difference(labels, fused, better, classes, patients, **about)["map"]
    return report

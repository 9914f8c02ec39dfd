"""What students are worth: scores with intervals over patients, each beside the student alone."""

import numpy as np
import torch

from helpers.distillation.losses import prototypes, similarities
from helpers.distillation.study import ALONE, ARMS
from helpers.measures.diagnosis import (
    as_matrix,
    diagnosis,
    gains,
    pooled,
    resampled_precisions,
    with_prevalence,
)
from helpers.measures.intervals import between

NAMES = {"map": "mAP", "auroc": "AUROC", "sensitivity_at_90_specificity": "sens@90", "f1": "F1",
         "kappa": "kappa", "calibration_error": "calibration"}  # fmt: skip


def compared(scans, predicted, classes, settings, *, prevalence=None, eyes=None, base=ALONE):
    """{arm: ``diagnosis`` with "seeds", the mAP of each, and "gain", the paired difference to
    ``base`` in mAP and in every class's average precision}.

    predicted: {arm: probabilities (S, N, K)} of ``scans``, a ``Labelled``. Where classes exclude
    each other, what students say who were shown all of them equally often is brought to the
    ``prevalence`` (K,) among those they learned from before it counts as a decision. With ``eyes``
    (N,), names, the answers to an eye's images are averaged, and eyes are counted.
    """
    kind, classes, report = settings.multilabel, list(classes), {}
    labels, patients = as_matrix(scans.labels, len(classes)), scans.patients
    if eyes is not None:
        own = [f"{eye} {row}" for eye, row in zip(eyes, labels.tolist())]
        predicted = {name: pooled(own, p)[0] for name, p in predicted.items()}
        labels, patients = pooled(own, labels, patients)
    precisions = {
        name: resampled_precisions(labels, p, classes, patients) for name, p in predicted.items()
    }
    for name, p in predicted.items():
        said = p if kind or prevalence is None else with_prevalence(p, prevalence)
        arm = diagnosis(labels, p, classes, patients, said=said, multilabel=kind)
        arm["seeds"] = [diagnosis(labels, one, classes, resamples=2)["map"]["value"] for one in p]
        arm["gain"] = gains(precisions[name], precisions[base], classes)
        report[name] = arm
    return report


def prevalence_of(scans, classes) -> np.ndarray:
    """The share of each class among ``scans``, (K,)."""
    return as_matrix(scans.labels, len(classes)).mean(0)


def chosen_of(report: dict) -> str:
    """The arm with the best mAP among those that distil."""
    values = {
        name: arm["map"]["value"] for name, arm in report.items() if ARMS[name].get("losses", True)
    }
    return max(values, key=values.get)


def print_table(report: dict) -> None:
    """Every arm's mAP and its gain over the student alone, in points."""
    print(f"{'':24}{'mAP':>7}  {'per seed':22}gain over the student alone (95 %)")
    for name, arm in report.items():
        seeds = " ".join(f"{100 * value:.1f}" for value in arm["seeds"])
        words = "" if name == ALONE else between(arm["gain"]["map"], 1, 100)
        print(f"{name:24}{100 * arm['map']['value']:7.1f}  {seeds:22}{words}")


def print_scores(report: dict) -> None:
    """All scores of a few arms, and the AUROC and average precision of each class."""
    rows = {NAMES[name]: [arm[name] for arm in report.values()] for name in NAMES}
    first = next(iter(report.values()))
    for k in first["classes"]:
        for name in ("auroc", "map"):
            words = f"{k}: {'AUROC' if name == 'auroc' else 'average precision'}"
            rows[words] = [arm["classes"][k][name] for arm in report.values()]
    width = max(map(len, rows)) + 2
    print(" " * width + "".join(f"{name:27}" for name in report))
    for words, found in rows.items():
        cells = ["-" if one["value"] is None else f"{one['value']:.3f}" if one["low"] is None
                 else between(one, 3) for one in found]  # fmt: skip
        print(words.ljust(width) + "".join(f"{cell:27}" for cell in cells))
    for name in list(report)[1:]:  # the first is what the others are compared with
        for score, gain in report[name]["gain"].items():
            if gain["value"] is not None:
                words = score.replace("map", "mAP" if score == "map" else "average precision of")
                print(f"{name}: {words}, gain in points {between(gain, 1, 100)}")


def class_similarities(classifier, scans, classes) -> np.ndarray:
    """Cosines (C, C) of the classes' mean logits over ``scans``; NaN for classes it does not know.

    What ``class_similarity_alignment`` makes equal, up to the mean of the logits, which
    probabilities of classes that exclude each other do not tell.
    """
    known = [name for name in classes if name in classifier.classes]
    probabilities = torch.from_numpy(classifier(scans.images)).double().clamp(1e-9, 1 - 1e-9)
    logits = probabilities.logit() if classifier.multilabel else probabilities.log()
    if not classifier.multilabel:
        logits = logits - logits.mean(1, keepdim=True)  # a softmax forgets their mean
    order = [classifier.classes.index(name) for name in known]
    own = [list(classes).index(name) for name in known]
    labels = torch.from_numpy(as_matrix(scans.labels, len(classes))[:, own])
    means, present = prototypes(logits[:, order], labels)
    matrix = np.full((len(classes), len(classes)), np.nan)
    found = similarities(means).numpy()
    found[~present.numpy()] = found[:, ~present.numpy()] = np.nan
    matrix[np.ix_(own, own)] = found
    return matrix

"""Logistic regression on frozen features, as the weights of a linear layer."""

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

STRENGTHS = np.logspace(-4, -1, 4)  # C of the linear head: small C, strong shrinkage


def label_numbers(labels, classes, multilabel=False) -> np.ndarray:
    """Labels as numbers: int64 (N,) in the order of `classes`, or float32 0/1 (N, K)."""
    labels, classes = np.asarray(labels), [str(c) for c in classes]
    if multilabel:
        wanted = (len(labels), len(classes))
        if labels.shape != wanted or not np.isin(labels, (0, 1)).all():
            raise ValueError(f"Labels must be 0/1 of shape {wanted}, not {labels.shape}")
        labels = labels.astype(np.float32)
        missing = [c for c, share in zip(classes, labels.mean(0)) if share in (0, 1)]
    else:
        index = {name: i for i, name in enumerate(classes)} | {i: i for i in range(len(classes))}
        if unknown := set(labels.tolist()) - index.keys():
            raise ValueError(f"Label {min(unknown)} is none of the classes {', '.join(classes)}")
        labels = np.array([index[label] for label in labels.tolist()], np.int64)
        missing = [c for i, c in enumerate(classes) if i not in labels]
    if missing:
        raise ValueError(
            f"{len(labels)} images without contrast: all or none of them are {', '.join(missing)}"
        )
    return labels


def _held_out_loss(model, rows, labels, taught, held) -> float:
    """Of a model fitted to the rows ``taught``; it begins where it was, which saves steps."""
    model.fit(rows[taught], labels[taught])
    said = model.predict_log_proba(rows[held])
    return -said[np.arange(len(held)), np.searchsorted(model.classes_, labels[held])].mean()


def linear_head(features, labels, patients=None, *, seed=0):
    """Logistic regression on standardised features (N, d) as weight (K, d) and bias (K,), float32.

    Labels as `label_numbers` gives them. C is the one of STRENGTHS with the best log-likelihood on
    held-out patients; the middle one where some class has fewer than two patients.
    """
    if labels.ndim == 2:
        heads = [linear_head(features, c.astype(np.int64), patients, seed=seed) for c in labels.T]
        return np.stack([w[1] - w[0] for w, _ in heads]), np.stack([b[1] - b[0] for _, b in heads])
    patients = np.arange(len(labels)) if patients is None else np.asarray(patients)
    scaler = StandardScaler()
    rows, turned = scaler.fit_transform(features.astype(np.float64)), None
    if len(rows) < rows.shape[1] / 2:  # few scans span few directions; a shrunk head has no other
        left, spread, turned = np.linalg.svd(rows, full_matrices=False)
        rows = left * spread
    model = LogisticRegression(class_weight="balanced", max_iter=1000, warm_start=True)
    folds = min(5, *(len(set(patients[labels == k])) for k in set(labels.tolist())))
    strength = STRENGTHS[len(STRENGTHS) // 2]
    if folds > 1:
        split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        every = set(labels.tolist())  # a patient of several classes may take one of them along
        lost = [
            [_held_out_loss(model.set_params(C=C), rows, labels, *sides) for C in STRENGTHS]
            for sides in split.split(rows, labels, patients)
            if set(labels[sides[0]].tolist()) == every
        ]
        strength = STRENGTHS[np.mean(lost, 0).argmin()] if lost else strength
    logistic = clone(model).set_params(C=strength).fit(rows, labels)
    weight = logistic.coef_ if turned is None else logistic.coef_ @ turned
    weight = weight / scaler.scale_
    bias = logistic.intercept_ - weight @ scaler.mean_
    if len(weight) == 1:  # two classes: the first one's logit is zero
        weight, bias = np.vstack([0 * weight, weight]), np.append(0 * bias, bias)
    return weight.astype(np.float32), bias.astype(np.float32)

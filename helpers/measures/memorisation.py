"""Are synthetic scans copies of training scans? Nearest neighbours, and a threshold from patients.

A scan that copies nothing has a nearest training scan too. How near that is, is measured on real
scans of patients the generator never saw; what lies nearer than almost all of those is a copy.
"""

import numpy as np
from scipy.stats import beta, betabinom

from helpers.measures.alignment import Alignment
from helpers.measures.effects import effect

FALSE_SHARE = 0.01  # of unseen real scans that may be called copies, where there are enough of them
HEADLINE = ("copied_share", "low", "high", "expected_share", "excess", "p_value")


def design_effect(values, groups):
    """By how much the values (N,) of groups (N,) tell less than N independent ones: 1 or more.

    1 + (m - 1) rho, rho the intraclass correlation and m the size of the group a value is in, on
    average (Kish 1965, Survey Sampling, section 5.4). None: every value stands for itself.
    """
    names, member, sizes = np.unique(
        np.arange(len(values)) if groups is None else groups, return_inverse=True,
        return_counts=True,
    )  # fmt: skip
    n, count = len(values), len(names)
    if count == n or count < 2:
        return float(n / count)
    means = np.bincount(member, values) / sizes
    between = (sizes * (means - np.mean(values)) ** 2).sum() / (count - 1)
    within = ((values - means[member]) ** 2).sum() / (n - count)
    typical = (n - (sizes**2).sum() / n) / (count - 1)
    rho = (between - within) / max(between + (typical - 1) * within, 1e-12)
    return float(1 + ((sizes**2).sum() / n - 1) * np.clip(rho, 0, 1))


def _threshold(unseen):
    """(the k-th smallest of U distances, k / (U + 1)): at most FALSE_SHARE, but k at least 1."""
    rank = max(1, int(FALSE_SHARE * (len(unseen) + 1)))
    return float(np.sort(unseen)[rank - 1]), rank / (len(unseen) + 1)


def copies(synthetic, unseen, patients=None):
    """What share of synthetic scans are copies, from distances to the nearest training scan.

    synthetic (N,), unseen (U,): of the synthetic scans and of real ones that taught nothing, whose
    patients are (U,) names. Below the threshold lie k of the U, and `copied_share` of the synthetic
    scans, low and high by Clopper and Pearson (Biometrika 1934). `expected_share` would if none
    were a copy: k / (U + 1), or, if that is more, the share of a patient's scans below the
    threshold that the other patients set, on average. With few patients it is itself uncertain: a
    Beta variable of that mean and (U + 1) / `design_effect` counts; expected_low and expected_high
    are its 95 % interval. `excess`: copied beyond expected, as a share of the rest, with both
    intervals at their worst. `p_value`: how often as many would be copies, were none.
    """
    n, unseen = len(synthetic), np.asarray(unseen)
    threshold, expected = _threshold(unseen)
    if patients is not None and len(np.unique(patients)) > 1:
        below = [
            unseen[patients == name] < _threshold(unseen[patients != name])[0]
            for name in np.unique(patients)
        ]
        expected = max(expected, float(np.concatenate(below).mean()))
    copied = int((np.asarray(synthetic) < threshold).sum())
    low = float(beta.ppf(0.025, copied, n - copied + 1)) if copied else 0.0
    high = float(beta.ppf(0.975, copied + 1, n - copied)) if copied < n else 1.0
    few = design_effect(unseen, patients)
    counts = (len(unseen) + 1) / few
    false = expected * counts, (1 - expected) * counts
    expected_low, expected_high = beta.ppf([0.025, 0.975], *false)

    def beyond(share, wrong):
        return float(max(0.0, (share - wrong) / (1 - wrong)))

    return {
        "copied_share": copied / n,
        "low": low,
        "high": high,
        "expected_share": expected,
        "expected_low": float(expected_low),
        "expected_high": float(expected_high),
        "excess": {
            "value": beyond(copied / n, expected),
            "low": beyond(low, expected_high),
            "high": beyond(high, expected_low),
        },
        "p_value": float(betabinom.sf(copied - 1, n, *false)),
        "design_effect": few,
        "threshold": threshold,
        "median_synthetic": float(np.median(synthetic)),
        "median_unseen": float(np.median(unseen)),
    }


def preference(to_training, to_unseen, training_patients=None, unseen_patients=None, *, seed=0):
    """Do synthetic scans lie nearer to training patients than to unseen ones?

    to_training (N, T), to_unseen (N, U): distances. `nearer_to_training` is the share of synthetic
    scans whose nearest of n training scans is nearer than that of n unseen ones, n the smaller
    number, and `ratio` the median of the one distance by the other (means of 20 draws of n): 0.5
    and 1 if training left no trace. `membership_auroc`: how well a real scan's distance to its
    nearest synthetic one tells whether it was trained on (Chen et al., CCS 2020, GAN-Leaks), with
    a 95 % interval over patients. Two small groups of patients differ by chance alone, so none of
    these proves a leak by itself.
    """
    rng = np.random.default_rng(seed)
    n = min(to_training.shape[1], to_unseen.shape[1])
    nearer, ratio = [], []
    for _ in range(20):
        a = to_training[:, rng.permutation(to_training.shape[1])[:n]].min(1)
        b = to_unseen[:, rng.permutation(to_unseen.shape[1])[:n]].min(1)
        nearer.append(np.mean(a < b) + np.mean(a == b) / 2)
        ratio.append(np.median(a / np.maximum(b, 1e-6)))
    delta = effect(
        -to_unseen.min(0), -to_training.min(0), unseen_patients, training_patients, seed=seed
    )
    auroc = [None if bound is None else (bound + 1) / 2 for bound in delta]
    return {
        "nearer_to_training": float(np.mean(nearer)),
        "ratio": float(np.mean(ratio)),
        "membership_auroc": dict(zip(("value", "low", "high"), auroc)),
    }


def memorisation_report(
    synthetic, training, unseen=None, *, features=None, training_patients=None,
    unseen_patients=None, limit=1000, seed=0, progress=False,
):  # fmt: skip
    """What report.json says about memorisation: the measures of `copies` for the aligned pixels.

    synthetic, training, unseen: images (N, C, H, W), uint8 or float [-1, 1], or lists of (C, H,
    W). unseen: real scans of patients that taught nothing; without them the training scans stand
    in, each compared with those of other patients. No real scan is compared with its own patient,
    as far as training_patients and unseen_patients, a name per scan, tell. features: None, or
    arrays (N, d) of the three in the order of their images (the last None as `unseen`), all taken
    at the synthetic scans' size, or copies of less resolution go unnoticed. More than `limit`
    images of a kind are thinned out at random.

    Besides: `pixels` and `features`, what `copies` and `preference` find by 1 - correlation of
    aligned pixels and by 1 - cosine, with all nearest distances; `closest`: the ten synthetic scans
    nearest to a training scan, {synthetic, training: indices into what was passed in, similarity,
    distance, copy, mirrored, shift}: the training scan, mirrored first if so and then moved by
    `shift` = [down, right] in px of the synthetic one, lies on it. Where nothing can be measured,
    copied_share is None and `reason` says why.
    """
    if training is None or len(training) < 2 or len(synthetic) == 0:
        known = "no training scans are known" if training is None else "too few scans"
        return _nothing(known)
    rng = np.random.default_rng(seed)
    chosen = [
        np.sort(rng.permutation(0 if images is None else len(images))[:limit])
        for images in (synthetic, training, unseen)
    ]
    synthetic_images, training_images = _some(synthetic, chosen[0]), _some(training, chosen[1])
    training_names = _some(training_patients, chosen[1])
    alone = len(chosen[2]) == 0  # no unseen scans: training scans stand in
    names = training_names if alone else _some(unseen_patients, chosen[2])
    barred = np.eye(len(chosen[1]), dtype=bool) if alone else np.zeros((1, 1), bool)
    if training_names is not None and names is not None:
        barred = barred | (np.asarray(names)[:, None] == np.asarray(training_names))
    if barred.all():
        return _nothing("all real scans are of one patient: there is none to compare with")

    def measured(to_training, real_to_training, to_unseen):
        """From distances (N, T), (U or T, T), (N, U) or None."""
        nearest = to_training.min(1)
        reference = np.where(barred, np.inf, real_to_training).min(1)
        free = np.isfinite(reference)
        reference = reference[free]
        result = copies(nearest, reference, None if names is None else np.asarray(names)[free])
        if to_unseen is not None:
            result |= preference(to_training, to_unseen, training_names, names, seed=seed)
        lists = {"nearest_synthetic": nearest, "nearest_unseen": reference}
        return result | {name: values.round(4).tolist() for name, values in lists.items()}

    alignment = Alignment(training_images)
    to_training = 1 - alignment.similarity(synthetic_images, progress=progress)
    if alone:
        pixels = measured(to_training, 1 - alignment.similarity(training_images), None)
    else:
        unseen_images = _some(unseen, chosen[2])
        to_unseen = 1 - Alignment(unseen_images, alignment.weight).similarity(synthetic_images)
        pixels = measured(to_training, 1 - alignment.similarity(unseen_images), to_unseen)
    deep = {"copied_share": None, "reason": "no features were given"}
    if features is not None:
        made, seen, new = (
            None if rows is None else _unit(np.asarray(rows)[which])
            for rows, which in zip((*features, None)[:3], chosen)
        )
        new = seen if alone else new
        deep = measured(1 - made @ seen.T, 1 - new @ seen.T, None if alone else 1 - made @ new.T)

    report = {name: pixels[name] for name in HEADLINE}
    report["n_synthetic"], report["n_training"] = len(chosen[0]), len(chosen[1])
    report["n_unseen"] = len(pixels["nearest_unseen"])
    report["pixels"], report["features"] = pixels, deep
    report["closest"] = _closest(
        alignment, synthetic_images, to_training, pixels["threshold"], chosen
    )
    report["warnings"] = _warnings(pixels, alone, names)
    return report


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _some(items, chosen):
    """The chosen of a list, an array or None."""
    if items is None:
        return None
    return [items[i] for i in chosen] if isinstance(items, (list, tuple)) else items[chosen]


def _nothing(reason):
    empty = {"copied_share": None, "reason": reason}
    return {**empty, "pixels": dict(empty), "features": dict(empty), "closest": [], "warnings": []}


def _closest(alignment, images, distances, threshold, chosen, count=10):
    order = np.argsort(distances.min(1), kind="stable")[:count]
    _, which = alignment.similarity(_some(images, order), alignments=True)
    pairs = []
    for row, made in enumerate(order):
        training = int(distances[made].argmin())
        distance = float(distances[made, training])
        mirrored, down, right = alignment.shifts[which[row, training]]
        height, width = np.shape(images[made])[-2:]
        pairs.append({
            "synthetic": int(chosen[0][made]), "training": int(chosen[1][training]),
            "similarity": 1 - distance, "distance": distance, "copy": distance < threshold,
            "mirrored": mirrored, "shift": [round(down * height, 1), round(right * width, 1)],
        })  # fmt: skip
    return pairs


def _warnings(found, alone, patients):
    warnings, count = [], len(found["nearest_unseen"])
    if alone:
        warnings.append(
            "no unseen scans: the threshold comes from training scans and those of other patients"
        )
    if patients is None:
        warnings.append(
            "patients unknown: scans of one eye may have set the threshold too strictly"
        )
    if count < 99:
        warnings.append(
            f"only {count} unseen scans: {found['expected_share']:.1%} (up to "
            f"{found['expected_high']:.1%}) of scans that are no copies lie below the threshold"
        )
    if patients is not None and (people := len(np.unique(patients))) < 20:
        warnings.append(f"the unseen scans are of {people} patient(s) only: the threshold is less "
                        "certain than the number of scans suggests")  # fmt: skip
    return warnings

"""Are synthetic scans copies of training scans? Nearest neighbours, and a threshold from patients.

A scan that copies nothing has a nearest training scan too. How near that is, is measured on real
scans of patients the generator never saw; what lies nearer than almost all of those is a copy.
Whether training left a trace at all is asked of the members, beside a control that has none.
"""

import numpy as np
from scipy.stats import beta, betabinom

from helpers.measures.alignment import Alignment
from helpers.measures.intervals import holm, interval, patient_weights

FALSE_SHARE = 0.01  # of unseen real scans that may be called copies, where there are enough of them
DRAWS = 20  # of equally many scans, where two sets of different size are compared
VOLUME = 3  # scans of a patient from which on they can be copied as a volume
NEAR_VOLUME = 0.02  # of other patients' scans lie that near to one: 0.01 of few is less certain
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


def _threshold(unseen, false_share):
    """(the k-th smallest of U distances, k / (U + 1)): at most false_share, but k at least 1."""
    rank = max(1, int(false_share * (len(unseen) + 1)))
    return float(np.sort(unseen)[rank - 1]), rank / (len(unseen) + 1)


def exact(count, n):
    """count of n: the share, low and high (95 %, Clopper & Pearson, Biometrika 1934)."""
    low = float(beta.ppf(0.025, count, n - count + 1)) if count else 0.0
    return count / n, low, float(beta.ppf(0.975, count + 1, n - count)) if count < n else 1.0


def copies(synthetic, unseen, patients=None, false_share=FALSE_SHARE):
    """What share of synthetic scans are copies, from distances to the nearest training scan.

    synthetic (N,), unseen (U,): of the synthetic scans and of real ones that taught nothing, whose
    patients are (U,) names. Below the threshold lie k of the U, and `copied_share` of the synthetic
    scans, with its `exact` interval, low to high. `expected_share` would if none were a copy:
    k / (U + 1), or, if that is more, the share of a patient's scans below the threshold that the
    other patients set, on average. With few patients it is itself uncertain: a
    Beta variable of that mean and (U + 1) / `design_effect` counts; expected_low and expected_high
    are its 95 % interval. `excess`: copied beyond expected, as a share of the rest, with both
    intervals at their worst. `p_value`: how often as many would be copies, were none.
    """
    n, unseen = len(synthetic), np.asarray(unseen)
    threshold, expected = _threshold(unseen, false_share)
    if patients is not None and len(np.unique(patients)) > 1:
        below = [
            unseen[patients == name] < _threshold(unseen[patients != name], false_share)[0]
            for name in np.unique(patients)
        ]
        expected = max(expected, float(np.concatenate(below).mean()))
    copied = int((np.asarray(synthetic) < threshold).sum())
    share, low, high = exact(copied, n)
    few = design_effect(unseen, patients)
    counts = (len(unseen) + 1) / few
    false = expected * counts, (1 - expected) * counts
    expected_low, expected_high = beta.ppf([0.025, 0.975], *false)

    def beyond(share, wrong):
        return float(max(0.0, (share - wrong) / (1 - wrong)))

    return {
        "copied_share": share,
        "low": low,
        "high": high,
        "expected_share": expected,
        "expected_low": float(expected_low),
        "expected_high": float(expected_high),
        "excess": {
            "value": beyond(share, expected),
            "low": beyond(low, expected_high),
            "high": beyond(high, expected_low),
        },
        "p_value": float(betabinom.sf(copied - 1, n, *false)),
        "design_effect": few,
        "threshold": threshold,
        "median_synthetic": float(np.median(synthetic)),
        "median_unseen": float(np.median(unseen)),
    }


def preference(to_training, to_unseen, *, seed=0):
    """Do synthetic scans lie nearer to training scans than to unseen ones?

    to_training (N, T), to_unseen (N, U): distances. `nearer_to_training` is the share of synthetic
    scans whose nearest of n training scans is nearer than that of n unseen ones, n the smaller
    number, and `ratio` the median of the one distance by the other (means of 20 draws of n): 0.5
    and 1 if training left no trace. Two small groups of patients differ by chance alone, so neither
    proves a leak by itself.
    """
    rng = np.random.default_rng(seed)
    n = min(to_training.shape[1], to_unseen.shape[1])
    nearer, ratio = [], []
    for _ in range(DRAWS):
        a = to_training[:, rng.permutation(to_training.shape[1])[:n]].min(1)
        b = to_unseen[:, rng.permutation(to_unseen.shape[1])[:n]].min(1)
        nearer.append(np.mean(a < b) + np.mean(a == b) / 2)
        ratio.append(np.median(a / np.maximum(b, 1e-6)))
    return {"nearer_to_training": float(np.mean(nearer)), "ratio": float(np.mean(ratio))}


def membership(synthetic, control, member, patients, *, resamples=1000, seed=0):
    """Does it show which scans were trained on, more than it does where nothing was trained?

    The attack (Chen et al., CCS 2020, GAN-Leaks) calls a real scan a member if its nearest
    synthetic scan is near; its AUROC is 0.5 without a leak if members and others are alike. Of few
    patients they never are: some are more ordinary than others, hence near to anything. So the same
    attack is made with control scans that no training could have shaped, and what counts is the
    difference (the control scored as high as the attack on StyleGAN3: arXiv 2505.01524).

    synthetic (N, R), control (C, R): distances to R real scans, infinite where control and real
    scan are of one patient. member (R,): bool. patients (R,): names. Both attacks use `n` scans,
    the smaller number, on average over 20 draws. Returns {"n", "attack", "control", "excess":
    attack minus control}, the intervals from one paired bootstrap over members' and others'
    patients; low and high are None where a side has a single patient.
    """
    rng = np.random.default_rng(seed)
    n, ours, theirs = min(len(synthetic), len(control)), patients[member], patients[~member]
    weights = [
        patient_weights(names, resamples, [seed, k]) for k, names in enumerate((ours, theirs))
    ]
    areas = {}
    for name, distances in (("attack", synthetic), ("control", control)):
        order, draws = 0.0, DRAWS if len(distances) > n else 1
        for _ in range(draws):
            nearest = distances[rng.permutation(len(distances))[:n]].min(0)
            inside, outside = nearest[member][:, None], nearest[~member]
            order = order + ((inside < outside) + 0.5 * (inside == outside)) / draws
        pairs = weights[0].sum(1) * weights[1].sum(1)
        areas[name] = ((weights[0] @ order) * weights[1]).sum(1) / pairs
    areas["excess"] = areas["attack"] - areas["control"]
    found = {name: interval(values) for name, values in areas.items()}
    if min(len(np.unique(ours)), len(np.unique(theirs))) < 2:
        found = {name: value | {"low": None, "high": None} for name, value in found.items()}
    return {"n": n, **found}


def near_volumes(synthetic, real, trained, patients):
    """Whose volume is drawn again, though no single scan need be a copy?

    synthetic (N, R), real (R, R): distances to R real scans. trained (R,): bool. patients (R,):
    names. For each patient with VOLUME scans or more, `copies` asks what share of synthetic scans
    lies nearer to any of them than NEAR_VOLUME of all other patients' scans do. A patient stands
    out if that happens by chance with p < 0.05, after Holm's correction over the patients. The same
    is asked of patients whom nobody trained on: they should not stand out, and how many do is the
    false alarm. Returns {"trained", "unseen": {"patients", "stand_out", "largest": {"share",
    "expected", "p_value", "scan": which of the R}}}, and None for a side without such patients.
    """
    sides = {"trained": None, "unseen": None}
    for side, those in (("trained", trained), ("unseen", ~trained)):
        names, counts = np.unique(patients[those], return_counts=True)
        found = []
        for name in names[counts >= VOLUME]:
            own = patients == name
            if own.all():
                continue
            others = real[~own][:, own].min(1)
            one = copies(synthetic[:, own].min(1), others, patients[~own], NEAR_VOLUME)
            found.append((one["p_value"], -one["copied_share"], one["expected_share"],
                          int(np.flatnonzero(own)[0])))  # fmt: skip
        if found:
            found.sort()
            p_values = np.array(holm([row[0] for row in found]))
            _, share, expected, scan = found[0]
            sides[side] = {
                "patients": len(found),
                "stand_out": int((p_values < 0.05).sum()),
                "largest": {"share": -share, "expected": expected, "p_value": float(p_values[0]),
                            "scan": scan},
            }  # fmt: skip
    return sides


def memorisation_report(
    synthetic, training, unseen=None, *, features=None, training_patients=None,
    unseen_patients=None, control=None, planted=None, limit=1000, seed=0, progress=False,
):  # fmt: skip
    """What report.json says about memorisation: the measures of `copies` for the aligned pixels.

    synthetic, training, unseen: images (N, C, H, W), uint8 or float [-1, 1], or lists of (C, H,
    W). unseen: real scans of patients that taught nothing; without them the training scans stand
    in, each compared with those of other patients. No real scan is compared with its own patient,
    as far as training_patients and unseen_patients, a name per scan, tell. features: None, or
    arrays (N, d) of the three in the order of their images (the last None as `unseen`), all taken
    at the synthetic scans' size, or copies of less resolution go unnoticed. control: images of a
    generator that saw neither side, for `membership` in pixels; without them every real scan is
    asked about the real scans of all other patients. planted: {disguise: copies of training scans},
    to see what share of copies the threshold misses. More than `limit` images of a kind are thinned
    out at random.

    Besides: `pixels` and `features`, what `copies`, `preference`, `membership` and `near_volumes`
    find by 1 - correlation of aligned pixels and by 1 - cosine, with all nearest distances;
    `missed`: {disguise: {value, low, high, n}}; `closest`: the ten synthetic scans
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
    unseen_names = _some(unseen_patients, chosen[2])
    names = training_names if alone else unseen_names
    trained = np.arange(len(chosen[1]) + len(chosen[2])) < len(chosen[1])
    compared = len(chosen[1]) / len(training)  # a copy of another training scan is not noticed
    patients = np.array([  # a scan of nobody known is a patient of its own
        str(name) for side, known, rows in (("training", training_names, chosen[1]),
                                            ("unseen", unseen_names, chosen[2]))
        for name in (known if known is not None else [f"{side} {i}" for i in rows])
    ])  # fmt: skip
    barred = patients[:, None] == patients
    stands_in = trained if alone else ~trained
    if barred[stands_in][:, trained].all():
        return _nothing("all real scans are of one patient: there is none to compare with")

    def measured(made, real, other=None):
        """From distances of synthetic, real and other scans (N, C or R, R) to all R real ones."""
        nearest, real = made[:, trained].min(1), np.where(barred, np.inf, real)
        reference = real[stands_in][:, trained].min(1)
        free = np.isfinite(reference)
        reference = reference[free]
        result = copies(nearest, reference, None if names is None else np.asarray(names)[free])
        result["excess"] = {k: min(1.0, v / compared) for k, v in result["excess"].items()}
        if not alone:
            result |= preference(made[:, trained], made[:, ~trained], seed=seed)
            result["membership"] = membership(
                made, real if other is None else other, trained, patients, seed=seed
            )
            kind = "real scans of other patients" if other is None else "another generator"
            result["membership"]["control_is"] = kind
        result["volumes"] = near_volumes(made, real, trained, patients)
        lists = {"nearest_synthetic": nearest, "nearest_unseen": reference}
        return result | {name: values.round(4).tolist() for name, values in lists.items()}

    alignment = Alignment(training_images)
    unseen_images = [] if alone else _some(unseen, chosen[2])
    new = None if alone else Alignment(unseen_images, alignment.weight)

    def aligned(images, progress=False):
        """Distances (N, R) of images to the training scans and the unseen ones."""
        sides = [1 - alignment.similarity(images, progress=progress)]
        return np.concatenate(sides if alone else [*sides, 1 - new.similarity(images)], 1)

    made, real = aligned(synthetic_images, progress), aligned(training_images)
    if not alone:
        real = np.concatenate([real, aligned(unseen_images)])
    pixels = measured(made, real, None if control is None else aligned(control[:limit]))
    to_training = made[:, trained]
    deep = {"copied_share": None, "reason": "no features were given"}
    if features is not None:
        rows = [None if rows is None else _unit(np.asarray(rows)[which])
                for rows, which in zip((*features, None)[:3], chosen)]  # fmt: skip
        real = rows[1] if alone else np.concatenate(rows[1:])
        deep = measured(1 - rows[0] @ real.T, 1 - real @ real.T)

    report = {name: pixels[name] for name in HEADLINE}
    report["n_synthetic"], report["n_training"] = len(chosen[0]), len(chosen[1])
    report["n_unseen"] = len(pixels["nearest_unseen"])
    report["pixels"], report["features"] = pixels, deep
    report["missed"] = {}
    for disguise, images in (planted or {}).items():
        far = 1 - alignment.similarity(images).max(1) >= pixels["threshold"]
        found = dict(zip(("value", "low", "high"), exact(int(far.sum()), len(far))))
        report["missed"][disguise] = found | {"n": len(far)}
    report["closest"] = _closest(
        alignment, synthetic_images, to_training, pixels["threshold"], chosen
    )
    report["warnings"] = _warnings(pixels, alone, names)
    if compared < 1:
        words = (
            f"only {len(chosen[1])} of {len(training)} training scans were compared: about "
            f"{1 - compared:.0%} of all copies lie among the others and go unnoticed; what is "
            "beyond expected is scaled up to all of them, the share below the threshold is not"
        )
        report["warnings"].insert(0, words)
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
    return {**empty, "pixels": dict(empty), "features": dict(empty), "missed": {}, "closest": [],
            "warnings": []}  # fmt: skip


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

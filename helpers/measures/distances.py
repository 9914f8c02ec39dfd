"""Kernel distance between sets of images, its uncertainty over patients, and its yardsticks."""

import numpy as np
from scipy.ndimage import gaussian_filter

from helpers.measures.intervals import ENDS


def polynomial_kernel(x, y):
    """k(x, y) = (x.y / d + 1)^3 for feature rows x (N, d) and y (M, d); float64 (N, M)."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return (x @ y.T / x.shape[1] + 1) ** 3


def kernel_distance(x, y, x_groups=None, y_groups=None, *, paired=False):
    """Unbiased squared maximum mean discrepancy between feature sets, times 1000.

    x (N, d), y (M, d): features, at least two rows each. The kernel is cubic (Binkowski et al.
    2018, section 4, the KID) and all samples are used at once. Zero means alike; because it is
    unbiased it can fall a little below zero. torchmetrics offers the same for equal set sizes
    only.

    x_groups (N,), y_groups (M,): patients, or None, every row by itself. Scans of one patient are
    more alike than those of two, so with their pairs two sets of one population would lie above
    zero: pairs of one patient are left out, unless there is no other patient.

    paired=True: row i of both sets shows the same scan (before and after blurring, say). Such
    rows depend on each other, so their pairs, and those of a patient, are left out of the cross
    term (Gretton et al. 2012, lemma 6, equation 4); with them a small set would seem closer than it
    is.
    """
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise ValueError(f"A kernel distance needs two images on each side, not {n} and {m}")
    if paired and n != m:
        raise ValueError(f"Paired sets have equal sizes, not {n} and {m}")
    x_apart, y_apart = _apart(x_groups, n), _apart(y_groups, m)
    within_x = polynomial_kernel(x, x)[x_apart].mean()
    within_y = polynomial_kernel(y, y)[y_apart].mean()
    across = polynomial_kernel(x, y)
    across = across[x_apart].mean() if paired else across.mean()
    return float(1000 * (within_x + within_y - 2 * across))


def _apart(groups, n) -> np.ndarray:
    """Which pairs of n rows show two patients, bool (n, n); of one patient alone, two rows."""
    groups = np.arange(n) if groups is None else np.asarray(groups)
    if len(groups) != n:
        raise ValueError(f"{n} images but {len(groups)} group names")
    apart = groups[:, None] != groups
    return apart if apart.any() else ~np.eye(n, dtype=bool)


def _members(groups, n):
    """Indicator matrix (G, N) of who belongs to which group; None: everyone is a group."""
    groups = np.arange(n) if groups is None else np.asarray(groups)
    if len(groups) != n:
        raise ValueError(f"{n} images but {len(groups)} group names")
    names, index = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise ValueError("An interval over patients needs at least two patients")
    return np.eye(len(names))[:, index]


def _draws(members, resamples, rng):
    """How often each group is drawn, (resamples, G): sampling with replacement."""
    count = len(members)
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples)


def _within(x, members, draws, y=None):
    """Mean kernel between patients of one set for every resample, (resamples,); of y, whose rows
    show the same scans, between both."""
    sums = members @ polynomial_kernel(x, x if y is None else y) @ members.T
    pairs = np.outer(members.sum(1), members.sum(1))
    # A patient is paired with others alone, as in ``kernel_distance``: not with its copies either,
    # or resampling would raise the similarity within the set.
    for matrix in (sums, pairs):
        np.fill_diagonal(matrix, 0)
    total, count = (np.einsum("rg,rg->r", draws @ matrix, draws) for matrix in (sums, pairs))
    return total / np.where(count > 0, count, np.nan)


def _across(x, y, x_members, y_members, x_draws, y_draws):
    sums = x_members @ polynomial_kernel(x, y) @ y_members.T
    weight = (x_draws @ x_members.sum(1)) * (y_draws @ y_members.sum(1))
    return np.einsum("rg,rg->r", x_draws @ sums, y_draws) / weight


def resampled_distances(
    x, y, x_groups=None, y_groups=None, *, resamples=1000, seed=0, paired=False
):
    """Kernel distances of `resamples` bootstrap samples, drawing whole groups; (resamples,).

    Groups are patients (equal names, one patient); None takes every image by itself, which is
    right for generated ones. A plain bootstrap of this distance is biased upwards, because a
    sample drawn twice is its own perfect match. Here a group is paired with others alone, so the
    mean over resamples stays at the estimate. All kernels are computed once.
    """
    rng = np.random.default_rng(seed)
    x_members, y_members = _members(x_groups, len(x)), _members(y_groups, len(y))
    x_draws, y_draws = _draws(x_members, resamples, rng), _draws(y_members, resamples, rng)
    if paired:  # the same patients on both sides, and no scan beside its own picture
        y_draws = x_draws
        across = _within(x, x_members, x_draws, y)
    else:
        across = _across(x, y, x_members, y_members, x_draws, y_draws)
    within = _within(x, x_members, x_draws) + _within(y, y_members, y_draws)
    return 1000 * (within - 2 * across)


def kernel_distance_interval(
    x, y, x_groups=None, y_groups=None, *, resamples=1000, seed=0, paired=False
):
    """(low, high), 95 %, of ``kernel_distance`` by bootstrap over groups (patients).

    ValueError with fewer than two groups on a side. Below about five patients it should
    not be trusted.
    """
    values = resampled_distances(x, y, x_groups, y_groups, resamples=resamples, seed=seed,
                                 paired=paired)  # fmt: skip
    return tuple(np.nanquantile(values, ENDS).tolist())


def log_ratio_interval(a, b, real, real_groups=None, *, resamples=1000, seed=0):
    """Compare two generators against the same real scans: log(distance a / distance b).

    a, b: features of generated images; real: features of real scans, real_groups their patients.
    Returns (value, low, high); below zero throughout means that a is nearer to the real scans.
    Both are measured against the same resampled patients, so what a patient adds to both cancels.
    It says nothing of the spread between training seeds. ValueError when an estimate is not above
    zero: then there is no ratio to speak of.
    """
    estimates = (kernel_distance(a, real, None, real_groups),
                 kernel_distance(b, real, None, real_groups))  # fmt: skip
    if min(estimates) <= 0:
        raise ValueError(f"No ratio of kernel distances {estimates[0]:.2f} and {estimates[1]:.2f}")
    rng = np.random.default_rng(seed)
    members = _members(real_groups, len(real))
    draws = _draws(members, resamples, rng)
    within_real = _within(real, members, draws)

    def resampled(x):
        x_members = _members(None, len(x))
        x_draws = _draws(x_members, resamples, rng)
        across = _across(x, real, x_members, members, x_draws, draws)
        values = 1000 * (_within(x, x_members, x_draws) + within_real - 2 * across)
        return np.maximum(values, 0.01)  # an unbiased estimate may fall below zero, a log not

    low, high = np.nanquantile(np.log(resampled(a) / resampled(b)), ENDS)
    return float(np.log(estimates[0] / estimates[1])), float(low), float(high)


def distance_report(
    synthetic, training, test, *, features, other_class=None, other_class_name="another class",
    limit=1000, resamples=1000, seed=0, progress=False,
):  # fmt: skip
    """The parts of report.json that are distances; `evaluate.report.complete` adds the others.

    synthetic: uint8 or float [-1, 1] images (N, C, S, S). training, test: Splits of the same Data
    at full size, 256 px or more (test patients were not used to train or to choose anything).
    other_class: a Split of real scans of another class, at full size too. features: a `Features`.
    More than `limit` images of a kind are thinned out at random.

    Returned: a dict of plain numbers. `kernel_distance.value` is synthetic to unseen patients with
    a 95 % interval over those patients, `floor` the same for real training scans, `scale` what
    another class, a blur (sigma 3 px of 224) and white noise of the same brightness and contrast
    measure on this yardstick, `resolution` what reducing real scans to S px costs by itself.
    Needs two images of each kind (ValueError); what makes a number doubtful is in `warnings`.
    """
    rng = np.random.default_rng(seed)

    def some(images, *patients):
        chosen = np.sort(rng.permutation(len(images))[:limit])
        part = [images[i] for i in chosen] if isinstance(images, list) else images[chosen]
        return part, *(np.asarray(names)[chosen] for names in patients)

    scans, patients = some(test.images, test.patients)
    real = features(scans, progress)
    known, their_patients = some(training.images, training.patients)
    seen = features(known, progress)
    made = features(*some(synthetic), progress)
    value = kernel_distance(made, real, None, patients)
    count, warnings = len(np.unique(patients)), []
    for name, n in (("synthetic", len(made)), ("test", len(real)), ("training", len(seen))):
        if n < 50:
            warnings.append(f"only {n} {name} images: the distance is uncertain")
    low = high = None
    if count < 5:
        warnings.append(f"only {count} test patient(s): do not rely on the interval")
    if count > 1:
        low, high = kernel_distance_interval(
            made, real, None, patients, resamples=resamples, seed=seed
        )

    small = features.resize(scans).cpu().numpy()
    blurred = gaussian_filter(small, (0, 0, 3, 3))
    mean, spread = small.mean((1, 2, 3), keepdims=True), small.std((1, 2, 3), keepdims=True)
    noise = np.clip(rng.normal(mean, spread, small.shape), -1, 1).astype(np.float32)
    other = None
    if other_class is not None and len(other_class.images) > 1:
        other_scans, others = some(other_class.images, other_class.patients)
        away = kernel_distance(features(other_scans, progress), real, others, patients)
        other = {"name": other_class_name, "value": away}

    size = int(np.shape(synthetic)[-1])
    resolution = {"size": size, "value": None}
    if scans.shape[-1] > size:
        reduced = features(features.resize(scans, size), progress)
        resolution["value"] = kernel_distance(real, reduced, patients, patients, paired=True)
        same_size = kernel_distance(made, reduced, None, patients)
    else:
        resolution["reason"] = f"the scans are not larger than {size} px"
        same_size = value

    def damaged(pictures):
        rows = features(pictures, progress)
        return kernel_distance(real, rows, patients, patients, paired=True)

    return {
        "features": f"{getattr(features, 'name', 'its own')}, ImageNet weights, 224 px; x1000; "
        "not the published KID",
        "kernel_distance": {
            "value": value, "low": low, "high": high,
            "floor": kernel_distance(seen, real, their_patients, patients),
            "n_synthetic": len(made), "n_real": len(real), "patients": count,
            "to_training": kernel_distance(made, seen, None, their_patients),
            "same_size": same_size,
        },
        "scale": {"other_class": other, "blur": damaged(blurred), "noise": damaged(noise)},
        "resolution": resolution, "warnings": warnings,
    }  # fmt: skip

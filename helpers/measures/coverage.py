"""Are the synthetic scans real, are all kinds there, and which are missing?

Precision, recall, density and coverage say how many. Modes say which: real scans are grouped by
their features, every synthetic scan is given to the nearest group, and the shares are compared: a
mode that patients have and the generator does not draw is a mode that was dropped.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

AXES = 16  # principal components in which scans are grouped
RESAMPLES = 1000


def neighbourhoods(real, synthetic, k=5):
    """The four shares for feature rows real (N, d) and synthetic (M, d), N and M above k.

    Every scan's neighbourhood reaches to its k-th nearest of its own set. Precision: share of
    synthetic scans within a real neighbourhood; recall: share of real ones within a synthetic one
    (Kynkaanniemi et al. 2019, equations 1 and 2). Density: in how many real neighbourhoods a
    synthetic scan lies, divided by k, which an outlier's huge neighbourhood distorts less;
    coverage: share of real neighbourhoods that hold a synthetic scan (Naeem et al. 2020,
    equations 3 and 4). Precision, recall and coverage lie in [0, 1]; density may exceed 1. All
    depend on N and M: compare at equal numbers only.
    """
    if min(len(real), len(synthetic)) <= k:
        raise ValueError(f"Neighbourhoods of {k} need more images than that on each side")
    real_radius = np.sort(cdist(real, real), axis=1)[:, k]  # column 0 is the scan itself
    synthetic_radius = np.sort(cdist(synthetic, synthetic), axis=1)[:, k]
    across = cdist(synthetic, real)
    in_real = across <= real_radius
    return {
        "precision": float(in_real.any(1).mean()),
        "recall": float((across <= synthetic_radius[:, None]).any(0).mean()),
        "density": float(in_real.sum(1).mean() / k),
        "coverage": float(in_real.any(0).mean()),
    }


def coverage_report(synthetic, training, test, *, k=5, subsets=20, seed=0):
    """report.json's `coverage`: the four shares of synthetic against unseen real scans.

    synthetic, training, test: feature rows. All sides are thinned out to one number n, `subsets`
    times, and the means are given; `spread` is the standard deviation over these draws. `floor`
    is what real training scans reach by the same rule. With fewer than k + 2 images on a side
    the values are null and `reason` says so.
    """
    n = min(len(synthetic), len(training), len(test))
    if n < k + 2:
        return {"value": None, "floor": None, "reason": f"needs {k + 2} images a side, not {n}"}
    rng = np.random.default_rng(seed)

    def some(rows):
        return rows[rng.permutation(len(rows))[:n]]

    def drawn(rows):
        draws = [neighbourhoods(some(test), some(rows), k) for _ in range(subsets)]
        values = {name: [draw[name] for draw in draws] for name in draws[0]}
        return {name: float(np.mean(v)) for name, v in values.items()}, {
            name: float(np.std(v)) for name, v in values.items()
        }

    value, spread = drawn(synthetic)
    return {"value": value, "spread": spread, "floor": drawn(training)[0], "n": n, "k": k}


@dataclass(frozen=True)
class Modes:
    """Groups of real scans in features: fitted on training scans, asked of any others."""

    axes: PCA
    groups: KMeans

    @property
    def count(self) -> int:
        return len(self.groups.cluster_centers_)

    def of(self, features) -> np.ndarray:
        """The group (N,) of each feature row (N, d)."""
        return self.groups.predict(self.axes.transform(features))

    def typical(self, features, each=4) -> list[np.ndarray]:
        """For every group, the rows nearest to its centre, up to `each`, nearest first."""
        away = self.groups.transform(self.axes.transform(features))
        own = away.argmin(1)
        return [
            rows[np.argsort(away[rows, group])[:each]]
            for group, rows in ((g, np.flatnonzero(own == g)) for g in range(self.count))
        ]


def find_modes(features, count=6, seed=0) -> Modes:
    """Groups of real training scans, features (N, d), by k-means on their principal components.

    The largest group comes first. ValueError for fewer scans than three a group.
    """
    if len(features) < 3 * count:
        raise ValueError(
            f"{len(features)} scans for {count} modes: that needs {3 * count}; choose fewer modes "
            "or add scans."
        )
    axes = PCA(min(AXES, len(features) - 1, features.shape[1]), random_state=seed).fit(features)
    groups = KMeans(count, n_init=10, random_state=seed).fit(axes.transform(features))
    order = np.argsort(-np.bincount(groups.labels_, minlength=count), kind="stable")
    groups.cluster_centers_ = groups.cluster_centers_[order]
    return Modes(axes, groups)


def shares(groups, count, patients=None, seed=0) -> dict:
    """Share of each of `count` modes among the scans of `groups` (N,), with 95 % intervals.

    Bootstrap over patients, or over scans where `patients` is None. Returns {"share": (count,),
    "low": (count,), "high": (count,)}; low and high are NaN where there is one patient only.
    """
    units = (
        np.arange(len(groups)) if patients is None else np.unique(patients, return_inverse=True)[1]
    )
    table = np.zeros((units.max() + 1, count))
    np.add.at(table, (units, groups), 1)
    draws = np.random.default_rng(seed).integers(0, len(table), (RESAMPLES, len(table)))
    drawn = table[draws].sum(1)
    drawn = drawn / drawn.sum(1, keepdims=True)
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    if len(table) < 2:
        low, high = np.full((2, count), np.nan)
    return {"share": table.sum(0) / table.sum(), "low": low, "high": high}


def difference(first, second) -> float:
    """Total variation between two rows of shares: 0 the same, 1 nothing in common. The share of
    scans that would have to be of another mode for the two to agree."""
    return float(np.abs(np.asarray(first) - np.asarray(second)).sum() / 2)


def reached(real, synthetic, patients, k=5) -> dict[str, float]:
    """{patient: share of its scans that the synthetic ones reach}, least first.

    A real scan is reached if a synthetic one lies nearer than its k-th nearest scan of *other
    patients* (coverage, Naeem et al. 2020, equation 4; a patient's own neighbouring frames would
    make its neighbourhood too small for anyone else). real (N, d), synthetic (M, d): feature rows;
    the share grows with M, so compare at one M. ValueError if there are not k scans of others.
    """
    if len(real) <= k:
        raise ValueError(f"neighbourhoods of {k} need as many scans of other patients")
    patients = np.asarray(patients)
    between = cdist(real, real)
    between[patients[:, None] == patients] = np.inf
    radius = np.sort(between, axis=1)[:, k - 1]
    if not np.isfinite(radius).all():
        raise ValueError(f"neighbourhoods of {k} need as many scans of other patients")
    inside = cdist(real, synthetic).min(1) <= radius
    found = {str(p): float(inside[patients == p].mean()) for p in np.unique(patients)}
    return dict(sorted(found.items(), key=lambda pair: pair[1]))


def flat_map(modes: Modes, *sides, seed=0) -> list[np.ndarray]:
    """Every side's feature rows (N, d) as points (N, 2) of one map (t-SNE, van der Maaten & Hinton
    2008): neighbours stay neighbours, distances between far points mean nothing."""
    rows = modes.axes.transform(np.concatenate(sides))
    perplexity = min(30, (len(rows) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(rows)
    return np.split(points, np.cumsum([len(side) for side in sides])[:-1])

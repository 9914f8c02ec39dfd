"""The distribution inside one disease: its modes, how often each is drawn, who is not reached.

A distance says how far two sets of scans are; it does not say what is missing. Here real scans are
grouped by their features, every synthetic scan is given to the nearest group, and the shares are
compared: a mode that patients have and the generator does not draw is a mode that was dropped.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

AXES = 16  # principal components in which scans are grouped
RESAMPLES = 1000


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
    "low": (count,), "high": (count,)}.
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

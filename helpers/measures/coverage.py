"""Precision, recall, density and coverage: are the synthetic scans real, are all kinds there?"""

import numpy as np
from scipy.spatial.distance import cdist


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

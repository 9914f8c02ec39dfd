"""Synthetic scans whose drusen are as many, as high and as large as those of given patients.

A generator has the drusen that its training left it with, a short one often too few. So more scans
are drawn than are wanted, the ruler reads them all, and those are kept that stand for the patients
best: each scan of a patient gets the synthetic one that is nearest in ``shape.DIALS``, none twice,
so that all distances together are smallest (the assignment problem; Kuhn, Naval Research Logistics
Quarterly 1955). It chooses, and changes no pixel. Whoever counts drusen with the same ruler
afterwards only sees that the choice was made.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from helpers.data.pixels import to_levels
from helpers.data.prepare import prepare
from helpers.gan.dials import RULED, read_dials

POOL = 4  # scans drawn for each that is kept
MOST = 200  # scans of the patients that are read, of each class on average


def drusen_of(source, classes) -> dict[str, np.ndarray]:
    """DIALS (N, 3) of the training patients' scans of ``source``, as in ``prepare``, by class.

    Test patients are left out: they may have to judge the set. ValueError naming a class of which
    the source has no scan, or none that the ruler can read.
    """
    train = prepare(source, class_="+".join(classes), size=RULED, sides=("train",), progress=False,
                    most=MOST * len(classes)).train  # fmt: skip
    found = {}
    for name in classes:
        several = name == "all" or "+" in name  # learned as one: these are all that was prepared
        own = np.asarray(train.images)[several | (train.labels == name)]
        if not len(own):
            raise ValueError(f"like={source}: no scan of {name} to train on; it has "
                             f"{', '.join(sorted(set(train.labels)))}. Choose one by --class."
                             )  # fmt: skip
        read = read_dials(own)
        found[name] = read[np.isfinite(read).all(1)]
        if not len(found[name]):
            raise ValueError(f"like={source}: no scan of {name} that the ruler can read.")
    return found


def most_like(batches, patients, n: int, seed=0):
    """Of the scans in ``batches`` (B, 1, S, S), float in [-1, 1], the ``n`` whose DIALS are most
    like those of ``patients`` (N, 3): their places (n,), rising; them, uint8 (n, 1, S, S); and
    their DIALS (n, 3). ValueError where the ruler can read fewer than ``n``."""
    levels = np.concatenate([to_levels(batch) for batch in batches])
    read = read_dials(levels)
    readable = np.flatnonzero(np.isfinite(read).all(1))
    if len(readable) < n:
        raise ValueError(f"like: the ruler can read {len(readable)} of {len(levels)} scans drawn, "
                         f"and {n} are wanted; leave out --like, or draw better ones.")  # fmt: skip
    rng = np.random.default_rng(seed)
    rounds = [rng.permutation(len(patients)) for _ in range(-(-n // len(patients)))]
    wanted = patients[np.concatenate(rounds)[:n]]  # nobody twice more often than another
    spread = np.maximum(wanted.std(0), 1e-3)
    rows = cdist(np.sqrt(wanted / spread), np.sqrt(read[readable] / spread))  # few drusen matter
    kept = np.sort(readable[linear_sum_assignment(rows)[1]])
    return kept, levels[kept], read[kept]

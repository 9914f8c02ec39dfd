"""How far two sets differ in a number: Cliff's delta with its interval over patients."""

import numpy as np

from helpers.measures.intervals import ENDS


def effect(real, synthetic, real_groups=None, synthetic_groups=None, *, resamples=1000, seed=0):
    """Cliff's delta (Psychological Bulletin 1993) and its 95 % interval: (value, low, high).

    The probability that a synthetic value is larger than a real one, minus that it is smaller: 0
    alike, 1 all larger, -1 all smaller. values (N,), (M,) without NaN. The bootstrap draws whole
    groups, patients (None: every value is one). low and high are None where a side has only one.
    """
    sign = (np.sign(np.subtract.outer(synthetic, real))).astype(np.float32)
    rng = np.random.default_rng(seed)
    weights = []
    for values, groups in ((synthetic, synthetic_groups), (real, real_groups)):
        names = np.arange(len(values)) if groups is None else np.asarray(groups)
        names, member = np.unique(names, return_inverse=True)
        if len(names) < 2:
            return float(sign.mean()), None, None
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
        weights.append(drawn[:, member].astype(np.float32))
    ours, theirs = weights
    deltas = ((ours @ sign) * theirs).sum(1) / (ours.sum(1) * theirs.sum(1))
    low, high = np.quantile(deltas, ENDS)
    return float(sign.mean()), float(low), float(high)


def compare(real, synthetic, patients=None, *, training=None, training_patients=None,
            resamples=1000, seed=0):  # fmt: skip
    """How far each measure of synthetic scans is from that of unseen real ones.

    real, synthetic, training: what `measure` returns (or layers.measure), name -> (N,); patients,
    training_patients: names per real scan. Returns name -> {real_median, synthetic_median, effect
    (Cliff's delta: above 0, larger in synthetic scans), low, high (95 %, over patients), floor (the
    same effect for real training scans against the unseen ones), floor_low, floor_high, n_real,
    n_synthetic, left_out_real, left_out_synthetic}. NaN is left out, and counted; what cannot be
    computed is None.
    """

    def kept(values, groups):
        good = np.isfinite(values)
        return values[good], None if groups is None else np.asarray(groups)[good]

    table = {}
    for name in real:
        ours, groups = kept(np.asarray(real[name], float), patients)
        theirs, _ = kept(np.asarray(synthetic[name], float), None)
        row = dict.fromkeys(("real_median", "synthetic_median", "effect", "low", "high", "floor",
                             "floor_low", "floor_high"))  # fmt: skip
        row |= {
            "n_real": len(ours), "n_synthetic": len(theirs),
            "left_out_real": len(real[name]) - len(ours),
            "left_out_synthetic": len(synthetic[name]) - len(theirs),
        }  # fmt: skip
        if len(ours):
            row["real_median"] = float(np.median(ours))
        if len(theirs):
            row["synthetic_median"] = float(np.median(theirs))
        settings = dict(resamples=resamples, seed=seed)
        if len(ours) and len(theirs):
            found = effect(ours, theirs, groups, **settings)
            row["effect"], row["low"], row["high"] = found
        if training is not None and len(ours):
            seen, seen_groups = kept(np.asarray(training[name], float), training_patients)
            if len(seen):
                found = effect(ours, seen, groups, seen_groups, **settings)
                row["floor"], row["floor_low"], row["floor_high"] = found
        table[name] = row
    return table

"""The learning curve of real scans, and where on it a set of synthetic ones stands."""

import numpy as np

from helpers.measures.scores import resampled_aurocs


def nested(real, n, seed):
    """n of the `usefulness.Scans`, n // K of each class, of few patients; n=None: all of them.

    A larger n with the same seed contains the smaller one.
    """
    if n is None:
        return real
    rng, chosen = np.random.default_rng(seed), []
    classes = np.unique(real.labels)
    for label in classes:
        mine = np.flatnonzero(real.labels == label)
        order = rng.permutation(np.unique(real.patients[mine]))
        rank = np.array([np.flatnonzero(order == p)[0] for p in real.patients[mine]])
        mine = mine[np.lexsort((rng.permutation(len(mine)), rank))]
        chosen.append(mine[: n // len(classes)])
    return real.take(np.concatenate(chosen))


def worth(test, stacks, numbers, synthetic_stack, n_synthetic, measured, beside=0):
    """How many real scans the synthetic ones are worth: where the real curve reaches their AUROC.

    stacks: probabilities (S, N, K) on the test scans of classifiers trained on `numbers` real
    scans. Between two sizes the curve is taken as straight in log(number), and as never falling.
    Outside of it nothing is extrapolated: `value`, `low` or `high` is None then, and `text` says
    on which side; `below` and `above` are the shares of resamples (over test patients) there. No
    interval, None, where a class has one test patient only. `beside`: real scans of other classes
    that taught beside the synthetic ones.
    """
    names = dict(classes=measured["classes"], patients=test.patients,
                 positive=measured["positive"], resamples=measured["resamples"],
                 seed=measured["seed"])  # fmt: skip
    curves = np.stack([resampled_aurocs(test.labels, stack, **names) for stack in stacks])
    target = resampled_aurocs(test.labels, synthetic_stack, **names)
    usable = np.isfinite(target)
    found = np.array([_reached(numbers, *pair) for pair in zip(curves.T[usable], target[usable])])
    low, high = np.quantile(found[1:], [0.025, 0.975], method="inverted_cdf")

    def said(n):
        outside = {-np.inf: f"fewer than {numbers[0]}", np.inf: f"more than all {numbers[-1]}"}
        return outside.get(n, f"{n:.0f}")

    value, low, high = (float(n) for n in (found[0], low, high))
    few = [str(c) for c in measured["classes"] if len(set(test.patients[test.labels == c])) < 2]
    how_sure = f"95 % interval: {said(low)} to {said(high)}"
    if few:  # as in ``scores``
        low = high = np.nan
        how_sure = f"no interval: one patient only of {', '.join(few)}"
    with_them = f" beside {beside} real ones of other classes" if beside else ""
    return {
        **{k: n if np.isfinite(n) else None for k, n in
           (("value", value), ("low", low), ("high", high))},
        "text": f"{n_synthetic} synthetic scans{with_them} are worth {said(value)} real ones "
                f"({how_sure})",
        "below": None if few else float((found[1:] == -np.inf).mean()),
        "above": None if few else float((found[1:] == np.inf).mean()),
        "synthetic": n_synthetic,
        "sizes": [int(n) for n in numbers],
    }  # fmt: skip


def _reached(numbers, curve, target):
    """Number of scans at which a learning curve reaches the target; -inf or inf outside of it."""
    curve = np.maximum.accumulate(curve)
    first = int(np.searchsorted(curve, target))  # the first size that is as good
    if first == 0:
        return float(numbers[0]) if curve[0] == target else -np.inf
    if first == len(curve):
        return np.inf
    share = (target - curve[first - 1]) / (curve[first] - curve[first - 1])
    return float(np.exp(np.interp(share, [0, 1], np.log(numbers[first - 1 : first + 1]))))

"""Intervals over patients: one bootstrap for every measure, and its text."""

import numpy as np

ENDS = (1 - 0.95) / 2, (1 + 0.95) / 2  # quantiles between which an interval lies


def patient_weights(patients, resamples, seed):
    """How often every scan counts: once each, then as often as its patient is drawn."""
    names, index = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return np.vstack([np.ones(len(index)), draws[:, index]])


def interval(values):
    """Estimate, then resamples (1 + R,), to {value, low, high, resamples}: 95 %."""
    usable = values[1:][~np.isnan(values[1:])]
    low = high = None
    if len(usable) > 1:
        low, high = np.quantile(usable, ENDS).tolist()
    value = None if np.isnan(values[0]) else float(values[0])
    return {"value": value, "low": low, "high": high, "resamples": len(usable)}


def between(value: dict | None, digits=2, times=1) -> str:
    """ "0.93 (0.88 to 0.97)" from {"value", "low", "high"}, ``times`` as much; "-" for null."""
    if value is None or value.get("value") is None:
        return "-"
    text = f"{times * value['value']:.{digits}f}"
    ends = [value.get(side) for side in ("low", "high")]  # one is None: beyond what was measured
    low, high = ("" if end is None else f"{times * end:.{digits}f}" for end in ends)
    if low or high:
        further = f"to {high}" if high else "or more"
        text += f" ({low} {further})" if low else f" ({high} or less)"
    return text


def holm(p_values) -> list[float]:
    """Holm's (1979) correction of several p-values, in their order."""
    order = np.argsort(p_values)
    steps = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected.tolist()

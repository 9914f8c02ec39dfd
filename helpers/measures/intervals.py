"""Intervals over patients: one bootstrap for every measure, and its text."""

import numpy as np


def patient_weights(patients, resamples, seed):
    """How often every scan counts: once each, then as often as its patient is drawn."""
    names, index = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return np.vstack([np.ones(len(index)), draws[:, index]])


def interval(values, level):
    """Estimate, then resamples (1 + R,), to {value, low, high, resamples}."""
    usable = values[1:][~np.isnan(values[1:])]
    low, high = (
        (float(q) for q in np.quantile(usable, [(1 - level) / 2, (1 + level) / 2]))
        if len(usable) > 1
        else (None, None)
    )
    value = None if np.isnan(values[0]) else float(values[0])
    return {"value": value, "low": low, "high": high, "resamples": len(usable)}


def between(value: dict | None, digits=2) -> str:
    """ "0.93 (0.88 to 0.97)" from {"value", "low", "high"}; "-" for null."""
    if value is None or value.get("value") is None:
        return "-"
    text = f"{value['value']:.{digits}f}"
    ends = [value.get(side) for side in ("low", "high")]  # one is None: beyond what was measured
    low, high = ("" if end is None else f"{end:.{digits}f}" for end in ends)
    if low or high:
        further = f"to {high}" if high else "or more"
        text += f" ({low} {further})" if low else f" ({high} or less)"
    return text

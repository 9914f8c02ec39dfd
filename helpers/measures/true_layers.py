"""What the ruler would read off a simulated eye if it made no error, and how large its errors are.

The anatomy of a simulated eye is known (``simulate.Truth``). Put into the ruler's own words,
it is what a measured value should be.
"""

import numpy as np

from helpers.measures.layers import (
    WORK,
    Druse,
    Layers,
    describe,
    find_drusen,
    flat_without_drusen,
    measure,
)

PIGMENT_UM = 21.0  # the simulated RPE's own thickness


def true_lift(truth):
    """How far the RPE is lifted off BM, in px of 256, on 256 columns."""
    lift = truth.heights_um["RPE"] - PIGMENT_UM
    lift = lift / (truth.oct_um_per_px[1] * len(lift) / WORK)
    at = (np.arange(WORK) + 0.5) * len(lift) / WORK - 0.5
    return np.interp(at, np.arange(len(lift)), lift)


def true_layers(truth):
    """The Layers of a simulated eye's truth."""
    size = len(truth.x_um)
    px = size / WORK
    rows = {name: np.asarray(truth.rows[name], float) for name in ("ILM", "RPE", "BM")}
    column = np.arange(size)
    fovea = truth.oct_fovea_column
    inside = 0 <= fovea <= size - 1
    drusen = [
        Druse((d.x + 0.5) * px - 0.5, d.width * px, d.height * px, d.area * px**2)
        for d in find_drusen(true_lift(truth))
    ]
    return Layers(
        (size, size), rows, True, "", rows["BM"] - rows["ILM"], rows["BM"] - rows["RPE"],
        drusen=drusen, tilt=float(np.polyfit(column, rows["BM"], 1)[0]),
        fovea=(fovea, float(np.interp(fovea, column, rows["ILM"]))) if inside else None,
    )  # fmt: skip


def true_measures(truth):
    """The MEASURES of a simulated eye, free of the ruler's error; the depth of the pit is NaN."""
    return describe(true_layers(truth))


def ruler_errors(eyes):
    """{measure: root mean square error of one scan}, in the measure's own unit, over simulated eyes
    that the ruler can read. A measure that is never there (a fovea outside) is NaN."""
    found = flat_without_drusen(measure([eye.oct for eye in eyes]))
    rows = [true_measures(eye.truth) for eye in eyes]
    true = flat_without_drusen({name: np.array([row[name] for row in rows]) for name in found})
    errors = {}
    for name, values in found.items():
        wrong = values - true[name]
        wrong = wrong[np.isfinite(wrong)]
        errors[name] = float(np.sqrt(np.mean(wrong**2))) if len(wrong) else np.nan
    return errors

"""OCT B-scans cleaned: padding filled, levelled by the RPE where asked, resized to a square.

Everything here takes and gives uint8 arrays, is deterministic, and never looks at a label.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

from helpers.data.padding import fill_background, without_padding
from helpers.data.pixels import resize, to_grey

OCT_FRAMINGS = ("stretch", "band")
RPE_AT = 0.65  # of the height, once flattened
BAND = (2.25, 1.5)  # thicknesses of the retina above and below the RPE, in the framing "band"


def clean_oct(image, *, size, framing="stretch") -> np.ndarray:
    """One OCT B-scan, uint8 (H, W) or (H, W, 3), to uint8 (size, size), one channel.

    White wedges and padding are filled with the scan's own background. ``framing``: "stretch" the
    whole scan to the square; "band" shifts columns so that the RPE is level, and keeps 2.25
    thicknesses of the retina above it and 1.5 below, so that scans of all devices have the retina
    at one place and one size. (The framing "aligned" of a GAN is ``shape.align``.)
    Raises ValueError for another framing, or if more than nine tenths of the scan are padding.
    """
    if framing not in OCT_FRAMINGS:
        raise ValueError(f"framing={framing!r}: an OCT takes one of {', '.join(OCT_FRAMINGS)}")
    grey = without_padding(to_grey(image))
    if framing == "band":
        grey = band(grey)
    return resize(grey, size, size)


def find_rpe(grey) -> tuple[np.ndarray, float]:
    """Where the RPE runs: Legendre coefficients (4,), in rows over the width as -1 to 1, and the
    share of columns that agree with them. A robust cubic through bright ridges.

    In each column the deepest ridge at least 0.7 as bright as the brightest is taken; columns
    that disagree with the curve (vessel shadows, the nerve fibre layer) are dropped in rounds.
    """
    height, width = grey.shape
    if width >= 256:  # half of the columns are enough for a cubic
        width = width // 2
        grey = Image.fromarray(grey).resize((width, height), Image.Resampling.BOX)
    smooth = ndimage.gaussian_filter(np.asarray(grey, np.float32), (height / 120, width / 80))
    ridge = smooth == ndimage.maximum_filter1d(smooth, max(3, height // 40), axis=0)
    ridge &= smooth >= 0.7 * smooth.max(axis=0)
    row = height - 1 - np.argmax(ridge[::-1], axis=0).astype(float)
    x = np.linspace(-1, 1, width)
    keep = np.ones(width, bool)
    for degree in (1, 2, 2, 3, 3):
        curve = np.polynomial.Legendre.fit(x[keep], row[keep], degree, domain=[-1, 1])
        error = np.abs(row - curve(x))
        keep = error <= max(2.0, 0.01 * height, 1.5 * np.median(error))
    return curve.coef, float((error <= max(2.0, 0.02 * height)).mean())


def rpe_rows(grey) -> np.ndarray:
    """The row of the RPE in every column, float (W,)."""
    curve, _ = find_rpe(grey)
    x = np.linspace(-1, 1, grey.shape[1])
    return np.clip(np.polynomial.legendre.legval(x, curve), 0, grey.shape[0] - 1)


def flatten_rpe(grey) -> np.ndarray:
    """Shift every column so that the RPE lies in one row, RPE_AT of the height from the top."""
    height = grey.shape[0]
    shift = np.round(RPE_AT * height - rpe_rows(grey)).astype(int)
    source = np.arange(height)[:, None] - shift[None]
    outside = (source < 0) | (source >= height)
    moved = np.take_along_axis(grey, np.clip(source, 0, height - 1), axis=0)
    return fill_background(moved, outside)


def band(grey) -> np.ndarray:
    """The flattened scan from BAND thicknesses of the retina above the RPE to as many below."""
    flat = flatten_rpe(grey)
    height = flat.shape[0]
    rpe, thick = round(RPE_AT * height), retina_thickness(flat)
    top, bottom = rpe - round(BAND[0] * thick), rpe + round(BAND[1] * thick)
    above, below = max(0, -top), max(0, bottom - height)
    outside = np.pad(np.zeros(flat.shape, bool), ((above, below), (0, 0)), constant_values=True)
    flat = np.pad(flat, ((above, below), (0, 0)))
    if above or below:
        flat = fill_background(flat, outside)
    return flat[top + above : bottom + above]


def retina_thickness(flat) -> float:
    """Rows from the ILM to the RPE of a flattened scan, of the scan as a whole: where the mean of
    all columns, from the top, first rises by three tenths of the way from dark to bright."""
    height = flat.shape[0]
    rpe = round(RPE_AT * height)
    profile = ndimage.gaussian_filter1d(flat[:rpe].mean(1, dtype=np.float32), height / 150)
    dark, bright = np.percentile(profile, (5, 95))
    thick = rpe - int(np.argmax(profile > dark + 0.3 * (bright - dark)))
    return float(max(thick, 0.05 * height))

"""The en-face picture of a volume along each B-scan's line: real pairs, by geometry.

A device that writes where its B-scans lie on the infrared (SLO) picture gives, with every export,
as many pairs as B-scans: the strip of the picture along the line, and the scan itself. A column of
the one is a place on the retina and so is a column of the other, as in the framing "strip" of
simulated photographs, so what learns from those (``translation.networks``) takes these.
"""

import numpy as np
from scipy import ndimage

from helpers.data.photograph import STRIP_UM

REACH_UM = 700.0  # about a place, over which light is evened out


def strips(volume, rows: int, columns: int, height_um=STRIP_UM, even=True) -> np.ndarray:
    """The en-face picture about each B-scan's line: uint8 (N, rows, columns).

    ``volume`` is a ``hospital.Volume``. A strip runs from the line's start to its end, at any
    angle, with ``height_um`` across it; what lies to its left is above. ``even``: the light is
    evened out (``evened``), as brightness of a picture is not thickness of a retina.
    Raises ValueError that names the volume where it has no en-face picture or no line, where its
    micrometres are unknown, or where more than a tenth of a line lies outside of the picture.
    """
    picture = _picture(volume)
    if even:
        picture = evened(picture, REACH_UM / volume.enface_um_per_px)
    across = (np.arange(rows) + 0.5) / rows - 0.5
    along = (np.arange(columns) + 0.5) / columns
    found = np.empty((len(volume.lines), rows, columns), np.uint8)
    for number, line in enumerate(volume.lines):
        x, y = _places(volume, number, line, across * height_um / volume.enface_um_per_px, along)
        found[number] = ndimage.map_coordinates(picture, [y, x], order=1, mode="nearest")
    return found


def _picture(volume) -> np.ndarray:
    if volume.enface is None:
        raise ValueError(f"{volume.volume}: no en-face picture, so nothing to pair its scans with")
    if not volume.enface_um_per_px:
        raise ValueError(f"{volume.volume}: the micrometres of its en-face picture are unknown")
    return volume.enface if volume.enface.ndim == 2 else volume.enface[..., 1]  # green: vessels


def _places(volume, number, line, across, along):
    """x and y (rows, columns), px of the picture, of a strip about a line."""
    if line is None:
        raise ValueError(f"{volume.volume}: B-scan {volume.numbers[number]} has no place on it")
    start, end = np.array(line[:2], float), np.array(line[2:], float)
    length = np.hypot(*(end - start))
    if length < 1:
        raise ValueError(f"{volume.volume}: B-scan {volume.numbers[number]} has no length on it")
    middle = start + along[:, None] * (end - start)
    tall, wide = volume.enface.shape[:2]
    outside = ((middle < -0.5) | (middle > np.array([wide, tall]) - 0.5)).any(1).mean()
    if outside > 0.1:
        raise ValueError(
            f"{volume.volume}: {outside:.0%} of the line of B-scan {volume.numbers[number]} lie "
            f"outside of its en-face picture of {wide} x {tall} px. Is it of another visit?"
        )
    aside = np.array([start[1] - end[1], end[0] - start[0]]) / length
    places = middle[None] + across[:, None, None] * aside
    return places[..., 0], places[..., 1]


def evened(picture, reach_px: float) -> np.ndarray:
    """A picture (H, W) without what changes slowly: at every place less the mean about it, over the
    standard deviation about it (a local z-score, in the way of Foracchia, Grisan & Ruggeri, Medical
    Image Analysis 2005), grey at 128 and 40 levels to one; uint8."""
    grey = picture.astype(np.float32)
    mean = ndimage.gaussian_filter(grey, reach_px)
    spread = np.sqrt(ndimage.gaussian_filter((grey - mean) ** 2, reach_px)) + 1
    return (128 + 40 * (grey - mean) / spread).round().clip(0, 255).astype(np.uint8)

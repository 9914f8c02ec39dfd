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


def strips(
    volume, rows: int, columns: int, height_um=STRIP_UM, even=True, photograph=None, transform=None
) -> np.ndarray:
    """The en-face picture about each B-scan's line: uint8 (N, rows, columns).

    ``volume`` is a ``hospital.Volume``. A strip runs from the line's start to its end, at any
    angle, with ``height_um`` across it; what lies to its left is above. ``even``: the light is
    evened out (``evened``), as brightness of a picture is not thickness of a retina.
    ``photograph``, uint8 (H, W, C), takes the picture's place and gives (N, rows, columns, C), if
    it is registered to it: ``transform`` (2, 3) or (3, 3) takes x, y, 1 in px of the en-face
    picture to x, y in px of the photograph.
    Raises ValueError that names the volume where it has no en-face picture or no line, where its
    micrometres are unknown, where more than a tenth of a line lies outside of a picture, or where
    the transform is none or mirrors, as that to the other eye would.
    """
    picture = _picture(volume)
    um_per_px = volume.enface_um_per_px
    if photograph is not None:
        onto = _onto(volume, transform)
        picture = photograph if photograph.ndim == 3 else photograph[..., None]
        um_per_px = um_per_px / np.sqrt(np.linalg.det(onto[:2, :2]))
    channels = [picture] if picture.ndim == 2 else list(np.moveaxis(picture, 2, 0))
    if even:
        channels = [evened(channel, REACH_UM / um_per_px) for channel in channels]
    across = (np.arange(rows) + 0.5) / rows - 0.5
    along = (np.arange(columns) + 0.5) / columns
    found = np.empty((len(volume.lines), rows, columns, len(channels)), np.uint8)
    for number, line in enumerate(volume.lines):
        x, y = _places(volume, number, line, across * height_um / volume.enface_um_per_px, along)
        if photograph is not None:
            x, y, w = np.tensordot(onto, np.stack([x, y, np.ones_like(x)]), 1)
            x, y = x / w, y / w
            _check_inside(volume, number, x[rows // 2], y[rows // 2], picture, "the photograph")
        for k, channel in enumerate(channels):
            found[number, ..., k] = ndimage.map_coordinates(
                channel, [y, x], order=1, mode="nearest"
            )
    return found[..., 0] if picture.ndim == 2 else found


def _picture(volume) -> np.ndarray:
    if volume.enface is None:
        raise ValueError(f"{volume.volume}: no en-face picture, so nothing to pair its scans with")
    if not volume.enface_um_per_px:
        raise ValueError(f"{volume.volume}: the micrometres of its en-face picture are unknown")
    return volume.enface if volume.enface.ndim == 2 else volume.enface[..., 1]  # green: vessels


def _onto(volume, transform) -> np.ndarray:
    """A transform as a matrix (3, 3)."""
    matrix = np.asarray(transform, float) if transform is not None else np.zeros(0)
    fits = matrix.shape == (2, 3) or matrix.shape == (3, 3) and matrix[2, 2]
    if not fits or not np.isfinite(matrix).all():
        raise ValueError(f"{volume.volume}: a photograph needs its transform, (2, 3) or (3, 3), "
                         "from px of the en-face picture to its own")  # fmt: skip
    matrix = np.vstack([matrix, [0, 0, 1]]) if len(matrix) == 2 else matrix / matrix[2, 2]
    if np.linalg.det(matrix[:2, :2]) <= 0:
        raise ValueError(f"{volume.volume}: the transform to the photograph mirrors the eye. Is it "
                         "of the other one, left for right?")  # fmt: skip
    return matrix


def _check_inside(volume, number, x, y, picture, name: str) -> None:
    """ValueError if more than a tenth of a B-scan's line lies outside of ``picture``."""
    tall, wide = picture.shape[:2]
    outside = ((x < -0.5) | (x > wide - 0.5) | (y < -0.5) | (y > tall - 0.5)).mean()
    if outside > 0.1:
        raise ValueError(
            f"{volume.volume}: {outside:.0%} of the line of B-scan {volume.numbers[number]} lie "
            f"outside of {name} of {wide} x {tall} px. Is it of another visit?"
        )


def _places(volume, number, line, across, along):
    """x and y (rows, columns), px of the picture, of a strip about a line."""
    if line is None:
        raise ValueError(f"{volume.volume}: B-scan {volume.numbers[number]} has no place on it")
    start, end = np.array(line[:2], float), np.array(line[2:], float)
    length = np.hypot(*(end - start))
    if length < 1:
        raise ValueError(f"{volume.volume}: B-scan {volume.numbers[number]} has no length on it")
    middle = start + along[:, None] * (end - start)
    _check_inside(volume, number, *middle.T, volume.enface, "its en-face picture")
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

"""A ruler for B-scans: ILM, RPE and Bruch's membrane, and what is measured from them.

Surfaces are shortest paths through a picture of edges, found column by column by dynamic
programming (Chiu et al. 2010, "Automatic segmentation of seven retinal layers in SDOCT images",
Optics Express 18: 19413, sections 2 and 3). A coarse path finds a surface, the picture is flattened
along it, and a fine path with a position between pixels follows it there. Bruch's membrane (BM)
is a smooth curve under the RPE's low points, so that drusen are what the RPE rises above it.

The ruler works on 256 x 256 pixels whatever the picture's size, and says when it cannot measure.
tests/measure_layers.py measures its error.
"""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from scipy.linalg import solveh_banded
from scipy.ndimage import gaussian_filter, gaussian_filter1d, uniform_filter1d
from scipy.signal import find_peaks
from tqdm.auto import tqdm

from helpers.padding import without_padding

SURFACES = ("ILM", "RPE", "BM")
WORK = 256  # pixels a side on which everything is found
COARSE = 64  # columns of the coarse paths

MEASURES = {
    "usable": "usable (1 yes, 0 no)",
    "retinal_thickness": "mean retinal thickness (% of height)",
    "central_thickness": "central thickness (% of height)",
    "thickness_spread": "spread of thickness along the scan (% of height)",
    "rpe_elevation_mean": "mean RPE elevation (% of height)",
    "rpe_elevation_max": "highest RPE elevation (% of height)",
    "rpe_roughness": "RPE roughness (% of height)",
    "drusen_count": "drusen per scan",
    "drusen_area": "area of drusen (% of picture)",
    "drusen_height": "highest druse (% of height)",
    "drusen_width": "mean width of drusen (% of width)",
    "fovea_column": "column of the fovea (% of width)",
    "fovea_depth": "depth of the foveal pit (% of height)",
    "tilt": "tilt of BM (% of height per width)",
    "curvature": "bow of BM, ends below middle (% of height)",
}


@dataclass(frozen=True)
class Druse:
    """One rise of the RPE, in px of the picture: x its highest column, area under its top."""

    x: float
    width: float
    height: float
    area: float


@dataclass(frozen=True)
class Layers:
    """What the ruler found on a picture of `shape` (H, W). All lengths are in its px.

    rows: float rows (W,) of ILM (inner edge), RPE (inner edge of its bright band) and BM (outer
    edge of that band, carried on smoothly under drusen); NaN where not found, everywhere if not
    `usable`. thickness: BM - ILM. elevation: BM - RPE, so a healthy RPE has its own thickness,
    `band`. drusen: from left to right. fovea: (column, row of the ILM), None without a pit;
    fovea_depth: rim to pit. tilt: rows per column.
    """

    shape: tuple[int, int]
    rows: dict[str, np.ndarray]
    usable: bool
    reason: str
    thickness: np.ndarray
    elevation: np.ndarray
    band: float = np.nan
    drusen: list[Druse] = field(default_factory=list)
    fovea: tuple[float, float] | None = None
    fovea_depth: float = np.nan
    tilt: float = np.nan
    confidence: dict[str, float] = field(default_factory=dict)
    um_per_px: tuple[float, float] | None = None


def read_layers(image, um_per_px=None):
    """Layers of one B-scan: uint8 or float in [-1, 1], (H, W) or (1, H, W).

    um_per_px: (across, down) if known; it is handed on. ValueError for another shape.
    """
    return read_all([image], um_per_px)[0]


def read_all(images, um_per_px=None, progress=False, batch=32):
    """Layers of every picture of (N, 1, H, W), (N, H, W) or a list of read_layers' pictures."""
    found = []
    with tqdm(total=len(images), desc="layers", disable=not progress) as bar:
        for start in range(0, len(images), batch):
            greys = [_grey(image) for image in images[start : start + batch]]
            work = np.stack([_to_work(grey) for grey in greys])
            shapes = [grey.shape for grey in greys]
            found += [_one(*part, um_per_px) for part in zip(*_surfaces(work), shapes, strict=True)]
            bar.update(len(greys))
    return found


def _grey(image):
    """uint8 (H, W) without wedges."""
    image = np.asarray(image)
    if image.ndim == 3 and len(image) == 1:
        image = image[0]
    if image.ndim != 2 or min(image.shape) < 16:
        raise ValueError(f"a B-scan is (H, W) or (1, H, W), 16 px or more, not {image.shape}")
    if image.dtype != np.uint8:
        levels = (np.nan_to_num(image.astype(np.float32), nan=-1.0) + 1) * 127.5
        image = np.clip(np.round(levels), 0, 255).astype(np.uint8)
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    if 0.02 < (border >= 235).mean() < 0.9:
        image = without_padding(image)
    return image


def _to_work(grey):
    picture = Image.fromarray(grey.astype(np.float32))
    return np.asarray(picture.resize((WORK, WORK), Image.Resampling.BICUBIC)) / 255


def shortest_paths(cost, reach, stiffness):
    """Rows (N, W) of the cheapest path from left to right through cost (N, H, W).

    From column to column a path moves at most `reach` rows and pays stiffness * rows^2 for it.
    """
    n, height, width = cost.shape
    steps = np.arange(-reach, reach + 1)
    penalty = (stiffness * steps**2).astype(np.float32)[:, None, None]
    padded = np.full((n, height + 2 * reach), np.inf, np.float32)
    came = np.empty((width, n, height), np.int8)
    total = cost[:, :, 0].astype(np.float32)
    for x in range(1, width):
        padded[:, reach:-reach] = total
        options = np.stack([padded[:, k : k + height] for k in range(2 * reach + 1)]) + penalty
        came[x] = options.argmin(0)
        total = options.min(0) + cost[:, :, x]
    rows = np.empty((n, width), np.intp)
    rows[:, -1] = total.argmin(1)
    for x in range(width - 1, 0, -1):
        rows[:, x - 1] = rows[:, x] + came[x, np.arange(n), rows[:, x]] - reach
    return rows


def _between(picture, low, high):
    """Mean over rows r + low to r + high (inclusive) for every row r: (N, H, W)."""
    height = picture.shape[1]
    sums = np.concatenate([np.zeros_like(picture[:, :1]), picture.cumsum(1)], 1)
    row = np.arange(height)
    top, bottom = np.clip(row + low, 0, height - 1), np.clip(row + high + 1, 1, height)
    return (sums[:, bottom] - sums[:, top]) / (bottom - top)[None, :, None]


def _along(picture, path, reach):
    """The picture flattened along path (N, W): rows path - reach to path + reach, interpolated."""
    row = path[:, None] + np.arange(-reach, reach + 1)[None, :, None]
    row = np.clip(row, 0, picture.shape[1] - 1.001)
    first = row.astype(np.intp)
    part = (row - first).astype(np.float32)
    return (
        np.take_along_axis(picture, first, 1) * (1 - part)
        + np.take_along_axis(picture, first + 1, 1) * part
    )


def _refine(cost, start, reach, stiffness):
    """A path through a flattened cost (N, 2 reach + 1, W), in rows of the picture (N, W)."""
    path = shortest_paths(cost, 2, stiffness)
    inner = np.clip(path, 1, cost.shape[1] - 2)
    before, here, after = (
        np.take_along_axis(cost, (inner + k)[:, None], 1)[:, 0] for k in (-1, 0, 1)
    )
    bend = np.maximum(before - 2 * here + after, 1e-6)
    return start + path - reach + np.clip((before - after) / (2 * bend), -0.5, 0.5)


def _surfaces(work):
    """ILM, RPE ridge (N, 256) and the normalised pictures they were found on."""
    smooth = gaussian_filter(work, (0, 1.5, 1.5))
    dark = np.percentile(smooth, 20, (1, 2), keepdims=True)
    bright = np.percentile(smooth, 99, (1, 2), keepdims=True)
    scale = np.maximum(bright - dark, 0.02)
    smooth, work = (smooth - dark) / scale, (work - dark) / scale

    coarse = smooth.reshape(len(work), WORK, COARSE, -1).mean(3)
    tissue = np.clip(coarse - 0.28, -0.3, 0.4)
    above = np.maximum(tissue, 0).cumsum(1) - np.maximum(tissue, 0)
    edge = _between(coarse, 0, 6) - _between(coarse, -7, -1)
    hollow = _between(np.maximum(-tissue, 0), 0, 18)
    cost = 0.15 * above + 3 * hollow - edge
    ilm = _wide(shortest_paths(cost, 8, 0.005))

    band = gaussian_filter(coarse, (0, 0.7, 0.5))
    below = np.arange(WORK)[None, :, None] - ilm[:, None, 1::4]
    gain = np.where(below > 8, band, 0).max(1, keepdims=True)
    gain = gaussian_filter1d(np.maximum(gain, 0.15), 2, axis=2)
    band = band / gain
    cost = (
        -_between(band, -1, 1) * 1.5 + _between(band, 4, 10)
        + 0.5 * _between(band, -16, -7) + np.where(below < 8, 5, 0)
    )  # fmt: skip
    rpe = _wide(shortest_paths(cost, 6, 0.01))

    reach = 8
    flat = gaussian_filter(_along(work, ilm, reach + 6), (0, 1, 1.5))
    edge = _between(flat, 0, 3) - _between(flat, -4, -1)
    ilm = _refine(-edge[:, 6:-6], ilm, reach, 0.05) - 0.5

    reach = 14
    flat = gaussian_filter(_along(work, rpe, reach + 10), (0, 0.8, 1.2))
    flat /= gaussian_filter1d(flat.max(1, keepdims=True), 4, axis=2) + 0.05
    ridge = 1.5 * flat - _between(flat, 4, 9) - 0.5 * _between(flat, -6, -3)
    ridge = _refine(-ridge[:, 10:-10], rpe, reach, 0.03)
    return work, smooth, ilm, ridge


def _wide(path):
    """A coarse path (N, 64) on 256 columns, smoothed."""
    at = (np.arange(WORK) + 0.5) / 4 - 0.5
    path = gaussian_filter1d(path.astype(np.float32), 0.8, axis=1, mode="nearest")
    return np.stack([np.interp(at, np.arange(COARSE), row) for row in path]).astype(np.float32)


def lower_envelope(path, weight=None, stiffness=3e5, level=1.0, rounds=12):
    """A smooth curve (W,) through the low points (large rows) of path (W,).

    Whittaker's smoother (penalised second differences) with weights renewed in every round: where
    the path lies above the curve by more than about `level` px it hardly counts.
    """
    width = len(path)
    weight = np.ones(width) if weight is None else weight
    bands = np.zeros((3, width))
    for k, row in ((0, (1, -4, 6)),):
        bands[0, 2:], bands[1, 1:], bands[2] = 1, -4, 6
    bands[2, [0, -1]], bands[2, [1, -2]] = 1, 5
    bands[1, [1, -1]] = -2
    current = weight * 1.0
    curve = path
    for turn in range(rounds):
        system = stiffness * bands
        system[2] += current + 1e-6
        curve = solveh_banded(system, (current + 1e-6) * path)
        rise = curve - path
        wide = level * max(1, 4 - turn)
        current = weight / (1 + (np.where(rise > 0, rise, rise / 3) / wide) ** 2) ** 2
    return curve

"""Paths along the layers of a B-scan, by dynamic programming on 256 x 256 pixels.

The method of Chiu et al. 2010 ("Automatic segmentation of seven retinal layers in SDOCT images",
Optics Express 18: 19413, sections 2 and 3) in two steps: a coarse path finds a surface, the picture
is flattened along it, and a fine path with a position between pixels follows it there. helpers.
measures.layers reads them.
"""

import functools

import numpy as np
from PIL import Image
from scipy.linalg import solveh_banded
from scipy.ndimage import gaussian_filter, gaussian_filter1d, maximum_filter1d

WORK = 256  # pixels a side on which everything is found
COARSE = 64  # columns of the coarse paths


def to_work(grey):
    """uint8 (H, W) to float32 (256, 256), 0 to 1."""
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


def along(picture, path, reach):
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


def find_paths(work):
    """ILM, RPE ridge (N, 256) and the normalised pictures they were found on."""
    smooth = gaussian_filter(work, (0, 1.5, 1.5))
    dark = np.percentile(smooth, 20, (1, 2), keepdims=True)
    bright = np.percentile(smooth, 99, (1, 2), keepdims=True)
    scale = np.maximum(bright - dark, 0.02)
    smooth, work = (smooth - dark) / scale, (work - dark) / scale

    coarse = smooth.reshape(len(work), WORK, COARSE, -1).mean(3)
    dim = np.minimum(coarse, 0.45)  # the RPE's edge must not outshine the ILM's
    tissue = np.clip(dim - 0.22, -0.22, 0.23)
    above = np.maximum(tissue, 0).cumsum(1) - np.maximum(tissue, 0)
    edge = _between(dim, 0, 6) - _between(dim, -7, -1)
    hollow = _between(np.maximum(-tissue, 0), 0, 18)
    cost = 0.2 * above + 3 * hollow - 1.5 * edge
    ilm = _wide(shortest_paths(cost, 8, 0.005))

    band = gaussian_filter(coarse, (0, 0.7, 0.5))
    below = np.arange(WORK)[None, :, None] - ilm.reshape(len(ilm), 1, COARSE, -1).mean(3)
    gain = np.where(below > 8, band, 0).max(1, keepdims=True)
    gain = gaussian_filter1d(np.maximum(gain, 0.15), 2, axis=2)
    band = band / gain
    # what fills a druse is bright too: uncapped, its base looks more like an RPE than its top
    likely = 1.5 * _between(band, -1, 1) - np.minimum(_between(band, 4, 10), 0.4)
    likely -= 0.5 * np.maximum(_between(band, -16, -7), 0.2)
    likely[below < 8] = 0
    # nothing under the RPE looks like it, where the nerve fibre layer has the RPE under it; once
    # that is out of the way, the path may climb drusen, which have BM under them
    highest = np.maximum.accumulate(likely[:, ::-1], 1)[:, ::-1]
    deeper = np.pad(highest[:, 9:], ((0, 0), (0, 9), (0, 0)))
    rpe = shortest_paths(np.where(below < 8, 5, 0.8 * deeper - likely), 6, 0.01)
    thickness = np.take_along_axis(below, rpe[:, None], 1)
    inner = np.maximum(0.35 * np.median(thickness, 2, keepdims=True), 8)
    cost = np.where(below < inner, 5, -likely)
    rpe = _wide(shortest_paths(cost, 9, 0.004))

    reach = 8
    flat = gaussian_filter(along(work, ilm, reach + 6), (0, 1, 1.5))
    edge = _between(flat, 0, 3) - _between(flat, -4, -1)
    ilm = _refine(-edge[:, 6:-6], ilm, reach, 0.05) - 0.5

    reach = 14
    flat = gaussian_filter(along(work, rpe, reach + 10), (0, 0.8, 1.2))
    flat /= gaussian_filter1d(flat.max(1, keepdims=True), 4, axis=2) + 0.05
    ridge = 1.5 * flat - _between(flat, 4, 9) - 0.5 * _between(flat, -6, -3)
    near = maximum_filter1d(ridge, 5, axis=1, origin=-2)  # rows 0 to 4 deeper
    near = np.pad(near[:, 4:], ((0, 0), (0, 4), (0, 0)))
    ridge = ridge - 0.4 * np.maximum(near, 0)  # the EZ has the RPE under it
    ridge = _refine(-ridge[:, 10:-10], rpe, reach, 0.025)
    return work, smooth, ilm, ridge


def _wide(path):
    """A coarse path (N, 64) on 256 columns, smoothed."""
    at = (np.arange(WORK) + 0.5) / 4 - 0.5
    path = gaussian_filter1d(path.astype(np.float32), 0.8, axis=1, mode="nearest")
    return np.stack([np.interp(at, np.arange(COARSE), row) for row in path]).astype(np.float32)


@functools.cache
def _bending(width, stiffness):
    """Upper bands of stiffness * D'D, D the third differences of `width` points."""
    difference = np.diff(np.eye(width), 3, axis=0)
    penalty = stiffness * difference.T @ difference
    bands = np.zeros((4, width))
    for k in range(4):
        bands[3 - k, k:] = np.diagonal(penalty, k)
    return bands


def lower_envelope(path, weight, stiffness=2e7, level=1.0):
    """A smooth curve (W,) through the low points (large rows) of path (W,).

    Whittaker's smoother (penalised third differences, so that a parabola is free). Its weights are
    asymmetric at first (Eilers 2004): a path above the curve counts a twentieth. Then they depend
    on how far above: by much more than `level` px, as over a druse, it no longer counts.
    """
    bands = _bending(len(path), stiffness)

    def curve(weight):
        system = bands.copy()
        system[3] += weight + 1e-6
        return solveh_banded(system, (weight + 1e-6) * path, check_finite=False)

    found = curve(weight)
    for _ in range(8):
        found = curve(weight * np.where(path > found, 0.95, 0.05))
    for _ in range(8):
        rise = found - path
        found = curve(weight / (1 + (np.where(rise > 0, rise, rise / 2) / level) ** 2) ** 2)
    return found


def band_edge(work, ridge, flat):
    """How far the RPE's outer edge lies under its ridge, in px.

    It is the steepest fall of the mean A-scan of the columns `flat`, where no druse widens the
    band. The inner edge is as far above: there the EZ, a few px away, often hides it.
    """
    reach = 12
    lines = along(work[None], ridge[None].astype(np.float32), reach)[0]
    profile = lines[:, flat].mean(1) if flat.any() else lines.mean(1)
    fine = np.arange(0, 5, 0.1)
    slope = np.gradient(np.interp(np.arange(-1, 6, 0.1), np.arange(-reach, reach + 1), profile))
    return fine[gaussian_filter1d(slope, 5)[10 : 10 + len(fine)].argmin()]


def mean_at(picture, path, low, high):
    """Mean of a picture (256, 256) over rows path + low to path + high of every column."""
    row = np.arange(low, high + 1)[:, None] + np.round(path).astype(int)
    return np.take_along_axis(picture, np.clip(row, 0, WORK - 1), 0).mean(0)


def settle(base, ridge, seen):
    """The envelope without rises that do not come down again before the scan ends.

    Such a rise cannot be told from a bent BM (beside the disc it is one): BM follows the RPE there.
    """
    low = np.nonzero(seen & (base - ridge < 0.75))[0]
    if len(low) == 0:
        return base
    ends = np.r_[0 : low[0], low[-1] + 1 : WORK]
    base = base.copy()
    base[ends] = np.minimum(base[ends], ridge[ends])
    return base


def layered(smooth, ridge):
    """Share of the variance about the RPE that layers along it explain, 0 to 1."""
    flat = along(smooth[None], ridge[None].astype(np.float32), 40)[0]
    return float(flat.mean(1).var() / max(flat.var(), 1e-6))


def find_pit(thickness, seen):
    """Column and depth in px of 256 of the deepest pit in the middle of the scan; None, nan."""
    smooth = gaussian_filter1d(
        np.interp(np.arange(WORK), np.arange(WORK)[seen], thickness[seen]), 4
    )
    reach = 75
    rims = [maximum_filter1d(smooth, reach, origin=shift) for shift in (reach // 2, -(reach // 2))]
    pit = np.minimum(*rims) - smooth
    edge = int(0.2 * WORK)
    likely = pit * (1 - ((np.arange(WORK) + 0.5) / WORK * 2 - 1) ** 2)
    best = edge + int(likely[edge:-edge].argmax())
    depth = pit[best]
    if depth < max(4, smooth.max() / 8):  # shallower are troughs between vessels and the disc
        return None, np.nan
    half = smooth < smooth[best] + depth / 3
    first = best - half[best::-1].argmin() if not half[: best + 1].all() else 0
    last = best + half[best:].argmin() if not half[best:].all() else WORK - 1
    return (first + last) / 2, depth

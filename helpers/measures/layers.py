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
from scipy.ndimage import gaussian_filter, gaussian_filter1d
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
    dim = np.minimum(coarse, 0.45)  # the RPE's edge must not outshine the ILM's
    tissue = np.clip(dim - 0.22, -0.22, 0.23)
    above = np.maximum(tissue, 0).cumsum(1) - np.maximum(tissue, 0)
    edge = _between(dim, 0, 6) - _between(dim, -7, -1)
    hollow = _between(np.maximum(-tissue, 0), 0, 18)
    cost = 0.2 * above + 3 * hollow - 1.5 * edge
    ilm = _wide(shortest_paths(cost, 8, 0.005))

    band = gaussian_filter(coarse, (0, 0.7, 0.5))
    below = np.arange(WORK)[None, :, None] - ilm[:, None, 1::4]
    gain = np.where(below > 8, band, 0).max(1, keepdims=True)
    gain = gaussian_filter1d(np.maximum(gain, 0.15), 2, axis=2)
    band = band / gain
    likely = 1.5 * _between(band, -1, 1) - _between(band, 4, 10)
    likely -= 0.5 * np.maximum(_between(band, -16, -7), 0.2)
    likely[below < 8] = 0
    # nothing under the RPE looks like it, where the nerve fibre layer has the RPE under it
    deeper = np.maximum.accumulate(likely[:, ::-1], 1)[:, ::-1]
    deeper = np.pad(deeper[:, 9:], ((0, 0), (0, 9), (0, 0)))
    cost = np.where(below < 8, 5, 0.8 * deeper - likely)
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


def lower_envelope(path, weight, stiffness=2e7, level=1.0):
    """A smooth curve (W,) through the low points (large rows) of path (W,).

    Whittaker's smoother (penalised third differences, so that a parabola is free). Its weights are
    asymmetric at first (Eilers 2004): a path above the curve counts a twentieth. Then they depend
    on how far above: by much more than `level` px, as over a druse, it no longer counts.
    """
    bands = np.zeros((4, len(path)))
    difference = np.diff(np.eye(len(path)), 3, axis=0)
    penalty = stiffness * difference.T @ difference
    for k in range(4):
        bands[3 - k, k:] = np.diagonal(penalty, k)

    def curve(weight):
        system = bands.copy()
        system[3] += weight + 1e-6
        return solveh_banded(system, (weight + 1e-6) * path)

    found = curve(weight)
    for _ in range(8):
        found = curve(weight * np.where(path > found, 0.95, 0.05))
    for _ in range(8):
        rise = found - path
        found = curve(weight / (1 + (np.where(rise > 0, rise, rise / 2) / level) ** 2) ** 2)
    return found


def _at(picture, path, low, high):
    """Mean of a picture (256, 256) over rows path + low to path + high of every column."""
    row = np.arange(low, high + 1)[:, None] + np.round(path).astype(int)
    return np.take_along_axis(picture, np.clip(row, 0, WORK - 1), 0).mean(0)


def _band_edges(work, ridge, flat):
    """How far the RPE's inner and outer edge lie from its ridge (both positive), in px.

    They are the steepest rise and fall of the mean A-scan of the columns `flat`, where no druse
    widens the band.
    """
    reach = 12
    lines = _along(work[None], ridge[None].astype(np.float32), reach)[0]
    profile = lines[:, flat].mean(1) if flat.any() else lines.mean(1)
    fine = np.arange(-reach, reach + 0.05, 0.1)
    slope = np.gradient(np.interp(fine, np.arange(-reach, reach + 1), profile))
    slope = gaussian_filter1d(slope, 5)
    inner, outer = (fine > -5) & (fine < 0.5), (fine > -0.5) & (fine < 5)
    return -fine[inner][slope[inner].argmax()], fine[outer][slope[outer].argmin()]


def _one(work, smooth, ilm, ridge, shape, um_per_px):
    """Layers of one picture from its paths on 256 x 256 pixels."""
    rise = _at(smooth, ilm, 3, 12) - _at(smooth, ilm, -12, -3)
    fall = _at(smooth, ridge, -1, 1) - _at(smooth, ridge, 7, 14)
    inside = (ilm > 2) & (ridge < WORK - 6) & (ridge - ilm > 8)
    sure = gaussian_filter1d(np.minimum(rise / 0.10, fall / 0.10), 4)
    seen = inside & (sure > 1)
    confidence = {
        "seen": float(seen.mean()), "ilm": float(rise.mean()), "rpe": float(fall.mean()),
        "layered": _layered(smooth, ridge),
    }  # fmt: skip
    reason = _reason(confidence, ilm, ridge)
    if reason:
        empty = np.full(shape[1], np.nan)
        rows = {name: empty.copy() for name in SURFACES}
        return Layers(shape, rows, False, reason, empty.copy(), empty.copy(),
                      confidence=confidence, um_per_px=um_per_px)  # fmt: skip
    base = lower_envelope(ridge, seen + 0.01)
    inner, outer = _band_edges(work, ridge, seen & (base - ridge < 1))
    down, across = shape[0] / WORK, shape[1] / WORK
    lift = np.where(seen, base - ridge, 0)
    drusen = [
        Druse((x + 0.5) * across - 0.5, width * across, height * down, area * across * down)
        for x, width, height, area in _drusen(lift)
    ]
    at = (np.arange(shape[1]) + 0.5) / across - 0.5

    def wide(values, scale=down, shift=0.5):
        values = np.interp(at, np.arange(WORK), np.where(seen, values, np.nan))
        return (values + shift) * scale - shift

    rows = {"ILM": wide(ilm), "RPE": wide(ridge - inner), "BM": wide(base + outer)}
    rows["RPE"] = np.minimum(rows["RPE"], rows["BM"])
    x = np.arange(WORK)[seen]
    slope = np.polyfit(x, base[seen], 1)[0]
    fovea, depth = _fovea(base + outer - ilm, seen)
    if fovea is not None:
        row = (np.interp(fovea, np.arange(WORK), ilm) + 0.5) * down - 0.5
        fovea = (float((fovea + 0.5) * across - 0.5), float(row))
    return Layers(
        shape, rows, True, "", rows["BM"] - rows["ILM"], rows["BM"] - rows["RPE"],
        band=float((inner + outer) * down), drusen=drusen, fovea=fovea,
        fovea_depth=float(depth * down), tilt=float(slope * down / across),
        confidence=confidence, um_per_px=um_per_px,
    )  # fmt: skip


def _layered(smooth, ridge):
    """Share of the variance about the RPE that layers along it explain, 0 to 1."""
    flat = _along(smooth[None], ridge[None].astype(np.float32), 40)[0]
    return float(flat.mean(1).var() / max(flat.var(), 1e-6))


def _reason(confidence, ilm, ridge):
    """Why a picture cannot be measured; "" if it can."""
    if (ilm <= 2).mean() > 0.25:
        return "the ILM leaves the picture"
    if (ridge >= WORK - 6).mean() > 0.25:
        return "the RPE leaves the picture"
    if confidence["layered"] < 0.3:
        return "no layers found"
    if confidence["seen"] < 0.75:
        return "low confidence: the layers are lost in too many columns"
    return ""


def _drusen(lift, least=1.5, floor=0.75):
    """(x, width, height, area) in px of 256 for every rise of lift (256,) of `least` px and more.

    A druse ends where the rise falls below `floor`, or in the valley to the next one if that is
    deeper than half of the lower top.
    """
    smooth = gaussian_filter1d(lift, 1.0)
    tops, _ = find_peaks(np.r_[0, smooth, 0], height=least, prominence=least / 2)
    tops = [top - 1 for top in tops]
    kept = []
    for top in tops:
        if kept:
            valley = smooth[kept[-1] : top + 1].min()
            if valley > 0.5 * min(smooth[kept[-1]], smooth[top]):
                kept[-1] = max(kept[-1], top, key=lambda k: smooth[k])
                continue
        kept.append(top)
    found = []
    for k, top in enumerate(kept):
        first = kept[k - 1] + smooth[kept[k - 1] : top].argmin() if k else 0
        last = top + smooth[top : kept[k + 1]].argmin() if k + 1 < len(kept) else WORK - 1
        low = np.nonzero(smooth[first:top] < floor)[0]
        first = first + low[-1] + 1 if len(low) else first
        low = np.nonzero(smooth[top : last + 1] < floor)[0]
        last = top + low[0] - 1 if len(low) else last
        area = lift[first : last + 1].clip(0).sum()
        found.append((float(top), float(last - first + 1), float(lift[top]), float(area)))
    return found


def _fovea(thickness, seen):
    """Column and depth in px of 256 of the deepest pit in the middle of the scan; None, nan."""
    smooth = gaussian_filter1d(
        np.interp(np.arange(WORK), np.arange(WORK)[seen], thickness[seen]), 4
    )
    best, depth = None, 2.5
    for x in range(int(0.15 * WORK), int(0.85 * WORK)):
        rims = smooth[max(0, x - 75) : x].max(), smooth[x + 1 : x + 76].max()
        if min(rims) - smooth[x] > depth:
            best, depth = x, min(rims) - smooth[x]
    if best is None:
        return None, np.nan
    half = smooth < smooth[best] + depth / 3
    first = best - half[best::-1].argmin() if not half[: best + 1].all() else 0
    last = best + half[best:].argmin() if not half[best:].all() else WORK - 1
    return (first + last) / 2, depth


def measure(images, progress=False):
    """{name: (N,) float} for every name of MEASURES; NaN where the ruler says unusable.

    images as for read_all. Heights are in % of the picture's height, widths in % of its width,
    areas in % of its area. The fovea is NaN without a pit, the size of drusen without any.
    """
    values = {name: np.full(len(images), np.nan) for name in MEASURES}
    for i, layers in enumerate(read_all(images, progress=progress)):
        for name, value in describe(layers).items():
            values[name][i] = value
    return values


def describe(layers):
    """The MEASURES of one picture; of an unusable one only that it is."""
    if not layers.usable:
        return {"usable": 0.0}
    height, width = layers.shape
    tall, wide = 100 / height, 100 / width
    seen = np.isfinite(layers.thickness)
    column = np.arange(width)
    thickness, elevation = layers.thickness * tall, layers.elevation * tall
    centre = width / 2 - 0.5 if layers.fovea is None else layers.fovea[0]
    near = seen & (np.abs(column - centre) < width / 12)
    rpe, bm = layers.rows["RPE"][seen], layers.rows["BM"]
    smooth = gaussian_filter1d(rpe, width / 64)
    line = np.polyval(np.polyfit(column[seen], bm[seen], 2)[:1], (width / 2) ** 2)
    drusen = layers.drusen
    return {
        "usable": 1.0,
        "retinal_thickness": np.nanmean(thickness),
        "central_thickness": np.nan if not near.any() else thickness[near].mean(),
        "thickness_spread": np.nanstd(thickness),
        "rpe_elevation_mean": np.nanmean(elevation),
        "rpe_elevation_max": np.nanmax(elevation),
        "rpe_roughness": np.sqrt(np.mean((rpe - smooth) ** 2)) * tall,
        "drusen_count": float(len(drusen)),
        "drusen_area": sum(d.area for d in drusen) * tall * wide / 100,
        "drusen_height": max((d.height for d in drusen), default=np.nan) * tall,
        "drusen_width": np.mean([d.width for d in drusen]) * wide if drusen else np.nan,
        "fovea_column": np.nan if layers.fovea is None else (layers.fovea[0] + 0.5) * wide,
        "fovea_depth": layers.fovea_depth * tall,
        "tilt": layers.tilt * width * tall,
        "curvature": line * tall,
    }

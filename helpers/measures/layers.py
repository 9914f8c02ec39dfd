"""A ruler for B-scans: ILM, RPE and Bruch's membrane, and what is measured from them.

Surfaces are shortest paths through a picture of edges, found column by column by dynamic
programming (Chiu et al. 2010, "Automatic segmentation of seven retinal layers in SDOCT images",
Optics Express 18: 19413, sections 2 and 3). A coarse path finds a surface, the picture is flattened
along it, and a fine path with a position between pixels follows it there. Bruch's membrane (BM)
is a smooth curve under the RPE's low points, so that drusen are what the RPE rises above it.

The ruler works on 256 x 256 pixels whatever the picture's size, and says when it cannot measure.
notebooks/results/ruler.py measures its error.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import binary_closing, gaussian_filter1d
from scipy.signal import find_peaks
from tqdm.auto import tqdm

from helpers.data.padding import without_padding
from helpers.data.pixels import to_levels
from helpers.measures.surfaces import (
    WORK,
    band_edge,
    find_paths,
    find_pit,
    layered,
    lower_envelope,
    mean_at,
    settle,
    to_work,
)

SURFACES = ("ILM", "RPE", "BM")
BATCH = 32  # pictures whose paths are found at a time

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


def read_layers(image):
    """Layers of one B-scan: uint8 or float in [-1, 1], (H, W) or (1, H, W). ValueError for another
    shape."""
    return read_all([image])[0]


def read_all(images, progress=False):
    """Layers of every picture of (N, 1, H, W), (N, H, W) or a list of read_layers' pictures."""
    found = []
    with tqdm(total=len(images), desc="layers", disable=not progress) as bar:
        for start in range(0, len(images), BATCH):
            greys = [_grey(image) for image in images[start : start + BATCH]]
            work = np.stack([to_work(grey) for grey in greys])
            shapes = [grey.shape for grey in greys]
            found += [_one(*part) for part in zip(*find_paths(work), shapes, strict=True)]
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
        image = to_levels(np.nan_to_num(image, nan=-1.0))
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    if 0.02 < (border >= 235).mean() < 0.9:
        image = without_padding(image)
    return image


def _one(work, smooth, ilm, ridge, shape):
    """Layers of one picture from its paths on 256 x 256 pixels."""
    rise = mean_at(smooth, ilm, 3, 12) - mean_at(smooth, ilm, -12, -3)
    fall = mean_at(smooth, ridge, -1, 1) - mean_at(smooth, ridge, 7, 14)
    inside = (ilm > 2) & (ridge < WORK - 6) & (ridge - ilm > 8)
    sure = gaussian_filter1d(np.minimum(rise / 0.10, fall / 0.10), 4)
    seen = inside & (sure > 1)
    seen |= binary_closing(seen, np.ones(17)) & inside  # shadows of vessels
    sharp = mean_at(smooth, ilm, 1, 3) - mean_at(smooth, ilm, -3, -1)
    unrest = sum(np.std(path - gaussian_filter1d(path, 6)) for path in (ilm, ridge))
    confidence = {
        "seen": seen.mean(),  # share of columns in which both edges stand out
        "layered": layered(smooth, ridge),  # share of the variance that layers explain
        "sharp": sharp.mean() / max(rise.mean(), 0.01),  # how abrupt the ILM is
        "clear": sharp.mean() * fall.mean() / (0.5 + unrest),  # contrast of smooth paths
    }
    reason = _reason(confidence, ilm, ridge)
    if reason:
        empty = np.full(shape[1], np.nan)
        rows = {name: empty.copy() for name in SURFACES}
        return Layers(shape, rows, False, reason, empty.copy(), empty.copy())
    base = settle(lower_envelope(ridge, seen + 0.01), ridge, seen)
    half = band_edge(work, ridge, seen & (base - ridge < 1))
    down, across = shape[0] / WORK, shape[1] / WORK
    lift = np.where(seen, base - ridge, 0)
    drusen = [
        Druse((d.x + 0.5) * across - 0.5, d.width * across, d.height * down, d.area * across * down)
        for d in find_drusen(lift)
    ]
    at = (np.arange(shape[1]) + 0.5) / across - 0.5

    def wide(values):
        values = np.interp(at, np.arange(WORK), np.where(seen, values, np.nan))
        return (values + 0.5) * down - 0.5

    rows = {"ILM": wide(ilm), "RPE": wide(ridge - 0.75 * half), "BM": wide(base + half)}
    rows["RPE"] = np.minimum(rows["RPE"], rows["BM"])
    x = np.arange(WORK)[seen]
    slope = np.polyfit(x, base[seen], 1)[0]
    fovea, depth = find_pit(base + half - ilm, seen)
    if fovea is not None:
        row = (np.interp(fovea, np.arange(WORK), ilm) + 0.5) * down - 0.5
        fovea = (float((fovea + 0.5) * across - 0.5), float(row))
    return Layers(
        shape, rows, True, "", rows["BM"] - rows["ILM"], rows["BM"] - rows["RPE"],
        band=float(2 * half * down), drusen=drusen, fovea=fovea,
        fovea_depth=float(depth * down), tilt=float(slope * down / across),
    )  # fmt: skip


def _reason(confidence, ilm, ridge):
    """Why a picture cannot be measured; "" if it can."""
    if (ilm <= 2).mean() > 0.25:
        return "the ILM leaves the picture"
    if (ridge >= WORK - 6).mean() > 0.25:
        return "the RPE leaves the picture"
    if confidence["layered"] < 0.3 or confidence["seen"] < 0.4:
        return "no layers found"
    if not 0.04 < np.median(ridge - ilm) / WORK < 0.65:
        return "what was found is too thin or too thick for a retina"
    if confidence["sharp"] < 0.52 or confidence["clear"] < 0.04:
        return "low confidence: blurred or ragged layers"
    if confidence["seen"] < 0.75:
        return "low confidence: the layers are lost in too many columns"
    return ""


def find_drusen(lift, least=2.0, floor=0.75):
    """Druse for every rise of lift (256,), in px of 256, by `least` px and more.

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
        found.append(Druse(float(top), float(last - first + 1), float(lift[top]), float(area)))
    return found


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
    bow = np.polyfit(column[seen], bm[seen], 2)[0] * (width / 2) ** 2
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
        "curvature": bow * tall,
    }


def flat_without_drusen(values):
    """The same measures, in which a scan without drusen has drusen of height 0, not NaN."""
    height = np.where(values["drusen_count"] == 0, 0.0, values["drusen_height"])
    return {**values, "drusen_height": height}

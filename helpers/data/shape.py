"""Align, draw, place back: the shape of a B-scan is taken off before a GAN learns, and put back.

A B-scan of the macula is a shape (where the RPE runs, how thick the retina is, how bright and how
noisy the device draws it) and tissue. Faces are aligned before a GAN learns them (Karras et al.,
ICLR 2018, appendix C); here ``align`` levels the RPE, cuts out the retina at one size and sets
black and white, and keeps what it changed as one row of numbers, FIELDS. ``Shapes`` draws new rows
like those of training scans, and ``place_back`` makes whole scans of crops and rows.
"""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import fft, ndimage, stats

from helpers.data.bscan import BAND, find_rpe
from helpers.data.pixels import resize

VERSION = 3  # of what align makes of a scan; a new one makes new caches
ABOVE, BELOW = 1.75, 0.75  # thicknesses of the retina that a crop keeps, above and below the RPE
BLACK, WHITE = 40, 235  # grey levels of a crop that the scan's black and white are set to
DARK, BRIGHT = 10, 99.5  # percentiles of a crop that are its black and its white
OVER = (0.05, 0.5, 1.2, 2.4)  # thicknesses above and below a crop where the background is measured
UNDER = (0.03, 0.2, 0.6, 1.2, 2.4)
LAGS = 4  # pixels, up to which neighbours in speckle are alike
QUANTILES = (0.5, 5, 15, 30, 50, 70, 85, 95, 99.5)  # of what speckle adds to the background, in %
NORMAL = stats.norm.ppf(np.array(QUANTILES) / 100)
LEVELS = 6  # steps of grey in which lost detail is measured
SURE = 0.5  # share of columns that have to agree on where the RPE runs
FADE = 0.15  # thicknesses over which a crop passes into the background
CARRIED = 0.4  # thicknesses over which the background forgets the crop's edge
BANDWIDTH = 1.0  # of drawn shapes, in standard deviations of the shapes in a neighbourhood
NEAR, LEAST_NEAR = 0.1, 12  # share of a class that is a neighbourhood, and scans at least
FEWEST = 0.05  # share of the scans with drusen that have fewer, or lower ones, than are drawn
TOGETHER = 1 / 3  # of a dial's range, that a scan with all that is asked may lie away
SMALLEST = 64  # px of a whole scan
DEVICES = 5  # scans whose speckle is averaged for a drawn one

# what is drawn smoothly: the curve (Legendre, shares of the height), the thickness (share of the
# height), black and white, the look of the crop, and the background's levels beyond it
SMOOTH = (
    "place", "tilt", "bow", "skew", "thickness", "black", "white", "noise", "grain", "deep",
    *(f"over {k}" for k in range(len(OVER))), *(f"under {k}" for k in range(len(UNDER))),
)  # fmt: skip
# what is taken over from scans of the same device: size, statistics of speckle
TAKEN = (
    "height", "width",
    *(f"speckle {k}" for k in range(LAGS**2)),
    *(f"speckle over {k}" for k in range(len(QUANTILES))),
    *(f"speckle under {k}" for k in range(len(QUANTILES))),
    *(f"detail {k}" for k in range(LAGS**2)),
    *(f"detail at {k}" for k in range(LEVELS)),
)  # fmt: skip
# the disease as the ruler reads it, drawn smoothly too: drusen per scan, the highest one (% of the
# scan's height), their area (% of the scan); 0 where nobody has read them (``gan.dials``)
DIALS = ("drusen", "highest", "area")
FIELDS = SMOOTH + TAKEN + DIALS
LOOK = ("noise", "grain", "deep")  # told to the networks: what a device and a cornea decide
TOLD = (*LOOK, *DIALS, "open")  # columns of ``look``; open: dials are not told
AT = {name: k for k, name in enumerate(FIELDS)}
DIALLED = [AT[name] for name in DIALS]
DRAWN = [AT[name] for name in SMOOTH + DIALS]
SIZE = [AT["height"], AT["width"]]
CURVE = [AT[name] for name in ("place", "tilt", "bow", "skew")]


def _at(name: str) -> np.ndarray:
    """Places in FIELDS of a numbered field."""
    return np.array([k for k, field in enumerate(FIELDS) if field.rsplit(" ", 1)[0] == name])


def crop_rows(size: int) -> int:
    """Rows of a crop of ``size`` columns: the retina of a scan of 256 px has about 90 rows, of one
    of 512 px about 190, so a crop as wide as the scan needs half as many."""
    return max(min(size, 128), size // 2)


def align(grey, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """A scan without padding, uint8 (H, W), to its crop, uint8 (rows, columns), and its shape,
    float32 (len(FIELDS),).

    The RPE lies in one row of the crop, ABOVE / (ABOVE + BELOW) of it from the top; the columns are
    those of the scan. Raises ValueError if no RPE is found, or too few pixels of a retina.
    """
    height, width = grey.shape
    curve, share = find_rpe(grey)
    if share < SURE:
        raise ValueError(f"no RPE found ({share:.0%} of the columns agree on one)")
    x = np.linspace(-1, 1, width)
    rpe = np.polynomial.legendre.legval(x, curve)
    if ((rpe < 0.02 * height) | (rpe > 0.98 * height)).mean() > 0.05:
        raise ValueError("no RPE found: what is most like one leaves the picture")
    thick = _thickness(grey, rpe)
    values = np.zeros(len(FIELDS), np.float32)
    values[CURVE] = curve / height
    values[AT["thickness"]] = thick / height
    values[AT["height"]], values[AT["width"]] = height, width

    # the retina at the scan's own resolution, level
    up, down = round(ABOVE * thick), round(BELOW * thick)
    level = _along(grey, rpe, np.arange(-up, down))
    crop, black, white = _levelled(resize(level, rows, columns))
    if white - black < 8:
        raise ValueError("no contrast between retina and vitreous")
    values[AT["black"]], values[AT["white"]] = black, white
    vitreous = crop[: max(2, round(0.12 * rows))].astype(np.float32)
    values[AT["noise"]] = (vitreous - ndimage.uniform_filter(vitreous, 7)).std()
    values[AT["grain"]] = np.log(len(level) / rows)
    values[AT["deep"]] = crop[-max(2, rows // 16) :].mean()
    _measure_background(values, grey, rpe, thick)
    _measure_detail(values, level, crop)
    return crop, values


def _levelled(crop) -> tuple[np.ndarray, float, float]:
    """A crop with BLACK and WHITE for what were its black and its white, uint8, and those."""
    black, white = np.percentile(crop, (DARK, BRIGHT))
    crop = np.round((crop - black) * ((WHITE - BLACK) / max(white - black, 1)) + BLACK)
    return crop.clip(0, 255).astype(np.uint8), black, white


def crops_of_bands(bands) -> np.ndarray:
    """Scans in the framing "band" (``bscan.band``), uint8 (N, S, S), as crops of ``align``, uint8
    (N, 1, crop_rows(S), S), for ``place_back``."""
    size = bands.shape[-1]
    thick = size / sum(BAND)
    top, bottom = (round((BAND[0] + away) * thick) for away in (-ABOVE, BELOW))
    rows = crop_rows(size)
    return np.stack([_levelled(resize(band[top:bottom], rows, size))[0] for band in bands])[:, None]


def _thickness(grey, rpe) -> float:
    """Rows from the ILM to the RPE, of the scan as a whole: where the mean of all columns, level,
    first rises by three tenths of the way from dark to bright."""
    height = len(grey)
    most = int(min(rpe.mean(), 0.65 * height))
    profile = _along(grey, rpe, np.arange(-most, 0)).mean(1, dtype=np.float32)
    profile = ndimage.gaussian_filter1d(profile, height / 150)
    dark, bright = np.percentile(profile, (5, 95))
    return float(max(most - int(np.argmax(profile > dark + 0.3 * (bright - dark))), 0.05 * height))


def _along(grey, rpe, offsets) -> np.ndarray:
    """Rows (len(offsets), W) at these distances from the RPE, between pixels; beyond the scan its
    mirror image. uint8 to uint8."""
    last = len(grey) - 1
    at = (rpe[None] + np.asarray(offsets)[:, None]).astype(np.float32)
    at = last - np.abs(np.abs(at) % (2 * last) - last)
    return (_rows(grey, at) + np.float32(0.5)).astype(np.uint8)


def _measure_background(values, grey, rpe, thick) -> None:
    """The level of vitreous and deep choroid beyond the crop, and their speckle."""
    height = len(grey)
    away = ((np.arange(height)[:, None] - rpe[None]) / thick).astype(np.float32)
    smooth = _blurred(grey, height / 60)
    speckle = grey - smooth
    sides = (("over", -ABOVE - away, OVER), ("under", away - BELOW, UNDER))
    beyond = np.zeros(grey.shape, bool)
    for name, distance, marks in sides:
        levels = [np.nan] * len(marks)
        for k, mark in enumerate(marks):
            near = np.abs(distance - mark) < 0.03 + 0.1 * mark
            if near.mean() > 0.003:
                levels[k] = smooth[near].mean()
        outside = distance > 0.05
        beyond |= outside
        if not np.isfinite(levels[0]):  # the crop reaches to the picture's edge
            edge = np.abs(distance) < 0.15
            levels[0] = smooth[edge].mean() if edge.any() else smooth.min()
        for k in range(1, len(levels)):
            levels[k] = levels[k] if np.isfinite(levels[k]) else levels[k - 1]
        values[_at(name)] = levels
        # a crop that reaches to the picture's edge leaves the vitreous inside it
        some = speckle[outside if outside.mean() > 0.005 else away < -1.15]
        values[_at(f"speckle {name}")] = np.percentile(some, QUANTILES) if some.size else 0
    values[_at("speckle")] = _likeness(speckle, beyond if beyond.mean() > 0.02 else away < -1.15)


def _blurred(grey, sigma: float) -> np.ndarray:
    """A wide Gaussian of uint8 (H, W), float32, taken of blocks of pixels."""
    height, width = grey.shape
    block = max(1, int(sigma / 2))
    small = Image.fromarray(grey).resize((-(-width // block), -(-height // block)),
                                         Image.Resampling.BOX)  # fmt: skip
    small = ndimage.gaussian_filter(np.asarray(small, np.float32), sigma / block)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))


def _measure_detail(values, level, crop) -> None:
    """What a crop of fewer pixels has lost: how strong it is at each grey level, and its grain."""
    black, white = values[AT["black"]], values[AT["white"]]
    kept = resize(crop, *level.shape).astype(np.float32)
    kept = (kept - BLACK) * ((white - black) / (WHITE - BLACK)) + black
    lost = level - kept
    lost -= ndimage.uniform_filter(lost, (9, 9))
    step = np.clip(((kept - black) / (white - black) * LEVELS).astype(int), 0, LEVELS - 1)
    strength = [lost[step == k].std() if (step == k).sum() > 50 else np.nan for k in range(LEVELS)]
    strength = np.array(strength)
    known = np.flatnonzero(np.isfinite(strength))
    if not len(known):
        raise ValueError(f"too few pixels of the retina ({level.shape[1]} x {level.shape[0]})")
    values[_at("detail at")] = np.interp(np.arange(LEVELS), known, strength[known])
    values[_at("detail")] = _likeness(lost, np.ones(lost.shape, bool))


def _likeness(field, mask) -> np.ndarray:
    """How alike neighbours are in a field of mean 0: (LAGS^2,), 1 at no distance."""
    if not mask.any():
        return np.eye(1, LAGS**2)[0]
    field = np.where(mask, field - field[mask].mean(), 0).astype(np.float32)
    mask = mask.astype(np.float32)
    found = np.zeros((LAGS, LAGS))
    height, width = field.shape
    for i in range(LAGS):
        for j in range(LAGS):
            pairs = (slice(height - i), slice(width - j)), (slice(i, None), slice(j, None))
            total, both = (
                np.einsum("ij,ij->", *(one[pair] for pair in pairs)) for one in (field, mask)
            )
            found[i, j] = total / max(both, 1)
    return (found / max(found[0, 0], 1e-6)).ravel()


def look(shapes, louder=(1, 1, 1)) -> np.ndarray:
    """What the networks are told of each scan, TOLD, float32 (N, len(TOLD)), about N(0, 1): how
    noisy the crop is, how many of the scan's rows lie in one of its, how much light comes from the
    depth; then its dials, each times ``louder`` (``gan.dials.louder``), and a 0: none is left open.
    Where one dial is 0, all are: of no druse there is no height and no area.
    A generator of before they were there takes the first columns."""
    shapes = np.asarray(shapes, np.float32)
    noise = 2 * np.log(shapes[:, AT["noise"]].clip(0.5)) - 4
    dials = shapes[:, DIALLED].clip(0)
    drusen, highest, area = (dials * dials.all(1, keepdims=True) * np.float32(louder)).T
    dials = (drusen - 1) / 1.5, (highest - 1.2) / 1.6, (np.sqrt(area) - 0.3) / 0.3
    return np.stack([noise, shapes[:, AT["grain"]] * 2, shapes[:, AT["deep"]] / 25 - 3,
                     *(dial.clip(-1, 10) for dial in dials), np.zeros_like(noise)], 1)  # fmt: skip


def place_back(crops, shapes, size: int, seed=0, first=0) -> np.ndarray:
    """Whole scans, uint8 (N, size, size), of crops, uint8 or float in [-1, 1], (N, 1, rows,
    columns), and their shapes (N, len(FIELDS)).

    Each is put together in the size of the scan that its shape is like, and then resized as a real
    scan would be. Vitreous and deep choroid continue the crop's edge with the speckle of that
    device, drawn anew with ``seed`` and the scan's number, from ``first`` on; the detail that the
    crop is too coarse for is put back as speckle.
    """
    if size < SMALLEST:
        raise ValueError(f"size={size}: a whole scan needs {SMALLEST} px or more")
    number = range(first, first + len(shapes))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        scans = pool.map(
            lambda crop, shape, k: _place_one(crop, shape, size, np.random.default_rng([seed, k])),
            crops, shapes, number,
        )  # fmt: skip
        return np.stack(list(scans))


def _place_one(crop, shape, size, rng) -> np.ndarray:
    crop = np.asarray(crop)
    crop = crop[0] if crop.ndim == 3 else crop
    crop = crop.astype(np.float32) if crop.dtype == np.uint8 else (crop + 1) * np.float32(127.5)
    height, width = int(shape[AT["height"]]), int(shape[AT["width"]])
    thick = shape[AT["thickness"]] * height
    black, white = shape[AT["black"]], shape[AT["white"]]
    rpe = np.polynomial.legendre.legval(np.linspace(-1, 1, width), shape[CURVE] * height)
    tall = round(ABOVE * thick) + round(BELOW * thick)
    level = _stretch(crop, tall, width)
    level = (level - BLACK) * ((white - black) / (WHITE - BLACK)) + black
    step = (level - black) / (white - black) * LEVELS - 0.5
    strength = np.interp(step, np.arange(LEVELS), shape[_at("detail at")])
    level = level + strength * _speckle(shape[_at("detail")], level.shape, rng)

    # row of the crop at every pixel of the scan, and how far beyond the crop it lies
    at = np.arange(height, dtype=np.float32)[:, None] - (rpe - round(ABOVE * thick))[None]
    inside = _rows(level.astype(np.float32), at.astype(np.float32))
    field = _speckle(shape[_at("speckle")], (height, width), rng)
    ground = ndimage.gaussian_filter(inside, (0.06 * thick, 0.015 * width), truncate=3)
    beyond = np.zeros((height, width), np.float32)
    weight = np.ones((height, width), np.float32)
    fade, rim = FADE * thick, max(2, round(0.06 * thick))
    sides = (("over", -at, OVER, level[:rim]), ("under", at - (tall - 1), UNDER, level[-rim:]))
    for name, distance, marks, edge in sides:
        here = distance > -fade
        away, known = distance[here], shape[_at(name)]
        far = np.interp(away, np.array([0.0, *marks]) * thick, [known[0], *known])
        edge = ndimage.gaussian_filter1d(edge.mean(0), 0.015 * width, mode="nearest") - known[0]
        edge = np.broadcast_to(edge, here.shape)[here]
        far += edge * np.exp(-np.clip(away, 0, None) / (CARRIED * thick))
        ground[here] = np.where(away > 0, far, ground[here])
        # a table of the quantiles, 16 steps a standard deviation, is as good and much faster
        table = np.interp(np.arange(-64, 65) / 16, NORMAL, shape[_at(f"speckle {name}")])
        beyond[here] = table[(field[here] * 16 + 64.5).astype(np.int16).clip(0, 128)]
        weight[here] = np.clip(-away / fade, 0, 1)
    # speckle passes over by its variance: two halves of it would be less than one
    scan = ground + np.sqrt(weight) * (inside - ground) + np.sqrt(1 - weight) * beyond
    scan = np.clip(np.round(scan), 0, 255).astype(np.uint8)
    return resize(scan, size, size)


def _rows(level, at) -> np.ndarray:
    """level (R, W) at rows ``at`` (H, W), between pixels; its first and last row go on."""
    at = at.clip(0, len(level) - 1)
    first = np.minimum(at.astype(np.intp), len(level) - 2)
    above, below = (
        np.take_along_axis(level, rows, 0).astype(np.float32) for rows in (first, first + 1)
    )
    return above + (at - first).astype(np.float32) * (below - above)


def _stretch(crop, height, width) -> np.ndarray:
    pixels = torch.from_numpy(np.ascontiguousarray(crop, np.float32))[None, None]
    return F.interpolate(pixels, (height, width), mode="bicubic", antialias=True)[0, 0].numpy()


def _speckle(likeness, shape, rng) -> np.ndarray:
    """A Gaussian field (H, W) of variance 1 whose neighbours are as alike as ``likeness`` says."""
    height, width = shape
    taper = np.sqrt(1 - np.arange(LAGS) / LAGS)  # so that little of the spectrum is below 0
    likeness = np.asarray(likeness, np.float32).reshape(LAGS, LAGS) * taper[:, None] * taper
    weight = np.where(np.arange(LAGS) > 0, 2, 1)  # neighbours on both sides
    down, along = (
        weight * np.cos(2 * np.pi * np.outer(frequencies, np.arange(LAGS)))
        for frequencies in (np.fft.fftfreq(height), np.fft.rfftfreq(width))
    )
    power = (down @ likeness @ along.T).clip(0).astype(np.float32)
    white = fft.rfft2(rng.standard_normal(shape, np.float32))
    field = fft.irfft2(white * np.sqrt(power), s=shape)
    return field / max(field.std(), 1e-6)


class Shapes:
    """Shapes (N, len(FIELDS)) of ``labels`` (N,), and new ones like them.

    A smoothed bootstrap that keeps mean and covariance (Silverman, "Density estimation", 1986,
    section 6.4.1), within the neighbourhood of the scan drawn, so that devices do not blend:
    x' = m + (x - m + h e) / sqrt(1 + h^2), e ~ N(0, C), h = BANDWIDTH, m and C of the NEAR of its
    class that are most like it. Speckle is the mean of the DEVICES that are most like x' and of one
    size, so that it is a device's and no scan's own. A class of fewer than three scans is drawn
    from all classes, with a warning.
    """

    def __init__(self, values, labels):
        values = np.asarray(values, np.float32)
        missing = len(FIELDS) - values.shape[1]  # of generators from before there were dials
        self.values, self.labels = np.pad(values, ((0, 0), (0, missing))), np.asarray(labels)
        if len(self.values) < 3:
            raise ValueError(f"{len(self.values)} scan(s): a model of shapes needs three.")
        for name in dict.fromkeys(self.labels.tolist()):
            count = int((self.labels == name).sum())
            if count < 3:
                warnings.warn(f"{name}: {count} scan(s), its shapes are drawn from all classes.",
                              stacklevel=2)  # fmt: skip

    def of(self, label=None) -> np.ndarray:
        """The shapes that those of a class are drawn from."""
        own = self.values if label is None else self.values[self.labels == label]
        return self.values if len(own) < 3 else own

    def draw(self, count: int, label=None, seed=0, dials=None) -> np.ndarray:
        """``count`` new shapes, (count, len(FIELDS)), of one class; row i depends on seed and i.

        ``dials``: {name of DIALS: value}, asked for: the others are drawn as they go with it, from
        scans that are near it. Raises ValueError, with the range there is, for a value outside.
        """
        own = self.of(label)
        if dials:
            own = self._near(own, label, dials)
        smooth = own[:, DRAWN].astype(np.float64)
        spread = smooth.std(0) + 1e-6
        near = min(len(own), max(LEAST_NEAR, round(NEAR * len(own))))
        ill, fewest = _ill(own), np.zeros(len(DIALS))
        if ill.any():
            fewest = np.quantile(own[ill][:, DIALLED], FEWEST, axis=0)
        drawn = np.empty((count, len(FIELDS)), np.float32)
        for i in range(count):
            rng = np.random.default_rng([seed, i])
            one = rng.integers(len(own))
            away = (((smooth - smooth[one]) / spread) ** 2).sum(1)
            those = smooth[np.argsort(away, kind="stable")[:near]]
            mean, moves = those.mean(0), (those - those.mean(0)) / np.sqrt(near - 1)
            for _ in range(20):
                e = rng.standard_normal(near) @ moves
                new = mean + (smooth[one] - mean + BANDWIDTH * e) / np.sqrt(1 + BANDWIDTH**2)
                if _possible(new, own):
                    break
            else:
                new = smooth.mean(0)
            alike = np.flatnonzero((own[:, SIZE] == own[one, SIZE]).all(1))
            away = (((smooth[alike] - new) / spread) ** 2).sum(1)
            drawn[i] = own[alike[np.argsort(away)[:DEVICES]]].mean(0)
            drawn[i, DRAWN] = new
            if ill[one]:  # drusen without an area are none
                drawn[i, DIALLED] = drawn[i, DIALLED].clip(fewest)
            elif (drawn[i, DIALLED] < fewest).any():
                drawn[i, DIALLED] = 0
        put_dials(drawn, dials or {})
        return drawn

    def check_dials(self, label, dials) -> None:
        """ValueError, with what there is, for a dial that no scan of the class has, and for dials
        that no scan has together."""
        own, who = self.of(label), label or "this class"
        for name, value in dials.items():
            if name not in DIALS:
                raise ValueError(f"dial {name}: there are {', '.join(DIALS)}")
            known = own[:, AT[name]]
            low, high = (f"{end:.3g}" for end in (known.min(), known.max()))
            if not float(low) <= value <= float(high):  # what is said can be asked for
                raise ValueError(f"dial {name}={value:g}: scans of {who} have {low} to {high}")
        if len(dials) < 2:
            return
        asked = np.array(list(dials.values()), float)
        known = own[:, [AT[name] for name in dials]]
        away = np.abs(known - asked) / (np.ptp(known, axis=0) + 1e-6)
        nearest = known[away.max(1).argmin()]
        if 0 < (asked == 0).sum() < len(asked) or away.max(1).min() > TOGETHER:
            said, has = (", ".join(f"{name}={value:.3g}" for name, value in zip(dials, values))
                         for values in (asked, nearest))  # fmt: skip
            raise ValueError(f"dials {said}: no scan of {who} is like that. The nearest has {has}; "
                             "ask for what goes together, or leave a dial open.")  # fmt: skip

    def ask(self, shape, label, dials) -> None:
        """Write dials into the ``shape`` (len(FIELDS),) of one eye. One that was drawn without
        drusen gets the dials that are left open as scans have them that are near what is asked for:
        of no height no druse would be drawn. ValueError as of ``check_dials``."""
        self.check_dials(label, dials)
        if dials and 0 not in dials.values() and not _ill(shape[None])[0]:
            shape[DIALLED] = self._near(self.of(label), label, dials)[:, DIALLED].mean(0)
        put_dials(shape[None], dials)

    def _near(self, own, label, dials) -> np.ndarray:
        """Of the scans of a class those whose dials are nearest to what is asked for."""
        self.check_dials(label, dials)
        if 0 not in dials.values() and _ill(own).sum() > 2:
            own = own[_ill(own)]
        away = np.zeros(len(own))
        for name, value in dials.items():
            known = own[:, AT[name]]
            away += ((known - value) / (known.std() + 1e-6)) ** 2
        return own[np.argsort(away, kind="stable")[: max(LEAST_NEAR, len(own) // 8)]]

    def mean(self, label=None) -> np.ndarray:
        """The average shape of a class, with the speckle of the scan that is most like it."""
        own = self.of(label)
        smooth = own[:, DRAWN]
        spread = smooth.std(0) + 1e-6
        typical = own[np.argmin((((smooth - smooth.mean(0)) / spread) ** 2).sum(1))].copy()
        typical[DRAWN] = smooth.mean(0)
        return typical


def _ill(shapes) -> np.ndarray:
    """Which of them, (N,), have drusen: a number, a height and an area."""
    return shapes[:, DIALLED].min(1) > 0


def put_dials(shapes, dials) -> None:
    """Write dials that are asked for into shapes (N, len(FIELDS)). Of no druse there is no height
    and no area: where one is asked to be 0, all are."""
    for name, value in dials.items():
        shapes[:, AT[name]] = value
    if 0 in dials.values():
        shapes[:, DIALLED] = 0


def _possible(shape, own) -> bool:
    """Whether a retina of this shape lies in its picture about as well as those of scans do."""
    rpe = np.polynomial.legendre.legval(np.linspace(-1, 1, 9), shape[CURVE])
    top = (rpe - shape[AT["thickness"]]).min()
    least = own[:, AT["thickness"]].min()
    contrast = shape[AT["white"]] - shape[AT["black"]]
    inside = top > 0 and rpe.max() < 0.98 and shape[AT["thickness"]] > 0.8 * least
    return bool(inside and contrast > 8 and shape[AT["noise"]] > 0)


def compare(drawn, unseen, known) -> dict[str, tuple[float, float]]:
    """{field: (drawn, known)}: the largest distance of two distributions (Kolmogorov and Smirnov),
    0 to 1, of drawn shapes and of training scans' to those of unseen scans, (N, len(FIELDS)) each.
    """
    names = ("place", "tilt", "bow", "thickness", "black", "white", *LOOK)
    return {
        name: tuple(
            float(stats.ks_2samp(side[:, AT[name]], unseen[:, AT[name]]).statistic)
            for side in (drawn, known)
        )
        for name in names
    }

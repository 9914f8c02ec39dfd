"""What is on a picture: a B-scan as it should be, or something that a clinic's folder holds too.

Each rule looks at a reduced picture of 192 x 64 pixels, in which a B-scan is plain to see: a band
across the picture, dark above it, steeper inside than along, its brightest line (the RPE) near the
lower edge. The thresholds are further out than any real scan that was measured (1,105 of five
sets, and 800 simulated ones), on which they were also chosen: what is doubtful passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree

from helpers.data.padding import fill_background
from helpers.data.pixels import to_grey

VERSION = 1  # of what mending makes of a picture; a new one makes new caches
ROWS, COLUMNS = 192, 64  # of the reduced picture
COLOURED = 40  # largest less smallest channel from which on a pixel is no grey, JPEG's errors apart


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed on a picture.

    kind: one of KINDS. words: what it is and what was done, for whoever owns the picture.
    mended: uint8 (H, W), or (H, W, 3) of a photograph, to go on with; None: leave it out.
    """

    kind: str
    words: str
    mended: np.ndarray | None


KINDS = (
    "photograph", "no scan", "inverted", "false colour", "coloured marks", "panel", "several scans",
    "rotated", "upside down", "burnt in", "scan",
)  # fmt: skip


def examine(image, modality="oct") -> list[Finding]:
    """What is wrong with a picture, uint8 (H, W) or (H, W, 3), in the order in which it was found.

    Each finding's picture has all mendings before it; the last one's is what to go on with. Where
    one has none, it is the last, and the picture has to be left out. An empty list: nothing was
    noticed, the picture is to be used as it is. modality: "oct" (a B-scan is due) or "dfe" (a
    colour photograph is).
    Raises ValueError for another modality, or for what is no such array.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        raise ValueError(f"an image is uint8 (H, W) or (H, W, 3), not {image.dtype} {image.shape}")
    if modality not in ("oct", "dfe"):
        raise ValueError(f"modality={modality!r}: there are oct, dfe")
    return _examine_scan(image) if modality == "oct" else _examine_photograph(image)


def _examine_scan(image) -> list[Finding]:
    found: list[Finding] = []
    if image.ndim == 3:
        found += _colours(image)
        if found and found[-1].mended is None:
            return found
    grey = found[-1].mended if found else to_grey(image)
    if _is_drawing(grey):
        return [*found, Finding("no scan", "a mask or a drawing of a few values; left out", None)]
    look = _Scan(grey)
    for rule in (_panels, _pose, _marks):
        new = rule(grey, look)
        found += new
        if new and new[-1].mended is None:
            return found
        if new and rule is _pose and any(one.kind == "panel" for one in found):
            # a scan that was cut out and is the wrong way round as well: a page, a screenshot
            words = "several things are wrong with this picture; left out"
            return [*found, Finding("no scan", words, None)]
        if new:
            grey, look = new[-1].mended, _Scan(new[-1].mended)
    return found


def _examine_photograph(image) -> list[Finding]:
    """A grey picture that has all of a B-scan, among colour photographs."""
    chroma = 0.0 if image.ndim == 2 else _share_coloured(image)
    # photographs of one colour, red-free or angiograms, are grey too, but not banded
    if chroma < 0.05 and _Scan(to_grey(image)).is_sure:
        return [Finding("scan", "an OCT B-scan among photographs; left out", None)]
    return []


# --- what a B-scan looks like


class _Scan:
    """A picture reduced to ROWS x COLUMNS, from 0 (its darkness) to 1, and what is measured on it.

    white: where near-white padding lies at the border, which is made dark first; wedge: its share.
    """

    def __init__(self, grey):
        small = Image.fromarray(grey).resize((COLUMNS, ROWS), Image.Resampling.BOX)
        small = np.asarray(small, np.float32)
        white = _white_border(small)
        self.white, self.wedge = white, float(white.mean())
        if self.wedge:
            small = np.where(white, np.percentile(small[~white], 15), small)
        low, high = np.percentile(small, (5, 99.5))
        self.contrast = float(high - low)
        self.levels = np.clip((small - low) / max(self.contrast, 4), -0.2, 1.2)

    @cached_property
    def smooth(self):
        return ndimage.gaussian_filter(self.levels, (2, 1.5))

    @cached_property
    def uprightness(self) -> float:
        """The share of the gradient's energy that runs down the picture, 0 to 1: layers lie across.
        Real scans 0.50 to 0.98, the same on their side 0.02 to 0.45."""
        down = np.diff(self.smooth[::2], axis=0)
        along = np.diff(self.smooth[::2], axis=1) * (ROWS / 2 / COLUMNS / 1.5)  # as on a 3:2 scan
        down, along = (down**2).mean(), (along**2).mean()
        return float(down / max(down + along, 1e-9))

    @cached_property
    def line(self) -> np.ndarray:
        """The row of the brightest line in every column, outliers bridged: int (COLUMNS,)."""
        smooth = self.smooth
        line = ndimage.median_filter(smooth.argmax(0), 9, mode="nearest")
        near = np.abs(np.arange(ROWS)[:, None] - line) <= 6
        return np.where(near, smooth, -1).argmax(0)

    @cached_property
    def profile(self) -> tuple[np.ndarray, float]:
        """Mean level at each distance from the line, (2 ROWS + 1,), NaN where fewer than a third of
        the columns reach; and the share of the variance that it explains, 1 or less."""
        at = self.line + np.arange(-ROWS, ROWS + 1)[:, None]
        inside = (at >= 0) & (at < ROWS)
        fine = ndimage.gaussian_filter(self.levels, (1, 0.5))
        level = np.take_along_axis(fine, at.clip(0, ROWS - 1), 0)
        count = inside.sum(1)
        known = count >= COLUMNS // 3
        mean = np.where(known, (level * inside).sum(1) / np.maximum(count, 1), np.nan)
        rest = ((level - mean[:, None]) ** 2 * inside)[known].sum()
        return mean, float(1 - rest / max(fine.var() * fine.size, 1e-9))

    @property
    def likeness(self) -> float:
        return self.profile[1]

    @cached_property
    def filled(self) -> float:
        """The share that is bright: tissue, in a scan 0.06 to 0.49."""
        return float((self.smooth > 0.35).mean())

    @cached_property
    def middle(self) -> float:
        """The median level: a scan is mostly dark, 0.02 to 0.33."""
        return float(np.median(self.smooth))

    @property
    def is_possible(self) -> bool:
        """Whether this can be a B-scan: within bounds that leave room beyond every real one."""
        banded = (
            self.uprightness > 0.65 and self.likeness > 0.6
        )  # decibels, as they are, are bright
        return (
            self.contrast >= 12
            and self.uprightness > 0.42
            and self.likeness > 0.25
            and (self.filled < 0.6 and self.middle < 0.42 or banded)
            and self.likeness + self.uprightness > 0.9
            and float(np.median(self.smooth[:16])) < (0.65 if banded else 0.45)
            and np.nanmax(self.profile[0]) > 0.5
        )

    @property
    def is_sure(self) -> bool:
        """Whether this is a B-scan beyond doubt, upright or upside down: most real ones are."""
        return (
            self.contrast >= 25
            and self.uprightness > 0.62
            and self.likeness > 0.55
            and self.filled < 0.45
            and self.middle < 0.35
            and self.wedge < 0.5
            and np.nanmax(self.profile[0]) > 0.6
        )

    @cached_property
    def up(self) -> float:
        """More than 0: the choroid is below, less: above. Weighs the profile below the line less
        that above it; distances in units of its width, so that devices are alike."""
        profile, _ = self.profile
        ground = np.nanpercentile(profile, 20)
        width = np.nansum(np.clip(profile - ground, 0, None)) / max(profile[ROWS] - ground, 0.05)
        at = np.array(UP_AT) * width
        below, above = (
            np.interp(ROWS + side * at, np.arange(2 * ROWS + 1), profile) for side in (1, -1)
        )
        return float(np.nan_to_num(below - above) @ np.array(UP_WEIGHTS))

    @property
    def is_upside_down(self) -> bool:
        """Sure only: no real scan comes below -0.6. A few simulated ones, whose choroid fills the
        picture, do, to -3.7; they are bright at the bottom, where a turned one has its vitreous."""
        bottom, top = (float(part.mean()) for part in (self.smooth[-16:], self.smooth[:16]))
        if max(bottom, top) > 0.3 or self.filled > 0.4:
            return False  # washed out: a noisy vitreous passes for a choroid
        if not (self.up < -1.5 and bottom - top < 0.1 or self.up < -3.9):
            return False
        # exports differ in gamma: what is upside down is so in darker and in lighter greys
        return all(self._with_gamma(gamma).up < -0.5 for gamma in (0.75, 1.4))

    def _with_gamma(self, gamma) -> _Scan:
        other = object.__new__(_Scan)
        other.levels = self.levels.clip(0) ** gamma
        return other


# Of a logistic regression without intercept on real and simulated scans and the same turned, each
# data set of equal weight; each was judged by the weights of the others (leave one set out).
UP_AT = (0.08, 0.16, 0.24, 0.32, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.15, 1.3, 1.5, 1.75, 2, 2.4, 2.8,
         3.3, 4)  # fmt: skip
UP_WEIGHTS = (-1.51, 3.74, 10.29, 7.62, 2.38, -2.61, -3.74, -2.57, -1.78, -1.37, -1.1, -0.69, -0.32,
              -0.25, -1.03, -1.8, -1.47, -0.99, -0.54, -0.01)  # fmt: skip


def _white_border(small) -> np.ndarray:
    """Near-white regions along a side, bool like ``small``; none if they are most of the picture
    (it is black on white then)."""
    white = small >= 228
    if not white.any():
        return white
    white = ndimage.maximum_filter(white, 5)
    labels, _ = ndimage.label(white)
    keep = set()
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        keep |= set(np.flatnonzero(np.bincount(side) >= 0.1 * len(side)))
    white = np.isin(labels, sorted(keep - {0}))
    return white if white.mean() < 0.6 else np.zeros_like(white)


# --- colours


def _colours(image) -> list[Finding]:
    """A colour photograph, a scan in false colours, or coloured marks on a grey scan."""
    red, green, blue = (image[..., k] for k in range(3))
    if np.array_equal(red, green) and np.array_equal(green, blue):
        return []
    brightest = np.maximum(np.maximum(red, green), blue)
    coloured = brightest - np.minimum(np.minimum(red, green), blue) > COLOURED
    bright = brightest > COLOURED
    if _is_drawing(red) and _is_drawing(green) and _is_drawing(blue):
        return [Finding("no scan", "a mask or a drawing of a few colours; left out", None)]
    if coloured.sum() < max(12, 2e-4 * coloured.size):  # JPEG's errors, a stray pixel
        return []
    if coloured.sum() < 0.3 * max(bright.sum(), 1) and _Scan(to_grey(image)).is_possible:
        return _coloured_marks(image, coloured)
    # blood and pigment are red: the retina has little blue, whatever the camera
    reddish = (red > 0.9 * green.astype(np.float32))[bright].mean() > 0.6 and (
        green.mean(dtype=float) > 0.8 * blue.mean(dtype=float)
    )
    for name, grey in _without_false_colour(image, careful=reddish):
        sure = _Scan(grey).is_sure if reddish or name == TINT else _is_sure_somehow(grey)
        if sure:
            words = f"a scan in false colours ({name}); turned back into grey"
            return [Finding("false colour", words, grey)]
    if reddish:
        return [Finding("photograph", "a colour photograph among B-scans; left out", None)]
    return [Finding("no scan", "a colour picture, no B-scan; left out", None)]


def _share_coloured(image) -> float:
    image = image[:: max(1, image.shape[0] // 128), :: max(1, image.shape[1] // 128)].astype(int)
    return float((image.max(2) - image.min(2) > 20).mean())


def _is_drawing(grey) -> bool:
    """A mask of layers or lesions, of a few values only, as many sets keep beside their scans."""
    return all(len(np.unique(part)) <= 12 for part in (grey[::16], grey))


def _is_sure_somehow(grey) -> bool:
    """A B-scan beyond doubt, as it is, inverted or on its side."""
    for one in (grey, grey.T):
        one = np.ascontiguousarray(one)
        if _Scan(one).is_sure or _Scan(255 - one).is_sure:
            return True
    return False


# none that runs from black through brown or orange: photographs of a retina lie on those
MAPS = ("jet", "turbo", "hot", "rainbow", "nipy_spectral", "gist_ncar", "viridis", "inferno",
        "magma", "plasma", "cividis", "gnuplot", "gnuplot2", "CMRmap", "cubehelix", "bone",
        "gist_rainbow")  # fmt: skip


TINT = "a tint"


@lru_cache(1)
def _colour_maps() -> dict:
    """The colours of each map and a search tree of them; the last is what Topcon and Zeiss show."""
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap

    device = LinearSegmentedColormap.from_list(
        "device", ["black", "blue", "cyan", "lime", "yellow", "red", "white"]
    )
    maps = {name: matplotlib.colormaps[name] for name in MAPS} | {"device": device}
    colours = {k: np.round(255 * m(np.arange(256))[:, :3]) for k, m in maps.items()}
    return {name: (colour, cKDTree(colour)) for name, colour in colours.items()}


def _without_false_colour(image, careful):
    """(name, grey) by the tint, the one direction in which all colours lie, and by the one colour
    map on which nearly every pixel lies; nothing where neither is sure. careful: only what lies on
    a map exactly."""
    height, width = image.shape[:2]
    some = image[:: max(1, height // 48), :: max(1, width // 48)].reshape(-1, 3).astype(float)
    spread = np.linalg.svd(some, compute_uv=False)
    if (spread[1:] ** 2).sum() < 0.01 * (spread**2).sum():
        grey = to_grey(image).astype(np.float32)
        yield TINT, np.round(grey * (255 / max(grey.max(), 1))).astype(np.uint8)
    best = (np.inf, "")
    for name, (_, tree) in _colour_maps().items():
        away = tree.query(some)[0]
        # JPEG blurs the colours of speckle; a photograph's lie near some map by chance
        middle, most = (12, 30) if careful else (25, 50)
        if np.median(away) <= middle and np.percentile(away, 80) <= most:
            best = min(best, (away.mean(), name))
    if best[1]:
        yield best[1], _by_map(image, best[1])


def _by_map(image, name) -> np.ndarray:
    """uint8 (H, W, 3) to the number of the nearest colour of a map, uint8 (H, W)."""
    packed = image.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    colours, inverse = np.unique(packed, return_inverse=True)
    colours = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1)
    nearest = _colour_maps()[name][1].query(colours)[1]
    return nearest.astype(np.uint8)[inverse].reshape(image.shape[:2])


def _coloured_marks(image, coloured) -> list[Finding]:
    """Lines and letters in colour on a grey scan: filled beside the retina, left out upon it."""
    grey = to_grey(image)
    mask = ndimage.maximum_filter(coloured, 7)
    if mask.mean() > 0.2 or (mask & _tissue(_Scan(grey), grey.shape)).sum() > 0.05 * mask.sum():
        words = "coloured marks on the retina, which training would learn; left out"
        return [Finding("coloured marks", words, None)]
    words = "coloured marks beside the retina; filled with background"
    return [Finding("coloured marks", words, fill_background(grey, mask))]


# --- several panels


def _jumps(grey, blocks=32) -> np.ndarray:
    """For each column the share of blocks of rows in which it begins with a jump: (W,), 0 to 1."""
    height, width = grey.shape
    small = Image.fromarray(grey).resize((width, blocks), Image.Resampling.BOX)
    mean = ndimage.uniform_filter1d(np.asarray(small, np.float32), 3, axis=1)
    jump = np.abs(mean[:, 4:-2] - mean[:, 1:-5])  # of the three columns before and from x on
    typical = np.median(jump, axis=1, keepdims=True)
    share = np.zeros(width, np.float32)
    share[3:-3] = (jump > 4 * typical + 3).mean(0)
    return share


def _kinship(grey) -> np.ndarray:
    """How much each column's speckle is like the one before it, (W,), 1 as usual. Neighbours on
    one scan share their speckle, two scans side by side do not, however alike their layers are.
    "Usual" is taken among every 16th column: JPEG's blocks have seams too."""
    fine = np.diff(grey.astype(np.float32), axis=0).clip(-60, 60)
    energy = np.einsum("ij,ij->j", fine, fine)
    alike = np.einsum("ij,ij->j", fine[:, 1:], fine[:, :-1])
    alike = np.append(1, alike / np.sqrt(energy[1:] * energy[:-1] + 1e-3))
    # the median of each sixteenth, all at once
    those = np.pad(alike, (0, -len(alike) % 16), constant_values=np.inf).reshape(-1, 16)
    those = np.sort(those, axis=0)
    k, count = np.arange(16), (len(alike) + 15 - np.arange(16)) // 16
    usual = ((those[(count - 1) // 2, k] + those[count // 2, k]) / 2)[np.arange(len(alike)) % 16]
    # of few or independent pixels the likeness is chance: 1 / sqrt(n) is its standard deviation
    known = usual > 5 / np.sqrt(len(fine))
    return np.where(known, alike / np.maximum(usual, 1e-3), 1)


def _seams(view, least) -> list[int]:
    """Columns at which another picture may begin, the likeliest first: int, at most four. least:
    the share of jumps from which on the middle is one; where scans lie one above the other, dark
    meets dark there."""
    width = view.shape[1]
    if width < 64 or len(view) < 32:
        return []
    jump, kin = _jumps(view), _kinship(view)
    inner = np.zeros(width, bool)
    inner[round(0.12 * width) : round(0.88 * width)] = True
    # between equal halves even scans of one eye, whose layers nearly meet
    middle = np.abs(np.arange(width) - width / 2) <= max(1, 0.004 * width)
    score = jump + (1 - kin.clip(0, 1))
    good = (inner & (jump >= 0.55) & (ndimage.minimum_filter1d(kin, 7) < 0.5)) | (
        middle & (kin < 0.4) & (jump >= least)
    )
    found = []
    score = np.where(good, score, 0)
    while len(found) < 4 and score.max() > 0:
        found.append(int(score.argmax()))
        score[max(0, found[-1] - 8) : found[-1] + 8] = 0
    return found


def _panels(grey, whole) -> list[Finding]:
    """An infrared picture beside the scan (cut off), or more than one scan (left out)."""
    for across in (False, True):
        view = np.ascontiguousarray(grey.T) if across else grey
        for seam in _seams(view, 0.0 if across else 0.25):
            parts = [_trim(part) for part in (view[:, :seam], view[:, seam:])]
            if min(part.shape[1] for part in parts) < max(24, 0.12 * view.shape[1]):
                continue
            parts = [np.ascontiguousarray(part.T if across else part) for part in parts]
            looks = [_Scan(part) for part in parts]
            sure = [look.is_sure for look in looks]
            if across and all(sure):
                # of one scan, cut in two, the lower part begins within the retina
                sure = [look.up > 1 and np.median(look.smooth[:12]) < 0.3 for look in looks]
            if all(sure):
                words = "two scans or more in one picture; left out: save each as a file of its own"
                return [Finding("several scans", words, None)]
            if (
                any(sure)
                and not (across and whole.is_sure)
                and not looks[sure.index(False)].is_possible
            ):
                words = "another picture beside the scan, as in an export with its infrared image"
                return [Finding("panel", f"{words}; cut off", parts[sure.index(True)])]
    return []


def _trim(part) -> np.ndarray:
    """Without the columns of one value at its sides: a separator, a margin."""
    flat = np.ptp(part, axis=0) <= 6
    if flat.all():
        return part
    first, last = np.argmin(flat), len(flat) - np.argmin(flat[::-1])
    return part[:, first:last]


# --- the wrong way round


def _pose(grey, look) -> list[Finding]:
    """Black on white, on its side, upside down, or no B-scan at all."""
    found = []
    # a scan is mostly dark; what is mostly bright and a scan as its negative is black on white,
    # even where it passes for one, its bright vitreous taken for padding
    if np.median(grey[::4, ::4]) > 110 and (not look.is_sure or look.wedge > 0.2):
        negative = 255 - grey
        if _Scan(negative).is_sure or _Scan(np.ascontiguousarray(negative.T)).is_sure:
            grey, look = negative, _Scan(negative)
            found.append(Finding("inverted", "black on white; turned round", grey))
    if not look.is_possible:
        if look.uprightness < 0.38:
            ways = [np.ascontiguousarray(np.rot90(grey, k)) for k in (1, 3)]
            looks = [_Scan(way) for way in ways]
            best = int(looks[1].up > looks[0].up)
            if looks[best].is_sure:
                if looks[best].up < 1:
                    words = "a scan on its side, and which way is not sure; left out"
                    return [*found, Finding("rotated", words, None)]
                way = ("to the left", "to the right")[best]
                words = f"a scan on its side; turned by 90 degrees {way}"
                return [*found, Finding("rotated", words, ways[best])]
        return [*found, Finding("no scan", "this does not look like a B-scan; left out", None)]
    if look.is_sure and look.is_upside_down:
        words = "upside down, the choroid above the vitreous; turned by 180 degrees"
        found.append(Finding("upside down", words, np.ascontiguousarray(grey[::-1, ::-1])))
    return found


# --- burnt in


def _tissue(look, shape) -> np.ndarray:
    """The retina and what is bright about it, generously, and white padding: bool of ``shape``."""
    labels, _ = ndimage.label(look.smooth > 0.22)
    at = np.bincount(labels[look.line, np.arange(COLUMNS)], minlength=labels.max() + 1)
    at[0] = 0
    tissue = np.isin(labels, np.flatnonzero(at >= 3))  # letters lie apart from the line
    tissue = ndimage.maximum_filter(tissue, (13, 3))
    if look.wedge:
        tissue |= ndimage.maximum_filter(look.white, (9, 5))  # its edge is straight as a line is
    return np.asarray(Image.fromarray(tissue).resize(shape[::-1], Image.Resampling.NEAREST))


def _marks(grey, look) -> list[Finding]:
    """Text, icons and scale bars in white beside the retina."""
    strokes = _strokes(grey, look)
    if strokes is None:
        return []
    grow = max(2, round(0.006 * max(grey.shape)))
    mask = ndimage.maximum_filter(strokes, 2 * grow + 1)
    words = "text, an icon or a scale bar burnt in beside the retina; filled with background"
    return [Finding("burnt in", words, fill_background(grey, mask))]


def _strokes(grey, look) -> np.ndarray | None:
    """Where something was drawn beside the retina, bool (H, W); None: nowhere.

    Drawn lines are even along and end within three pixels on both sides, which neither speckle nor
    a membrane in the vitreous is. From a long one or three short ones on, all that is bright
    around them counts: the rest of the letters.
    """
    level = int(np.median(grey[::4, ::4]))
    bright = grey >= max(110, level + 70)
    outside = ~_tissue(look, grey.shape)
    bright &= outside
    if not 12 <= bright.sum() <= 0.015 * bright.size:  # more: overexposed noise
        return None
    least = max(5, round(0.01 * max(grey.shape)))
    drawn = np.zeros(grey.shape, bool)
    longest = max(
        _even_runs(grey, bright, least, drawn), _even_runs(grey.T, bright.T, least, drawn.T)
    )
    if not longest or longest < 4 * least and ndimage.label(drawn, np.ones((3, 3)))[1] < 3:
        return None
    near = ndimage.maximum_filter(drawn, 12 * least + 1)
    return drawn | (near & outside & (grey >= level + 40))


def _even_runs(grey, bright, least, drawn) -> int:
    """Draw into ``drawn`` the pixels of runs along a row, ``least`` or longer, of one brightness
    and dark above and below; the length of the longest, or 0."""
    height, width = grey.shape
    row, column = np.nonzero(bright)
    value = grey[row, column].astype(int)
    above, below = (
        grey[np.maximum(row - 3, 0), column],
        grey[np.minimum(row + 3, height - 1), column],
    )
    thin = value - np.maximum(above, below) >= 60
    if not thin.any():
        return 0
    at, value = (row * width + column)[thin], value[thin]
    order = np.argsort(at)
    at, value = at[order], value[order]
    starts = np.append(0, 1 + np.flatnonzero((np.diff(at) != 1) | (np.abs(np.diff(value)) > 14)))
    lengths = np.diff(np.append(starts, len(at)))
    keep = np.repeat(lengths >= least, lengths)
    drawn[at[keep] // width, at[keep] % width] = True
    return int(lengths.max()) if keep.any() else 0

"""Image clean-up: reading files, OCT B-scans and DFE photographs.

Everything here takes and gives uint8 arrays, is deterministic, and never looks at a label.
"""

from __future__ import annotations

import math
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

OCT_FRAMINGS = ("stretch", "aspect", "retina", "flatten")
DFE_FRAMINGS = ("macula", "full")
SMALLEST = 16  # pixels: no retina can be seen in less

# A 45 degree photograph shows about 13 mm of retina across its circular field of view.
FIELD_OF_VIEW_UM = 13_000.0


def read_image(path) -> np.ndarray:
    """Read one image file as uint8, (H, W) or (H, W, 3).

    16-bit and float pixels are scaled from their own 0.1 to 99.9 percentile, palettes and CMYK
    become RGB, transparent pixels are laid over black, and of several frames the first counts.
    Raises ValueError that names the file if it is empty, truncated, no image, of one grey value
    only, or smaller than 16 x 16 pixels; FileNotFoundError if it is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    try:
        with Image.open(path) as file:
            if getattr(file, "n_frames", 1) > 1:
                warnings.warn(f"{path}: {file.n_frames} frames, the first is used", stacklevel=2)
            image = to_uint8(ImageOps.exif_transpose(file))
    except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, struct.error...
        raise ValueError(f"{path}: cannot be read as an image ({error})") from error
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST:
        raise ValueError(
            f"{path}: {width} x {height} pixels, at least {SMALLEST} x {SMALLEST} needed"
        )
    if image.min() == image.max():
        raise ValueError(f"{path}: every pixel has the value {image.min()}")
    return image


def to_uint8(image: Image.Image) -> np.ndarray:
    """Turn a PIL image of any mode into uint8 (H, W) or (H, W, 3)."""
    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        low, high = np.percentile(values, (0.1, 99.9))
        return np.round(255 * np.clip((values - low) / max(high - low, 1e-9), 0, 1)).astype("uint8")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.array(image.convert("L" if image.mode in ("L", "1", "LA") else "RGB"))


def to_grey(image) -> np.ndarray:
    """uint8 (H, W) or (H, W, 3) to uint8 (H, W)."""
    return image if image.ndim == 2 else np.array(Image.fromarray(image).convert("L"))


def resize(image, height, width) -> np.ndarray:
    """Antialiased bicubic resize of a uint8 image."""
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


# ---------------------------------------------------------------- OCT


def clean_oct(image, *, size, framing="stretch") -> np.ndarray:
    """One OCT B-scan, uint8 (H, W) or (H, W, 3), to uint8 (size, size), one channel.

    White wedges and padding are filled with the scan's own background. `framing`:
    "stretch" the whole scan to the square; "aspect" keep its shape and pad with background;
    "retina" crop to the retina's rows; "flatten" shift columns so that the RPE is level.
    """
    if framing not in OCT_FRAMINGS:
        raise ValueError(f"framing={framing!r}: an OCT takes one of {', '.join(OCT_FRAMINGS)}")
    grey = to_grey(image)
    grey = fill_background(grey, padding_mask(grey))
    if framing == "aspect":
        grey = pad_to_square(grey)
    elif framing == "retina":
        top, bottom = retina_rows(grey)
        grey = grey[top:bottom]
    elif framing == "flatten":
        grey = flatten_rpe(grey)
    return resize(grey, size, size)


def padding_mask(grey) -> np.ndarray:
    """Where a scan holds no signal: bool (H, W), True in white wedges and in padding.

    Rotated exports leave near-white polygons, and frames of white or black, at the border. A
    region counts if it is flat, touches the border and follows it for at least 6 % of a side or
    fills a corner: a saturated RPE that runs into the edge of the scan does neither.
    """
    height, width = grey.shape
    mask = np.zeros(grey.shape, bool)
    smooth = ndimage.uniform_filter(grey.astype(np.float32), 3, mode="nearest")
    flat_black = ndimage.maximum_filter(grey, 5, mode="nearest") <= 6
    if flat_black.any() and np.median(grey[~flat_black]) < 8:
        flat_black[:] = False  # a scan whose own background is clipped to black
    for candidate in (smooth >= 240, flat_black):
        labels, count = ndimage.label(candidate)
        if not count:
            continue
        for label in np.unique(np.r_[labels[0], labels[-1], labels[:, 0], labels[:, -1]]):
            if label == 0:
                continue
            region = labels == label
            along = max(
                region[0].mean(), region[-1].mean(), region[:, 0].mean(), region[:, -1].mean()
            )
            corner = region[[0, 0, -1, -1], [0, -1, 0, -1]].any()
            if along >= 0.06 or (corner and along >= 0.01):
                mask |= region
    if mask.any():  # the blurred edge of a wedge belongs to it
        grow = max(3, round(0.009 * max(height, width)))
        mask = ndimage.binary_dilation(mask, np.ones((3, 3), bool), iterations=grow)
    return mask


def background_mask(grey, mask) -> np.ndarray:
    """Pixels of vitreous or sclera: bool (H, W), outside `mask` and away from bright layers."""
    weight = (~mask).astype(np.float32)
    sigma = max(1.5, grey.shape[0] / 160)
    smooth = ndimage.gaussian_filter(grey * weight, sigma)
    smooth /= np.maximum(ndimage.gaussian_filter(weight, sigma), 1e-3)
    dark, bright = np.percentile(smooth[~mask], (20, 99))
    return ~mask & (smooth <= dark + 0.3 * (bright - dark))


def fill_background(grey, mask) -> np.ndarray:
    """Fill `mask` with the level and the speckle of the scan's own background nearby.

    The level is a normalised convolution over background pixels, fine beside the edge and coarse
    far from it; the speckle is copied in small blocks from background windows close by, so that
    its grain is kept. The random choice is seeded by the picture: same scan, same fill.
    """
    if not mask.any():
        return grey
    if mask.mean() > 0.9:
        raise ValueError("more than nine tenths of the scan are padding")
    background = background_mask(grey, mask)
    values = grey.astype(np.float32)
    level = np.full(grey.shape, np.median(values[background]), np.float32)
    for sigma in (48, 16, 5):
        weight = ndimage.gaussian_filter(background.astype(np.float32), sigma, truncate=3)
        local = ndimage.gaussian_filter(values * background, sigma, truncate=3)
        trust = np.clip(weight / 0.15, 0, 1)
        level += trust * (local / np.maximum(weight, 1e-6) - level)
    filled = values.copy()
    filled[mask] = (level + speckle(values - level, level, background, mask))[mask]
    return np.clip(np.round(filled), 0, 255).astype(np.uint8)


def speckle(residual, level, background, mask, block=12) -> np.ndarray:
    """Zero-mean texture (H, W) for `mask`, copied blockwise from nearby background windows."""
    height, width = mask.shape
    random = np.random.default_rng(zlib.crc32(np.round(level).tobytes()))
    texture = np.zeros_like(residual)
    whole = ndimage.uniform_filter(background.astype(np.float32), block, origin=-(block // 2))
    rows, columns = np.nonzero(whole[: height - block, : width - block] > 0.99)
    if len(rows) == 0:
        return texture
    some = random.permutation(len(rows))[:2000]
    rows, columns = rows[some], columns[some]
    for top in range(0, height, block):
        for left in range(0, width, block):
            here = mask[top : top + block, left : left + block]
            if not here.any():
                continue
            distance = np.abs(rows - top) + 0.5 * np.abs(columns - left)
            near = np.argpartition(distance, min(30, len(rows) - 1))[:30]
            pick = random.choice(near)
            row, column = rows[pick], columns[pick]
            patch = residual[row : row + block, column : column + block]
            patch = patch[:: random.choice((-1, 1)), :: random.choice((-1, 1))]
            source = level[row : row + block, column : column + block].mean()
            target = level[top : top + block, left : left + block].mean()
            patch = (patch - patch.mean()) * np.clip((target + 1) / (source + 1), 0.5, 2)
            height, width = here.shape
            texture[top : top + block, left : left + block] = patch[:height, :width]
    return texture


def pad_to_square(grey) -> np.ndarray:
    """Pad the shorter side, both ends alike, with the scan's background."""
    height, width = grey.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    padded = np.zeros((side, side), np.uint8)
    mask = np.ones((side, side), bool)
    padded[top : top + height, left : left + width] = grey
    mask[top : top + height, left : left + width] = False
    return fill_background(padded, mask)


def retina_rows(grey, margin=0.12) -> tuple[int, int]:
    """First and last row of the retina band, with a margin (a share of the band's height)."""
    rpe = rpe_rows(grey)
    smooth = ndimage.gaussian_filter(grey.astype(np.float32), grey.shape[0] / 100)
    dark, bright = np.percentile(smooth, (20, 99))
    rows = np.arange(grey.shape[0])[:, None]
    inner = (smooth > dark + 0.3 * (bright - dark)) & (rows < rpe[None])
    labels, count = ndimage.label(inner)
    if count:
        inner = labels == 1 + np.argmax(ndimage.sum(inner, labels, np.arange(1, count + 1)))
        top = float(np.nonzero(inner.sum(1) >= 0.01 * grey.shape[1])[0][:1].sum())
    else:
        top = rpe.min() - 0.2 * grey.shape[0]
    bottom = rpe.max() + 0.08 * grey.shape[0]
    extra = margin * (bottom - top)
    return max(0, math.floor(top - extra)), min(grey.shape[0], math.ceil(bottom + extra))


def rpe_rows(grey) -> np.ndarray:
    """The row of the RPE in every column, float (W,): a robust cubic through bright ridges.

    In each column the deepest ridge at least 0.7 as bright as the brightest is taken; columns
    that disagree with the curve (vessel shadows, the nerve fibre layer) are dropped in rounds.
    """
    height, width = grey.shape
    smooth = ndimage.gaussian_filter(grey.astype(np.float32), (height / 120, width / 80))
    ridge = smooth == ndimage.maximum_filter1d(smooth, max(3, height // 40), axis=0)
    ridge &= smooth >= 0.7 * smooth.max(axis=0)
    row = height - 1 - np.argmax(ridge[::-1], axis=0).astype(float)
    x = np.linspace(-1, 1, width)
    keep = np.ones(width, bool)
    for degree in (1, 2, 2, 3, 3):
        curve = np.polynomial.Polynomial.fit(x[keep], row[keep], degree, domain=[-1, 1])(x)
        error = np.abs(row - curve)
        keep = error <= max(2.0, 0.01 * height, 1.5 * np.median(error))
    return np.clip(curve, 0, height - 1)


def flatten_rpe(grey, at=0.65) -> np.ndarray:
    """Shift every column so that the RPE lies in one row, `at` of the height from the top."""
    height, width = grey.shape
    shift = np.round(at * height - rpe_rows(grey)).astype(int)
    source = np.arange(height)[:, None] - shift[None]
    outside = (source < 0) | (source >= height)
    moved = np.take_along_axis(grey, np.clip(source, 0, height - 1), axis=0)
    return fill_background(moved, outside)


# ---------------------------------------------------------------- DFE


def clean_dfe(image, *, size, framing="macula", clahe=False) -> tuple[np.ndarray, float | None]:
    """One DFE photograph, uint8 (H, W, 3), to (uint8 (size, size, 3), micrometres per pixel).

    The circular field of view is found and cropped to its square; "full" keeps it whole,
    "macula" crops about 6 mm around the estimated fovea. The scale assumes a 45 degree field
    (13 mm across) and is None where the field of view found is no plausible circle.
    """
    if framing not in DFE_FRAMINGS:
        raise ValueError(f"framing={framing!r}: a DFE takes one of {', '.join(DFE_FRAMINGS)}")
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    image, scale = crop_field_of_view(image)
    return resize(image, size, size), scale and scale * image.shape[0] / size


def crop_field_of_view(image) -> tuple[np.ndarray, float | None]:
    """Square crop around the field of view, black outside, and micrometres per pixel or None."""
    bright = ndimage.gaussian_filter(image.max(axis=2).astype(np.float32), 2)
    labels, count = ndimage.label(bright > max(10, 0.12 * np.percentile(bright, 95)))
    if not count:
        return image, None
    areas = ndimage.sum(labels > 0, labels, np.arange(1, count + 1))
    rows, columns = ndimage.find_objects(labels == 1 + np.argmax(areas))[0]
    side = max(rows.stop - rows.start, columns.stop - columns.start)
    cy, cx = (rows.start + rows.stop) // 2, (columns.start + columns.stop) // 2
    square = np.zeros((side, side, 3), np.uint8)
    top, left = cy - side // 2, cx - side // 2
    part = image[max(top, 0) : top + side, max(left, 0) : left + side]
    y, x = max(-top, 0), max(-left, 0)
    square[y : y + part.shape[0], x : x + part.shape[1]] = part
    return square, FIELD_OF_VIEW_UM / side

"""Image clean-up: reading files, OCT B-scans and DFE photographs.

Everything here takes and gives uint8 arrays, is deterministic, and never looks at a label.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

from helpers.fovea import crop_field_of_view, find_fovea
from helpers.padding import fill_background, padding_mask, without_padding

__all__ = [
    "clean_dfe", "clean_oct", "fill_background", "padding_mask", "read_image", "resize", "to_grey",
]  # fmt: skip

OCT_FRAMINGS = ("stretch", "aspect", "retina", "flatten", "band")
DFE_FRAMINGS = ("full", "macula", "strip")
VERSION = 1  # of what cleaning makes of a file; a new one makes new caches
SMALLEST = 16  # pixels: no retina can be seen in less

# A 45 degree photograph shows about 13 mm of retina across its circular field of view.
FIELD_OF_VIEW_UM = 13_000.0
MACULA_UM = 6_000.0  # what a B-scan spans
STRIP_UM = 1_000.0  # about its line, in the framing "strip"
RPE_AT = 0.65  # of the height, in the framing "flatten"
BAND = (2.25, 1.5)  # thicknesses of the retina above and below the RPE, in the framing "band"


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
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: cannot be read as an image (of no known format)") from error
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

    White wedges and padding are filled with the scan's own background. ``framing``:
    "stretch" the whole scan to the square; "aspect" keep its shape and pad with background;
    "retina" crop to the retina's rows; "flatten" shift columns so that the RPE is level; "band"
    does so and keeps 2.25 thicknesses of the retina above it and 1.5 below, so that scans of
    all devices have the retina at one place and one size.
    Raises ValueError for another framing, or if more than nine tenths of the scan are padding.
    """
    if framing not in OCT_FRAMINGS:
        raise ValueError(f"framing={framing!r}: an OCT takes one of {', '.join(OCT_FRAMINGS)}")
    grey = without_padding(to_grey(image))
    if framing == "aspect":
        grey = pad_to_square(grey)
    elif framing == "retina":
        top, bottom = retina_rows(grey)
        grey = grey[top:bottom]
    elif framing == "flatten":
        grey = flatten_rpe(grey)
    elif framing == "band":
        grey = band(grey)
    return resize(grey, size, size)


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


def find_rpe(grey) -> tuple[np.ndarray, float]:
    """Where the RPE runs: Legendre coefficients (4,), in rows over the width as -1 to 1, and the
    share of columns that agree with them. A robust cubic through bright ridges.

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


# ---------------------------------------------------------------- DFE


def clean_dfe(
    image, *, size, framing="macula", clahe=False, centre=None
) -> tuple[np.ndarray, float | None]:
    """One DFE photograph, uint8 (H, W, 3), to (uint8 (size, size, 3), micrometres per pixel).

    The circular field of view is found and cropped to its square, black outside; "full" keeps it
    whole, "macula" crops 6 mm around the estimated fovea, "strip" the middle 1 mm of that, above
    and below the line of a horizontal scan, and stretches it to a square: a column is then a place
    on that line. ``centre`` (row, column) is the middle of the scan's line, where it is known, in
    px of ``image``; it takes the fovea's place. ``clahe`` evens out the contrast
    (Zuiderveld 1994: 8 x 8 tiles, clip limit 0.01) of the lightness. The scale, along a row,
    assumes a 45 degree field, 13 mm across; it is None where no plausible circle was found, and
    the macula crop then takes 6/13 of the picture. Warns where the fovea is unsure: the field's
    centre is used then.
    """
    if framing not in DFE_FRAMINGS:
        raise ValueError(f"framing={framing!r}: a DFE takes one of {', '.join(DFE_FRAMINGS)}")
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    image, plausible, (top, left) = crop_field_of_view(image)
    side = image.shape[0]
    if framing != "full":
        if centre is not None:
            row, column = centre[0] - top, centre[1] - left
        else:
            row, column, sure = find_fovea(image)
            if not sure:
                warnings.warn("Some foveas are unsure: the field's centre is used.", stacklevel=2)
        width = round(side * MACULA_UM / FIELD_OF_VIEW_UM)
        height = round(side * STRIP_UM / FIELD_OF_VIEW_UM) if framing == "strip" else width
        top = int(np.clip(row - height / 2, 0, side - height))
        left = int(np.clip(column - width / 2, 0, side - width))
        image = image[top : top + height, left : left + width]
    um_per_px = FIELD_OF_VIEW_UM / side * image.shape[1] / size if plausible else None
    image = resize(image, size, size)
    if clahe:
        from skimage import color, exposure

        lab = color.rgb2lab(image)
        lab[..., 0] = 100 * exposure.equalize_adapthist(lab[..., 0] / 100, clip_limit=0.01)
        image = np.round(255 * np.clip(color.lab2rgb(lab), 0, 1)).astype(np.uint8)
    return image, um_per_px

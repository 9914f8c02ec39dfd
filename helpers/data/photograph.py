"""DFE (fundus) photographs cleaned: the field of view, the fovea, and what is cropped about it.

Everything here takes and gives uint8 arrays, is deterministic, and never looks at a label.
"""

from __future__ import annotations

import warnings

import numpy as np
from PIL import Image
from scipy import ndimage

from helpers.data.pixels import resize


def crop_field_of_view(image) -> tuple[np.ndarray, bool, tuple[int, int]]:
    """Square crop around the field of view, whether that is plausibly a whole circle, and the row
    and column of ``image`` where the crop begins (outside of it, perhaps).

    The field is the largest region brighter than the surround. Cameras cut it off above and below,
    or at the sides, so its longer extent is the diameter. Not plausible: an extent under half of
    the picture, such as a disc on a dark one, which is then kept whole; or a shape that fills its
    box by less than a cut circle would, or by more: a picture that is bright to its four corners
    has no circle, and no scale.
    """
    bright = ndimage.gaussian_filter(image.max(axis=2).astype(np.float32), image.shape[0] / 200)
    labels, count = ndimage.label(bright > max(10, 0.15 * np.percentile(bright, 90)))
    side = 0
    if count:
        region = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
        rows, columns = ndimage.find_objects(region.astype(int))[0]
        height, width = rows.stop - rows.start, columns.stop - columns.start
        side = max(height, width)
    if side < 0.5 * min(image.shape[:2]):
        square, begin = _square(image, image.shape[0] / 2, image.shape[1] / 2, max(image.shape[:2]))
        return square, False, begin
    filled = region.sum() / (height * width)
    whole = min(height, width) > 0.6 * side
    center = (rows.start + rows.stop) / 2, (columns.start + columns.stop) / 2
    square, begin = _square(image, *center, side)
    return square, bool(whole and 0.7 < filled < 0.96), begin  # a circle cut to 0.6: 0.94


def _square(image, row, column, side) -> tuple[np.ndarray, tuple[int, int]]:
    top, left = round(row - side / 2), round(column - side / 2)
    square = np.zeros((side, side, 3), np.uint8)
    part = image[max(top, 0) : top + side, max(left, 0) : left + side]
    down, right = max(-top, 0), max(-left, 0)
    square[down : down + part.shape[0], right : right + part.shape[1]] = part
    return square, (top, left)


def find_fovea(field, work=130) -> tuple[float, float, bool]:
    """Row and column of the fovea in a square field of view, and whether the estimate is sure; the
    middle of a pixel is a whole number.

    The disc is the brightest smooth spot of its size; the fovea the darkest smooth spot near 2.5
    disc diameters from it towards the centre and slightly lower. Works on ``work`` pixels for the
    13 mm of the field, so 0.1 mm each. Unsure: no clear disc, or no dark spot where one belongs.
    """
    small = np.asarray(Image.fromarray(field).resize((work, work)), np.float32)
    inside = ndimage.binary_erosion(small.max(axis=2) > 12, iterations=5)
    rows, columns = np.mgrid[:work, :work] - (work - 1) / 2
    inside &= np.hypot(rows, columns) < 0.46 * work
    centre = ((field.shape[0] - 1) / 2, (field.shape[0] - 1) / 2)
    if inside.mean() < 0.3:
        return *centre, False
    grey = small[..., :2].mean(axis=2)  # red and green: blue is mostly noise
    weight = np.maximum(ndimage.gaussian_filter(inside.astype(np.float32), 20), 1e-3)
    even = grey - ndimage.gaussian_filter(grey * inside, 20) / weight
    even /= even[inside].std() + 1e-6
    disc = ndimage.gaussian_filter(np.where(inside, even, 0), 5)
    # the disc of a photograph of the macula lies 4 to 5 mm beside its centre
    prior = np.exp(-(((np.abs(columns) - 40) / 22) ** 2 + (rows / 22) ** 2) / 2)
    spot = np.where(inside, disc * prior, -np.inf)
    r, c = np.unravel_index(np.argmax(spot), spot.shape)
    nasal = 1 if columns[r, c] > 0 else -1
    expected = (r + 4 - (work - 1) / 2, c - nasal * 45 - (work - 1) / 2)
    away = np.hypot(rows - expected[0], columns - expected[1])
    dark = ndimage.gaussian_filter(np.where(inside, even, 0), 4)
    cost = np.where(inside & (away < 16), dark + (away / 16) ** 2, np.inf)
    fovea = np.unravel_index(np.argmin(cost), cost.shape)
    sure = disc[r, c] > 1 and np.isfinite(cost.min()) and dark[fovea] < -0.25
    if not sure:
        return *centre, False
    scale = field.shape[0] / work
    return (fovea[0] + 0.5) * scale - 0.5, (fovea[1] + 0.5) * scale - 0.5, True


DFE_FRAMINGS = ("full", "macula", "strip")

# A 45 degree photograph shows about 13 mm of retina across its circular field of view.
FIELD_OF_VIEW_UM = 13_000.0
MACULA_UM = 6_000.0  # what a B-scan spans
STRIP_UM = 1_000.0  # about its line, in the framing "strip"


def clean_dfe(
    image, *, size, framing="macula", clahe=False, centre=None
) -> tuple[np.ndarray, float | None]:
    """One DFE photograph, uint8 (H, W, 3), to (uint8 (size, size, 3), micrometres per pixel).

    The circular field of view is found and cropped to its square, black outside; "full" keeps it
    whole, "macula" crops 6 mm around the estimated fovea, "strip" the middle 1 mm of that, above
    and below the line of a horizontal scan, and stretches it to a square: a column is then a place
    on that line. ``centre`` (row, column) is the middle of the scan's line, where it is known, in
    px of ``image``, whose middles are whole numbers; it takes the fovea's place. What is cropped
    begins and ends between pixels, where it has to. ``clahe`` evens out the contrast
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
    side = width = image.shape[0]
    if framing == "full":
        image = resize(image, size, size)
    else:
        if centre is not None:
            row, column = centre[0] - top, centre[1] - left
        else:
            row, column, sure = find_fovea(image)
            if not sure:
                warnings.warn("Some foveas are unsure: the field's centre is used.", stacklevel=2)
        width = side * MACULA_UM / FIELD_OF_VIEW_UM
        height = side * STRIP_UM / FIELD_OF_VIEW_UM if framing == "strip" else width
        # a pixel's edge lies half a px before its middle
        top = np.clip(row + 0.5 - height / 2, 0, side - height)
        left = np.clip(column + 0.5 - width / 2, 0, side - width)
        box = (left, top, left + width, top + height)
        image = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box)
        image = np.array(image)
    um_per_px = FIELD_OF_VIEW_UM / side * width / size if plausible else None
    if clahe:
        from skimage import color, exposure

        lab = color.rgb2lab(image)
        lab[..., 0] = 100 * exposure.equalize_adapthist(lab[..., 0] / 100, clip_limit=0.01)
        image = np.round(255 * np.clip(color.lab2rgb(lab), 0, 1)).astype(np.uint8)
    return image, um_per_px

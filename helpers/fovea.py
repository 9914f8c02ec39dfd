"""Where the field of view and the fovea lie in a DFE photograph."""

import numpy as np
from PIL import Image
from scipy import ndimage


def crop_field_of_view(image) -> tuple[np.ndarray, bool, tuple[int, int]]:
    """Square crop around the field of view, whether that is plausibly a whole circle, and the row
    and column of ``image`` where the crop begins (outside of it, perhaps).

    The field is the largest region brighter than the surround. Cameras cut it off above and below,
    or at the sides, so its longer extent is the diameter. Not plausible: an extent under half of
    the picture, or a shape that fills its box by less than a cut circle would.
    """
    bright = ndimage.gaussian_filter(image.max(axis=2).astype(np.float32), image.shape[0] / 200)
    labels, count = ndimage.label(bright > max(10, 0.15 * np.percentile(bright, 90)))
    if not count:
        square, begin = _square(image, image.shape[0] / 2, image.shape[1] / 2, max(image.shape[:2]))
        return square, False, begin
    region = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    rows, columns = ndimage.find_objects(region.astype(int))[0]
    height, width = rows.stop - rows.start, columns.stop - columns.start
    side = max(height, width)
    filled = region.sum() / (height * width)
    whole = side >= 0.5 * min(image.shape[:2]) and min(height, width) > 0.6 * side
    center = (rows.start + rows.stop) / 2, (columns.start + columns.stop) / 2
    square, begin = _square(image, *center, side)
    return square, bool(whole and filled > 0.7), begin


def _square(image, row, column, side) -> tuple[np.ndarray, tuple[int, int]]:
    top, left = round(row - side / 2), round(column - side / 2)
    square = np.zeros((side, side, 3), np.uint8)
    part = image[max(top, 0) : top + side, max(left, 0) : left + side]
    down, right = max(-top, 0), max(-left, 0)
    square[down : down + part.shape[0], right : right + part.shape[1]] = part
    return square, (top, left)


def find_fovea(field, work=130) -> tuple[float, float, bool]:
    """Row and column of the fovea in a square field of view, and whether the estimate is sure.

    The disc is the brightest smooth spot of its size; the fovea the darkest smooth spot near 2.5
    disc diameters from it towards the centre and slightly lower. Works on ``work`` pixels for the
    13 mm of the field, so 0.1 mm each. Unsure: no clear disc, or no dark spot where one belongs.
    """
    small = np.asarray(Image.fromarray(field).resize((work, work)), np.float32)
    inside = ndimage.binary_erosion(small.max(axis=2) > 12, iterations=5)
    rows, columns = np.mgrid[:work, :work] - (work - 1) / 2
    inside &= np.hypot(rows, columns) < 0.46 * work
    centre = (field.shape[0] / 2, field.shape[0] / 2)
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
    return (fovea[0] + 0.5) * scale, (fovea[1] + 0.5) * scale, True

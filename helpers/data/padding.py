"""Wedges, frames and slivers in an OCT B-scan: found, and filled with the scan's own background."""

import zlib

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree

SHARE = 0.06  # of a side of the picture that a wedge covers, at least


def without_padding(grey) -> np.ndarray:
    """A scan with its wedges, frames and white slivers filled: uint8 (H, W) to the same."""
    grey = grey.copy()
    mirror_strips(grey, np.zeros(grey.shape, bool))
    mask = padding_mask(grey)
    mirror_strips(grey.T, mask.T)
    return fill_background(grey, mask)


def spread(values, size: int) -> np.ndarray:
    """The maximum over a square of ``size`` pixels, odd, of uint8 or bool (H, W); the same as
    ``ndimage.maximum_filter`` in a sixth of its time, for it works on whole rows at once."""
    for _ in range(2):  # down, then along
        values = np.pad(values, ((size // 2, size // 2), (0, 0)))
        reach = 1
        while reach < size:
            step = min(reach, size - reach)
            values = np.maximum(values[:-step], values[step:])
            reach += step
        values = values.T
    return values


def mirror_strips(grey, mask, white=140, share=0.025) -> None:
    """Replace, in place, slivers of padding at the left and right border by a mirrored copy.

    A rotated export leaves white strips of a few pixels, too thin to be told from their blurred
    edge; others frame the scan in black. Layers run on through a mirrored sliver, where background
    would cut a notch into them. A white sliver is even and straight along the border and much
    brighter than its neighbours, which tissue is not.
    """
    length, across = grey.shape
    most = max(2, round(share * across))
    for view, done in ((grey, mask), (grey[:, ::-1], mask[:, ::-1])):
        frame = 0
        while frame <= most and _is_black(view[:, frame]):
            frame += 1
        depth = np.full(length, frame + 2 if 0 < frame <= most else 0)
        line = view[:, 0].astype(int) - view[:, 2] >= 50  # a grey line, one pixel wide
        if line.sum() >= length // 8:
            line = ndimage.binary_opening(line, np.ones(length // 8, bool))
            depth = np.maximum(depth, 3 * ndimage.maximum_filter1d(line, max(3, length // 5)))
        lead = np.cumprod(view[:, : most + 1] >= white, axis=1).sum(1)
        run = ndimage.binary_opening((lead > 0) | done[:, 0], np.ones(max(3, length // 45), bool))
        lead[~run | (lead > most) | done[:, 0]] = 0  # wedges: padding_mask takes them
        rows = np.nonzero(lead)[0]
        if len(rows) >= 3:
            edge = view[rows, 0].astype(int)
            contrast = np.median(edge - view[rows, np.minimum(lead[rows] + 3, across - 1)])
            uneven = np.median(np.abs(np.diff(edge)))
            bent = np.mean(np.diff(lead[rows]) != 0)
            if np.median(edge) >= 145 and contrast >= 60 and uneven <= 24 and bent <= 0.35:
                # its ends fade below any threshold, so the depth is carried on along the border
                reach = np.where(lead > 0, lead + 2, 0)
                depth = np.maximum(depth, ndimage.maximum_filter1d(reach, max(3, length // 5)))
        depth[done[:, 0]] = 0
        column = np.arange(2 * most + 4)
        source = np.where(column < depth[:, None], 2 * depth[:, None] - 1 - column, column)
        view[:, : len(column)] = np.take_along_axis(view, source, axis=1)


def padding_mask(grey) -> np.ndarray:
    """Where a scan holds no signal: bool (H, W), True in wedges and in padding.

    Rotated exports leave near-white regions at the border. One counts if it follows a side for at
    least SHARE of it: a saturated RPE that runs into the edge of the scan does not. Black regions
    count if they are whole rows or columns, or if the speckle beside them is bright: then they
    were never measured, where a dim scan fades into black.
    """
    height, width = grey.shape
    mask = np.zeros(grey.shape, bool)
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    if (border >= 235).any() and _reaches(grey, _is_white, SHARE):
        labels, _ = ndimage.label(_is_white(grey))
        for label in _along_border(labels, SHARE):
            mask |= labels == label
    if (border <= 6).mean() > 0.01 and _reaches(grey, _is_empty, SHARE):
        labels, _ = ndimage.label(_is_empty(grey))
        for label in _along_border(labels, SHARE):
            region = labels == label
            ring = spread(region, 23) & ~spread(region, 7)
            if ring.any() and grey[ring].mean() >= 12:
                mask |= spread(region, 5)
    for view, part in ((grey.T, mask.T), (grey, mask)):
        for lines, those in ((view, part), (view[::-1], part[::-1])):
            frame = 0
            while frame < len(lines) and _is_black(lines[frame]):
                those[frame] = True
                frame += 1
    if mask.any():  # the blurred edge of a wedge and the ringing beside it belong to it
        grow = max(3, round(0.009 * max(height, width)))
        mask = spread(mask, 2 * grow + 1)
    return mask


def _is_white(grey):
    return ndimage.uniform_filter(grey, 3, mode="nearest") >= 235


def _is_empty(grey):
    return spread(grey, 5) <= 6


def _reaches(grey, where, share) -> bool:
    """Whether ``where``, a property of pixels and of two beside each, holds on ``share`` of a side:
    of the sides alone, which is soon known and mostly rules out a wedge."""
    return any(
        where(strip)[0].mean() >= share
        for strip in (grey[:3], grey[:-4:-1], grey.T[:3], grey.T[:-4:-1])
    )


def _is_black(line) -> bool:
    """Nothing was measured here, wedges apart; a dim scan's noise keeps a mean of 5 and more."""
    line = line[line < 235] if (line < 235).mean() > 0.5 else line
    return line.mean() <= 4 and np.percentile(line, 99) <= 12


def _along_border(labels, share) -> list[int]:
    """Labels (0 is none) that cover at least ``share`` of one side of the picture."""
    found = set()
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        found |= set(np.nonzero(np.bincount(side) >= share * len(side))[0])
    return sorted(found - {0})


def fill_background(grey, mask, cell=4) -> np.ndarray:
    """Fill ``mask`` with the level and the speckle of the scan's own background nearby.

    The level is a normalised convolution over background pixels (dark, outside the mask), fine
    beside the edge and coarse far from it, computed in cells of 4 x 4 px; the speckle is copied in
    blocks from background close by, so that its grain is kept. The random choice is seeded by the
    picture: same scan, same fill.
    """
    if not mask.any():
        return grey
    height, width = grey.shape
    pad = ((0, -height % cell), (0, -width % cell))

    def cells(values):
        values = np.pad(values.astype(np.float32), pad, mode="edge")
        rows, columns = values.shape
        return values.reshape(rows // cell, cell, columns // cell, cell).mean((1, 3))

    free = cells(mask) == 0
    if mask.mean() > 0.9 or not free.any():
        raise ValueError("more than nine tenths of the scan are padding")
    mean = cells(grey)
    smooth = ndimage.gaussian_filter(np.where(free, mean, mean[free].min()), 1)
    dark, bright = np.percentile(smooth[free], (20, 99))
    background = free & (smooth <= dark + 0.3 * (bright - dark))
    level = np.full(mean.shape, np.median(mean[background]), np.float32)
    for sigma in (12, 4, 1.5):
        weight = ndimage.gaussian_filter(background.astype(np.float32), sigma, truncate=3)
        local = ndimage.gaussian_filter(mean * background, sigma, truncate=3)
        level += np.clip(weight / 0.15, 0, 1) * (local / np.maximum(weight, 1e-6) - level)
    background = np.kron(background, np.ones((cell, cell), bool))[:height, :width]
    level = Image.fromarray(level).resize(
        (level.shape[1] * cell, level.shape[0] * cell), Image.Resampling.BILINEAR
    )
    level = np.asarray(level)[:height, :width]
    filled = np.where(mask, level + speckle(grey, level, background, mask), grey)
    return np.clip(np.round(filled), 0, 255).astype(np.uint8)


def speckle(grey, level, background, mask, block=12) -> np.ndarray:
    """Zero-mean texture (H, W) for ``mask``, copied blockwise from nearby background windows."""
    height, width = mask.shape
    texture = np.zeros((height + block, width + block), np.float32)
    inside = np.cumsum(np.cumsum(np.pad(background, ((1, 0), (1, 0))), 0, dtype=np.int32), 1)
    full = inside[block:, block:] - inside[:-block, block:] - inside[block:, :-block]
    windows = np.flatnonzero(full + inside[:-block, :-block] == block * block)
    targets = np.argwhere(
        ndimage.maximum_filter(mask, block, origin=-(block // 2))[::block, ::block]
    )
    if len(windows) == 0:
        return texture[:height, :width]
    random = np.random.default_rng(zlib.crc32(grey.tobytes()))
    windows = random.choice(windows, min(3000, len(windows)))
    windows = np.stack(np.unravel_index(windows, full.shape), axis=1)
    closeness = np.array([1.0, 0.5])  # background changes faster with depth than along the scan
    near = cKDTree(windows * closeness).query(targets * block * closeness, min(30, len(windows)))[1]
    near = near.reshape(len(targets), -1)
    picks = near[np.arange(len(targets)), random.integers(near.shape[1], size=len(targets))]
    flips = random.choice((-1, 1), size=(len(targets), 2))
    for (row, column), pick, (up, along) in zip(targets * block, picks, flips):
        r, c = windows[pick]
        patch = grey[r : r + block, c : c + block].astype(np.float32)[::up, ::along]
        source, target = patch.mean(), level[min(row, height - 1), min(column, width - 1)]
        gain = np.clip((target + 1) / (source + 1), 0.5, 2)
        texture[row : row + block, column : column + block] = (patch - source) * gain
    return texture[:height, :width]

"""Copies of one picture, found by what is on them: re-encoded, resized, mirrored, trimmed.

Two frames of a volume show nearly one anatomy; what tells them apart is how bright small places are
beside their neighbours, speckle included. A fingerprint is the signs of a picture's cosine
transform at middle frequencies: re-encoding and resizing change few of them, and mirroring changes
exactly those of odd frequency along the picture.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import fft, ndimage

from helpers.data.pixels import to_grey

WORK = 96  # px a side on which the transform is taken: half of a small scan still has more
LOW, HIGH = 3, 26  # half periods over the picture: below, all retinas are alike; above, JPEG's
# Shares of signs that differ, measured on five sets of real pictures, 60 of each changed:
# re-encoded, halved or mirrored 0.08 at most; trimmed by 2 px 0.04 to 0.23. Different ones, 2,601
# in all: neighbours in a dense volume 0.07 at least, photographs 0.09, frames of other volumes
# 0.18. So more than NEAR is looked at again.
NEAR, FAR = 0.06, 0.2
# How alike the details are: the closest neighbours of that dense volume 0.51, of others 0.13;
# copies 0.66 to 1, those both trimmed and re-encoded at half size 0.5 to 0.8.
ALIKE = 0.55
DETAIL, TILE, SHIFT = 256, 88, 8  # px: what details are compared on, in four tiles, and how far off

_ROW, _COLUMN = (at.ravel() for at in np.meshgrid(np.arange(HIGH), np.arange(HIGH), indexing="ij"))
_KEPT = np.flatnonzero(np.maximum(_ROW, _COLUMN) >= LOW)
_EVEN = _KEPT[_COLUMN[_KEPT] % 2 == 0]  # what mirroring leaves as it is
_ODD = _KEPT[_COLUMN[_KEPT] % 2 == 1]
BYTES = -(-len(_EVEN) // 8), -(-len(_ODD) // 8)


def fingerprint(image) -> np.ndarray:
    """The signs of a picture, uint8 (H, W) or (H, W, 3), as bits: uint8 (sum(BYTES),).

    Sign by sign the same for the same pixels; the same picture in another size or encoding differs
    in few. First the signs that mirroring keeps, then those that it turns round.
    """
    grey = Image.fromarray(to_grey(np.ascontiguousarray(image)))
    small = np.asarray(grey.resize((WORK, WORK), Image.Resampling.BILINEAR), np.float32)
    waves = fft.dctn(small)[:HIGH, :HIGH].ravel()
    return np.concatenate([np.packbits(waves[_EVEN] > 0), np.packbits(waves[_ODD] > 0)])


def alike(one, other) -> float:
    """How alike the fine details of two pictures are, about -0.1 to 1; mirrored ones too.

    Both are reduced to one size and cut into tiles, each of which may lie up to 3 % of the picture
    elsewhere in the other: pictures that were trimmed or scaled a little. Only what changes along a
    row counts, in small steps: layers and the edges of wedges and fields are alike in all.
    """
    mirrored = np.ascontiguousarray(other[:, ::-1])
    tiles = _tiles(one)
    return max(_correlation(tiles, _tiles(picture)) for picture in (other, mirrored))


def _tiles(image) -> np.ndarray:
    """Four tiles of the middle, float32 (4, TILE, TILE): a photograph's field ends further out."""
    grey = Image.fromarray(to_grey(np.ascontiguousarray(image)))
    small = np.asarray(grey.resize((DETAIL, DETAIL), Image.Resampling.BILINEAR), np.float32)
    fine = ndimage.gaussian_filter1d(small, 0.7, axis=0)
    fine = (fine - ndimage.gaussian_filter1d(fine, 3, axis=1)).clip(-8, 8)
    first = DETAIL // 2 - TILE
    middle = fine[first : first + 2 * TILE, first : first + 2 * TILE]
    return middle.reshape(2, TILE, 2, TILE).swapaxes(1, 2).reshape(4, TILE, TILE)


def _correlation(one, other) -> float:
    energy = np.sqrt((one**2).sum((1, 2)) * (other**2).sum((1, 2)))
    product = fft.irfft2(fft.rfft2(one) * fft.rfft2(other).conj(), s=(TILE, TILE))
    near = np.arange(-SHIFT, SHIFT + 1)
    best = product[:, near][:, :, near].max((1, 2))
    return float(best.sum() / max(energy.sum(), 1e-3))


def find_copies(fingerprints, read=None, *, block=2048) -> list[tuple[int, int, float]]:
    """Pairs (i, j, distance) of copies, i < j, by i and j; distance: the share of signs that
    differ, mirrored or not.

    fingerprints: uint8 (N, sum(BYTES)), of any number of pictures; memory stays at about
    ``block``^2 x 8 bytes, time grows with N^2. read: picture i, uint8, for a number i: then pairs
    up to FAR are compared by their details too, which finds trimmed copies and never takes
    neighbours for copies; without, pairs up to NEAR count. Where several have one fingerprint, each
    is paired with the first of them only, and others' copies with that one.
    Raises ValueError for an array of another shape, and what ``read`` raises.
    """
    far = NEAR if read is None else FAR
    prints = np.asarray(fingerprints, np.uint8)
    if prints.size == 0:
        return []
    if prints.ndim != 2 or prints.shape[1] != sum(BYTES):
        raise ValueError(f"fingerprints are (N, {sum(BYTES)}), not {prints.shape}")
    first, found = _first_of_equals(prints)
    prints = prints[first]
    signs = len(_EVEN) + len(_ODD)
    least = signs * (1 - 2 * far)  # of the sum of products of signs, -1 and 1
    for start in range(0, len(prints), block):
        even, odd = _signs(prints[start : start + block])
        for other in range(start, len(prints), block):
            even_there, odd_there = _signs(prints[other : other + block])
            same = even @ even_there.T
            # odd signs cannot add more than their number: few pairs are left for them
            rows, columns = np.nonzero(same >= least - len(_ODD))
            if start == other:
                rows, columns = rows[columns > rows], columns[columns > rows]
            for part in range(0, len(rows), block * 16):
                i, j = rows[part : part + block * 16], columns[part : part + block * 16]
                total = same[i, j] + np.abs(np.einsum("nk,nk->n", odd[i], odd_there[j]))
                for k in np.flatnonzero(total >= least):
                    pair = sorted((int(first[start + i[k]]), int(first[other + j[k]])))
                    found.append((*pair, float(0.5 - total[k] / (2 * signs))))
    if read is not None:
        found = [(i, j, far) for i, j, far in found if alike(read(i), read(j)) >= ALIKE]
    return sorted(found)


def _first_of_equals(prints) -> tuple[np.ndarray, list]:
    """The first picture of each fingerprint, and the pairs of the others with it."""
    rows = np.ascontiguousarray(prints).view(f"V{prints.shape[1]}").ravel()
    _, first, group = np.unique(rows, return_index=True, return_inverse=True)
    pairs = [(int(first[g]), i, 0.0) for i, g in enumerate(group.ravel()) if first[g] != i]
    return np.sort(first), pairs


def _signs(prints) -> tuple[np.ndarray, np.ndarray]:
    """Bits as float32, -1 and 1: (N, number of even signs), (N, number of odd ones)."""
    even = np.unpackbits(prints[:, : BYTES[0]], axis=1, count=len(_EVEN))
    odd = np.unpackbits(prints[:, BYTES[0] :], axis=1, count=len(_ODD))
    return 2 * even.astype(np.float32) - 1, 2 * odd.astype(np.float32) - 1

"""Dials of the disease: what the ruler reads off each training scan, told to the networks.

A class says that there are drusen, not how many and how high. Both networks are told it, as they
are told how a device draws (``shape.look``), so the discriminator sees a missing druse at once, and
the generator can be asked. A conditional GAN on continuous labels (CcGAN, Ding et al., ICLR 2021);
what that paper does with neighbouring labels is done here by drawing labels smoothly
(``shape.Shapes``) and reading them with an error. Now and then they are left open, so that a
class goes on meaning something without them (``leave_open``). The discriminator learns to read them
too, and the generator is held to what it was told (``misread``). What it still draws too little of
it is told more of (``louder``).
"""

import os

import numpy as np
import torch
from joblib import Parallel, delayed

from helpers.data import shape
from helpers.measures.layers import flat_without_drusen, measure

RULED = 256  # px of the whole scans that are read: the ruler works on no more
READ_AS = dict(zip(shape.DIALS, ("drusen_count", "drusen_height", "drusen_area")))
TOLD, LEAST_ASKED = (0.5, 2.5), 0.05  # bounds of what is told for what is asked; a mean asked for
LEFT_OPEN = 0.25  # share of a training's scans whose dials are not told
UNREAD = 1e6  # how far off a scan counts that cannot be read: any other is better
CHUNK = 64  # scans that one process reads at a time


def read_dials(scans) -> np.ndarray:
    """DIALS of whole scans, uint8 (N, 1, S, S): float32 (N, len(DIALS)), in the units of
    ``measures.layers.MEASURES``; NaN where the ruler cannot read."""
    parts = [scans[k : k + CHUNK] for k in range(0, len(scans), CHUNK)]
    found = Parallel(os.cpu_count() if len(parts) > 8 else 1)(delayed(_read)(p) for p in parts)
    return np.concatenate(found)


def _read(scans) -> np.ndarray:
    values = flat_without_drusen(measure(np.asarray(scans)))
    return np.stack([values[name] for name in READ_AS.values()], 1).astype(np.float32)


def with_dials(crops, whole) -> np.ndarray:
    """The shapes of ``crops``, a ``data.Split``, with the dials that are read off the ``whole``
    scans, a Split of the same files; of a scan that cannot be read, its class's mean."""
    read = dict(zip((scan.path for scan in whole.scans), read_dials(whole.images)))
    unread = np.full(len(shape.DIALS), np.nan, np.float32)
    dials = np.array([read.get(scan.path, unread) for scan in crops.scans])
    for label in set(crops.labels):
        own = crops.labels == label
        known = np.isfinite(dials[own]).all(1)
        mean = dials[own][known].mean(0) if known.any() else 0.0
        dials[own] = np.where(np.isfinite(dials[own]), dials[own], mean)
    shapes = np.array(crops.shapes)
    shapes[:, shape.DIALLED] = dials
    return shapes


def misdrawn(scans, asked) -> np.ndarray:
    """How far what the ruler reads off scans, uint8 (N, 1, S, S), is from DIALS ``asked``, (N, 3):
    float (N,), squared distances in the units in which networks are told of them
    (``shape.look``); UNREAD where the ruler cannot read."""
    both = np.zeros((2, len(scans), len(shape.FIELDS)), np.float32)
    both[:, :, shape.DIALLED] = read_dials(scans), asked
    read, asked = (shape.look(shapes)[:, len(shape.LOOK) : -1] for shapes in both)
    off = np.square(read - asked).sum(1)
    return np.where(np.isfinite(off), off, UNREAD)


def leave_open(looks: torch.Tensor, share=LEFT_OPEN) -> torch.Tensor:
    """Looks (B, len(shape.TOLD)) of a batch, the dials of about a ``share`` of them not told.

    Told of every scan, they take over what a class means: a DRUSEN scan that is asked for little
    becomes a healthy one, and teaches the opposite.
    """
    left = torch.rand(len(looks), 1, device=looks.device) < share
    known, dials = looks.split([len(shape.LOOK), looks.shape[1] - len(shape.LOOK)], 1)
    nothing = torch.zeros_like(dials)
    nothing[:, -1] = 1
    return torch.cat([known, torch.where(left, nothing, dials)], 1)


def misread(read: torch.Tensor, looks: torch.Tensor) -> torch.Tensor:
    """Mean squared error, 0-d, of dials ``read`` off scans, (B, len(DIALS)), against what the looks
    (B, len(shape.TOLD)) of these scans tell; what is left open counts as read."""
    told, left = looks[:, len(shape.LOOK) : -1], looks[:, -1:]
    return ((1 - left) * (read.float() - told).square()).mean()


def louder(told, asked, scans) -> np.ndarray:
    """How much more than what is asked for a generator has to be told, of each of DIALS, (3,).

    A young generator draws some two thirds of what it is told. ``scans``, uint8 (N, 1, S, S), were
    drawn as ``asked`` for, (N, 3), where the network was ``told`` so many times that; what the
    ruler reads off them says what it should have been told. Means, within TOLD; a dial that is
    hardly asked for keeps what it has.
    """
    read = read_dials(scans)
    known = np.isfinite(read).all(1)
    told = np.asarray(told, float)
    if not known.any():
        return told
    asked, read = asked[known].mean(0), read[known].mean(0)
    return np.where(asked > LEAST_ASKED, told * asked / np.maximum(read, 1e-3), told).clip(*TOLD)

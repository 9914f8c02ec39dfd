"""Dials of the disease: what the ruler reads off each training scan, told to the networks.

A class says that there are drusen, not how many and how high. Both networks are told it, as they
are told how a device draws (``shape.look``), so the discriminator sees a missing druse at once, and
the generator can be asked. A conditional GAN on continuous labels (CcGAN, Ding et al., ICLR 2021);
what that paper does with neighbouring labels is done here by drawing labels smoothly
(``shape.Shapes``) and reading them with an error.
"""

import os

import numpy as np
from joblib import Parallel, delayed

from helpers.data import shape
from helpers.measures.layers import flat_without_drusen, measure

RULED = 256  # px of the whole scans that are read: the ruler works on no more
READ_AS = dict(zip(shape.DIALS, ("drusen_count", "drusen_height", "drusen_area")))
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

"""Endless shuffled batches from a uint8 cache, on the device or from the disk."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from helpers.data.pixels import to_float


def batches(
    images, batch_size, *, labels=None, looks=None, index=None, seed=0, device="cpu", start=0,
    rank=0, world_size=1,
):  # fmt: skip
    """Endless shuffled batches, float (batch_size, C, H, W) in [-1, 1] on ``device``.

    ``images`` is uint8 (N, C, H, W); features, float32 (N, d), are given as they are. With
    ``labels``, whole numbers (N,) or 0/1 (N, K), a batch is a pair of images and their labels, and
    with ``looks``, float (N, L), their looks come third.
    ``index``, whole numbers, lists which images an epoch has, some of them several times perhaps;
    None: each once. Every epoch is a fresh permutation, and the last batch of one is filled up
    from the next, so that the sequence follows from ``seed`` alone; ``start`` counts the batches
    already taken (a resumed run goes on where it stopped). With
    several processes each takes its own share of every global batch. Images that fit (2 GiB, on a
    GPU a quarter of its memory) live on the device as uint8; more of them stream from the disk,
    one batch ahead.
    """
    device = torch.device(device)
    index = np.arange(len(images)) if index is None else np.asarray(index)
    chosen = (index[c] for c in _order(len(index), batch_size, seed, start, rank, world_size))
    told = [torch.as_tensor(values, device=device) for values in (labels, looks)
            if values is not None]  # fmt: skip

    def batch(levels, those):
        pixels = to_float(levels.to(device))
        return (pixels, *(values[those.to(device)] for values in told)) if told else pixels

    room = 2 * 2**30
    if device.type == "cuda":
        room = torch.cuda.get_device_properties(device).total_memory // 4
    if images.nbytes <= room:
        resident = torch.from_numpy(np.array(images)).to(device)
        for those in map(torch.from_numpy, chosen):
            yield batch(resident[those.to(device)], those)
        return

    def read(those):
        return torch.from_numpy(np.array(images[those])), torch.from_numpy(those)

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(read, next(chosen))
        for those in chosen:
            ready, coming = coming.result(), pool.submit(read, those)
            yield batch(*ready)


def balanced_index(labels) -> np.ndarray:
    """Places in ``labels`` (N,), those of rarer classes repeated, so that each is as frequent."""
    most = np.bincount(labels).max()
    return np.concatenate([np.resize(np.flatnonzero(labels == k), most) for k in np.unique(labels)])


def _order(count, batch_size, seed, start, rank, world_size):
    """Endless index arrays (batch_size,): one process's share of the endless shuffled sequence."""
    total = batch_size * world_size
    epoch, skip = divmod(start * total, count)
    order = np.empty(0, np.int64)
    while True:
        while len(order) < skip + total:
            shuffled = np.random.default_rng([seed, epoch]).permutation(count)
            order, epoch = np.concatenate([order, shuffled]), epoch + 1
        yield order[skip:][rank:total:world_size]
        order, skip = order[skip + total :], 0

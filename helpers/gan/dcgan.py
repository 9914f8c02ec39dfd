"""DCGAN for one-channel B-scans, 64 to 512 px (Radford, Metz & Chintala, ICLR 2016).

Two generators and two discriminators grow out of the same ladder of widths: every doubling of the
resolution halves the number of channels. With ``norm="batch"`` they are the networks everybody runs
(the PyTorch example, for one channel).
"""

import math
from itertools import pairwise

import torch
from torch import nn

SIZES = (64, 128, 256, 512)
NORMS = ("batch", "none")


def ladder(size: int, width: int, widest=math.inf) -> list[int]:
    """Channels at 4, 8, ..., size/2 rows: ``width`` at the last, doubled with every halving."""
    if size not in SIZES:
        raise ValueError(f"size={size}: it is built for {', '.join(map(str, SIZES))} px.")
    steps = int(math.log2(size)) - 2
    return [min(width * 2**step, widest) for step in reversed(range(steps))]


def initialise(module: nn.Module) -> None:
    """N(0, 0.02) for convolutions (the paper), N(1, 0.02) for BatchNorm (the PyTorch example); so
    do CycleGAN and pix2pix."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class Generator(nn.Module):
    """Noise ``z`` of shape (B, z_dim), N(0, 1), to B-scans (B, 1, rows, size) in [-1, 1].

    ``rows``: size or half of it; None: size. ``width`` is the number of channels next to the image;
    it doubles with every halving of the resolution.
    """

    def __init__(self, size=64, z_dim=100, width=64, rows=None):
        super().__init__()
        self.size, self.z_dim, self.rows = size, z_dim, rows or size
        self.classes = self.looks = 0  # it can be asked for nothing
        widths = ladder(self.rows, width)
        start = (4, 4 * size // self.rows)
        layers = [nn.ConvTranspose2d(z_dim, widths[0], start, 1, 0, bias=False)]
        for inside, outside in pairwise([*widths, 1]):
            double = nn.ConvTranspose2d(inside, outside, 4, 2, 1, bias=False)
            layers += [nn.BatchNorm2d(inside), nn.ReLU(True), double]
        self.layers = nn.Sequential(*layers, nn.Tanh())
        self.apply(initialise)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.layers(z[:, :, None, None])


class Discriminator(nn.Module):
    """B-scans (B, 1, rows, size) in [-1, 1] to one logit each, (B,); above 0 means "real".

    ``norm="batch"`` is the paper's. ``norm="none"`` has no normalisation at all: gradient
    penalties are defined per sample, and BatchNorm would let the samples of a batch see each other.
    """

    def __init__(self, size=64, width=64, norm="batch", rows=None):
        super().__init__()
        rows = rows or size
        widths = ladder(rows, width)[::-1]
        bias = norm == "none"
        layers = [nn.Conv2d(1, widths[0], 4, 2, 1, bias=bias), nn.LeakyReLU(0.2, True)]
        for inside, outside in pairwise(widths):
            layers.append(nn.Conv2d(inside, outside, 4, 2, 1, bias=bias))
            if norm == "batch":
                layers.append(nn.BatchNorm2d(outside))
            layers.append(nn.LeakyReLU(0.2, True))
        self.layers = nn.Sequential(*layers)
        end = (4, 4 * size // rows)
        self.head = nn.Conv2d(widths[-1], 1, end, 1, 0, bias=bias)
        self.apply(initialise)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(images)).flatten()

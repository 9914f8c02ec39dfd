"""DCGAN for one-channel B-scans, 64 to 512 px (Radford, Metz & Chintala, ICLR 2016).

Two generators and two discriminators grow out of the same ladder of widths: every doubling of the
resolution halves the number of channels. With ``upsample="transposed"`` and ``norm="batch"`` they
are the networks everybody runs (the PyTorch example, for one channel); the other settings are the
changes that notebook 02 measures one by one.
"""

import math
from itertools import pairwise

import torch
from torch import nn

SIZES = (64, 128, 256, 512)
UPSAMPLES = ("transposed", "nearest")
NORMS = ("batch", "none")


def ladder(size: int, width: int) -> list[int]:
    """Channels at 4, 8, ..., size/2 px: ``width`` next to the image, doubled with every step."""
    if size not in SIZES:
        raise ValueError(f"size={size}: a DCGAN is built for {', '.join(map(str, SIZES))} px.")
    steps = int(math.log2(size)) - 2
    return [width * 2**step for step in reversed(range(steps))]


def initialise(module: nn.Module) -> None:
    """N(0, 0.02) for convolutions (the paper), N(1, 0.02) for BatchNorm (the PyTorch example)."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def _double(inside: int, outside: int, upsample: str) -> list[nn.Module]:
    """Layers that double height and width."""
    if upsample == "nearest":
        return [nn.Upsample(scale_factor=2), nn.Conv2d(inside, outside, 3, 1, 1, bias=False)]
    return [nn.ConvTranspose2d(inside, outside, 4, 2, 1, bias=False)]


class Generator(nn.Module):
    """Noise ``z`` of shape (B, z_dim), N(0, 1), to B-scans (B, 1, rows, size) in [-1, 1].

    ``rows``: size or half of it; None: size. ``width`` is the number of channels next to the image;
    it doubles with every halving of the resolution. ``upsample`` is "transposed" (the paper's 4x4
    transposed convolutions) or "nearest" (nearest neighbour, then a 3x3 convolution; Odena et al.,
    Distill 2016, on checkerboards).
    """

    def __init__(self, size=64, z_dim=100, width=64, upsample="transposed", rows=None):
        super().__init__()
        self.size, self.z_dim, self.rows = size, z_dim, rows or size
        widths = ladder(self.rows, width)
        start = (4, 4 * size // self.rows)
        layers = [nn.ConvTranspose2d(z_dim, widths[0], start, 1, 0, bias=False)]
        for inside, outside in pairwise(widths):
            layers += [nn.BatchNorm2d(inside), nn.ReLU(True), *_double(inside, outside, upsample)]
        layers += [nn.BatchNorm2d(widths[-1]), nn.ReLU(True), *_double(widths[-1], 1, upsample)]
        self.layers = nn.Sequential(*layers, nn.Tanh())
        self.apply(initialise)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.layers(z[:, :, None, None])


class Discriminator(nn.Module):
    """B-scans (B, 1, rows, size) in [-1, 1] to one logit each, (B,); above 0 means "real".

    ``norm="batch"`` is the paper's. ``norm="none"`` has no normalisation at all: gradient
    penalties are defined per sample, and BatchNorm would let the samples of a batch see each other.
    ``minibatch_std`` appends the batch's standard deviation as one more channel before the last
    layer (Karras et al., ICLR 2018), so that a collapsed generator is easy to spot.
    """

    def __init__(self, size=64, width=64, norm="batch", minibatch_std=False, rows=None):
        super().__init__()
        self.minibatch_std = minibatch_std
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
        self.head = nn.Conv2d(widths[-1] + minibatch_std, 1, end, 1, 0, bias=bias)
        self.apply(initialise)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.layers(images)
        if self.minibatch_std:
            spread = features.float().var(0, unbiased=False).add(1e-8).sqrt().mean()
            spread = spread.to(features.dtype).expand(features.shape[0], 1, *features.shape[2:])
            features = torch.cat([features, spread], 1)
        return self.head(features).flatten()

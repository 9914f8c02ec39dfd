"""A residual GAN without normalisation for one-channel B-scans, 64 to 512 px wide.

After R3GAN (Huang, Gokaslan, Kuleshov & Tompkin, "The GAN is dead; long live the GAN!", NeurIPS
2024), written from the paper. Kept: residual blocks whose last convolution starts at zero, no
normalisation anywhere (the gradient penalties are defined per sample), bilinear resampling in the
generator, a learned 4 x 4 basis at one end and a depthwise 4 x 4 sum at the other. Changed for OCT
and for machines without a large GPU, each after trials (results/generators.md):

- plain 3 x 3 convolutions in place of grouped ones in an inverted bottleneck: three to four times
  faster on a CPU;
- no blocks at the picture's own resolution, where they would cost as much as all others together;
- the discriminator halves by strided 4 x 4 convolutions, without residual blocks between them;
- the picture is the sum of what every resolution draws (the skip outputs of StyleGAN2, Karras et
  al., CVPR 2020), so that the layers of the retina are learned first and fast;
- speckle comes from noise, one number per pixel, and not out of the few numbers that describe the
  eye (noise inputs, Karras et al., CVPR 2019). What filters it are fixed Gaussians, as the point
  spread function of a scanner nearly is; the network decides how strong each is at each place.
  Learned kernels find hatching and weaves, or blotches, and keep them. The same noise, averaged to
  maps of 8 px up to a quarter of the picture, enters the features: vessels of the choroid lie
  where they lie, and without it rings are drawn in their place;
- grey levels outside the range of a scan count a tenth. Without that limit, some seeds start with
  black and white blobs far outside it, which the discriminator tells apart without learning what a
  retina is.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from helpers.gan.dcgan import ladder

NORMS = ("none",)  # no other, unlike a DCGAN
WIDEST = 256  # channels at most
FINE = 8  # channels at the picture's own resolution
# px of speckle's Gaussians up to 128 px: white noise, and as alike to its neighbours as real scans'
# vitreous is; larger pictures have the second one larger too
SPREADS, REACH = (0.3, 0.55), 4  # cut off at REACH x their spread
FAINT = -3.0  # sigmoid(FAINT) = 0.05: how strong speckle is at the start
BEYOND = 0.1  # what a grey level outside -1 to 1 counts
NEAR = (0.42, 0.8)  # share of an aligned crop's rows in which the RPE and what lifts it lie
SHARP = 10.0  # how much of a column's brightest row counts where the RPE's height is read
DEEP = 128  # channels that look at it
SLOPE = 0.2  # of the leaky ReLU
GAIN = math.sqrt(2 / (1 + SLOPE**2))  # keeps the variance through it (He et al., ICCV 2015)


def convolution(inside: int, outside: int, kernel: int, gain=1.0, *, bias=False, groups=1):
    """A convolution that keeps the size; its weights start at N(0, gain^2 / fan-in)."""
    layer = nn.Conv2d(inside, outside, kernel, padding=kernel // 2, bias=bias, groups=groups)
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(layer.weight[0].numel()))
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class Block(nn.Module):
    """x + B(leaky(A(x))), two 3 x 3 convolutions. B starts at zero, so that a block starts as the
    identity, and A is scaled by ``depth``^-1/2, the number of blocks: what normalisation layers do
    is done by the start (Fixup, Zhang, Dauphin & Ma, ICLR 2019)."""

    def __init__(self, width: int, depth: int):
        super().__init__()
        self.first = convolution(width, width, 3, GAIN / math.sqrt(depth), bias=True)
        self.second = convolution(width, width, 3, 0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(F.leaky_relu(self.first(x), SLOPE))


def double(x: torch.Tensor) -> torch.Tensor:
    """Twice the height and width, bilinear: no checkerboards."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def spreads(size: int) -> list[float]:
    """px of the Gaussians for pictures of ``size`` px: speckle has its size in the eye."""
    return [*SPREADS, *(SPREADS[-1] * 2**k for k in range(1, int(math.log2(size)) - 6))]


class Grain(nn.Module):
    """White noise (B, 1, size, size) to kinds of speckle (B, kinds, size, size) of variance 1."""

    def __init__(self, size: int):
        super().__init__()
        self.reach = math.ceil(REACH * spreads(size)[-1])
        squared = torch.arange(-self.reach, self.reach + 1) ** 2
        away = squared[:, None] + squared
        kernels = torch.stack([torch.exp(-away / (2 * s**2)) for s in spreads(size)])[:, None]
        kernels /= kernels.square().sum((2, 3), keepdim=True).sqrt()
        self.register_buffer("kernels", kernels, persistent=False)

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        return F.conv2d(noise, self.kernels, padding=self.reach)


class Generator(nn.Module):
    """Noise ``z`` (B, z_dim), N(0, 1), to B-scans (B, 1, rows, size), in [-1, 1] once clamped.

    The first ``latent`` numbers of z describe the eye, the other rows x size, row by row, are the
    grain of its speckle and choroid. ``rows``: of the picture, size or half of it; None: size.
    ``blocks`` residual blocks at each resolution up to half the picture's. With ``classes`` > 0 it
    is conditional and also takes ``labels``, whole numbers (B,): an embedding of the class is
    appended to the latent. With ``looks`` > 0 it takes ``look`` (B, looks) as well, about N(0, 1),
    what the device adds (``shape.look``); None is the average one.
    """

    def __init__(self, size=128, latent=64, width=16, blocks=1, classes=0, rows=None, looks=0):
        super().__init__()
        rows = rows or size
        self.size, self.rows, self.latent = size, rows, latent
        self.classes, self.looks = classes, looks
        self.z_dim = latent + rows * size
        widths = ladder(rows, width, WIDEST)
        self.embedding = nn.Embedding(classes, latent) if classes else None
        self.basis = nn.Parameter(torch.randn(widths[0], 4, 4 * size // rows))
        inputs = latent * (2 if classes else 1) + looks
        self.strengths = nn.Linear(inputs, widths[0], bias=False)
        nn.init.normal_(self.strengths.weight, 0.0, 1 / math.sqrt(inputs))
        depth = blocks * len(widths)
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(w, depth) for _ in range(blocks))) for w in widths
        )
        self.grow = nn.ModuleList(convolution(a, b, 1) for a, b in pairwise(widths))
        self.to_image = nn.ModuleList(convolution(w, 1, 1, 0.3, bias=True) for w in widths)
        # strength of the noise in the features at 8 to size/4 px; it starts without
        self.rough = nn.ParameterList(torch.zeros(width, 1, 1) for width in widths[1:-1])
        self.fine = convolution(widths[-1], FINE, 3, GAIN, bias=True)
        # the finest detail, and how strong each kind of speckle is at each place
        self.finest = convolution(FINE, 1 + len(spreads(size)), 3, bias=True)
        with torch.no_grad():
            self.finest.weight[1:], self.finest.bias[1:] = 0, FAINT
        if looks:  # speckle is most of what a device adds, and is drawn last
            self.louder = nn.Linear(looks, len(spreads(size)), bias=False)
            nn.init.zeros_(self.louder.weight)
        self.grain = Grain(size)

    def forward(self, z, labels: torch.Tensor | None = None, look: torch.Tensor | None = None):
        z, grain = z[:, : self.latent], z[:, self.latent :]
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(labels)], 1)
        if self.looks:
            look = z.new_zeros(len(z), self.looks) if look is None else look
            z = torch.cat([z, look], 1)
        grain = grain.view(-1, 1, self.rows, self.size)
        x, image = self.strengths(z)[:, :, None, None] * self.basis, 0
        for number, stage in enumerate(self.stages):
            if number:
                x, image = double(self.grow[number - 1](x)), double(image)
            if 0 < number < len(self.stages) - 1:
                cell = self.size // x.shape[-1]
                noise = cell * F.avg_pool2d(grain, cell)  # of variance 1 again
                x = x + self.rough[number - 1].to(x.dtype) * noise.to(x.dtype)
            x = stage(x)
            image = image + self.to_image[number](x)
        x = self.finest(F.leaky_relu(double(self.fine(x)), SLOPE))
        strength = x[:, 1:]
        if self.looks:
            strength = strength + self.louder(look)[:, :, None, None].to(x.dtype)
        speckle = (strength.sigmoid() * self.grain(grain)).sum(1, keepdim=True)
        image = double(image) + x[:, :1] + speckle
        return BEYOND * image + (1 - BEYOND) * image.clamp(-1, 1)


class Height(nn.Module):
    """The height of the RPE along aligned crops (B, 1, rows, size), and what it is like: (B, DEEP).

    A druse is a rise of one bright line by a few pixels, and in a stack of strided convolutions
    little is left of it. Here the line's row is read in every column, at full resolution, as the
    mean of the rows near the RPE weighted by softmax(SHARP x brightness), with its variance beside
    it, and convolutions along the scan look at these two curves.
    """

    def __init__(self, size: int, rows: int):
        super().__init__()
        self.part = slice(*(round(share * rows) for share in NEAR))
        at = torch.linspace(-1, 1, self.part.stop - self.part.start)[None, :, None]
        self.register_buffer("at", at, persistent=False)
        self.layers = nn.ModuleList(
            nn.Conv1d(a, b, kernel, 2, kernel // 2 - (kernel % 2 == 0))
            for a, b, kernel in ((2, 32, 5), (32, 64, 4), (64, DEEP, 4), (DEEP, DEEP, 4))
        )
        for layer in self.layers:
            nn.init.normal_(layer.weight, 0.0, GAIN / math.sqrt(layer.weight[0].numel()))
            nn.init.zeros_(layer.bias)
        self.gather = nn.Parameter(torch.randn(DEEP, size // 16) / math.sqrt(size // 16))

    def read(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Row of the RPE and its variance, (B, size) each, as -1 to 1 over the rows looked at."""
        share = (SHARP * x[:, 0, self.part].float()).softmax(1)
        row = (share * self.at).sum(1)
        return row, (share * (self.at - row[:, None]).square()).sum(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):  # a row needs more than eight bits
            row, spread = self.read(x)
            x = torch.stack([3 * row, 10 * spread], 1)  # both of about one size
            for layer in self.layers:
                x = F.leaky_relu(layer(x), SLOPE)
            return (x * self.gather).sum(2)


class Discriminator(nn.Module):
    """B-scans (B, 1, rows, size) to one logit each, (B,): strided convolutions down to 4 rows.

    With ``classes`` the logit is the inner product of the features and the class's embedding
    (projection; Miyato & Koyama, ICLR 2018), as R3GAN has it; ``looks`` adds a linear function of
    the look to it. ``height``: of aligned crops it also looks at the RPE's height (``Height``).
    With ``dials``, ``read`` also gives so many numbers that it reads off each scan: an auxiliary
    regressor, as the classifier of AC-GAN is (Odena et al., ICML 2017).
    """

    def __init__(self, size=128, width=16, classes=0, rows=None, looks=0, height=False, dials=0):
        super().__init__()
        rows = rows or size
        self.height = Height(size, rows) if height else None
        widths = ladder(rows, width, WIDEST)[::-1]
        self.halve = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise([1, *widths]))
        for layer in self.halve:
            nn.init.normal_(layer.weight, 0.0, GAIN / math.sqrt(layer.weight[0].numel()))
            nn.init.zeros_(layer.bias)
        columns = 4 * size // rows
        self.gather = nn.Parameter(torch.randn(widths[-1], 4, columns) / math.sqrt(4 * columns))
        parts = [widths[-1], DEEP] if height else [widths[-1]]
        self.embedding = nn.Embedding(max(1, classes), sum(parts))
        self.look = nn.Linear(looks, sum(parts), bias=False) if looks else None
        self.dials = nn.Linear(sum(parts), dials) if dials else None
        each = torch.cat([torch.full((part,), 1 / math.sqrt(part)) for part in parts])
        with torch.no_grad():
            self.embedding.weight.normal_().mul_(each)
            if looks:
                self.look.weight.normal_().mul_(each[:, None] / math.sqrt(looks))

    def forward(self, x, labels: torch.Tensor | None = None, look: torch.Tensor | None = None):
        return self._judge(self._features(x), labels, look)

    def read(self, x, labels: torch.Tensor | None = None, look: torch.Tensor | None = None):
        """Logits (B,), and the dials of the scans (B, dials) in the units of ``shape.look``."""
        features = self._features(x)
        return self._judge(features, labels, look), self.dials(features)

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        seen = [] if self.height is None else [self.height(x)]
        for halve in self.halve:
            x = F.leaky_relu(halve(x), SLOPE)
        # equal to a depthwise 4 x 4 convolution, but its second derivative is as fast as a product
        return torch.cat([(x * self.gather).sum((2, 3)), *seen], 1)

    def _judge(self, features, labels, look) -> torch.Tensor:
        if labels is None:
            labels = torch.zeros(len(features), dtype=torch.long, device=features.device)
        wanted = self.embedding(labels)
        if self.look is not None and look is not None:
            wanted = wanted + self.look(look)
        return (features * wanted).sum(1)

"""A style-based generator for one-channel B-scans, 64 to 512 px.

Written from the papers: StyleGAN (Karras, Laine & Aila, CVPR 2019) and StyleGAN2 (Karras et al.,
CVPR 2020). Noise z is not drawn from directly. A mapping network bends it into a *style* w, and w
sets how strong every feature is in every convolution. The mapping may bend z as it likes, so that
what varies in the data can lie along straight lines in W, the space of styles: results/styles.md
says what does and what does not.

Kept: mapping network on normalised z with a slow learning rate; a learned 4 x 4 start; convolutions
modulated by the style and demodulated; skip outputs; noise inputs; equalised learning rates;
truncation. Left out, since neither was shown to help (results/styles.md): style mixing and the
path-length penalty. Changed for OCT and for machines without a large GPU, as in the residual GAN,
whose discriminator it shares:

- modulation scales what goes into a plain convolution and demodulation what comes out, in place of
  one kernel per picture: the same function, without grouped convolutions or custom kernels;
- one style per resolution, for its two convolutions and its picture, so that W+ has one w for 4 px,
  one for 8 px, ... and an edit can say at which scale it works;
- bilinear doubling before the convolution; few channels at the picture's own resolution;
- speckle from fixed Gaussians, whose strength the network decides at each place, and the same
  noise in cells in the features (residual.Grain; results/generators.md has learned kernels).
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from helpers.gan.dcgan import ladder
from helpers.gan.residual import BEYOND, FAINT, FINE, SLOPE, WIDEST, Grain, double, spreads

SLOW = 0.01  # the mapping network's learning rate, as a share of the others'
MEAN_OF = 4096  # draws of z whose mean style is the centre of truncation
TINY = 1e-8


def normalise(z: torch.Tensor) -> torch.Tensor:
    """Rows (B, N) of mean square 1."""
    return z * (z.square().mean(1, keepdim=True) + TINY).rsqrt()


class Dense(nn.Module):
    """x W^T + b with an equalised learning rate: weights are N(0, 1) and scaled where they are
    used, so that Adam moves all layers alike (Karras et al., ICLR 2018); ``rate`` slows it."""

    def __init__(self, inside: int, outside: int, bias=0.0, rate=1.0):
        super().__init__()
        self.rate, self.scale = rate, rate / math.sqrt(inside)
        self.weight = nn.Parameter(torch.randn(outside, inside) / rate)
        self.bias = nn.Parameter(torch.full((outside,), bias / rate))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


class Mapping(nn.Module):
    """z (B, latent), N(0, 1), to styles w (B, latent); with ``classes`` > 0 also of labels (B,)."""

    def __init__(self, latent: int, layers: int, classes: int, looks=0):
        super().__init__()
        self.embedding = nn.Embedding(classes, latent) if classes else None
        self.look = Dense(looks, latent) if looks else None
        inputs = latent * (1 + bool(classes) + bool(looks))
        self.layers = nn.ModuleList(
            Dense(inputs if n == 0 else latent, latent, rate=SLOW) for n in range(layers)
        )

    def forward(self, z: torch.Tensor, labels: torch.Tensor | None = None, look=None):
        w = normalise(z)
        if self.embedding is not None:
            w = torch.cat([w, normalise(self.embedding(labels))], 1)
        if self.look is not None:
            look = z.new_zeros(len(z), self.look.weight.shape[1]) if look is None else look
            w = torch.cat([w, self.look(look)], 1)
        for layer in self.layers:
            w = math.sqrt(2) * F.leaky_relu(layer(w), SLOPE)
        return w


class Modulated(nn.Module):
    """A convolution whose input channel i is scaled by s_i(w), an affine function of the style.

    With ``demodulate`` the output channel j is divided by sqrt(sum_ik (s_i W_jik)^2), which keeps
    its variance if the inputs have variance 1 (StyleGAN2, equations 1 to 3).
    """

    def __init__(self, inside: int, outside: int, kernel: int, latent: int, *, demodulate=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outside, inside, kernel, kernel))
        self.scale = 1 / math.sqrt(inside * kernel**2)
        self.style = Dense(latent, inside, bias=1.0)
        self.demodulate = demodulate

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        style, weight = self.style(w).float(), self.weight * self.scale
        x = F.conv2d(x * style.to(x.dtype)[:, :, None, None], weight, padding=weight.shape[-1] // 2)
        if self.demodulate:
            power = weight.float().square().sum((2, 3))  # (outside, inside)
            norm = ((style.square()[:, None] * power).sum(2) + TINY).rsqrt()
            x = x * norm.to(x.dtype)[:, :, None, None]
        return x


class Layer(nn.Module):
    """Modulated 3 x 3 convolution, noise where ``noisy``, bias, leaky ReLU; the variance stays."""

    def __init__(self, inside: int, outside: int, latent: int, *, noisy=False):
        super().__init__()
        self.convolution = Modulated(inside, outside, 3, latent)
        self.strength = nn.Parameter(torch.zeros(1)) if noisy else None
        self.bias = nn.Parameter(torch.zeros(outside, 1, 1))

    def forward(self, x, w, grain=None):
        x = self.convolution(x, w)
        if self.strength is not None:
            cell = grain.shape[-1] // x.shape[-1]
            noise = cell * F.avg_pool2d(grain, cell)  # of variance 1 again
            x = x + self.strength.to(x.dtype) * noise.to(x.dtype)
        return math.sqrt(2) * F.leaky_relu(x + self.bias.to(x.dtype), SLOPE)


class ToImage(nn.Module):
    """What one resolution adds to the picture, and the maps of ``extra`` kinds of speckle."""

    def __init__(self, inside: int, latent: int, extra=0, gain=0.3):
        super().__init__()
        self.convolution = Modulated(inside, 1 + extra, 1, latent, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1 + extra, 1, 1))
        self.gain = gain

    def forward(self, x, w):
        return self.gain * self.convolution(x, w) + self.bias.to(x.dtype)


class Generator(nn.Module):
    """Noise ``z`` (B, z_dim), N(0, 1), to B-scans (B, 1, rows, size), in [-1, 1] once clamped.

    The first ``latent`` numbers of z describe the eye; the other rows x size, row by row, are the
    grain of its speckle and choroid. ``rows``, ``looks``: as of the residual generator.
    ``layers``: of the mapping network. With ``classes`` > 0 it is
    conditional and also takes ``labels``, whole numbers (B,).

    In two halves, for whoever explores: ``styles`` turns z into W+, (B, levels, latent), one style
    for each of the resolutions 4, 8, ..., size px; ``draw`` turns W+ and grain into scans.
    """

    def __init__(self, size=128, latent=128, width=16, layers=4, classes=0, rows=None, looks=0):
        super().__init__()
        rows = rows or size
        self.size, self.rows, self.latent = size, rows, latent
        self.classes, self.looks = classes, looks
        self.z_dim = latent + rows * size
        widths = ladder(rows, width, WIDEST)
        self.levels = len(widths) + 1
        self.mapping = Mapping(latent, layers, classes, looks)
        self.start = nn.Parameter(torch.randn(widths[0], 4, 4 * size // rows))
        self.first = Layer(widths[0], widths[0], latent)
        # at half the picture's size noise would be speckle again, filtered as learned
        noisy = [*[True] * (len(widths) - 2), False]
        self.grow = nn.ModuleList(
            Layer(a, b, latent, noisy=n) for (a, b), n in zip(pairwise(widths), noisy)
        )
        self.keep = nn.ModuleList(Layer(w, w, latent) for w in widths[1:])
        self.to_image = nn.ModuleList(ToImage(w, latent) for w in widths)
        self.fine = Layer(widths[-1], FINE, latent)
        # the finest detail, and how strong each kind of speckle is at each place
        self.finest = ToImage(FINE, latent, extra=len(spreads(size)))
        with torch.no_grad():
            self.finest.convolution.weight[1:], self.finest.bias[1:] = 0, FAINT
        self.grain = Grain(size)

    def forward(self, z, labels=None, look=None, truncation=1.0) -> torch.Tensor:
        return self.draw(self.styles(z, labels, truncation, look), z[:, self.latent :])

    def styles(self, z, labels=None, truncation=1.0, look=None) -> torch.Tensor:
        """W+ (B, levels, latent) of z, whose grain may be left out: w, the same at every level.

        ``truncation`` pulls w towards the mean style (of its class): mean + truncation (w - mean).
        1 draws all that was learned, 0 the average eye; between them, pictures gain in quality and
        lose in variety (StyleGAN, appendix B).
        """
        w = self.mapping(z[:, : self.latent], labels, look)
        if truncation != 1:
            w = torch.lerp(self.mean_style(labels), w, truncation)
        return w[:, None].repeat(1, self.levels, 1)

    @torch.no_grad()
    def mean_style(self, labels=None) -> torch.Tensor:
        """The mean of w, (1, latent), over the same draws of z every time; (B, latent) of labels,
        each that of its class."""
        device = self.start.device
        source = torch.Generator().manual_seed(0)
        z = torch.randn(MEAN_OF, self.latent, generator=source).to(device)
        if labels is None:
            return self.mapping(z).mean(0, keepdim=True)
        means = {
            c: self.mapping(z, torch.full((MEAN_OF,), c, device=device)).mean(0)
            for c in labels.unique().tolist()
        }
        return torch.stack([means[c] for c in labels.tolist()])

    def draw(self, styles: torch.Tensor, grain: torch.Tensor) -> torch.Tensor:
        """Scans of W+ (B, levels, latent) and grain (B, rows x size), or (1, rows x size)
        for all alike."""
        grain = grain.reshape(-1, 1, self.rows, self.size)
        first, *between, last = styles.unbind(1)
        x = self.first(self.start.expand(len(styles), -1, -1, -1), first)
        image = self.to_image[0](x, first)
        for number, w in enumerate(between):
            x = self.keep[number](self.grow[number](double(x), w, grain), w)
            image = double(image) + self.to_image[number + 1](x, w)
        x = self.finest(self.fine(double(x), last), last)
        speckle = (x[:, 1:].sigmoid() * self.grain(grain)).sum(1, keepdim=True)
        image = double(image) + x[:, :1] + speckle
        return BEYOND * image + (1 - BEYOND) * image.clamp(-1, 1)

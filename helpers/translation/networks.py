"""Networks that turn one kind of image into another, here DFE into OCT and back.

ResNet and PatchGAN as in CycleGAN (Zhu et al., ICCV 2017), U-Net as in pix2pix (Isola et al.,
CVPR 2017). Both families take any number of channels on either side. Three things are not
in these papers; all follow from geometry. In a DFE that was cropped around the scan line
(``photograph.clean_dfe``, framing "macula" or "strip") a column is a place on the retina and so is
a column of the OCT, but a row of the one says nothing about a row of the other:

- ``positions`` appends two channels with the row and the column, -1 to 1 (CoordConv, Liu et al.,
  NeurIPS 2018), because a convolution does not know how deep in the picture it is, and the depth is
  what it has to invent;
- ``skips="column"`` (U-Net) lets the decoder see each of the encoder's columns as a whole, its mean
  over the rows, instead of pixel beside pixel;
- the network ``ColumnGenerator``, which is made of nothing else.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from helpers.gan.dcgan import SIZES, initialise
from helpers.translation.evidence import SIDE, Evidence

SKIPS = ("pixel", "column")


class InstanceNorm(nn.Module):
    """Every map of every image (B, C, H, W) to mean 0 and variance 1 (Ulyanov et al. 2016).

    On a CPU torch's own layer rearranges maps that lie channels last, and back; BatchNorm of one
    image at a time is the same and does not.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu":
            return F.instance_norm(x)
        return torch.cat([F.batch_norm(one, None, None, training=True) for one in x.split(1)])


def with_positions(images: torch.Tensor) -> torch.Tensor:
    """Images (B, C, H, W) with their rows and columns, -1 to 1, appended: (B, C + 2, H, W)."""
    batch, _, height, width = images.shape
    rows, columns = (torch.linspace(-1, 1, n, device=images.device) for n in (height, width))
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).to(images.dtype)
    return torch.cat([images, grid.expand(batch, -1, -1, -1)], 1)


class Residual(nn.Module):
    """x + two 3 x 3 convolutions with InstanceNorm, reflected at the border."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), InstanceNorm(),
            nn.ReLU(True),
            nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), InstanceNorm(),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


class ResNetGenerator(nn.Module):
    """Images (B, inputs, S, S) to images (B, outputs, S, S), both in [-1, 1].

    c7s1-64, d128, d256, ``blocks`` x R256, u128, u64, c7s1 of the CycleGAN paper's appendix
    (section 7.2), for ``width`` 64; 9 blocks from 256 px on, 6 below. ``layers`` is flat, so that
    CUT can look at what flows between (``taps``).
    """

    def __init__(self, size=256, inputs=3, outputs=1, width=64, blocks=9, positions=False):
        super().__init__()
        self.size, self.inputs, self.outputs = check_size(size), inputs, outputs
        self.positions = positions

        def normed(convolution, channels):
            return [convolution, InstanceNorm(), nn.ReLU(True)]

        first = nn.Conv2d(inputs + 2 * positions, width, 7)
        layers = [nn.ReflectionPad2d(3), *normed(first, width)]
        for inside in (width, 2 * width):
            layers += normed(nn.Conv2d(inside, 2 * inside, 3, 2, 1), 2 * inside)
        layers += [Residual(4 * width) for _ in range(blocks)]
        for inside in (4 * width, 2 * width):
            doubled = nn.ConvTranspose2d(inside, inside // 2, 3, 2, 1, output_padding=1)
            layers += normed(doubled, inside // 2)
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, outputs, 7), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        # CUT's five: the pixels, after both halvings, and two of the residual blocks
        self.taps = (0, 4, 7, 10, 10 + blocks // 2)
        self.apply(initialise)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(with_positions(images) if self.positions else images)

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """What flows at ``taps``, the encoder's half of the network only."""
        x, found = with_positions(images) if self.positions else images, []
        for number, layer in enumerate(self.layers[: self.taps[-1] + 1]):
            x = layer(x)
            if number in self.taps:
                found.append(x)
        return found


class UNetGenerator(nn.Module):
    """Images (B, inputs, S, S) to images (B, outputs, S, S), both in [-1, 1].

    The paper's U-Net-256 (appendix 6.1.1) for S = 256 and ``width`` 64: halved down to one pixel,
    doubled again, each decoder stage sees the encoder's stage of its size. While it learns,
    ``dropout`` in the three stages after the innermost is the only noise (as in the authors' code);
    in use there is none, though the paper leaves it on: what is drawn is a function of what is
    shown.
    """

    def __init__(
        self, size=256, inputs=3, outputs=1, width=64, positions=False, skips="pixel", dropout=0.5
    ):
        super().__init__()
        if skips not in SKIPS:
            raise ValueError(f"skips={skips!r}: choose one of {', '.join(SKIPS)}.")
        self.size, self.inputs, self.outputs = check_size(size), inputs, outputs
        self.positions, self.skips = positions, skips
        depth = size.bit_length() - 1
        widths = [width * min(2**k, 8) for k in range(depth)]
        convolution = partial(nn.Conv2d, kernel_size=4, stride=2, padding=1)
        doubling = partial(nn.ConvTranspose2d, kernel_size=4, stride=2, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        inside = inputs + 2 * positions
        for number, channels in enumerate(widths):
            inner = 0 < number < depth - 1  # no norm beside the picture, nor for a single pixel
            self.down.append(nn.Sequential(
                *([nn.LeakyReLU(0.2)] if number else []), convolution(inside, channels),
                *([nn.BatchNorm2d(channels)] if inner else []),
            ))  # fmt: skip
            inside = channels
        for number in reversed(range(depth)):
            channels = widths[number - 1] if number else outputs
            inside = widths[number] * (1 if number == depth - 1 else 2)
            dropped = dropout and depth - 5 < number < depth - 1
            self.up.append(nn.Sequential(
                nn.ReLU(), doubling(inside, channels),
                *([nn.BatchNorm2d(channels)] if number else [nn.Tanh()]),
                *([nn.Dropout(dropout)] if dropped else []),
            ))  # fmt: skip
        self.apply(initialise)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x, seen = with_positions(images) if self.positions else images, []
        for stage in self.down:
            x = stage(x)
            seen.append(x)
        x = self.up[0](seen.pop())
        for stage, beside in zip(self.up[1:], reversed(seen)):
            if self.skips == "column":
                beside = beside.mean(2, keepdim=True).expand_as(beside)
            x = stage(torch.cat([x, beside], 1))
        return x


class ColumnGenerator(nn.Module):
    """Images (B, inputs, S, S) to images (B, outputs, S, S), both in [-1, 1], column by column.

    For two pictures of an eye that share one axis; street scenes are turned into maps in this way
    (the "dense transformer" of Roddick & Cipolla, CVPR 2020). Convolutions halve the rows and never
    the columns, until a kernel as high as what is left turns every column into one vector. These
    exchange with their neighbours, and the mirror image of the encoder unfolds each into a column
    of the other picture. So what is drawn at a place comes from about it (16 columns to either side
    at 64 px, 22 at 256; only the norms look further), and no row of the one is taken for a row of
    the other. ``width`` channels at full height, 4 ``width`` numbers for a column. With ``grain``
    the decoder is given noise, for speckle to be made of.
    """

    def __init__(self, size=256, inputs=3, outputs=1, width=32, grain=False):
        super().__init__()
        self.size, self.inputs, self.outputs = check_size(size), inputs, outputs
        halvings = size.bit_length() - 5  # to 16 rows
        widths = [width] + [2 * width] * halvings

        def block(convolution, *grain):
            channels = convolution.out_channels
            return nn.Sequential(convolution, nn.GroupNorm(4, channels), *grain, nn.LeakyReLU(0.2))

        def noisy(convolution):
            noise = [NoiseInjection(convolution.out_channels)] if grain else []
            return block(convolution, *noise)

        layers = [block(nn.Conv2d(inputs + 2, width, 5, 1, 2))]
        layers += [block(nn.Conv2d(a, b, (4, 5), (2, 1), (1, 2)))
                   for a, b in zip(widths, widths[1:])]  # fmt: skip
        layers += [nn.Sequential(nn.Conv2d(widths[-1], 4 * width, (16, 1)), nn.LeakyReLU(0.2))]
        layers += [Neighbours(4 * width, reach) for reach in (1, 2)]
        self.encoder = nn.ModuleList(layers)
        upwards = [nn.Sequential(nn.ConvTranspose2d(4 * width, widths[-1], (16, 1)),
                                 nn.LeakyReLU(0.2))]  # fmt: skip
        for a, b in zip(widths[::-1], widths[-2::-1]):
            upwards.append(noisy(nn.ConvTranspose2d(a, b, (4, 3), (2, 1), (1, 1))))
        upwards += [noisy(nn.Conv2d(width, width, 3, 1, 1)), nn.Conv2d(width, outputs, 3, 1, 1)]
        self.decoder = nn.Sequential(*upwards, nn.Tanh())

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """What each stage of the encoder gives, (B, C, rows, S); the last is drawn from."""
        x, found = with_positions(images), []
        for layer in self.encoder:
            x = layer(x)
            found.append(x)
        return found

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.features(images)[-1])


class NoiseInjection(nn.Module):
    """x + white noise, as loud in each of the maps (B, C, H, W) as is learned (StyleGAN's "B",
    Karras, Laine & Aila, CVPR 2019). In use it is the same noise for all images: what is drawn is a
    function of what is shown.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.loudness = nn.Parameter(torch.full((channels, 1, 1), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, _, rows, columns = x.shape
        if self.training:
            noise = torch.randn(batch, 1, rows, columns, dtype=x.dtype, device=x.device)
        else:
            noise = torch.randn(1, rows, columns, generator=torch.Generator().manual_seed(rows))
        return x + self.loudness.to(x.dtype) * noise.to(x)


class Neighbours(nn.Module):
    """x + what columns (B, C, 1, W) learn from those up to 2 ``reach`` away."""

    def __init__(self, channels: int, reach: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, (1, 5), padding=(0, 2 * reach), dilation=(1, reach)),
            nn.LeakyReLU(0.2), nn.Conv2d(channels, channels, 1),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


class PatchDiscriminator(nn.Module):
    """Images (B, inputs, S, S) to a map of logits (B, 1, h, w), one for every 70 x 70 px.

    C64-C128-C256-C512 (both papers) for ``width`` 64 and ``layers`` 3; with 2 a logit sees
    34 x 34 px, with 1 16 x 16, for small pictures. ``norm``: "instance" (CycleGAN) or "batch"
    (pix2pix, which shows it input and output together: inputs 3 + 1).
    """

    def __init__(self, inputs=1, width=64, layers=3, norm="instance"):
        super().__init__()
        widths = [width * min(2**k, 8) for k in range(layers + 1)]
        steps = [nn.Conv2d(inputs, width, 4, 2, 1), nn.LeakyReLU(0.2, True)]
        for number, (inside, outside) in enumerate(zip(widths, widths[1:]), 1):
            stride = 1 if number == layers else 2
            normed = {"instance": InstanceNorm(), "batch": nn.BatchNorm2d(outside)}[norm]
            steps += [nn.Conv2d(inside, outside, 4, stride, 1), normed, nn.LeakyReLU(0.2, True)]
        self.layers = nn.Sequential(*steps, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.apply(initialise)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def patch_layers(size: int) -> int:
    """Of a ``PatchDiscriminator``, so that its patch is about a quarter of the picture's side, as
    70 px are of 256; two at 64 px, where a quarter is too little to know a retina by."""
    return max(2, min(size, 256).bit_length() - 6)


def check_size(size: int) -> int:
    if size not in SIZES:
        raise ValueError(f"size={size}: translators are built for {', '.join(map(str, SIZES))} px.")
    return size


KINDS = {"resnet": ResNetGenerator, "unet": UNetGenerator, "column": ColumnGenerator}


class Translator(nn.Module):
    """What a run exports: one generator for each direction in ``to``, "oct" or "oct", "dfe".

    ``forward(images, to)`` takes DFE (B, 3, S, S) to OCT (B, 1, S, S), or back. ``kind``: "resnet",
    "unet" or "column"; ``others`` are the arguments of that network. With ``evidence``, a number of
    classes, the network sees in place of an image what ``Evidence`` finds in it, in 64 columns. In
    larger pictures there is a grain that evidence does not know of: "column" is given noise for it.
    """

    def __init__(self, kind="resnet", to=("oct",), size=256, evidence=0, **others):
        super().__init__()
        network = partial(KINDS[kind], **others)
        if evidence and kind == "column" and size > SIDE:
            network = partial(network, grain=True)
        self.channels = {"oct": 3, "dfe": 1}  # of what is shown, on the way there
        self.evidence = Evidence(evidence) if evidence else None
        channels = {"oct": (evidence or 3, 1), "dfe": (evidence or 1, 3)}
        self.size = size
        self.generators = nn.ModuleDict({side: network(size, *channels[side]) for side in to})

    def forward(self, images: torch.Tensor, to="oct") -> torch.Tensor:
        if to not in self.generators:
            raise ValueError(f"to={to!r}: this translator draws {', '.join(self.generators)} only.")
        wanted = (self.channels[to], self.size, self.size)
        if images.shape[1:] != wanted:
            raise ValueError(f"to={to!r}: takes images of {wanted}, not {tuple(images.shape[1:])}.")
        if self.evidence is not None:
            images = self.evidence.picture(images, "dfe" if to == "oct" else "oct")
        return self.generators[to](images)

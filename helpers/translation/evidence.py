"""Where in an image its class shows, learned from the classes of whole images alone.

Photographs and scans of different patients share no place. But both come with a class, a column of
either (``photograph.clean_dfe``, framing "macula" or "strip") is a place on the retina, and a
network that sees little at a time has to say where the class shows. What it says, column by column,
is about the same tissue in both, and the only thing here that is.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from helpers.data.augment import augment, mirror
from helpers.data.batches import balanced_index, batches
from helpers.data.pixels import to_float

SIDE = 64  # px; so that a place is as wide whatever the size
SHARPNESS = 0.3  # of the soft maximum over places: large asks one for the class, 0 all alike
AUGMENT = 0.8  # share of the images changed: some places are known by heart else
SMOOTH = 1.0  # columns of 64
LINE = 8  # rows of 64 about the scan line
QUANTILES = 512
BATCH, RATE = 32, 0.05  # of SGD: Adam's step asks for GPUs, and that spoils a later fork to them
FEW = 200  # images of each class, of which the distribution of the evidence is made


class Places(nn.Module):
    """Logits (B, K, rows, 64) of K classes at each place of images (B, C, S, S) in [-1, 1].

    ``whole``: a place sees 9 columns of 64 and all of their rows (OCT); else 5 columns and 8 rows
    (DFE: a druse beside the scan line says nothing of the scan).
    """

    def __init__(self, channels: int, classes: int, whole: bool, width=16):
        super().__init__()

        def block(inside, outside, *shape):
            convolution = nn.Conv2d(inside, outside, *shape)
            return [convolution, nn.BatchNorm2d(outside), nn.LeakyReLU(0.2)]

        halved = (4, 3), (2, 1), (1, 1)  # the rows, never the columns
        layers = block(channels + whole, width, (5, 3), 1, (2, 1))
        layers += block(width, 2 * width, *halved)
        for _ in range(2 if whole else 0):
            layers += block(2 * width, 2 * width, *halved)
        layers += block(2 * width, 4 * width, (8, 1) if whole else 1)
        self.whole, self.layers = whole, nn.Sequential(*layers, nn.Conv2d(4 * width, classes, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[-1] != SIDE:
            images = F.interpolate(images, (SIDE, SIDE), mode="area")
        if self.whole:  # a convolution does not know how deep in the retina it is
            depth = torch.linspace(-1, 1, SIDE, device=images.device).view(1, 1, -1, 1)
            images = torch.cat([images, depth.expand(len(images), -1, -1, SIDE)], 1)
        return self.layers(images)

    def classify(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) of whole images: a soft maximum of z over the n places,

        1/r log (1/n sum_i exp(r z_i)), r = ``SHARPNESS`` (Pinheiro & Collobert, CVPR 2015, eq. 6),

        so that places where the class shows answer for the image, and others less.
        """
        z = SHARPNESS * self(images).flatten(2)
        return (z.logsumexp(2) - math.log(z.shape[2])) / SHARPNESS

    def columns(self, images: torch.Tensor) -> torch.Tensor:
        """Log odds (B, K, 64) of each class in each column (DFE: on the scan line), smoothed."""
        z = self(images)
        if not self.whole:
            line = max(1, LINE * z.shape[2] // SIDE)
            z = z.narrow(2, (z.shape[2] - line) // 2, line)
        p = z.float().mean(2).log_softmax(1)
        odds = p - torch.log1p(-p.exp().clamp(max=1 - 1e-6))
        away = torch.arange(-4, 5, device=z.device) / SMOOTH
        weights = (-away.square() / 2).softmax(0).view(1, 1, -1)
        padded = F.pad(odds, (4, 4), mode="replicate").flatten(0, 1)[:, None]
        return F.conv1d(padded, weights).view(odds.shape)


class Evidence(nn.Module):
    """What images of either modality say of each column for each class, on one scale.

    ``forward(images, side)``: (B, C, S, S) in [-1, 1], side "dfe" or "oct", to (B, K, S) in
    [-1, 1]. What a photograph says is brought to the distribution of what scans say, quantile by
    quantile, over classes that come equally often: so both are in the units in which scans vary.
    """

    def __init__(self, classes: int):
        super().__init__()
        self.networks = nn.ModuleDict({"dfe": Places(3, classes, whole=False),
                                       "oct": Places(1, classes, whole=True)})  # fmt: skip
        for side in self.networks:
            self.register_buffer(f"quantiles_{side}", torch.zeros(classes, QUANTILES))
        self.requires_grad_(False)

    def train(self, mode=True):
        """Stays as it was learned, whatever is trained about it."""
        return super().train(False)

    def learn(self, domains, steps: int, seed: int) -> None:
        """From the images and classes of the training patients of a ``two_modalities.Domains``,
        ``steps`` of 32 images for each modality; the same in every process."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for side, network in self.networks.items():
                split = getattr(domains, side).train
                labels = domains.numbers(split)
                self._learn(network.requires_grad_(True), split.images, labels, steps, seed)
                network.requires_grad_(False)
                few = [np.flatnonzero(labels == k)[:FEW] for k in sorted(set(labels))]
                least = min(map(len, few))
                shown = to_float(np.asarray(split.images)[np.concatenate([k[:least] for k in few])])
                with torch.no_grad():
                    said = torch.cat([network.columns(part) for part in shown.split(BATCH)])
                shares = torch.linspace(0, 1, QUANTILES)
                found = said.transpose(0, 1).flatten(1).quantile(shares, 1).T
                getattr(self, f"quantiles_{side}").copy_(found)

    def _learn(self, network, images, labels, steps, seed):
        for part in network.modules():
            part.training = True
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()  # by this seed, not by what came before
        optimizer = torch.optim.SGD(
            network.parameters(), RATE, 0.9, nesterov=True, weight_decay=1e-4
        )
        drawn = batches(images, BATCH, labels=labels, seed=seed, index=balanced_index(labels))
        for step, (shown, told) in zip(range(steps), drawn):
            optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
            loss = F.cross_entropy(network.classify(augment(mirror(shown), AUGMENT)), told)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        network.eval()

    @torch.no_grad()
    def forward(self, images: torch.Tensor, side: str) -> torch.Tensor:
        with torch.autocast(images.device.type, enabled=False):
            said = self.networks[side].columns(images.float()).transpose(0, 1)
            own, common = getattr(self, f"quantiles_{side}"), self.quantiles_oct
            at = torch.searchsorted(own, said.flatten(1).contiguous()).clamp(1, QUANTILES - 1)
            low, high = own.gather(1, at - 1), own.gather(1, at)
            share = ((said.flatten(1) - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
            low, high = common.gather(1, at - 1), common.gather(1, at)
            mean, spread = common.mean(1, keepdim=True), common.std(1, keepdim=True)
            values = (low + share * (high - low) - mean) / (3 * spread + 1e-6)
            values = values.view(said.shape).transpose(0, 1).clamp(-1, 1)
            return F.interpolate(values, images.shape[-1], mode="linear")

    def picture(self, images: torch.Tensor, side: str) -> torch.Tensor:
        """The same as images (B, K, S, S) whose rows are all alike, for a network to draw from."""
        rows = self(images, side)[:, :, None]
        return rows.expand(-1, -1, images.shape[2], -1).to(images.dtype)

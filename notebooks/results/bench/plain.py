"""What people run today: the published recipes as they come.

float32, the default memory layout, a DataLoader that decodes image files again in every epoch, one
pass of a network for each loss. The networks are ours, so that only the execution differs.
"""

from itertools import chain

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from helpers.translation.losses import grey
from helpers.translation.networks import (
    InstanceNorm,
    PatchDiscriminator,
    ResNetGenerator,
    patch_layers,
)

WORKERS = 2  # of a DataLoader, as in the PyTorch example


def loader(folder, size: int, batch_size: int, channels=1):
    """Endless batches (B, C, size, size) in [-1, 1] and labels from image files in class folders.

    One epoch follows the other without an end, so that workers are started once: a small set must
    not look slower than a large one.
    """
    steps = [transforms.Resize((size, size)), transforms.ToTensor(),
             transforms.Normalize([0.5] * channels, [0.5] * channels)]  # fmt: skip
    if channels == 1:
        steps.insert(0, transforms.Grayscale())
    data = ImageFolder(folder, transforms.Compose(steps))
    endless = RandomSampler(data, num_samples=10**8)
    return iter(DataLoader(data, batch_size, sampler=endless, num_workers=WORKERS))


def dcgan_step(generator, discriminator, batches, lr=2e-4):
    """One step of the PyTorch example (after Radford et al., ICLR 2016) at a call."""
    device = next(generator.parameters()).device
    on_discriminator = torch.optim.Adam(discriminator.parameters(), lr, (0.5, 0.999))
    on_generator = torch.optim.Adam(generator.parameters(), lr, (0.5, 0.999))
    criterion = nn.BCEWithLogitsLoss()

    def step():
        real, _ = next(batches)
        ones = torch.ones(len(real), device=device)
        on_discriminator.zero_grad()
        loss_real = criterion(discriminator(real), ones)
        loss_real.backward()
        fake = generator(torch.randn(len(real), generator.z_dim, device=device))
        loss_fake = criterion(discriminator(fake.detach()), 0 * ones)
        loss_fake.backward()
        on_discriminator.step()
        on_generator.zero_grad()
        loss = criterion(discriminator(fake), ones)
        loss.backward()
        on_generator.step()
        return loss_real.item(), loss_fake.item(), loss.item()

    return step


def published_cyclegan(size: int, width: int, blocks: int) -> nn.ModuleDict:
    """Networks of the CycleGAN paper with the InstanceNorm that comes with torch."""
    layers = patch_layers(size)
    networks = nn.ModuleDict({
        "to_oct": ResNetGenerator(size, 3, 1, width, blocks),
        "to_dfe": ResNetGenerator(size, 1, 3, width, blocks),
        "on_oct": PatchDiscriminator(1, width, layers),
        "on_dfe": PatchDiscriminator(3, width, layers),
    })  # fmt: skip
    with_torchs_norm(networks)
    return networks


class TorchsNorm(nn.Module):
    """nn.InstanceNorm2d, which asks for channels that it makes no use of."""

    def forward(self, x):
        return F.instance_norm(x)


def with_torchs_norm(network: nn.Module) -> None:
    """Put torch's InstanceNorm in the place of ours."""
    for name, layer in network.named_children():
        if isinstance(layer, InstanceNorm):
            setattr(network, name, TorchsNorm())
        with_torchs_norm(layer)


def cyclegan_step(networks, photographs, scans):
    """One step as the CycleGAN paper describes it (Zhu et al., ICCV 2017), identity by luminance as
    ours; without the pool of earlier pictures, which costs nothing."""
    to_oct, to_dfe, on_oct, on_dfe = networks.values()
    makers = torch.optim.Adam(chain(to_oct.parameters(), to_dfe.parameters()), 2e-4, (0.5, 0.999))
    critics = torch.optim.Adam(chain(on_oct.parameters(), on_dfe.parameters()), 2e-4, (0.5, 0.999))

    def wanted(score, value):
        return F.mse_loss(score, torch.full_like(score, value))

    def step():
        (dfe, _), (oct, _) = next(photographs), next(scans)
        for critic in (on_oct, on_dfe):
            critic.requires_grad_(False)
        makers.zero_grad()
        fake_oct, fake_dfe = to_oct(dfe), to_dfe(oct)
        loss = wanted(on_oct(fake_oct), 1.0) + wanted(on_dfe(fake_dfe), 1.0)
        loss = loss + 10 * (F.l1_loss(to_dfe(fake_oct), dfe) + F.l1_loss(to_oct(fake_dfe), oct))
        loss = loss + 5 * F.l1_loss(to_oct(oct.expand(-1, 3, -1, -1)), oct)
        loss = loss + 5 * F.l1_loss(grey(to_dfe(grey(dfe))), grey(dfe))
        loss.backward()
        makers.step()
        for critic in (on_oct, on_dfe):
            critic.requires_grad_(True)
        critics.zero_grad()
        for critic, true, drawn in ((on_oct, oct, fake_oct), (on_dfe, dfe, fake_dfe)):
            (0.5 * (wanted(critic(true), 1.0) + wanted(critic(drawn.detach()), 0.0))).backward()
        critics.step()
        return loss.item()

    return step

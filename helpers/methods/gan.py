"""A GAN for B-scans: one generator, one discriminator, one step of each (Goodfellow et al. 2014).

A plain object for ``helpers.training.train``: it knows its networks, optimisers, losses and
pictures; the loop knows the device, the clock, the average of the weights and the checkpoints.
"""

import dataclasses

import numpy as np
import torch

from helpers.augment import augment, mirror
from helpers.losses.adversarial import LOSSES, zero_centred_penalty
from helpers.measures.distances import kernel_distance
from helpers.networks import dcgan
from helpers.processes import average_gradients
from helpers.state import PRECISIONS

# What `recipe` fills in where a setting is None.
RECIPES = {
    # Radford et al. 2016 in the form everybody runs (the PyTorch example).
    "paper": dict(
        loss="bce", gamma=0.0, z_dim=100, channels=512, upsample="transposed", norm="batch",
        minibatch_std=False, mirror=False, augment=0.0, batch_size=64, lr=2e-4,
        lr_discriminator=2e-4, beta1=0.5, beta2=0.999, ema_half_life=0.0, ema_ramp=0.0,
        precision="fp32",
    ),
    # What trains better on OCT; the README's table says by how much each change does.
    "best": dict(
        loss="bce", gamma=0.0, z_dim=100, channels=256, upsample="transposed", norm="batch",
        minibatch_std=False, mirror=True, augment=0.3, batch_size=16, lr=4e-4,
        lr_discriminator=4e-4, beta1=0.5, beta2=0.999, ema_half_life=2_000.0, ema_ramp=0.3,
        precision="auto",
    ),
}  # fmt: skip


def with_recipe(settings):
    """A copy of the settings in which every field that is None takes the recipe's value.

    The width of a network follows from the size and the recipe's channels at 4 px (512 in the
    PyTorch example), halved with every doubling: its plain extension beyond 64 px. Raises
    ValueError naming a setting that cannot work, before any data is touched.
    """
    choices = {"model": ("dcgan",), "recipe": RECIPES, "size": dcgan.SIZES}
    _check(settings, choices)
    recipe = dict(RECIPES[settings.recipe])
    recipe["width"] = recipe.pop("channels") * 8 // settings.size
    missing = {name: value for name, value in recipe.items() if getattr(settings, name) is None}
    settings = dataclasses.replace(settings, **missing)
    choices = {"loss": LOSSES, "norm": dcgan.NORMS, "upsample": dcgan.UPSAMPLES}
    _check(settings, {**choices, "precision": PRECISIONS})
    if settings.gamma and settings.norm == "batch":
        raise ValueError(
            f"gamma={settings.gamma} with norm='batch': a gradient penalty needs a discriminator "
            "whose samples do not see each other; set norm=none or gamma=0."
        )
    if not 0 <= settings.augment <= 1:
        raise ValueError(f"augment={settings.augment}: choose a share between 0 (off) and 1.")
    if min(settings.batch_size, settings.validation_images, settings.report_images) < 2:
        raise ValueError("batch_size, validation_images and report_images: choose at least 2.")
    return settings


def _check(settings, choices: dict) -> None:
    for name, known in choices.items():
        if getattr(settings, name) not in known:
            known = ", ".join(map(str, known))
            raise ValueError(f"{name}={getattr(settings, name)!r}: choose one of {known}.")


class GAN:
    """Trains ``settings`` (a ``config.TrainGan``); validates on ``validation``, uint8 (N, 1, S, S).

    ``averaged`` is the network whose moving average is judged and exported. ``validate`` returns
    the kernel distance (x1000, smaller is better) of ``settings.validation_images`` synthetic
    scans to the validation patients' scans, in the features of ``features``.
    """

    exported, judged_by = "generator", "kernel_distance"

    def __init__(self, settings, validation: np.ndarray, features):
        s = self.settings = settings
        if len(validation) < 2:
            raise ValueError(
                f"{len(validation)} validation scan(s): a distance needs two. Add patients to "
                "OCT_DATA."
            )
        self.architecture = {
            "network": "dcgan",
            "arguments": {
                "size": s.size,
                "z_dim": s.z_dim,
                "width": s.width,
                "upsample": s.upsample,
            },
        }
        generator = dcgan.Generator(**self.architecture["arguments"])
        discriminator = dcgan.Discriminator(s.size, s.width, s.norm, s.minibatch_std)
        self.networks = {"generator": generator, "discriminator": discriminator}
        self.averaged = generator
        self.optimizers = {
            name: torch.optim.Adam(
                self.networks[name].parameters(), lr, (s.beta1, s.beta2), fused=True
            )
            for name, lr in [("generator", s.lr), ("discriminator", s.lr_discriminator)]
        }
        self.discriminator_loss, self.generator_loss = LOSSES[s.loss]
        noise = torch.Generator().manual_seed(s.seed)
        self.preview_noise = torch.randn(16, s.z_dim, generator=noise)
        self.validation_noise = torch.randn(s.validation_images, s.z_dim, generator=noise)
        self.features = features
        self.validation_features = features(validation)

    def step(self, real: torch.Tensor, accelerator) -> dict[str, float]:
        """One update of the discriminator, then of the generator, from real scans (B, 1, S, S)."""
        s, generator, discriminator = self.settings, *self.networks.values()
        if s.mirror:
            real = mirror(real)
        z = torch.randn(len(real), s.z_dim, device=real.device)
        with accelerator.autocast():
            fake = generator(z)

        shown_real = augment(real, s.augment).requires_grad_(s.gamma > 0)
        shown_fake = augment(fake.detach(), s.augment).requires_grad_(s.gamma > 0)
        with accelerator.autocast():
            on_real, on_fake = discriminator(shown_real).float(), discriminator(shown_fake).float()
        loss = self.discriminator_loss(on_real, on_fake)
        record = {"loss_discriminator": loss.detach()}
        if s.gamma:
            penalty = zero_centred_penalty(on_real, shown_real)  # R1
            penalty = penalty + zero_centred_penalty(on_fake, shown_fake)  # R2
            record["penalty"] = penalty.detach()
            loss = loss + s.gamma / 2 * penalty
        self._update("discriminator", loss, accelerator)

        discriminator.requires_grad_(False)  # its gradients are not needed on the generator's way
        with accelerator.autocast():
            on_fake = discriminator(augment(fake, s.augment)).float()
            if s.loss == "relativistic":  # the only loss whose generator looks at real scans too
                on_real = discriminator(shown_real.detach()).float()
        loss = self.generator_loss(on_real.detach(), on_fake)
        discriminator.requires_grad_(True)
        self._update("generator", loss, accelerator)
        record["loss_generator"] = loss.detach()
        margin = on_real - on_fake if s.loss == "relativistic" else on_real
        record["sign_real"] = margin.detach().sign().mean()  # 1: every real scan is recognised
        return {name: value.item() for name, value in record.items()}

    def _update(self, name: str, loss: torch.Tensor, accelerator) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad()
        accelerator.backward(loss)
        average_gradients(self.networks[name], accelerator)
        optimizer.step()

    @torch.no_grad()
    def generate(self, network: torch.nn.Module, noise: torch.Tensor) -> torch.Tensor:
        """Scans (N, 1, S, S) in [-1, 1] on the CPU from noise (N, z_dim), 64 at a time."""
        device = next(network.parameters()).device
        return torch.cat([network(z.to(device)).float().cpu() for z in noise.split(64)])

    def preview(self, network: torch.nn.Module) -> torch.Tensor:
        """The same 16 noise vectors every time, so that pictures compare: (16, 1, S, S)."""
        return self.generate(network, self.preview_noise)

    def validate(self, network: torch.nn.Module) -> float:
        """Kernel distance (x1000) to the validation patients; the noise is fixed."""
        self.features.to(next(network.parameters()).device)
        synthetic = self.features(self.generate(network, self.validation_noise))
        return float(kernel_distance(synthetic, self.validation_features))

    def state_dict(self) -> dict:
        """Nothing to remember beside the networks and optimisers."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass

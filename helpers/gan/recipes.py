"""What each model is trained with where the user says nothing, and what cannot work at all."""

import dataclasses
import math

from helpers.data.bscan import OCT_FRAMINGS
from helpers.data.shape import crop_rows
from helpers.gan import dcgan, flow, residual
from helpers.gan.losses import LOSSES
from helpers.gan.start import knows_dials
from helpers.training.precision import PRECISIONS

# model -> recipe -> what is filled in where a setting is None; `channels` are those at 4 px
RECIPES = {
    "dcgan": {
        # Radford et al. 2016 in the form everybody runs (the PyTorch example).
        "paper": dict(
            loss="bce", gamma=0.0, balance=0.0, penalty_every=1, penalty_fine=1.0, z_dim=100,
            channels=512, blocks=0, norm="batch", mirror=False, augment=0.0, batch_size=64,
            lr=2e-4, lr_discriminator=2e-4, beta1=0.5, beta2=0.999, ema_half_life=0.0,
            ema_ramp=0.0, precision="fp32",
        ),
        # What trains better on OCT; results/generators.md says by how much each does.
        "best": dict(
            loss="bce", gamma=0.0, balance=0.0, penalty_every=1, penalty_fine=1.0, z_dim=100,
            channels=256, blocks=0, norm="batch", mirror=True, augment=0.3, batch_size=16,
            lr=4e-4, lr_discriminator=4e-4, beta1=0.5, beta2=0.999, ema_half_life=2_000.0,
            ema_ramp=0.3, precision="auto",
        ),
    },
    "residual": {
        # R3GAN's losses; the rest by trials on scans of another class than the one reported.
        "best": dict(
            loss="relativistic", balance=0.5, penalty_every=4, penalty_fine=0.1, z_dim=64,
            channels=256, blocks=1, norm="none", mirror=True, augment=0.3, batch_size=16,
            lr=5e-4, lr_discriminator=5e-4, beta1=0.5, beta2=0.9, ema_half_life=1_000.0,
            ema_ramp=0.3, precision="auto",
        ),
    },
    "stylegan": {
        # The residual GAN's discriminator, losses and augmentation.
        "best": dict(
            loss="relativistic", balance=0.5, penalty_every=4, penalty_fine=0.1, z_dim=128,
            channels=256, blocks=4, norm="none", mirror=True, augment=0.3, batch_size=16,
            lr=5e-3, lr_discriminator=5e-4, beta1=0.5, beta2=0.9, ema_half_life=1_000.0,
            ema_ramp=0.3, precision="auto",
        ),
    },
    "flow": {
        # Of aligned crops alone. results/generators.md says what was tried.
        "best": dict(
            channels=256, blocks=1, flow_steps=flow.STEPS, mirror=True, augment=0.15,
            batch_size=16, lr=1e-3, beta1=0.9, beta2=0.99, ema_half_life=20_000.0, ema_ramp=0.1,
            precision="auto",
        ),
    },
}  # fmt: skip
# what is of a GAN: a flow has one network, one loss, and noise for every pixel
NO_FLOW = ("loss", "gamma", "balance", "penalty_every", "penalty_fine", "z_dim", "norm",
           "lr_discriminator")  # fmt: skip
# of aligned crops, where the residual GAN comes as far in half the images with these: the disease
# takes steps rather than images
ALIGNED = {"residual": dict(lr=1e-3, lr_discriminator=1e-3, batch_size=8)}
ALIGNED_GAMMA = 0.2  # and gamma, where it begins, as a share of penalty_weight


def penalty_weight(size: float) -> float:
    """gamma for scans of ``size`` px, or of as many pixels as a square of it: 5 (size / 128)^2.

    The square is what keeps a discriminator's judgement as steep as it is when the same scans come
    in twice the size: every pixel then counts a quarter, four times as many pixels add up, and
    ||grad_x D||^2 is a quarter. The 5 was found at 128 px with 116 scans, where 1.5 was better
    with one seed and much worse with another. It is where training begins: with ``balance`` it is
    adapted from there on (helpers/gan/gan.py). (R3GAN, NeurIPS 2024, publishes weights for
    photographs that were found by hand: from 2 falling to 0.2 at 64 px, from 150 to 15 at 256 px.)
    """
    return 5 * (size / 128) ** 2


def with_recipe(settings):
    """A copy of the settings in which every field that is None takes the recipe's value.

    The width of a network follows from the size and the recipe's channels at 4 px (512 in the
    PyTorch example), halved with every doubling: its plain extension beyond 64 px. gamma, where a
    loss needs one, begins at ``penalty_weight`` and is adapted (``balance``) unless it is set.
    Raises ValueError naming a setting that cannot work, before any data is touched.
    """
    framings = {"framing": ("aligned", *OCT_FRAMINGS)}
    _check(settings, {"model": RECIPES, "size": dcgan.SIZES, **framings})
    _check(settings, {"recipe": RECIPES[settings.model]})
    if settings.dials is None:  # on real scans it is not shown to be of use; what is told goes on
        told = settings.model == "residual" and settings.framing == "aligned"
        known = settings.data == "simulated" or (settings.start and knows_dials(settings.start))
        settings = dataclasses.replace(settings, dials=bool(told and known))
    if settings.dials and (settings.framing != "aligned" or settings.model == "dcgan"):
        raise ValueError(
            f"dials=1 with model={settings.model}, framing={settings.framing}: only residual, "
            "stylegan and flow are told dials, of aligned crops; set these, or dials=0."
        )
    if settings.model == "flow":
        return _flow_recipe(settings)
    if settings.flow_steps is not None:
        raise ValueError(f"flow_steps={settings.flow_steps}: only model=flow takes steps.")
    plain = settings.model != "dcgan"  # no normalisation, and so penalties
    recipe = dict(RECIPES[settings.model][settings.recipe])
    rows = crop_rows(settings.size) if settings.framing == "aligned" else settings.size
    recipe["width"] = recipe.pop("channels") * 8 // rows
    if settings.framing == "aligned":
        recipe |= ALIGNED.get(settings.model, {})
    if not plain:
        recipe["conditional"] = False
    if plain:
        recipe["gamma"] = penalty_weight(math.sqrt(settings.size * rows))
        if settings.framing == "aligned":
            recipe["gamma"] *= ALIGNED_GAMMA
        if settings.gamma is not None or settings.loss not in (None, "relativistic"):
            recipe["balance"] = 0.0  # a gamma that was asked for stays
    missing = {name: value for name, value in recipe.items() if getattr(settings, name) is None}
    settings = dataclasses.replace(settings, **missing)
    norms = (residual if plain else dcgan).NORMS
    _check(settings, {"loss": LOSSES, "norm": norms})
    if settings.gamma and settings.norm == "batch":
        raise ValueError(
            f"gamma={settings.gamma} with norm='batch': a gradient penalty needs a discriminator "
            "whose samples do not see each other; set norm=none or gamma=0."
        )
    if settings.balance and not (settings.loss == "relativistic" and settings.gamma):
        raise ValueError(
            f"balance={settings.balance}: gamma is adapted for loss=relativistic and from a gamma "
            "above 0; set both, or balance=0."
        )
    if not 0 <= settings.balance < math.log(2):
        raise ValueError(
            f"balance={settings.balance}: choose 0 (a fixed gamma) or a loss below log 2 = 0.69, "
            "that of a discriminator that tells nothing apart."
        )
    if settings.conditional and not plain:
        raise ValueError("conditional=1: only residual and stylegan take a class; set it, or 0.")
    _at_least(settings, {"penalty_every": 1, "blocks": int(plain)})
    if not 0 <= settings.penalty_fine <= 1:
        raise ValueError(f"penalty_fine={settings.penalty_fine}: choose a weight between 0 and 1.")
    return _common(settings)


def _flow_recipe(settings):
    """``with_recipe`` of a flow."""
    recipe = dict(RECIPES["flow"][settings.recipe])
    recipe["width"] = recipe.pop("channels") * 8 // crop_rows(settings.size)
    if wrong := [name for name in NO_FLOW if getattr(settings, name) is not None]:
        name = wrong[0]
        raise ValueError(
            f"{name}={getattr(settings, name)}: a flow has no such thing; leave it out."
        )
    if settings.framing != "aligned":
        raise ValueError(
            f"framing={settings.framing}: a flow learns aligned crops; set framing=aligned."
        )
    missing = {name: value for name, value in recipe.items() if getattr(settings, name) is None}
    settings = dataclasses.replace(settings, **missing)
    _at_least(settings, {"blocks": 1, "flow_steps": 1, "width": 4})
    return _common(settings)


def _common(settings):
    """What holds for every model."""
    _check(settings, {"precision": PRECISIONS})
    if not 0 <= settings.augment <= 1:
        raise ValueError(f"augment={settings.augment}: choose a share between 0 (off) and 1.")
    if min(settings.batch_size, settings.validation_images, settings.report_images) < 2:
        raise ValueError("batch_size, validation_images and report_images: choose at least 2.")
    return settings


def _at_least(settings, limits: dict) -> None:
    for name, low in limits.items():
        if getattr(settings, name) < low:
            raise ValueError(f"{name}={getattr(settings, name)}: choose at least {low}.")


def _check(settings, choices: dict) -> None:
    for name, known in choices.items():
        if getattr(settings, name) not in known:
            known = ", ".join(map(str, known))
            raise ValueError(f"{name}={getattr(settings, name)!r}: choose one of {known}.")

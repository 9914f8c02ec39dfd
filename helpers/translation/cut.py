"""CUT from DFE to OCT (Park, Efros, Zhang & Zhu, ECCV 2020), unpaired and one-way."""

import torch
import torch.nn.functional as F
from torch import nn

from helpers.data.augment import mirror
from helpers.gan.losses import LOSSES
from helpers.training.processes import update
from helpers.translation.judge import Judge, architecture, set_rate
from helpers.translation.losses import PLACES, patch_nce, with_channels
from helpers.translation.networks import PatchDiscriminator, Translator, patch_layers

PLACES_PER_LAYER = 256  # of one image, at most
LENGTH = 256  # of a projected feature


class Projectors(nn.Module):
    """One two-layer perceptron for each tapped layer: (B, P, C) to unit vectors (B, P, 256)."""

    def __init__(self, widths: list[int]):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, LENGTH), nn.ReLU(), nn.Linear(LENGTH, LENGTH))
            for width in widths
        )

    def forward(self, number: int, places: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.layers[number](places).float(), dim=2)


class CUT:
    """Trains ``settings`` (a ``config.TrainCyclegan``) on batches of ((photographs, labels),
    (scans, labels)); judged on the validation patients of ``domains`` in ``features``.

    What ties a scan to its photograph is contrast between places
    (``settings.contrast_places``): "pixel" as published, or "column", which is what corresponds
    here (``losses.column_places``).
    """

    exported, score_name = "generator", "score"

    def __init__(self, settings, domains, features):
        s = self.settings = settings
        self.architecture = architecture(s, domains, ["oct"])
        generator = Translator(**self.architecture["arguments"])
        discriminator = PatchDiscriminator(1, s.width, patch_layers(s.size))
        if s.contrast_places not in PLACES:
            raise ValueError(
                f"contrast_places={s.contrast_places!r}: choose one of {', '.join(PLACES)}."
            )
        self.places = PLACES[s.contrast_places]
        with torch.no_grad():
            tapped = generator.generators["oct"].features(torch.zeros(1, 3, s.size, s.size))
            widths = [self.places(layer, 1)[0].shape[2] for layer in tapped]
        self.networks = {"generator": generator, "discriminator": discriminator,
                         "projectors": Projectors(widths)}  # fmt: skip
        self.averaged = generator
        self.optimizers = {
            name: torch.optim.Adam(network.parameters(), s.lr, (s.beta1, 0.999), fused=True)
            for name, network in self.networks.items()
        }
        self.steps = 0
        self.judge = Judge(domains, features, s.size, s.framing)
        self.mirrors = not domains.oriented
        self.discriminator_loss, self.generator_loss = LOSSES["least_squares"]

    def contrast(self, originals: torch.Tensor, translated: torch.Tensor) -> torch.Tensor:
        """Mean over the tapped layers of the loss between (B, 3, S, S) and (B, 1, S, S)."""
        generator, projectors = self.networks["generator"], self.networks["projectors"]
        features = generator.generators["oct"].features
        keys = features(originals)
        queries = features(with_channels(translated, 3))
        losses = []
        for number, (query, key) in enumerate(zip(queries, keys)):
            key, chosen = self.places(key, PLACES_PER_LAYER)
            query, _ = self.places(query, PLACES_PER_LAYER, chosen)
            losses.append(patch_nce(projectors(number, query), projectors(number, key)))
        return sum(losses) / len(losses)

    def step(self, batch, accelerator) -> dict[str, torch.Tensor]:
        """One update of the discriminator, then of the generator and the projectors together."""
        s = self.settings
        generator, discriminator, _ = self.networks.values()
        (photographs, _), (scans, _) = batch
        if self.mirrors:
            photographs, scans = mirror(photographs), mirror(scans)
        set_rate(self.optimizers, s, self.steps)
        with accelerator.autocast():
            drawn = generator(photographs, "oct")
            on_real = discriminator(scans).float()
            on_fake = discriminator(drawn.detach()).float()
            judged = self.discriminator_loss(on_real, on_fake)
        update(self, judged, accelerator, "discriminator")

        discriminator.requires_grad_(False)
        with accelerator.autocast():
            on_fake = discriminator(drawn).float()
            losses = {"loss_oct": self.generator_loss(on_fake, on_fake)}
            losses["loss_contrast"] = s.nce * self.contrast(photographs, drawn)
            if s.identity:  # a scan, grey as RGB, should come out as it is
                as_rgb = with_channels(scans, 3)
                same = self.contrast(as_rgb, generator(as_rgb, "oct"))
                losses["loss_contrast"] = (losses["loss_contrast"] + s.nce * same) / 2
        discriminator.requires_grad_(True)
        update(self, sum(losses.values()), accelerator, "generator", "projectors")
        self.steps += 1
        record = {"loss_discriminator": judged, **losses}
        return {name: value.detach() for name, value in record.items()}

    def preview(self, network: nn.Module) -> torch.Tensor:
        return self.judge.preview(network)

    def validate(self, network: nn.Module) -> float:
        value = self.judge(network)
        self.judgement = self.judge.measured
        return value

    def state_dict(self) -> dict:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict) -> None:
        self.steps = state["steps"]

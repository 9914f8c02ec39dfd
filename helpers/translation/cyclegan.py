"""CycleGAN between DFE and OCT (Zhu, Park, Isola & Efros, ICCV 2017), unpaired."""

import torch
from torch import nn

from helpers.data.augment import mirror
from helpers.gan.losses import LOSSES
from helpers.training.processes import update
from helpers.translation.judge import Judge, Pool, architecture, set_rate
from helpers.translation.losses import cycle_loss, identity_loss, with_channels
from helpers.translation.networks import PatchDiscriminator, Translator, patch_layers

CHANNELS = {"oct": 1, "dfe": 3}


class CycleGAN:
    """Trains ``settings`` (a ``config.TrainCyclegan``) on batches of ((photographs, labels),
    (scans, labels)), the labels unused; judged on the validation patients of ``domains`` in
    ``features``.
    """

    exported, score_name = "generator", "score"

    def __init__(self, settings, domains, features):
        s = self.settings = settings
        self.architecture = architecture(s, domains, ["oct", "dfe"])
        generator = Translator(**self.architecture["arguments"])
        discriminator = nn.ModuleDict({
            side: PatchDiscriminator(channels, s.width, patch_layers(s.size))
            for side, channels in CHANNELS.items()
        })  # fmt: skip
        self.networks = {"generator": generator, "discriminator": discriminator}
        self.averaged = generator
        self.optimizers = {
            name: torch.optim.Adam(network.parameters(), s.lr, (s.beta1, 0.999), fused=True)
            for name, network in self.networks.items()
        }
        self.judge = Judge(domains, features, s.size, s.framing)
        self.mirrors = not domains.oriented
        self.pools = {side: Pool(s.pool) for side in CHANNELS}
        self.steps = 0
        self.discriminator_loss, self.generator_loss = LOSSES["least_squares"]

    def step(self, batch, accelerator) -> dict[str, torch.Tensor]:
        """One update of both generators together, then of both discriminators."""
        s, generator, discriminator = self.settings, *self.networks.values()
        (photographs, _), (scans, _) = batch
        if self.mirrors:
            photographs, scans = mirror(photographs), mirror(scans)
        real = {"dfe": photographs, "oct": scans}
        other = {"dfe": "oct", "oct": "dfe"}
        set_rate(self.optimizers, s, self.steps)
        drawn, same, losses = {}, {}, {}
        with accelerator.autocast():
            for to in ("oct", "dfe"):  # in one pass: no layer looks across a batch
                shown = [real[other[to]]]
                if s.identity:
                    shown.append(with_channels(real[to], CHANNELS[other[to]]))
                drawn[to], *same[to] = generator(torch.cat(shown), to).split(len(scans))
            back = {to: generator(drawn[other[to]], to) for to in drawn}
            discriminator.requires_grad_(False)
            for to in drawn:
                on_real = on_fake = discriminator[to](drawn[to]).float()
                losses[f"loss_{to}"] = self.generator_loss(on_real, on_fake)
                losses[f"loss_cycle_{to}"] = s.cycle * cycle_loss(real[to], back[to].float())
                if s.identity:
                    losses[f"loss_identity_{to}"] = (
                        s.cycle * s.identity * identity_loss(real[to], same[to][0].float())
                    )
            discriminator.requires_grad_(True)
        update(self, sum(losses.values()), accelerator, "generator")

        judged = 0.0
        with accelerator.autocast():
            for to, pool in self.pools.items():
                shown = torch.cat([real[to], pool(drawn[to])])
                on_real, on_fake = discriminator[to](shown).float().split(len(scans))
                judged = judged + self.discriminator_loss(on_real, on_fake)
        update(self, judged, accelerator, "discriminator")
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
        """Steps taken, which set the rate, and the pools: without them losses jump on resume."""
        pools = {side: pool.state_dict() for side, pool in self.pools.items()}
        return {"steps": self.steps, "pools": pools}

    def load_state_dict(self, state: dict) -> None:
        self.steps = state["steps"]
        for side, pool in self.pools.items():
            pool.load_state_dict(state["pools"][side])

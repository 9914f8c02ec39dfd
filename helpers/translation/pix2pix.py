"""pix2pix from DFE to OCT (Isola, Zhu, Zhou & Efros, CVPR 2017): two pictures of each eye."""

import torch
import torch.nn.functional as F
from torch import nn

from helpers.data.augment import mirror
from helpers.gan.losses import LOSSES
from helpers.training.processes import update
from helpers.translation.judge import Judge, architecture, set_rate
from helpers.translation.networks import PatchDiscriminator, Translator, patch_layers


class Pix2pix:
    """Trains ``settings`` (a ``config.TrainPix2pix``) on batches (both (B, 4, S, S), labels): the
    photograph's three channels and the scan of the same eye; judged as the unpaired methods are.
    With ``evidence``, a number of classes, what is shown is not the photograph (``pairs``).
    """

    exported, score_name = "generator", "score"

    def __init__(self, settings, domains, features, evidence=0):
        s = self.settings = settings
        self.architecture = architecture(s, domains, ["oct"])
        if evidence:
            self.architecture["arguments"]["evidence"] = evidence
        generator = Translator(**self.architecture["arguments"])
        layers = patch_layers(s.size)
        discriminator = PatchDiscriminator((evidence or 3) + 1, s.width, layers, norm="batch")
        self.networks = {"generator": generator, "discriminator": discriminator}
        self.averaged = generator
        self.optimizers = {
            name: torch.optim.Adam(trained.parameters(), s.lr, (s.beta1, 0.999), fused=True)
            for name, trained in (("generator", generator.generators),
                                  ("discriminator", discriminator))
        }  # fmt: skip
        self.judge = Judge(domains, features, s.size, s.framing)
        self.mirrors = not domains.oriented
        self.steps = 0
        self.discriminator_loss, self.generator_loss = LOSSES["bce"]

    def pairs(self, batch):
        """What is shown (B, C, S, S), and the scans (B, 1, S, S) to draw from it."""
        both = mirror(batch[0]) if self.mirrors else batch[0]  # photograph and scan together
        return both[:, :3], both[:, 3:]

    def error(self, drawn: torch.Tensor, scans: torch.Tensor) -> torch.Tensor:
        """|G(x) - y|, mean over pixels (eq. 3)."""
        return F.l1_loss(drawn, scans)

    def step(self, batch, accelerator) -> dict[str, torch.Tensor]:
        """One update of the discriminator, which sees what is shown too, then of the generator."""
        s, generator, discriminator = self.settings, *self.networks.values()
        draw = generator.generators["oct"]
        shown, scans = self.pairs(batch)
        set_rate(self.optimizers, s, self.steps)
        with accelerator.autocast():
            drawn = draw(shown)
            on_real = discriminator(torch.cat([shown, scans], 1)).float()
            on_fake = discriminator(torch.cat([shown, drawn.detach()], 1)).float()
        judged = self.discriminator_loss(on_real, on_fake) / 2
        update(self, judged, accelerator, "discriminator")

        discriminator.requires_grad_(False)
        with accelerator.autocast():
            on_fake = discriminator(torch.cat([shown, drawn], 1)).float()
        discriminator.requires_grad_(True)
        losses = {"loss_oct": self.generator_loss(on_fake, on_fake)}
        losses["loss_l1"] = s.l1 * self.error(drawn.float(), scans)
        update(self, sum(losses.values()), accelerator, "generator")
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

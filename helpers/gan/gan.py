"""A GAN for B-scans: one generator, one discriminator, one step of each (Goodfellow et al. 2014).

A plain object for ``training.loop.train``: it knows its networks, optimisers, losses and
pictures; the loop knows the device, the clock, the average of the weights and the checkpoints.
"""

import math
import warnings

import numpy as np
import torch

from helpers.data import shape
from helpers.data.augment import augment, mirror
from helpers.gan import dcgan, judging, residual, stylegan
from helpers.gan.dials import leave_open, misread
from helpers.gan.losses import LOSSES, zero_centred_penalty
from helpers.training.cuda_graph import learn_or_replay
from helpers.training.processes import update

DOUBLES = 4000  # images in which gamma doubles or halves while it is adapted
DOUBLES_ALIGNED, HELD = 1000, 3000  # of aligned crops; images before which it is not moved there
MEMORY = 0.98  # of the mean of the discriminator's loss, per step
# weights of the error of the dials that the discriminator reads off real scans, and off what the
# generator was told to draw; five times as much makes it draw for the reader and not for the eye
READING, OBEYING = 0.2, 0.1
BLIND, SURE = 0.68, 0.02  # losses of a relativistic discriminator that tells nothing; everything


def build(settings, classes=()):
    """The two networks of ``settings`` (a ``config.TrainGan``) and what rebuilds the generator."""
    s = settings
    aligned = s.framing == "aligned"
    arguments = {"size": s.size, "width": s.width}
    if aligned:
        arguments["rows"] = shape.crop_rows(s.size)
    if s.model in ("residual", "stylegan"):
        looks = len(shape.TOLD if s.dials else shape.LOOK) if aligned else 0
        arguments |= {"classes": len(classes), "looks": looks}
        dials = len(shape.DIALS) if s.dials else 0
        discriminator = residual.Discriminator(height=aligned, dials=dials, **arguments)
        arguments |= {"latent": s.z_dim}
        arguments |= {"layers": s.blocks} if s.model == "stylegan" else {"blocks": s.blocks}
        generator = (stylegan if s.model == "stylegan" else residual).Generator(**arguments)
    else:
        discriminator = dcgan.Discriminator(norm=s.norm, **arguments)
        arguments |= {"z_dim": s.z_dim}
        generator = dcgan.Generator(**arguments)
    about = {"network": s.model, "arguments": arguments, "framing": s.framing}
    if classes:
        about["classes"] = list(classes)
    return generator, discriminator, about


class GAN:
    """Trains ``settings`` (a ``config.TrainGan``); validates on ``validation``, uint8 (N, 1, S, S).

    ``averaged`` is the network whose moving average is judged and exported. With
    ``settings.conditional`` (None: with names of classes) the batches are scans and labels,
    ``classes`` their names. With
    ``shapes`` (a ``shape.Shapes`` of the training scans) the networks see aligned crops, with how
    each looks (``shape.look``) as the last part of a batch, and every picture that leaves here is a
    whole scan of the validation scans' size.

    ``validate`` returns a score, smaller is better (``judging.score``), in the features of
    ``features``; ``labels`` names the classes of ``validation``.
    """

    exported, score_name = "generator", "score"

    def __init__(self, settings, validation: np.ndarray, features, classes=(), labels=None,
                 shapes=None):  # fmt: skip
        s = self.settings = settings
        self.conditional = judging.learns_classes(s, classes)
        generator, discriminator, self.architecture = build(s, classes if self.conditional else ())
        self.networks = {"generator": generator, "discriminator": discriminator}
        self.averaged = generator
        self.optimizers = {
            name: torch.optim.Adam(
                self.networks[name].parameters(), lr, (s.beta1, s.beta2), fused=True
            )
            for name, lr in [("generator", s.lr), ("discriminator", s.lr_discriminator)]
        }
        self.discriminator_loss, self.generator_loss = LOSSES[s.loss]
        judging.begin(self, generator, validation, features, classes, labels, shapes)
        self.dialled = self.looks == len(shape.TOLD)
        # gamma and the mean loss: on the device, so that no step waits for the GPU to tell them
        self.weighed = torch.tensor([s.gamma, s.balance or math.log(2) / 2], dtype=torch.float64)
        self.replayed = None

    @property
    def gamma(self) -> float:
        """Weight of the gradient penalties, as far as it is adapted."""
        return self.weighed[0].item()

    @gamma.setter
    def gamma(self, value: float):
        self.weighed[0] = value

    @property
    def mean_loss(self) -> float:
        """Running mean of the discriminator's loss."""
        return self.weighed[1].item()

    @mean_loss.setter
    def mean_loss(self, value: float):
        self.weighed[1] = value

    @property
    def kept(self) -> dict[str, torch.Tensor]:
        """Shapes, which an exported generator needs besides its weights."""
        return judging.kept(self)

    def step(self, batch, accelerator) -> dict[str, torch.Tensor]:
        """``learn`` from scans (B, 1, S, S), or (scans, labels), or (scans, labels, looks).

        On a GPU of its own the step is captured once and replayed (``cuda_graph``).
        """
        real, *told = batch if isinstance(batch, (tuple, list)) else (batch,)
        if self.weighed.device != real.device:
            self.weighed = self.weighed.to(real.device)
        way = self._way(len(real) * accelerator.num_processes)
        record = learn_or_replay(self, way, accelerator, real, *told)
        self.steps += 1
        return record

    def _way(self, images: int) -> tuple[bool, bool]:
        """Whether, in a step of so many images, a penalty is due and gamma is moved."""
        s, held = self.settings, self.shapes is not None and (self.steps + 1) * images <= HELD
        due = bool(s.gamma) and self.steps % s.penalty_every == 0
        return due, bool(s.balance) and not held

    def learn(self, way: tuple[bool, bool], accelerator, real, *told) -> dict[str, torch.Tensor]:
        """One update of the discriminator, then of the generator, from real scans (B, 1, S, S).

        ``told``: their labels and looks, where there are any; a synthetic scan is asked for of the
        class and the look of the real one beside it. ``way``: whether the penalty is due, and
        whether gamma is moved.
        """
        (due, moved), s = way, self.settings
        generator, discriminator = self.networks.values()
        told = list(told)
        if told and not self.conditional:  # one class to the networks, whatever its name
            told[0] = torch.zeros_like(told[0])
        if self.dialled:
            told[1] = leave_open(told[1])
        if s.mirror:
            real = mirror(real)
        z = torch.randn(len(real), generator.z_dim, device=real.device)
        with accelerator.autocast():
            fake = generator(z, *told)

        shown = augment(torch.cat([real, fake.detach()]), s.augment).requires_grad_(due)
        with accelerator.autocast():
            if s.norm == "batch":  # a layer that looks across the batch
                logits = torch.cat([self._see(half, told)[0] for half in shown.chunk(2)])
            else:
                logits, read = self._see(shown, [torch.cat([part, part]) for part in told])
        on_real, on_fake = logits.chunk(2)
        loss = self.discriminator_loss(on_real, on_fake)
        record = {"loss_discriminator": loss.detach()}
        if self.dialled:
            wrong = misread(read[: len(real)], told[1])
            record["loss_dials"] = wrong.detach()
            loss = loss + READING * wrong
        if due:
            penalty = 2 * zero_centred_penalty(logits, shown, s.penalty_fine)  # R1 + R2
            record["penalty"] = penalty.detach()
            loss = loss + (s.penalty_every * self.weighed[0] / 2).float() * penalty
        update(self, loss, accelerator, "discriminator")

        discriminator.requires_grad_(False)  # its gradients are not needed on the generator's way
        with accelerator.autocast():
            on_fake, read = self._see(augment(fake, s.augment), told)
            if s.loss == "relativistic":  # the only loss whose generator looks at real scans too
                on_real, _ = self._see(shown[: len(real)].detach(), told)
        loss = self.generator_loss(on_real.detach(), on_fake)
        discriminator.requires_grad_(True)
        record["loss_generator"] = loss.detach()
        if self.dialled:
            loss = loss + OBEYING * misread(read, told[1])
        update(self, loss, accelerator, "generator")
        margin = on_real - on_fake if s.loss == "relativistic" else on_real
        record["sign_real"] = margin.detach().sign().mean()  # 1: every real scan is recognised
        if s.gamma:
            self._weigh(record, len(real), moved, accelerator)
        return record

    def _see(self, scans, told) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the discriminator says of scans (B, 1, S, S): logits (B,), and dials (B, 3)."""
        discriminator = self.networks["discriminator"]
        if not self.dialled:
            return discriminator(scans, *told).float(), None
        logits, read = discriminator.read(scans, *told)
        return logits.float(), read

    def _weigh(self, record: dict, count: int, moved: bool, accelerator) -> None:
        """Adapt gamma so that the discriminator's mean loss stays near ``settings.balance``.

        Too small a gamma, and the discriminator tells everything apart (loss near 0) by a function
        too steep to follow; too large a one, and it tells nothing apart (log 2). Which gamma lies
        between depends on the size, the number of scans, and how far the generator has come, but
        the loss that shows it does not. R3GAN lowers its gamma tenfold by a schedule instead. Of
        aligned crops, which are soon drawn well, it follows faster, but not at once: the first
        generator loses whatever gamma is.
        """
        loss = record["loss_discriminator"]
        if accelerator.num_processes > 1:
            loss = accelerator.reduce(loss.clone(), reduction="mean")
        gamma, mean = self.weighed.unbind()
        mean.mul_(MEMORY).add_((1 - MEMORY) * loss.double().clamp(max=1.0))
        if moved:
            doubles = DOUBLES if self.shapes is None else DOUBLES_ALIGNED
            move = count * accelerator.num_processes / doubles
            gamma.mul_(2 ** (move * (self.settings.balance - mean).sign()))
            record["gamma"] = gamma.clone()

    def preview(self, network: torch.nn.Module) -> torch.Tensor:
        """Sixteen scans of the same noise every time (``judging.preview``)."""
        return judging.preview(self, network)

    def validate(self, network: torch.nn.Module) -> float:
        """The score (``judging.score``); warns in words of a gamma that is far off."""
        s = self.settings
        larger = "batch_size" if s.norm == "batch" else "gamma"
        found = judging.score(self, network, f"a larger {larger}, or a smaller lr")
        if s.gamma:
            self.architecture["gamma"] = float(f"{self.gamma:.3g}")  # for who begins from here
        if s.gamma and s.loss == "relativistic" and not judging.early(self):
            size = "large" if self.mean_loss > BLIND else "small" if self.mean_loss < SURE else ""
            if size:
                tells = "nothing" if size == "large" else "everything"
                warnings.warn(
                    f"step {self.steps}: the discriminator tells {tells} apart (loss "
                    f"{self.mean_loss:.2f}): gamma={self.gamma:g} is probably too {size}.",
                    stacklevel=2,
                )
        return found

    def state_dict(self) -> dict:
        """Steps taken, which decide when a penalty is due, and what is adapted on the way."""
        adapted = {name: getattr(self, name) for name in ("steps", "gamma", "mean_loss")}
        return adapted | {"louder": self.louder.tolist()}

    def load_state_dict(self, state: dict) -> None:
        for name in ("steps", "gamma", "mean_loss"):
            setattr(self, name, state[name])
        self.louder = np.array(state.get("louder", self.louder))

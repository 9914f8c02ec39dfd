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
from helpers.data.pixels import to_levels
from helpers.gan import dcgan, dials, residual, stylegan
from helpers.gan.losses import LOSSES, zero_centred_penalty
from helpers.measures.distances import kernel_distance
from helpers.measures.probe import probe_auroc
from helpers.training.cuda_graph import Replayed
from helpers.training.processes import average_gradients

EARLY = 5000  # images before which a bad state is no alarm
COLLAPSED = 0.05  # of the validation scans' variance in features, that of the synthetic ones
DOUBLES = 4000  # images in which gamma doubles or halves while it is adapted
DOUBLES_ALIGNED, HELD = 1000, 3000  # of aligned crops; images before which it is not moved there
MEMORY = 0.98  # of the mean of the discriminator's loss, per step
PROBE = 400  # that a whole AUROC counts in the score: a tenth of it as much as a distance of 40
READ = 150  # validation scans off which the ruler reads what has come of the dials
SHAPES_KEPT = 256  # of each class, in an exported generator
BLIND, SURE = 0.68, 0.02  # losses of a relativistic discriminator that tells nothing; everything


def build(settings, classes=()):
    """The two networks of ``settings`` (a ``config.TrainGan``) and what rebuilds the generator."""
    s = settings
    aligned = s.framing == "aligned"
    arguments = {"size": s.size, "width": s.width}
    if aligned:
        arguments["rows"] = shape.crop_rows(s.size)
    if s.model in ("residual", "stylegan"):
        looks = len(shape.LOOK) + len(shape.DIALS) * s.dials if aligned else 0
        arguments |= {"classes": len(classes), "looks": looks}
        discriminator = residual.Discriminator(height=aligned, **arguments)
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

    ``validate`` returns a score, smaller is better: the kernel distance (x1000) of
    ``settings.validation_images`` synthetic scans of ``settings.class_`` to the validation
    patients' scans of that class, in the features of ``features``. Where scans of other classes
    are there too (``labels`` names those of ``validation``), PROBE times what the AUROC of a probe
    lacks is added: a linear head learns the classes from synthetic scans alone, and is asked about
    the patients. Distance alone prefers scans without drusen, since most of a scan is no druse.
    """

    exported, score_name = "generator", "score"

    def __init__(self, settings, validation: np.ndarray, features, classes=(), labels=None,
                 shapes=None):  # fmt: skip
        s = self.settings = settings
        self.conditional = len(classes) > 0 if s.conditional is None else s.conditional
        if self.conditional and not classes:
            raise ValueError("conditional=1: classes=, the names of what is learned, are missing.")
        if self.conditional and s.class_ not in classes:
            raise ValueError(f"class={s.class_}: choose the one to judge, of {', '.join(classes)}.")
        if labels is None or not self.conditional:  # "all" and A+B are names of no label
            labels = np.full(len(validation), s.class_)
        labels = np.asarray(labels)
        own = validation[labels == s.class_]
        if len(own) < 2:
            raise ValueError(
                f"{len(own)} validation scan(s) of {s.class_}: a distance needs two. Add patients "
                "to OCT_DATA."
            )
        if s.framing == "aligned" and shapes is None:
            raise ValueError("framing=aligned: whole scans need shapes=, those of the crops.")
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
        self.judged = classes.index(s.class_) if self.conditional else None
        self.classes = list(classes) if self.conditional else []
        self.shapes, self.whole = shapes, validation.shape[-1]
        self.looks = getattr(generator, "looks", 0)
        self.louder = np.ones(len(shape.DIALS))  # that dials are told, see ``dials.louder``
        noise = torch.Generator().manual_seed(s.seed)
        self.preview_noise = torch.randn(16, generator.z_dim, generator=noise)
        self.validation_noise = torch.randn(s.validation_images, generator.z_dim, generator=noise)
        self.features = features
        self.validation_features = features(own)
        self.probed = labels if self.conditional and len(set(labels)) > 1 else None
        self.probe_features = features(validation) if self.probed is not None else None
        # gamma and the mean loss: on the device, so that no step waits for the GPU to tell them
        self.weighed = torch.tensor([s.gamma, s.balance or math.log(2) / 2], dtype=torch.float64)
        self.steps, self.judgement, self.replayed = 0, {}, None

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
        """What an exported generator needs besides its weights: shapes, drawn anew, so that no row
        is a scan's, and which class each is of."""
        if self.shapes is None:
            return {}
        names = self.classes or [None]
        drawn = [self.shapes.draw(SHAPES_KEPT, name, seed=self.settings.seed) for name in names]
        places = np.repeat(np.arange(len(names)), SHAPES_KEPT)
        return {"shapes": torch.from_numpy(np.concatenate(drawn)),
                "shape_labels": torch.from_numpy(places)}  # fmt: skip

    def step(self, batch, accelerator) -> dict[str, torch.Tensor]:
        """``learn`` from scans (B, 1, S, S), or (scans, labels), or (scans, labels, looks).

        On a GPU of its own the step is captured once and replayed (``cuda_graph``).
        """
        real, *told = batch if isinstance(batch, (tuple, list)) else (batch,)
        if self.weighed.device != real.device:
            self.weighed = self.weighed.to(real.device)
        way = self._way(len(real) * accelerator.num_processes)
        if real.is_cuda and accelerator.num_processes == 1:
            if self.replayed is None:
                self.replayed = Replayed(self.learn, self.optimizers.values())
            record = self.replayed(way, accelerator, real, *told)
        else:
            record = self.learn(way, accelerator, real, *told)
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
        if s.mirror:
            real = mirror(real)
        z = torch.randn(len(real), generator.z_dim, device=real.device)
        with accelerator.autocast():
            fake = generator(z, *told)

        shown = augment(torch.cat([real, fake.detach()]), s.augment).requires_grad_(due)
        with accelerator.autocast():
            if s.norm == "batch":  # a layer that looks across the batch
                logits = torch.cat([discriminator(half, *told) for half in shown.chunk(2)])
            else:
                logits = discriminator(shown, *(torch.cat([part, part]) for part in told))
        on_real, on_fake = logits.float().chunk(2)
        loss = self.discriminator_loss(on_real, on_fake)
        record = {"loss_discriminator": loss.detach()}
        if due:
            penalty = 2 * zero_centred_penalty(logits.float(), shown, s.penalty_fine)  # R1 + R2
            record["penalty"] = penalty.detach()
            loss = loss + (s.penalty_every * self.weighed[0] / 2).float() * penalty
        self._update("discriminator", loss, accelerator)

        discriminator.requires_grad_(False)  # its gradients are not needed on the generator's way
        with accelerator.autocast():
            on_fake = discriminator(augment(fake, s.augment), *told).float()
            if s.loss == "relativistic":  # the only loss whose generator looks at real scans too
                on_real = discriminator(shown[: len(real)].detach(), *told).float()
        loss = self.generator_loss(on_real.detach(), on_fake)
        discriminator.requires_grad_(True)
        record["loss_generator"] = loss.detach()
        self._update("generator", loss, accelerator)
        margin = on_real - on_fake if s.loss == "relativistic" else on_real
        record["sign_real"] = margin.detach().sign().mean()  # 1: every real scan is recognised
        if s.gamma:
            self._weigh(record, len(real), moved, accelerator)
        return record

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

    def _update(self, name: str, loss: torch.Tensor, accelerator) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad()
        accelerator.backward(loss)
        average_gradients(self.networks[name], accelerator)
        optimizer.step()

    @torch.no_grad()
    def generate(self, network: torch.nn.Module, noise: torch.Tensor, labels=None) -> torch.Tensor:
        """Whole scans (N, 1, S, S) in [-1, 1] on the CPU from noise (N, z_dim), 64 at a time.

        ``labels`` (N,) of a conditional generator; without them all are of the class judged.
        """
        device = next(network.parameters()).device
        if labels is None:
            labels = torch.full((len(noise),), self.judged or 0)
        parts = [noise.split(64)]
        if self.looks:
            shapes = self._draw_shapes(labels)
            looks = torch.from_numpy(shape.look(shapes, self.louder)[:, : self.looks])
            parts += [labels.split(64), looks.split(64)]
        elif self.conditional:
            parts.append(labels.split(64))
        drawn = [network(*(part.to(device) for part in both)) for both in zip(*parts)]
        drawn = torch.cat([scans.float().clamp(-1, 1).cpu() for scans in drawn])
        if self.shapes is None:
            return drawn
        if not self.looks:
            shapes = self._draw_shapes(labels)
        whole = shape.place_back(drawn.numpy(), shapes, self.whole, self.settings.seed)
        return torch.from_numpy(whole)[:, None].float() / 127.5 - 1

    def _draw_shapes(self, labels) -> np.ndarray:
        """The same shapes for the same labels every time, so that pictures compare."""
        drawn = np.empty((len(labels), len(shape.FIELDS)), np.float32)
        for k in labels.unique().tolist():
            name = self.classes[k] if self.classes else None
            those = (labels == k).numpy()
            drawn[those] = self.shapes.draw(int(those.sum()), name, seed=self.settings.seed)
        return drawn

    def preview(self, network: torch.nn.Module) -> torch.Tensor:
        """The same 16 noise vectors every time, so that pictures compare: (16, 1, S, S).

        A conditional generator shows all its classes, one after the other, in each half.
        """
        count = len(self.architecture.get("classes", ())) or 1
        return self.generate(network, self.preview_noise, torch.arange(16) % 8 * count // 8)

    def validate(self, network: torch.nn.Module) -> float:
        """The score, as above; the noise is fixed, and ``judgement`` keeps what it is made of.

        Warns in words of a collapse and of a gamma that is far off.
        """
        self.features.to(next(network.parameters()).device)
        drawn = self.generate(network, self.validation_noise)
        synthetic = self.features(drawn)
        if self.looks > len(shape.LOOK):
            self._listen(drawn)
        spread = synthetic.var(0).sum() / max(self.validation_features.var(0).sum(), 1e-12)
        early = self.steps * self.settings.batch_size < EARLY
        if spread < COLLAPSED and not early:
            warnings.warn(
                f"step {self.steps}: the synthetic scans are nearly one picture ({100 * spread:.0f}"
                " % of the variety of real ones): collapse. The best checkpoint so far is kept; "
                f"set a larger {'batch_size' if self.settings.norm == 'batch' else 'gamma'}, or a "
                "smaller lr.",
                stacklevel=2,
            )
        s = self.settings
        if s.gamma:
            self.architecture["gamma"] = float(f"{self.gamma:.3g}")  # for who begins from here
        if s.gamma and s.loss == "relativistic" and not early:
            size = "large" if self.mean_loss > BLIND else "small" if self.mean_loss < SURE else ""
            if size:
                tells = "nothing" if size == "large" else "everything"
                warnings.warn(
                    f"step {self.steps}: the discriminator tells {tells} apart (loss "
                    f"{self.mean_loss:.2f}): gamma={self.gamma:g} is probably too {size}.",
                    stacklevel=2,
                )
        distance = float(kernel_distance(synthetic, self.validation_features))
        self.judgement = {"kernel_distance": distance}
        if self.probed is None:
            return distance
        names = [name for name in self.classes if name in set(self.probed)]
        made, of = [synthetic], [np.full(len(synthetic), s.class_)]
        for name in names:
            if name != s.class_:
                label = torch.full((len(synthetic),), self.classes.index(name))
                drawn = self.generate(network, self.validation_noise, label)
                made.append(self.features(drawn))
                of.append(np.full(len(synthetic), name))
        known = np.isin(self.probed, names)
        auroc = probe_auroc(np.concatenate(made), np.concatenate(of), self.probe_features[known],
                            self.probed[known])  # fmt: skip
        self.judgement["probe"] = auroc
        return distance + PROBE * (1 - auroc)

    def _listen(self, drawn: torch.Tensor) -> None:
        """How much louder dials have to be told from now on, and in what is exported now."""
        labels = torch.full((len(drawn),), self.judged or 0)
        asked = self._draw_shapes(labels)[:READ, shape.DIALLED]
        self.louder = dials.louder(self.louder, asked, to_levels(drawn[:READ]))
        self.architecture["louder"] = self.louder.round(3).tolist()

    def state_dict(self) -> dict:
        """Steps taken, which decide when a penalty is due, and what is adapted on the way."""
        adapted = {name: getattr(self, name) for name in ("steps", "gamma", "mean_loss")}
        return adapted | {"louder": self.louder.tolist()}

    def load_state_dict(self, state: dict) -> None:
        for name in ("steps", "gamma", "mean_loss"):
            setattr(self, name, state[name])
        self.louder = np.array(state.get("louder", self.louder))

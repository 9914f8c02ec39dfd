"""Distil a teacher of one modality into a student of another, without pairs.

FDDM (Wang et al., MICCAI 2023) has a photograph's teacher and an OCT student; here either way
round, with its two losses by class and six known ones by sample.
"""

import copy
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from helpers.classifiers.classification import augmented, fit_embedding, levels_of, set_rate
from helpers.classifiers.fit import run_steps, seeded
from helpers.classifiers.networks import Classifier, Network
from helpers.data.pixels import to_float
from helpers.distillation import losses
from helpers.distillation.partners import PARTNERS, distillation_batches, one_hot
from helpers.training.processes import gather_rows, update

BY_CLASS = ("cpm", "csa")
BY_SAMPLE = ("kd", "dkd", "fitnets", "rkd", "sp", "simkd")
PROJECTED = ("cpm", "fitnets")  # compare features number by number, so the student's are translated


@dataclass
class Side:
    """What one network says of a batch; ``logits`` and ``labels`` in the shared classes only."""

    features: torch.Tensor  # (B, d) embedding
    projected: torch.Tensor  # (B, d) in the teacher's terms; of the teacher the same
    logits: torch.Tensor  # (B, C)
    labels: torch.Tensor  # 0/1 (B, C)
    plain: torch.Tensor  # (B, C) logits without dropout, by which the gate compares
    multilabel: bool

    @property
    def answers(self):
        """Probabilities and labels of the samples that have a shared class at all."""
        known = slice(None) if self.multilabel else self.labels.sum(1) > 0
        logits = self.plain[known].detach()
        found = logits.sigmoid() if self.multilabel else logits.softmax(1)
        return found, self.labels[known]


def loss_weights(text: str) -> dict[str, float]:
    """ "cpm=2,csa=1" as a dictionary; "none" or "" is the student alone. ValueError for an unknown
    loss."""
    found = {}
    for part in filter(None, (part.strip() for part in text.split(",") if text != "none")):
        name, _, weight = part.partition("=")
        if name not in BY_CLASS + BY_SAMPLE:
            raise ValueError(
                f"losses={text!r}: no loss {name!r}. There are {', '.join(BY_CLASS + BY_SAMPLE)}; "
                "write cpm=2,csa=1."
            )
        try:
            found[name] = float(weight or 1)
            if not 0 <= found[name] < float("inf"):
                raise ValueError
        except ValueError:
            raise ValueError(
                f"losses={text!r}: the weight of {name} is a number from 0 on."
            ) from None
    return found


class Projector(nn.Sequential):
    """The student's features (B, d) in the teacher's terms: three linear layers, training only."""

    def __init__(self, width: int):
        super().__init__(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, width),
        )  # fmt: skip


class Distillation:
    """Trains a student beside a teacher: a method for ``training.loop.train``.

    A batch is ((student's images, labels), (teacher's images, labels)) as ``distillation_batches``
    draws them; labels are places in ``classes``, whole numbers (B,) or 0/1 (B, K). Either images
    may be features (B, d) of the network that looks at them. ``settings`` is a ``config.Distil``.

    teacher: a ``Classifier``; it may know other classes in another order, and what is distilled
    are those that both know. None: the student alone. ``shown`` are features or images of the
    student's to centre and scale by, ``start`` a student to go on from; ``validation`` (images or
    features, labels) of other patients.
    """

    exported, score_name = "classifier", "validation_loss"

    def __init__(
        self, settings, classes, teacher: Classifier | None, shown=None, validation=None, start=None
    ):
        s, self.settings, self.validation = settings, settings, validation
        self.weights = loss_weights(s.losses)
        if s.partners not in PARTNERS:
            raise ValueError(f"partners={s.partners!r}: choose one of {', '.join(PARTNERS)}.")
        if not s.temperature > 0:
            raise ValueError(f"temperature={s.temperature}: choose a number above 0.")
        if not 0 <= s.momentum < 1:
            raise ValueError(f"momentum={s.momentum}: choose a number from 0 to below 1.")
        if self.weights and teacher is None:
            raise ValueError(f"losses={s.losses!r} need a teacher: give one, or losses=none")
        if s.multilabel and "dkd" in self.weights:
            raise ValueError("losses: dkd needs one label per image; use kd with multilabel=1.")
        arguments = {"backbone": s.backbone, "size": s.size, "classes": list(classes),
                     "multilabel": s.multilabel, "embedding": s.embedding,
                     "dropout": s.dropout}  # fmt: skip
        self.architecture = {"network": "classifier", "arguments": arguments}
        student = Network(**arguments, pretrained=s.pretrained)
        if start is not None:
            student.load_state_dict(start.network.state_dict())
        elif shown is not None and s.embedding:
            fit_embedding(student, arguments, shown)
        self.averaged = student.requires_grad_(True).train()
        self.networks = {"student": student}
        self.teacher, self.own, self.theirs = None, [], []
        if self.weights:
            self._add_teacher(teacher, list(classes))
        self.optimizers = {
            name: torch.optim.AdamW(
                [weight for weight in network.parameters() if weight.requires_grad],
                s.lr, weight_decay=s.weight_decay, fused=True,
            )
            for name, network in self.networks.items()
        }  # fmt: skip
        self.steps_done, self.remembered = 0, {}

    def _add_teacher(self, teacher: Classifier, classes: list[str]):
        s, student = self.settings, self.averaged
        shared = [name for name in classes if name in teacher.classes]
        if not shared:
            raise ValueError(
                f"The teacher knows {', '.join(teacher.classes)} and the student is to learn "
                f"{', '.join(classes)}: no class in common. Say in OCT_CLASSES what is one "
                "condition."
            )
        if teacher.multilabel != s.multilabel:
            raise ValueError(f"multilabel={s.multilabel}, but the teacher is of the other kind.")
        self.own = [classes.index(name) for name in shared]
        self.theirs = [teacher.classes.index(name) for name in shared]
        self.teacher = copy.deepcopy(teacher.network).eval().requires_grad_(False)
        widths = [network.head.in_features for network in (student, self.teacher)]
        if widths[0] != widths[1] and set(self.weights) & {*PROJECTED, "simkd"}:
            raise ValueError(
                f"The teacher's embedding has {widths[1]} numbers, the student's {widths[0]}: "
                "train both with the same OCT_EMBEDDING, or use losses without "
                f"{', '.join(PROJECTED)}."
            )
        if "simkd" in self.weights:
            if classes != teacher.classes or len(self.weights) > 1:
                raise ValueError(
                    "losses: simkd stands alone, and gives the student the teacher's classifier, "
                    f"so both need the same classes: {', '.join(teacher.classes)}."
                )
            student.head.load_state_dict(self.teacher.head.state_dict())
            student.head.requires_grad_(False)
        if set(self.weights) & set(PROJECTED):
            self.networks["projector"] = Projector(widths[0])
        if s.teacher_learns:
            self.networks["teacher"] = self.teacher.requires_grad_(True).train()

    def step(self, batch, accelerator) -> dict[str, torch.Tensor]:
        """One update of the student, its projector and, if it learns, the teacher."""
        s, student = self.settings, self.averaged
        (images, labels), (their_images, their_labels) = batch
        count = student.head.out_features
        labels, their_labels = (one_hot(given, count) for given in (labels, their_labels))
        with accelerator.autocast():
            features = student.embed(augmented(images, s))
            logits, plain = student.head(student.dropout(features)), student.head(features.detach())
            projector = self.networks.get("projector")
            projected = projector(features) if projector else features
        # the classes' means are those of all processes' samples
        features, projected, logits, plain, labels = (
            gather_rows(part.float(), accelerator)
            for part in (features, projected, logits, plain, labels)
        )
        total = self.classification(logits, labels) * ("simkd" not in self.weights)
        record = {"loss_classification": total.detach()}
        if self.teacher is not None:
            logits, plain, labels = (part[:, self.own] for part in (logits, plain, labels))
            side = Side(features, projected, logits, labels, plain.detach(), s.multilabel)
            shown, teacher_loss = self._ask_teacher(their_images, their_labels, accelerator)
            terms, counts = self.terms(side, shown)
            record |= {f"loss_{name}": term.detach() for name, term in terms.items()} | counts
            total = total + sum(self.weights[name] * term for name, term in terms.items())
            if s.teacher_learns:
                record["loss_teacher"] = teacher_loss.detach()
                total = total + teacher_loss
        for optimizer in self.optimizers.values():
            set_rate(optimizer, s, self.steps_done)
        # each process has its own rows' gradient
        update(self, total * accelerator.num_processes, accelerator, *self.networks)
        self.steps_done += 1
        return record

    def _ask_teacher(self, images, labels, accelerator):
        """The teacher's side of the batch, and its own loss."""
        if not self.settings.teacher_learns:
            self.teacher.to(self.averaged.head.weight)
        with torch.set_grad_enabled(self.settings.teacher_learns), accelerator.autocast():
            if self.settings.teacher_learns:
                images = augmented(images, self.settings)
            elif images.ndim == 4:
                images = images.contiguous(memory_format=torch.channels_last)
            features = self.teacher.embed(images)
            logits = self.teacher.head(self.teacher.dropout(features))
            plain = self.teacher.head(features.detach())  # one that learns drops features
        features, logits, plain, labels = (
            gather_rows(part.float(), accelerator) for part in (features, logits, plain, labels)
        )
        logits, plain = logits[:, self.theirs], plain[:, self.theirs].detach()
        labels = labels[:, self.own]
        side = Side(features, features, logits, labels, plain, self.settings.multilabel)
        return side, self.classification(logits, labels)

    def classification(self, logits, labels) -> torch.Tensor:
        """Cross-entropy (multilabel: binary, mean over classes); of rows with a label, if any."""
        if self.settings.multilabel:
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        some = labels.sum(1) > 0
        found = F.cross_entropy(
            logits, labels.argmax(1), reduction="none", label_smoothing=self.settings.smoothing
        )
        return (found * some).sum() / some.sum().clamp(min=1)

    def terms(self, student: Side, teacher: Side):
        """The wanted losses (not yet weighted), and counts: ``shared`` classes with samples on both
        sides that are distilled, and the share of the student's ``partners`` found. Where there is
        none, the loss is zero."""
        s, found = self.settings, {}
        open_ = torch.ones(student.logits.shape[1], dtype=torch.bool, device=student.logits.device)
        if s.gate:
            (own, truth), (theirs, their_truth) = student.answers, teacher.answers
            open_ = losses.gate(own, theirs, truth, their_truth)
        both = open_ & (student.labels.sum(0) > 0) & (teacher.labels.sum(0) > 0)
        counts = {"shared": both.sum()}
        if set(self.weights) & set(BY_CLASS):
            found = self._by_class(student, teacher, both)
        if set(self.weights) & set(BY_SAMPLE):
            rows, others = self._partners(student.labels, teacher.labels, open_)
            counts["partners"] = len(rows) / len(student.labels)
            a, b, t = student, teacher, s.temperature
            logits = a.logits[rows], b.logits[others]
            features = a.features[rows], b.features[others]
            ready = {
                "kd": lambda: losses.kd(*logits, t, s.multilabel),
                "dkd": lambda: losses.dkd(*logits, a.labels[rows], t),
                "fitnets": lambda: losses.fitnets(a.projected[rows], b.features[others]),
                "simkd": lambda: losses.simkd(*features),
                "rkd": lambda: losses.rkd(*features),
                "sp": lambda: losses.similarity_preserving(*features),
            }
            found |= {name: ready[name]() for name in self.weights if name in BY_SAMPLE}
        return found, counts

    def _by_class(self, student: Side, teacher: Side, both):
        t, found = self.settings.temperature, {}
        if "cpm" in self.weights:
            means = [self._prototypes(f"{who} features", side.projected, side.labels)[both]
                     for who, side in (("student", student), ("teacher", teacher))]  # fmt: skip
            found["cpm"] = losses.class_prototype_matching(*means, t)
        if "csa" in self.weights:
            means = [self._prototypes(f"{who} logits", side.logits, side.labels)[both]
                     for who, side in (("student", student), ("teacher", teacher))]  # fmt: skip
            found["csa"] = losses.class_similarity_alignment(*means, t)
        return found

    def _prototypes(self, name: str, values, labels) -> torch.Tensor:
        """Class means (C, d) of this batch or, with momentum, blended with those of earlier ones;
        the gradient is that of this batch's means."""
        means, present = losses.prototypes(values, labels)
        if not self.settings.momentum:
            return means
        blend = means.detach()
        if name in self.remembered:
            kept, known = (part.to(means.device) for part in self.remembered[name])
            mixed = self.settings.momentum * kept + (1 - self.settings.momentum) * blend
            blend = torch.where((known & present)[:, None], mixed, blend)
            blend = torch.where((known & ~present)[:, None], kept, blend)
            self.remembered[name] = (blend, known | present)
        else:
            self.remembered[name] = (blend, present)
        return means + (blend - means).detach()

    def _partners(self, labels, their_labels, open_):
        """Rows of the student, and of the teacher, that belong together: line by line, or, where
        draws are independent, a random row of the same labels. Only rows of open classes."""
        rows = torch.arange(len(labels), device=labels.device)
        if self.settings.partners == "independent":
            chance = torch.Generator().manual_seed(self.steps_done)  # alike in all processes
            draw = torch.rand(len(labels), len(their_labels), generator=chance).to(labels.device)
            others, alike = losses.partners(labels, their_labels, draw)
        else:
            others, alike = rows, (labels == their_labels).all(1)
            alike |= self.settings.partners == "eye"  # one eye, whatever its label says
        alike &= (labels.bool() & open_).any(1)
        return rows[alike], others[alike]

    @torch.no_grad()
    def _judge(self, network):
        """Validation images, labels 0/1 and logits, on the CPU."""
        images, labels = self.validation
        device = network.head.weight.device
        images = torch.from_numpy(np.asarray(images))
        logits = []
        for part in images.split(64):
            logits.append(network(to_float(part.to(device))).float().cpu())
        labels = one_hot(torch.as_tensor(np.asarray(labels)), network.head.out_features)
        return images, labels, torch.cat(logits)

    def _losses(self, labels, logits):
        """Loss of each sample (B,)."""
        if self.settings.multilabel:
            found = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
            return found.mean(1)
        return F.cross_entropy(logits, labels.argmax(1), reduction="none")

    def preview(self, network) -> torch.Tensor:
        """The (up to) 16 validation images about which it is most wrong, the worst first."""
        images, labels, logits = self._judge(network)
        worst = images[np.argsort(-self._losses(labels, logits).numpy())[:16].copy()]
        return to_float(worst)

    def validate(self, network) -> float:
        """Mean loss of validation patients' images, each class weighing the same."""
        _, labels, logits = self._judge(network)
        means, present = losses.prototypes(self._losses(labels, logits)[:, None], labels)
        return float(means[present].mean())

    def state_dict(self) -> dict:
        return {"steps_done": self.steps_done, "remembered": self.remembered}

    def load_state_dict(self, state: dict) -> None:
        self.steps_done, self.remembered = state["steps_done"], state["remembered"]


def distil(
    images, labels, classes, settings, teacher=None, their_images=None, their_labels=None, *,
    start=None,
):  # fmt: skip
    """A student ``Classifier`` after ``settings.steps`` steps, without a run's folder.

    Arguments as ``Distillation`` and ``distillation_batches`` have them; without a teacher, the
    student alone, on the same batches. torch's random state is left as it was.
    """
    with seeded(settings.seed):
        method = Distillation(settings, classes, teacher, shown=images, start=start)
        torch.manual_seed(settings.seed)  # a projector has drawn more: the same dropout for all
        if teacher is None:
            their_images, their_labels = images, labels
        levels, their_levels = levels_of(images), levels_of(their_images)
        draw = partial(
            distillation_batches, levels, labels, their_levels, their_labels, settings.batch_size,
            partners=settings.partners, seed=settings.seed,
        )  # fmt: skip
        run_steps(method, draw, features=levels.ndim == 2)
    return Classifier(method.averaged, method.architecture["arguments"])

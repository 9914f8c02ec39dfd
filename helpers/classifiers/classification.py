"""Classify scans: measures how useful synthetic ones are, judges translated ones, teaches others.

Fine-tuned as a whole (``Classification`` in the one training loop, or ``fit`` for many small fits),
or as a linear head on frozen ImageNet features (``fit(whole=False)``). Either way a ``Classifier``.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from helpers.classifiers.networks import Classifier, Network
from helpers.data.augment import augment, mirror
from helpers.data.pixels import to_float, to_levels
from helpers.measures.features import PACKAGED
from helpers.training.processes import update


@dataclass
class ClassifierSettings:
    """Everything about a classifier but its images."""

    classes: tuple = ()  # names, in the order of the probabilities
    multilabel: bool = False  # several findings at once: sigmoid instead of softmax
    backbone: str = PACKAGED[0]  # any name timm knows
    pretrained: bool = True  # start from ImageNet; others than the default need a network
    size: int = 224  # px, what images are stretched to inside
    embedding: int = 0  # numbers between the backbone's features and the head; 0: none
    dropout: float = 0.0  # before the head
    balanced: bool = True  # rare classes weigh more, so that each counts alike
    mirror: bool = True  # left to right: a right eye becomes a left one
    augment: float = 0.5  # share of the images shifted, tilted, brightened (helpers.data.augment)
    batch_size: int = 16
    lr: float = 3e-4  # AdamW's, after a warm-up; falls to zero along a cosine
    weight_decay: float = 0.05
    precision: str = "auto"  # auto | fp32 | bf16 | fp16
    seed: int = 0
    steps: int = 200
    # for helpers.training.loop.train
    hours: float = 0.0
    session_hours: float = 0.0
    runs: str = "runs"
    run: str = "classifier"
    ema_half_life: float = 0.0
    ema_ramp: float = 0.0
    log_every: int = 256
    validate_every: int = 800

    @property
    def class_(self) -> str:
        return " ".join(self.classes)


class Classification:
    """Fine-tunes a whole backbone: a method for ``training.loop.train``; a batch is a pair of
    images (B, 1 or 3, H, W) in [-1, 1] and labels, whole numbers (B,) or, multilabel, 0/1 (B, K).
    Instead of images it takes features (B, d): then only what follows the backbone learns.

    labels: those of all training images, by which rare classes weigh more, if ``balanced``.
    validation: images uint8 (N, C, H, W) and labels of other patients, or None outside the loop;
    `validate` is the loss on them, with the same weights. shown: images or features to centre and
    scale an embedding by; start: a ``Classifier`` to go on from.
    """

    exported, score_name = "classifier", "validation_loss"

    def __init__(
        self, settings: ClassifierSettings, labels, validation=None, shown=None, start=None
    ):
        s = self.settings = settings
        names = ("backbone", "size", "classes", "multilabel", "embedding", "dropout")
        arguments = {name: getattr(s, name) for name in names}
        arguments["classes"] = list(s.classes)
        self.architecture = {"network": "classifier", "arguments": arguments}
        self.averaged = Network(**arguments, pretrained=s.pretrained)
        if start is not None:
            self.averaged.load_state_dict(start.network.state_dict())
        elif shown is not None and s.embedding:
            fit_embedding(self.averaged, arguments, shown)
        self.averaged.requires_grad_(True).train()
        self.networks = {"classifier": self.averaged}
        self.optimizers = {
            "classifier": torch.optim.AdamW(
                self.averaged.parameters(), s.lr, weight_decay=s.weight_decay, fused=True
            )
        }
        labels = np.asarray(labels)
        counts = labels.sum(0) if s.multilabel else np.bincount(labels, minlength=len(s.classes))
        rarity = len(labels) / counts.clip(1) - 1 if s.multilabel else 1 / counts.clip(1)
        weights = rarity if s.multilabel else rarity * len(labels) / len(s.classes)
        weights = weights if s.balanced else np.ones_like(weights)
        self.class_weights = torch.tensor(weights, dtype=torch.float32)
        self.validation, self.steps_done = validation, 0

    def loss(self, logits, labels):
        weights = self.class_weights.to(logits.device)
        if self.settings.multilabel:
            return F.binary_cross_entropy_with_logits(logits, labels.float(), pos_weight=weights)
        # not divided by the batch's sum of weights: parts of a batch on several GPUs add up to it
        return F.cross_entropy(logits, labels, weight=weights, reduction="none").mean()

    def step(self, batch, accelerator) -> dict[str, torch.Tensor]:
        """One update from a labelled batch."""
        s, (images, labels) = self.settings, batch
        images = augmented(images, s)
        set_rate(self.optimizers["classifier"], s, self.steps_done)
        self.steps_done += 1
        with accelerator.autocast():
            logits = self.averaged(images).float()
        loss = self.loss(logits, labels)
        update(self, loss, accelerator, "classifier")
        right = (logits > 0) == labels.bool() if s.multilabel else logits.argmax(1) == labels
        return {"loss_classifier": loss.detach(), "accuracy": right.float().mean()}

    @torch.no_grad()
    def _judge(self, network):
        """Validation images in [-1, 1], labels, and logits; on the CPU."""
        images, labels = self.validation
        images = to_float(images)
        device = network.head.weight.device
        logits = torch.cat([network(part.to(device)).float().cpu() for part in images.split(64)])
        return images, torch.as_tensor(labels), logits

    def preview(self, network) -> torch.Tensor:
        """The (up to) 16 validation scans about which it is most wrong, the worst first."""
        images, labels, logits = self._judge(network)
        losses = [float(self.loss(a[None], b[None])) for a, b in zip(logits, labels)]
        return images[np.argsort(losses)[::-1][:16].copy()]

    def validate(self, network) -> float:
        _, labels, logits = self._judge(network)
        return float(self.loss(logits, labels))

    def state_dict(self) -> dict:
        return {"steps_done": self.steps_done}

    def load_state_dict(self, state: dict) -> None:
        self.steps_done = state["steps_done"]


def learning_rate(settings, step: int) -> float:
    """Linear warm-up over a tenth of the steps, then a cosine down to zero at the last one.

    Without a number of steps (a budget in hours) it stays constant after 100 steps.
    """
    steps = settings.steps
    warm = min(1.0, (step + 1) / max(1, steps // 10 if steps else 100))
    return settings.lr * warm * (0.5 + 0.5 * math.cos(math.pi * step / steps) if steps else 1)


def set_rate(optimizer, settings, step: int) -> None:
    """Put ``learning_rate`` into the optimizer, lowered where losses had exploded."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(settings, step) * group.get("slowed", 1)


def augmented(images: torch.Tensor, settings) -> torch.Tensor:
    """Images mirrored and augmented as the settings say; features (B, d) as they are."""
    if images.ndim == 2:
        return images
    images = augment(mirror(images) if settings.mirror else images, settings.augment)
    return images.contiguous(memory_format=torch.channels_last)


def levels_of(images) -> np.ndarray:
    """What ``batches`` takes: features (N, d) float32, images as uint8."""
    return np.asarray(images, np.float32) if np.ndim(images) == 2 else to_levels(images)


def fit_embedding(network: Network, arguments: dict, shown, most=512) -> None:
    """Fit the embedding's centre and scale to (up to) ``most`` of the images or features."""
    levels = levels_of(shown)
    some = levels[:: -(-len(levels) // most)]
    rows = some if some.ndim == 2 else Classifier(network, arguments).features(some)
    network.embedding.fit(torch.from_numpy(rows))

"""Classify scans: measures how useful synthetic ones are, judges translated ones, teaches others.

Fine-tuned as a whole (``Classification`` in the one training loop, or ``fit`` for many small fits),
or as a linear head on frozen ImageNet features (``fit(whole=False)``). Either way a ``Classifier``.
"""

import math
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import trange

from helpers.augment import augment, mirror
from helpers.data import batches
from helpers.measures.features import PACKAGED
from helpers.networks.classifiers import Classifier, Network
from helpers.training import average_gradients, choose_precision

# What `fit` fine-tunes with: 40 s of one core. By two-fold cross-validation over 38 patients
# (Noor, AMD against NORMAL, one seed) AUROC 0.946; 140 steps at 3e-4 0.952 (90 s), 60 at 3e-4
# 0.930; the linear head 0.921 at 224 px, 0.901 at 128 px. 224 px would take three times as long.
SHORT = {"size": 128, "steps": 60, "lr": 1e-3}
STRENGTHS = np.logspace(-4, -1, 4)  # C of the linear head: small C, strong shrinkage


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
    augment: float = 0.5  # share of the images shifted, tilted, brightened (helpers.augment)
    batch_size: int = 16
    lr: float = 3e-4  # AdamW's, after a warm-up; falls to zero along a cosine
    weight_decay: float = 0.05
    precision: str = "auto"  # auto | fp32 | bf16 | fp16
    seed: int = 0
    steps: int = 200
    # for helpers.training.train
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
    """Fine-tunes a whole backbone: a method for ``helpers.training.train``; a batch is a pair of
    images (B, 1 or 3, H, W) in [-1, 1] and labels, whole numbers (B,) or, multilabel, 0/1 (B, K).
    Instead of images it takes features (B, d): then only what follows the backbone learns.

    labels: those of all training images, by which rare classes weigh more, if ``balanced``.
    validation: images uint8 (N, C, H, W) and labels of other patients, or None outside the loop;
    `validate` is the loss on them, with the same weights. shown: images or features to centre and
    scale an embedding by; start: a ``Classifier`` to go on from.
    """

    exported, judged_by = "classifier", "validation_loss"

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
            centre(self.averaged, arguments, shown)
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
        s, network, optimizer = self.settings, self.averaged, self.optimizers["classifier"]
        images, labels = batch
        images = varied(images, s)
        set_rate(optimizer, s, self.steps_done)
        self.steps_done += 1
        with accelerator.autocast():
            logits = network(images).float()
        loss = self.loss(logits, labels)
        optimizer.zero_grad()
        accelerator.backward(loss)
        average_gradients(network, accelerator)
        optimizer.step()
        right = (logits > 0) == labels.bool() if s.multilabel else logits.argmax(1) == labels
        return {"loss_classifier": loss.detach(), "accuracy": right.float().mean()}

    @torch.no_grad()
    def _judge(self, network):
        """Validation images in [-1, 1], labels, and logits; on the CPU."""
        images, labels = self.validation
        images = torch.from_numpy(np.asarray(images)).float() / 127.5 - 1
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


def varied(images: torch.Tensor, settings) -> torch.Tensor:
    """Images mirrored and augmented as the settings say; features (B, d) as they are."""
    if images.ndim == 2:
        return images
    images = augment(mirror(images) if settings.mirror else images, settings.augment)
    return images.contiguous(memory_format=torch.channels_last)


def fit(
    images, labels, classes, *, whole=False, patients=None, settings=None, multilabel=False,
    seed=0, progress=False, device=None, start=None, **changes,
) -> Classifier:  # fmt: skip
    """A classifier from images (N, 1 or 3, H, W), uint8 or float in [-1, 1], and their labels.

    labels: names out of `classes`, or their numbers (N,); multilabel: 0/1 (N, K). whole=True
    fine-tunes the whole network for `settings.steps` steps, the same number for few images and
    for many; of features (N, d) what follows the backbone. whole=False fits a logistic regression
    on standardised features of the frozen ImageNet backbone; its strength is chosen by
    cross-validation that keeps `patients` (N,) together, and `images` may be features (N, d) that
    `Classifier.features` made before: then a fit costs a second. `device` is where that happens
    (None: a GPU if there is one); what comes before a launch on several GPUs must name "cpu".
    `start` is a classifier to go on from. `changes` are fields of ClassifierSettings, such as
    steps=100.

    The result depends on the arguments alone and leaves torch's random state as it was.
    ValueError for a label that is no class, or a class without an image.
    """
    if whole and settings is None:
        changes = SHORT | changes
    settings = replace(
        settings or ClassifierSettings(), classes=tuple(classes), multilabel=multilabel, seed=seed,
        **changes,
    )  # fmt: skip
    labels = numbered(labels, settings.classes, multilabel)
    if len(labels) != len(images):
        raise ValueError(f"{len(images)} images but {len(labels)} labels")
    with seeded(seed):
        levels = levels_of(images) if whole else None
        method = Classification(settings, labels, shown=levels, start=start)
        if whole:
            draw = partial(batches, levels, settings.batch_size, labels=labels, seed=settings.seed)
            run_steps(method, draw, features=levels.ndim == 2, progress=progress)
        classifier = Classifier(method.averaged, method.architecture["arguments"])
        if whole:
            return classifier
    classifier.network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    rows = images if np.ndim(images) == 2 else classifier.features(images)
    weight, bias = linear_head(np.asarray(rows), labels, patients, seed=seed)
    classifier.network.head.weight.copy_(torch.from_numpy(weight))
    classifier.network.head.bias.copy_(torch.from_numpy(bias))
    return classifier


def centre(network: Network, arguments: dict, shown, most=512) -> None:
    """Fit the embedding's centre and scale to (up to) ``most`` of the images or features."""
    levels = levels_of(shown)
    some = levels[:: -(-len(levels) // most)]
    rows = some if some.ndim == 2 else Classifier(network, arguments).features(some)
    network.embedding.fit(torch.from_numpy(rows))


def numbered(labels, classes, multilabel=False) -> np.ndarray:
    """Labels as numbers: int64 (N,) in the order of `classes`, or float32 0/1 (N, K)."""
    labels, classes = np.asarray(labels), [str(c) for c in classes]
    if multilabel:
        wanted = (len(labels), len(classes))
        if labels.shape != wanted or not np.isin(labels, (0, 1)).all():
            raise ValueError(f"Labels must be 0/1 of shape {wanted}, not {labels.shape}")
        labels = labels.astype(np.float32)
        missing = [c for c, share in zip(classes, labels.mean(0)) if share in (0, 1)]
    else:
        index = {name: i for i, name in enumerate(classes)} | {i: i for i in range(len(classes))}
        if unknown := set(labels.tolist()) - index.keys():
            raise ValueError(f"Label {min(unknown)} is none of the classes {', '.join(classes)}")
        labels = np.array([index[label] for label in labels.tolist()], np.int64)
        missing = [c for i, c in enumerate(classes) if i not in labels]
    if missing:
        raise ValueError(
            f"{len(labels)} images without contrast: all or none of them are {', '.join(missing)}"
        )
    return labels


@contextmanager
def seeded(seed: int):
    """torch's random numbers from ``seed`` on, and afterwards as if nothing had been drawn.

    A GPU that was never used stays so: a notebook may not touch one before it launches processes.
    """
    with torch.random.fork_rng(devices=None if torch.cuda.is_initialized() else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def without_gpu():
    """torch's optimizers ask CUDA at every step whether it records a graph, which begins a context
    and spoils every process that is forked later. Here they are told that there is none."""
    asked, torch.cuda.is_available = torch.cuda.is_available, lambda: False
    try:
        yield
    finally:
        torch.cuda.is_available = asked


class OneProcess:
    """What a method's step asks of an accelerator, for features: the CPU and single precision."""

    num_processes, device, autocast = 1, torch.device("cpu"), nullcontext

    @staticmethod
    def backward(loss):
        loss.backward()


def run_steps(method, draw, *, features=False, progress=False):
    """The steps of ``method`` without a run's folder: hundreds of small fits need no checkpoints.

    ``draw(device=)`` is an endless iterator of batches; ``features``: of features, not images.
    """
    s, accelerator = method.settings, OneProcess
    if not features:
        AcceleratorState._reset_state()  # an earlier fit may have had another precision
        precision = choose_precision(s.precision)
        accelerator = Accelerator(mixed_precision={"fp32": "no"}.get(precision, precision))
        for network in method.networks.values():
            network.to(accelerator.device, memory_format=torch.channels_last)
        method.optimizers = {
            name: accelerator.prepare_optimizer(o) for name, o in method.optimizers.items()
        }
    stream, threads = draw(device=accelerator.device), torch.get_num_threads()
    if features:  # matrices this small gain nothing by several threads, and suffer beside others
        torch.set_num_threads(1)
    with without_gpu() if features else nullcontext():
        for _ in trange(s.steps, desc="classifier", disable=not progress):
            method.step(next(stream), accelerator)
    torch.set_num_threads(threads)


def levels_of(images) -> np.ndarray:
    """What ``data.batches`` takes: features (N, d) float32, images as uint8."""
    levels = np.asarray(images)
    if levels.ndim == 2:
        return levels.astype(np.float32)
    if levels.dtype != np.uint8:
        levels = ((levels + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    return levels


def linear_head(features, labels, patients=None, *, seed=0):
    """Logistic regression on standardised features (N, d) as weight (K, d) and bias (K,), float32.

    Labels as `numbered` gives them. C is the one of STRENGTHS with the best log-likelihood on
    held-out patients; the middle one where some class has fewer than two patients.
    """
    if labels.ndim == 2:
        heads = [linear_head(features, c.astype(np.int64), patients, seed=seed) for c in labels.T]
        return np.stack([w[1] - w[0] for w, _ in heads]), np.stack([b[1] - b[0] for _, b in heads])
    patients = np.arange(len(labels)) if patients is None else np.asarray(patients)
    model = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
    )
    folds = min(5, *(len(set(patients[labels == k])) for k in set(labels.tolist())))
    if folds > 1:
        split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        grid = {"logisticregression__C": STRENGTHS}
        model = GridSearchCV(model, grid, scoring="neg_log_loss", cv=split)
        model = model.fit(features, labels, groups=patients).best_estimator_
    else:
        model.set_params(logisticregression__C=STRENGTHS[len(STRENGTHS) // 2])
        model.fit(features, labels)
    scaler, logistic = model
    weight = logistic.coef_ / scaler.scale_
    bias = logistic.intercept_ - weight @ scaler.mean_
    if len(weight) == 1:  # two classes: the first one's logit is zero
        weight, bias = np.vstack([0 * weight, weight]), np.append(0 * bias, bias)
    return weight.astype(np.float32), bias.astype(np.float32)

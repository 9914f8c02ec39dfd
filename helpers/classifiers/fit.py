"""Small fits without a run: a classifier from images or features in seconds."""

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tqdm.auto import trange

from helpers.classifiers.classification import Classification, ClassifierSettings, levels_of
from helpers.classifiers.linear_head import label_numbers, linear_head
from helpers.classifiers.networks import Classifier
from helpers.data.batches import batches
from helpers.training.precision import choose_precision

# What `fit` fine-tunes with: 40 s of one core. By two-fold cross-validation over 38 patients
# (Noor, AMD against NORMAL, one seed) AUROC 0.946; 140 steps at 3e-4 0.952 (90 s), 60 at 3e-4
# 0.930; the linear head 0.921 at 224 px, 0.901 at 128 px. 224 px would take three times as long.
SHORT = {"size": 128, "steps": 60, "lr": 1e-3}


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
    labels = label_numbers(labels, settings.classes, multilabel)
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

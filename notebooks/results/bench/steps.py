"""Training steps per second: the plain recipe from image files against ours from the cache.

Each case makes two functions, ``plain`` and ``ours``, that do one step at a call, data included.
"""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from support.methods import Thumbnails, make_domains

from bench import plain, timing
from bench.materials import CLASSES, files
from helpers import config
from helpers.classifiers.networks import Classifier, Network
from helpers.data.batches import batches
from helpers.data.prepare import prepare
from helpers.distillation.distillation import Distillation
from helpers.distillation.partners import distillation_batches
from helpers.gan.gan import GAN
from helpers.gan.recipes import with_recipe
from helpers.gan.train import build_training
from helpers.training.precision import choose_precision
from helpers.translation.cut import CUT
from helpers.translation.cyclegan import CycleGAN
from helpers.translation.pix2pix import Pix2pix

IMAGES = 300  # files of each modality
LAZY = 4  # steps from one penalty of our recipes to the next: a turn has whole rounds of them
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Ours:
    """A method on its way, as ``training.loop`` runs it; ``layout`` and ``precision`` for those
    cases where nothing plain is published and the same code stands in for it."""

    def __init__(self, method, stream, precision="auto", layout=torch.channels_last):
        AcceleratorState._reset_state()
        precision = choose_precision(precision)
        accelerator = Accelerator(mixed_precision={"fp32": "no"}.get(precision, precision))
        for network in method.networks.values():
            network.to(accelerator.device, memory_format=layout)
        method.optimizers = {
            name: accelerator.prepare_optimizer(o) for name, o in method.optimizers.items()
        }
        self.method, self.stream, self.accelerator = method, stream, accelerator

    def __call__(self):
        return self.method.step(next(self.stream), self.accelerator)


def cached(place, size: int, modality="oct"):
    """What ``data.prepare`` makes of the files, uint8 (N, C, size, size)."""
    source = files(place, IMAGES, modality)
    data = prepare(source, modality=modality, class_="all", size=size, cache=place / "cache",
                   progress=False)  # fmt: skip
    return data.train.images


def from_files(place, size, batch_size, channels=1):
    modality = "oct" if channels == 1 else "dfe"
    loaded = plain.loader(files(place, IMAGES, modality), size, batch_size, channels)
    return ((images.to(DEVICE), labels.to(DEVICE)) for images, labels in loaded)


def make_gan(size: int, **settings):
    """A GAN of whole scans of one class, a DCGAN if nothing is said: what the plain way trains."""
    given = {"size": size, "model": "dcgan", "framing": "stretch", "conditional": 0, **settings}
    given = [f"--{name}={value}" for name, value in given.items()]
    settings = with_recipe(config.resolve(config.TrainGan, given, {}))
    return GAN(settings, np.zeros((2, 1, size, size), np.uint8), Thumbnails())


def dcgan(place, who, size, batch_size=64, precision="auto"):
    """The paper's networks, losses and rates on both sides."""
    method = make_gan(size, recipe="paper", batch_size=batch_size)
    if who == "plain":
        networks = [network.to(DEVICE) for network in method.networks.values()]
        return plain.dcgan_step(*networks, from_files(place, size, batch_size))
    return Ours(method, batches(cached(place, size), batch_size, device=DEVICE), precision)


def adversarial(place, who, size, model, precision="auto", **settings):
    """Our recipe on both sides, with its augmentation and lazy penalties."""
    method = make_gan(size, model=model, **settings)
    count = method.settings.batch_size
    if who == "plain":
        stream = (images for images, _ in from_files(place, size, count))
        return Ours(method, stream, "fp32", torch.contiguous_format)
    return Ours(method, batches(cached(place, size), count, device=DEVICE), precision)


def aligned(place, who, size, precision="auto", **settings):
    """What notebook 02 trains: crops of all classes, with what each looks like; its loss and its
    augmentation on both sides, and the cache as well."""
    given = [f"--data={files(place, IMAGES)}", f"--size={size}", f"--runs={place}"]
    given += [f"--{name}={value}" for name, value in settings.items()]
    settings = with_recipe(config.resolve(config.TrainGan, given, {}))
    method, draw, *_ = build_training(settings, Thumbnails(), progress=False)
    stream = draw(device=DEVICE)
    if who == "plain":
        return Ours(method, stream, "fp32", torch.contiguous_format)
    return Ours(method, stream, precision)


def cyclegan(place, who, size, width, blocks=6, precision="auto"):
    """The published networks and losses on both sides, batch 1."""
    if who == "plain":
        networks = plain.published_cyclegan(size, width, blocks).to(DEVICE)
        return plain.cyclegan_step(
            networks, from_files(place, size, 1, 3), from_files(place, size, 1)
        )
    given = [f"--size={size}", f"--width={width}", f"--blocks={blocks}", "--positions=0",
             "--network=resnet", "--batch-size=1"]  # fmt: skip
    settings = config.resolve(config.TrainCyclegan, given, {})
    domains = make_domains(paired=False)
    for data, channels in ((domains.dfe, 3), (domains.oct, 1)):
        data.validation.images = np.zeros((2, channels, size, size), np.uint8)
        data.validation.scans[:] = data.validation.scans[:1] * 2  # one class: nothing to be judged
    method = CycleGAN(settings, domains, Thumbnails())
    sides = [cached(place, size, modality) for modality in ("dfe", "oct")]
    streams = [batches(side, 1, labels=np.zeros(len(side), int), device=DEVICE) for side in sides]
    return Ours(method, zip(*streams), precision)


def translation(place, who, size, model, precision="auto"):
    """CUT or pix2pix as they are, on both sides, from the cache; batch 1."""
    paired = model == "pix2pix"
    given = [f"--size={size}", "--batch-size=1", *([] if paired else ["--model=cut"])]
    settings = config.resolve(config.TrainPix2pix if paired else config.TrainCyclegan, given, {})
    domains = make_domains(paired=paired)
    for data, channels in ((domains.dfe, 4 if paired else 3), (domains.oct, 1)):
        data.validation.images = np.zeros((2, channels, size, size), np.uint8)
        data.validation.scans[:] = data.validation.scans[:1] * 2
    method = (Pix2pix if paired else CUT)(settings, domains, Thumbnails())
    dfe, oct = (cached(place, size, modality) for modality in ("dfe", "oct"))
    labels = np.zeros(len(dfe), int)
    if paired:
        stream = batches(np.concatenate([dfe, oct], 1), 1, labels=labels, device=DEVICE)
    else:
        stream = zip(*(batches(side, 1, labels=labels, device=DEVICE) for side in (dfe, oct)))
    if who == "plain":
        return Ours(method, stream, "fp32", torch.contiguous_format)
    return Ours(method, stream, precision)


def distillation(place, who, size, batch_size=16, precision="auto"):
    """FDDM with EfficientNet-Lite0 on both sides."""
    given = [f"--size={size}", f"--batch-size={batch_size}", "--pretrained=0"]
    settings = config.resolve(config.Distil, given, {})
    about = {"backbone": settings.backbone, "size": size, "classes": list(CLASSES),
             "embedding": settings.embedding}  # fmt: skip
    teacher = Classifier(Network(**about, pretrained=False), {**about, "multilabel": False})
    method = Distillation(settings, CLASSES, teacher)
    if who == "plain":
        stream = zip(from_files(place, size, batch_size, 3), from_files(place, size, batch_size))
        return Ours(method, stream, "fp32", torch.contiguous_format)
    sides = [cached(place, size, modality) for modality in ("dfe", "oct")]
    both = [part for side in sides for part in (side, np.arange(len(side)) % 2)]
    return Ours(method, distillation_batches(*both, batch_size, device=DEVICE), precision)


def cases(precision="auto", size=None) -> dict:
    """name: (images per step, function of place and who, what differs)."""
    gpu = DEVICE.type == "cuda"
    sizes = (size,) if size else (256,) if gpu else (64, 128)
    run = f"{choose_precision(precision)}, channels last, fused Adam, cache"
    same = "the same code in float32, default layout, from files"
    found = {
        f"DCGAN, {size} px, batch 64": (64, partial(dcgan, size=size, precision=precision), run)
        for size in sizes
    }
    for model in ("dcgan", "residual", "stylegan"):
        name = f"{model} `best`, {sizes[-1]} px, batch 16"
        found[name] = (
            16, partial(adversarial, size=sizes[-1], model=model, precision=precision), same
        )  # fmt: skip
    size, width = sizes[-1], 64 if gpu else 32
    found |= {
        f"residual `best`, aligned crops of all classes, {size} px, batch 16": (
            16, partial(aligned, size=size, batch_size=16, precision=precision),
            "the same code in float32, default layout",
        ),
        f"CycleGAN, ResNet-6, width {width}, {size} px, batch 1": (
            1, partial(cyclegan, size=size, width=width, precision=precision),
            f"{run}; passes joined, InstanceNorm",
        ),
        f"distillation (FDDM), {size} px, batch 16": (
            16, partial(distillation, size=size, precision=precision), same,
        ),
    }  # fmt: skip
    for model in ("CUT", "pix2pix") if gpu or size else ():
        found[f"{model}, column network, {size} px, batch 1"] = (
            1, partial(translation, size=size, model=model, precision=precision),
            "the same code in float32, default layout",
        )  # fmt: skip
    return found


def memory(place: Path, name: str, who: str, precision: str) -> float:
    """MB of a process of its own that takes five steps, above what it had before the first.

    On a GPU, what torch allocated there. The workers of a DataLoader are not counted.
    """
    done = subprocess.run(
        [sys.executable, "-m", "bench.steps", str(place), name, who, precision],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def measure(place: Path, precision="auto") -> list[timing.Row]:
    rows = []
    for name, (count, make, differs) in cases(precision).items():
        torch.manual_seed(0)
        pair = {who: make(place, who) for who in ("plain", "ours")}
        used = tuple(memory(place, name, who, precision) for who in pair)
        rows.append(timing.compare(f"Training steps, {choose_precision(precision)}", name,
                                   "images/s", count, **pair, multiple=LAZY, memory=used,
                                   note=differs))  # fmt: skip
        print(rows[-1].cells(), flush=True)
    return rows


def main(place, name, who, precision):
    _, make, _ = cases(precision)[name]
    step = make(Path(place), who)
    before = timing.megabytes("VmRSS")
    timing.forget_peak()
    for _ in range(5):
        step()
    used = timing.megabytes("VmHWM") - before
    print(torch.cuda.max_memory_allocated() / 2**20 if DEVICE.type == "cuda" else used)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The methods for which every promise about training is tested, each in a tiny form.

A new method joins by one line in METHODS, and has to: test_training.py compares the table with what
helpers trains. Every method must take a step and go on from a checkpoint. What the loop promises of
all methods alike (it never names one) is tested for REPRESENTATIVES: the plainest, and those that
have the most to remember.
"""

from dataclasses import replace
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F

from helpers import config
from helpers.classifiers.classification import Classification, ClassifierSettings
from helpers.classifiers.networks import Classifier, Network
from helpers.data import shape
from helpers.data.batches import batches
from helpers.data.scan import Scan
from helpers.data.split import Data, Split
from helpers.data.two_modalities import Domains, paired_batches, unpaired_batches
from helpers.distillation.distillation import Distillation
from helpers.distillation.partners import distillation_batches, images_of
from helpers.gan.flow import Flow
from helpers.gan.gan import GAN
from helpers.gan.recipes import with_recipe
from helpers.training.runs import open_run
from helpers.translation.cut import CUT
from helpers.translation.cyclegan import CycleGAN
from helpers.translation.pix2pix import Pix2pix
from helpers.translation.through_evidence import ThroughEvidence

CLASSES = ("DRUSEN", "NORMAL")


def bands(count, seed):
    """Scans of 64 px with two bright bands at varying depth: the simplest of retinas."""
    rng = np.random.default_rng(seed)
    rows = np.arange(64)[None, :, None] - 28 - rng.normal(0, 4, (count, 1, 1))
    bands = 170 * np.exp(-((rows / 3) ** 2)) + 120 * np.exp(-(((rows - 14) / 2) ** 2))
    return (bands[:, None] + rng.gamma(4, 8, (count, 1, 64, 64))).clip(0, 255).astype(np.uint8)


def split(count, seed):
    scans = [Scan(f"{seed}/{i}", "oct", "bands", "DRUSEN", f"{seed}-{i}") for i in range(count)]
    return Split(bands(count, seed), scans)


def make_data():
    return Data(split(64, 1), split(24, 2), split(24, 3), "bands", "DRUSEN", "0123456789abcdef")


class Thumbnails:
    """Stands in for Features where what is measured does not matter: 64 mean grey values."""

    def to(self, device):
        return self

    def __call__(self, images):
        pixels = torch.as_tensor(images)
        pixels = pixels / 127.5 - 1 if pixels.dtype == torch.uint8 else pixels
        return F.adaptive_avg_pool2d(pixels, 8).flatten(1).cpu().numpy()


def gan_settings(folder, **changes):
    """Of whole scans and a DCGAN of one class, unless something else is asked for."""
    given = dict(preset="tiny", runs=folder, run="test", model="dcgan", framing="stretch", width=4,
                 conditional=0, precision="fp32", validation_images=8) | changes  # fmt: skip
    arguments = [f"--{name}={value}" for name, value in given.items()]
    return with_recipe(config.resolve(config.TrainGan, arguments, {}))


def gan(folder, **changes):
    settings, data = gan_settings(folder, **changes), make_data()
    conditional = settings.conditional
    torch.manual_seed(settings.seed)
    method = GAN(settings, data.validation.images, Thumbnails(), CLASSES if conditional else ())
    labels = np.arange(len(data.train)) % 2 if conditional else None
    draw = partial(batches, data.train.images, settings.batch_size, labels=labels,
                   seed=settings.seed)  # fmt: skip
    return method, draw, open_run(settings, data, {}), settings


def retinas(labels, seed):
    """Scans of 64 px that can be aligned: an ILM, and an RPE that drusen lift."""
    rng = np.random.default_rng(seed)
    x, rows, scans = np.linspace(-1, 1, 64), np.arange(64)[:, None], []
    for label in labels:
        rpe = 40 + rng.normal(0, 3) + rng.normal(0, 3) * x
        druse = 5 * np.exp(-(((x - rng.uniform(-0.6, 0.6)) / 0.12) ** 2))
        line, ilm = rpe - druse * (label == "DRUSEN"), rpe - 16 + rng.normal()
        scan = (
            15 + 75 * ((rows > ilm) & (rows < line)) + 200 * np.exp(-(((rows - line) / 1.5) ** 2))
        )
        scan += 40 * np.exp(-(rows - rpe).clip(0) / 8) * (rows > line)
        scans.append(scan * rng.gamma(8, 1 / 8, (64, 64)))
    return np.stack(scans).clip(0, 255).astype(np.uint8)[:, None]


@cache
def aligned_data():
    """Crops of 48 training scans of two classes with their shapes, and 24 whole validation scans;
    the labels of both."""
    labels, others = (np.array(CLASSES)[np.arange(count) % 2] for count in (48, 24))
    crops, shapes = zip(*(shape.align(scan[0], 64, 64) for scan in retinas(labels, 1)))
    crops, shapes = np.stack(crops)[:, None], np.stack(shapes)
    return Split(crops, [], shapes), labels, retinas(others, 2), others


def aligned_gan(folder, classes=CLASSES, **changes):
    """Crops of several classes, with what each looks like."""
    given = dict(model="residual", framing="aligned", conditional=1, dials=False)
    settings = gan_settings(folder, **given | changes)
    learned, labels, validation, others = aligned_data()
    torch.manual_seed(settings.seed)
    method = (Flow if settings.model == "flow" else GAN)(
        settings, validation, Thumbnails(), classes if settings.conditional else (),
        labels=others, shapes=shape.Shapes(learned.shapes, labels),
    )  # fmt: skip
    told = {}
    if method.looks:
        places = np.array([classes.index(label) for label in labels])
        told = {"labels": places, "looks": shape.look(learned.shapes)[:, : method.looks]}
    draw = partial(batches, learned.images, settings.batch_size, seed=settings.seed, **told)
    return method, draw, open_run(settings, make_data(), {}), settings


def classification(folder, **changes):
    given = dict(classes=("NORMAL", "DRUSEN"), backbone="test_efficientnet", pretrained=False,
                 size=64, batch_size=8, precision="fp32", runs=str(folder), run="test",
                 log_every=16, validate_every=48)  # fmt: skip
    settings = ClassifierSettings(**{**given, **changes})
    data = make_data()
    labels = [np.arange(len(side)) % 3 // 2 for side in (data.train, data.validation)]  # 2 to 1
    torch.manual_seed(settings.seed)
    method = Classification(settings, labels[0], (data.validation.images, labels[1]))
    draw = partial(batches, data.train.images, settings.batch_size, labels=labels[0],
                   seed=settings.seed)  # fmt: skip
    return method, draw, open_run(settings, data, {}), settings


def make_domains(paired):
    """Photographs that show the bands of their scans from above, in red; two classes."""
    oct = make_data()
    sides = {}
    for name in ("train", "validation", "test"):
        scans = getattr(oct, name)
        for number, scan in enumerate(scans.scans):
            scans.scans[number] = replace(scan, label=CLASSES[number % 2])
        colours = [scans.images, scans.images // 2, scans.images // 3]
        sides[name] = Split(np.concatenate(colours, 1), list(scans.scans))
    return Domains(replace(oct, **sides), oct, CLASSES, paired)


def translator(folder, *, method, cls=config.TrainCyclegan, paired=False, **changes):
    given = dict(preset="tiny", runs=folder, run="test", precision="fp32", batch_size=8,
                 log_every=16, validate_every=48, steps=12, ema_half_life=20) | changes  # fmt: skip
    settings = config.resolve(cls, [f"--{name}={value}" for name, value in given.items()], {})
    domains = make_domains(paired)
    torch.manual_seed(settings.seed)
    made = method(settings, domains, Thumbnails())
    draw = partial(paired_batches if paired else unpaired_batches, domains, settings.batch_size,
                   seed=settings.seed)  # fmt: skip
    return made, draw, open_run(settings, domains.oct, {}), settings


def distillation(folder, **changes):
    given = dict(preset="tiny", runs=folder, run="test", precision="fp32", batch_size=8, steps=12,
                 log_every=16, validate_every=48, backbone="test_efficientnet", pretrained=0,
                 embedding=8) | changes  # fmt: skip
    settings = config.resolve(config.Distil, [f"--{n}={v}" for n, v in given.items()], {})
    domains = make_domains(paired=False)
    torch.manual_seed(settings.seed)
    about = {"backbone": settings.backbone, "size": 64, "classes": CLASSES[::-1], "embedding": 8}
    teacher = Classifier(Network(**about), {**about, "multilabel": False})
    pupils, scans = images_of(domains, "dfe", "train"), images_of(domains, "oct", "train")
    others = images_of(domains, "dfe", "validation")
    method = Distillation(settings, CLASSES, teacher, pupils.images, (others.images, others.labels))
    draw = partial(distillation_batches, pupils.images, pupils.labels, scans.images, scans.labels,
                   settings.batch_size, seed=settings.seed)  # fmt: skip
    return method, draw, open_run(settings, domains.oct, {}), settings


RESIDUAL = dict(model="residual", penalty_every=3)
STYLE = dict(model="stylegan", penalty_every=3)
FLOW = dict(model="flow", flow_steps=2, width=8)

# name: function of a folder and of settings to change -> the four arguments of train
METHODS = {
    "gan paper": partial(gan, recipe="paper"),
    "gan best": gan,
    "gan penalties": partial(gan, loss="relativistic", gamma=1, norm="none"),
    "gan residual": partial(gan, **RESIDUAL),
    "gan conditional": partial(gan, **RESIDUAL, conditional=1),
    "gan stylegan": partial(gan, **STYLE),
    "gan stylegan, conditional": partial(gan, **STYLE, conditional=1),
    "gan aligned": partial(aligned_gan, penalty_every=3),
    "flow": partial(aligned_gan, **FLOW),
    "classification": classification,
    "cyclegan": partial(translator, method=CycleGAN, network="resnet"),
    "cut": partial(translator, method=CUT, model="cut", network="column"),
    "evidence": partial(
        translator, method=ThroughEvidence, model="evidence", dfe_framing="strip", l1=10
    ),
    "distillation": distillation,
    "distillation, all at once": partial(
        distillation,
        losses="cpm=2,csa=1,kd=1,dkd=1,fitnets=1,rkd=1,sp=1",
        teacher_learns=1,
        momentum=0.9,
    ),
    "pix2pix": partial(
        translator, method=Pix2pix, cls=config.TrainPix2pix, paired=True, l1=10, network="unet"
    ),
}
# batch statistics; penalties now and then, labels and shapes; two domains and a pool of images; a
# teacher that learns too, and means over time
REPRESENTATIVES = ("gan best", "gan aligned", "cyclegan", "distillation, all at once")

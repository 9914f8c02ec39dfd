"""Settings of the notebooks: defaults < preset < environment (OCT_*) < --field=value.

One dataclass per notebook. A trailing underscore keeps a field from clashing with a Python word
and is dropped outside: ``class_`` is ``OCT_CLASS`` and ``--class``.
"""

import dataclasses
import os
import sys
from dataclasses import dataclass
from pathlib import Path

PRESETS = ("tiny", "demo", "colab", "kaggle")


@dataclass
class Explore:
    """Notebook 01."""

    preset: str = "demo"  # tiny | demo | colab | kaggle
    data: str = "simulated"  # OCT: simulated | a folder | a manifest.csv | oct2017 | octmnist
    dfe: str = "simulated"  # DFE: simulated | a folder | a manifest.csv | odir
    runs: str = "runs"  # caches and results lie here
    size: int = 256  # px, side of the square that the models see
    framing: str = "stretch"  # stretch | aspect | retina | flatten | band
    n_simulated: int = 120  # simulated patients per class
    seed: int = 0


@dataclass
class TrainGan:
    """Notebook 02."""

    preset: str = "demo"  # tiny | demo | colab | kaggle
    # data
    data: str = "simulated"  # simulated | a folder | a manifest.csv | a .npz | oct2017 | octmnist
    class_: str = "DRUSEN"  # which condition to judge, and to learn if not conditional
    classes: str = ""  # conditions to learn if conditional: NORMAL,DRUSEN; empty or all: all
    size: int = 256  # px across: 64, 128, 256 or 512
    framing: str = "aligned"  # aligned | stretch | aspect | retina | flatten | band
    n_simulated: int = 600  # simulated patients
    # where
    runs: str = "runs"
    run: str = ""  # name of the run's folder; empty: the model's name
    # what
    model: str = "residual"  # dcgan | residual | stylegan
    conditional: bool | None = None  # one network for every class; None: wherever it can be
    start: str = ""  # simulated (what ships) | a run to begin from; empty: from scratch
    recipe: str = "best"  # paper | best; a field below that is set wins over the recipe
    # below, None: as the recipe has it (helpers.recipes)
    loss: str | None = None  # bce | hinge | relativistic
    gamma: float | None = None  # weight of the gradient penalties R1 and R2; 0: off
    balance: float | None = None  # discriminator's loss that gamma is adapted to keep; 0: fixed
    penalty_every: int | None = None  # steps from one penalty to the next, weighted by as much
    penalty_fine: float | None = None  # weight of detail under 2 px in R1 and R2; 1: all alike
    z_dim: int | None = None  # length of the noise vector
    width: int | None = None  # channels next to the image, doubled with every halving
    blocks: int | None = None  # residual blocks at each resolution; stylegan: of the mapping
    blocks_discriminator: int | None = None
    upsample: str | None = None  # transposed | nearest
    norm: str | None = None  # of the discriminator: batch | none
    minibatch_std: bool | None = None  # the discriminator sees the batch's spread
    mixing: float | None = None  # share of scans with the styles of two; stylegan
    path_length: float | None = None  # weight of the path-length penalty; stylegan
    mirror: bool | None = None  # real scans are mirrored at random (right eye, left eye)
    augment: float | None = None  # share of scans shown changed to the discriminator; 0: off
    overfitting: float | None = None  # that the share is adapted to keep; 0: the share is fixed
    batch_size: int | None = None
    lr: float | None = None  # Adam's learning rate
    lr_discriminator: float | None = None  # where it differs
    beta1: float | None = None  # Adam
    beta2: float | None = None
    ema_half_life: float | None = None  # images; of the moving average of the weights; 0: none
    ema_ramp: float | None = None  # half-life at most this share of images seen; 0: no ramp
    precision: str | None = None  # auto | fp32 | bf16 | fp16
    seed: int = 0
    # how long: the first limit that is reached ends the training; 0: no such limit
    steps: int = 0
    hours: float = 0.0  # of training, over all sittings
    first_hours: float = 0.0  # before, for a DCGAN on whole scans to compare with
    patience: int = 10  # validations without a better one that end the training; 0: no end
    session_hours: float = 0.0  # ends one sitting, counted from the start of the process
    useful_images: int = 25_000  # a budget that ends before is told what to change
    processes: int = 0  # 0: one for each GPU; 2 without a GPU: two on the CPU
    # how it is watched, in images
    log_every: int = 256
    validate_every: int = 4000
    validation_images: int = 200  # synthetic scans per validation
    report_images: int = 500  # synthetic scans in the final report


@dataclass
class ExploreStyles(TrainGan):
    """Notebook 07: what notebook 02 takes, and what is explored."""

    model: str = "stylegan"
    framing: str = "stretch"  # directions and projections are of whole scans
    conditional: bool | None = False
    trainings: int = 2  # with seeds seed, seed + 1, ...: what is found has to return in the second
    trained: str = ""  # trained runs to explore in their place, separated by commas
    draws: int = 2000  # scans drawn, to which directions are fitted
    tested: int = 64  # others, on which directions are tested
    components: int = 6  # principal components of W that are looked at
    modes: int = 6  # groups of real scans
    projected: int = 8  # scans of unseen patients that are projected
    projection_steps: int = 200


@dataclass
class TrainCyclegan:
    """Notebook 03."""

    preset: str = "demo"  # tiny | demo | colab | kaggle
    # data
    data: str = "simulated"  # OCT: simulated | a folder | a manifest.csv | oct2017
    dfe: str = "simulated"  # DFE: simulated | a folder | a manifest.csv | odir
    classes: str = "NORMAL,DRUSEN"  # conditions; + joins names: NORMAL,DRUSEN+AMD+AMD_DRY
    size: int = 256  # px: 64, 128, 256 or 512
    framing: str = "band"  # of the OCT: stretch | aspect | retina | flatten | band
    dfe_framing: str = "strip"  # full | macula | strip (1 mm about the scan line)
    orient: bool = False  # left eyes are mirrored, where names tell; else all at random
    n_simulated: int = 300  # simulated patients per class
    # where
    runs: str = "runs"
    run: str = ""  # name of the run's folder; empty: the model's name
    # what
    model: str = "cyclegan"  # cyclegan | cut
    network: str = "column"  # of the generators: resnet (published) | column
    width: int = 64  # channels next to the image
    blocks: int = 9  # residual blocks of the ResNets
    positions: bool = True  # the ResNets see the row and the column
    cycle: float = 10.0  # weight of the cycle; cyclegan
    identity: float = 0.5  # weight of the identity, as a share of the cycle's; cut: 0 is off
    cycle_noise: float = 0.0  # on the picture in the middle of the cycle, in [-1, 1]; cyclegan
    nce: float = 1.0  # weight of the contrast; cut
    contrast: str = "column"  # what is contrasted: pixel | column; cut
    class_weight: float = 0.0  # of a frozen reader that has to read the photograph's class
    pool: int = 50  # images drawn before, of each side; cyclegan
    batch_size: int = 1
    lr: float = 2e-4
    beta1: float = 0.5
    decay: float = 0.5  # share of the steps, at the end, in which the rate falls to zero
    ema_half_life: float = 2000.0  # images; of the moving average of the weights; 0: none
    ema_ramp: float = 0.05
    precision: str = "auto"  # auto | fp32 | bf16 | fp16
    seed: int = 0
    # how long: the first limit that is reached ends the training; 0: no such limit
    steps: int = 0
    hours: float = 0.0
    patience: int = 12  # validations without a better one that end the training; 0: no end
    session_hours: float = 0.0
    processes: int = 0
    # how it is watched, in images
    log_every: int = 100
    validate_every: int = 2000

    @property
    def class_(self) -> str:
        return self.classes


@dataclass
class TrainPix2pix:
    """Notebook 06."""

    preset: str = "demo"  # tiny | demo | colab | kaggle
    # data
    data: str = "simulated"  # OCT: simulated | a folder | a manifest.csv
    dfe: str = "simulated"  # DFE of the same eyes, under the same names
    classes: str = "NORMAL,DRUSEN"  # conditions; + joins names
    size: int = 256  # px: 64, 128, 256 or 512
    framing: str = "band"  # of the OCT: stretch | aspect | retina | flatten | band
    dfe_framing: str = "strip"  # full | macula | strip (1 mm about the scan line)
    orient: bool = False  # left eyes are mirrored, where names tell; else all at random
    n_simulated: int = 300  # simulated patients per class
    # where
    runs: str = "runs"
    run: str = "pix2pix"
    # what
    network: str = "column"  # of the generator: unet (published) | column
    width: int = 64  # channels next to the image
    positions: bool = False  # the U-Net sees the row and the column
    skips: str = "column"  # of the U-Net: pixel (published) | column
    l1: float = 100.0  # weight of the absolute error
    batch_size: int = 1
    lr: float = 2e-4
    beta1: float = 0.5
    decay: float = 0.5
    ema_half_life: float = 2000.0
    ema_ramp: float = 0.05
    precision: str = "auto"  # auto | fp32 | bf16 | fp16
    seed: int = 0
    # how long
    steps: int = 0
    hours: float = 0.0
    patience: int = 12
    session_hours: float = 0.0
    processes: int = 0
    # how it is watched, in images
    log_every: int = 100
    validate_every: int = 2000

    @property
    def class_(self) -> str:
        return self.classes


@dataclass
class Distil:
    """Notebook 04."""

    preset: str = "demo"  # tiny | demo | colab | kaggle
    # data
    data: str = "simulated"  # OCT: simulated | a folder | a manifest.csv | oct2017
    dfe: str = "simulated"  # DFE: simulated | a folder | a manifest.csv | odir
    classes: str = "NORMAL,DRUSEN,DME"  # conditions; + joins names: DME+DR
    multilabel: bool = False  # one yes or no for each class, instead of one class out of all
    size: int = 224  # px
    framing: str = "stretch"  # of the OCT: stretch | aspect | retina | flatten | band
    dfe_framing: str = "full"  # full | macula | strip (1 mm about the scan line)
    orient: bool = False
    n_simulated: int = 150  # simulated patients per class
    most: int = 0  # images of each modality and side of the split, at most; 0: all
    # where
    runs: str = "runs"
    run: str = "distillation"
    # what
    direction: str = "oct_to_dfe"  # the teacher's modality, then the student's; or dfe_to_oct
    losses: str = "cpm=2,csa=1"  # of cpm, csa, kd, dkd, fitnets, rkd, sp, simkd; empty: none
    draws: str = "label"  # label (of the same label) | independent | eye (pairs)
    temperature: float = 4.0
    gate: bool = False  # distil only classes in which the teacher beats the student on the batch
    teacher: str = ""  # a trained classifier: its run's folder or file; empty: trained here
    teacher_learns: bool = False  # the teacher goes on learning beside the student
    momentum: float = 0.0  # of the classes' means; 0: those of the batch alone
    smoothing: float = 0.0  # share of each label given to all classes alike
    backbone: str = "tf_efficientnet_lite0"  # of the student: any name timm knows
    teacher_backbone: str = "tf_efficientnet_lite0"
    pretrained: bool = True  # start from ImageNet; others than the default need a network
    embedding: int = 256  # numbers between backbone and head, compared by the losses
    dropout: float = 0.5  # before the head
    mirror: bool = True
    augment: float = 0.5  # share of the images shifted, tilted, brightened
    batch_size: int = 32
    lr: float = 1e-4  # AdamW's, after a warm-up; falls to zero along a cosine
    weight_decay: float = 0.05
    precision: str = "auto"  # auto | fp32 | bf16 | fp16
    seed: int = 0
    # the comparison of all methods on frozen features
    screen_steps: int = 500
    screen_lr: float = 2e-4
    screen_weight_decay: float = 10.0
    folds: int = 5
    seeds: int = 3
    arm: str = ""  # of the comparison, which is then fine-tuned; empty: the best one
    # how long the fine-tuning takes; 0: no such limit
    steps: int = 300
    hours: float = 0.0
    patience: int = 0
    session_hours: float = 0.0
    processes: int = 0
    ema_half_life: float = 0.0
    ema_ramp: float = 0.0
    # how it is watched, in images
    log_every: int = 320
    validate_every: int = 3200

    @property
    def class_(self) -> str:
        return self.classes


@dataclass
class Evaluate:
    """Notebook 05."""

    preset: str = "demo"  # tiny | demo | colab | kaggle
    # what is compared
    data: str = "simulated"  # real scans: simulated | a folder | a manifest.csv | oct2017
    class_: str = "DRUSEN"  # which condition, where the source has several
    synthetic: str = ""  # a run, or a folder of images; empty: the run below
    contrast: str = ""  # the same of another class, by the same recipe; empty: trained if need be
    size: int = 256  # px, at least, of the real scans that are measured against
    framing: str = "stretch"  # stretch | aspect | retina | flatten | band
    n_simulated: int = 600  # simulated patients
    # where
    runs: str = "runs"
    run: str = ""  # name of the run to judge; empty: the newest, trained now if there is none
    # how
    classifier: str = "linear"  # linear (head on ImageNet features) | whole (fine-tuned, slow)
    report_images: int = 500  # synthetic scans
    reading_scans: int = 20  # real ones in the reading test, and as many synthetic ones
    seed: int = 0


PRESET_VALUES = {
    "Explore": {
        "tiny": dict(size=64, n_simulated=8),
        "demo": dict(),
        "colab": dict(data="oct2017", dfe="odir"),
        "kaggle": dict(data="oct2017", dfe="odir"),
    },
    "TrainGan": {
        "tiny": dict(size=64, n_simulated=24, width=8, batch_size=8, steps=12, log_every=16,
                     validate_every=48, validation_images=8, report_images=16),
        "demo": dict(size=128, classes="NORMAL,DRUSEN", n_simulated=200, hours=0.085,
                     first_hours=0.015, validate_every=8000, validation_images=100),
        "colab": dict(data="oct2017", classes="NORMAL,DRUSEN", hours=2.9, first_hours=0.1,
                      log_every=4000, validate_every=80_000),
        "kaggle": dict(data="oct2017", classes="NORMAL,DRUSEN", hours=10.2, first_hours=0.3,
                       session_hours=11.5, log_every=6000, validate_every=160_000),
    },
    "ExploreStyles": {
        "tiny": dict(size=64, n_simulated=24, width=4, batch_size=8, steps=4, log_every=16,
                     validate_every=48, validation_images=8, report_images=40, draws=120, tested=8,
                     components=2, modes=2, projected=2, projection_steps=4,
                     trained="styles-0,styles-1"),
        "demo": dict(size=128, n_simulated=300, hours=0.2, validate_every=6000,
                     validation_images=100, draws=1500, tested=48),
        "colab": dict(data="oct2017", hours=1.5, log_every=4000, validate_every=40_000),
        "kaggle": dict(data="oct2017", hours=5.2, session_hours=11.5, log_every=6000,
                       validate_every=60_000),
    },
    "TrainCyclegan": {
        "tiny": dict(size=64, n_simulated=10, width=4, blocks=1, steps=6, log_every=2,
                     validate_every=4),
        "demo": dict(size=64, width=16, blocks=6, batch_size=4, hours=0.12, log_every=200,
                     validate_every=3000),
        "colab": dict(data="oct2017", dfe="odir", classes="NORMAL,DRUSEN+AMD_DRY", batch_size=4,
                      hours=3.0, log_every=1000, validate_every=10_000),
        "kaggle": dict(data="oct2017", dfe="odir", classes="NORMAL,DRUSEN+AMD_DRY", batch_size=4,
                       hours=10.5, session_hours=11.5, log_every=1000, validate_every=20_000),
    },
    "TrainPix2pix": {
        "tiny": dict(size=64, n_simulated=10, width=4, steps=6, log_every=2, validate_every=4),
        "demo": dict(size=64, width=16, batch_size=4, hours=0.12, log_every=200,
                     validate_every=3000),
        "colab": dict(batch_size=4, hours=2.0, log_every=1000, validate_every=10_000),
        "kaggle": dict(batch_size=4, hours=6.0, session_hours=11.5, log_every=1000,
                       validate_every=20_000),
    },
    "Distil": {
        "tiny": dict(size=64, n_simulated=12, batch_size=8, embedding=16, screen_steps=4, folds=2,
                     seeds=1, steps=4, log_every=8, validate_every=16),
        "demo": dict(size=128, dfe_framing="macula", screen_steps=200, seeds=1, steps=100),
        "colab": dict(data="oct2017", dfe="odir", classes="NORMAL,DRUSEN+AMD_DRY,DME+DR",
                      most=6000, steps=3000),
        "kaggle": dict(data="oct2017", dfe="odir", classes="NORMAL,DRUSEN+AMD_DRY,DME+DR",
                       most=6000, steps=3000, session_hours=11.5),
    },
    "Evaluate": {
        "tiny": dict(n_simulated=24, report_images=16, reading_scans=1),
        "demo": dict(n_simulated=200),
        "colab": dict(data="oct2017", classifier="whole", report_images=1000),
        "kaggle": dict(data="oct2017", classifier="whole", report_images=1000),
    },
}  # fmt: skip
PATHS = ("data", "dfe", "runs", "synthetic", "contrast", "teacher", "trained", "start")
NOTEBOOKS = (Explore, TrainGan, TrainCyclegan, Distil, Evaluate, TrainPix2pix, ExploreStyles)


def root() -> Path:
    """The repository's root, where pyproject.toml lies; the current folder if there is none."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").exists() and (folder / "helpers").is_dir():
            return folder
    return here


def resolve(settings_class, argv: list[str] | None = None, environ=None):
    """An instance of ``settings_class`` from its preset, the environment and the command line.

    ``argv`` defaults to the script's arguments, and to nothing inside a notebook. Paths that are
    given relative start at the repository's root. Raises ValueError naming a field that no
    notebook knows, in ``argv`` one that this one does not take, or a value of the wrong type.
    """
    environ = os.environ if environ is None else environ
    if argv is None:
        argv = [] if "ipykernel" in sys.modules else sys.argv[1:]
    everywhere = {_outside(f.name) for cls in NOTEBOOKS for f in dataclasses.fields(cls)}
    mine = {_outside(field.name): field for field in dataclasses.fields(settings_class)}

    given = {}
    for name, text in environ.items():
        if name.startswith("OCT_") and text:
            given[name] = (name.removeprefix("OCT_").lower(), text)
    for argument in argv:
        name, equals, text = argument.removeprefix("--").partition("=")
        if not (argument.startswith("--") and equals):
            raise ValueError(f"{argument!r}: write settings as --field=value.")
        given[f"--{name}"] = (name.replace("-", "_"), text)

    values = {}
    for shown, (name, text) in given.items():
        if name not in everywhere:
            raise ValueError(
                f"{shown}: no notebook has this setting. This one takes {', '.join(sorted(mine))}."
            )
        if name not in mine and shown.startswith("--"):  # the environment is for all of them
            raise ValueError(
                f"{shown}: a setting of another notebook. This one takes {', '.join(sorted(mine))}."
            )
        if name in mine:
            values[mine[name].name] = _convert(shown, text, mine[name].type)
    preset = values.get("preset", settings_class.preset)
    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r}: choose one of {', '.join(PRESETS)}.")
    values = {**PRESET_VALUES[settings_class.__name__][preset], **values}
    settings = settings_class(**values)
    for name in PATHS:
        if getattr(settings, name, ""):
            value = getattr(settings, name)
            several = value.split(",") if name == "trained" else [value]
            setattr(settings, name, ",".join(_from_root(one, name) for one in several))
    return settings


def shown(path) -> str:
    """A path as people read it: from the repository's root, where it lies below it."""
    path = Path(path)
    return str(path.relative_to(root())) if path.is_relative_to(root()) else str(path)


def show(settings) -> str:
    """The settings as aligned lines, those that differ from the class's defaults marked by *."""
    lines = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        mark = " " if value == field.default else "*"
        if field.name in PATHS and value:
            value = ",".join(map(shown, value.split(",") if field.name == "trained" else [value]))
        lines.append(f"{mark} {_outside(field.name):18} {value}")
    return "\n".join(lines)


def _outside(name: str) -> str:
    return name.rstrip("_")


def _convert(shown: str, text: str, kind):
    kind = getattr(kind, "__args__", [kind])[0]  # "float | None" takes a float
    try:
        if kind is bool:
            return {"1": True, "true": True, "0": False, "false": False}[text.lower()]
        return kind(text)
    except (KeyError, ValueError):
        takes = {int: "a whole number", float: "a number", bool: "1 or 0"}[kind]
        raise ValueError(f"{shown}={text!r}: this setting takes {takes}.") from None


def _from_root(value: str, name: str) -> str:
    """Names of sources stay; paths become absolute."""
    path = Path(value).expanduser()
    is_path = name == "runs" or "/" in value or value.endswith(".csv") or (root() / path).exists()
    return str(root() / path) if is_path else value

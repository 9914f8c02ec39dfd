"""Settings of the notebooks: defaults < preset < environment (OCT_*) < --field=value.

``python notebooks/02_train_dcgan.py --help`` lists those of one notebook.

One dataclass per notebook. A trailing underscore keeps a field from clashing with a Python word
and is dropped outside: ``class_`` is ``OCT_CLASS`` and ``--class``.
"""

import dataclasses
import inspect
import math
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

PRESETS = ("tiny", "demo", "colab", "kaggle")


@dataclass
class Common:
    """What every notebook takes."""

    preset: str = "demo"  # tiny | demo | colab | kaggle
    data: str = "simulated"  # OCT: simulated | a folder | a manifest.csv | a .npz | oct2017
    runs: str = "runs"  # caches and results lie here
    size: int = 256  # px across
    framing: str = "stretch"  # of the OCT: stretch | band
    patient: str = ""  # regular expression that finds the person in a path, where folders do not
    every: int = 1  # of a volume, every n-th B-scan
    split: str = "patients"  # patients | volumes (one person may then lie on two sides)
    n_simulated: int = 300  # simulated patients per class
    seed: int = 0  # another one, other draws


@dataclass
class Training(Common):
    """What everything that trains takes. The first limit that is reached ends it; 0: no such."""

    run: str = ""  # name of the run's folder; empty: the model's name
    steps: int = 0  # updates of the weights
    hours: float = 0.0  # of training, over all sittings
    patience: int = 0  # validations without a better one that end the training
    session_hours: float = 0.0  # ends one sitting, counted from the start of the process
    processes: int = 0  # 0: one for each GPU; 2 without a GPU: two on the CPU
    batch_size: int | None = None  # images of one process in a step
    lr: float | None = None  # Adam's learning rate
    ema_half_life: float | None = None  # images; of the moving average of the weights; 0: none
    ema_ramp: float | None = None  # half-life at most this share of images seen; 0: no ramp
    precision: str | None = None  # auto | fp32 | bf16 | fp16
    log_every: int = 256  # images from one line of the log to the next
    validate_every: int = 4000  # images from one validation to the next


@dataclass
class Explore(Common):
    """Notebook 01."""

    dfe: str = "simulated"  # DFE: simulated | a folder | a manifest.csv | odir
    n_simulated: int = 120  # simulated patients per class


@dataclass
class TrainGan(Training):
    """Notebook 02."""

    class_: str = "DRUSEN"  # which condition to judge, and to learn if not conditional
    classes: str = ""  # conditions to learn if conditional: NORMAL,DRUSEN; empty or all: all
    size: int = 256  # px across: 64, 128, 256 or 512
    framing: str = "aligned"  # aligned | stretch | band
    n_simulated: int = 600  # simulated patients
    model: str = "residual"  # dcgan | residual | stylegan | flow (notebook 08)
    conditional: bool | None = None  # one network for every class; None: wherever it can be
    dials: bool | None = None  # networks are told the drusen the ruler reads; None: if simulated
    start: str = ""  # simulated (what ships) | a run to begin from; empty: from scratch
    recipe: str = "best"  # paper | best; a field below that is set wins over the recipe
    # None: as the recipe has it (helpers.gan.recipes)
    loss: str | None = None  # bce | hinge | relativistic
    gamma: float | None = None  # weight of the gradient penalties R1 and R2; 0: off
    balance: float | None = None  # discriminator's loss that gamma is adapted to keep; 0: fixed
    penalty_every: int | None = None  # steps from one penalty to the next, weighted by as much
    penalty_fine: float | None = None  # weight of detail under 2 px in R1 and R2; 1: all alike
    z_dim: int | None = None  # length of the noise vector
    width: int | None = None  # channels next to the image, doubled with every halving
    blocks: int | None = None  # residual blocks at each resolution; stylegan: of the mapping
    flow_steps: int | None = None  # of a flow: steps from noise to a scan
    norm: str | None = None  # of the discriminator: batch | none
    mirror: bool | None = None  # real scans are mirrored at random (right eye, left eye)
    augment: float | None = None  # share of scans that are shown changed; 0: off
    lr_discriminator: float | None = None  # its learning rate
    beta1: float | None = None  # Adam's memory of gradients
    beta2: float | None = None  # ... and of their squares
    first_hours: float = 0.0  # before, for a DCGAN on whole scans to compare with
    patience: int = 10  # validations without a better one that end the training; 0: no end
    useful_images: int = 25_000  # a budget that ends before is told what to change
    validation_images: int = 200  # synthetic scans per validation
    report_images: int = 500  # synthetic scans in the final report


@dataclass
class ExploreStyles(TrainGan):
    """Notebook 07: what notebook 02 takes, and what is explored."""

    model: str = "stylegan"  # whose styles are explored
    framing: str = "stretch"  # directions and projections are of whole scans
    conditional: bool | None = False  # one class alone
    n_runs: int = 2  # with seeds seed, seed + 1, ...: what is found has to return in the second
    existing_runs: str = ""  # trained ones to explore in their place, separated by commas
    n_drawn: int = 2000  # scans drawn, to which directions are fitted
    n_test: int = 64  # others, on which directions are tested
    n_components: int = 6  # principal components of W that are looked at
    n_modes: int = 6  # groups of real scans
    n_projected: int = 8  # scans of unseen patients that are projected
    projection_steps: int = 200  # of Adam, for one scan


@dataclass
class TrainFlow(TrainGan):
    """Notebook 08: what notebook 02 takes, of a flow."""

    model: str = "flow"  # flow alone
    edit_time: float = 0.3  # how much of a scan is kept when it is edited: 0 nothing, 1 all


@dataclass
class Translation(Training):
    """What notebooks 03 and 06 take alike."""

    dfe: str = "simulated"  # DFE: simulated | a folder | a manifest.csv | odir
    classes: str = "NORMAL,DRUSEN"  # conditions; + joins names: NORMAL,DRUSEN+AMD+AMD_DRY
    size: int = 256  # px: 64, 128, 256 or 512
    framing: str = "band"  # of the OCT: stretch | band
    dfe_framing: str = "strip"  # full | macula | strip (1 mm about the scan line)
    orient: bool = False  # left eyes are mirrored, where names tell; else all at random
    network: str = "column"  # of the generators: column | resnet (03) | unet (06), as published
    width: int = 64  # channels next to the image
    batch_size: int = 1  # images of one process in a step
    lr: float = 2e-4  # Adam's learning rate
    beta1: float = 0.5  # Adam's memory of gradients
    decay: float = 0.5  # share of the steps, at the end, in which the rate falls to zero
    ema_half_life: float = 2000.0  # images; of the moving average of the weights; 0: none
    ema_ramp: float = 0.05  # half-life at most this share of images seen; 0: no ramp
    precision: str = "auto"  # auto | fp32 | bf16 | fp16
    patience: int = 12  # validations without a better one that end the training; 0: no end
    log_every: int = 100  # images from one line of the log to the next
    validate_every: int = 2000  # images from one validation to the next

    @property
    def class_(self) -> str:
        return self.classes


@dataclass
class TrainCyclegan(Translation):
    """Notebook 03."""

    model: str = "cyclegan"  # cyclegan | cut | evidence
    blocks: int = 9  # residual blocks of the ResNets
    positions: bool = True  # the ResNets see the row and the column
    cycle: float = 10.0  # weight of the cycle; cyclegan
    identity: float = 0.5  # weight of the identity, as a share of the cycle's; cut: 0 is off
    nce: float = 1.0  # weight of the contrast; cut
    contrast_places: str = "column"  # what is contrasted: pixel | column; cut
    pool: int = 50  # images drawn before, of each side; cyclegan
    evidence_steps: int = 300  # that teach where in an image its class shows; evidence
    drawing_steps: int = 2600  # of drawing from the evidence, beside model; 0: not trained
    l1: float = 400.0  # weight of the absolute error; evidence


@dataclass
class TrainPix2pix(Translation):
    """Notebook 06."""

    dfe: str = "simulated"  # DFE of the same eyes, under the same names
    run: str = "pix2pix"  # name of the run's folder
    positions: bool = False  # the U-Net sees the row and the column
    skips: str = "column"  # of the U-Net: pixel (published) | column
    l1: float = 100.0  # weight of the absolute error


@dataclass
class Distil(Training):
    """Notebook 04."""

    dfe: str = "simulated"  # DFE: simulated | a folder | a manifest.csv | odir
    classes: str = "NORMAL,DRUSEN,DME"  # conditions; + joins names: DME+DR
    multilabel: bool = False  # one yes or no for each class, instead of one class out of all
    size: int = 224  # px
    dfe_framing: str = "full"  # full | macula | strip (1 mm about the scan line)
    orient: bool = False  # left eyes are mirrored, where names tell; else all at random
    n_simulated: int = 150  # simulated patients per class
    max_images: int = 0  # images of each modality and side of the split, at most; 0: all
    run: str = "distillation"  # name of the run's folder
    direction: str = "oct_to_dfe"  # the teacher's modality, then the student's; or dfe_to_oct
    losses: str = "cpm=2,csa=1"  # of cpm, csa, kd, dkd, fitnets, rkd, sp, simkd; or none
    partners: str = "label"  # label (of the same label) | independent | eye (pairs)
    temperature: float = 4.0  # of cpm, csa, kd and dkd
    gate: bool = False  # distil only classes in which the teacher beats the student on the batch
    teacher: str = ""  # a trained classifier: its run's folder or file; empty: trained here
    teacher_learns: bool = False  # the teacher goes on learning beside the student
    momentum: float = 0.0  # of the classes' means; 0: those of the batch alone
    smoothing: float = 0.0  # share of each label given to all classes alike
    backbone: str = "tf_efficientnet_lite0"  # of the student: any name timm knows
    teacher_backbone: str = "tf_efficientnet_lite0"  # any name timm knows
    pretrained: bool = True  # start from ImageNet; others than the default need a network
    embedding: int = 256  # numbers between backbone and head, compared by the losses
    dropout: float = 0.5  # before the head
    mirror: bool = True  # left to right at random: a right eye becomes a left one
    augment: float = 0.5  # share of the images shifted, tilted, brightened
    batch_size: int = 32  # images of one process in a step
    lr: float = 1e-4  # AdamW's, after a warm-up; falls to zero along a cosine
    weight_decay: float = 0.05  # AdamW's
    precision: str = "auto"  # auto | fp32 | bf16 | fp16
    screen_steps: int = 500  # of the comparison of all methods on frozen features
    screen_lr: float = 2e-4  # its learning rate
    screen_weight_decay: float = 10.0  # and its AdamW's
    folds: int = 5  # over patients, of the comparison
    seeds: int = 3  # of each method of the comparison
    arm: str = ""  # of the comparison, which is then fine-tuned; empty: the best one
    steps: int = 300  # of the fine-tuning; 0: no such limit
    ema_half_life: float = 0.0  # images; of the moving average of the weights; 0: none
    ema_ramp: float = 0.0  # half-life at most this share of images seen; 0: no ramp
    log_every: int = 320  # images from one line of the log to the next
    validate_every: int = 3200  # images from one validation to the next

    @property
    def class_(self) -> str:
        return self.classes


@dataclass
class Evaluate(Common):
    """Notebook 05."""

    class_: str = "DRUSEN"  # which condition, where the source has several
    synthetic: str = ""  # a run, or a folder of images; empty: the run below
    contrast_run: str = ""  # the same recipe on another class; empty: trained if need be
    size: int = 256  # px, at least, of the real scans that are measured against
    n_simulated: int = 600  # simulated patients
    run: str = ""  # name of the run to judge; empty: the newest, trained now if there is none
    classifier: str = "linear"  # linear (head on ImageNet features) | whole (fine-tuned, slow)
    report_images: int = 500  # synthetic scans
    reading_scans: int = 20  # real ones in the reading test, and as many synthetic ones


PRESET_VALUES = {
    "Explore": {
        "tiny": dict(size=64, n_simulated=8),
        "demo": dict(),
        "colab": dict(data="oct2017", dfe="odir"),
        "kaggle": dict(data="oct2017", dfe="odir"),
    },
    "TrainGan": {
        "tiny": dict(size=64, n_simulated=12, width=8, batch_size=8, steps=12, log_every=16,
                     validate_every=48, validation_images=8, report_images=16),
        "demo": dict(size=128, classes="NORMAL,DRUSEN", n_simulated=200, hours=0.09,
                     first_hours=0.01, validate_every=8000, validation_images=100),
        "colab": dict(data="oct2017", classes="NORMAL,DRUSEN", hours=2.9, first_hours=0.1,
                      log_every=4000, validate_every=80_000),
        "kaggle": dict(data="oct2017", classes="NORMAL,DRUSEN", hours=10.2, first_hours=0.3,
                       session_hours=11.5, log_every=6000, validate_every=160_000),
    },
    "ExploreStyles": {
        "tiny": dict(size=64, n_simulated=12, width=4, batch_size=8, steps=4, log_every=16,
                     validate_every=48, validation_images=8, report_images=40, n_drawn=120,
                     n_test=4, n_components=2, n_modes=2, n_projected=2, projection_steps=4,
                     existing_runs="styles-0,styles-1"),
        "demo": dict(size=128, n_simulated=300, hours=0.2, validate_every=6000,
                     validation_images=100, n_drawn=1500, n_test=48),
        "colab": dict(data="oct2017", hours=1.5, log_every=4000, validate_every=40_000),
        "kaggle": dict(data="oct2017", hours=5.2, session_hours=11.5, log_every=6000,
                       validate_every=60_000),
    },
    "TrainFlow": {
        "tiny": dict(size=64, n_simulated=12, width=8, batch_size=8, steps=12, log_every=16,
                     validate_every=48, validation_images=8, report_images=16, flow_steps=2),
        "demo": dict(size=64, classes="NORMAL,DRUSEN", n_simulated=200, hours=0.17,
                     validate_every=8000, validation_images=60, report_images=200),
        "colab": dict(data="oct2017", classes="NORMAL,DRUSEN", hours=2.9, log_every=4000,
                      validate_every=80_000),
        "kaggle": dict(data="oct2017", classes="NORMAL,DRUSEN", hours=10.5, session_hours=11.5,
                       log_every=6000, validate_every=160_000),
    },
    "TrainCyclegan": {
        "tiny": dict(size=64, n_simulated=10, width=4, blocks=1, steps=6, log_every=2,
                     validate_every=4, evidence_steps=6, drawing_steps=6),
        "demo": dict(size=64, width=16, blocks=6, batch_size=4, hours=0.12, log_every=200,
                     validate_every=3000),
        "colab": dict(data="oct2017", dfe="odir", classes="NORMAL,DRUSEN+AMD_DRY", batch_size=4,
                      hours=2.0, drawing_steps=20_000, log_every=1000,
                      validate_every=10_000),
        "kaggle": dict(data="oct2017", dfe="odir", classes="NORMAL,DRUSEN+AMD_DRY", batch_size=4,
                       hours=7.5, drawing_steps=30_000, session_hours=11.5, log_every=1000,
                       validate_every=20_000),
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
                      max_images=6000, steps=3000),
        "kaggle": dict(data="oct2017", dfe="odir", classes="NORMAL,DRUSEN+AMD_DRY,DME+DR",
                       max_images=6000, steps=3000, session_hours=11.5),
    },
    "Evaluate": {
        "tiny": dict(n_simulated=12, report_images=16, reading_scans=1),
        "demo": dict(n_simulated=200),
        "colab": dict(data="oct2017", classifier="whole", report_images=1000),
        "kaggle": dict(data="oct2017", classifier="whole", report_images=1000),
    },
}  # fmt: skip
PATHS = ("data", "dfe", "runs", "synthetic", "contrast_run", "teacher", "existing_runs", "start")
SOURCES = ("simulated", "oct2017", "odir")  # of images, by name
INTAKE = ("patient", "every", "split")
NOTEBOOKS = (Explore, TrainGan, TrainCyclegan, Distil, Evaluate, TrainPix2pix, ExploreStyles,
             TrainFlow)  # fmt: skip


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
    if {"-h", "--help"} & set(argv):
        print(describe(settings_class))
        raise SystemExit
    given |= _arguments(argv)

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
    for name in INTAKE:  # wherever files are listed, these hold: also where nobody passes settings
        if f"--{name}" in given:
            os.environ[f"OCT_{name.upper()}"] = str(values[name])
    for name in PATHS:
        if getattr(settings, name, ""):
            value = getattr(settings, name)
            several = re.split(r"\s*,\s*", value.strip()) if name == "existing_runs" else [value]
            setattr(settings, name, ",".join(_from_root(one, name) for one in several))
    return settings


def _arguments(argv: list[str]) -> dict[str, tuple[str, str]]:
    """``--name=value`` or ``--name value``: what was written, its name and its value."""
    found, words = {}, list(argv)
    while words:
        argument = words.pop(0)
        name, equals, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--"):
            raise ValueError(f"{argument!r}: write settings as --field=value.")
        if not equals:
            if not words or words[0].startswith("--"):
                raise ValueError(f"{argument}: give it a value, {argument}=1 say.")
            text = words.pop(0)
        found[f"--{name}"] = (name.replace("-", "_"), text)
    return found


def comments(settings_class) -> dict[str, str]:
    """What stands beside each field, by its name."""
    found = {}
    for cls in reversed(settings_class.__mro__):
        if dataclasses.is_dataclass(cls):
            lines = inspect.getsource(cls).splitlines()
            written = (re.match(r"    (\w+): .*?  # (.*)", line) for line in lines)
            found |= {match[1]: match[2] for match in written if match}
    return found


def describe(settings_class) -> str:
    """Every setting with its default and what stands beside it, as text (``--help``)."""
    about = comments(settings_class)
    lines = [
        f"{settings_class.__doc__} Settings: --field=value, or OCT_FIELD in the environment.",
        "",
    ]
    for field in dataclasses.fields(settings_class):
        name = f"--{_outside(field.name).replace('_', '-')}={field.default}"
        lines.append(f"  {name:32} {about[field.name]}")
    return "\n".join(lines)


def short_path(path) -> str:
    """A path as people read it: from the repository's root, where it lies below it."""
    path = Path(path)
    return str(path.relative_to(root())) if path.is_relative_to(root()) else str(path)


def format_settings(settings) -> str:
    """The settings as aligned lines, those that differ from the class's defaults marked by *."""
    lines = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        mark = " " if value == field.default else "*"
        if field.name in PATHS and value:
            value = ",".join(
                map(short_path, value.split(",") if field.name == "existing_runs" else [value])
            )
        lines.append(f"{mark} {_outside(field.name):18} {value}")
    return "\n".join(lines)


def _outside(name: str) -> str:
    return name.rstrip("_")


def _convert(shown: str, text: str, kind):
    kind = getattr(kind, "__args__", [kind])[0]  # "float | None" takes a float
    try:
        if kind is bool:
            return {"1": True, "true": True, "0": False, "false": False}[text.lower()]
        if kind is float and not math.isfinite(float(text)):
            raise ValueError
        return kind(text)
    except (KeyError, ValueError):
        takes = {int: "a whole number", float: "a finite number", bool: "1 or 0"}[kind]
        raise ValueError(f"{shown}={text!r}: this setting takes {takes}.") from None


def _from_root(value: str, name: str) -> str:
    """Names of sources stay; paths become absolute."""
    by_name = {"data": SOURCES, "dfe": SOURCES, "start": ("simulated",)}
    if value in by_name.get(name, ()):  # ./oct2017 is the folder
        return value
    path = Path(value).expanduser()
    is_path = name == "runs" or "/" in value or value.endswith(".csv") or (root() / path).exists()
    return str(root() / path) if is_path else value

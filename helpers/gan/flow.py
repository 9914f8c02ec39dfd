"""A rectified flow for one-channel aligned crops, 64 to 512 px wide: from noise to tissue.

Liu, Gong & Liu, "Flow straight and fast", ICLR 2023, and Lipman et al., "Flow matching for
generative modeling", ICLR 2023, written from the papers. A crop x1 and noise x0 ~ N(0, I) are
joined by a straight path, x_t = (1 - t) x0 + t x1; a network learns its velocity x1 - x0 from x_t
and t alone, so what it learns is the mean velocity of all paths through that point, and a crop is
drawn by following it from t = 0, where everything is noise, to t = 1. No second network, no duel,
a loss that falls; the price is that one crop takes several passes through the network.

What is added to the bare equation, each from its paper:

- t is logit-normal, so that the middle of the path, where it is decided what the eye is, is seen
  most often (Esser et al., ICML 2024);
- the network predicts what a linear guess leaves open (``velocity``): the preconditioning of EDM
  (Karras et al., NeurIPS 2022, table 1) for the straight path. White noise is most of x_t and half
  of the answer, and a small network should not have to carry it through;
- crops are augmented and the network is told how; told of nothing it draws crops as they are, so
  nothing leaks (Karras et al. 2022);
- the class is left out now and then, and can be exaggerated when drawing (classifier-free guidance,
  Ho & Salimans 2021): ``guidance`` 1 is off.

The network is a U-Net of its own, and not ``UNet2DModel`` of diffusers, for three reasons. Speed on
two CPU cores: most of that one is normalisation, attention and full-resolution blocks, which a CPU
is slow at; here the picture is folded to half its side first, the blocks are plain convolutions
without normalisation (as in ``residual``), and every level costs about the same. The conditions of
this house, a class that can be left out, a look and an augmentation, would have to be wrapped
around it. And a dependency of that size for one class is a bad bargain.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from helpers.data import shape
from helpers.data.augment import CHANGES, change, draw_changes, mirror
from helpers.gan import judging
from helpers.gan.dcgan import SIZES
from helpers.gan.dials import leave_open
from helpers.gan.residual import GAIN, SLOPE, convolution, double
from helpers.training.cuda_graph import learn_or_replay
from helpers.training.processes import update

WIDEST = 256  # channels at most
FOLD = 2  # pixels of a side that become channels: no block works at the picture's own resolution
LEAST = 8  # rows of the smallest level
MEAN, SIGMA = -0.34, 0.35  # of the pixels of aligned crops, in [-1, 1] (simulated, 64 px)
WAVES = 16  # cosines by which the network is told t
T_MEAN, T_SPREAD = 0.5, 1.2  # of the logit of t in training
DROPPED = 0.1  # share of the crops whose class is not told
STEPS = 5  # from noise to a crop, two looks of the network each, but one for the last
# scans of a class below which it is said that a long training copies. By notebooks/results/flow.py
# copies what counts is how often each is seen: 1,500 times copies, 500 times does not
COPIES_BELOW = 150


class Block(nn.Module):
    """x + B(leaky((1 + s) A(x) + b)), two 3 x 3 convolutions; scale s and shift b come from the
    condition (FiLM, Perez et al., AAAI 2018). B starts at zero and A is scaled by ``depth``^-1/2
    (Fixup, Zhang, Dauphin & Ma, ICLR 2019), in place of normalisation."""

    def __init__(self, width: int, depth: int, told: int):
        super().__init__()
        self.first = convolution(width, width, 3, GAIN / math.sqrt(depth), bias=True)
        self.second = convolution(width, width, 3, 0.0)
        self.told = nn.Linear(told, 2 * width)
        nn.init.zeros_(self.told.weight)
        nn.init.zeros_(self.told.bias)

    def forward(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        scale, shift = self.told(told)[:, :, None, None].chunk(2, 1)
        return x + self.second(F.leaky_relu(self.first(x) * (1 + scale) + shift, SLOPE))


class Generator(nn.Module):
    """Noise ``z`` (B, z_dim), N(0, 1), to crops (B, 1, rows, size), in [-1, 1] once clamped.

    z is the picture at t = 0, row by row; ``steps`` (``integrate``) lead to t = 1. ``blocks``
    residual blocks at each level on the way down and as many on the way up; ``width`` channels at
    half the picture's resolution, doubled with every halving. With ``classes`` > 0 it also takes
    ``labels``, whole numbers (B,); None is any class. With ``looks`` > 0 it takes ``look`` (B,
    looks), about N(0, 1) (``shape.look``); None is the average one.
    ``steps`` and ``guidance`` may be set anew at any time, and hold for all that is drawn then.
    """

    def __init__(self, size=128, width=32, blocks=1, classes=0, rows=None, looks=0, steps=STEPS):
        super().__init__()
        rows = rows or size
        if size not in SIZES:
            raise ValueError(f"size={size}: it is built for {', '.join(map(str, SIZES))} px.")
        self.size, self.rows, self.z_dim = size, rows, rows * size
        self.classes, self.looks, self.steps, self.guidance = classes, looks, steps, 1.0
        levels = int(math.log2(rows // FOLD // LEAST)) + 1
        widths = [min(width * 2**level, WIDEST) for level in range(levels)]
        told = 4 * width
        self.register_buffer("waves", math.pi * torch.arange(1, WAVES + 1), persistent=False)
        self.time = nn.Linear(WAVES, told)
        self.embedding = nn.Embedding(classes, told) if classes else None
        self.look = nn.Linear(looks, told, bias=False) if looks else None
        self.changed = nn.Linear(CHANGES, told, bias=False)
        self.condition = nn.Linear(told, told)
        # the RPE lies in one row of every crop: what a row is need not be found out
        self.place = nn.ParameterList(
            torch.zeros(w, rows // FOLD // 2**k, 1) for k, w in enumerate(widths)
        )
        depth = 2 * blocks * levels
        self.begin = convolution(FOLD**2, widths[0], 3, bias=True)
        self.down, self.up = (
            nn.ModuleList(
                nn.ModuleList(Block(w, depth, told) for _ in range(blocks)) for w in widths
            )
            for _ in range(2)
        )
        pairs = list(zip(widths, widths[1:]))
        self.halve = nn.ModuleList(nn.Conv2d(a, b, 2, 2) for a, b in pairs)
        self.grow = nn.ModuleList(convolution(b, a, 1) for a, b in pairs)
        self.end = convolution(widths[0], FOLD**2, 3, 0.0, bias=True)

    def tell(self, t, labels, look, changes) -> torch.Tensor:
        """Everything that is told besides the picture, (B, 4 width)."""
        told = self.time((t[:, None] * self.waves).cos())
        if self.embedding is not None and labels is not None:
            known = labels >= 0
            told = told + self.embedding(labels.clamp(0)) * known[:, None]
        if self.look is not None and look is not None:
            told = told + self.look(look)
        if changes is not None:
            told = told + self.changed(changes)
        return F.silu(self.condition(F.silu(told)))

    def unet(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        x, kept = self.begin(F.pixel_unshuffle(x, FOLD)), []
        for level, blocks in enumerate(self.down):
            x = x + self.place[level].to(x.dtype)
            for block in blocks:
                x = block(x, told)
            if level < len(self.halve):
                kept.append(x)
                x = self.halve[level](x)
        for level in reversed(range(len(self.up))):
            if level < len(self.halve):
                x = kept[level] + double(self.grow[level](x))
            for block in self.up[level]:
                x = block(x, told)
        return F.pixel_shuffle(self.end(F.leaky_relu(x, SLOPE)), FOLD)

    def velocity(self, x, t, labels=None, look=None, changes=None) -> torch.Tensor:
        """The mean of x1 - x0 over all paths that pass x (B, 1, rows, size) at t (B,) in [0, 1].

        A label of -1 is any class. changes (B, CHANGES): what the augmentation did to x1; None:
        nothing. Were the pixels N(MEAN, SIGMA^2), each for itself, the answer would be linear,
        MEAN + (t SIGMA^2 - (1 - t)) / v (x - t MEAN) with v = (1 - t)^2 + t^2 SIGMA^2, and what it
        leaves open would have a standard deviation of SIGMA / sqrt(v); the network predicts that.
        """
        t = t.float()
        past, come = (1 - t)[:, None, None, None], t[:, None, None, None]
        variance = past**2 + (come * SIGMA) ** 2
        away = x - come * MEAN
        left = self.unet(away / variance.sqrt(), self.tell(t, labels, look, changes)).float()
        linear = MEAN + (come * SIGMA**2 - past) / variance * away
        return linear + SIGMA / variance.sqrt() * left

    def guided(self, x, t, labels=None, look=None) -> torch.Tensor:
        """``velocity``, away from that of any class where guidance is not 1 (Ho & Salimans 2021,
        eq. 6): v(any) + guidance (v(class) - v(any))."""
        told = self.velocity(x, t, labels, look)
        if self.guidance == 1:
            return told
        free = self.velocity(x, t, None, look)
        return free + self.guidance * (told - free)

    def forward(self, z, labels: torch.Tensor | None = None, look: torch.Tensor | None = None):
        x = z.view(-1, 1, self.rows, self.size)
        return integrate(lambda x, t: self.guided(x, t, labels, look), x, times(self.steps))


def times(steps: int, start=0.0) -> list[float]:
    """Where the steps begin and end, from ``start`` to 1: steps + 1 times, the nearer the later.

    1 - (1 - start) (1 - u)^2 at equal u: crops have far less noise than the path begins with, so
    much happens near its end. Of a flow of 64 px, six equal steps ended 0.031 (rms, in [-1, 1])
    from where forty do, six of these 0.014.
    """
    return [1 - (1 - start) * (1 - k / steps) ** 2 for k in range(steps + 1)]


def integrate(field, x: torch.Tensor, times: list[float]) -> torch.Tensor:
    """x (B, ...) at the first of ``times`` to where ``field(x, t)``, t (B,), leads it at the last.

    Steps of Heun, of second order, and the one that reaches t = 1 of Euler (Karras et al. 2022,
    algorithm 1): there nothing of the noise is left in x, so that what the network says of it is
    zero, and a mean with that would leave half of it in.
    """
    for now, then in zip(times, times[1:]):
        x = step(field, x, now, then)
    return x


def step(field, x: torch.Tensor, now: float, then: float) -> torch.Tensor:
    """One step: along the mean of the velocity here and of that where it would lead."""
    first = field(x, x.new_full((len(x),), now))
    there = x + (then - now) * first
    if then == 1:
        return there
    return x + (then - now) / 2 * (first + field(there, x.new_full((len(x),), then)))


def between(noise: torch.Tensor, crops: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The straight path, (1 - t) x0 + t x1, at t (B,)."""
    t = t.view(-1, *[1] * (crops.ndim - 1))
    return (1 - t) * noise + t * crops


def flow_loss(velocity: torch.Tensor, noise: torch.Tensor, crops: torch.Tensor) -> torch.Tensor:
    """Mean square of what a velocity lacks to x1 - x0 (Liu et al. 2023, eq. 1)."""
    return (velocity - (crops - noise)).square().mean()


def draw_times(count: int, device="cpu") -> torch.Tensor:
    """t (count,), logit-normal (Esser et al. 2024)."""
    return (T_MEAN + T_SPREAD * torch.randn(count, device=device)).sigmoid()


def build(settings, classes=()):
    """The network of ``settings`` (a ``config.TrainGan``) and what rebuilds it."""
    s = settings
    arguments = {
        "size": s.size, "rows": shape.crop_rows(s.size), "width": s.width, "blocks": s.blocks,
        "classes": len(classes), "looks": len(shape.TOLD if s.dials else shape.LOOK),
        "steps": s.flow_steps,
    }  # fmt: skip
    about = {"network": "flow", "arguments": arguments, "framing": s.framing}
    if classes:
        about["classes"] = list(classes)
    return Generator(**arguments), about


class Flow:
    """Trains ``settings`` (a ``config.TrainGan``); arguments, pictures and score as of a
    ``gan.GAN`` of aligned crops. Batches are (crops, labels, looks)."""

    exported, score_name = "generator", "score"

    def __init__(self, settings, validation, features, classes=(), labels=None, shapes=None):
        s = self.settings = settings
        self.conditional = judging.learns_classes(s, classes)
        generator, self.architecture = build(s, classes if self.conditional else ())
        self.networks, self.averaged = {"generator": generator}, generator
        adam = torch.optim.Adam(generator.parameters(), s.lr, (s.beta1, s.beta2), fused=True)
        self.optimizers = {"generator": adam}
        judging.begin(self, generator, validation, features, classes, labels, shapes)
        self.replayed = None

    @property
    def kept(self) -> dict[str, torch.Tensor]:
        """Shapes, which an exported generator needs besides its weights."""
        return judging.kept(self)

    def step(self, batch, accelerator) -> dict[str, torch.Tensor]:
        """``learn`` from crops (B, 1, rows, size), labels (B,) and looks (B, looks); on a GPU of
        its own captured once and replayed (``cuda_graph``)."""
        record = learn_or_replay(self, None, accelerator, *batch)
        self.steps += 1
        return record

    def learn(self, way, accelerator, crops, labels, looks) -> dict[str, torch.Tensor]:
        """One update: noise each crop to a time of its own and regress the velocity there.

        ``way``: there is one only (``cuda_graph.Replayed``).
        """
        s, generator, count = self.settings, self.networks["generator"], len(crops)
        changes = None
        if s.mirror:  # both eyes exist, so this needs no telling
            crops = mirror(crops)
        if s.augment:
            changes = draw_changes(count, s.augment, crops.device)
            crops = change(crops, changes)
        t = draw_times(count, crops.device)
        noise = torch.randn(*crops.shape, device=crops.device)
        left_out = torch.rand(count, device=crops.device) < DROPPED
        labels = torch.where(left_out, -1, labels)
        if self.settings.dials:
            looks = leave_open(looks)
        with accelerator.autocast():
            found = generator.velocity(between(noise, crops, t), t, labels, looks, changes)
        loss = flow_loss(found.float(), noise, crops)
        update(self, loss, accelerator, "generator")
        return {"loss_velocity": loss.detach()}

    def preview(self, network: nn.Module) -> torch.Tensor:
        """Sixteen scans of the same noise every time (``judging.preview``)."""
        return judging.preview(self, network)

    def validate(self, network: nn.Module) -> float:
        """The score (``judging.score``)."""
        return judging.score(self, network, "a smaller lr, or leave the recipe as it is")

    def state_dict(self) -> dict:
        return {"steps": self.steps, "louder": self.louder.tolist()}

    def load_state_dict(self, state: dict) -> None:
        self.steps, self.louder = state["steps"], np.array(state["louder"])


def few_scans(labels) -> str:
    """What is said before a training where a class has fewer than COPIES_BELOW scans; else ""."""
    counts = {name: int((labels == name).sum()) for name in dict.fromkeys(labels.tolist())}
    few = [f"{name} has {n}" for name, n in counts.items() if n < COPIES_BELOW]
    if not few:
        return ""
    return (
        f"{', '.join(few)}, below {COPIES_BELOW} scans of a class: a flow that sees each scan a "
        "thousand times begins to copy them, and to show whose they are (20 scans a class, 1,500 "
        "times: 3 % copies; 60, 500 times: none). A validation that says so is not chosen, but it "
        "sees little: audit what it draws (notebook 05), train for less time, or begin from a run "
        "on simulated eyes (OCT_START)."
    )


# --- a real scan, drawn anew in part


def noise_like(crops: torch.Tensor, seed: int) -> torch.Tensor:
    """N(0, 1) on the crops' device; row i depends on the seed and i alone."""
    source = torch.Generator().manual_seed(seed)
    rows = [torch.randn(crops.shape[1:], generator=source) for _ in range(len(crops))]
    return torch.stack(rows).to(crops.device)


@torch.inference_mode()
def edit(generator, crops, t: float, labels=None, looks=None, *, seed=0, steps=16):
    """Crops (N, 1, rows, size) in [-1, 1], drawn again from half-way with other conditions.

    SDEdit (Meng et al., ICLR 2022): each is noised to ``t`` in [0, 1] along the straight path, and
    from there the flow of ``labels`` (N,) and ``looks`` (N, looks) leads to a crop. What is coarser
    than the noise at t stays, what is finer is drawn anew: t = 1 returns the crop, t = 0 another.
    ``steps`` are taken from 0 to 1, of which a share of 1 - t is needed. ValueError for another t.
    """
    if not 0 <= t <= 1:
        raise ValueError(f"t={t:g}: choose a time from 0 (all is drawn anew) to 1 (the scan).")
    if t == 1:
        return crops.clone()
    x = between(noise_like(crops, seed), crops, crops.new_full((len(crops),), t))
    at = times(max(1, math.ceil((1 - t) * steps)), t)
    drawn = integrate(lambda x, t: generator.guided(x, t, labels, looks), x, at)
    return drawn.clamp(-1, 1)


@torch.inference_mode()
def inpaint(generator, crops, columns: slice, labels=None, looks=None, *, seed=0, steps=16,
            again=2):  # fmt: skip
    """Crops (N, 1, rows, size) in [-1, 1] with ``columns`` drawn anew and the rest as it is.

    RePaint (Lugmayr et al., CVPR 2022) on the straight path: after each of ``steps`` the columns
    that are kept are put back as they are at that time, (1 - t) x0 + t x1, so that what is drawn
    has to fit. Each step is taken ``again`` times, with noise added in between to go back (its
    section 4.2): that is when the two sides come to agree. Row i depends on the seed and i alone.
    ValueError if there are no ``columns``, ``steps`` or turns.
    """
    if min(steps, again) < 1:
        raise ValueError(f"steps={steps}, again={again}: choose at least 1 of each.")
    drawn = torch.zeros(crops.shape[-1], dtype=torch.bool, device=crops.device)
    drawn[columns] = True
    if not drawn.any():
        raise ValueError(f"columns={columns}: there are none of a crop of {crops.shape[-1]}.")
    noise = noise_like(crops, seed)
    back = crops[:, None].expand(-1, steps * (again - 1), *crops.shape[1:])
    fresh = list(noise_like(back, seed + 1).unbind(1))  # of every turn
    x, at = noise, times(steps)
    for now, then in zip(at, at[1:]):
        for turn in range(again):
            if turn:  # back from then to now: x shrinks to its share, and noise fills up
                share = now / then
                left = math.sqrt(max(0.0, (1 - now) ** 2 - (share * (1 - then)) ** 2))
                back = share * x + left * fresh.pop()
                x = torch.where(drawn, back, (1 - now) * noise + now * crops)
            x = step(lambda x, t: generator.guided(x, t, labels, looks), x, now, then)
            x = torch.where(drawn, x, (1 - then) * noise + then * crops)
    return torch.where(drawn, x.clamp(-1, 1), crops)

# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 08 · Train a flow that draws drusen OCT
#
# ## What this does, and what to expect
#
# "Why not diffusion?" Most OCT generators published since 2023 are **diffusion** or **flow**
# models. This notebook trains the simplest of them, a **rectified flow** (Liu et al., ICLR 2023;
# Lipman et al., ICLR 2023), on the very crops that the GAN of notebook 02 learns, and asks the same
# of it: is the disease there, how far is it from unseen patients, how fast is it drawn, are scans
# copied?
#
# There is no duel: one network, one loss, and the loss falls. The price is that one scan takes
# several passes through the network, and the danger is that from few scans it learns them by heart.
# In return a trained flow **edits** a real scan, without having been trained for that.
#
# | preset | pictures | where | training time |
# |---|---|---|---|
# | `tiny` | crops of 64 px | anywhere; a check that every cell runs | seconds |
# | `demo` (default) | crops of 64 px, simulated eyes | 2 CPU cores | 10 minutes |
# | `colab`, `kaggle` | crops of 256 px, OCT2017 | one T4, 2 x T4 | 3 hours, 10.5 hours |
#
# Which of the two to take for how many scans and how much time stands at the end. Nothing that is
# made here is for clinical use.

# %% [markdown]
# ## Setup
#
# Where this repository's package `helpers` is missing, on Kaggle and Colab, the next cell installs
# it with whatever it lacks. The torch that is already there stays.

# %%
import os
import sys
from importlib import metadata, util

ADDRESS = "git+https://github.com/OWNER/synthetic-retinal-oct@v0.1.0"
if not util.find_spec("helpers"):  # on Kaggle or Colab; the torch that is there stays
    pip = f"{sys.executable} -m pip install -q {ADDRESS} torch=={metadata.version('torch')}"
    assert not os.system(pip), "pip failed, see above. No address, or no internet: README, Kaggle"

# %%
import warnings

import numpy as np
import torch

from helpers import config, plots
from helpers.data import shape
from helpers.data.pixels import to_float, to_levels
from helpers.data.split import describe
from helpers.gan.recipes import with_recipe
from helpers.gan.train import build_training
from helpers.measures.features import Features

# %% [markdown]
# ## Settings
#
# What notebook 02 takes, without what is of a GAN alone. A star marks what differs from the
# default.

# %%
# os.environ["OCT_PRESET"] = "kaggle"  # or "colab": on those machines, take the first # away
settings = config.resolve(config.TrainFlow)
if settings.model != "flow":
    raise ValueError(f"model={settings.model}: this notebook trains a flow; notebook 02 trains it.")
settings = with_recipe(settings)
settings.run = settings.run or "flow"
print(config.format_settings(settings))

# %% [markdown]
# ## Data
#
# As in notebook 02: split **by patient**; every class is learned by one network, one is judged; and
# what is learned is the *tissue*. Each scan is **aligned** (its RPE levelled, its retina cut out at
# one size, black and white set), and what was taken off, its *shape*, is put back at the end.

# %%
features = Features()  # no GPU is touched before the training is launched on all of them
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what is to be said of the data is printed below
    method, shuffled, full, learned = build_training(settings, features)
print(describe(learned))


def crops_of(side, most=None):
    """Crops of the class that is judged, uint8, their looks, and whose they are."""
    mine = side.labels == full.class_ if settings.conditional else np.ones(len(side), bool)
    own = np.flatnonzero(mine)[:most]
    looks = torch.from_numpy(shape.look(side.shapes[own])[:, : method.looks])
    return np.array(side.images[own]), looks, side.patients[own]


crops = to_float(crops_of(learned.train, 8)[0])
figure = plots.grid(crops, caption=f"Training scans of {full.class_}, aligned: what is learned.")
plots.compact(figure)

# %% [markdown]
# ## Model
#
# **Points first.** Let a data set be points in a plane, two arcs. Draw a point of noise $x_0$ and a
# point of data $x_1$, whichever, and join them by a straight line, along which a time $t$ runs from
# 0 to 1:
#
# $$x_t = (1-t)\,x_0 + t\,x_1, \qquad \dot x_t = x_1 - x_0$$
#
# Lines of different pairs cross (left), and at a crossing there are two velocities. A network
# $v_\theta(x, t)$ that has to predict $x_1-x_0$ from $x_t$ and $t$ alone, with a squared error, can
# only learn their **mean**. That is just right: who follows the exact mean velocity from noise
# (middle) arrives at points that are spread as the data are, though on lines that bend where the
# pairs crossed. (This small network learned it nearly: some points miss the arcs.) The straighter
# the paths, the fewer steps suffice. One step takes all to about the mean of the data (grey,
# right).

# %%
from helpers.gan.flow import between, draw_times, flow_loss, integrate, times

torch.manual_seed(settings.seed)
angle, upper = torch.rand(4096) * np.pi, torch.rand(4096, 1) < 0.5
arc = torch.stack([angle.cos() * 2, angle.sin() * 1.5], 1)
points = torch.where(upper, arc + torch.tensor([-1.0, -0.4]), torch.tensor([1.0, 0.4]) - arc)
points = points + 0.08 * torch.randn_like(points)
field = torch.nn.Sequential(
    torch.nn.Linear(3, 96), torch.nn.SiLU(), torch.nn.Linear(96, 96), torch.nn.SiLU(),
    torch.nn.Linear(96, 2),
)  # fmt: skip
weights = list(field.parameters())
moving = [torch.zeros_like(weight) for weight in weights]


def velocity(x, t):
    return field(torch.cat([x, t[:, None]], 1))


for _ in range(2000):  # by hand: torch's optimisers ask for a GPU, too early before the launch
    x1 = points[torch.randint(len(points), (512,))]
    x0, t = torch.randn_like(x1), draw_times(512)
    loss = flow_loss(velocity(between(x0, x1, t), t), x0, x1)
    for weight, speed, slope in zip(weights, moving, torch.autograd.grad(loss, weights)):
        weight.data -= 0.05 * speed.mul_(0.9).add_(slope)

# %%
import matplotlib.pyplot as plt

noise = torch.randn(400, 2)
with torch.no_grad(), plt.rc_context(plots.STYLE):
    figure, axes = plt.subplots(1, 3, figsize=(plots.WIDTH, 2.6), sharex=True, sharey=True)
    pairs = torch.stack([noise[:60], points[:60]]).numpy()
    axes[0].plot(pairs[..., 0], pairs[..., 1], color=plots.PALE, lw=0.5)
    path = [noise[:60]]
    for k in range(20):
        path.append(path[-1] + velocity(path[-1], torch.full((60,), k / 20)) / 20)
    path = torch.stack(path).numpy()
    axes[1].plot(path[..., 0], path[..., 1], color=plots.ACCENT, lw=0.5)
    for steps, colour in ((1, plots.PALE), (8, plots.ACCENT)):
        end = integrate(velocity, noise, times(steps))
        axes[2].scatter(*end.T, s=3, color=colour, label=f"{steps} step{'s' * (steps > 1)}")
    axes[2].legend(loc="lower left")
    for axis, title in zip(axes, ("pairs of noise and data", "what is followed", "where it ends")):
        axis.scatter(*points[:400].T, s=1, color=plots.REAL)
        axis.set(title=title, xticks=[], yticks=[])
plots.compact(figure, caption="Points of data in black. Left: random pairs. Middle: the learned "
              "flow from 60 points of noise. Right: 400 followed in 1 step and in 8.")  # fmt: skip

# %% [markdown]
# **A crop is a point too**, in a plane of some thousand dimensions, and its line looks like this:
# coarse things come out of the noise first, speckle last.

# %%
along = torch.linspace(0, 1, 8)
line = between(torch.randn_like(crops[:1]), crops[:1], along)
titles = [f"t = {t:.2f}" for t in along]
plots.compact(plots.grid(line, titles, caption="One crop on the straight path to it from noise."))

# %% [markdown]
# The network that is shown such a picture is a small **U-Net**: down to 8 rows, where it sees the
# whole crop, and up again, with what each level knew added on the way. It is told the time, the
# *class*, the *look* (how this device draws), and what the augmentation did. Two things make it
# fast: the picture is folded to half its side, pixels into channels, and what a pixel's own grey
# says about its velocity is computed and not learned; the network predicts the rest
# (`velocity`, after Karras et al., NeurIPS 2022).

# %%
from helpers.gan import flow
from helpers.training.runs import count_parameters

print(f"{count_parameters(method.networks)['generator'] / 1e6:.2f} million parameters")
plots.show_source(flow.Block, flow.Generator.unet, flow.Generator.velocity)

# %% [markdown]
# ## Loss
#
# The mean of $\lVert v_\theta(x_t, t, \text{class}, \text{look}) - (x_1 - x_0)\rVert^2$. The times
# are drawn **logit-normal** (Esser et al., ICML 2024): near $t=0$ and $t=1$ there is little to
# learn, and between them it is decided what the eye is. Of one crop in ten the class is not told,
# for guidance (below). A share of the crops is shifted, tilted and brightened, **and the network is
# told so**: where it is told of no change, it draws crops as they are (nothing *leaks*).

# %%
plots.show_source(flow.flow_loss, flow.draw_times, flow.Flow.learn)

# %% [markdown]
# ## Train
#
# As every training here: a moving average of the weights is what is judged and kept, and an
# interrupted run goes on. What is kept (circle) has the best *score*, distance and probe together
# as in notebook 02. It need not have the smallest distance: of 60 scans the probe is noisy.

# %%
from helpers.training.loop import train
from helpers.training.processes import launch
from helpers.training.runs import open_run

run = open_run(settings, full, method.networks, learned)
launch(train, method, shuffled, run, settings, processes=settings.processes)
if os.environ.get("RANK", "0") != "0":
    sys.exit()  # of several processes one looks and measures
device = "cuda" if torch.cuda.is_available() else "cpu"
features.to(device)
print(config.short_path(run.folder))

# %%
plots.compact(plots.curves(run.metrics(), caption="Left the loss, which cannot reach 0: at a "
                           "crossing only the mean can be known. Right what decides."))  # fmt: skip

# %% [markdown]
# ## Look
#
# Whole scans: a crop drawn by the flow, placed back with a shape that was drawn (notebook 02).

# %%
from helpers.gan.sampling import classes_of, sample
from helpers.generate import load_generator

generator = load_generator(run.folder, device)
synthetic = sample(generator, settings.report_images, settings.seed)
plots.compact(plots.gallery(full.test.images, synthetic, rows=2, source="patients held out"))

# %%
rows = [sample(generator, 8, settings.seed, class_name=name) for name in classes_of(generator)]
figure = plots.grid(torch.cat(rows), caption="Synthetic, not chosen; a row for each of "
                    f"{', '.join(classes_of(generator))}. A column has one noise; its shapes are "
                    "drawn by class.")  # fmt: skip
plots.compact(figure)

# %% [markdown]
# **How many steps?** Each asks the network twice (Heun's method: along the mean of the velocity
# here and where it would lead), the last step once. Too few, and the bends of the paths are cut:
# one step (top row) gives nearly the mean crop; from four on (third row) little changes.

# %%
import time

from helpers.generate import set_flow

rows, seconds = [], {}
for steps in (1, 2, 4, 8, 16):
    set_flow(generator, steps=steps)
    began = time.monotonic()
    rows.append(sample(generator, 8, settings.seed, shape="aligned"))
    seconds[steps] = time.monotonic() - began
set_flow(generator, steps=settings.flow_steps)
words = ", ".join(f"{steps} ({100 / 8 * took:.0f} s)" for steps, took in seconds.items())
figure = plots.grid(torch.cat(rows), caption=f"One noise in a column. Steps, and seconds for 100 "
                    f"crops here: {words}.")  # fmt: skip
plots.compact(figure)

# %% [markdown]
# **Guidance** (Ho & Salimans, 2021) follows $v_\text{any} + g\,(v_\text{class} - v_\text{any})$:
# what is particular of the class, $g$ times. 1 is what was learned. More draws more of the disease,
# typical ones, and less variety: recall pays for it (results/generators.md).

# %%
rows, guidances = [], (1.0, 2.0, 4.0) if generator.classes else (1.0,)
for guidance in guidances:
    set_flow(generator, guidance=guidance)
    rows.append(sample(generator, 8, settings.seed, shape="aligned"))
set_flow(generator, guidance=1.0)
figure = plots.grid(torch.cat(rows), caption="One noise in a column; guidance "
                    f"{', '.join(f'{g:g}' for g in guidances)}.")  # fmt: skip
plots.compact(figure)

# %% [markdown]
# **Editing.** Drawing need not begin at $t=0$. A real scan that is noised back to $t$
# (`OCT_EDIT_TIME`; at 0.3 seven tenths are noise, a smaller $t$ changes more) and drawn again with
# *another class* keeps what is coarser than that noise and changes what is finer: SDEdit (Meng et
# al., ICLR 2022). And columns of it can be drawn anew while the rest is held
# on its own path: inpainting (after Lugmayr et al., CVPR 2022). Eyes of patients held out.

# %%
from helpers.gan.dials import leave_open

names = classes_of(generator)
target = [name for name in names if name != full.class_ or len(names) == 1][-1]
before, looks, _ = crops_of(learned.test, 8)
before, looks = to_float(before).to(device), looks.to(device)
own, other = (torch.full((len(before),), names.index(name), device=device)
              for name in (full.class_, target))  # fmt: skip
free = leave_open(looks, 1) if settings.dials else looks  # its drusen are of the class it was
edited = flow.edit(generator, before, settings.edit_time, other, free)
columns = slice(settings.size // 3, 2 * settings.size // 3)
filled = flow.inpaint(generator, before, columns, own, looks)
figure = plots.grid(
    torch.cat([before, edited, filled]).cpu(), columns=len(before),
    caption=f"Above: real {full.class_}. Middle: drawn again as {target} from t = "
    f"{settings.edit_time:g}. Below: the middle third drawn anew as {full.class_}.",
)  # fmt: skip
plots.compact(figure)


# %%
def alike(a, b):
    """Correlation of what differs from the mean crop, in cells of 8 px: anatomy, not speckle."""
    usual = to_float(crops_of(learned.train)[0]).mean(0)
    a, b = (torch.nn.functional.avg_pool2d(x.cpu() - usual, 8).flatten(1) for x in (a, b))
    return [float(np.corrcoef(one, two)[0, 1]) for one, two in zip(a, b)]


same, next_ = (np.mean(alike(eye, edited)) for eye in (before, before.roll(1, 0)))
print(f"correlation with the eye it was: {same:.2f}, with the next eye: {next_:.2f}")

# %% [markdown]
# ## Measure
#
# The kernel distance beside its yardsticks, and drusen by the ruler. To compare: on the same eyes
# the GAN of notebook 02 is at 56, so the flow of this page (ten minutes, 64 px) is not there yet:
# it is a little farther than healthy eyes are.

# %%
from pathlib import Path

from helpers.data.prepare import prepare
from helpers.evaluate.report import complete, print_table
from helpers.measures import layers
from helpers.measures.distances import distance_report

yardstick = {}
if full.other_class:
    other = prepare(settings.data, class_=full.other_class, size=full.test.images.shape[-1],
                    sides=("test",), most=1000, n_simulated=settings.n_simulated,
                    cache=Path(settings.runs) / "cache", progress=False)  # fmt: skip
    yardstick = {"other_class": other.test, "other_class_name": other.class_}
report = complete(distance_report(synthetic, full.train, full.test, features=features, **yardstick))
_ = print_table(report)
for name, images in {"real": full.test.images, "synthetic": to_levels(synthetic)}.items():
    read = layers.flat_without_drusen(layers.measure(images[:64]))
    count, height = (np.mean(read[k][np.isfinite(read[k])].tolist() or np.nan)
                     for k in ("drusen_count", "drusen_height"))  # fmt: skip
    print(f"{name:10} {count:.1f} drusen per scan, the highest {height:.1f} % of its height")

# %% [markdown]
# **Copies.** What a perfect flow learns is the training set: the mean velocity over a *finite* set
# of crops leads back to those crops. That it draws other eyes at all is owed to a network too
# small, or a training too short, for that. So the audit is no formality here: of each
# synthetic crop the nearest training crop, beside how near real crops of unseen patients come.

# %%
from helpers.measures.memorisation import memorisation_report

drawn = sample(generator, min(200, settings.report_images), settings.seed, shape="aligned")
(known, _, taught), *new = map(crops_of, (learned.train, learned.validation, learned.test))
audit = memorisation_report(
    drawn, known, np.concatenate([side[0] for side in new]), training_patients=taught,
    unseen_patients=np.concatenate([side[2] for side in new]),
)  # fmt: skip
print(f"called copies: {audit['copied_share']:.1%}; expected of a generator that copies nothing: "
      f"{audit['expected_share']:.1%}; training crops: {len(known)}")  # fmt: skip
nearest = audit["closest"][:8]
pictures = [to_levels(drawn)[pair["synthetic"]] for pair in nearest]
pictures += [known[pair["training"]] for pair in nearest]
figure = plots.grid(
    np.stack(pictures), columns=len(nearest),
    caption="The synthetic crops that are nearest to a training crop, and below each that one.",
)  # fmt: skip
plots.compact(figure)

# %% [markdown]
# ## Limits
#
# **Which model, for how many scans and how much time?** Both were trained for twenty minutes of one
# thread on the same eyes, at 64 and at 128 px, three seeds each, and one seed for two hours at 64;
# results/generators.md, *A flow*, has all numbers.
#
# | you have | take |
# |---|---|
# | minutes of a CPU, 64 px | the GAN: nearer with every seed (69 to 76; 96 to 113), as useful |
# | the same, 128 px | the GAN: twice as near (34 to 41; 69 to 74), recall 0.34 to 0.39, not 0.2 |
# | many scans to draw | the GAN: 0.3 s for 100 crops of 64 px, the flow 2 to 4 s |
# | a need of more drusen | the GAN's dials; a flow with guidance 3, at the cost of recall (0.05) |
# | a fear of copies | the flow: nothing called a copy, of the GAN 2 to 4 % (expected 1 %) |
# | a real scan to change | a flow: the GAN cannot |
# | few scans of a class | stop early: 20, seen 1,500 times each, are copied; 60, 500 times, not |
# | hours, 64 px | either: the flow now teaches as much (0.97), with truer grain |
# | a GPU | not measured |
#
# - The default imitates a **simulation**, not patients, at 64 px: what it shows is how to train,
#   draw, edit and judge a flow.
# - An edited scan is an invention: nobody's eye has that disease. What of the eye is kept is what
#   the noise left, and the correlation above is all that was measured of it.
# - The audit looks for copies of whole crops. A copied druse in another retina goes unnoticed.
# - Not for clinical use.

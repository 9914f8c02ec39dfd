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
# # 02 · Train a GAN that draws drusen OCT
#
# ## What this does, and what to expect
#
# A **generative adversarial network** (GAN) learns to draw OCT B-scans of eyes with drusen from
# nothing but examples. Two networks play against each other: a *generator* turns noise into a
# picture, a *discriminator* is shown pictures and says which are real. Neither is told what a
# retina is. At the end there is a folder of synthetic scans of every class, and numbers that say
# how far they are from scans of patients that the networks never saw.
#
# It begins with the lesson, a **DCGAN** on whole scans, the way everybody begins. The demo's half
# minute gives it blurred bands; a quarter of an hour, retinas with **hardly any drusen**. Why?
# Most of a scan is its *shape*, and the disease is a few pixels of *tissue*. So the shape is taken
# off first (**align**), a stronger network
# learns the tissue of all classes at once (**draw**), and the shape is put back (**place back**).
# On the way, what fails and what mends it, each with a picture and a number made right here:
#
# | failure | where to look | number | what mends it |
# |---|---|---|---|
# | retinas without the disease | Data | drusen per scan | align, draw, place back |
# | checkerboards | Model, Measure | height of the spectral line at 2 px | bilinear resampling |
# | collapse | Look | variety, as a share of that of real scans | paired loss, penalties |
# | the discriminator memorises | Look | overfitting $r_v$ | augmentation, larger penalties |
#
# | preset | pictures | where | training time |
# |---|---|---|---|
# | `tiny` | 64 px | anywhere; a check that every cell runs | seconds |
# | `demo` (default) | crops of 128 px, simulated eyes | 2 CPU cores | 6 minutes |
# | `colab` | crops of 256 px, OCT2017 | one T4 | 3 hours, set by `OCT_HOURS` |
# | `kaggle` | crops of 256 px, OCT2017 | 2 x T4, or one | 10.5 hours, set by `OCT_HOURS` |
#
# `OCT_MODEL=dcgan` trains the DCGAN to the end in place of its successor, `OCT_FRAMING=stretch`
# either of them on whole scans, and `OCT_START=simulated` begins with the weights that ship.
#
# Nothing that is made here is for clinical use.

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
from pathlib import Path

import numpy as np

from helpers import config, plots
from helpers.data.prepare import prepare
from helpers.data.split import describe
from helpers.gan.recipes import with_recipe
from helpers.gan.train import learned_classes

# %% [markdown]
# ## Settings
#
# Every setting has a default; a preset changes some of them; the environment changes any
# (`OCT_SIZE=128`); and as a script this notebook takes `--size=128`. A star marks what differs
# from the default. `model` is `residual`, `stylegan` or `dcgan`, and `recipe` decides everything
# that is left open: `best` is what measurably helped on OCT (notebooks/results/generators.md);
# `paper`, of the DCGAN, is the one that everybody runs.

# %%
# os.environ["OCT_PRESET"] = "kaggle"  # or "colab": on those machines, take the first # away
settings = with_recipe(config.resolve(config.TrainGan))
if settings.model == "flow":
    raise ValueError("model=flow: notebook 08 trains it; here residual, stylegan or dcgan.")
settings.run = settings.run or settings.model
print(config.format_settings(settings))

# %% [markdown]
# ## Data
#
# The source becomes a list of scans (a *manifest*), is de-duplicated, and is **split by patient**:
# neighbouring B-scans of one eye are nearly the same picture, so a split by image would let the
# network be examined on what it learned by heart. Training patients teach, validation patients
# choose (the best checkpoint, the settings), test patients are looked at once, at the end.
#
# By default the scans are *simulated*: an anatomy with layers, vessels and drusen is drawn for
# every patient and rendered with what OCT physics does to a picture. That makes the notebook work
# anywhere, and it is honest only if said aloud: **the default GAN imitates a simulation**. Point
# `OCT_DATA` at a folder of real scans to learn from patients.
#
# One class is *judged*, that of `OCT_CLASS`. Where the network can be asked for a class
# (`OCT_CONDITIONAL`), all of them are learned together, each as often as the others: rare ones
# borrow from common ones what a retina is. The split is that of the whole source, so that no
# patient teaches in one class and examines in another.

# %%
seen = "stretch" if settings.framing == "aligned" else settings.framing  # of what is judged


def scans(class_, size, framing=seen, **what):
    return prepare(
        settings.data, class_=class_, size=size, framing=framing,
        n_simulated=settings.n_simulated, cache=Path(settings.runs) / "cache", **what,
    )  # fmt: skip


whole = max(256, settings.size)  # px of the whole scans that all is measured against
full = scans(settings.class_, whole)  # the class that is judged
settings.class_ = full.class_  # as the source spells it; a source of one class leaves no choice
if settings.conditional is None:  # every class in one network; of A+B none could be judged
    settings.conditional = settings.class_ in full.classes
which = learned_classes(settings, full.classes)
learned = scans(which, settings.size, settings.framing)
classes, labels = np.unique(learned.train.labels, return_inverse=True)
yardstick, every = {}, full.validation
if full.other_class:
    other = scans(full.other_class, whole, most=1000, sides=("test",))
    yardstick = {"other_class": other.test, "other_class_name": other.class_}
if settings.conditional:
    every = scans(which, whole, sides=("validation",), most=2000).validation
print(describe(learned))


def mine(side):
    """Which scans of a side of what is learned are of the class judged."""
    return side.labels == full.class_ if settings.conditional else np.ones(len(side), bool)


# %%
spread = np.linspace(0, len(full.train) - 1, 16).astype(int)
figure = plots.grid(
    full.train.images[spread],
    caption=f"Scans of {full.class_} to learn from, {whole} px, one grey scale.",
)
plots.compact(figure)

# %% [markdown]
# What to look for in them, because it is what the generator has to learn: the dark **vitreous** on
# top; the bright **nerve fibre layer** under it; the **foveal pit**; the pair of bright lines at
# the bottom of the retina, of which the lower is the **retinal pigment epithelium** (RPE); the
# grainy **choroid**. **Drusen** are deposits between RPE and Bruch's membrane: they lift the RPE
# into bumps. And everything is covered with **speckle**, the grain of interfering light, which is
# not noise of the camera and does not look like it.

# %% [markdown]
# **First failure: retinas without the disease.** The way everybody begins: a DCGAN (Radford, Metz &
# Chintala, ICLR 2016), whole scans, one class; here with the recipe that served it best in this
# suite, since as published it would need many times what the demo gives it. In the demo's half
# minute (`OCT_FIRST_HOURS`) it draws bands, of which none can be read (`nan`). More time helps
# less than one hopes: after 15 minutes on real scans there are layers and a pit, yet drusen are
# few, low and soft (results/generators.md). Drusen are counted by the *ruler*, a program that
# traces the layers and finds where the RPE rises (notebook 05); real scans are read at the DCGAN's
# own 64 px too, since part of what is missing is resolution.

# %%
from helpers.data.pixels import at_size
from helpers.measures import layers


def drusen_per_scan(images, most=64):
    """Mean number of drusen that the ruler finds, height of the highest (% of a scan), and the
    share of scans that it can read; NaN where it reads none."""
    values = layers.flat_without_drusen(layers.measure(at_size(images[:most], 256)))
    read = values["usable"] == 1
    means = [
        float(values[name][read].mean()) if read.any() else float("nan")
        for name in ("drusen_count", "drusen_height")
    ]
    return *means, float(read.mean())


def print_drusen(found):
    for name, (count, height, read) in found.items():
        print(
            f"{name:22} {count:4.1f} drusen per scan, the highest {height:.1f} % of its height "
            f"({read:.0%} of the scans can be read)"
        )


# %%
from functools import partial

import torch

from helpers.data.batches import batches
from helpers.gan import dcgan, gan
from helpers.gan.sampling import sample
from helpers.generate import load_generator
from helpers.measures.features import Features
from helpers.training.loop import train
from helpers.training.processes import launch
from helpers.training.runs import open_run

features = Features()  # no GPU is touched before a training is launched on all of them
drusen, figure = {"real": drusen_per_scan(full.test.images)}, None
if settings.first_hours or settings.steps:
    first = with_recipe(config.TrainGan(
        preset=settings.preset, data=settings.data, class_=full.class_, size=64, model="dcgan",
        framing="stretch", recipe="best", n_simulated=settings.n_simulated, runs=settings.runs,
        run=f"{settings.run}-first", seed=settings.seed, steps=settings.steps, validation_images=8,
        hours=settings.first_hours, session_hours=settings.session_hours, useful_images=0,
    ))  # fmt: skip
    small = scans(full.class_, first.size, "stretch")
    torch.manual_seed(first.seed)
    beginner = gan.GAN(first, at_size(small.validation.images, 256), features)
    first_run = open_run(first, small, {})
    draw = partial(batches, small.train.images, first.batch_size, seed=first.seed)
    launch(train, beginner, draw, first_run, first, processes=settings.processes)
    drawn = sample(load_generator(first_run.folder), 64, seed=settings.seed)
    drusen["real, reduced to 64 px"] = drusen_per_scan(at_size(full.test.images, 64))
    drusen["DCGAN on whole scans"] = drusen_per_scan(drawn)
    count, _, read = drusen["DCGAN on whole scans"]
    counted = f"{count:.1f} per scan" if read else "the ruler can read none of them"
    figure = plots.grid(
        drawn[:8],
        caption=f"A DCGAN on whole scans, 64 px: where are the drusen? {counted}; real scans have "
        f"{drusen['real'][0]:.1f}.",
    )
print_drusen(drusen)

# %%
figure and plots.compact(figure)

# %% [markdown]
# Why? A scan is two things. Its **shape** is where the RPE runs, how thick the retina is, how
# bright and how noisy this device draws: some dozen numbers, but they move nearly every pixel. Its
# **tissue** is layers, drusen, vessels: what is asked for, and a few per cent of the picture. A
# network that has to learn both spends itself on the first, since that is where its discriminator
# catches it. Faces are never learned so: eyes and mouth are brought to one place before a GAN sees
# them (Karras et al., ICLR 2018, appendix C). B-scans can be aligned as well, and better, since the
# way back is known:
#
# 1. **Align**: the RPE is found (a robust cubic) and levelled, the retina cut out at one size,
#    black and white set to fixed values. What was changed is kept as a row of numbers: the shape.
#    A scan whose RPE cannot be found is left out, and counted.
# 2. **Draw**: the GAN learns crops. How noisy the crop is, how many rows of the scan
#    went into one of its rows, and how much light comes from the depth is told to both networks,
#    the *look*: that is the device, and so none is dropped. And
#    a class says that there are drusen, not how many: what the *ruler* (notebook 05) reads off each
#    training scan (drusen, the highest, their area) is told as three more numbers, the **dials**,
#    and the generator can be asked for more or fewer. Told of every scan they take over what the
#    class means, and heads learn less from such a generator; so at each step a quarter of the
#    scans leave them open. Drusen then come as many, as high and as wide as in patients, and use is
#    kept (results/generators.md). `OCT_DIALS` sets it: on for simulated eyes and where
#    training begins from weights that know dials (those that ship do), else off.
# 3. **Place back**: a shape is drawn (of the same class), the crop is bent, scaled and lit by it,
#    and vitreous and choroid are continued with that device's speckle.

# %%
from helpers.data import shape
from helpers.gan.dials import RULED, with_dials

if settings.framing == "aligned" and settings.dials:
    ruled = scans(which, RULED, sides=("train", "validation"))
    learned.train.shapes = with_dials(learned.train, ruled.train)
    learned.validation.shapes = with_dials(learned.validation, ruled.validation)
if settings.framing == "aligned":
    some = np.flatnonzero(mine(learned.train))
    some = some[np.linspace(0, len(some) - 1, 8).astype(int)]
    crops, own = learned.train.images[some], learned.train.shapes[some]
    bank = shape.Shapes(learned.train.shapes, learned.train.labels)
    new = bank.draw(8, full.class_ if settings.conditional else None, seed=settings.seed)
    back = [shape.place_back(crops, those, whole)[:, None] for those in (own, new)]
    figure = plots.grid(np.concatenate([at_size(crops, whole), *back]), columns=8,
        caption="Training scans. Above: aligned. Middle: placed back with their own shape. Below: "
        "the same tissue in shapes that were drawn.")  # fmt: skip
else:
    bank = figure = None
figure and plots.compact(figure)

# %% [markdown]
# The shapes that are drawn are a smoothed bootstrap: a training scan's numbers, moved at random by
# as much as those of the scans most like it differ, and pulled to their mean, so that mean and
# covariance stay; speckle is averaged over the five scans most like that. No row is a scan's own,
# but what is drawn from few patients lies near them: handle the shapes of patients as you would any
# statistics of them. Are they like the shapes of validation patients? For each number, the largest
# distance between the two cumulative distributions (Kolmogorov and Smirnov; 0 same, 1 apart),
# beside that of real training scans. With 200 and 60 scans 0.2 is within chance: on this page the
# tilt lies beyond it, for real training scans too, and just so the grain.

# %%
if settings.framing == "aligned" and mine(learned.validation).sum() >= 8:
    judged = full.class_ if settings.conditional else None
    sides = [side.shapes[mine(side)] for side in (learned.validation, learned.train)]
    for name, (new, known) in shape.compare(bank.draw(200, judged), *sides).items():
        print(f"{name:10} drawn {new:.2f}   real training scans {known:.2f}")

# %% [markdown]
# ## Model
#
# A DCGAN (Radford, Metz & Chintala, ICLR 2016) is a GAN made of convolutions only. The generator
# starts from a vector $z$ of random numbers, seen as a 1 x 1 picture with many channels, and
# doubles height and width until the picture is there, halving the channels as it goes. The
# discriminator is its mirror image. Three choices made this train where earlier attempts had not:
#
# - strided convolutions instead of pooling: the networks learn how to resize;
# - **BatchNorm** after nearly every layer: it keeps the signal from dying or exploding on the way,
#   and (a side effect) lets the discriminator see a batch as a whole, which punishes a generator
#   that always draws the same;
# - ReLU in the generator, LeakyReLU in the discriminator, so that gradients on their way to the
#   generator also pass through units that are off.
#
# OCT has one channel, and it stays one from end to end.
#
# The **residual** GAN (after R3GAN: Huang et al., NeurIPS 2024) came eight years later and keeps
# the pyramid, but little else:
#
# - **residual blocks**: a block adds a correction to what it is given, $x + B(\phi(A(x)))$ with
#   convolutions $A$, $B$ and a LeakyReLU $\phi$. The sum gives the gradient a way past all
#   blocks, which is what makes deep networks trainable;
# - **Fixup start** (Zhang et al., ICLR 2019) in place of BatchNorm: the last convolution $B$ of
#   every block starts at zero, so that the whole network starts as a shallow one and the signal can
#   neither die nor explode. Without BatchNorm each scan is judged alone, and a gradient penalty on
#   each scan makes sense;
# - **skip outputs** (Karras et al., CVPR 2020): every resolution draws a picture of its own, and
#   the sum of them, doubled and doubled, is the scan. Layers are coarse: they are drawn first, by
#   the small resolutions, while fine ones still learn;
# - **grain noise** (Karras et al., CVPR 2019): speckle differs in every pixel, and to unfold that
#   out of some dozen numbers wastes a network. So it is fed with noise, one number for each pixel,
#   blurred by fixed Gaussians (nearly the point spread function of a scanner), and only learns how
#   strong each is, and where. Kernels that were learned settled on oblique streaks or blotches,
#   which made a quarter of its distance to real scans (results/generators.md). Averaged to coarser
#   maps, the same noise enters the features: where a vessel of the choroid lies differs from eye to
#   eye too, and without that the choroid fills with rings, level lines of the fields that draw the
#   layers;
# - a **limit**: a grey level beyond black or white counts a tenth. Without it some seeds started
#   with blobs far outside the range of any scan. A discriminator tells these apart without knowing
#   what a retina is, and the generator never learns it;
# - **bilinear resampling** where the DCGAN has transposed convolutions, see below;
# - the **look**: how noisy the crop is, how many rows of the scan went into one of its rows, and
#   how much light comes from the depth. That is the device, not the eye; both networks are told, so
#   that the generator need not guess it, and cannot drop the rarer device;
# - a **second look** of the discriminator, at aligned crops: a druse is a rise of one bright line
#   by a few pixels, and in a stack of convolutions little is left of it. So the row of the RPE is
#   read in every column, and a small network looks at that curve. (It is near to what the ruler
#   counts, so drusen per scan is what is trained for; the probe and the distances know nothing of
#   it);
# - the **class**, where conditional: the generator gets an embedding of it beside $z$, and the
#   discriminator's logit is an inner product with one (projection: Miyato & Koyama, ICLR 2018);
# - **dials**, of simulated eyes: how many drusen a scan has, how high and how wide, as the ruler
#   reads them. Both networks are told; the discriminator also learns to read them off a scan, and
#   the generator is held to what it was told (an auxiliary head, as in AC-GAN, Odena et al. 2017).

# %%
from helpers.gan import residual, stylegan

shown = {
    "dcgan": (dcgan.Generator, dcgan.Discriminator),
    "residual": (
        residual.Block,
        residual.Grain,
        residual.Generator,
        residual.Height,
        residual.Discriminator,
    ),
    "stylegan": (stylegan.Modulated, stylegan.Generator),
}
plots.show_source(*shown[settings.model])

# %%
from helpers.gan import judging
from helpers.gan.start import start_from
from helpers.training.runs import count_parameters

torch.manual_seed(settings.seed)
names = tuple(map(str, classes)) if settings.conditional else ()
method = gan.GAN(settings, every.images, features, names, labels=every.labels, shapes=bank)
judging.know(method, learned.train, learned.validation)  # for an early word as it trains
if settings.start:
    print(start_from(method, settings.start))
for name, count in count_parameters(method.networks).items():
    print(f"{name:14} {count / 1e6:6.2f} million parameters")

# %% [markdown]
# Before any training the generator draws blots or patterns: that is what the discriminator is first
# shown. (Drawn with the statistics of the batch, as in training: a BatchNorm's running averages
# know nothing yet.)

# %%
with torch.no_grad():
    blots = method.preview_noise[:8]
    label = [torch.full((8,), method.judged or 0)] if settings.conditional or method.looks else []
    blots = method.networks["generator"](blots, *label)
plots.grid(blots, caption="The untrained generator, eight draws of noise.")

# %% [markdown]
# **Second failure: checkerboards.** Look closely at an untrained DCGAN. In a transposed convolution
# with stride 2 each of the four pixels of a 2 x 2 cell is computed by another quarter of the
# kernel's weights (Odena et al., Distill 2016). Nothing makes the four agree, so a pattern with a
# period of 2 px is there from the first step, and training has to unlearn it in every layer. It is
# a giveaway: in the **spectrum**, how much contrast there is at each fineness, it is a line at 0.5
# cycles per pixel that no retina has. What mends it is to resample first, bilinear, and to convolve
# then, so that even and odd pixels share one kernel. Two untrained generators, as wide as yours:

# %%
from helpers.measures import texture


def line_at_2px(images):
    """Its height over the spectrum around it, in dB: median over pictures, each at one contrast."""
    levels = plots.pixels(images)  # (N, H, W)
    mean, spread = (measure(levels, (1, 2), keepdims=True) for measure in (np.mean, np.std))
    even = ((levels - mean) / (4 * spread + 1e-9)).clip(-1, 1)
    return float(np.median(texture.measure(even[:, None])["checkerboard_2px"]))


torch.manual_seed(settings.seed)
drawn = {}
for name, build in {"transposed": dcgan.Generator, "bilinear": residual.Generator}.items():
    fresh = build(size=settings.size, width=settings.width)
    with torch.no_grad():
        images = fresh(torch.randn(32, fresh.z_dim))
    drawn[name] = (images - images.mean()) / (4 * images.std())
line = {name: line_at_2px(images) for name, images in drawn.items()}
for name, height in line.items():
    print(f"{name:12} line at 2 px: {height:4.1f} dB above its surroundings")

# %%
import matplotlib.pyplot as plt

with plt.rc_context(plots.STYLE):
    figure, (*cells, panel) = plt.subplots(
        1, 3, figsize=(plots.WIDTH, 2.7), width_ratios=(1, 1, 1.5)
    )
    for cell, (name, images), colour in zip(cells, drawn.items(), (plots.ACCENT, plots.REAL)):
        cell.imshow(images[0, 0, :32, :32], cmap="gray", vmin=-1, vmax=1)
        cell.set(title=name, xticks=[], yticks=[])
        panel.semilogy(*plots.power_spectrum(images, axis=2), color=colour, label=name)
    panel.set(xlabel="cycles per pixel, lateral", ylabel="power (grey levels squared)")
    panel.legend()
plots.compact(figure, caption="Untrained generators at one contrast: 32 x 32 px of one picture "
    f"each, and the mean spectrum of 32. Line at 2 px: {line['transposed']:.1f} dB with transposed "
    f"convolutions, {line['bilinear']:.1f} dB with bilinear resampling.")  # fmt: skip

# %% [markdown]
# ## Loss
#
# Write $D(x)$ for the discriminator's logit: above 0 means "real". Its loss is that of any
# classifier (Goodfellow et al., 2014, eq. 1); the generator's asks for the opposite, in the
# *non-saturating* form, because at the beginning the discriminator wins easily and
# $\log(1-\sigma(D))$ would be flat just there:
#
# $$L_D = -\log\sigma(D(x)) - \log\bigl(1-\sigma(D(G(z)))\bigr) \qquad L_G = -\log\sigma(D(G(z)))$$
#
# That is the DCGAN's. Alternatives are one setting away (`OCT_LOSS`). **Hinge** stops caring
# once an image is on the right side by a margin of 1. The **relativistic** loss
# (Jolicoeur-Martineau, ICLR 2019), which the residual GAN has, asks only that a real scan scores
# *above* a synthetic one, pair by pair:
#
# $$L_D = -\log\sigma\bigl(D(x)-D(G(z))\bigr) \qquad L_G = -\log\sigma\bigl(D(G(z))-D(x)\bigr)$$
#
# Why that is better: with the first loss there is one threshold, and a generator that draws one
# plausible scan again and again lies on the right side of it. In pairs every synthetic scan is held
# against a real one, and a kind of eye that the generator has given up keeps scoring above it: the
# loss has no place to rest where modes are dropped (Sun et al., NeurIPS 2020).

# %%
from helpers.gan import losses

logits = torch.linspace(-4, 4, 161)
figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
for name, (discriminator_loss, generator_loss) in losses.LOSSES.items():
    reference = torch.zeros(1)  # for the relativistic loss: a real scan that scores 0
    on_fake = [discriminator_loss(reference, logit[None]) for logit in logits]
    axes[0].plot(logits, on_fake, label=name)
    axes[1].plot(logits, [generator_loss(reference, logit[None]) for logit in logits], label=name)
for axis, owner in zip(axes, ("Discriminator", "Generator")):
    axis.set(title=f"{owner}'s loss", xlabel="logit of a synthetic scan (the real one scores 0)")
axes[0].legend(frameon=False)
plt.close(figure)
figure

# %% [markdown]
# Left: what the discriminator pays when a synthetic scan scores high. Right: what the generator
# pays when it scores low; there BCE lies hidden under the relativistic loss, since the real scan
# scores 0. Both (BCE: the first one above) flatten out where their owner is winning; hinge gives
# the generator the same push everywhere; least squares (Mao et al., ICCV 2017) wants a synthetic
# scan to score just 0, or for the generator just 1, and so also punishes what is past it.
#
# **Gradient penalties.** A loss says where to go, not whether one arrives. Take the smallest GAN
# there is (Mescheder, Geiger & Nowozin, ICML 2018): the real scan is the number 0, the generator
# draws $\theta$, the discriminator is $D(x)=\psi x$. The best end is $\theta=\psi=0$, and plain
# training circles around it: whenever the generator arrives, the slope is still there and drives it
# past. The penalties
#
# $$R_1=\tfrac{\gamma}{2}\,\lVert\nabla_x D\rVert^2 \text{ on real scans} \qquad
# R_2=\tfrac{\gamma}{2}\,\lVert\nabla_x D\rVert^2 \text{ on synthetic ones}$$
#
# flatten the discriminator where scans lie, so that it comes to rest when there is nothing left to
# tell apart. They need one logit per scan that depends on no other: no BatchNorm (`OCT_NORM=none`).


# %%
def duel(gamma, steps=400, rate=0.1):
    """The path of (theta, psi) with the relativistic loss and both penalties."""
    theta, psi = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    (judge, forge), penalty = losses.LOSSES["relativistic"], losses.zero_centred_penalty
    path = []
    for _ in range(steps):
        real, fake = torch.zeros(1, 1, 1, 1, requires_grad=True), theta.view(1, 1, 1, 1)
        on_real, on_fake = (psi * real).flatten(), (psi * fake).flatten()
        flatter = gamma / 2 * (penalty(on_real, real) + penalty(on_fake, fake))
        (d_psi,) = torch.autograd.grad(judge(on_real, on_fake) + flatter, psi, retain_graph=True)
        (d_theta,) = torch.autograd.grad(forge(on_real, on_fake), theta)
        with torch.no_grad():
            psi -= rate * d_psi
            theta -= rate * d_theta
        path.append((theta.item(), psi.item()))
    return np.array(path)


# %%
from helpers.gan.recipes import penalty_weight

paths = {gamma: duel(gamma) for gamma in (0.0, 0.3)}
sizes = np.array(dcgan.SIZES)
rule = [penalty_weight(size) for size in sizes]
with plt.rc_context(plots.STYLE):
    figure, (left, right) = plt.subplots(1, 2, figsize=(plots.WIDTH, 3))
    for (gamma, path), colour in zip(paths.items(), (plots.PALE, plots.ACCENT)):
        left.plot(*path.T, color=colour, lw=1, label=f"gamma {gamma:g}")
    left.plot(0, 0, "k+", ms=9)
    left.set(xlabel="what the generator draws; real: 0", ylabel="slope of the discriminator")
    left.legend()
    right.loglog(sizes, rule, "o-", color=plots.REAL)
    if settings.gamma:
        right.plot(settings.size, settings.gamma, "o", color=plots.ACCENT)
    right.set(xlabel="size of the scans (px)", ylabel="gamma at the start", xticks=sizes)
    right.set_xticks(sizes, sizes)
    right.set_yticks(rule, [f"{weight:g}" for weight in rule])
    right.minorticks_off()
ends = " and ".join(f"{abs(path[-1, 0]):.2f} with gamma {g:g}" for g, path in paths.items())
plots.compact(figure, caption=f"Left: the smallest GAN; after 400 steps its generator is off by "
    f"{ends}. Right: gamma at the start, by the rule below, yours coloured.")  # fmt: skip

# %% [markdown]
# How large? Too small, and the discriminator tells everything apart and its gradient is of no use;
# too large, and it is flat and tells nothing. The right weight grows with the square of the side:
# take the same scan twice as large, and each pixel counts a quarter for the logit, four times as
# many add up, and the sum of squares is a quarter. The rule on the right says just that, from the
# weight that was found at 128 px. But the right weight also depends on the scans and on how far the
# generator has come, so for the residual model it is only where training begins (aligned crops,
# which are more alike than whole scans, at a fifth of it; with it they take twice the learning rate
# and half the batch). From then on gamma is **adapted**: it falls while the
# discriminator's loss is above `OCT_BALANCE` (it tells too little apart; at $\log 2=0.69$ nothing)
# and rises while it is below. `OCT_GAMMA` fixes it instead. Training warns if the loss says that
# the weight is far off. Because a penalty is dear, it is taken every `penalty_every` steps, times
# as much.
#
# **Adam's memory.** Adam divides each step by the root of a running mean of squared gradients. With
# the usual $\beta_2=0.999$ that mean reaches back a thousand steps, and when a penalised
# discriminator suddenly turns steep, the division lags behind, the step is huge, and the run may
# break for good. With $\beta_2=0.9$ it keeps up. R3GAN begins with the same value.
#
# Flat in *which* directions? As published, in all alike. But scans do not vary alike in all: most
# of their contrast is coarse (the spectra at the end of this notebook), and speckle, which decides
# how real a scan looks, differs from other grain only in what neighbouring pixels do. A
# discriminator that must be as flat there as anywhere has little to tell it by. So the gradient is
# split into the mean of every cell of 2 x 2 px and the rest, and the rest counts `OCT_PENALTY_FINE`
# times (1 is the published penalty). Whether that helps is not settled: results/generators.md has
# trials.

# %%
plots.show_source(*losses.LOSSES[settings.loss], losses.zero_centred_penalty, gan.GAN.learn)

# %% [markdown]
# ## Train
#
# One step: show the discriminator a batch of real and a batch of synthetic scans and update it;
# then update the generator so that the same discriminator likes its scans better. No loss here
# falls steadily, since each network moves the other's goal. So two things are watched instead:
# pictures from *fixed* noise, and a **score** on validation patients, smaller is better: the
# *kernel distance* of the class judged (below), plus 400 times what a *probe* lacks to an AUROC of
# 1 (area under the ROC curve; 0.5 is guessing), plus 1000 if the scans look like copies. The probe
# is a linear head that learns the classes from synthetic scans alone and is then asked about the
# patients. Distance alone prefers scans without drusen, since most of a scan is no druse.
#
# Weights swing from step to step. What is kept and shown is their **moving average** (EMA), which
# is nearly always the better generator; its reach grows with the number of scans seen (a *ramp*),
# since an average that remembers the untrained network would be worse than none.
#
# The file that is kept is that of the best validation, and training ends early after
# `OCT_PATIENCE` validations in a row without a better one.
#
# `launch` starts one process per GPU; each takes its share of every batch, and their gradients are
# averaged. Under `torchrun`, and where there is one GPU or none, it simply calls `train`. The run
# is continued if it was interrupted, also from the output of an earlier session that is attached on
# Kaggle, and shown without training if it is finished.

# %%
from helpers.data.batches import balanced_index

run = open_run(settings, full, method.networks, learned)
told = {}
if settings.conditional or method.looks:
    told = {"labels": labels, "index": balanced_index(labels)}  # every class as often as the others
if method.looks:
    told["looks"] = shape.look(learned.train.shapes)[:, : method.looks]
shuffled = partial(batches, learned.train.images, settings.batch_size, seed=settings.seed, **told)
launch(train, method, shuffled, run, settings, processes=settings.processes)
if os.environ.get("RANK", "0") != "0":
    sys.exit()  # of several processes one looks and measures
features.to("cuda" if torch.cuda.is_available() else "cpu")
print(config.short_path(run.folder))

# %% [markdown]
# ## Look
#
# First the same noise over time, a row for each validation. Order comes from coarse to fine: a
# bright band, then layers, then grain, and the lesion last, because it is the smallest and rarest
# thing in the picture. The demo's first row (8,000 images) comes after band and layers: compare the
# bumps of the RPE. `OCT_VALIDATE_EVERY=1000` in a new run (`OCT_RUN`) shows the beginning.

# %%
caption = "Eight fixed draws of noise while training goes on."
plots.compact(plots.filmstrip(run.previews, caption=caption))

# %%
generator = load_generator(run.folder)
synthetic = sample(generator, settings.report_images, seed=settings.seed)
plots.curves(run.metrics(), path=run.folder / "curves.png")

# %% [markdown]
# Left, the losses. Were it a draw, with $D=0$ everywhere, BCE would read $2\log 2 = 1.39$ for the
# discriminator and $\log 2 = 0.69$ for the generator; the relativistic loss 0.69 for both. A
# discriminator loss near 0 means that it nearly always wins: the generator is still pushed, but
# learns little from it. Right, the distance, which is meant to fall, and dashed the probe, which is
# meant to rise; the circle is the checkpoint that was kept.

# %%
from helpers.gan.sampling import classes_of

rows = [sample(generator, 8, settings.seed, class_name=name) for name in classes_of(generator)]
figure = plots.grid(
    torch.cat(rows),
    caption="Synthetic, not chosen; one row for each class that this generator knows: "
    f"{', '.join(classes_of(generator))}. A column has one noise; its shapes are drawn by class.",
)
plots.compact(figure)

# %% [markdown]
# **Ask for drusen.** The same noise, asked for few drusen and for many, within what the training
# scans have; the shape is drawn anew from scans that have about as many, so rows are not the same
# eyes. Does the generator obey? The ruler reads scans that were drawn with dials as the patients
# have them: the correlation of what was asked for and what is read is 1 if it does. On this page it
# is 0.67 for their number and 0.85 for the highest, and on the mean a little more is drawn than is
# asked (3.5 of 3.1, 4.8 of 4.2 %), since dials are told louder by as much as what is drawn falls
# short at a validation, and the generator goes on learning.
# (The ruler labelled the training scans too, so an error of its own is learned and not seen here.)
# What a generator does not do, a choice can: `python -m helpers.generate RUN --dial drusen=5
# --tries 8` draws every scan eight times and keeps the one that the ruler reads most as asked for.

# %%
from helpers.data.pixels import to_levels
from helpers.gan.sampling import has_dials

figure = None
if has_dials(generator) and settings.conditional:
    bank, judged = generator.shapes, full.class_
    count = bank.of(judged)[:, shape.AT["drusen"]]
    wanted = [float(np.quantile(count, share)) for share in (0.05, 0.5, 0.95)]
    rows = [sample(generator, 8, settings.seed, class_name=judged, dials={"drusen": value})
            for value in wanted]  # fmt: skip
    numbers = ", ".join(f"{value:.1f}" for value in wanted)
    figure = plots.grid(
        torch.cat(rows), caption=f"Synthetic: one noise, asked for {numbers} drusen a scan."
    )
    asked = bank.draw(len(synthetic), judged, settings.seed)[:, shape.DIALLED]
    read = layers.flat_without_drusen(layers.measure(to_levels(synthetic)))
    for name, values, key in zip(
        shape.DIALS, asked.T, ("drusen_count", "drusen_height", "drusen_area")
    ):
        known = np.isfinite(read[key])
        together = np.corrcoef(values[known], read[key][known])[0, 1] if known.sum() > 2 else np.nan
        print(f"{name:8} asked for {values.mean():.2f}, read {np.nanmean(read[key]):.2f}, "
              f"correlation {together:.2f}")  # fmt: skip
figure and plots.compact(figure)

# %% [markdown]
# **By hand.** Another seed is another eye, another grain seed the same eye scanned again. The
# retina can be made thicker, tilted, bowed, set higher; a run with dials has its drusen too.
# (Sliders work where the notebook runs; a page that only shows it has none.)

# %%
from helpers.gan.explorer import Explorer

kit = generator.shapes and Explorer(generator, folder=run.folder / "explored")
kit

# %%
from helpers.evaluate.report import complete
from helpers.measures.distances import distance_report

report = complete(distance_report(synthetic, full.train, full.test, features=features, **yardstick))
figure = plots.gallery(
    full.test.images, synthetic, rows=2, source=f"{Path(full.source).name}, patients held out",
    report=report, path=run.folder / "gallery.png",
)  # fmt: skip
plots.compact(figure)

# %% [markdown]
# Now be the sceptic. Do layers run through, or end in mid-air? Are there bumps under the RPE, and
# are they drusen or dents? Two questions need more than eyes.
#
# **Third failure: collapse.** The generator finds a few scans that pass and draws them again and
# again, whatever the noise. *Variety* is a number for it: the variance of the image features (those
# of the kernel distance below) over synthetic scans, as a share of that over validation scans.
# Below 5 % is a collapse, and training warns of it. Near 100 % rules that out and no more: *recall*
# (notebook 05), the share of real scans that lie among synthetic ones, was 0.28 for this one
# where real scans reach 0.95. Real training scans show what
# other patients reach. And since a number is not a look: of as many scans on either side, the two
# most alike. Two real ones may be neighbours in one eye; two synthetic ones have no such excuse.

# %%
described = {"real": method.validation_features, "synthetic": features(synthetic)}
some = full.train.images[:: len(full.train) // 500 + 1]
spread = described["real"].var(0).sum()
variety = {"synthetic": described["synthetic"].var(0).sum() / spread}
variety["real, training"] = features(some).var(0).sum() / spread
for name, share in variety.items():
    print(f"{name:16} variety {share:6.1%} of that of validation scans")


# %%
def most_alike(vectors):
    """The places of the two nearest rows, and how far apart they are."""
    vectors = torch.from_numpy(vectors)
    away = torch.cdist(vectors, vectors).fill_diagonal_(torch.inf)
    return divmod(int(away.argmin()), len(vectors)), float(away.min())


count = min(len(full.validation), len(synthetic))
pictures, apart = [], {}
for name, images in (("real", full.validation.images), ("synthetic", synthetic)):
    pair, apart[name] = most_alike(described[name][:count])
    pictures.append(at_size(images[list(pair)], synthetic.shape[-1]))
figure = plots.grid(np.concatenate(pictures), titles=2 * ["real"] + 2 * ["synthetic"],
    caption=f"The two most alike of {count} real and of {count} synthetic scans; distance in "
    f"features {apart['real']:.1f} and {apart['synthetic']:.1f}. Variety of the synthetic scans: "
    f"{variety['synthetic']:.0%} of that of real ones.")  # fmt: skip
plots.compact(figure)

# %% [markdown]
# What mends it: the relativistic loss, whose pairs give no rest to a generator that leaves eyes
# out; penalties, since a discriminator with steep slopes chases the generator from one scan to the
# next; larger batches, or a smaller learning rate.
#
# **Fourth failure: the discriminator memorises.** With some hundred scans it need not learn what a
# retina looks like; it can learn *these* scans by heart. Then scans of other patients look false to
# it, and what it tells the generator is no longer "more like a retina" but "more like patient 17".
# Adaptive discriminator augmentation (Karras et al., NeurIPS 2020, eq. 1) has a number for that:
#
# $$r_v=\frac{\mathrm{E}\,D(\text{training})-\mathrm{E}\,D(\text{validation})}
# {\mathrm{E}\,D(\text{training})-\mathrm{E}\,D(\text{synthetic})}$$
#
# It is 0 if unseen patients look as real as those it trains on, and 1 if they look as false as what
# the generator draws. The newest checkpoint still has the discriminator, so let us ask it.

# %%
from helpers.training import checkpoint

step, state = checkpoint.load_latest(run.checkpoints)
discriminator = method.networks["discriminator"].cpu().train()  # BatchNorm works as in training
discriminator.load_state_dict(state["networks"]["discriminator"])


@torch.no_grad()
def logits_of(images, looks=None, most=256):
    """Of pictures as the discriminator was shown them: crops and looks, or whole scans."""
    order = np.random.default_rng(settings.seed).permutation(len(images))[:most]
    pixels = torch.from_numpy(plots.pixels(images)[order])[:, None] / 127.5 - 1
    told = []
    if settings.conditional or looks is not None:
        told.append(torch.full((len(pixels),), method.judged or 0))
    if looks is not None:
        told.append(torch.from_numpy(looks[order]))
    parts = zip(*(part.split(settings.batch_size) for part in (pixels, *told)))
    return torch.cat([discriminator(*part) for part in parts]).numpy()


def shown(side):
    looks = shape.look(side.shapes[mine(side)])[:, : method.looks] if method.looks else None
    return side.images[mine(side)], looks


# %%
judged = full.class_ if settings.conditional else None
crops, looks = synthetic, None
if bank is not None:  # the crops of the synthetic scans, and what they were told to look like
    crops = sample(generator, 256, seed=settings.seed, shape="aligned")
    asked = generator.shapes.draw(256, judged, settings.seed)
    looks = shape.look(asked)[:, : method.looks] if method.looks else None
sets = {"training": shown(learned.train), "validation": shown(learned.validation)}
scores = {name: logits_of(*side) for name, side in {**sets, "synthetic": (crops, looks)}.items()}
middle = {name: float(values.mean()) for name, values in scores.items()}
r_v = (middle["training"] - middle["validation"]) / (middle["training"] - middle["synthetic"])
bins = np.histogram_bin_edges(np.concatenate(list(scores.values())), 30)
with plt.rc_context(plots.STYLE):
    figure, axes = plt.subplots(figsize=(plots.WIDTH * 0.75, 2.8))
    for (name, values), colour in zip(scores.items(), (plots.REAL, plots.PALE, plots.ACCENT)):
        axes.hist(values, bins, density=True, color=colour, alpha=0.6, label=name)
        axes.axvline(middle[name], color=colour, ls="--", lw=1)
    axes.set(xlabel="the discriminator's logit; dashed: mean", ylabel="share of scans per unit")
    axes.legend()
plots.compact(figure, caption=f"What the discriminator of step {step} thinks of scans that it "
    f"trained on, of unseen patients and of the synthetic ones. r_v = {r_v:.2f}.")  # fmt: skip

# %% [markdown]
# Only differences count: the relativistic loss does not fix where 0 lies, and all may be negative.
# Three hills in one place: it cannot tell, early in training or at the best of ends. Training and
# validation together and synthetic apart: it knows retinas. Validation between them, or with the
# synthetic ones: it memorises, and what follows is worse and worse pictures from ever smaller
# losses. On this page the hills overlap, and validation lies a fifth of the way: it learns little
# by heart.
# (After a few steps, or where training and synthetic means are nearly one, the ratio says nothing
# and may leave 0 to 1.)
#
# What mends it: **augmentation**, the same random shifts, tilts and greys for real *and* synthetic
# scans, on a share `OCT_AUGMENT` of them, so that no scan comes twice, and yet the generator need
# not draw the changes. (Adapting the share while it trains, to keep $r_v$ at a value, was tried and
# not shown to help: results/generators.md.) A larger **gamma**: to single out one scan among its
# like takes a steep slope just there, and that is what R1 forbids. More patients, or other classes
# (`OCT_CONDITIONAL=1`). And the stop rule, which ends what cannot be mended.

# %% [markdown]
# ## Measure
#
# **Kernel distance.** Each scan is described by 1,280 features of a network trained on photographs
# (EfficientNet-Lite0, ImageNet), and two sets are compared by the maximum mean discrepancy with a
# cubic kernel (Binkowski et al., ICLR 2018), times 1000. Zero means alike. It is *not* the
# published FID or KID, which use another network. A number alone says nothing, so it comes with
#
# - the **floor**: real training scans against scans of unseen patients, the best one can hope for
#   (the estimate is unbiased, so that where two sets are alike it may come out below 0);
# - the **scale**: another class, the same scans blurred, pure noise;
# - the **cost of the resolution**: real scans reduced to this size, against the same at full size.
#
# The real scans are taken at 256 px or more, so that a small picture pays for what it lacks. The
# interval is a bootstrap over *patients*, since scans of one patient are not independent.

# %%
import json

from helpers.evaluate.report import print_table

about = json.loads(run.config.read_text())
report["run"] = {**about["identity"], **about["data"], "weights": generator.weights_hash}
report["training"] = run.metrics()[-1]
_ = print_table(report)

# %%
plots.distance_bars(report, caption="How far from unseen patients, beside the yardsticks.")

# %%
plots.power_spectra(full.test.images, synthetic, caption="Contrast at each fineness.")

# %% [markdown]
# The spectra show what the eye overlooks, in depth and along the scan. A generator that falls off
# too early blurs the speckle (on this page the synthetic curve lies lower beyond 0.1); a spike at
# 0.5 or 0.25 cycles per pixel is the checkerboard. The same number as for the untrained generators
# above (a DCGAN has to unlearn it, bilinear resampling starts without), on crops where those are
# learned (in whole scans a line at 2 px of a crop lies elsewhere):

# %%
drawn = crops if bank is not None else synthetic
real = learned.test.images[mine(learned.test)]
for name, images in (("real, unseen", real), ("synthetic", drawn)):
    print(f"{name:14} line at 2 px: {line_at_2px(images[:64]):4.1f} dB above its surroundings")

# %% [markdown]
# **Is the disease there?** Drusen by the ruler, beside real scans and the DCGAN of the beginning;
# and the probe once more, this time on *test* patients and on features of another network
# (EfficientNet-Lite2, which no training and no choice of a checkpoint has used): a linear head
# learns the class judged and another one from synthetic scans alone, and, to compare, from real
# training scans. After 24,000 images (six minutes of two free cores) it is that of real scans, and
# drusen are as many and as high. Without dials (`OCT_DIALS=0`) heads learn as much, and drusen are
# fewer, lower and half as wide.

# %%
from helpers.measures.probe import probe_auroc

drusen["synthetic"] = drusen_per_scan(synthetic)
print_drusen(drusen)
report["drusen"] = {
    name: dict(zip(("per_scan", "highest", "read"), [v if v == v else None for v in values]))
    for name, values in drusen.items()
}
if full.other_class in classes_of(generator):
    names, most = (full.class_, full.other_class), min(200, settings.report_images)
    others = sample(generator, most, settings.seed, class_name=full.other_class)
    teacher = scans(full.other_class, whole, most=most, sides=("train", "test"))
    outside = Features(name="tf_efficientnet_lite2")

    def rows_of(*sides):
        sides = [side[:most] for side in sides]
        rows = np.concatenate([outside(side) for side in sides])
        return rows, np.repeat(names, [len(side) for side in sides])

    tested = rows_of(full.test.images, teacher.test.images)
    report["probe"] = {
        "synthetic": probe_auroc(*rows_of(synthetic, others), *tested),
        "real": probe_auroc(*rows_of(full.train.images, teacher.train.images), *tested),
    }
    for name, auroc in report["probe"].items():
        print(f"AUROC on unseen patients of a head that learned from {name} scans: {auroc:.3f}")

# %% [markdown]
# Finally a small data set, 64 scans of every class it knows, each PNG marked as synthetic in its
# own metadata. The same from the command line, for any run:
# `python -m helpers.generate RUN --n 1000 --out DIR --seed 0`.

# %%
import shutil

from helpers.generate import export

shutil.rmtree(run.folder / "synthetic", ignore_errors=True)  # of an earlier, shorter training
pictures = export(
    generator, run.folder / "synthetic", n=min(64, settings.report_images), seed=settings.seed
)
(run.folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
for name in ("gallery.png", "curves.png", "report.json"):
    print(config.short_path(run.folder / name))
print(f"{len(pictures)} pictures in {config.short_path(run.folder / 'synthetic')}")

# %% [markdown]
# ## Limits
#
# - The default imitates a **simulation**, not patients. On real scans, some hundred images of some
#   dozen patients teach the look of *those* patients and that device.
# - A small kernel distance says that the sets are alike to a network that knows photographs. It
#   does not say that the drusen are plausible, or that a classifier would learn from them, or that
#   no patient was copied. Notebook 05 asks those questions.
# - A GAN says nothing about how often a finding occurs: rare findings are dropped first.
# - The three numbers are warnings, not proofs: variety in features of photographs can be high while
#   every eye has the same druse, and $r_v$ depends on which few patients validate.
# - A conditional GAN learns whatever tells the classes apart. If they come from different devices,
#   that is the device.
# - Not for clinical use.

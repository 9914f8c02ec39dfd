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
# # 02 · Train a DCGAN that draws drusen OCT
#
# ## What this does, and what to expect
#
# A **generative adversarial network** (GAN) learns to draw OCT B-scans of eyes with drusen from
# nothing but examples. Two networks play against each other: a *generator* turns noise into a
# picture, a *discriminator* is shown pictures and says which are real. Neither is told what a
# retina is. At the end there is a folder of synthetic scans, and a number that says how far they
# are from scans of patients that the networks never saw.
#
# You will see how the two networks are built and why, what their losses mean, how to read the
# curves, and how to judge the pictures without fooling yourself.
#
# | preset | pictures | where | training time |
# |---|---|---|---|
# | `tiny` | 64 px | anywhere; a check that every cell runs | seconds |
# | `demo` (default) | 128 px, simulated eyes | 2 CPU cores | 6 minutes |
# | `colab` | 256 px, OCT2017 | one T4 | 3 hours, set by `OCT_HOURS` |
# | `kaggle` | 256 px, OCT2017 | 2 x T4, or one | 10.5 hours, set by `OCT_HOURS` |
#
# Nothing that is made here is for clinical use.

# %% [markdown]
# ## Setup
#
# On Kaggle and Colab the next cell makes this repository's package `helpers` importable: from a
# data set or utility script that is attached to the notebook, else by installing it, with whatever
# it lacks, from the repository. The torch that is already there stays. Elsewhere it does nothing.

# %%
import os
import subprocess
import sys
from glob import glob
from importlib import metadata

REPOSITORY = "https://github.com/OWNER/synthetic-retinal-oct"
TAG = "v0.1.0"
MOUNTS = ("input", "input/datasets/*", "input/notebooks/*", "usr/lib", "usr/lib/notebooks/*")

if {"KAGGLE_KERNEL_RUN_TYPE", "COLAB_RELEASE_TAG"} & os.environ.keys():
    patterns = [f"/kaggle/{mount}/synthetic?retinal?oct/**/helpers" for mount in MOUNTS]
    attached = [folder for pattern in patterns for folder in glob(pattern, recursive=True)]
    installed = metadata.distributions(name="synthetic-retinal-oct")
    if attached:  # as a data set or a utility script: needs no internet
        sys.path.append(os.path.dirname(attached[0]))
    elif TAG[1:] not in [package.version for package in installed]:
        keep = [f"{name}=={metadata.version(name)}" for name in ("torch", "torchvision")]
        pip = [sys.executable, "-m", "pip", "install", "-q", f"git+{REPOSITORY}@{TAG}", *keep]
        if subprocess.run(pip).returncode:
            raise RuntimeError("pip failed, see above; without internet attach helpers (README).")

# %%
import inspect
import json
import shutil
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown, display

from helpers import config, plots
from helpers.data import batches, describe, prepare
from helpers.generate import export, load_generator, sample
from helpers.losses import adversarial
from helpers.measures.distances import distance_report
from helpers.measures.features import Features
from helpers.methods import gan
from helpers.networks import dcgan
from helpers.processes import launch
from helpers.report import complete, print_table
from helpers.runs import open_run
from helpers.training import train


def show_source(*things):
    """The code that matters, where it is explained."""
    code = "\n\n".join(inspect.getsource(thing).rstrip() for thing in things)
    display(Markdown(f"```python\n{code}\n```"))


# %% [markdown]
# ## Settings
#
# Every setting has a default; a preset changes some of them; the environment changes any
# (`OCT_SIZE=128`); and as a script this notebook takes `--size=128`. A star marks what differs
# from the default. `recipe` decides everything that is left open: `paper` is the DCGAN that
# everybody runs; `best` has half its width, smaller batches, longer steps, mirrored scans,
# augmentation and a moving average, each because it measurably helped on OCT (README).

# %%
# os.environ["OCT_PRESET"] = "kaggle"  # or "colab": on those machines, take the first # away
settings = gan.with_recipe(config.resolve(config.TrainGan))
settings.run = settings.run or settings.model
print(config.show(settings))

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


# %%
def scans(class_, size, most=None):
    return prepare(
        settings.data, class_=class_, size=size, most=most, framing=settings.framing,
        n_simulated=settings.n_simulated, cache=Path(settings.runs) / "cache",
    )  # fmt: skip


data = scans(settings.class_, settings.size)  # what the networks see
full = scans(settings.class_, max(256, settings.size))  # what they are measured against
yardstick = {}
if data.other_class:
    other = scans(data.other_class, max(256, settings.size), most=1000)
    yardstick = {"other_class": other.test.images, "other_class_name": other.class_}
print(describe(data))

# %%
plots.grid(
    data.train.images[:: max(1, len(data.train) // 16)][:16],
    caption=f"Scans to learn from: {data.class_}, {settings.size} px, one grey scale.",
)

# %% [markdown]
# What to look for in them, because it is what the generator has to learn: the dark **vitreous** on
# top; the bright **nerve fibre layer** under it; the **foveal pit**; the pair of bright lines at
# the bottom of the retina, of which the lower is the **retinal pigment epithelium** (RPE); the
# grainy **choroid**. **Drusen** are deposits between RPE and Bruch's membrane: they lift the RPE
# into bumps. And everything is covered with **speckle**, the grain of interfering light, which is
# not noise of the camera and does not look like it.

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

# %%
show_source(dcgan.Generator, dcgan.Discriminator)

# %%
torch.manual_seed(settings.seed)
features = Features()  # no GPU is touched before the training is launched on all of them
method = gan.GAN(settings, full.validation.images, features)
parameters = {
    name: sum(weight.numel() for weight in network.parameters())
    for name, network in method.networks.items()
}
for name, count in parameters.items():
    print(f"{name:14} {count / 1e6:6.2f} million parameters")

# %% [markdown]
# Before any training the generator draws coarse, patterned noise: that is what the discriminator is
# first shown. (Drawn with the statistics of the batch, as in training: BatchNorm's running averages
# know nothing yet.)

# %%
with torch.no_grad():
    untrained = method.networks["generator"](method.preview_noise)
plots.grid(untrained[:8], caption="The untrained generator, eight draws of noise.")

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
# Two alternatives are one setting away (`OCT_LOSS`): **hinge** stops caring once an image is on the
# right side by a margin of 1; the **relativistic** loss asks only that a real scan scores above a
# synthetic one, and needs the gradient penalties R1 and R2 (`OCT_GAMMA`) and a discriminator
# without BatchNorm (`OCT_NORM=none`).

# %%
logits = torch.linspace(-4, 4, 161)
figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
for name, (discriminator_loss, generator_loss) in adversarial.LOSSES.items():
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
# pays when it scores low. BCE and the relativistic loss flatten out where their owner is winning;
# hinge gives the generator the same push everywhere.

# %%
show_source(
    adversarial.LOSSES[settings.loss][0], adversarial.LOSSES[settings.loss][1], gan.GAN.step
)

# %% [markdown]
# ## Train
#
# One step: show the discriminator a batch of real and a batch of synthetic scans and update it;
# then update the generator so that the same discriminator likes its scans better. No loss here
# falls steadily, since each network moves the other's goal. So two things are watched instead:
# pictures from *fixed* noise, and the **kernel distance** to validation patients (below).
#
# Weights swing from step to step. What is kept and shown is their **moving average** (EMA), which
# is nearly always the better generator; its reach grows with the number of scans seen (a *ramp*),
# since an average that remembers the untrained network would be worse than none.
#
# `launch` starts one process per GPU; each takes its share of every batch, and their gradients are
# averaged. Under `torchrun`, and where there is one GPU or none, it simply calls `train`. The run
# is continued if it was interrupted, also from the output of an earlier session that is attached on
# Kaggle, and shown without training if it is finished.

# %%
run = open_run(settings, data, parameters)
shuffled = partial(batches, data.train.images, settings.batch_size, seed=settings.seed)
launch(train, method, shuffled, run, settings, processes=settings.processes)
if os.environ.get("RANK", "0") != "0":
    sys.exit()  # of several processes one looks and measures
features.to("cuda" if torch.cuda.is_available() else "cpu")
print(config.shown(run.folder))

# %% [markdown]
# ## Look
#
# First the same noise over time. Order comes from coarse to fine: a bright band, then layers, then
# grain, and the lesion last, because it is the smallest and rarest thing in the picture.

# %%
plots.filmstrip(run.previews, caption="Eight fixed draws of noise while training goes on.")

# %%
generator = load_generator(run.folder)
synthetic = sample(generator, settings.report_images, seed=settings.seed)
plots.curves(run.metrics(), path=run.folder / "curves.png")

# %% [markdown]
# Left, the losses. Were it a draw, with $D=0$ everywhere, BCE would read $2\\log 2 = 1.39$ for the
# discriminator and $\\log 2 = 0.69$ for the generator. A discriminator loss near 0 means that it
# nearly always wins: the generator is still pushed, but learns little from it. Right, the only
# curve here that is meant to fall.

# %%
report = complete(distance_report(synthetic, full.train, full.test, features=features, **yardstick))
plots.gallery(
    data.test.images, synthetic, rows=2, source=f"{Path(data.source).name}, patients held out",
    report=report, path=run.folder / "gallery.png",
)  # fmt: skip

# %% [markdown]
# Now be the sceptic. Are all synthetic scans of one eye (**mode collapse**)? Is there a regular
# grid in the grain (**checkerboards**, from the upsampling)? Do layers run through, or end in
# mid-air? Are there bumps under the RPE, and are they drusen or dents?

# %% [markdown]
# ## Measure
#
# **Kernel distance.** Each scan is described by 1,280 features of a network trained on photographs
# (EfficientNet-Lite0, ImageNet), and two sets are compared by the maximum mean discrepancy with a
# cubic kernel (Binkowski et al., ICLR 2018), times 1000. Zero means alike. It is *not* the
# published FID or KID, which use another network. A number alone says nothing, so it comes with
#
# - the **floor**: real training scans against scans of unseen patients, the best one can hope for;
# - the **scale**: another class, the same scans blurred, pure noise;
# - the **cost of the resolution**: real scans reduced to this size, against the same at full size.
#
# The real scans are taken at 256 px or more, so that a small picture pays for what it lacks. The
# interval is a bootstrap over *patients*, since scans of one patient are not independent.

# %%
about = json.loads(run.config.read_text())
report["run"] = {**about["identity"], **about["data"], "weights": generator.weights_hash}
report["training"] = run.metrics()[-1]
(run.folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
_ = print_table(report)

# %%
plots.distance_bars(report, caption="How far from unseen patients, beside the yardsticks.")

# %%
plots.power_spectra(data.test.images, synthetic, caption="Contrast at each fineness.")

# %% [markdown]
# The spectra show what the eye overlooks: how much contrast there is at each fineness, in depth
# and along the scan. A generator that falls off too early blurs the speckle; a spike at 0.5 or
# 0.25 cycles per pixel is the checkerboard.
#
# Finally a small data set, each PNG marked as synthetic in its own metadata. The same from the
# command line, for any run: `python -m helpers.generate RUN --n 1000 --out DIR --seed 0`.

# %%
shutil.rmtree(run.folder / "synthetic", ignore_errors=True)  # of an earlier, shorter training
pictures = export(generator, run.folder / "synthetic", n=64, seed=settings.seed)
for name in ("gallery.png", "curves.png", "report.json"):
    print(config.shown(run.folder / name))
print(f"{len(pictures)} pictures in {config.shown(pictures[0].parent)}")

# %% [markdown]
# ## Limits
#
# - The default imitates a **simulation**, not patients. On real scans, some hundred images of some
#   dozen patients teach the look of *those* patients and that device.
# - A small kernel distance says that the sets are alike to a network that knows photographs. It
#   does not say that the drusen are plausible, or that a classifier would learn from them, or that
#   no patient was copied. Notebook 05 asks those questions.
# - A GAN says nothing about how often a finding occurs: rare findings are dropped first.
# - Not for clinical use.

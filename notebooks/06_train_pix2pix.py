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
# # 06 · From a photograph to a scan with pairs: pix2pix
#
# ## What this does, and what to expect
#
# If for every eye both pictures are there, the fundus photograph (DFE) and the B-scan, a network
# can be told what is right: it draws a scan, and the true one is beside it. That is pix2pix.
# Clinics have such pairs, but few are public; the simulated eyes have as many as one likes, **and
# their truth is known**. So
# this notebook can ask what no real data set answers: is each druse drawn where it is?
#
# **What came out** (all numbers: results/translation.md): a U-Net, given the same crops, draws the
# mean scan with a haze where there are drusen. A network that turns each *column* of the photograph
# into one column of the scan puts them in their place: within minutes on one core, at 64 px, it
# finds 40 to 54 % of them, over three trainings, where the ruler finds 55 % on the true scans, and
# the same scans dealt out to other eyes 14 to 19 %. At 256 px (`OCT_SIZE=256`), in 35 to 53
# minutes, it finds 77 to 80 % where the ruler finds 79 %; dealt out, 25 to 31 %. There are false
# ones, too: 1.1 to 1.8 a scan, where the ruler sees 0.3 on the true scans.
#
# | preset | pictures | where | training time |
# |---|---|---|---|
# | `tiny` | 64 px | anywhere; a check that every cell runs | seconds |
# | `demo` (default) | 64 px, simulated eyes | 2 CPU cores | 7 minutes |
# | `colab` | 256 px, simulated eyes or your pairs | one T4 | 2 hours, set by `OCT_HOURS` |
# | `kaggle` | 256 px, simulated eyes or your pairs | 2 x T4 | 6 hours, set by `OCT_HOURS` |
#
# Your own pairs: point `OCT_DFE` and `OCT_DATA` at two folders in which both pictures of an eye
# have one name (`dfe/DRUSEN/P01_OD.png`, `oct/DRUSEN/P01_OD.png`). Pictures without a partner are
# counted and left out; a left eye is never paired with a right one.
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
from helpers import config
from helpers.data.split import describe
from helpers.data.two_modalities import prepare_domains

# %% [markdown]
# ## Settings
#
# A star marks what differs from the default. `network` is `column`, which is explained below, or
# the published `unet`; to train pix2pix as published, on whole photographs and whole scans:
# `OCT_NETWORK=unet OCT_SKIPS=pixel OCT_DFE_FRAMING=full OCT_FRAMING=stretch`.

# %%
# os.environ["OCT_PRESET"] = "kaggle"  # or "colab": on those machines, take the first # away
settings = config.resolve(config.TrainPix2pix)
print(config.format_settings(settings))

# %% [markdown]
# ## Data
#
# Pairs are matched by name and **split by patient**, both eyes of one on the same side.

# %%
domains = prepare_domains(settings, paired=True)
print(describe(domains.oct))

# %% [markdown]
# A pair shows one eye twice, and yet **no pixel of the one corresponds to the same pixel of the
# other**. The photograph looks at the retina from the front; the scan is a cut along one line of
# it, 6 mm wide. What they share is one axis, the place along that line. So the photograph is
# cropped to the strip about the line and stretched: its columns are now those of the scan. And the
# scan is levelled and cropped to the retina (framing `band`), because how deep and how tilted it
# lies is nothing that a photograph could tell.

# %%
import numpy as np

from helpers import plots
from helpers.data.cache import simulated_eye
from helpers.data.pixels import read_image
from helpers.translation import figures


def both_pictures(place):
    """Photograph and scan of one test eye as they come, and where the scan line's middle lies."""
    one, other = domains.dfe.test.scans[place], domains.oct.test.scans[place]
    if one.dataset != "simulated":
        return read_image(one.path), None, None
    eye = simulated_eye(other, max(256, settings.size))
    return eye.dfe, eye.oct, eye.truth.dfe_pixel(eye.truth.x_um.mean(), 0.0)[::-1]


ill = np.flatnonzero(domains.dfe.test.labels != "NORMAL")
sick = ill[0] if len(ill) else 0
photograph, scan, centre = both_pictures(sick)
figure = figures.geometry(
    photograph, scan, centre=centre,
    caption="One test eye. White: the macula's 6 mm; blue: the strip; orange: the scan line.",
)  # fmt: skip
plots.compact(figure)

# %%
from helpers.translation import networks
from helpers.translation.report import pictures

ends = np.linspace(0, len(domains.oct.train) - 1, 8).round().astype(int)
figure = figures.translated(
    pictures(domains.dfe.train).images[ends], pictures(domains.oct.train).images[ends],
    names=("DFE", "its scan"), titles=domains.oct.train.labels[ends],
    caption="Pairs to learn from, as the networks see them: columns are the same places.",
)  # fmt: skip
plots.compact(figure)

# %% [markdown]
# ## Model
#
# **The published generator** (Isola et al., CVPR 2017) is a U-Net: it halves the picture down to
# one pixel and doubles it again, and at every size the decoder is handed what the encoder saw
# there, pixel beside pixel. For a map and its satellite photograph that is the point. Here the
# handed rows are nonsense, and halving the columns throws away what is shared.
#
# **The `column` network** halves rows and never columns, until each column of the strip is one
# vector; neighbouring vectors exchange; and the mirror image unfolds each into a column of the
# scan. Its weights are a tenth as many, and it finds many more of the drusen (below).

# %%
plots.show_source(networks.KINDS[settings.network])

# %%
from pathlib import Path

import torch

from helpers.measures.features import Features
from helpers.training.runs import count_parameters
from helpers.translation.pix2pix import Pix2pix

torch.manual_seed(settings.seed)
features = Features(cache=Path(settings.runs) / "cache" / "features")
method = Pix2pix(settings, domains, features)
for name, count in count_parameters(method.networks).items():
    print(f"{name:14} {count / 1e6:6.2f} million parameters")

# %% [markdown]
# ## Loss
#
# $$\mathcal L=\mathcal L_\mathrm{GAN}(G,D)+\lambda\,\mathrm E\,|y-G(x)|_1,\qquad\lambda=100$$
#
# The second term says *be right on average*. Where the photograph leaves the scan open, and it
# leaves most of it open, speckle above all, the answer that is least wrong on average is a blur.
# The first term says *look like a scan*: the discriminator sees photograph and scan together and
# marks patches, and a blur is no scan. Without the first the pictures are smooth and safe; without
# the second they are crisp and invented. Whether a druse is drawn crisp *and in place* is the test.

# %%
plots.show_source(Pix2pix.step)

# %% [markdown]
# ## Train
#
# The best is kept by what validation patients say: the kernel distance to real scans, plus
# 400 (1 - AUROC) of the class as it is read off the drawn scans, plus 400 (1 - concordance) of the
# height of the RPE, which is what is asked of a translator: a rise in another place, of another
# height or with a bias costs (Lin, Biometrics 1989). It is read off the drawn scan by the ruler and
# held against the truth of simulated eyes (those whose own scan it reads right: drusen higher than
# 60 um it often loses), of real pairs against the same ruler's reading of the eye's own scan.
# Training ends early after `patience` validations without a better one.

# %%
from functools import partial

from helpers.data.two_modalities import paired_batches
from helpers.training.loop import train
from helpers.training.processes import launch
from helpers.training.runs import open_run

run = open_run(settings, domains.oct, method.networks)
paths = partial(paired_batches, domains, settings.batch_size, seed=settings.seed)
launch(train, method, paths, run, settings, processes=settings.processes)
if os.environ.get("RANK", "0") != "0":
    sys.exit()  # of several processes one looks and measures
features.to("cuda" if torch.cuda.is_available() else "cpu")
print(config.short_path(run.folder))

# %% [markdown]
# ## Look

# %%
caption = "Eight photographs of validation patients, translated, while training goes on."
plots.compact(plots.filmstrip(run.previews, line=1, shown=0, caption=caption))

# %%
figure = figures.scores_over_time(
    run.metrics(), caption="Left: losses. Right: what validation patients say; dotted: kept."
)
plots.compact(figure)

# %%
from helpers.generate import load_generator
from helpers.translation.judge import translate

generator = load_generator(run.folder, "cuda" if torch.cuda.is_available() else "cpu")
test, true = pictures(domains.dfe.test), pictures(domains.oct.test).images
chosen = [i for c in domains.classes for i in np.flatnonzero(test.labels == c)[:4]][:8]
drawn = translate(generator, test.images[chosen])
figure = figures.translated(
    test.images[chosen], drawn, true[chosen], titles=test.labels[chosen],
    caption="Test patients: the photograph, what is drawn, and the true scan. Not chosen: the "
    "first of each class.",
)  # fmt: skip
plots.compact(figure)

# %% [markdown]
# ## Measure
#
# Every score stands beside a **control**, the same scans dealt out to other eyes, and a
# **ceiling**: for the class a classifier of equal effort on the photographs, for the drusen the
# *ruler* on the true scans, a program that finds ILM, RPE and Bruch's membrane. A druse is found if
# it sees one within 150 um of its place. The error of the thickness is flattered: a band takes its
# scale from the true scan. Everything is measured on test patients; *real* scans are true ones, in
# the demo of simulated eyes.

# %%
import json

from helpers.translation.report import READER, measure_translation, print_table

scorer = Features(features.device, cache=features.cache, name=READER)
report = measure_translation(generator, domains, settings, features, scorer)
report["run"] = {
    **json.loads(run.config.read_text())["identity"],
    "weights": generator.weights_hash,
}
(run.folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
print_table(report)

# %%
from IPython.display import display

if report["class"]:
    figure = figures.survival(report, caption="What survives the translation.")
    display(plots.compact(figure))

# %% [markdown]
# ### Does the scan add anything?
#
# The scan was drawn from the photograph, and from nothing else of this eye. So **it holds nothing
# about the eye that the photograph does not hold** (the data processing inequality: what is
# computed from *x* alone knows no more about the eye than *x*). What a translator can bring along
# is what it learned from *other* eyes' scans: which shades of a photograph go with a lifted RPE. A
# reader who has seen few labelled photographs may not have found that out himself; a perfect reader
# could not gain.
#
# Four readers of equal effort, linear heads taught by other patients: of the photograph, of the
# translated scan, of the true scan, and of photograph and translated scan side by side. Two more
# rows keep them honest. With *another eye's* translated scan the reader has as many numbers and no
# news; photograph and *true* scan together are the most that there is to gain.
#
# - **A gain would mean** that the translator has learned something from its pairs that this reader,
#   with these labels, has not. It would not mean that the scan shows what the photograph hides, nor
#   that an OCT can be spared; more labelled photographs might do the same.
# - **No gain** means that nobody needs the detour for this question, however right the scan looks.
# - Where the photograph alone is read without error, nothing *can* be gained, and the test is mute.
#   So it is in the demo, where even the true scan is read no better (0.99 against 1.00). Then ask
#   for something harder, or look at fainter disease (results/translation.md does both).

# %%
from helpers.translation.report import four_way, print_four_way, three_pictures

if report["class"]:
    rows, eyes, tested = three_pictures(generator, domains, scorer)
    print_four_way(
        four_way(eyes.labels, *rows, list(domains.classes), eyes.patients, tested=tested)
    )

# %% [markdown]
# **What SSIM and PSNR are worth.** They are what most papers report for pairs. Look at the row: the
# *mean of all training scans*, which shows no eye at all, scores at least as well as anything
# drawn, and a real scan of another person scores worst, because its speckle is its own. They reward
# a blur in the right layers. They do not know what a druse is. Use them to find a mistake in the
# matching of pairs, not to rank translators.
#
# **Place by place.** Where the truth is known, the rise of the RPE along the scan says it all:

# %%
from helpers.data.two_modalities import as_taken, truths_of
from helpers.measures.layers import read_all

both = {scan.dataset for side in (domains.dfe, domains.oct) for scan in side.test.scans}
ill = [i for i in chosen if test.labels[i] == "DRUSEN"][:4]
if both == {"simulated"} and ill:
    picked = [domains.dfe.test.scans[i] for i in ill]
    truths, um = truths_of(picked, settings.size, settings.framing)
    scans = as_taken(translate(generator, test.images[ill]), picked, domains)
    display(plots.compact(figures.in_place(
        scans, truths, read_all(scans), um,
        caption="Drawn scans of eyes with drusen, and how far the RPE rises along them.",
    )))  # fmt: skip
else:
    print("Where drusen lie is known for simulated eyes only.")

# %% [markdown]
# To translate a folder of photographs:
# `python -m helpers.generate RUN --from-dfe PHOTOGRAPHS --out DIR`.
#
# ## Limits
#
# - A simulated photograph shows every druse in a clear medium, with a height that its size and
#   colour give away. No real one does.
# - Where the scan line lay is known here. Of real eyes only devices that take both pictures record
#   it; a photograph of another camera has to be registered first.
# - Real pairs were at hand of five eyes: too few to teach a translator (results/translation.md).
# - Not for clinical use.

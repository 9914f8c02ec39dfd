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
# # 03 · From a photograph to a scan, unpaired: CycleGAN, CUT, and through the evidence
#
# ## What this does, and what to expect
#
# Fundus photographs (DFE) are cheap and plentiful, OCT is not, and OCT shows more. Can a network
# draw the B-scan that belongs to a photograph? Public pairs of both pictures are rare, so this
# notebook learns **without pairs**: from a heap of photographs and a heap of scans of other people.
# CycleGAN does it by going there and back again, CUT by comparing places. A third way asks both
# heaps **where the disease shows**, and draws from the answer.
#
# A translated scan may look right and be wrong. The question here is **whether it is right**, and
# it is answered by measurement. A *real* or *true* scan is one that no network drew; in the demo it
# is of a simulated eye. The *ruler* is a program that finds ILM, RPE and Bruch's membrane (BM) in a
# scan; a rise of the RPE above BM by 2 px of 256 or more it calls a druse.
#
# | question | score | control |
# |---|---|---|
# | do they look like OCT? | kernel distance to unseen patients' scans | real training scans |
# | is the disease still there? | readers of OCT tell the class | scans dealt out to other eyes |
# | is each druse where it is? | the ruler, where the truth is known | scans dealt out likewise |
# | is the photograph hidden in it? | the way back through a file | the way back as it is |
#
# **What came out** (all numbers: results/translation.md): on simulated eyes, after minutes on one
# core, though no training step is ever told which photograph and which scan belong together, 54 %
# of the drusen are in their place where scans are drawn from the evidence (other seeds 28 to 52 %),
# and 32 % with CycleGAN (16 to 31 %). Dealt out to other eyes the same scans have 18 and 17 %; on
# true scans 55 % are found. Part of the class is lost: AUROC 0.75 and 0.87, where the photographs
# have 1.00. On real photographs, after 38 minutes at 128 px, the scans are layered retinas with a
# foveal pit, and the class survives about as well as it can be read off the photographs themselves,
# which is not far from chance. What decides is **geometry**, and being asked for the right thing.
#
# | preset | pictures | where | training time |
# |---|---|---|---|
# | `tiny` | 64 px | anywhere; a check that every cell runs | seconds |
# | `demo` (default) | 64 px, simulated eyes | 2 CPU cores | 15 minutes |
# | `colab` | 256 px, OCT2017 and ODIR | one T4 | 2 hours (`OCT_HOURS`), then the third way |
# | `kaggle` | 256 px, OCT2017 and ODIR | 2 x T4 | 7.5 hours (`OCT_HOURS`), then the third way |
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
# A star marks what differs from the default. `model` is `cyclegan` or `cut`, and beside it the
# third way is trained for `drawing_steps` (or, as `evidence`, alone); `network` is the published
# ResNet or the `column` network that is explained below; `OCT_DATA` are the scans, `OCT_DFE` the
# photographs, and `OCT_CLASSES` says which names of the two sets mean one condition.

# %%
# os.environ["OCT_PRESET"] = "kaggle"  # or "colab": on those machines, take the first # away
settings = config.resolve(config.TrainCyclegan)
settings.run = settings.run or settings.model
print(config.format_settings(settings))

# %% [markdown]
# ## Data
#
# Two heaps, each **split by patient** as everywhere. Unpaired means unpaired: where both sources
# know a patient, as the simulated ones do, every second patient teaches with the photograph and the
# others with the scan, so that no pair can be learned by heart. Every class is drawn equally often
# on both sides. Otherwise a translator that makes its scans look like the heap of scans *has* to
# change healthy eyes into ill ones, if the scans are more often ill.

# %%
domains = prepare_domains(settings)
for modality, source in (("photographs", domains.dfe), ("scans", domains.oct)):
    print(f"{modality}: {describe(source)}\n")

# %% [markdown]
# **Geometry comes first.** A photograph of 45 degrees shows 13 mm of retina from the front. A
# B-scan is a cut along one line of it, and shows what lies *below*; it is taken to be 6 mm wide,
# which is true of the simulated eyes and a guess for others (devices scan 6 to 12 mm). So a row of
# the photograph is not a row of the scan. What the two share is **one axis: the place along the
# scan line**. Right and left eyes are mixed and mirrored, so nasal may be on either side
# (`OCT_ORIENT=1` turns left eyes). Three ways to show a network the photograph:
#
# - `full`: as it is. At 256 px one pixel is 50 um, and a druse of 63 to 125 um all but vanishes;
# - `macula`: the 6 mm that a scan spans, around the fovea. A column of it is a place on the line;
# - `strip`: only 1 mm about the line, stretched to a square. Nothing that lies off the line is left
#   to mislead.
#
# The fovea is looked for, two and a half disc diameters temporal to the disc; where it is unsure, a
# warning says so and the centre of the field is used. Where the line really lay is known for the
# simulated eyes only.

# %%
import numpy as np

from helpers import plots
from helpers.data.cache import simulated_eye
from helpers.data.pixels import read_image
from helpers.translation import figures


def both_pictures(place):
    """Photograph and scan of one test eye as they come, and where the scan line's middle lies."""
    photograph = domains.dfe.test.scans[place]
    if photograph.dataset != "simulated":
        return read_image(photograph.path), None, None
    eye = simulated_eye(photograph, max(256, settings.size))
    return eye.dfe, eye.oct, eye.truth.dfe_pixel(eye.truth.x_um.mean(), 0.0)[::-1]


ill = np.flatnonzero(domains.dfe.test.labels != "NORMAL")
sick = ill[0] if len(ill) else 0
photograph, scan, centre = both_pictures(sick)
figure = figures.geometry(
    photograph, scan, centre=centre,
    caption="One test eye. White: the macula's 6 mm; blue: the strip; orange: the scan line. "
    "Columns of the crops and of the B-scan are the same places.",
)  # fmt: skip
plots.compact(figure)

# %% [markdown]
# The scan needs framing too. How deep the retina lies in the picture, how it tilts, and how tall a
# millimetre is are choices of the operator and the device. No photograph tells them, and a network
# that has to guess them draws the blurred mean of all. The framing `band` takes that away: columns
# are shifted until a smooth curve through the RPE is level (drusen still rise above it), and 2.25
# thicknesses of the retina above it and 1.5 below are kept. What is left to draw is what the eye
# decides: the pit, the layers, the drusen. How thick the retina is as a whole is lost, too.

# %%
from helpers.data.bscan import clean_oct

rows = []
for place in np.linspace(0, len(domains.oct.test) - 1, 8).round().astype(int):
    source = domains.oct.test.scans[place]
    if source.dataset == "simulated":
        whole = simulated_eye(source, 256).oct
    else:
        whole = read_image(source.path)
    rows.append([clean_oct(whole, size=128, framing=f) for f in ("stretch", settings.framing)])
figure = plots.grid(
    np.array(rows).transpose(1, 0, 2, 3).reshape(-1, 1, 128, 128),
    caption=f"Eight test scans, above as they come, below in the framing {settings.framing}.",
)
plots.compact(figure)

# %% [markdown]
# ## Model
#
# **The published generator** is a ResNet: two halvings, residual blocks, two doublings, with
# InstanceNorm, which takes each picture's own brightness and contrast away. Everything is local: a
# pixel of the output is made from the input around the *same* pixel. For horses and zebras that is
# right. Here it says that the top rows of the photograph become the vitreous.
#
# `positions` gives the network two more channels, the row and the column of each pixel; without
# them a convolution does not know how deep in the picture it is, and the depth is what it has to
# invent.
#
# **The `column` network** builds the geometry in. It halves the rows and never the columns, until
# each column of the photograph is *one vector*, lets neighbouring vectors talk, and unfolds each
# into a column of the scan. What is drawn at a place can only come from that place and its
# surroundings (and, weakly, from the whole picture: normalisation takes a mean over all of it).

# %%
from helpers.translation import networks

plots.show_source(networks.KINDS[settings.network], networks.PatchDiscriminator)

# %% [markdown]
# **The discriminator** sees patches only, 70 x 70 px of 256 (a smaller share of the picture would
# not show a retina, a larger one would be learned by heart), and gives each a mark.
#
# ## Loss
#
# CycleGAN and CUT ask a discriminator whether the scan looks real, by least squares (Mao et al.,
# ICCV 2017): its marks should be 1 for real scans and 0 for drawn ones. That alone is satisfied by
# *any* realistic scan, whatever the photograph. Something has to tie the two together:
#
# **CycleGAN** (Zhu et al., ICCV 2017) trains a second generator for the way back, and asks that the
# photograph be restored: $|F(G(x))-x|_1$, and likewise for scans. And since a photograph cannot be
# restored from a healthy scan of the mean eye, the scan must carry the photograph along. The catch
# is in "carry": it may be anatomy, or an invisible pattern of a tenth of a grey level. And if all
# healthy eyes were drawn ill and all ill ones healthy, the cycle would close as well.
#
# The **identity** loss asks $G$ to leave alone what is a scan already, $|G(y)-y|_1$, which keeps
# black from becoming white. It is published for equal numbers of channels; here a scan goes in as
# grey RGB, a photograph by its luminance, and what comes out is compared by luminance.
#
# **CUT** (Park et al., ECCV 2020) has no way back. A place of the output must be more like the same
# place of the input than like other places of the same input, in the features of the generator's
# own encoder. "The same place" is the same *pixel* in the paper, and the same **column** here
# (`contrast`), because that is what photograph and scan share.

# %%
from helpers.translation import losses
from helpers.translation.cut import CUT
from helpers.translation.cyclegan import CycleGAN

if settings.model == "cut":
    plots.show_source(losses.patch_nce, losses.column_places, CUT.step)
else:
    plots.show_source(losses.cycle_loss, losses.identity_loss, CycleGAN.step)

# %% [markdown]
# **Where the cycle is lazy.** A photograph can be restored from a scan in which its drusen are
# drusen, and as well from one in which they are a little grain in the choroid: the cycle never asks
# which. In two other trainings the RPE rose more nearly where it should early on (correlation 0.39
# and 0.49, at the end 0.21 and 0.27): what the discriminator wants of drusen is put anywhere. Noise
# or a blur in the middle of the cycle, a larger weight of it, discriminators that are told the
# class: each was tried and moved nothing beyond the spread of the seeds. A frozen judge that has to
# read the photograph's class off the scan was a trap: what pleases a judge need not look like a
# disease, and the scans stopped looking like OCT (results/translation.md).
#
# ### A third way: through the evidence
#
# No loss above knows what a druse is. What do the two heaps have in common? Not one eye. But each
# image has a **class**, and each column is a place on the retina. So a small network looks at an
# image, a few columns at a time (of 64, 9 in a scan and 5 in a photograph), marks each place for
# each class, and is asked for the class of the whole image by a soft maximum over the marks
# (multiple-instance learning). It was never told *where*; it has to find out, since a place that
# looks alike in all classes cannot tell them apart. One network learns that from
# photographs, another from scans of other people. What they say of a column, its **evidence**, is
# about the same tissue, and a photograph's is brought to the distribution of the scans', quantile
# by quantile.
#
# Then drawing needs no cycle: **the evidence in a scan and that same scan are a pair**, and every
# scan is one. pix2pix (notebook 06) learns to draw the scan from it, and is then shown the evidence
# in a photograph. What passes is what speaks for a class, and where: that is a limit. And since the
# generator is never asked to restore a photograph, nothing teaches it to hide one.
#
# Evidence knows 64 columns and no speckle. In larger pictures the network is therefore given noise
# to make speckle of, and the absolute error is taken of pictures reduced to 64 px: at every pixel
# the least error would be no grain at all.

# %%
from dataclasses import replace
from pathlib import Path

import torch

from helpers.measures.features import Features
from helpers.training.runs import count_parameters
from helpers.translation.evidence import Places
from helpers.translation.through_evidence import ThroughEvidence

plots.show_source(Places.classify, ThroughEvidence.pairs, ThroughEvidence.error)
features = Features(cache=Path(settings.runs) / "cache" / "features")
wanted = [settings]
if settings.model != "evidence" and settings.drawing_steps:  # in steps: the rate has to fall
    wanted.append(replace(settings, model="evidence", run=f"{settings.run}-evidence",
                          steps=settings.drawing_steps, hours=0.0))  # fmt: skip
kinds, methods = {"cyclegan": CycleGAN, "cut": CUT, "evidence": ThroughEvidence}, {}
for one in wanted:
    torch.manual_seed(one.seed)
    method = methods[one.model] = kinds[one.model](one, domains, features)
    for name, count in count_parameters(method.networks).items():
        print(f"{one.model:10} {name:14} {count / 1e6:6.2f} million parameters")

# %% [markdown]
# Below, what is found in test patients' photographs and scans. Where the truth is known, the grey
# curve is how far the RPE rises, which nobody was told:

# %%
from IPython.display import display

if "evidence" in methods:
    ill = [i for i in range(len(domains.dfe.test)) if domains.dfe.test.labels[i] != "NORMAL"][:5]
    evidence = methods["evidence"].networks["generator"].evidence
    display(plots.compact(figures.evidence_along(
        evidence, domains, ill,
        caption="Five eyes of test patients: photograph and scan, and what each says of every "
        "column, without having seen the other.",
    )))  # fmt: skip

# %% [markdown]
# ## Train
#
# The losses of two players do not say who draws well, and a translator that looks converged may
# drift. So every
# `validate_every` photographs it is judged on **validation patients**, by what this notebook is
# about: the kernel distance to real scans, plus 400 (1 - AUROC) of the class as it is read off the
# translated scans, plus, where the truth is known, 400 (1 - concordance) of the height of the RPE,
# which asks whether drusen are where they are and as high as they are (Lin's coefficient: 1 if the
# height is right in every column, 0 for a flat RPE; asked of eyes whose own scan the ruler reads
# right). On simulated eyes the truth is
# known, so there that of validation patients chooses the checkpoint, though it never trains; of
# real photographs without a pair nobody knows it, and the first two have to do. The best is kept,
# and after `patience` validations without a better one the training ends. The rate of learning is
# constant and falls to zero over the last half, where the budget is given in steps.

# %%
from functools import partial

from helpers.data.two_modalities import unpaired_batches
from helpers.training.loop import train
from helpers.training.processes import launch
from helpers.training.runs import open_run

runs = {}
paths = partial(unpaired_batches, domains, settings.batch_size, seed=settings.seed)
for one in wanted:  # each on all GPUs, and none is touched in between
    method = methods[one.model]
    run = runs[one.model] = open_run(one, domains.oct, method.networks)
    launch(train, method, paths, run, one, processes=settings.processes)
if os.environ.get("RANK", "0") != "0":
    sys.exit()  # of several processes one looks and measures
device = "cuda" if torch.cuda.is_available() else "cpu"
features.to(device)
print(*(config.short_path(run.folder) for run in runs.values()), sep="\n")

# %% [markdown]
# ## Look
#
# The same eight photographs of validation patients while training goes on. First the look of a scan
# comes, then differences between eyes; whether these are the right ones, no look can tell.

# %%
for name, run in runs.items():
    caption = f"Eight photographs of validation patients, translated, while {name} is trained."
    display(plots.compact(plots.filmstrip(run.previews, line=1, shown=0, caption=caption)))

# %%
for name, run in runs.items():
    caption = f"{name}. Left: losses. Right: what validation patients say; dotted: kept."
    display(plots.compact(figures.scores_over_time(run.metrics(), caption=caption)))

# %%
from helpers.generate import load_generator
from helpers.translation.judge import translate
from helpers.translation.report import pictures

generators = {name: load_generator(run.folder, device) for name, run in runs.items()}
test = pictures(domains.dfe.test)
chosen = [i for c in domains.classes for i in np.flatnonzero(test.labels == c)[:4]][:8]
both = {scan.dataset for side in (domains.dfe, domains.oct) for scan in side.test.scans}
simulated = both == {"simulated"}
true = None
if simulated:
    own = {scan.path.rpartition("/")[2]: i for i, scan in enumerate(domains.oct.test.scans)}
    where = [own[domains.dfe.test.scans[i].path.rpartition("/")[2]] for i in chosen]
    true = pictures(domains.oct.test).images[where]
drawn = {name: translate(network, test.images[chosen]) for name, network in generators.items()}
for name, scans in drawn.items():
    display(plots.compact(figures.translated(
        test.images[chosen], scans, true, titles=test.labels[chosen],
        caption=f"{name}: photographs of test patients, as the network sees them, what it draws, "
        "and, where it is known, the scan of the same eye. Not chosen: the first of each class.",
    )))  # fmt: skip

# %% [markdown]
# ## Measure
#
# Every score has a **control**, the same scans dealt out to other eyes: a translator that draws a
# fine scan whatever it is shown scores the same with it. And a **ceiling**. For the class, that is
# a classifier of equal effort on the photographs themselves: what a photograph does not show, no
# translation can bring. For drusen it is the ruler on the true scans. For the kernel distance it is
# a floor, real training scans, and neither is near it: 133 and 219, not 0. The thickness is
# flattered: a band takes its scale from the true scan. The judges of OCT are linear heads on
# another network than training used,
# and learned from scans of patients who taught the translator nothing; none reads an eye whose true
# scan it knows. They are shown translated scans as 8 bit and slightly blurred.

# %%
import json

from helpers.translation.report import READER, measure_translation, print_table

scorer, reports = Features(device, cache=features.cache, name=READER), {}
for one in wanted:
    run, network = runs[one.model], generators[one.model]
    report = reports[one.model] = measure_translation(network, domains, one, features, scorer)
    identity = json.loads(run.config.read_text())["identity"]
    report["run"] = {**identity, "weights": network.weights_hash}
    (run.folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{one.model}")
    print_table(report)

# %%
for name, report in reports.items():
    if report["class"]:
        caption = f"{name}: what survives the translation."
        display(plots.compact(figures.survival(report, caption=caption)))

# %% [markdown]
# A druse is found if the ruler sees one within 150 um of its place. Read `drusen found` beside
# `shuffled` and beside `false drusen`: whoever draws drusen everywhere finds them all. At this size
# the ruler finds 55 % on the true scans. Below, place by place; triangles mark the true drusen, and
# without an orange line the ruler could not read the scan:

# %%
from helpers.data.two_modalities import as_taken, truths_of
from helpers.measures.layers import read_all

ill = [i for i in chosen if test.labels[i] == "DRUSEN"][:4]
if simulated and ill:
    picked = [domains.dfe.test.scans[i] for i in ill]
    truths, um = truths_of(picked, settings.size, settings.framing)
    for name, network in generators.items():
        scans = as_taken(translate(network, test.images[ill]), picked, domains)
        display(plots.compact(figures.in_place(
            scans, truths, read_all(scans), um,
            caption=f"{name}: scans of eyes with drusen, and how far the RPE rises along them.",
        )))  # fmt: skip
else:
    print("Where drusen lie is known for simulated eyes only.")

# %% [markdown]
# **The hidden message.** Take a scan that CycleGAN drew and go back to the photograph. Then write
# the same scan to a file, blur it so little that nobody would notice, and go back again. What is
# lost in between hung on detail too fine to see. In the demo that is nothing: 4.0 grey levels both
# times. (A coarser message would survive the file, and this test would not see it.)

# %%
from helpers.translation.lesions import as_a_file

if "cyclegan" in generators:
    there, cycle = drawn["cyclegan"], reports["cyclegan"]["cycle"]
    plain = translate(generators["cyclegan"], there, "dfe")
    honest = translate(generators["cyclegan"], as_a_file(there), "dfe")
    display(plots.compact(figures.translated(
        test.images[chosen], plain, honest, titles=test.labels[chosen],
        names=("photograph", "there and back", "through a file"),
        caption=f"Error of the cycle: {cycle['plain']:.1f} grey levels, through a file "
        f"{cycle['honest']:.1f}.",
    )))  # fmt: skip
else:
    print("There is no way back without CycleGAN.")

# %% [markdown]
# **Placed back.** What is drawn is a level band: neither how a scan is tilted nor how bright its
# device draws can be in a photograph. A whole scan takes a *shape* besides, which has to come from
# elsewhere: here one drawn for each eye from those of **its true class** that the weights that ship
# know (notebook 02). So do not ask these whole scans whether the class survived. Whoever has an
# older scan of the eye takes its own (`shape.align`).

# %%
from helpers.data.pixels import to_float, to_levels
from helpers.data.shape import crops_of_bands, place_back

if settings.framing == "band":
    shapes, last = load_generator("simulated").shapes, list(drawn)[-1]
    of_eyes = [shapes.draw(1, label, seed=k)[0] for k, label in enumerate(test.labels[chosen])]
    crops = crops_of_bands(to_levels(drawn[last])[:, 0])
    whole = to_float(place_back(crops, np.stack(of_eyes), 256)[:, None])
    display(plots.compact(plots.grid(
        whole, titles=list(test.labels[chosen]), columns=4,
        caption=f"{last}: the same eyes as whole scans of 256 px, each in a shape of its class.",
    )))  # fmt: skip
else:
    print("Only bands are put back into whole scans.")

# %% [markdown]
# To translate a folder of photographs:
# `python -m helpers.generate RUN --from-dfe PHOTOGRAPHS --out DIR`, and for whole scans
# `--whole simulated`, or a run of notebook 02 that learned from scans of yours.
#
# ## Limits
#
# - On simulated eyes a photograph shows every druse in a clear medium and the scan line is known.
#   On real ones the fovea is estimated, and at 128 or 256 px most photographs of eyes with AMD show
#   few drusen.
# - Real photographs differ in brightness more than in disease, and part of that is drawn as a
#   thicker or deeper retina.
# - No pair trains, but class labels are used: to draw classes equally often, to choose which
#   checkpoint is kept, and, through the evidence, to find where a class shows. What parts the
#   classes of a photograph and is no disease, such as a camera, would be drawn as one. On simulated
#   eyes the truth of validation eyes chooses the checkpoint, too.
# - Short trainings on a CPU, one seed on real pictures, where of the class survives what is in the
#   photographs, and that is little (AUROC 0.59 to 0.61). At 256 px, simulated eyes, only the way
#   through the evidence came to something; 45 minutes of CycleGAN or CUT were not enough there.
# - A scan drawn from a photograph is **an invention**: a photograph does not determine the depth.
#   What is drawn in the layers above the drusen comes from other people's eyes.
# - Scans drawn from the evidence show what no eye has: at 64 px a dark patch under the RPE at the
#   fovea of healthy eyes, bright dots on the ILM and waves in the choroid of eyes with drusen. All
#   drusen come out about as high as each other.
# - The judges are linear heads, and the ruler errs (results/ruler.md).
# - Not for clinical use.

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
# # 07 · What varies inside one disease
#
# ## What this does, and what to expect
#
# Two eyes with drusen are not alike. One has three low ones, one a dozen in a row; one retina is
# thick, one tilted, one has its fovea at the edge of the scan. A classifier that says "drusen" says
# nothing about that. **Could a style-based generator (StyleGAN) help to explore what varies inside
# one disease?** This notebook trains one, twice, and asks with numbers:
#
# 1. are there straight **directions** in its space of styles along which one part of the anatomy
#    changes, and nothing else, and does a second training find them again;
# 2. can a scan of an **unseen patient** be found in that space, how well, and edited there;
# 3. which **kinds** of eyes does it draw as often as they occur, and which patients not at all?
#
# At the end there is an explorer with sliders, and an answer in plain words, put together from the
# numbers of this very run. A direction counts only if a ruler sees it: its change must be larger
# than the ruler's own error, monotonic, and leave the rest of the anatomy alone.
#
# | preset | pictures | where | time |
# |---|---|---|---|
# | `tiny` | 64 px; explores two small generators that come with `helpers` | anywhere | 1 minute |
# | `demo` (default) | 128 px, simulated eyes | 2 CPU cores | 2 x 12 minutes, and 10 to explore |
# | `colab` | 256 px, OCT2017 | one T4 | 2 x 1.5 hours |
# | `kaggle` | 256 px, OCT2017 | 2 x T4 | 2 x 5.2 hours |
#
# (On this page: 32,000 images each, on a machine that had other work. The times of the last two
# rows are budgets; neither has run yet.) After so few images a generator is a beginner, and the
# numbers show it; results/styles.md has real patients. Nothing that is made here is for clinical
# use.

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

from helpers import config
from helpers.data.prepare import prepare
from helpers.data.split import describe
from helpers.gan import stylegan
from helpers.gan.recipes import with_recipe

# %% [markdown]
# ## Settings
#
# Everything that notebook 02 takes, and what is explored. `n_runs` generators are trained with
# different seeds, since one run proves nothing: what is true of the disease has to return. A star
# marks what differs from the default. `OCT_EXISTING_RUNS=runs/a,runs/b` explores two trained runs
# instead (this notebook's own training still runs; make it short with `OCT_STEPS=1`).

# %%
# os.environ["OCT_PRESET"] = "kaggle"  # or "colab": on those machines, take the first # away
settings = with_recipe(config.resolve(config.ExploreStyles))
settings.run = settings.run or "stylegan"
if settings.conditional:
    raise ValueError("conditional=1: what varies inside one disease needs one class; set it to 0.")
many = len(settings.existing_runs.split(",")) if settings.existing_runs else settings.n_runs
if many < 2:  # said before the first training, not after it
    raise ValueError("what is found has to return in a second training: OCT_N_RUNS=2 or more.")
print(config.format_settings(settings))

# %% [markdown]
# ## Data
#
# As in notebook 02: one class, split **by patient**. Training patients teach, validation patients
# choose the checkpoint, test patients are projected and compared with at the end. By default the
# eyes are simulated, which has one great advantage here: their true anatomy is known.


# %%
def scans(size):
    return prepare(
        settings.data, class_=settings.class_, size=size, framing=settings.framing,
        n_simulated=settings.n_simulated, cache=Path(settings.runs) / "cache",
    )  # fmt: skip


data, full = scans(settings.size), scans(max(256, settings.size))
settings.class_ = data.class_  # as the source spells it
print(describe(data))

# %%
from helpers import plots

figure = plots.grid(
    data.train.images[:: max(1, len(data.train) // 16)][:16],
    caption=f"{data.class_}, {settings.size} px, one grey scale. What differs from scan to scan?",
)
plots.compact(figure)

# %% [markdown]
# Write down what you see vary before you read on: height of the scan in the picture, tilt and bow,
# thickness, the pit, contrast, grain, and somewhere among all that the number, the size and the
# place of the drusen. The disease is a small part of what varies inside the disease.

# %% [markdown]
# ## Model
#
# In a DCGAN the noise $z$ *is* the first layer of the picture. $z$ has to be Gaussian, and what
# varies in eyes is not: if thick retinas with many drusen do not occur, a Gaussian leaves no hole
# for them, so the generator has to bend the space, and straight lines in $z$ become curves. The
# style-based generator (Karras, Laine & Aila, CVPR 2019) does the bending before the drawing:
#
# - a **mapping network** turns $z$ into a *style* $w$. It may bend as it likes, so nothing forces
#   $W$, the space of styles, to be curved: factors of variation can lie straight in it;
# - the picture starts from a **constant**, the same for every eye;
# - the style enters at every resolution by **modulation**: input channel $i$ of a convolution is
#   scaled by $s_i(w)$. Features are switched on and off, they are not drawn by $w$;
# - **demodulation** (StyleGAN2, CVPR 2020) divides by the size that results,
#   $W'_{ijk} = s_i W_{ijk} \big/ \sqrt{\sum_{i,k} (s_i W_{ijk})^2}$ for the convolution's weights
#   $W_{ijk}$ from input $i$ to output $j$ at place $k$, so that one style cannot swamp the others.
#   It stands in for normalisation, without its artefacts;
# - **noise**, one number per pixel, is added for what is different in every pixel (speckle, vessels
#   of the choroid), so that $w$ need not describe it.
#
# (Before all that $z$ is scaled to a mean square of 1, `normalise`, so that only its direction
# counts.) Each resolution can be given a style of its own; that space is called $W^+$ (Abdal, Qin &
# Wonka, ICCV 2019). Here there
# is one style for each resolution, one channel from end to end, and no custom GPU code. The
# discriminator, the loss and the augmentation are those of the residual GAN of notebook 02.

# %%
plots.show_source(stylegan.Mapping.forward, stylegan.Modulated.forward, stylegan.Generator.draw)

# %%
from dataclasses import fields

import torch

from helpers.gan import gan
from helpers.gan.styles.directions import needs_styles
from helpers.measures.features import Features
from helpers.training.runs import count_parameters

torch.manual_seed(settings.seed)
features = Features()  # no GPU is touched before the training is launched on all of them
training = config.TrainGan(**{f.name: getattr(settings, f.name) for f in fields(config.TrainGan)})
needs_styles(gan.build(training)[0])
built = dict(zip(("generator", "discriminator"), gan.build(training)))
for name, count in count_parameters(built).items():
    print(f"{name:14} {count / 1e6:6.2f} million parameters")

# %% [markdown]
# ## Loss
#
# The relativistic loss with the penalties R1 and R2, as in notebook 02. StyleGAN adds two ideas to
# make $W$ smooth. Training on both was tried and is **left out**: in trainings as short as ours
# neither was shown to help, and mixing looked worse (results/styles.md):
#
# - **style mixing**: some scans get the coarse styles of one $z$ and the fine ones of another.
#   Levels learn not to rely on each other. But which layers lie where, and where their edges are,
#   do belong together in a retina;
# - the **path-length penalty**: a step of one size in $W$ should change every picture by the same
#   amount, $\bigl(\lVert J_w^\top y\rVert - a\bigr)^2$. $J_w$ holds the derivatives of all pixels
#   by $w$, $y$ is a picture of random numbers over $\sqrt{HW}$, and $a$ the running mean. How
#   uneven the lengths are without the penalty is measured below.

# %%
from helpers.gan.losses import path_lengths

plots.show_source(path_lengths)

# %% [markdown]
# ## Train
#
# The same settings with two seeds, one after the other.

# %%
from dataclasses import replace
from functools import partial

from helpers.data.batches import batches
from helpers.training.loop import train
from helpers.training.processes import launch
from helpers.training.runs import open_run

runs = []
for number in range(settings.n_runs):
    seed = settings.seed + number
    own = replace(training, seed=seed, run=f"{settings.run}-{seed}")
    torch.manual_seed(seed)
    method = gan.GAN(own, full.validation.images, features)
    run = open_run(own, data, method.networks)
    shuffled = partial(batches, data.train.images, own.batch_size, seed=seed)
    launch(train, method, shuffled, run, own, processes=own.processes)
    runs.append(run)
if os.environ.get("RANK", "0") != "0":
    sys.exit()  # of several processes one looks and measures
device = "cuda" if torch.cuda.is_available() else "cpu"
_ = features.to(device)

# %%
from helpers.generate import load_generator

folders = (
    settings.existing_runs.split(",") if settings.existing_runs else [run.folder for run in runs]
)
generators = [load_generator(folder, device) for folder in folders]
generator = generators[0]
for one, folder in zip(generators, folders):
    if (one.size, one.classes) != (settings.size, 0):
        raise ValueError(
            f"{folder}: draws {one.size} px and {one.classes} classes; to explore it takes a "
            f"generator of {settings.size} px (OCT_SIZE) and one class."
        )
print("explored:", ", ".join(config.short_path(folder) for folder in folders))
plots.compact(plots.curves(runs[0].metrics(), caption=f"The training {runs[0].folder.name}."))

# %% [markdown]
# ## Look
#
# **Truncation.** The mean of all styles draws an average eye. Pulled towards it by a factor $\psi$,
# every eye becomes more ordinary: quality is bought with variety. $\psi=1$ is what was learned.

# %%
from helpers.data.pixels import at_size
from helpers.gan.styles import figures

z = torch.randn(6, generator.z_dim, generator=torch.Generator().manual_seed(settings.seed))
z = z.to(device)
with torch.inference_mode():
    pulled = {psi: generator(z, truncation=psi).float().cpu() for psi in (0, 0.5, 0.8, 1)}
figure = figures.rows(
    [list(at_size(images, settings.size)) for images in pulled.values()],
    [f"truncation {psi:g}" for psi in pulled],
    caption="Six eyes, each column one z and one grain, not chosen.",
)
plots.compact(figure)

# %% [markdown]
# **What does each resolution decide?** Take two eyes, and give the first the style of the second at
# one resolution alone. What moves the retina, what changes its layers, what only its grain? The
# number says how much of the picture changes, for this pair.

# %%
import numpy as np

from helpers.gan.styles.directions import render

with torch.inference_mode():
    w = generator.styles(z)
    swapped = [w[:1]]
    for level in range(generator.levels):
        changed = w[:1].clone()
        changed[:, level] = w[1, level]
        swapped.append(changed)
    grain = z[:1, generator.latent :]
    crossed = render(generator, torch.cat([*swapped, w[1:2]]), grain)
change = np.abs(crossed.astype(float) - crossed[0]).mean((1, 2, 3))
heads = [
    "A",
    *(f"{4 * 2**k} px: {c:.0f}" for k, c in enumerate(change[1:-1])),
    f"B: {change[-1]:.0f}",
]
figure = figures.rows(
    [list(crossed)], [""], heads,
    caption="Eye A, A with B's style at one resolution, and B; mean change in grey levels of 255.",
)  # fmt: skip
plots.compact(figure)

# %% [markdown]
# **What does the noise decide?** The same style under six grains. If part of the anatomy comes out
# of the noise, no direction in $W$ can steer it. The share of a measure's variance that the style
# decides is estimated from 16 styles, each under 16 grains: scans of one style differ by their
# noise alone, means of styles by the style (analysis of variance; the ruler's error counts as
# noise).

# %%
from helpers.gan.styles.directions import WORDS, decided_by_style

decided = decided_by_style(generator, min(16, settings.n_test), settings.seed)
for name, share in decided.items():
    print(f"{WORDS[name]:20} decided by the style: {share:4.0%}, by the noise: {1 - share:4.0%}")
with torch.inference_mode():
    same = render(generator, w[:1].expand(len(z), -1, -1), z[:, generator.latent :])
figure = plots.grid(same, columns=6, caption="One style, six grains.")
plots.compact(figure)

# %% [markdown]
# ## Measure
#
# **Are the pictures any good?** The kernel distance to unseen patients beside its yardsticks
# (notebook 02 explains them), and how much of the real variety is reached (notebook 05), among
# scans of one size: real ones of 128 px among ones of 256 px have a coverage of 0.5 by themselves.
# A generator that draws poor scans has nothing to say about patients. On this page it does draw
# poor ones (120 of them reach 3 % of a training patient's scans): what follows shows the method,
# and nothing of patients.

# %%
from helpers.evaluate.report import complete, print_table
from helpers.gan.sampling import sample
from helpers.measures import coverage
from helpers.measures.coverage import coverage_report
from helpers.measures.distances import distance_report

drawn = (sample(one, settings.report_images, settings.seed) for one in generators)
synthetic = [at_size(images, settings.size) for images in drawn]
report = complete(
    distance_report(synthetic[0], full.train, full.test, features=features)
    | {"coverage": coverage_report(*map(features, (synthetic[0], data.train.images,
                                                   data.test.images)))}  # all of one size
)  # fmt: skip
_ = print_table(report)

# %%
figure = plots.gallery(data.test.images, synthetic[0], rows=2, report=report)
plots.compact(figure)

# %% [markdown]
# ### Directions
#
# Draw some thousand scans, let the **ruler** of `helpers.measures.layers` read each (surfaces by
# shortest paths, drusen as rises of the RPE), and ask how its readings depend on $w$.
#
# - *Principal components* of $W$ (GANSpace, Härkönen et al., NeurIPS 2020): where styles vary most.
#   Nobody says what they mean.
# - *Fitted directions*: a ridge regression of each measure on $w$, a straight line whose
#   coefficients are held small. They point where the measure grows fastest. But drusen and
#   thickness may grow together in the data, so from every direction the part is removed along which
#   the measures of *other* families change.
#
# The unit is one standard deviation of the styles along the direction. How much of a measure's
# variance does a straight line predict, on scans left out of the fit ($R^2$; with few draws it
# reads too low, since more than a hundred numbers are fitted)? And does it from $z$? If the mapping
# network does what it is there for, $W$ is the straighter of the two.

# %%
from helpers.gan.styles.directions import fit

plots.show_source(fit)

# %%
from helpers.gan.styles.directions import FAMILIES, draw_sample, linear

samples = [draw_sample(one, settings.n_drawn, settings.seed) for one in generators]
found = [
    fit(drawn, components=settings.n_components, weights_hash=one.weights_hash)
    for drawn, one in zip(samples, generators)
]
readable = np.isfinite(samples[0].values["tilt"]).mean()
print(f"the ruler can read {readable:.0%} of {settings.n_drawn} draws")
from_z = [linear(drawn.z, drawn.values) for drawn in samples]
from_w = [dict(zip(directions.names, directions.explained)) for directions in found]
for name in FAMILIES:
    both = [f"{w_share.get(name, np.nan):.2f} from w, {z_share[name]:.2f} from z"
            for w_share, z_share in zip(from_w, from_z)]  # fmt: skip
    print(f"{WORDS[name]:20} share of the variance predicted: {'; '.join(both)}")

# %% [markdown]
# Now the test, on other scans. Every one of them is put to five places along a direction, from
# $-2$ to $+2$ standard deviations, all else and its grain unchanged, and read again. How wrong the
# ruler is on one scan is known from simulated eyes, whose anatomy is known. **A direction is
# accepted** if the change from end to end is larger than that error, the mean moves one way at
# every step, at least 80 % of the scans end in the right order, no measure of another family
# changes by more than half as many standard deviations, and the scans stay readable. (Families:
# drusen, thickness, fovea, tilt. Printed: `beyond_error`, the change over that error; `ends_right`;
# `others`, the largest change of another family over the own one; `readable`.)

# %%
from helpers.data.simulated.simulate import make_eye
from helpers.gan.styles.directions import accept, effects
from helpers.measures.true_layers import ruler_errors

known_eyes = [make_eye(900_000 + k, "DRUSEN", eye=("OD", "OS")[k % 2], size=settings.size,
                       pictures=("oct",)) for k in range(60)]  # fmt: skip
errors = ruler_errors(known_eyes)
measured = []
for one, directions, drawn in zip(generators, found, samples):
    base = draw_sample(one, settings.n_test, settings.seed + 1000)
    measured.append(effects(one, directions, base))
    accept(measured[-1], directions, drawn, errors)
figure = figures.effects_matrix(
    found[0], caption="From end to end; framed: its own measure; *: accepted in this training."
)
plots.compact(figure)

# %%
for name in found[0].names:
    verdict = found[0].report[name]
    words = {k: f"{v:.2f}" if isinstance(v, float) else v for k, v in verdict.items()
             if k not in ("measure", "changes", "in_sd")}  # fmt: skip
    print(f"{name:18} {verdict['measure']:18}", *(f"{k} {v}" for k, v in words.items()))
figure = figures.effect_curves(
    measured[0], found[0], errors,
    caption="Each measure along its own direction: mean and middle half of the scans. Grey: the "
    "ruler's error about the start. Orange: accepted.",
)  # fmt: skip
plots.compact(figure)

# %% [markdown]
# The pictures behind the numbers: one eye along every fitted direction. Look for what the ruler
# does not measure. Does the choroid turn bright as the retina grows thicker? Then that is no thick
# retina but another *device*, whose scans are less high, so that every retina takes more of them.
# The regression found what goes with thickness in the data. The test may refuse such a direction,
# but only the picture says why.

# %%
from helpers.gan.styles.directions import POSITIONS

base = draw_sample(generator, 8, settings.seed + 2000)
fitted = [name for name in found[0].names if name in FAMILIES]
walk = []
for name in fitted:
    places = np.concatenate([found[0].put(base.w[:1], name, position) for position in POSITIONS])
    styles = torch.from_numpy(places.astype(np.float32)).to(device)
    styles = styles[:, None].repeat(1, generator.levels, 1)
    walk.append(list(render(generator, styles, base.grain[:1].to(device))))
labels = [f"{WORDS[n]}{' *' if n in found[0].accepted else ''}" for n in fitted]
figure = figures.rows(walk, labels, [f"{p:+g} SD" for p in POSITIONS],
                          caption="One eye, one grain. *: accepted.")  # fmt: skip
plots.compact(figure, shades=16)

# %% [markdown]
# **Does it return?** The second training has another $W$, so vectors cannot be compared; what they
# do can be. The number is the cosine between what a direction of the first training changes, over
# all measures, and what a direction of the second changes that was accepted for the same measure;
# at least 0.9, and it is taken for the same direction; 0.00 is printed if none was accepted there.
# Of more trainings the worst counts. Most of
# this is that both were accepted, which asks for little else to change; the rest is that the side
# effects are alike.

# %%
from helpers.gan.styles.directions import ALIKE, returns

again = returns(*found)
for directions, folder in zip(found, folders):
    print(f"{Path(folder).name}: accepted {', '.join(directions.accepted) or 'none'}")
for name, cosine in again.items():
    verdict = "returns" if cosine >= ALIKE else "does not return"
    print(f"{name:18} {verdict}: {cosine:.2f}")

# %% [markdown]
# **How even is $W$?** The length that the path-length penalty would make equal, over 32 eyes: the
# root mean square over 16 random pictures $y$ for each, or the noise of $y$ would be taken for that
# of the eyes. If it varies much, one step moves some eyes more than others.

# %%
torch.manual_seed(settings.seed)
lengths = []
for w, noise in zip(samples[0].w[:32], samples[0].grain[:32].to(device)):
    style = torch.from_numpy(w).to(device).repeat(16, generator.levels, 1).requires_grad_()
    squares = path_lengths(generator.draw(style, noise[None]), style).detach().square()
    lengths.append(squares.mean().sqrt().item())
uneven = np.std(lengths) / np.mean(lengths)
print(f"path length {np.mean(lengths):.3f}, its standard deviation over eyes {uneven:.0%}")

# %% [markdown]
# ### Projection
#
# Where in this space is a scan of a patient it never saw? **Projection** looks for the styles whose
# picture comes nearest, by gradient descent through the generator. It starts from a guess, a
# regression from image features to styles. It compares means of small cells and not pixels, since
# the speckle of a scan cannot and need not be matched. And it pays for styles that are unlikely.
#
# The control is the same projection held against *another* eye's scan: if that is as near, nothing
# was found.

# %%
from helpers.gan.styles.projection import Projector

plots.show_source(Projector.__call__)

# %%
from helpers.gan.styles.projection import check_scan


def readable_scans(split, most):
    """Places of up to `most` scans that an OCT generator can be given, patients in turn."""
    turns = {}
    for number, scan in enumerate(split.scans):
        turns.setdefault(scan.patient, []).append(number)
    order = sorted((turn, k) for numbers in turns.values() for turn, k in enumerate(numbers))
    chosen = []
    for _, number in order:
        try:
            check_scan(split.images[number], settings.size, split.scans[number].path)
        except ValueError as error:
            print(f"left out: {error}")
            continue
        chosen.append(number)
        if len(chosen) == most:
            break
    if len({split.scans[k].patient for k in chosen}) < 2:
        raise ValueError("scans of two unseen patients are needed to project: add test patients.")
    return chosen


chosen = readable_scans(data.test, settings.n_test)
unseen = data.test.images[chosen]
project = Projector(generator, samples[0], features)
ways = {
    name: project(unseen, steps=settings.projection_steps, plus=plus)
    for name, plus in (("W", False), ("W+", True))
}
drawn = {n: render(generator, way.styles.to(device), samples[0].grain[:1].to(device))
         for n, way in ways.items()}  # fmt: skip

# %%
from helpers.gan.styles.projection import same_anatomy

patients, dice = data.test.patients[chosen], np.random.default_rng(settings.seed)
# the control: not one and the same eye for all, which may be an odd one
others = [dice.choice(np.flatnonzero(patients != patient)) for patient in patients]
for name, way in ways.items():
    away = same_anatomy(unseen, drawn[name])
    other = same_anatomy(unseen, drawn[name][others])
    surfaces = ", ".join(f"{k} {np.nanmean(v):.1f} (another eye {np.nanmean(other[k]):.1f})"
                         for k, v in away.items())  # fmt: skip
    print(f"{name:3} error {way.error.mean():5.1f} grey levels, styles {way.distance.mean():.2f} "
          f"SD from the mean (draws: 1); surfaces off by % of the height: {surfaces}")  # fmt: skip

# %%
show = slice(0, settings.n_projected)
figure = figures.rows(
    [list(unseen[show]), *(list(pictures[show]) for pictures in drawn.values())],
    ["unseen scan", *(f"projected, {name}" for name in ways)],
    caption="Test patients and their projections, under one grain.",
)
plots.compact(figure)

# %% [markdown]
# Look at the drusen: on this page most are gone from the projections, though grey levels and
# surfaces come near. Small errors do not show that the disease was kept.
#
# **Do the directions line up with anatomy?** For each unseen scan its anatomy is known: the truth
# of simulated eyes, the ruler's reading of real ones. Compare the ranks with (a) what the fitted
# directions say of the scan's styles, without looking at any picture, (b) the ruler on the
# projected picture. With simulated eyes the ruler on the scan itself is the ceiling. With 48 scans
# a correlation below about 0.3 cannot be told from none.

# %%
from helpers.data.cache import simulated_eye
from helpers.gan.styles.directions import read_measures
from helpers.gan.styles.projection import lines_up, readings
from helpers.measures.layers import flat_without_drusen
from helpers.measures.true_layers import true_measures


def known_anatomy(split, chosen):
    """The measures of scans: their truth, if they are simulated, else the ruler's reading."""
    if split.scans[0].dataset != "simulated":
        return read_measures(split.images[chosen]), "the ruler's reading"
    rows = [true_measures(simulated_eye(split.scans[k], 256).truth) for k in chosen]
    known = {name: np.array([row[name] for row in rows], float) for name in FAMILIES}
    return flat_without_drusen(known), "the truth"


known, source = known_anatomy(data.test, chosen)
agreement = {
    "styles, W": lines_up(readings(ways["W"].styles, found[0]), known),
    "styles, W+": lines_up(readings(ways["W+"].styles, found[0]), known),
    "ruler on the projection, W+": lines_up(read_measures(drawn["W+"]), known),
    "ruler on the scan": lines_up(read_measures(unseen), known),
}
print(f"rank correlation with {source}, {len(chosen)} scans of {len(set(patients))} patients")
for name in fitted:
    print(f"{name:18}", *(f"{way}: {values[name]:+.2f}  " for way, values in agreement.items()))

# %% [markdown]
# **Edit** a patient's scan, and **interpolate** between two patients. An edit takes the projected
# styles a step along a direction: first the number of drusen, which is what one would want, then
# the returned direction that a line predicts best (if none returned, the best of those refused).
# Interpolation walks straight from one patient to the other. The ruler says whether an edit did
# what its name says. And even then it is an invention about a real eye: useful to ask "what would
# the classifier say if", never a prognosis.

# %%
from helpers.gan.styles.projection import moved

styles, noise = ways["W+"].styles.to(device), samples[0].grain[:1].to(device)
steps = (-2, -1, 0, 1, 2)
sure = [name for name in fitted if again.get(name, 0) >= ALIKE]  # else the best of those refused
surest = max(sure or fitted, key=from_w[0].get)
edits = {}
for name in dict.fromkeys((fitted[0], surest)):
    row = torch.cat([moved(styles[:1], found[0], {name: step}) for step in steps])
    edits[name] = render(generator, row, noise)
    read = read_measures(edits[name])[name]
    print(f"{WORDS[name]:20} as read:", *(f"{step:+d} SD: {value:.1f}  "
                                          for step, value in zip(steps, read)))  # fmt: skip
between = torch.cat([torch.lerp(styles[:1], styles[1:2], t) for t in (0, 0.25, 0.5, 0.75, 1)])
figure = figures.rows(
    [*map(list, edits.values()), list(render(generator, between, noise))],
    [*(WORDS[name] for name in edits), "patient 1 to 2"], [f"{step:+d} SD" for step in steps],
    caption="A projected scan of an unseen patient, edited; last row: from one patient to another.",
)  # fmt: skip
plots.compact(figure)

# %% [markdown]
# A film says more than a row: along the surest direction and back.

# %%
from IPython.display import Image

folder = Path(settings.runs) / f"{settings.run}-explored"
frames = [moved(styles[:1], found[0], {surest: step}) for step in np.linspace(-2, 2, 7)]
film = figures.film(folder / f"{surest}.gif", render(generator, torch.cat(frames), noise))
found[0].save(folder / "directions.json")
print(config.short_path(film))
Image(film.read_bytes())

# %% [markdown]
# ### The distribution
#
# Group the real training scans by their image features into *modes*, and give every unseen and
# every synthetic scan to the nearest. Does each mode get its share? Which patients does no
# synthetic scan come near? The control is what *other patients' real scans* reach, in the same
# number.

# %%
described = {
    "training": features(data.train.images),
    "unseen": features(data.test.images),
    "synthetic": features(synthetic[0]),
}
groups = coverage.find_modes(described["training"], settings.n_modes, settings.seed)
people = {"training": data.train.patients, "unseen": data.test.patients, "synthetic": None}
shares = {
    name: coverage.shares(groups.of(rows), groups.count, people[name])
    for name, rows in described.items()
}
apart = {name: coverage.difference(side["share"], shares["training"]["share"])
         for name, side in shares.items() if name != "training"}  # fmt: skip
print("scans that would have to change their mode to match the training patients: "
      f"synthetic {apart['synthetic']:.0%}, unseen patients {apart['unseen']:.0%}")  # fmt: skip
figure = figures.mode_shares(
    shares,
    caption="Shares of the modes of training patients, with 95 % intervals over patients "
    "(synthetic: over scans).",
)
plots.compact(figure)

# %%
pictures = {"training": data.train.images, "synthetic": synthetic[0]}
typical = {name: groups.typical(described[name], each=3) for name in pictures}
rows = [
    [None if row is None else pictures[name][row]
     for name in pictures for row in [*typical[name][k], None, None, None][:3]]
    for k in range(groups.count)
]  # fmt: skip
figure = figures.rows(
    rows, [f"mode {k + 1}" for k in range(groups.count)], ["training"] * 3 + ["synthetic"] * 3,
    caption="The three training scans nearest to each mode's centre, then the three nearest "
    "synthetic ones (fewer where there are none).",
)  # fmt: skip
plots.compact(figure, shades=16)

# %%
dice = np.random.default_rng(settings.seed)
some = {name: rows[np.sort(dice.permutation(len(rows))[:400])] for name, rows in described.items()}
points = coverage.flat_map(groups, *some.values(), seed=settings.seed)
groups_on_map = groups.of(some["training"])
middles = {str(k + 1): np.median(points[0][groups_on_map == k], 0)
           for k in range(groups.count) if (groups_on_map == k).any()}  # fmt: skip
figure = figures.scatter(
    dict(zip(described, points)), middles,
    caption="Real and synthetic scans by their features. Numbers: modes. Colour without grey, or "
    "grey without colour: a hint to look there, no proof (a t-SNE opens gaps of its own).",
)  # fmt: skip
plots.compact(figure)

# %%
count = min(len(described["unseen"]), len(described["synthetic"]))
equal = {name: described[name][dice.permutation(len(described[name]))[:count]]
         for name in ("synthetic", "unseen")}  # fmt: skip
near = {name: coverage.reached(described["training"], equal[name], people["training"])
        for name in equal}  # fmt: skip
for name, reach in near.items():
    values = np.array(list(reach.values()))
    print(f"{count} {name} scans reach {values.mean():.0%} of a training patient's scans on "
          f"average, and of {np.sum(values == 0)} of {len(values)} patients none")  # fmt: skip
least = list(near["synthetic"])[:6]
rows = [np.flatnonzero(people["training"] == patient)[0] for patient in least]
nearest = [np.linalg.norm(described["synthetic"] - described["training"][r], axis=1).argmin()
           for r in rows]  # fmt: skip
figure = figures.rows(
    [list(data.train.images[rows]), list(synthetic[0][nearest])], ["patient", "nearest synthetic"],
    caption="The training patients that are reached the least, and the nearest synthetic scan.",
)  # fmt: skip
plots.compact(figure)

# %% [markdown]
# ### Play
#
# Move the sliders. Only accepted directions have one; if none was accepted, train for longer. Start
# from a random eye or from one of the projected patients, and save what you see with the recipe
# that draws it again. Another day, `load_generator` and `directions.load_directions` bring both
# back from the run's folder and `directions.json`.

# %%
from helpers.gan.explorer import Explorer

names = [f"unseen scan {k + 1}" for k in range(len(chosen))][show]
Explorer(generator, found[0], dict(zip(names, zip(unseen, ways["W+"].styles))),
         folder=folder / "saved")  # fmt: skip

# %% [markdown]
# ### Answer
#
# Could StyleGAN help to explore the intra-pathology distribution? From the numbers above:

# %%
import json

from IPython.display import Markdown

kept = [name for name, cosine in again.items() if cosine >= ALIKE]
lesion = [name for name in FAMILIES if FAMILIES[name] == "drusen"]
named = ", ".join(WORDS[name] for name in kept if name in FAMILIES) or "none"
extra = [
    f"{name} ({WORDS[found[0].report[name]['measure']]})" for name in kept if name not in WORDS
]
lines = [from_w[0].get(name, np.nan) for name in lesion]
distance = report["kernel_distance"]
truth = ", ".join(f"{rho:.2f} ({WORDS[name]})" for name, rho in agreement["styles, W+"].items())
answer = f"""
**Directions.** Of {len(FAMILIES)} measures of anatomy, {len(set(kept) & set(FAMILIES))} have a
straight direction that was accepted and returned in every training: {named}. Principal components
that did: {", ".join(extra) or "none"}. Of the three measures of drusen:
{len(set(kept) & set(lesion))}. By estimate the style decides
{min(decided[n] for n in lesion):.0%} to {max(decided[n] for n in lesion):.0%} of what varies in the
drusen; straight lines fitted to {settings.n_drawn} draws predict {np.nanmin(lines):.0%} to
{np.nanmax(lines):.0%} of it.

**Agreement.** Read off the styles of unseen patients, directions agree with {source} by rank
correlations of {truth}.

**Patients.** Unseen scans are projected with an error of {ways["W+"].error.mean():.0f} grey levels.
{count} synthetic scans reach {np.mean(list(near["synthetic"].values())):.0%} of a training
patient's scans on average, {count} scans of other patients
{np.mean(list(near["unseen"].values())):.0%}; {apart["synthetic"]:.0%} of the synthetic scans would
have to be of another kind to match the patients' mix ({apart["unseen"]:.0%} of other patients').

**Quality.** Kernel distance {distance["value"]:.0f} to unseen patients (real to real
{distance["floor"]:.1f}).

**So**: {f"a tool to look at and to ask with, along {named}" if sure else "not from this training"}.
It is no census of the disease: what it draws rarely may be frequent, what it never draws exists.
"""
(folder / "answer.md").write_text(answer.lstrip())
(folder / "explored.json").write_text(json.dumps(
    {"report": report, "directions": found[0].report, "returns": again,
     "others": [other.report for other in found[1:]],
     "explained": dict(zip(found[0].names, found[0].explained.tolist())),
     "from_z": from_z[0], "decided_by_style": decided, "agreement": agreement, "apart": apart,
     "projection": {n: [float(w.error.mean()), float(w.distance.mean())] for n, w in ways.items()},
     "path_length_variation": float(uneven)}, indent=1) + "\n")  # fmt: skip
Markdown(answer)

# %% [markdown]
# ## Limits
#
# - The default imitates a **simulation**: directions found in it are those of our drawing of
#   drusen. They check the method, not the disease.
# - The ruler measures what it was built for. Reticular pseudodrusen, pigment, texture, fluid may
#   vary along a direction without a number noticing. Look at the rows.
# - A fitted direction is the best *straight* line. What is not straight in $W$ is not found: then
#   `explained` is low, and no slider is offered.
# - "Accepted" is a verdict over some dozen scans. On one patient's eye a slider may do something
#   else; the explorer shows the difference.
# - Two trainings on the same patients agree about *these* patients.
# - A projected scan is a portrait by a painter who has seen some hundred eyes. What he has not seen
#   he replaces. An edit is not a prognosis. A projection of a patient is data of that patient; so
#   are its edits, the film, what the explorer saves of it, and the outputs of this notebook.
# - Modes are groups in features of a network that knows photographs; how many there are is a
#   setting, and neighbouring ones flow into each other.
# - Not for clinical use.

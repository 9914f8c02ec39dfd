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
# # 01 · Explore the data: one retina, two kinds of picture
#
# ## What this does, and what to expect
#
# The notebooks of this suite learn from two kinds of picture of the same retina. A **fundus
# photograph** (here *DFE*, for the dilated fundus examination at which it is taken) is a colour
# picture of the back of the eye, seen from the front. An **OCT B-scan** (optical coherence
# tomography) is a cut through it: light instead of ultrasound, a few micrometres fine, depth
# downwards. One shows *where* something is, the other *in which layer*.
#
# You will see what both show in four conditions, what physics adds to an OCT that is not anatomy,
# what is wrong in the files one is given, and how they are brought into one form. The last part
# measures a mistake that is easily made and hard to notice: splitting the data by image.
#
# | preset | pictures | where | time |
# |---|---|---|---|
# | `tiny` | 64 px, 64 simulated scans of each kind | anywhere; a check of every cell | seconds |
# | `demo` (default) | 256 px, 960 simulated scans of each kind | 2 CPU cores | about 3 minutes |
# | `colab`, `kaggle` | 256 px, OCT2017 and ODIR | one session | mostly reading files, once |
#
# It leaves `runs/explore/manifest.csv`, a list of every image with its patient, and a cache of the
# decoded images, so that a second run starts at once. Nothing here is for clinical use.

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
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from helpers import config, plots
from helpers.data.prepare import prepare
from helpers.data.simulated.simulate import make_eye
from helpers.data.split import describe

plt.rcParams.update(plots.STYLE)
warnings.simplefilter("ignore", UserWarning)  # prepare's warnings are shown by describe()

# %% [markdown]
# One small thing for the pages below: `picture` puts a caption under a figure and turns it into a
# small PNG with fewer shades, because speckle does not compress, and this file is shared.

# %%
picture = plots.compact

# %% [markdown]
# ## Settings
#
# Every setting has a default; a preset changes some of them; the environment changes any
# (`OCT_SIZE=128`); and as a script this notebook takes `--size=128`. A star marks what differs
# from the default. `OCT_DATA` and `OCT_DFE` point at your own OCT and DFE images.

# %%
settings = config.resolve(config.Explore)
explore = Path(settings.runs) / "explore"
explore.mkdir(parents=True, exist_ok=True)
print(config.format_settings(settings))

# %% [markdown]
# ## Data
#
# ### One eye, seen twice
#
# By default the images are *simulated*: for every patient an anatomy is drawn (layers, vessels,
# lesions, all in micrometres) and rendered twice, as a photograph and as a B-scan. So for these
# images, and for no others, it is known what is in them. Every figure below that draws the truth
# uses a simulated eye, also when `OCT_DATA` points at real scans.

# %%
eye = make_eye(11, "DRUSEN", eye="OD", size=512, grade=0.6)


def extents(truth, size):
    """(left, right, bottom, top) in mm for imshow: DFE from the fovea, OCT in depth."""
    (column, row), (um_x, um_y) = truth.dfe_fovea, truth.dfe_um_per_px
    edges = np.array([-0.5, size - 0.5])
    x, y = (edges - column) * um_x / 1000, (edges - row) * um_y / 1000
    across = (edges - truth.oct_fovea_column) * truth.oct_um_per_px[0] / 1000
    return (*x, *y[::-1]), (*across, size * truth.oct_um_per_px[1] / 1000, 0)


# %%
photo_mm, scan_mm = extents(eye.truth, 512)
figure, axes = plt.subplot_mosaic([["photo", "macula"], ["photo", "scan"]], figsize=(8, 4.7))
for name, shape in (("photo", 1), ("macula", 2.6 / 6)):
    axes[name].imshow(eye.dfe, extent=photo_mm, aspect="auto")
    axes[name].annotate("", (scan_mm[1], 0), (scan_mm[0], 0),
                        arrowprops={"arrowstyle": "->", "color": "white", "lw": 1.2})  # fmt: skip
    axes[name].set(ylabel="mm below the fovea", box_aspect=shape)
axes["photo"].set(title="DFE: 45 degrees", xlabel="mm from the fovea")
axes["macula"].set(title="DFE: the macula, enlarged", xlim=scan_mm[:2], ylim=(1.3, -1.3))
axes["macula"].tick_params(labelbottom=False)
axes["scan"].imshow(eye.oct, "gray", vmin=0, vmax=255, extent=scan_mm, aspect="auto")
axes["scan"].set(title="OCT along the arrow", xlabel="mm from the fovea", ylabel="mm deep",
                 box_aspect=0.45)  # fmt: skip
picture(figure, "A simulated right eye with drusen. The arrow is the line that the OCT scans, 6 mm "
        "through the fovea; the B-scan lies under the macula on the same lateral axis. Its depth "
        "is stretched, as in clinical exports.")  # fmt: skip

# %% [markdown]
# In the photograph: the **optic disc**, bright, where the nerve leaves the eye (towards the nose:
# to the right in a right eye); the **vessels** that leave it in four arcades; between them the
# **macula**, darker, with the **fovea** in the middle, where one looks with. **Drusen** are the
# small yellow spots.
#
# In the B-scan light comes from above. The **vitreous** is clear, hence dark. Then come the layers
# of the retina; the dip is the fovea, where they give way to let light through. In clinical names,
# from the vitreous outwards:
#
# | boundary | below it lies |
# |---|---|
# | ILM, inner limiting membrane | nerve fibre layer (RNFL): bright, thicker towards the disc |
# | RNFL/GCL | ganglion cells |
# | GCL/IPL | inner plexiform layer: where cells connect, rather bright |
# | IPL/INL | inner nuclear layer: cell bodies, dark |
# | INL/OPL | outer plexiform layer |
# | OPL/ONL | outer nuclear layer: the photoreceptors' bodies, dark |
# | ELM, external limiting membrane | inner segments of the photoreceptors |
# | EZ, ellipsoid zone | a bright line, then the outer segments |
# | RPE, retinal pigment epithelium | the brightest band; **drusen lie under it** |
# | BM, Bruch's membrane | choroid: vessels, grainy, fading with depth |

# %%
rows, um = eye.truth.rows, eye.truth.oct_um_per_px[1]
x_mm, right = eye.truth.x_um / 1000, eye.truth.x_um > 0
figure, axis = plt.subplots(figsize=(8, 4))
axis.imshow(eye.oct, "gray", vmin=0, vmax=255, extent=scan_mm, aspect="auto")
top = rows["ILM"][-1] * um / 1000 - 0.12
for number, name in enumerate(rows):
    depth = rows[name] * um / 1000
    axis.plot(x_mm[right], depth[right], color=plots.ACCENT, lw=0.8)
    axis.annotate(name, (x_mm[-1], depth[-1]), (1.04, (top + 0.075 * number)),
                  textcoords=("axes fraction", "data"), va="center", fontsize=8,
                  arrowprops={"arrowstyle": "-", "color": plots.PALE, "lw": 0.6})  # fmt: skip
low, high = rows["BM"].max() * um / 1000 + 0.35, max(0, top - 0.2)
axis.text(x_mm[0] + 0.1, high + 0.06, "vitreous", color="white", fontsize=8)
axis.text(x_mm[0] + 0.1, low - 0.04, "choroid", color="white", fontsize=8)
axis.set(xlabel="mm from the fovea", ylabel="mm deep", ylim=(low, high))
picture(figure, "The same B-scan; on the right half the boundaries that the simulation drew. Left, "
        "the eye has to find them alone: that is what reading an OCT is.")  # fmt: skip

# %% [markdown]
# ### A list of images that knows its patients
#
# Every source, simulated or real, first becomes a **manifest**: one row per image, with modality,
# class and *patient*. The patient comes from a `manifest.csv`, from the file name where the data
# set has a rule (OCT2017: CLASS-PATIENT-N), from a folder, at whatever depth (both eyes and all
# visits of a person are one patient), or from `OCT_PATIENT`, a regular expression. Where nothing
# says, blocks of 50 consecutive files stand in, and you are told so. What was understood is shown
# before anything is trained, with every file accounted for and what is doubtful about it;
# `python -m helpers.data FOLDER` prints the same for a folder of yours.

# %%
from helpers.data.sources import take_in

found = {
    "oct": take_in(settings.data, modality="oct", n_simulated=settings.n_simulated),
    "dfe": take_in(settings.dfe, modality="dfe", n_simulated=settings.n_simulated),
}
listed = {modality: intake.scans for modality, intake in found.items()}
for intake in found.values():
    print(intake, end="\n\n")
picture(plots.show_intake(found["oct"], caption="Of every class a scan; what was left out or looks "
        "odd in a folder of yours is shown beside them, one picture of each kind."))  # fmt: skip

# %% [markdown]
# ### What is wrong in files
#
# Images collected over years from many machines hold surprises, and a network trains on them
# without complaint. So here is a folder with the usual ones: three patients with good scans, and
# files that are empty, cut off, no image at all, a single pixel, of one grey value, a copy under
# another name; and three that are unusual but fine (16 bits per pixel, transparency, CMYK). Others
# can be read and are no scan, or not only one: a photograph, a negative, an export with its
# infrared picture beside it, a scan on its side, a mask.

# %%
import shutil
import tempfile

from PIL import Image

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name) / "found_images"
for patient in range(3):
    (folder / f"DRUSEN/patient{patient}").mkdir(parents=True)
    for side in ("OD", "OS"):
        scan = Image.fromarray(make_eye(patient, "DRUSEN", eye=side).oct)
        scan.save(folder / f"DRUSEN/patient{patient}/{side}.png")
here = folder / "DRUSEN/patient0"
good = (here / "OD.png").read_bytes()
(here / "empty.png").touch()
(here / "cut_off.png").write_bytes(good[: len(good) // 2])
(here / "no_image.jpeg").write_text("<html>404 Not Found</html>")
shutil.copy(here / "OD.png", folder / "DRUSEN/patient1/copy.png")
print(sorted(path.name for path in here.iterdir()))

# %%
from helpers.data.pixels import read_image

level = make_eye(7, "DRUSEN").oct
Image.fromarray(level[:1, :1]).save(here / "one_pixel.png")
Image.fromarray(0 * level).save(here / "black.png")
Image.fromarray(level.astype(np.uint16) * 16).save(here / "sixteen_bit.png")
Image.fromarray(level[::-1]).convert("RGBA").save(here / "transparent.png")
Image.fromarray(level[:, ::-1]).convert("CMYK").save(here / "cmyk.jpeg")
odd, there = make_eye(9, "DRUSEN", size=256), folder / "DRUSEN/patient2"
Image.fromarray(odd.dfe).save(there / "odd1.png")
Image.fromarray(255 - odd.oct).save(there / "odd2.png")
infrared = np.pad(odd.dfe[..., 1], ((0, 0), (0, 4)))
Image.fromarray(np.hstack([infrared, odd.oct])).save(there / "odd3.png")
Image.fromarray(np.rot90(odd.oct).copy()).save(there / "odd4.png")
Image.fromarray(np.uint8(60 * (level > 90))).save(there / "OS_mask.png")
for path in sorted(here.iterdir()):
    try:
        image = read_image(path)
        print(f"{path.name:16} {image.dtype}, {image.shape}")
    except ValueError as error:
        print(f"{path.name:16} left out: {str(error).replace(f'{path}: ', '').split(' (')[0]}")

# %% [markdown]
# `read_image` gives 8-bit grey or RGB whatever the file was, or an error that names the file.
# What is *on* a picture is looked at too, and what was found is shown, one of each kind:

# %%
picture(plots.show_intake(take_in(folder), caption="A folder as one gets it. First a scan of the "
        "class, then what its name gives away, then what is on the pictures: mended where that is "
        "safe (a negative, a scan beside its infrared picture), else left out."))  # fmt: skip

# %% [markdown]
# `prepare`, which does everything from the source to the images, leaves such files out and **says
# so**: left out silently, a class that is half broken would look like a rare disease.

# %%
checked = prepare(folder, class_="DRUSEN", size=64, cache=folder / "cache", progress=False)
print(describe(checked).replace(str(folder), "..."))
temporary.cleanup()

# %% [markdown]
# Some faults are in the picture. Devices turn a tilted scan upright and fill the corners with
# white; other exports pad with black. A network takes a wedge for anatomy, or, if one clinic's
# exports have it and its patients are sicker, for a **sign of disease**. So wedges are found
# (near-white, flat, at the border) and filled with that scan's own background, grain included.

# %%
from helpers.data.bscan import clean_oct
from helpers.data.padding import padding_mask

wedged = next(e for e in (make_eye(n, "NORMAL", wedge=True) for n in range(40))
              if e.truth.wedge.mean() > 0.07)  # fmt: skip
found, filled = padding_mask(wedged.oct), clean_oct(wedged.oct, size=256)
steps = [wedged.oct, np.where(found, 255, wedged.oct // 2).astype(np.uint8), filled]
framed = [np.pad(step, 3, constant_values=128) for step in steps]  # or white is lost on the page
picture(
    plots.grid(
        np.stack(framed)[:, None], ["as exported", "found, in white", "filled"], columns=3,
        caption="A white wedge in a simulated NORMAL scan, before and after. One grey scale.",
    )
)  # fmt: skip

# %%
put_in, covered = wedged.truth.wedge, (found & wedged.truth.wedge).sum() / wedged.truth.wedge.sum()
print(f"{put_in.mean():.1%} of this scan is wedge; {covered:.1%} of the wedge was found,")
print(
    f"and {(found & ~put_in).sum() / (~put_in).sum():.1%} of the rest was taken with it: its rim."
)

# %% [markdown]
# ### One form for all: the framing
#
# Exports differ in shape, and networks take squares. Two ways to get there (`OCT_FRAMING`;
# notebooks 02 and 08 add a third, `aligned`):
# **stretch** uses the whole scan and bends its proportions; **band** shifts every column until the
# RPE is level and keeps 2.25 thicknesses of the retina above it and 1.5 below it. That takes away
# tilt and curvature that come from how the patient was positioned, *and* those that come from
# disease; scans of all devices then have the retina at one place and one size (for notebooks 03
# and 06).

# %%
from helpers.data.pixels import resize

files = [scan.path for scan in listed["oct"] if Path(scan.path).is_file()]
export = read_image(files[0]) if files else resize(make_eye(30, "DRUSEN", size=512).oct, 496, 768)
framings = ("stretch", "band")
framed = [clean_oct(export, size=256, framing=framing) for framing in framings]
widths = [export.shape[1] / export.shape[0], 1, 1]
figure, axes = plt.subplots(1, 3, figsize=(8, 2.6), width_ratios=widths)
for axis, image, title in zip(axes, [export, *framed], ("export", *framings)):
    axis.imshow(image, "gray", vmin=0, vmax=255)
    axis.set_title(title)
    axis.axis("off")
picture(figure, f"One scan of {export.shape[1]} x {export.shape[0]} px, and its two framings at "
        f"256 px. This notebook goes on with {settings.framing}.")  # fmt: skip

# %% [markdown]
# The photograph needs more. Forty-five degrees are about 13 mm of retina; at 256 px one pixel is
# 50 micrometres, and a medium druse (63 to 125 micrometres) is two pixels. So the circular field of
# view is found, which also gives the scale, and the **macula is cropped before reducing**: about
# 6 mm, the same piece of retina that the B-scan cuts. **CLAHE** (contrast-limited adaptive
# histogram equalisation) evens out the light and brings up small contrasts; it also makes noise
# and faint background texture look like findings, so it is off unless asked for.

# %%
from helpers.data.photograph import clean_dfe

small = make_eye(11, "DRUSEN", size=256, grade=0.6).dfe
crops = [
    clean_dfe(small, size=256, framing="full")[0],
    clean_dfe(small, size=256, framing="macula")[0],
    clean_dfe(eye.dfe, size=256, framing="macula")[0],
    clean_dfe(eye.dfe, size=256, framing="macula", clahe=True)[0],
]
titles = ["full, 256 px", "reduced, then cropped", "cropped at full size", "... with CLAHE"]
picture(
    plots.grid(
        np.stack(crops).transpose(0, 3, 1, 2), titles, columns=4,
        caption="The eye from above. Cropping a photograph that was already reduced to 256 px "
        "enlarges blur; cropping one of 512 px keeps small drusen and vessels sharper.",
    )
)  # fmt: skip

# %% [markdown]
# ### Split by patient, decode once
#
# Now everything together: list, de-duplicate by content, **split by patient**, decode, clean, and
# keep the result as 8-bit images in a cache that is keyed by the files' content and the settings.
# Ask again and it is there in a moment; change a file or a setting and it is made anew. No patient
# is on two sides, and both eyes of one go together. Why that matters is measured further down.


# %%
def prepared(source, modality, framing):
    return prepare(
        source, modality=modality, class_="all", size=settings.size, framing=framing,
        cache=Path(settings.runs) / "cache", n_simulated=settings.n_simulated,
        most=4000,  # of each side: a look at OCT2017 needs no 80,000 scans
    )  # fmt: skip


data = prepared(settings.data, "oct", settings.framing)
photos = prepared(settings.dfe, "dfe", "macula")
for modality, each in (("OCT", data), ("DFE", photos)):
    print(f"{modality} · {describe(each)}\n")

# %%
import csv
from dataclasses import asdict

sides = ("train", "validation", "test")
table = []
for each in (data, photos):
    for side in sides:
        table += [{**asdict(scan), "split": side} for scan in getattr(each, side).scans]
for row in table:  # files: relative to the manifest, so that the folder can be moved
    if Path(row["path"]).is_file():
        row["path"] = os.path.relpath(row["path"], explore)
with (explore / "manifest.csv").open("w", newline="") as file:
    writer = csv.DictWriter(file, table[0])
    writer.writeheader()
    writer.writerows(table)
print(f"{len(table)} rows in {config.short_path(explore / 'manifest.csv')}: {', '.join(table[0])}")
print(f"read again: {len(take_in(explore / 'manifest.csv').scans)} scans of modality oct")

# %% [markdown]
# The manifest is itself a source: `OCT_DATA=runs/explore/manifest.csv` gives these scans to any
# other notebook. Correct a label or a patient in it, or delete a row, and that is what they see.

# %% [markdown]
# ## Look
#
# ### Four conditions
#
# The same simulated patient four times: healthy, and with each disease in three grades. Nothing
# but the disease differs, which no real data set can offer. (Each grade is drawn by itself: it is
# not one lesion that grows, so spots lie elsewhere.)
#
# - **NORMAL**: smooth layers, a clean dip, an even RPE.
# - **DRUSEN**: deposits between RPE and Bruch's membrane lift the RPE into bumps; yellow spots in
#   the photograph. The sign of early and intermediate age-related macular degeneration (AMD).
# - **DME**, diabetic macular oedema: leaking vessels swell the retina; dark **cystoid spaces** in
#   its layers; **hard exudates**, bright in both modalities; small haemorrhages.
# - **CNV**, choroidal neovascularisation (wet AMD): vessels grow from the choroid through Bruch's
#   membrane: a detached RPE, hyperreflective tissue, dark **fluid** under the retina, blood.

# %%
from helpers.data.simulated.simulate import CONDITIONS

GRADES = {"subtle": 0.1, "moderate": 0.5, "plain": 1.0}
patient = [
    [make_eye(10, condition, grade=grade) for condition in CONDITIONS] for grade in GRADES.values()
]
titles = [f"{condition}, {name}" for name in GRADES for condition in CONDITIONS]
titles = [title if "NORMAL" not in title else "NORMAL" for title in titles]
eyes = [e for row in patient for e in row]
highest = min(e.truth.rows["ILM"].min() for e in eyes)  # of all twelve, to cut them alike
window = slice(max(0, int(highest) - 12), int(eyes[0].truth.rows["BM"].max()) + 50)
picture(
    plots.grid(
        np.stack([e.oct[window] for e in eyes])[:, None], titles, columns=4,
        caption="OCT: one simulated patient with each condition, from subtle to plain; rows "
        "far above and below the retina are cut off. One grey scale, 0 to 255.",
    )
)  # fmt: skip

# %%
(column, row), (um, _) = eyes[0].truth.dfe_fovea, eyes[0].truth.dfe_um_per_px
left, top, width = round(column - 3000 / um), round(row - 3000 / um), round(6000 / um)
crops = [e.dfe[top : top + width, left : left + width] for e in eyes]
picture(
    plots.grid(
        np.stack(crops).transpose(0, 3, 1, 2), titles, columns=4,
        caption="DFE: the same eyes, 6 mm about the fovea; the B-scans above are the horizontal "
        "line through the middle. How far a lesion spreads can be seen here, how high it is not.",
    )
)  # fmt: skip

# %% [markdown]
# Compare the subtle grades across the two figures: some are plain in one modality and hardly there
# in the other. That is why this suite teaches a network that sees DFE with one that sees OCT
# (notebook 04), and why translating DFE into OCT (03, 06) cannot be more than a guess about depth.
#
# ### On the line, or off it
#
# A B-scan sees nothing but its line. Below, one druse that the line cuts, at the same lateral place
# in both pictures, and one beside the line, which the B-scan does not show.


# %%
def rpe_rise(lesion):
    """Height of the RPE over BM at the lesion's lateral place, um."""
    heights = eye.truth.heights_um
    return np.interp(lesion.x_um, eye.truth.x_um, heights["RPE"] - heights["BM"])


drusen = [d for d in eye.truth.lesions if d.kind == "druse" and abs(d.x_um) < 2500]
on = max((d for d in drusen if d.on_line), key=lambda d: d.height_um)
beside = [d for d in drusen if abs(d.y_um) > d.width_um and rpe_rise(d) < 30 and abs(d.y_um) < 1000]
off = max(beside, key=lambda d: d.height_um)
for name, druse in (("on the line", on), ("off the line", off)):
    print(f"{name:13} {druse.width_um:3.0f} um wide, {druse.height_um:3.0f} um high, at "
          f"{druse.x_um / 1000:+.2f} mm: there the RPE stands {rpe_rise(druse):3.0f} um "
          "above BM")  # fmt: skip

# %%
figure, (above, below) = plt.subplots(2, 1, figsize=(7, 6.3), sharex=True)
above.imshow(eye.dfe, extent=photo_mm, aspect="auto")
above.axhline(0, color="white", lw=0.8)
below.imshow(eye.oct, "gray", vmin=0, vmax=255, extent=scan_mm, aspect="auto")
for druse, colour, name in ((on, "white", "on the line"), (off, "cyan", "off the line")):
    x, y, radius = druse.x_um / 1000, druse.y_um / 1000, 0.8 * druse.width_um / 1000
    above.add_patch(plt.Circle((x, y), radius, fill=False, color=colour, lw=1.2))
    above.annotate(name, (x + radius, y), (3, 5), textcoords="offset points", color=colour)
    above.plot([x, x], [y + radius, 1.3], color=colour, lw=0.8, ls=":")
    below.axvline(x, color=colour, lw=0.8, ls=":")
above.set(xlim=scan_mm[:2], ylim=(1.3, -1.3), ylabel="mm below the fovea", box_aspect=2.6 / 6)
below.set(xlabel="mm from the fovea", ylabel="mm deep", ylim=(low, high), box_aspect=2.6 / 6)
picture(figure, "DFE above, B-scan below, one lateral axis. White: a druse on the scan line "
        "(solid), and the bump of the RPE at its place. Blue: one off the line; at its place the "
        "B-scan shows no druse.")  # fmt: skip

# %% [markdown]
# ### What is physics, not anatomy
#
# Three things in every OCT are made by light, and a reader, human or network, must not take them
# for tissue. **Shadows**: blood in a vessel takes the light, and everything under it is darker in a
# straight column. **Attenuation**: what lies deeper gets less light and sends less back, so the
# choroid fades. **Speckle**: light from many small scatterers interferes and gives a grain that is
# part of the signal; devices average several frames to reduce it. (A faint line in the vitreous,
# where there is one, is tissue: its back surface, which comes loose with age.)


# %%
def rpe_level(eye):
    """Mean grey level between RPE and BM in every column."""
    rows = (np.round(eye.truth.rows[name]).astype(int) for name in ("RPE", "BM"))
    return np.array([eye.oct[a : b + 1, c].mean() for c, (a, b) in enumerate(zip(*rows))])


# %%
healthy = make_eye(29, "NORMAL", size=512)
truth, (_, scan_mm) = healthy.truth, extents(healthy.truth, 512)
figure, (above, below) = plt.subplots(2, 1, figsize=(8, 4.4), sharex=True, height_ratios=(2, 1))
above.imshow(healthy.oct, "gray", vmin=0, vmax=255, extent=scan_mm, aspect="auto")
below.plot(truth.x_um / 1000, rpe_level(healthy), color=plots.REAL, lw=0.8)
for x, width in truth.crossings:
    if scan_mm[0] < x / 1000 < scan_mm[1] and width > 20:
        above.plot(x / 1000, 0.1, "v", color=plots.ACCENT, ms=width / 6)
        below.axvline(x / 1000, color=plots.ACCENT, lw=0.8, ls=":")
above.set(ylabel="mm deep", ylim=(scan_mm[2], 0))
below.set(ylabel="RPE, grey level", xlabel="mm from the fovea", ylim=(0, 255))
picture(figure, "A healthy simulated eye. Marks: where a vessel wider than 20 um crosses the scan "
        "line (larger: wider). Below: the mean grey level from RPE to BM.")  # fmt: skip

# %% [markdown]
# The vessels near the fovea are thin, and the dip of a single one is hard to tell from the grain.
# So take many: every crossing in 24 eyes, laid over one another.

# %%
away = np.arange(-200, 201, 10)  # um from the vessel
dips = []
for each in (make_eye(n, "NORMAL") for n in range(24)):
    level = rpe_level(each)
    for x, width in each.truth.crossings:
        if abs(x) < 2500 and width > 25:
            dips.append(np.interp(x + away, each.truth.x_um, level / np.median(level)))
figure, axis = plt.subplots(figsize=(5, 2.6))
axis.plot(away, 100 * np.mean(dips, 0), color=plots.REAL)
axis.axvline(0, color=plots.ACCENT, lw=0.8, ls=":")
axis.set(xlabel="um from the vessel, along the scan", ylabel="RPE, % of its median")
picture(figure, f"The mean shadow of {len(dips)} vessels wider than 25 um.")

# %% [markdown]
# One column of a B-scan is an **A-scan**: what comes back from each depth at one place. Alone it is
# jagged with grain. The mean of neighbouring columns, each first shifted so that Bruch's membrane
# lies at the same depth, shows the layers as steps and peaks, and the fading below them.

# %%
centre = int(truth.oct_column(-1600))
columns = np.arange(centre - 20, centre + 21)
bm = np.round(truth.rows["BM"]).astype(int)
depth = np.arange(-110, 110)
aligned = healthy.oct[bm[columns] + depth[:, None], columns]
print(f"{aligned.shape[1]} columns of {aligned.shape[0]} px, Bruch's membrane in row 110")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), width_ratios=(1, 3.2))
left.imshow(aligned, "gray", vmin=0, vmax=255, aspect="auto", interpolation="nearest",
            extent=(-20.5, 20.5, *(np.array([109, -110]) * truth.oct_um_per_px[1])))  # fmt: skip
left.set(xlabel="column", ylabel="um below Bruch's membrane", title="41 columns, enlarged")
across = depth * truth.oct_um_per_px[1]
right.plot(across, aligned[:, 20], color=plots.PALE, lw=0.8, label="one A-scan")
right.plot(across, aligned.mean(1), color=plots.REAL, label="mean of 41")
for name, height in truth.heights_um.items():
    right.axvline(-height[centre], color=plots.ACCENT, lw=0.6, ls=":")
    right.text(-height[centre], 258, name, rotation=90, fontsize=6.5, ha="center", va="bottom")
right.set(xlabel="um below Bruch's membrane", ylabel="grey level", ylim=(0, 255))
right.legend(loc="upper left")
picture(figure, "Speckle and attenuation. Left, enlarged: the grain. Right: the same columns as "
        "curves, with the boundaries that the simulation drew.")  # fmt: skip

# %% [markdown]
# ### What the networks will see
#
# Finally the data themselves, after preprocessing: training patients only, four of each class.


# %%
def of_each_class(split, count=4):
    labels = split.labels
    return [i for label in np.unique(labels) for i in np.flatnonzero(labels == label)[:count]]


chosen = of_each_class(data.train)
picture(
    plots.grid(
        data.train.images[chosen], list(data.train.labels[chosen]), columns=8,
        caption=f"OCT, {settings.size} px, framing {settings.framing}. One grey scale, 0 to 255.",
    )
)  # fmt: skip

# %%
chosen = of_each_class(photos.train)
picture(
    plots.grid(
        photos.train.images[chosen], list(photos.train.labels[chosen]), columns=8,
        caption=f"DFE, {settings.size} px, macula.",
    )
)  # fmt: skip

# %% [markdown]
# ## Measure
#
# ### Grey levels
#
# Before any network, look at the simplest numbers. If the mean grey level alone tells the classes
# apart, a classifier will use it, and what differs may be the device or the clinic and not the
# disease. Compare the difference between classes with the spread inside each.

# %%
means = data.train.images.mean((1, 2, 3))
print(f"{'OCT':10}{'scans':>7}{'mean':>8}{'spread':>8}{'1 %':>6}{'median':>8}{'99 %':>6}")
figure, axis = plt.subplots(figsize=(6, 2.8))
for number, label in enumerate(np.unique(data.train.labels)):
    mine = data.train.labels == label
    levels = data.train.images[mine][:400]
    darkest, middle, brightest = np.percentile(levels, (1, 50, 99))
    print(f"{label:10}{mine.sum():7}{means[mine].mean():8.1f}{means[mine].std():8.1f}{darkest:6.0f}"
          f"{middle:8.0f}{brightest:6.0f}")  # fmt: skip
    shares, edges = np.histogram(levels, 64, (0, 256), density=True)
    axis.stairs(shares, edges, color=f"C{number}", label=label)
axis.set(xlabel="grey level", ylabel="share of pixels per level", xlim=(0, 255))
axis.legend()
picture(figure, "How often each grey level occurs in the training scans of each class. In the "
        "table: mean of the scans' means, their spread, percentiles of all pixels.")  # fmt: skip

# %% [markdown]
# ### Why a split by image cheats
#
# Two eyes of one person are alike, neighbouring B-scans of one eye more so. Shuffle *images* into
# training and test, and most test images have a sibling among the training images. A model can
# then recognise the **patient** and recall the label, and it looks as if it had learned the
# disease. In published OCT work this has raised scores by 0.07 to 0.43 (Matthews correlation;
# Tampu et al., 2022).
#
# It can be shown with the simplest model there is: answer with the label of the **nearest training
# scan** (in the features of a network trained on photographs). At most about 400 scans are used.

# %%
from scipy.spatial.distance import cdist

from helpers.measures.features import Features

pool = [data.train, data.validation, data.test]
everyone = np.concatenate([split.patients for split in pool])
names = np.random.default_rng(settings.seed).permutation(np.unique(everyone))
names = names[: max(10, len(names) * 400 // len(everyone))]
index = [np.flatnonzero(np.isin(split.patients, names)) for split in pool]
scans = np.concatenate([split.images[i] for split, i in zip(pool, index)])
patients = np.concatenate([split.patients[i] for split, i in zip(pool, index)])
labels = np.concatenate([split.labels[i] for split, i in zip(pool, index)])
features = Features()(scans, progress=True)
distance = cdist(features, features)

# %% [markdown]
# To separate recalling from recognising, every patient also gets a label by **coin toss**. Nothing
# in a scan can show it. Whoever predicts it better than half the time has recognised patients.


# %%
def trial(seed):
    """Shares right for one random fifth as test set: {split: (same patient, class, coin)}."""
    random = np.random.default_rng(seed)
    coin = dict(zip(names, random.integers(0, 2, len(names))))
    coins = np.array([coin[patient] for patient in patients])
    tested = random.permutation(names)[: len(names) // 5]
    images = random.permutation(len(scans)) < len(scans) // 5
    result = {}
    for split, test in (("image", images), ("patient", np.isin(patients, tested))):
        near = distance[np.ix_(test, ~test)].argmin(1)
        result[split] = [(of[~test][near] == of[test]).mean() for of in (patients, labels, coins)]
    return result


trials = [trial(seed) for seed in range(40)]

# %%
figure, axis = plt.subplots(figsize=(7, 3))
for split, shift, colour in (("image", -0.15, plots.ACCENT), ("patient", 0.15, plots.REAL)):
    shares = 100 * np.array([result[split] for result in trials])
    for place, values in enumerate(shares.T):
        jitter = np.linspace(-0.07, 0.07, len(values))
        axis.plot(place + shift + jitter, values, ".", color=colour, ms=3, alpha=0.5)
        axis.plot(place + shift + np.array([-0.09, 0.09]), 2 * [values.mean()], color=colour, lw=2)
        axis.annotate(f"{values.mean():.0f} %", (place + shift, 103), ha="center", color=colour)
    axis.plot([], [], color=colour, lw=2, label=f"split by {split}")
axis.axhline(50, color=plots.PALE, lw=0.8, ls=":")
axis.set(ylabel="% of test scans", ylim=(-4, 112), xlim=(-0.5, 3.2))
axis.set_xticks(range(3), ["nearest scan is\nthe same patient", "class right", "coin toss right"])
axis.legend(loc="center right")
picture(figure, f"Nearest training scan, {len(scans)} scans of {len(names)} patients. A dot is one "
        "random split (a fifth tested), a bar the mean of 40. Dotted: chance of the "
        "coin.")  # fmt: skip

# %%
gain = np.mean([np.subtract(t["image"], t["patient"]) for t in trials], 0) * 100
print(f"Splitting by image adds {gain[1]:+.0f} points to the class and {gain[2]:+.0f} to the coin.")

# %% [markdown]
# The coin settles it: what a split by image adds there is recall and nothing else, and the same
# recall raises the class score. With one scan per patient there is nothing to recall, and the two
# splits agree. Here a patient has two eyes, simulated apart from shared anatomy and device; in a
# volume of 25 or 128 neighbouring B-scans the effect is far larger. The pairs behind it:

# %%
random = np.random.default_rng(settings.seed)
alone = distance + np.diag(np.full(len(scans), np.inf))
other = np.where(patients[:, None] == patients[None], np.inf, alone)
siblings = np.flatnonzero(patients[alone.argmin(1)] == patients)
some = random.permutation(siblings if len(siblings) else len(scans))[:8]
compared = [some, alone[some].argmin(1), other[some].argmin(1)]
titles = [patients[i] for row in compared for i in row]
picture(
    plots.grid(
        scans[np.concatenate(compared)], titles, columns=len(some),
        caption="Above: some scans. Middle: the nearest scan to each, here of the same patient. "
        "Below: the nearest of any other patient: all that a split by patient leaves.",
    )
)  # fmt: skip

# %% [markdown]
# ## Limits
#
# - The simulated eyes are a **simulation**: four conditions, one line through the fovea, no motion
#   artefacts, no haze, no second disease. What they show about splitting holds for real data; their
#   grey levels and how hard their classes are do not.
# - Labels of real sets are given per volume or per patient by somebody, for some purpose. OCT2017's
#   classes are those of one reading protocol; ODIR's are parsed from keywords per eye.
# - The scale of real files is mostly unknown: where the manifest has none, nothing in micrometres
#   can be claimed. The scale of a photograph is an estimate from its field of view.
# - Where a source does not name its patients, blocks of files stand in, and no split of it can be
#   fully trusted.
# - Not for clinical use.

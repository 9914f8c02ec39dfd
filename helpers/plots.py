"""Figures of the notebooks: greys for real scans, one accent colour for synthetic ones.

Images are arrays or tensors (N, C, H, W), uint8 or float in [-1, 1]; every figure shows them on
one grey scale, 0 to 255. Each function returns a matplotlib Figure (closed, so that a notebook
shows it once) and also writes it as PNG if `path` is given.
"""

import inspect
import io
import itertools
import textwrap
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython import display
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

from helpers.data.cache import read_picture, read_scan
from helpers.data.intake import classes, reasons
from helpers.data.look import examine
from helpers.data.pixels import read_image, resize
from helpers.data.scan import PICTURES, ending
from helpers.measures.texture import line_spectra

ACCENT, REAL, PALE = "#c8501e", "#333333", "#a8a8a8"
STYLE = {
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
WIDTH = 8.0  # inches: what a notebook's column shows without scaling


def show_source(*things):
    """The code that matters, where a notebook explains it."""
    code = "\n\n".join(inspect.getsource(thing).rstrip() for thing in things)
    display.display(display.Markdown(f"```python\n{code}\n```"))


def pixels(images):
    """Images as grey levels 0 to 255: float32 (N, H, W), or (N, H, W, 3) for colour."""
    if hasattr(images, "detach"):
        images = images.detach().cpu().float().numpy() if images.is_floating_point() else images
    images = np.asarray(images)
    levels = images.astype(np.float32)
    if images.dtype != np.uint8:
        levels = (levels + 1) * 127.5
    return levels[:, 0] if levels.shape[1] == 1 else levels.transpose(0, 2, 3, 1)


def finish(figure, caption, path):
    """The figure closed, with its caption, and written to `path` if there is one."""
    if caption:
        text = textwrap.fill(caption, int(figure.get_figwidth() * 15.5))
        figure.supxlabel(text, x=0.01, ha="left", fontsize=8, color=REAL)
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    plt.close(figure)
    return figure


def compact(figure, caption="", shades=32):
    """The figure as an image of few shades of each colour: a third of the bytes in a notebook."""
    finish(figure, caption, None)
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=90)
    shades = np.array(Image.open(full).convert("RGB")) | (256 // shades - 1)
    Image.fromarray(shades).quantize(dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return display.Image(small.getvalue())


def show_picture(axes, levels):
    """One picture in axes without ticks; a blank cell for None."""
    axes.set(xticks=[], yticks=[])
    if levels is None:
        axes.axis("off")
    else:
        axes.imshow(levels / 255, cmap="gray", vmin=0, vmax=1, interpolation="antialiased")
        axes.spines[:].set_visible(False)


def cell_grid(rows, columns, aspect):
    """Figure and (rows, columns) axes for pictures of height/width `aspect`."""
    cell = WIDTH / columns
    figure, axes = plt.subplots(
        rows, columns, squeeze=False, figsize=(WIDTH, rows * (cell * aspect + 0.08) + 0.45)
    )
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.02, wspace=0, hspace=0.01)
    return figure, axes


def grid(images, titles=None, *, columns=8, caption="", path=None):
    """Pictures side by side, row by row, with an optional title above each."""
    levels = pixels(images)
    columns = min(columns, len(levels))
    rows = -(-len(levels) // columns)
    with plt.rc_context(STYLE):
        aspect = levels.shape[1] / levels.shape[2] + (0.2 * columns / 8 if titles else 0)
        figure, axes = cell_grid(rows, columns, aspect)
        for i, cell in enumerate(axes.flat):
            show_picture(cell, levels[i] if i < len(levels) else None)
            if titles is not None and i < len(levels):
                cell.set_title(str(titles[i]))
        return finish(figure, caption, path)


def show_intake(intake, *, most=100, columns=6, caption="", path=None):
    """What was found in a source (`sources.take_in`), as pictures: the first scan of every class;
    of every reason for which files were left out the first picture; and what is noticed
    (`look.examine`) on `most` of the scans, the first of each kind. Unreadable ones are blank."""
    tiles, noticed = [], {}
    for label, n in classes(intake).items():
        scan = next(scan for scan in intake.scans if scan.label == label)
        words = f"{label}: {n['scans']} scans of {n['patients']} patients"
        framing = "stretch" if scan.modality == "oct" else "full"
        tiles.append((partial(read_scan, scan, 128, framing, watch=False), words, REAL))
    for why in reasons(intake):
        name = next(name for name, reason in intake.left_out if reason == why)
        if ending(name) in PICTURES:
            read = partial(read_image, Path(intake.source) / name)
            tiles.append((read, f"left out: {why}", ACCENT))
    for scan in [s for s in intake.scans if s.dataset not in ("simulated", "npz")][:most]:
        try:
            found = [(f.kind, f.words) for f in examine(read_picture(scan), scan.modality)]
        except (ValueError, OSError) as error:
            found = [("unreadable", str(error).removeprefix(f"{scan.path}: "))]
        for kind, words in found:
            noticed.setdefault(kind, (partial(read_picture, scan), words, ACCENT))
    tiles += noticed.values()
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    with plt.rc_context(STYLE):
        figure, axes = cell_grid(rows, columns, 0.67 + 0.09 * columns)
        for cell, tile in itertools.zip_longest(axes.flat, tiles):
            read, title, colour = tile or (None, "", REAL)
            show_picture(cell, _thumbnail(read))
            cell.set_title(textwrap.fill(title, 132 // columns, max_lines=4), fontsize=7,
                           color=colour)  # fmt: skip
        return finish(figure, caption, path)


def _thumbnail(read):
    """What `read` gives as (80, 120) or (80, 120, 3) levels; None of nothing or what it cannot."""
    try:
        picture = read() if read else None
    except (ValueError, OSError):
        return None
    if picture is None:
        return None
    if picture.shape[0] in (1, 3):
        picture = picture.transpose(1, 2, 0).squeeze()
    return resize(picture, 80, 120)


def gallery(real, synthetic, *, rows=1, columns=8, source="", report=None, caption="", path=None):
    """`rows` rows of real scans above as many of synthetic ones: the first of each set.

    source: where the real scans come from; report: a distance_report, whose kernel distance is
    quoted under the pictures.
    """
    columns = min(columns, max(len(real), len(synthetic)))
    above, below = pixels(real[: rows * columns]), pixels(synthetic[: rows * columns])
    rows, more = (-(-len(levels) // columns) for levels in (above, below))
    with plt.rc_context(STYLE):
        figure, axes = cell_grid(rows + more, columns, above.shape[1] / above.shape[2])
        for block, levels in ((axes[:rows], above), (axes[rows:], below)):
            for i, cell in enumerate(block.flat):
                show_picture(cell, levels[i] if i < len(levels) else None)
        axes[0, 0].set_ylabel("real")
        axes[rows, 0].set_ylabel("synthetic", color=ACCENT)
        text = f"Above: real scans{f' ({source})' if source else ''}. Below: synthetic, not chosen."
        if report is not None:
            distance = report["kernel_distance"]
            text += (
                f" Kernel distance of {distance['n_synthetic']} synthetic to {distance['n_real']} "
                f"unseen real scans: {distance['value']:.0f} "
                f"(real to real: {distance['floor']:.1f})."
            )
        return finish(figure, f"{text} One grey scale, 0 to 255. {caption}".strip(), path)


def curves(metrics, *, floor=None, caption="", path=None):
    """Losses (left) and kernel distance to validation patients (right) over images seen.

    metrics: the records of metrics.jsonl, dicts with images, seconds, loss_* and, at validations,
    kernel_distance and perhaps score, which says what is best, and probe. The upper axes count
    minutes. floor: a value to draw as a dotted line.
    """
    losses = [r for r in metrics if any(name.startswith("loss_") for name in r)]
    judged = [r for r in metrics if "kernel_distance" in r]
    names = sorted({name for r in losses for name in r if name.startswith("loss_")})
    shades = [ACCENT if "generator" in name else PALE for name in names]
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.2))
        for name, shade in zip(names, shades, strict=True):
            points = [(r["images"], r[name]) for r in losses if name in r]
            label = name.removeprefix("loss_").replace("_", " ")
            left.plot(*zip(*points, strict=True), color=shade, lw=1, marker=".", ms=2, label=label)
        left.set(ylabel="loss")
        if names:
            left.legend()
        if judged:
            seen, values = zip(*((r["images"], r["kernel_distance"]) for r in judged), strict=True)
            best = int(np.argmin([r.get("score", r["kernel_distance"]) for r in judged]))
            right.plot(seen, values, color=ACCENT, marker=".", lw=1)
            right.plot(seen[best], values[best], "o", mfc="none", mec=REAL)
            right.annotate(f"best {values[best]:.0f}", (seen[best], values[best]), (4, 9),
                           textcoords="offset points", ha="right")  # fmt: skip
            probed = [(r["images"], r["probe"]) for r in judged if "probe" in r]
            if probed:
                other = right.twinx()
                other.plot(*zip(*probed, strict=True), color=REAL, lw=1, ls="--")
                other.set(ylabel="AUROC of the probe (dashed)", ylim=(0.4, 1))
            if min(values) > 0:
                right.set_yscale("log")
                right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                right.yaxis.set_major_formatter("{x:.0f}")
                right.yaxis.set_minor_formatter(NullFormatter())
        if floor is not None and floor > 0:
            right.axhline(floor, color=PALE, ls=":", label="floor: real to unseen real")
            right.legend()
        right.set(ylabel="kernel distance x1000")
        clock = {r["images"]: r["seconds"] / 60 for r in metrics if "seconds" in r}
        for axes in (left, right):
            axes.set(xlabel="images seen")
            axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4), useMathText=True)
            _minutes(axes, clock)
        return finish(figure, caption, path)


def _minutes(axes, clock):
    """A second x axis in minutes; clock: images seen -> minutes."""
    seen = np.array(sorted(clock), float)
    minutes = np.array([clock[s] for s in seen])
    if len(seen) < 2 or not (np.diff(minutes) > 0).all():
        return
    upper = axes.secondary_xaxis(
        "top",
        functions=(
            lambda x: _extended(x, seen, minutes),
            lambda x: _extended(x, minutes, seen),
        ),
    )
    upper.set_xlabel("minutes", fontsize=8)
    upper.tick_params(labelsize=8)


def _extended(x, known_x, known_y):
    """Linear interpolation that goes on straight past both ends."""
    slope = (known_y[-1] - known_y[0]) / (known_x[-1] - known_x[0])
    inside = np.clip(x, known_x[0], known_x[-1])
    return np.interp(inside, known_x, known_y) + slope * (np.asarray(x) - inside)


def distance_bars(report, *, caption="", path=None):
    """A report's kernel distances on one log axis, nearest on top; the synthetic one stands out."""
    distance, scale, resolution = (report[k] for k in ("kernel_distance", "scale", "resolution"))
    other = scale["other_class"] or {"name": "", "value": None}
    entries = [
        ("synthetic", distance["value"]),
        ("real training scans (floor)", distance["floor"]),
        (f"real {other['name']}", other["value"]),
        (f"real, reduced to {resolution['size']} px", resolution["value"]),
        ("real, blurred", scale["blur"]),
        ("white noise", scale["noise"]),
    ]
    entries = sorted((e for e in entries if e[1] is not None), key=lambda e: -e[1])
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH * 0.75, 0.34 * len(entries) + 1.1))
        for row, (name, value) in enumerate(entries):
            made = name == "synthetic"
            at = max(value, 1)  # an unbiased distance near zero can be negative: shown at the edge
            axes.barh(row, at - 1, left=1, color=ACCENT if made else PALE, height=0.6)
            end = at
            if made and distance["low"] is not None:
                end = max(distance["high"], at)
                axes.plot([max(distance["low"], 1), end], [row, row], color=REAL, lw=1.5)
            axes.annotate(f"{value:.1f}", (end, row), (4, 0), textcoords="offset points",
                          va="center", fontsize=8)  # fmt: skip
        axes.set_yticks(range(len(entries)), [name for name, _ in entries])
        axes.set(xscale="log", xlabel="kernel distance x1000 to unseen patients (log axis)")
        axes.set_xlim(1, 2 * max([value for _, value in entries] + [distance["high"] or 1]))
        axes.tick_params(axis="y", length=0)
        return finish(figure, caption, path)


def power_spectrum(images, axis):
    """Mean power (grey levels squared) over all lines along `axis` (1 depth, 2 across).

    Returns (frequencies in cycles per pixel, power). A Hann window keeps the edges out of it.
    """
    frequency, power = line_spectra(pixels(images), axis)
    return frequency, power.mean(0)


def power_spectra(real, synthetic, *, caption="", path=None):
    """Axial and lateral power spectra: speckle and checkerboards show at the right end."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 2.8), sharey=True)
        for panel, axis, name in ((panels[0], 1, "axial (depth)"), (panels[1], 2, "lateral")):
            for images, colour, kind in ((real, REAL, "real"), (synthetic, ACCENT, "synthetic")):
                panel.loglog(*power_spectrum(images, axis), color=colour, lw=1, label=kind)
            panel.set(title=name, xlabel="cycles per pixel")
        panels[0].set(ylabel="power (grey levels squared)")
        panels[0].legend()
        return finish(figure, caption, path)


def filmstrip(folder, *, rows=6, columns=8, line=0, shown=None, caption="", path=None):
    """The same noise over training time: `rows` of the previews in a run's previews/ folder.

    A preview is a PNG named by its step, a sheet of square pictures eight to a row, of which the
    `line`-th row is drawn, and the `shown`-th, of what was translated, stands above them once.
    Raises FileNotFoundError if the folder holds none.
    """
    files = sorted(Path(folder).glob("*.png"))
    if not files:
        raise FileNotFoundError(f"{folder}: no previews; they appear at the first validation")
    rows = min(rows, len(files))
    files = [files[i] for i in np.linspace(0, len(files) - 1, rows).round().astype(int)]
    strips = [(file, line, f"step {int(file.stem)}") for file in files]
    if shown is not None:
        strips.insert(0, (files[-1], shown, "photograph"))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(len(strips), 1, squeeze=False,
                                    figsize=(WIDTH, len(strips) * WIDTH / columns))  # fmt: skip
        for (file, which, name), cell in zip(strips, axes.flat, strict=True):
            with Image.open(file) as sheet:
                picture = np.asarray(sheet.convert("L"), np.float32)
            tile = (picture.shape[1] - 2) // 8  # picture and the line between two
            top = which * tile
            show_picture(cell, picture[top : top + tile + 2, : columns * tile + 2])
            cell.set_ylabel(name, fontsize=8)
        return finish(figure, caption, path)


def show_layers(images, layers, titles=None, columns=4, caption="", path=None):
    """Scans with what helpers.measures.layers found on them: ILM, RPE and BM, drusen, the fovea.

    layers: one Layers for every image. Drusen are shaded from RPE to BM, the fovea is a tick above
    the ILM; a scan that the ruler does not measure shows its reason instead.
    """
    levels = pixels(images)
    columns = min(columns, len(levels))
    rows = -(-len(levels) // columns)
    colours = {"ILM": "#58c4ff", "RPE": "#ffd23f", "BM": ACCENT}
    with plt.rc_context(STYLE):
        aspect = levels.shape[1] / levels.shape[2] + (0.1 * columns / 4 if titles else 0)
        figure, axes = cell_grid(rows, columns, aspect)
        for i, cell in enumerate(axes.flat):
            show_picture(cell, levels[i] if i < len(levels) else None)
            if i >= len(levels):
                continue
            if titles is not None:
                cell.set_title(str(titles[i]))
            found, x = layers[i], np.arange(levels.shape[2])
            for name, colour in colours.items():
                cell.plot(x, found.rows[name], color=colour, lw=0.7)
            for druse in found.drusen:
                here = np.abs(x - druse.x) <= druse.width / 2
                cell.fill_between(x, found.rows["RPE"], found.rows["BM"], where=here,
                                  color=colours["RPE"], alpha=0.35, lw=0)  # fmt: skip
            if found.fovea is not None:
                column, row = found.fovea
                cell.plot([column] * 2, [row - 20, row - 8], color="white", lw=1)
            if not found.usable:
                cell.text(0.03, 0.03, textwrap.fill(found.reason, 30), color="white", fontsize=7,
                          transform=cell.transAxes)  # fmt: skip
        return finish(figure, caption, path)

"""Figures and films of notebook 07: what a step in W does, and where patients lie."""

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from helpers.gan.styles.directions import FAMILIES, POSITIONS, WORDS, Directions
from helpers.plots import ACCENT, PALE, REAL, STYLE, WIDTH, cell_grid, finish, pixels, show_picture


def rows(pictures, labels, heads=None, *, caption="", path=None):
    """A labelled row of pictures for each entry of `pictures`, (N, C, H, W) or None where blank."""
    levels = [[None if one is None else pixels(one[None])[0] for one in row] for row in pictures]
    columns = max(map(len, levels))
    first = next(one for row in levels for one in row if one is not None)
    with plt.rc_context(STYLE):
        figure, axes = cell_grid(len(levels), columns, first.shape[0] / first.shape[1])
        for line, row, label in zip(axes, levels, labels, strict=True):
            for cell, one in zip(line, [*row, *[None] * (columns - len(row))]):
                show_picture(cell, one)
            line[0].axis("on")
            line[0].set_ylabel(label, fontsize=7)
        for cell, head in zip(axes[0], heads or []):
            cell.set_title(head, fontsize=8)
        return finish(figure, caption, path)


def effects_matrix(directions: Directions, *, caption="", path=None):
    """What every direction changes, from the first of POSITIONS to the last, in standard deviations
    of each measure; a frame around its own, a star where it is accepted."""
    names, measures = directions.names, list(FAMILIES)
    table = np.array([[directions.report[n]["in_sd"][m] for m in measures] for n in names])
    limit = np.nanmax(np.abs(table))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH, 0.3 * len(names) + 1.3))
        shown = axes.imshow(table, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
        for (i, j), value in np.ndenumerate(table):
            text = f"{value:+.1f}" if np.isfinite(value) else "unread"
            axes.text(j, i, text, ha="center", va="center", fontsize=8,
                      color="white" if abs(value) > 0.6 * limit else "black")  # fmt: skip
        for i, name in enumerate(names):
            own = measures.index(directions.report[name]["measure"])
            axes.add_patch(plt.Rectangle((own - 0.48, i - 0.46), 0.96, 0.92, fill=False, lw=1.5))
        labels = [f"{'* ' if n in directions.accepted else ''}{WORDS.get(n, n)}" for n in names]
        axes.set_yticks(range(len(names)), labels)
        axes.set_xticks(range(len(measures)), [textwrap.fill(WORDS[m], 10) for m in measures])
        axes.spines[:].set_visible(False)
        ends = f"{POSITIONS[0]:+g} to {POSITIONS[-1]:+g} SD of W"
        figure.colorbar(shown, label=f"change, {ends}\n(SD of the measure)")
        return finish(figure, caption, path)


def effect_curves(found: np.ndarray, directions: Directions, errors: dict, *, caption="",
                  path=None):  # fmt: skip
    """Own measure of every fitted direction along it: the mean, the middle half of the scans, and
    the ruler's error about the starting value (grey). found: of ``directions.effects``."""
    fitted = [name for name in directions.names if name in FAMILIES]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, -(-len(fitted) // 2), figsize=(WIDTH, 4.2), squeeze=False)
        for cell, name in zip(axes.flat, fitted):
            own = found[directions.index(name)][:, :, list(FAMILIES).index(name)]
            mean, (low, high) = np.nanmean(own, 1), np.nanpercentile(own, [25, 75], axis=1)
            colour = ACCENT if name in directions.accepted else PALE
            cell.axhspan(
                mean[0] - errors[name], mean[0] + errors[name], color=PALE, alpha=0.3, lw=0
            )
            cell.fill_between(POSITIONS, low, high, color=colour, alpha=0.25, lw=0)
            cell.plot(POSITIONS, mean, color=colour, marker=".")
            cell.set(title=WORDS[name], xticks=POSITIONS)
        for cell in axes[-1]:
            cell.set_xlabel("SD of W")
        return finish(figure, caption, path)


def mode_shares(sides: dict, *, caption="", path=None):
    """Share of each mode, with intervals, side by side. sides: {name: coverage.shares}, the
    synthetic one named "synthetic"."""
    count = len(next(iter(sides.values()))["share"])
    shades = iter((REAL, PALE, "#d8d8d8"))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH, 2.6))
        for number, (name, found) in enumerate(sides.items()):
            at = np.arange(count) + (number - (len(sides) - 1) / 2) * 0.8 / len(sides)
            share, low, high = (100 * np.asarray(found[k]) for k in ("share", "low", "high"))
            axes.bar(at, share, 0.75 / len(sides), label=name,
                     color=ACCENT if name == "synthetic" else next(shades))  # fmt: skip
            reach = np.clip([share - low, high - share], 0, None)
            axes.errorbar(at, share, reach, fmt="none", color="black", lw=0.8)
        axes.set_xticks(range(count), [f"mode {k + 1}" for k in range(count)])
        axes.set_ylabel("share of the scans (%)")
        axes.legend()
        return finish(figure, caption, path)


def scatter(sides: dict, labels=None, *, axis="t-SNE", caption="", path=None):
    """Points (N, 2) of every side, real ones in greys and marked, "synthetic" in colour; `labels`:
    {text: (x, y)} written on the map."""
    marks = iter((("o", REAL), ("^", "#7a7a7a")))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH * 0.8, 4.6))
        for name, points in sides.items():
            mark, colour = (".", ACCENT) if name == "synthetic" else next(marks)
            axes.scatter(*points.T, s=14, marker=mark, color=colour, alpha=0.6, lw=0, label=name)
        for text, place in (labels or {}).items():
            axes.text(*place, text, weight="bold", fontsize=11, ha="center",
                      bbox={"facecolor": "white", "alpha": 0.7, "lw": 0, "pad": 1})  # fmt: skip
        axes.set(xlabel=f"{axis} 1", ylabel=f"{axis} 2")
        axes.legend()
        return finish(figure, caption, path)


def film(path, scans, *, seconds=2.0) -> Path:
    """A GIF that runs through scans (N, 1, S, S) and back again, for ever."""
    levels = pixels(scans).round().clip(0, 255).astype(np.uint8)
    frames = [Image.fromarray(one) for one in [*levels, *levels[-2:0:-1]]]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(path, save_all=True, append_images=frames[1:], loop=0,
                   duration=round(1000 * seconds / len(levels)))  # fmt: skip
    return path

"""Figures of notebook 04: gains with their intervals, the map of gain, where a network looks."""

import matplotlib.pyplot as plt
import numpy as np

from helpers.plots import ACCENT, PALE, REAL, STYLE, WIDTH, finish, pixels, show_picture

POINTS = 100  # mAP is shown in points


def gains(report, *, caption="", path=None):
    """Of every arm of ``report`` ({arm: scores with "map", "seeds" and "gain"}): left its mAP, a
    dot for each seed; right its gain over the student alone, with an interval over patients."""
    names = list(report)
    places = np.arange(len(names))[::-1]
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(
            1, 2, sharey=True, figsize=(WIDTH, 0.24 * len(names) + 1.2)
        )
        for place, name in zip(places, names):
            arm = report[name]
            left.plot(POINTS * np.array(arm["seeds"]), np.full(len(arm["seeds"]), place), "o",
                      ms=3, color=PALE)  # fmt: skip
            left.plot(POINTS * arm["map"]["value"], place, "o", ms=5, color=REAL)
            gain = arm["gain"]["map"]
            ends = np.array([gain["low"], gain["high"]], float)  # NaN where there is no interval
            colour = ACCENT if (ends > 0).all() or (ends < 0).all() else REAL
            right.plot(POINTS * ends, [place, place], color=colour)
            right.plot(POINTS * gain["value"], place, "o", ms=5, color=colour)
        left.set_yticks(places, names)
        left.set_xlabel("mAP, points")
        right.axvline(0, color=PALE, lw=0.8)
        right.set_xlabel("gain in mAP over the student alone, points (95 %)")
        return finish(figure, caption, path)


def gain_maps(cells, *, caption="", path=None):
    """``world.gain_map``'s cells: a column of panels for each arm, a row for each
    share of the disease that OCT shows and of labels that are wrong.

    Across: how much of the disease a photograph shows; up: labelled photographs of each class.
    One colour scale, in points of mAP; bold: the interval over patients excludes zero, and every
    seed, which has other labelled eyes, says the same.
    """
    arms = list(dict.fromkeys(cell["arm"] for cell in cells))
    kinds = list(dict.fromkeys((cell["oct_shows"], cell["noise"]) for cell in cells))
    shows = sorted({cell["dfe_shows"] for cell in cells})
    counts = sorted({cell["labelled"] for cell in cells})
    most = max(1.0, POINTS * max(abs(cell["gain"]) for cell in cells))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(kinds), len(arms), squeeze=False, sharex=True, sharey=True,
            figsize=(WIDTH, (0.32 * len(counts) + 0.75) * len(kinds) + 0.6),
        )  # fmt: skip
        for row, kind in enumerate(kinds):
            for column, arm in enumerate(arms):
                cell_axes, values = axes[row, column], np.full((len(counts), len(shows)), np.nan)
                for cell in cells:
                    if cell["arm"] == arm and (cell["oct_shows"], cell["noise"]) == kind:
                        y, x = counts.index(cell["labelled"]), shows.index(cell["dfe_shows"])
                        values[y, x] = POINTS * cell["gain"]
                        alike = len({gain > 0 for gain in cell["seeds"]}) == 1
                        clear = alike and (cell["low"] > 0 or cell["high"] < 0)
                        cell_axes.text(
                            x, y, f"{values[y, x]:+.1f}", ha="center", va="center", fontsize=6,
                            color="white" if abs(values[y, x]) > 0.6 * most else REAL,
                            fontweight="bold" if clear else "normal",
                        )  # fmt: skip
                picture = cell_axes.imshow(values, cmap="PuOr_r", vmin=-most, vmax=most,
                                           origin="lower", aspect="auto")  # fmt: skip
                cell_axes.set_xticks(range(len(shows)), [f"{s:g}" for s in shows])
                cell_axes.set_yticks(range(len(counts)), counts)
                if not row:
                    cell_axes.set_title(arm)
            axes[row, 0].set_ylabel(
                f"OCT shows {kind[0]:g}\n{100 * kind[1]:.0f} % labels wrong\n\nlabelled, per class",
                fontsize=8,
            )  # fmt: skip
        for cell_axes in axes[-1]:
            cell_axes.set_xlabel("disease the DFE shows")
        figure.colorbar(picture, ax=axes, label="gain in mAP, points", shrink=0.8)
        return finish(figure, caption, path)


def pull(report, *, caption="", path=None):
    """``study.pull_of``: the length of each loss's gradient against temperature."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH * 0.6, 2.6))
        for (name, shares), colour in zip(report.items(), (ACCENT, REAL, PALE)):
            at = [float(t) for t in shares]
            axes.plot(at, list(shares.values()), "o-", ms=3, color=colour, label=name.upper())
        axes.axvline(4, color=PALE, lw=0.8, ls=":")
        axes.set(xscale="log", yscale="log", xlabel="temperature (dotted: the paper's 4)",
                 ylabel="|gradient| / |that of the\ncross-entropy|")  # fmt: skip
        axes.legend()
        return finish(figure, caption, path)


def similarity_matrices(matrices, classes, *, caption="", path=None):
    """{title: S (K, K)}, cosines of the classes' mean logits, side by side on one scale."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(matrices), squeeze=False, figsize=(2.4 * len(matrices) + 0.6, 2.7)
        )
        for cell, (title, matrix) in zip(axes[0], matrices.items()):
            picture = cell.imshow(matrix, cmap="PuOr_r", vmin=-1, vmax=1)
            for y, x in np.ndindex(*np.shape(matrix)):
                dark = abs(matrix[y][x]) > 0.6
                cell.text(x, y, f"{matrix[y][x]:.2f}", ha="center", va="center", fontsize=7,
                          color="white" if dark else REAL)  # fmt: skip
            cell.set_xticks(range(len(classes)), classes, rotation=45, ha="right", fontsize=7)
            cell.set_yticks(range(len(classes)), classes, fontsize=7)
            cell.set_title(title)
        figure.colorbar(picture, ax=axes, shrink=0.7, label="cosine")
        return finish(figure, caption, path)


def looks(images, maps, titles, *, caption="", path=None):
    """Photographs (N, C, H, W), and below each where networks look: {name: maps (N, H, W)}."""
    levels = pixels(images)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1 + len(maps), len(levels), squeeze=False,
            figsize=(WIDTH, WIDTH / len(levels) * (1 + len(maps)) + 0.6),
        )  # fmt: skip
        for column, level in enumerate(levels):
            show_picture(axes[0, column], level)
            axes[0, column].set_title(titles[column], fontsize=7)
            for row, (name, found) in enumerate(maps.items(), 1):
                show_picture(axes[row, column], level)
                axes[row, column].imshow(found[column], cmap="inferno", alpha=0.55, vmin=0, vmax=1)
                if not column:
                    axes[row, 0].set_title(name, fontsize=7, loc="left")
        return finish(figure, caption, path)


def errors(reports, *, caption="", path=None):
    """``complementarity`` reports by title: shares of eyes wrong in one, the other, both,
    beside what chance would make of both, and in the mean of both."""
    names = {"first": "OCT", "second": "DFE", "both": "both", "chance": "chance", "fused": "fused"}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(reports), squeeze=False, sharey=True,
                                    figsize=(WIDTH, 2.6))  # fmt: skip
        for cell, (title, report) in zip(axes[0], reports.items()):
            for place, name in enumerate(names):
                found = report[name]
                colour = ACCENT if name == "fused" else PALE if name == "chance" else REAL
                cell.bar(place, 100 * found["value"], color=colour, width=0.7)
                cell.plot([place, place], [100 * found["low"], 100 * found["high"]], color="black",
                          lw=0.8)  # fmt: skip
            cell.set_xticks(range(len(names)), names.values(), fontsize=7)
            gain = report["gain"]
            cell.set_title(
                f"{title}\nfusion {POINTS * gain['value']:+.1f} "
                f"({POINTS * gain['low']:+.1f} to {POINTS * gain['high']:+.1f}) mAP", fontsize=8,
            )  # fmt: skip
        axes[0, 0].set_ylabel("eyes misread, %")
        return finish(figure, caption, path)

"""Figures of notebooks 03 and 06: geometry, translated scans, what survives, drusen in place."""

import matplotlib.pyplot as plt
import numpy as np

from helpers.data.cache import simulated_eye
from helpers.data.photograph import (
    FIELD_OF_VIEW_UM,
    MACULA_UM,
    STRIP_UM,
    clean_dfe,
    crop_field_of_view,
    find_fovea,
)
from helpers.data.pixels import to_float
from helpers.data.two_modalities import all_simulated, side_of_body
from helpers.plots import ACCENT, PALE, REAL, STYLE, WIDTH, cell_grid, finish, pixels, show_picture
from helpers.translation.lesions import elevation, true_drusen


def geometry(photograph, scan=None, *, centre=None, size=256, caption="", path=None):
    """One photograph, uint8 (H, W, 3), with the macula's 6 mm, the strip and the scan line marked;
    the crops beside it, and the eye's B-scan (size, size) if it is known.

    centre: (row, column) of the middle of the scan line, where it is known; else the fovea is
    looked for, and the title says so where it is unsure.
    """
    if photograph.ndim == 2:
        photograph = np.repeat(photograph[..., None], 3, axis=2)
    field, _, (top, left) = crop_field_of_view(photograph)
    sure = centre is not None
    if sure:
        row, column = centre[0] - top, centre[1] - left
    else:
        row, column, sure = find_fovea(field)
    per_um = len(field) / FIELD_OF_VIEW_UM
    crops = [clean_dfe(photograph, size=size, framing=f, centre=(row + top, column + left))[0]
             for f in ("macula", "strip")]  # fmt: skip
    panels = 3 if scan is None else 4
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, panels, figsize=(WIDTH, WIDTH / panels + 0.6))
        show_picture(axes[0], field.astype(np.float32))
        half = MACULA_UM * per_um / 2
        for height, colour in ((MACULA_UM, "white"), (STRIP_UM, "#58c4ff")):
            high = height * per_um
            axes[0].add_patch(plt.Rectangle((column - half, row - high / 2), 2 * half, high,
                                            fill=False, ec=colour, lw=1))  # fmt: skip
        axes[0].plot([column - half, column + half], [row, row], color=ACCENT, lw=1.2)
        known = "" if centre is not None else ", line assumed" if sure else ", fovea unsure"
        axes[0].set_title(f"DFE, 13 mm{known}")
        for cell, crop, name in zip(axes[1:], crops, ("macula, 6 mm", "strip, 6 x 1 mm")):
            show_picture(cell, crop.astype(np.float32))
            cell.set_title(name)
        for cell in axes[1:3]:
            cell.axhline(size / 2, color=ACCENT, lw=0.8, ls=(0, (6, 6)))
        if scan is not None:
            show_picture(axes[3], np.asarray(scan, np.float32))
            axes[3].set_title("B-scan along the line")
        return finish(figure, caption, path)


NAMES = ("DFE", "translated", "true scan")


def evidence_along(evidence, domains, chosen, *, caption="", path=None):
    """Photographs ``chosen`` of test patients and the scans of the same names, where there are such
    (else the scans of the same places), each above what ``evidence`` says of its columns for the
    last class; of simulated eyes with how far the RPE rises."""
    photographs, scans = domains.dfe.test, domains.oct.test
    own = {scan.path.rpartition("/")[2]: i for i, scan in enumerate(scans.scans)}
    partners = [own.get(photographs.scans[i].path.rpartition("/")[2], i % len(scans))
                for i in chosen]  # fmt: skip
    with plt.rc_context(STYLE):
        shape = dict(height_ratios=(2, 1, 2, 1))
        figure, axes = plt.subplots(4, len(chosen), figsize=(WIDTH, 4.6), gridspec_kw=shape,
                                    squeeze=False)  # fmt: skip
        for top, side, split, places in ((0, "dfe", photographs, chosen),
                                         (2, "oct", scans, partners)):  # fmt: skip
            images = to_float(np.asarray(split.images)[places])
            said = evidence(images, side)[:, -1].numpy()
            taken = [split.scans[i] for i in places]
            simulated = all_simulated(taken)  # of either modality, perhaps of one alone
            for k, (image, levels) in enumerate(zip(images, pixels(images))):
                show_picture(axes[top, k], levels)
                below = axes[top + 1, k]
                below.plot(said[k], color=ACCENT)
                below.set(xlim=(0, image.shape[-1] - 1), ylim=(-1, 1), xticks=[], yticks=[])
                if simulated:
                    rises = elevation(simulated_eye(taken[k], image.shape[-1], ()).truth)
                    if domains.oriented and side_of_body(taken[k].path) == "left":
                        rises = rises[::-1]
                    other = below.twinx()
                    other.plot(rises, color=PALE)
                    other.set(ylim=(-80, 80), yticks=[])
            axes[top, 0].set_ylabel({"dfe": "photograph", "oct": "scan"}[side])
            axes[top + 1, 0].set_ylabel(f"{domains.classes[-1]}?")
        return finish(figure, caption, path)


def translated(
    photographs, drawn, true=None, *, names=NAMES, columns=8, titles=None, caption="", path=None
):  # fmt: skip
    """Photographs above the scans drawn from them, and above the true scans where they are known;
    all (N, C, S, S), float in [-1, 1]."""
    rows = [photographs, drawn] + ([] if true is None else [true])
    columns = min(columns, len(photographs))
    with plt.rc_context(STYLE):
        figure, axes = cell_grid(len(rows), columns, 1 + (0.06 if titles is not None else 0))
        for line, images, name in zip(axes, rows, names):
            for cell, levels in zip(line, pixels(images[:columns])):
                show_picture(cell, levels)
            line[0].set_ylabel(name, color=ACCENT if name == "translated" else REAL)
        if titles is not None:
            for cell, title in zip(axes[0], titles):
                cell.set_title(str(title), fontsize=8)
        return finish(figure, caption, path)


def survival(report, *, caption="", path=None):
    """Left: AUROC of the class, off translated scans, beside control and ceilings. Right, where
    the truth is known: drusen found in their place and false ones."""
    classes, lesions = report["class"], report["lesions"]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2 if lesions else 1, squeeze=False,
                                    figsize=(WIDTH if lesions else WIDTH * 0.6, 2.4))  # fmt: skip
        left = axes[0, 0]
        bars = [("on the photographs", classes["ceiling"], PALE),
                ("on true scans", classes["true_oct"], PALE),
                ("on translated scans", classes["translated"], ACCENT)]  # fmt: skip
        for place, (_, found, colour) in enumerate(bars):
            left.barh(place, found["value"], color=colour, height=0.6)
            if found["low"] is not None:
                left.plot([found["low"], found["high"]], [place] * 2, color=REAL, lw=1.5)
        left.axvline(classes["translated"]["shuffled"], color=REAL, ls="--", lw=1)
        left.set_yticks(range(len(bars)), [name for name, *_ in bars])
        left.set(xlim=(0, 1), xlabel="AUROC of the class; dashed: shuffled")
        if lesions:
            right = axes[0, 1]
            for place, name in enumerate(("detected", "false")):
                for k, (who, colour) in enumerate((("translated", ACCENT), ("shuffled", REAL),
                                                   ("ruler", PALE))):  # fmt: skip
                    found = lesions[who][name]
                    at = place + 0.26 * (k - 1)
                    right.bar(
                        at, found["value"], 0.24, color=colour, label=who if not place else None
                    )
                    if found.get("low") is not None:
                        right.plot([at, at], [found["low"], found["high"]], color="black", lw=1)
            right.set_xticks(
                (0, 1), ("drusen found\n(share of the true)", "false drusen\n(per scan)")
            )
            right.legend()
        return finish(figure, caption, path)


def in_place(drawn, truths, readings, um_per_row, *, caption="", path=None):
    """Translated scans (N, 1, S, S); below each how far the RPE rises, in truth and as read by the
    ruler, both in um; a mark for every true druse. um_per_row as ``truths_of`` gives it."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, len(drawn), figsize=(WIDTH, 3.4), squeeze=False,
                                    height_ratios=(1.5, 1), sharey="row")  # fmt: skip
        both = zip(pixels(drawn), truths, readings, um_per_row)
        for column, (levels, truth, reading, um) in enumerate(both):
            above, below = axes[:, column]
            show_picture(above, levels)
            x = truth.x_um / 1000
            below.plot(x, elevation(truth), color=REAL, lw=1, label="truth")
            rise = (reading.elevation - reading.band) * um
            below.plot(x, rise, color=ACCENT, lw=1, label="translated")
            if not reading.usable:
                above.set_title("the ruler cannot read it", fontsize=7)
            places = np.interp(true_drusen(truth), np.arange(len(x)), x)
            below.plot(places, np.full(len(places), -8), "^", color=REAL, ms=4, label="true druse")
            below.set(xlabel="mm from the fovea")
        axes[1, 0].set_ylabel("rise of the RPE, um")
        axes[1, 0].legend(fontsize=7)
        return finish(figure, caption, path)


def scores_over_time(metrics, *, caption="", path=None):
    """Losses (left); on validation patients (right) kernel distance, AUROC of the class, and, where
    it is known, how well the height of the RPE agrees with the eye's."""
    judged = [r for r in metrics if "score" in r]
    logged = [r for r in metrics if any(name.startswith("loss_") for name in r)]
    names = sorted({name for r in logged for name in r if name.startswith("loss_")})
    shades = plt.get_cmap("tab10")
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3))
        for k, name in enumerate(names):
            points = [(r["images"], r[name]) for r in logged if name in r]
            label = name.removeprefix("loss_").replace("_", " ")
            left.plot(*zip(*points), lw=1, color=shades(k), label=label)
        left.set(xlabel="photographs seen", ylabel="loss", yscale="log")
        left.legend(fontsize=7)
        after = {r["images"]: r for r in metrics if "kernel_distance" in r}
        seen = sorted(after)
        right.plot(seen, [after[s]["kernel_distance"] for s in seen], "o-", ms=3, color=ACCENT)
        right.set(xlabel="photographs seen")
        right.set_ylabel("kernel distance x1000", color=ACCENT)
        shares = {"class_auroc": ("AUROC of the class", "o-"),
                  "rpe_concordance": ("dashed: concordance of the RPE", "o--")}  # fmt: skip
        shares = {n: v for n, v in shares.items() if seen and n in after[seen[-1]]}
        if shares:
            other = right.twinx()
            for name, (_, line) in shares.items():
                values = [after[s].get(name, np.nan) for s in seen]
                other.plot(seen, values, line, ms=3, color=REAL)
            words = "\n".join(words for words, _ in shares.values())
            other.set(ylim=(min(0, *other.get_ylim()), 1), ylabel=words)
            other.spines["right"].set_visible(True)
        if judged:
            best = min(judged, key=lambda r: r["score"])
            right.axvline(best["images"], color=PALE, ls=":")
        return finish(figure, caption, path)

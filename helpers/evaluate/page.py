"""The verdict page: one table, one figure, all numbers, where they come from, what is missing."""

import base64
import io
import textwrap
from itertools import groupby
from pathlib import Path

import matplotlib.pyplot as plt
from jinja2 import Environment
from matplotlib.backends.backend_pdf import PdfPages

from helpers.evaluate.report import tables
from helpers.evaluate.verdict import CRITERIA, LARGE, verdict
from helpers.plots import ACCENT, PALE, REAL, STYLE, pixels

HANDLE = "Not for clinical use. This report shows real scans: of patients, it is patient data."
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 2em auto;
       padding: 0 1em; }
table { border-collapse: collapse; width: 100%; margin: 1em 0; }
td, th { text-align: left; vertical-align: top; padding: .35em .8em .35em 0;
         border-bottom: 1px solid #ddd; }
.answer { font-weight: 600; } .who, .remark { color: #777; } .number { white-space: nowrap; }
.criterion td { padding-top: 1em; border-bottom: 2px solid #222; text-transform: capitalize; }
.absent { color: #999; font-weight: 400; } .criterion span { text-transform: none; color: #777; }
img { width: 100%; } h2 { margin-top: 1.6em; } code { font-size: 13px; }
@page { size: A4; margin: 12mm; }
@media print { body { font-size: 9.5px; margin: 0; max-width: none; } h1 { font-size: 16px; }
  td, th { padding: .15em .6em .15em 0; } .criterion td { padding-top: .5em; }
  img { break-before: page; } tr { break-inside: avoid; } code { font-size: 9px; } }
</style>
<h1>{{ title }}</h1>
<p>{{ summary }} <strong>{{ handle }}</strong></p>
<table><tr><th>Question<th>Answer<th>Measured<th>Yardstick</tr>
{% for name, lines in criteria %}<tr class="criterion"><td colspan="4"><b>{{ name }}</b>
<span>{{ meanings[name] }}</span></tr>
{% for row in lines %}<tr><td>{{ row.question }}<br><span class="who">{{ row.for }}</span>
<td class="answer{{ " absent" if row.answer == "not measured" }}">{{ row.answer }}
<td>{{ row.measured }}<td class="remark">{{ row.beside }}</tr>
{% endfor %}{% endfor %}</table>
<p class="who">The order is that of the scorecard for synthetic medical data of Zamzmi et al.
(Communications Engineering 2025;4:130).</p>
<img alt="Pictures, usefulness, distances, shifts of anatomy and texture, closest pairs"
 src="data:image/png;base64,{{ figure }}">
{% if warnings %}<h2>What makes a number doubtful</h2>
<ul>{% for warning in warnings %}<li>{{ warning }}{% endfor %}</ul>{% endif %}
<h2>Not measured</h2>
<ul>{% for name, reason in missing %}<li><b>{{ name }}</b>: {{ reason }}{% endfor %}</ul>
<h2>All numbers</h2>
{% for title, lines in tables.items() %}<h3>{{ title }}</h3><table>
{% for name, number, remark in lines %}<tr><td>{{ name }}<td class="number">{{ number }}
<td class="remark">{{ remark }}</tr>{% endfor %}</table>{% endfor %}
<h2>Where it comes from</h2>
<table>{% for name, value in origin %}<tr><td>{{ name }}<td><code>{{ value }}</code></tr>
{% endfor %}</table>
"""


def write_page(report, figure, path) -> Path:
    """report.html: the verdict, the figure inside it, all tables; one file that needs no other."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    real, made, run = report["real"], report["synthetic"], report["run"]
    origin = [(f"real: {key}", value) for key, value in real.items() if key != "classes"]
    origin += [(f"synthetic: {key}", value) for key, value in made.items()]
    origin += [(f"run: {key}", value) for key, value in (run or {}).items() if key != "identity"]
    origin += [(f"version of {key}", value) for key, value in report["versions"].items()]
    title, summary = _title(report)
    page = Environment(autoescape=True).from_string(PAGE).render(
        title=title, summary=summary, handle=HANDLE, criteria=_by_criterion(report),
        meanings=CRITERIA, figure=base64.b64encode(picture.getvalue()).decode(),
        warnings=report["warnings"], tables=tables(report), origin=origin,
        missing=[(name, report[name].get("reason", "")) for name in report["not_measured"]],
    )  # fmt: skip
    path = Path(path)
    path.write_text(page)
    return path


def _title(report) -> tuple[str, str]:
    real, made = report["real"], report["synthetic"]
    return f"Synthetic {real['class']} OCT: {made['source']}", (
        f"{made['n']} synthetic scans of {made['size']} px against {real['n_test']} real scans of "
        f"{real['patients']} patients."
    )


def _by_criterion(report) -> list[tuple[str, list[dict]]]:
    rows = groupby(verdict(report), key=lambda row: row["criterion"])
    return [(name, list(lines)) for name, lines in rows]


COLUMNS = ((0.06, 25, "question"), (0.28, 21, "answer"), (0.48, 24, "measured"),
           (0.71, 31, "beside"))  # fmt: skip
LINE = 0.0123  # of the page's height


def write_pdf(report, figure, path) -> Path:
    """report.pdf: the verdict on one page of A4, the figure on the next."""
    title, summary = _title(report)
    page, height = plt.figure(figsize=(8.27, 11.69), layout="none"), 0.96

    def write(x, y, text, **how):
        page.text(x, y, text, va="top", **{"fontsize": 8.5, "color": REAL, **how})

    write(0.06, height, "\n".join(textwrap.wrap(title, 60)), fontsize=14, weight="bold")
    height -= 0.025 * len(textwrap.wrap(title, 60))
    write(0.06, height, f"{summary}\n{HANDLE}")
    height -= 1.2 * LINE
    height -= 0.03
    for (x, *_), name in zip(COLUMNS, ("Question", "Answer", "Measured", "Yardstick")):
        write(x, height, name, color=PALE)
    for name, lines in _by_criterion(report):
        height -= 2.1 * LINE
        write(0.06, height, f"{name.capitalize()}: {CRITERIA[name]}", weight="bold", fontsize=9.5)
        height -= 1.4 * LINE
        page.add_artist(plt.Line2D([0.06, 0.95], [height] * 2, color=REAL, lw=0.8))
        for row in lines:
            height -= 0.5 * LINE
            cells = [textwrap.wrap(row[key], width) for _, width, key in COLUMNS]
            for (x, _, key), cell in zip(COLUMNS, cells):
                bold = key == "answer" and row["answer"] != "not measured"
                pale = "not measured" in row[key]
                write(x, height, "\n".join(cell), weight="bold" if bold else "normal",
                      color=PALE if pale else "#777777" if key == "beside" else REAL)  # fmt: skip
            height -= LINE * max(len(cell) for cell in cells)
    write(0.06, height - LINE, "Order: scorecard for synthetic medical data, Zamzmi et al., "
          "Communications Engineering 2025;4:130.", fontsize=7, color=PALE)  # fmt: skip
    with PdfPages(path) as pages:
        pages.savefig(page)
        pages.savefig(figure)
    plt.close(page)
    return Path(path)


def verdict_figure(report, real, synthetic, seen=None, *, path=None):
    """The page's one figure: pictures, usefulness, distances, shifts, closest pairs.

    real, synthetic, seen: uint8 images (N, 1, S, S): unseen scans, the synthetic ones, and those
    that the generator may have seen, in the order the report was made from (for its closest
    pairs). A panel of something not measured says so.
    """
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(11, 10))
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03, wspace=0.01, hspace=0.01)
        top, middle, bottom = figure.subfigures(3, 1, height_ratios=(3.1, 2.4, 4.5))
        for row, (axes, images, name) in enumerate(
            zip(top.subplots(2, 8), (real, synthetic), ("real", "synthetic"))
        ):
            for i, cell in enumerate(axes):
                cell.axis("off")
                if i < len(images):
                    cell.imshow(pixels(images[i : i + 1])[0], cmap="gray", vmin=0, vmax=255)
            axes[0].set_title(f"{name}, not chosen", loc="left", color=(REAL, ACCENT)[row])
        left, right = middle.subplots(1, 2)
        _usefulness_panel(left, report["usefulness"])
        _distance_panel(right, report)
        shifts, pairs = bottom.subfigures(1, 2, width_ratios=(1.25, 1))
        _shift_panel(shifts.subplots(), report)
        _pair_panels(pairs, report["memorisation"], synthetic, seen)
        if path is not None:
            figure.savefig(path, dpi=110)
        plt.close(figure)
        return figure


def _absent(axes, title, reason):
    axes.set_title(title, loc="left")
    axes.axis("off")
    axes.text(0, 0.9, f"not measured: {reason}", va="top", wrap=True, color=REAL, fontsize=8)


def _usefulness_panel(axes, part):
    title = "AUROC on unseen patients, by training set"
    if part["auroc"] is None or part["auroc"].get("value") is None:
        return _absent(axes, title, part.get("reason", ""))
    arms = [(name, arm["auroc"]) for name, arm in part["arms"].items()]
    arms = [(name, auroc) for name, auroc in arms if auroc and auroc["value"] is not None]
    for row, (name, auroc) in enumerate(reversed(arms)):
        colour = ACCENT if name == "synthetic" else REAL
        low = auroc["value"] if auroc["low"] is None else auroc["low"]
        high = auroc["value"] if auroc["high"] is None else auroc["high"]
        axes.plot([low, high], [row, row], color=colour, lw=1.5)
        axes.plot(auroc["value"], row, "o", color=colour)
        axes.annotate(f"{auroc['value']:.2f}", (auroc["value"], row), (0, 6), fontsize=8,
                      textcoords="offset points", ha="center")  # fmt: skip
    axes.axvline(0.5, color=PALE, ls=":")
    axes.set_yticks(range(len(arms)), [name.replace("_", " ") for name, _ in reversed(arms)])
    axes.set(xlim=(0, 1.02), ylim=(-0.6, len(arms) - 0.2))
    axes.set_title(title, loc="left")


def _distance_panel(axes, report):
    distance, scale, resolution = (report[k] for k in ("kernel_distance", "scale", "resolution"))
    title = "Kernel distance x1000 to unseen patients"
    if distance["value"] is None:
        return _absent(axes, title, distance.get("reason", ""))
    other = scale["other_class"] or {"name": "", "value": None}
    rows = [
        ("synthetic", distance["value"]), ("real training scans", distance["floor"]),
        (f"real {other['name']}", other["value"]),
        (f"real at {resolution['size']} px", resolution["value"]),
        ("real, blurred", scale["blur"]), ("white noise", scale["noise"]),
    ]  # fmt: skip
    rows = sorted((row for row in rows if row[1] is not None), key=lambda row: -row[1])
    for row, (name, value) in enumerate(rows):
        colour = ACCENT if name == "synthetic" else PALE
        axes.barh(row, max(value, 1) - 1, left=1, color=colour, height=0.6)
        axes.annotate(f"{value:.1f}", (max(value, 1), row), (4, 0), textcoords="offset points",
                      va="center", fontsize=8)  # fmt: skip
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set(xscale="log", xlim=(1, 3 * max(value for _, value in rows)))
    axes.set_title(title, loc="left")


def _shift_panel(axes, report):
    title = "Shift of synthetic against real (Cliff's delta); grey: real against real"
    rows = [
        (name, measure)
        for part in ("texture", "anatomy")
        for name, measure in (report[part]["measures"] or {}).items()
        if measure["effect"] is not None
    ]
    if not rows:
        return _absent(axes, title, report["anatomy"].get("reason", ""))
    for row, (_, measure) in enumerate(rows):
        if measure.get("floor") is not None:
            axes.plot(measure["floor"], row, "|", color=PALE, ms=9, mew=2)
        if measure["low"] is not None:
            axes.plot([measure["low"], measure["high"]], [row, row], color=ACCENT, lw=1.5)
        axes.plot(measure["effect"], row, "o", color=ACCENT, ms=4)
    axes.axvspan(-LARGE, LARGE, color=PALE, alpha=0.15, lw=0)
    axes.axvline(0, color=PALE, lw=1)
    axes.set_yticks(range(len(rows)), [name.replace("_", " ") for name, _ in rows], fontsize=7)
    axes.set(xlim=(-1.05, 1.05), ylim=(-1, len(rows)))
    axes.set_title(title, loc="left")


def _pair_panels(figure, part, synthetic, seen):
    if seen is None or not part.get("closest"):
        return _absent(figure.subplots(), "Closest pairs", part.get("reason", "no training scans"))
    pairs = part["closest"][:10]
    cells = figure.subplots(-(-len(pairs) // 2), 4, squeeze=False)
    for cell in cells.flat:
        cell.axis("off")
    for place, pair in enumerate(pairs):
        two = cells[place // 2, 2 * (place % 2) : 2 * (place % 2) + 2]
        nearest = seen[pair["training"]]
        images = synthetic[pair["synthetic"]], nearest[..., ::-1] if pair["mirrored"] else nearest
        for cell, image in zip(two, images):
            cell.imshow(pixels(image[None])[0], cmap="gray", vmin=0, vmax=255)
        two[0].set_title(f"synthetic, {pair['distance']:.2f}", fontsize=8, color=ACCENT, pad=2)
        mirrored = "training, mirrored" if pair["mirrored"] else "training"
        two[1].set_title(mirrored, fontsize=8, pad=2)
    figure.suptitle("Closest pairs: synthetic, and the training scan nearest to it", fontsize=9)

"""How wrong is the ruler? Not a test: it prints the error tables, and takes some minutes.

    python notebooks/results/ruler.py [--n 25] [--real DIR/manifest.csv --out DIR] [--people DIR]

Simulated eyes have a known anatomy: every surface's error in px at 256 (1 px is 0.39 % of the
height), by condition, grade, size and with white wedges; drusen found and missed; the fovea.
With --people, what people drew stands beside what the ruler reads: layers (nr206: NORMAL/*.png and
LAYERS/*.png of eight colours), outlines of drusen burnt in (octdl_contoured/AMD), and drusen per
scan of exports (spectralis/EYE/*.xml); folders that are not there are left out.
With --real, overlays on real scans are written as contact sheets, stratified by data set and
class, one picture of every patient first, to be judged by eye.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.stats import spearmanr
from skimage.restoration import inpaint_biharmonic

from helpers.data.bscan import clean_oct
from helpers.data.hospital import read_frame, read_volumes
from helpers.data.pixels import read_image, to_grey
from helpers.data.simulated.simulate import CONDITIONS, make_eye
from helpers.measures.layers import SURFACES, WORK, find_drusen, read_all, read_layers
from helpers.measures.true_layers import true_lift

GROUPS = (
    [(c, {}) for c in CONDITIONS]
    + [(f"{c} grade {g}", {"grade": g}) for c in CONDITIONS[1:] for g in (0.1, 0.5, 1.0)]
    + [(f"DRUSEN {s} px", {"size": s}) for s in (64, 128, 512)]
    + [(f"{c} wedge", {"wedge": True}) for c in CONDITIONS[:2]]
)


def matched(found, true, slack=3):
    """How many of the druse columns `true` have one of `found` within slack px, greedily."""
    left, hits = list(found), 0
    for x in true:
        near = [f for f in left if abs(f - x) <= slack]
        if near:
            left.remove(min(near, key=lambda f: abs(f - x)))
            hits += 1
    return hits


def simulated_row(name, settings, n, first=200_000):
    """One group's errors: a dict of numbers."""
    condition = name.split()[0]
    eyes = [
        make_eye(first + k, condition, eye=("OD", "OS")[k % 2], **settings) for k in range(n)
    ]  # fmt: skip
    layers = read_all([eye.oct for eye in eyes])
    errors = {surface: [] for surface in SURFACES}
    drusen = {"found": 0, "true": 0, "hits": 0, "counts": [], "areas": [], "heights": []}
    fovea, pits = [], 0
    for eye, read in zip(eyes, layers):
        if not read.usable:
            continue
        scale = WORK / len(eye.oct)
        for surface in SURFACES:
            errors[surface].append((read.rows[surface] - eye.truth.rows[surface]) * scale)
        true = find_drusen(true_lift(eye.truth))
        found = [((d.x + 0.5) * scale - 0.5, d) for d in read.drusen]
        drusen["found"] += len(found)
        drusen["true"] += len(true)
        drusen["hits"] += matched([x for x, _ in found], [d.x for d in true])
        drusen["counts"].append((len(found), len(true)))
        drusen["areas"].append(
            (sum(d.area for _, d in found) * scale**2, sum(d.area for d in true))
        )
        if read.fovea is not None:
            pits += 1
            fovea.append((read.fovea[0] - eye.truth.oct_fovea_column) * scale)
    row = {"usable": np.mean([read.usable for read in layers])}
    for surface in SURFACES:
        values = np.concatenate(errors[surface])
        values = values[np.isfinite(values)]
        row[surface] = (np.median(values), np.abs(values).mean(), np.percentile(np.abs(values), 95))
    row["columns"] = np.isfinite(np.concatenate(errors["RPE"])).mean()
    row["true"], row["found"] = drusen["true"], drusen["found"]
    row["sensitivity"] = drusen["hits"] / max(drusen["true"], 1)
    row["precision"] = drusen["hits"] / max(drusen["found"], 1)
    row["counts"] = spearmanr(*zip(*drusen["counts"])).statistic
    row["areas"] = spearmanr(*zip(*drusen["areas"])).statistic
    row["area"] = np.divide(*np.sum(drusen["areas"], 0)) if drusen["true"] else np.nan
    row["fovea"] = np.median(np.abs(fovea)) if fovea else np.nan
    row["fovea95"] = np.percentile(np.abs(fovea), 95) if fovea else np.nan
    row["pits"] = pits / len(eyes)
    return row


def simulated_table(n):
    print(f"Errors in px at 256 (median, mean absolute, 95th percentile); {n} eyes a row")
    heads = "".join(f"{surface:>20}" for surface in SURFACES)
    print(f"{'':18}{'usable':>7}{'columns':>8}{heads}"
          f"{'drusen':>8}{'found':>6}{'sens.':>6}{'prec.':>6}{'r(n)':>6}{'r(area)':>8}{'area':>6}"
          f"{'pits':>6}{'fovea':>6}{'95 %':>6}")  # fmt: skip
    for name, settings in GROUPS:
        row = simulated_row(name, settings, n)
        rows = "".join("{:>9.2f} {:5.2f} {:4.1f}".format(*row[surface]) for surface in SURFACES)
        print(
            f"{name:18}{row['usable']:7.2f}{row['columns']:8.3f}{rows}"
            f"{row['true']:8d}{row['found']:6d}{row['sensitivity']:6.2f}{row['precision']:6.2f}"
            f"{row['counts']:6.2f}{row['areas']:8.2f}{row['area']:6.2f}"
            f"{row['pits']:6.2f}{row['fovea']:6.1f}{row['fovea95']:6.1f}",
            flush=True,
        )


def layers_by_people(folder):
    """The ruler's rows less those of a person, in px at 256, of the ILM and the RPE's lower edge;
    a mask's edge lies between two pixels."""
    for path in sorted(folder.glob("NORMAL/*.png")):
        inside = read_image(folder / "LAYERS" / path.name).any(2)
        edges = {
            "ILM": inside.argmax(0) - 0.5,
            "BM": len(inside) - inside[::-1].argmax(0) - 0.5,
        }
        read = read_layers(to_grey(read_image(path)))
        print(f"{path.stem:12}", end="")
        for surface, edge in edges.items():
            error = (read.rows[surface] - edge)[inside.any(0)] * WORK / len(inside)
            error = error[np.isfinite(error)]
            shift = np.median(error)
            print(f"  {surface} {shift:+.2f}, {np.abs(error).mean():.2f}", end="")
            print(f", less that shift {np.abs(error - shift).mean():.2f}", end="")
        print()


def drusen_by_people(folder):
    """Drusen that a person outlined in red, and how many of them the ruler finds, the red being
    filled in from beside it."""
    for path in sorted(folder.glob("AMD/*")):
        image = read_image(path)
        red = image[..., 0].astype(int) - image[..., 1] > 60
        filled = ndimage.binary_fill_holes(ndimage.binary_dilation(red))
        spans = [part[1] for part in ndimage.find_objects(ndimage.label(filled)[0])]
        spans = [span for span in spans if span.stop - span.start > 8]
        grey = inpaint_biharmonic(to_grey(image) / 255, ndimage.binary_dilation(red, iterations=2))
        read = read_layers((255 * grey).round().astype(np.uint8))
        near = [[abs(d.x - np.clip(d.x, s.start, s.stop)) <= 4 for d in read.drusen] for s in spans]
        high = [round(d.height * WORK / len(image), 1) for d in read.drusen]
        print(f"{path.stem:16} {len(spans)} outlined, {sum(map(any, near))} found; by the ruler "
              f"{high} px of 256 high {read.reason}")  # fmt: skip


def exports(folder):
    """Drusen per B-scan and thickness, in um, of each eye of Heidelberg exports."""
    for path in sorted(folder.glob("*/*.xml")):
        (volume,) = read_volumes(path)
        read = read_all([read_frame(f"{path}#{k}") for k in range(len(volume.frames))])
        good, um = [one for one in read if one.usable], volume.um_per_px_y
        high = [d.height * um for one in good for d in one.drusen]
        print(f"{path.parent.name:18} usable {len(good)} of {len(read)}, drusen per scan "
              f"{len(high) / len(good):.2f}, median height {np.median(high):.0f} um, thickness "
              f"{np.mean([np.nanmean(one.thickness) * um for one in good]):.0f} um")  # fmt: skip


def people(place):
    for name, show in (("oct/nr206", layers_by_people), ("oct/octdl_contoured", drusen_by_people),
                       ("paired/spectralis", exports)):  # fmt: skip
        folder = Path(place) / name
        if folder.is_dir():
            print(name)
            show(folder)


def real_scans(manifest, each):
    """{(dataset, label): (scans (N, 256, 256), names)}: up to `each`, patients in turn."""
    with open(manifest, newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["modality"] == "oct"]
    groups, folder = {}, Path(manifest).parent
    for key in sorted({(r["dataset"], r["label"]) for r in rows}):
        queue, turn = [], {}
        for r in (r for r in rows if (r["dataset"], r["label"]) == key):
            turn[r["patient"]] = turn.get(r["patient"], -1) + 1
            queue.append((turn[r["patient"]], r["patient"], r["path"]))
        chosen = [path for _, _, path in sorted(queue)[:each]]
        scans = [clean_oct(read_image(folder / path), size=256) for path in chosen]
        groups[key] = np.stack(scans), [Path(path).stem for path in chosen]
    return groups


def real_sheets(manifest, out, each):
    from helpers.plots import show_layers

    for (dataset, label), (scans, names) in real_scans(manifest, each).items():
        layers = read_all(scans)
        for k in range(0, len(scans), 12):
            titles = [f"{n} {r.reason}" for n, r in zip(names[k : k + 12], layers[k : k + 12])]
            path = Path(out) / f"{dataset}-{label}-{k // 12}.png"
            show_layers(scans[k : k + 12, None], layers[k : k + 12], titles, path=path)
            print(path, f"usable {np.mean([r.usable for r in layers]):.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=25, help="simulated eyes a row; 0 leaves them out")
    parser.add_argument("--real", help="manifest.csv of real scans")
    parser.add_argument("--each", type=int, default=8, help="real scans per data set and class")
    parser.add_argument("--out", default="runs/layers", help="where the contact sheets go")
    parser.add_argument("--people", help="folder of nr206, octdl_contoured and spectralis")
    choices = parser.parse_args()
    if choices.n:
        simulated_table(choices.n)
    if choices.people:
        people(choices.people)
    if choices.real:
        real_sheets(choices.real, choices.out, choices.each)


if __name__ == "__main__":
    main()

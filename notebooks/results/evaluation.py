"""The table of results/evaluation.md: runs beside other patients' scans, blurred and simulated.

    python notebooks/results/evaluation.py --real DIR --class DRUSEN RUN:CONTRAST_RUN ... --out DIR

Each RUN:CONTRAST_RUN is a generator of the class and one of NORMAL by the same recipe, trained on
--real. The other rows are judged by the same rules on the same unseen patients: half of the
training patients play the synthetic scans, as they are, blurred, and replaced by simulated eyes;
all at the size of the runs' pictures.
"""

import argparse
import copy
import json
from pathlib import Path

import numpy as np

from helpers.data.pixels import at_size
from helpers.data.simulated import simulate
from helpers.data.split import Split
from helpers.evaluate import known_damage
from helpers.evaluate.parts import (
    complete_report,
    measure_distances,
    measure_memorisation,
    measure_shifts,
    measure_usefulness,
    write_all,
)
from helpers.evaluate.sides import Synthetic, read_sides
from helpers.measures import layers, texture
from helpers.measures.features import JUDGE, Features
from helpers.measures.intervals import between


def halves(split):
    """(one half of the patients, the other) of a Split."""
    patients = np.unique(split.patients)
    mine = np.isin(split.patients, np.random.default_rng(0).permutation(patients)[::2])
    return [Split(split.images[side], [s for s, m in zip(split.scans, side) if m])
            for side in (mine, ~mine)]  # fmt: skip


def controls(sides, size, n_simulated):
    """name -> Sides in which other scans play the synthetic ones."""
    played = copy.copy(sides)
    played.__dict__.pop("equal", None)
    sets = {}
    for name in ("real", "other_real"):
        side = copy.copy(getattr(sides, name))
        actors, side.training = halves(side.training)
        side.seen = side.training
        setattr(played, name, side)
        sets[name] = at_size(actors.images, size)
    conditions = {"real": "DRUSEN", "other_real": "NORMAL"}
    eyes = {
        name: np.stack([simulate.make_eye(seed, condition, size=256).oct[None]
                        for seed in range(n_simulated)])
        for name, condition in conditions.items()
    }  # fmt: skip
    made = {
        "other patients' real scans": sets,
        "the same, blurred": {name: known_damage.blur(images) for name, images in sets.items()},
        "simulated eyes": {name: at_size(images, size) for name, images in eyes.items()},
    }
    for title, images in made.items():
        one = copy.copy(played)
        run = {"name": title, "data_manifest": None}
        one.synthetic = Synthetic(images["real"], sides.real.class_, run, title)
        one.other_synthetic = Synthetic(images["other_real"], "NORMAL", run, title)
        yield title, one


def measured(sides, features, out, classifier):
    parts = measure_distances(sides, features, progress=False)
    parts["usefulness"] = measure_usefulness(sides, features, classifier=classifier)
    parts["anatomy"] = measure_shifts(sides, layers, progress=False)
    parts["texture"] = measure_shifts(sides, texture, progress=False)
    parts["memorisation"] = measure_memorisation(sides, features, progress=False)
    report = complete_report(sides, parts, {"inception": "left out", "reading": "nobody has read"})
    write_all(report, sides, out)
    return report


def row(name, report):
    shifts = {n: m["effect"] for part in ("anatomy", "texture")
              for n, m in report[part]["measures"].items() if m["effect"] is not None}  # fmt: skip
    largest = sorted(shifts, key=lambda n: -abs(shifts[n]))[:3]
    useful, kinds, memory = (
        report["usefulness"],
        report["coverage"]["value"],
        report["memorisation"],
    )
    return [
        name, between(useful["auroc"]), between(report["kernel_distance"], 0),
        f"{kinds['precision']:.2f} / {kinds['coverage']:.2f}",
        ", ".join(f"{n} {shifts[n]:+.2f}" for n in largest),
        f"{100 * memory['copied_share']:.1f} ({100 * memory['expected_share']:.1f})",
    ]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="RUN:CONTRAST_RUN")
    parser.add_argument("--real", required=True)
    parser.add_argument("--class", dest="class_", default="DRUSEN")
    parser.add_argument("--out", required=True)
    parser.add_argument("--classifier", default="linear")
    parser.add_argument("--n", type=int, default=1000)
    choices = parser.parse_args()
    out, rows = Path(choices.out), []
    features = Features(cache=out / "features", name=JUDGE)
    for number, pair in enumerate(choices.runs):
        run, contrast = pair.split(":")
        sides = read_sides(choices.real, run, contrast=contrast, class_=choices.class_,
                           n=choices.n, cache=out / "cache")  # fmt: skip
        rows.append(row(Path(run).name, measured(sides, features, out / Path(run).name,
                                                 choices.classifier)))  # fmt: skip
        if number == 0:
            first = sides
    for title, sides in controls(first, first.synthetic.images.shape[-1], choices.n // 2):
        place = out / title.replace(" ", "-").replace("'", "")
        rows.append(row(title, measured(sides, features, place, choices.classifier)))
    for line in rows:
        print("| " + " | ".join(line) + " |")
    (out / "table.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

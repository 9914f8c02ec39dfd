"""Fingerprints planted in the training data: are they drawn? Leak and coverage in one table.

    python notebooks/results/fingerprints.py --real DIR --class DRUSEN --minutes 15 --out DIR

A grating too faint to be seen is laid over a share of the training scans, and one patient is
repeated many times. A generator is trained on that, and another, for as long, on the same scans
without the grating and without that patient. A generator that has learned what there is draws the
mark as often as it was there, beyond what the other draws (else a kind of scan was lost), and the
patient as little as the other generator does (else a person leaks). After fingerprints planted to
show both in one test (MIDL 2025, PMLR 301:366). The same command goes on where it stopped.
"""

import argparse
import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import shift

from helpers import config
from helpers.data.pixels import at_size, to_levels
from helpers.data.prepare import prepare
from helpers.gan.recipes import with_recipe
from helpers.gan.sampling import sample
from helpers.gan.train import train_gan
from helpers.generate import load_generator
from helpers.measures.alignment import Alignment
from helpers.measures.features import Features
from helpers.measures.intervals import between, interval, patient_weights
from helpers.measures.memorisation import NEAR_VOLUME, copies

CYCLES = 20  # of the grating over the width: finer than anatomy, coarser than speckle
STRENGTH = 4  # grey levels of 255, a fifth of speckle's spread
SIZE = 256  # px of the scans that are written


def wave(size):
    """The grating along a row of `size` px, -1 to 1; a mirrored scan bears the same one."""
    return np.cos(2 * np.pi * CYCLES * (np.arange(size) + 0.5 - size / 2) / size)


def mark(images, strength=STRENGTH):
    """uint8 (N, 1, S, S) with the grating over them, of `strength` grey levels."""
    marked = images + strength * wave(images.shape[-1])
    return marked.round().clip(0, 255).astype(np.uint8)


def marked_by(images):
    """How strong the grating is on each of uint8 (N, 1, S, S): (N,) in grey levels, about 0 where
    there is none."""
    return 2 * (images.mean((1, 2)) * wave(images.shape[-1])).mean(-1)


def most_scans(patients):
    """The patient with the most scans, the first by name of several."""
    names, counts = np.unique(patients, return_counts=True)
    return str(names[counts.argmax()])


def plant(data, out, *, share, times, seed=0):
    """The scans of ``data`` (prepare's, with stretched whole scans) as two data sets in ``out``.

    `planted`: a `share` of the training scans is marked, and those of one patient are there `times`
    times, each moved by a few px and with noise of its own. `clean`: neither. Returns what was
    planted: {"patient", "marked": (N,) of the training scans, "share", "patient_share"}.
    """
    rng, train = np.random.default_rng(seed), data.train
    patient = most_scans(train.patients)
    own = train.patients == patient
    marked = (rng.random(len(own)) < share) & ~own
    images = np.where(marked[:, None, None, None], mark(train.images), train.images)
    again = np.repeat(train.images[own], times - 1, axis=0)
    moves = [(0, *rng.integers(-3, 4, 2)) for _ in again]
    again = np.stack([shift(scan, by, order=0, mode="nearest") for scan, by in zip(again, moves)])
    again = (again + rng.normal(0, 1, again.shape)).round().clip(0, 255).astype(np.uint8)
    people = np.concatenate([train.patients, np.repeat(patient, len(again))])
    sides = [(side.images, side.patients, name) for name, side in
             (("validation", data.validation), ("test", data.test))]  # fmt: skip
    sets = {
        "planted": [(np.concatenate([images, again]), people, "train"), *sides],
        "clean": [(train.images[~own], train.patients[~own], "train"), *sides],
    }
    for name, parts in sets.items():
        folder, rows = Path(out) / name, [["path", "label", "patient", "split"]]
        folder.mkdir(parents=True, exist_ok=True)
        for scans, patients, side in parts:
            for i, (scan, who) in enumerate(zip(scans, patients)):
                Image.fromarray(scan[0]).save(folder / f"{side}_{i}.png")
                rows.append([f"{side}_{i}.png", data.class_, who, side])
        with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    whole = len(images) + len(again)
    return {"patient": patient, "marked": marked, "share": float(marked.sum() / whole),
            "patient_share": float((own.sum() + len(again)) / whole)}  # fmt: skip


def share_marked(made, without, marked, plain, patients):
    """What share of synthetic scans bears the mark, beyond those ``without``; a 95 % interval.

    made (N,), without (K,), marked (M,), plain (P,): `marked_by` of synthetic scans, of scans that
    cannot bear it, and of real ones with and without it, whose patients are the arrays of
    ``patients``. From means, so that it holds where no single scan is told.
    """
    groups = np.arange(len(made)), patients[0], patients[1], patients[2]
    weights = [patient_weights(names, 1000, k) for k, names in enumerate(groups)]
    mean = [(w @ values) / w.sum(1) for w, values in zip(weights, (made, without, marked, plain))]
    return interval((mean[0] - mean[1]) / (mean[2] - mean[3]))


def share_near(made, own, others, patients):
    """`copies` of one patient's scans ``own``, as near as NEAR_VOLUME of other patients' are."""
    alignment = Alignment(own)
    near = [1 - alignment.similarity(images).max(1) for images in (made, others)]
    found = copies(*near, patients, NEAR_VOLUME)
    return {"value": found["copied_share"], "low": found["low"], "high": found["high"]}


def ask(made, data, planted):
    """The table: fingerprint -> {"there", "drawn", "control", "says"}.

    made: {"planted": ..., "clean": ...}, uint8 (N, 1, S, S) by the two generators. data, planted:
    as in and from `plant`.
    """
    train, marked = data.train, planted["marked"]
    size = made["planted"].shape[-1]
    own = train.patients == planted["patient"]
    real = at_size(train.images, size)
    bears, plain = marked_by(at_size(mark(train.images[marked]), size)), marked_by(real[~marked])
    names = train.patients[marked], train.patients[~marked]
    drawn, clean = marked_by(made["planted"]), marked_by(made["clean"])
    scans = np.arange(len(clean))
    others = np.concatenate([real[~own], at_size(data.validation.images, size),
                             at_size(data.test.images, size)])  # fmt: skip
    people = np.concatenate([train.patients[~own], data.validation.patients, data.test.patients])
    table = {"mark": {"there": planted["share"]}, "patient": {"there": planted["patient_share"]}}
    # a generator has textures of its own: what counts is what the other one does not draw as well
    table["mark"]["drawn"] = share_marked(drawn, clean, bears, plain, (scans, *names))
    table["mark"]["control"] = share_marked(clean, plain, bears, plain, (names[1], *names))
    for column, name in (("drawn", "planted"), ("control", "clean")):
        table["patient"][column] = share_near(made[name], real[own], others, people)
    drawn, there = table["mark"]["drawn"], planted["share"]  # beyond the control
    said = "lost" if drawn["low"] <= 0 else "drawn, but less often than it was there"
    if drawn["high"] >= there:
        said = "not decided" if drawn["low"] <= 0 else "drawn as often as it was there"
    table["mark"]["says"] = said
    leak = table["patient"]["drawn"]["low"] > table["patient"]["control"]["high"]
    table["patient"]["says"] = "leaks" if leak else "no leak was found"
    return table


def as_table(table) -> str:
    lines = ["| fingerprint | share of training scans | of synthetic scans | of a generator that "
             "never saw it | |", "|---|---|---|---|---|"]  # fmt: skip
    for name, row in table.items():
        percent = [between({k: 100 * row[c][k] for k in ("value", "low", "high")}, 1)
                   for c in ("drawn", "control")]  # fmt: skip
        lines.append(f"| {name} | {100 * row['there']:.1f} % | {percent[0]} % | {percent[1]} % | "
                     f"{row['says']} |")  # fmt: skip
    return "\n".join(lines)


def main(arguments=None, features=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--real", required=True)
    add("--class", dest="class_", default="DRUSEN")
    add("--share", type=float, default=0.25, help="of the training scans that are marked (0.25)")
    add("--times", type=int, default=5, help="how often the one patient is there (5)")
    add("--minutes", type=float, default=15, help="of each of the two trainings (15)")
    add("--size", type=int, default=128)
    add("--n", type=int, default=500, help="synthetic scans of each (500)")
    add("--seed", type=int, default=0)
    add("--out", required=True)
    o = parser.parse_args(arguments)
    out = Path(o.out).resolve()
    data = prepare(o.real, class_=o.class_, size=SIZE, cache=out / "cache", progress=False)
    planted = plant(data, out, share=o.share, times=o.times, seed=o.seed)
    made = {}
    for name in ("planted", "clean"):
        given = {
            "data": out / name / "manifest.csv", "class": data.class_, "size": o.size,
            "hours": o.minutes / 60, "runs": out / "runs", "run": name, "seed": o.seed,
        }  # fmt: skip
        s = config.resolve(config.TrainGan, [f"--{key}={value}" for key, value in given.items()])
        run = train_gan(replace(with_recipe(s), patience=0), features or Features(), False)
        made[name] = to_levels(sample(load_generator(run.folder), o.n, o.seed))
    table = ask(made, data, planted)
    (out / "table.json").write_text(json.dumps(table, indent=1) + "\n")
    print(as_table(table))
    return table


if __name__ == "__main__":
    main()

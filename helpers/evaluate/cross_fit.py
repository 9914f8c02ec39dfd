"""Usefulness by cross-fitting: a generator trained anew in every fold, each patient tested once.

    python -m helpers.evaluate --cross-fit FOLDER --out DIR --class DRUSEN --minutes 15

With few patients one split decides nothing: which patients happen to be tested moves an AUROC by
more than any generator does. So all of them are dealt into folds. For each fold in turn the
generator learns from the others; a linear head learns the disease from its scans alone, from the
real ones, and from both, and is asked about the fold. "Centred": features of either side about its
own mean, for which real scans need no labels, so that what sets all synthetic scans apart is out of
the way. "In components": besides, heads see only what varies most among the real scans, which need
no labels for that either. What is reported is paired over all patients.
"""

import argparse
import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from helpers import config
from helpers.classifiers.linear_head import linear_head
from helpers.data.pixels import to_levels
from helpers.data.prepare import prepare
from helpers.data.sources import load_manifest
from helpers.data.split import Labelled, shuffled
from helpers.gan.recipes import with_recipe
from helpers.gan.sampling import classes_of, sample
from helpers.gan.train import train_gan
from helpers.generate import load_generator
from helpers.measures.features import JUDGE, Features
from helpers.measures.intervals import between, interval, patient_weights
from helpers.measures.usefulness import centred, components, joined
from helpers.training.network_file import write_whole

VALIDATION = 0.15  # share of the patients of a fold's training that choose its checkpoint
WORTH_SEEING = 0.02  # a difference of AUROC
POWER = 1.96 + 0.84  # standard errors: found at 5 % with a probability of 80 %


def deal_patients(scans, folds: int, seed=0) -> dict[str, int]:
    """The fold of every patient, so that each class is spread evenly; rarer classes first.

    ValueError naming a class with fewer patients than folds.
    """
    classes = {}
    for scan in scans:
        classes.setdefault(scan.label, set()).add(scan.patient)
    fold = {}
    for label, patients in sorted(classes.items(), key=lambda item: (len(item[1]), item[0])):
        if len(patients) < folds:
            raise ValueError(
                f"{label}: {len(patients)} patient(s) for {folds} folds. Choose fewer folds, add "
                "patients, or leave the class out with --classes."
            )
        held = [sum(fold.get(patient) == k for patient in patients) for k in range(folds)]
        for patient in shuffled([p for p in patients if p not in fold], seed):
            fold[patient] = int(np.argmin(held))
            held[fold[patient]] += 1
    return fold


def write_fold(path: Path, scans, fold: dict[str, int], number: int, seed=0) -> None:
    """A manifest in which fold ``number`` tests, some of the others validate, the rest train."""
    classes = {}
    for scan in scans:
        if fold[scan.patient] != number:
            classes.setdefault(scan.label, set()).add(scan.patient)
    validating = set()
    for patients in classes.values():
        wanted = max(1, round(VALIDATION * len(patients))) - len(validating & patients)
        validating |= set(shuffled(patients - validating, seed + 1)[: max(0, wanted)])
    rows = [["path", "label", "patient", "dataset", "split", "frame"]]
    for scan in scans:
        side = "validation" if scan.patient in validating else "train"
        side = "test" if fold[scan.patient] == number else side
        place = scan.path if scan.dataset == "simulated" else str(Path(scan.path).resolve())
        rows.append([place, scan.label, scan.patient, scan.dataset, side,
                     "" if scan.frame is None else scan.frame])  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def auroc_within_folds(positive, scores, folds, weights) -> np.ndarray:
    """(R,) for weights (R, N): the share of pairs, one diseased and one not, of one fold, that are
    in order. Heads of different folds have scales of their own, so pairs across folds say nothing.
    """
    right, pairs = 0.0, 0.0
    for fold in np.unique(folds):
        ill, well = (np.flatnonzero((folds == fold) & (positive == side)) for side in (True, False))
        if len(ill) and len(well):
            order = 0.5 + 0.5 * np.sign(scores[ill][:, None] - scores[well][None])
            right = right + ((weights[:, ill] @ order) * weights[:, well]).sum(1)
            pairs = pairs + weights[:, ill].sum(1) * weights[:, well].sum(1)
    return right / np.where(pairs > 0, pairs, np.nan)


def patients_needed(differences: np.ndarray, patients: int) -> int:
    """How many it takes to see WORTH_SEEING, from the resampled ``differences`` of so many."""
    return int(np.ceil(patients * (POWER * np.nanstd(differences[1:]) / WORTH_SEEING) ** 2))


def summarise(positive, scores: dict[str, np.ndarray], folds, patients, resamples=2000, seed=0):
    """{"arms": {name: AUROC}, "minus real": {name: difference}, "added": {real arm: what synthetic
    scans add to it}, "patients", "needed"}, each with a 95 % interval over patients; ``scores``
    has "real", and of every arm a score per scan (N,)."""
    weights = patient_weights(patients, resamples, seed)
    areas = {
        name: auroc_within_folds(positive, values, folds, weights)
        for name, values in scores.items()
    }
    gains = {name: values - areas["real"] for name, values in areas.items() if name != "real"}
    added = {name: areas[name.replace("real", "both")] - values for name, values in areas.items()
             if name.startswith("real") and name.replace("real", "both") in areas}  # fmt: skip
    count = len(set(patients))
    return {
        "arms": {name: interval(values) for name, values in areas.items()},
        "minus real": {name: interval(values) for name, values in gains.items()},
        "added": {name: interval(values) for name, values in added.items()},
        "scans": len(positive), "patients": count,
        "needed": {name: patients_needed(values, count) for name, values in gains.items()},
    }  # fmt: skip


def learn_and_ask(train: Labelled, test_features, positive: str, seed=0) -> np.ndarray:
    """How much each test scan looks diseased to a linear head on ``train``, whose images are
    features (N, d): (M,)."""
    weight, bias = linear_head(
        train.images, (train.labels == positive).astype(np.int64), train.patients, seed=seed
    )
    logits = test_features @ weight.T + bias
    return logits[:, 1] - logits[:, 0]


def learn_in_components(train: Labelled, own, test_features, positive: str, seed=0) -> np.ndarray:
    """As ``learn_and_ask``, (M,), the mean of heads that see components of ``own`` (K, d), features
    of scans of the clinic that is asked about (``usefulness.components``); all three are centred.
    Each head counts in units of its spread."""
    total = 0.0
    for axes in components(own):
        seen = Labelled(train.images @ axes, train.labels, train.patients)
        said = learn_and_ask(seen, test_features @ axes, positive, seed)
        total = total + said / max(said.std(), 1e-9)
    return total


def score_fold(run, data, positive, other, features, *, n, shares, seed=0) -> dict:
    """What heads say of the test scans of one fold: {arm: scores}, with who was asked."""
    generator = load_generator(run.folder)
    wanted = [positive, other]
    unknown = [name for name in wanted if name not in classes_of(generator)]
    if unknown:
        raise ValueError(f"{run.folder}: its generator does not draw {', '.join(unknown)}.")
    drawn = [features(to_levels(sample(generator, n, seed, class_name=name))) for name in wanted]
    names = np.array([f"synthetic {i}" for i in range(2 * n)])
    made = Labelled(np.concatenate(drawn), np.repeat(wanted, n), names)
    sides = {}
    for name in ("train", "validation", "test"):
        side = getattr(data, name)
        kept = np.isin(side.labels, wanted)
        sides[name] = Labelled(
            features(np.asarray(side.images)[kept]), side.labels[kept], side.patients[kept]
        )
    real = joined(sides["train"], sides["validation"])
    test = sides["test"]
    scores = {"synthetic": learn_and_ask(made, test.images, positive, seed)}
    # each side in units of its own spread, about its own mean: real scans need no labels for that
    asked = centred(test.images, real.images)
    made_centred = Labelled(centred(made.images), made.labels, made.patients)
    both = joined(Labelled(centred(real.images), real.labels, real.patients), made_centred)
    scores["synthetic, centred"] = learn_and_ask(made_centred, asked, positive, seed)
    scores["synthetic, in components"] = learn_in_components(
        made_centred, centred(real.images), asked, positive, seed
    )
    scores["both, centred"] = learn_and_ask(both, asked, positive, seed)
    for share in shares:
        few = real.take(np.isin(real.patients, _some(real, share, seed)))
        suffix = "" if share == 1 else f", {share:.0%} of the patients"
        scores["real" + suffix] = learn_and_ask(few, test.images, positive, seed)
        scores["both" + suffix] = learn_and_ask(joined(few, made), test.images, positive, seed)
    return {"scores": scores, "positive": test.labels == positive, "patients": test.patients}


def _some(real: Labelled, share: float, seed) -> list[str]:
    """A share of the patients of each class, at least two; a larger share holds the smaller one."""
    chosen = []
    for label in np.unique(real.labels):
        names = shuffled(set(real.patients[real.labels == label]), seed + 2)
        chosen += names[: max(2, round(share * len(names)))]
    return chosen


def cross_fit(source, out, *, class_="DRUSEN", contrast="NORMAL", classes="all", folds=5,
              minutes=15.0, size=128, start="", n=500, shares=(0.25, 0.5, 1.0), seed=0,
              features=None, progress=True) -> dict:  # fmt: skip
    """Train a generator in each fold of the patients of ``source``, and ask who learned from it.

    Folds that are finished are not trained again, so that the same call goes on where it stopped.
    Settings of notebook 02 that are not named here come from the environment (OCT_*). ``classes``
    as there; ``class_`` and ``contrast`` are told apart. Writes OUT/cross-fit.json and .md and
    returns what they hold. ValueError for a class that is not there or has too few patients.
    """
    out = Path(out).resolve()
    scans = load_manifest(source)
    if classes not in ("", "all"):
        names = {name.strip().upper() for name in classes.split(",")}
        scans = [scan for scan in scans if scan.label.upper() in names]
    spelled = {scan.label.upper(): scan.label for scan in scans}
    for name in (class_, contrast):
        if name.upper() not in spelled:
            has = ", ".join(sorted(spelled.values()))
            raise ValueError(f"{source} has no class {name}. It has {has}.")
    class_, contrast = spelled[class_.upper()], spelled[contrast.upper()]
    fold = deal_patients(scans, folds, seed)
    print(
        f"{len(fold)} patients in {folds} folds; training takes {folds} x {minutes:g} = "
        f"{folds * minutes:g} minutes, and judging about one more for each.", flush=True,
    )  # fmt: skip
    judge = features or Features(name=JUDGE, cache=out / "features")
    chooses = features or Features(cache=out / "features")
    found = []
    for number in range(folds):
        manifest = out / f"fold-{number}.csv"
        write_fold(manifest, scans, fold, number, seed)
        given = {
            "data": manifest, "class": class_, "classes": "all", "size": size, "start": start,
            "hours": minutes / 60, "runs": out, "run": f"fold-{number}", "seed": seed + number,
        }  # fmt: skip
        arguments = [f"--{name}={value}" for name, value in given.items()]
        s = with_recipe(config.resolve(config.TrainGan, arguments))
        run = train_gan(replace(s, patience=0), chooses, progress)
        data = prepare(manifest, class_="all", size=256, cache=out / "cache", progress=False)
        found.append(score_fold(run, data, class_, contrast, judge, n=n, shares=shares, seed=seed))
        print(f"fold {number + 1} of {folds}: {len(found[-1]['patients'])} test scans", flush=True)
    arms = list(found[0]["scores"])
    report = summarise(
        np.concatenate([one["positive"] for one in found]),
        {name: np.concatenate([one["scores"][name] for one in found]) for name in arms},
        np.repeat(np.arange(folds), [len(one["patients"]) for one in found]),
        np.concatenate([one["patients"] for one in found]), seed=seed,
    )  # fmt: skip
    report |= {"source": Path(source).name, "class": class_, "contrast": contrast, "folds": folds,
               "minutes": minutes, "size": size, "n": n}  # fmt: skip
    write_whole(out / "cross-fit.json", (json.dumps(report, indent=1) + "\n").encode())
    write_whole(out / "cross-fit.md", as_table(report).encode())
    return report


def as_table(report: dict) -> str:
    """The report as a Markdown table, with what follows from it in words."""
    lines = [
        f"{report['class']} against {report['contrast']}, {report['scans']} scans of "
        f"{report['patients']} patients, {report['folds']} folds of {report['minutes']:g} minutes.",
        "", "| learned from | AUROC (95 % interval over patients) | minus all real scans |",
        "|---|---|---|",
    ]  # fmt: skip
    for name, value in report["arms"].items():
        gain = between(report["minus real"].get(name), 3)
        lines.append(f"| {name} | {between(value, 3)} | {gain} |")
    for name, gain in report["added"].items():
        lines.append(f"| both less {name} | | {between(gain, 3)} |")
    needed = report["needed"]["synthetic"]
    lines += [
        "", f"To see a difference of {WORTH_SEEING} between synthetic and real, about {needed:,} "
        "patients would be needed (80 % power, from these variances).",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.evaluate --cross-fit", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("source", help="real scans: a folder or a manifest.csv")
    add("--out", required=True, help="where runs, tables and cross-fit.json go; the same goes on")
    add("--class", dest="class_", default="DRUSEN", help="the disease (DRUSEN)")
    add("--contrast", default="NORMAL", help="what it is told from (NORMAL)")
    add("--classes", default="all", help="what the generator learns: A,B or all (all)")
    add("--folds", type=int, default=5)
    add("--minutes", type=float, default=15.0, help="of training in each fold (15)")
    add("--size", type=int, default=128, help="px of the generator (128)")
    add("--start", default="", help="weights to begin from: simulated, or a run (none)")
    add("--n", type=int, default=500, help="synthetic scans of each class (500)")
    add("--seed", type=int, default=0)
    options = vars(parser.parse_args(arguments))
    try:
        report = cross_fit(options.pop("source"), options.pop("out"), **options)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(as_table(report))

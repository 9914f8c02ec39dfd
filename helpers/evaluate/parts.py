"""Is the synthetic data any good, and may it be shared? One report for any run or folder.

python -m helpers.evaluate --real DIR --synthetic DIR_OR_RUN --out DIR [--contrast DIR_OR_RUN]

Usefulness, distances, anatomy and texture, memorisation; with every number its yardstick, and what
could not be measured with its reason. The same parts are called one by one, and explained, in
notebook 05.
"""

import argparse
import os
from functools import partial
from pathlib import Path

import numpy as np
import torch

from helpers.classifiers.fit import fit
from helpers.config import root
from helpers.data.bscan import OCT_FRAMINGS
from helpers.data.pixels import at_size
from helpers.evaluate import known_damage, outside, reading_analysis
from helpers.evaluate.page import verdict_figure, write_page, write_pdf
from helpers.evaluate.report import PARTS, complete, print_table, write
from helpers.evaluate.sides import Sides, read_sides
from helpers.evaluate.verdict import print_verdict
from helpers.measures import coverage, inception, layers, memorisation, texture, usefulness
from helpers.measures.distances import distance_report
from helpers.measures.effects import compare
from helpers.measures.features import JUDGE, Features


def measure_distances(sides: Sides, features: Features, *, seed=0, progress=True) -> dict:
    """kernel_distance, scale, resolution, coverage, consistency, and warnings."""
    real, synthetic = sides.real, sides.synthetic.images
    other = {}
    if sides.other_real is not None:
        other = {"other_class": sides.other_real.test,
                 "other_class_name": sides.other_real.class_}  # fmt: skip
    try:
        parts = distance_report(synthetic, real.training, real.test, features=features, seed=seed,
                                progress=progress, **other)  # fmt: skip
    except ValueError as error:
        return {"kernel_distance": {**PARTS["kernel_distance"], "reason": str(error)}}
    made, test, training = (
        features(sides.equal[name], progress) for name in ("synthetic", "test", "training")
    )  # kinds are told at one size: with more pixels a real scan has detail that none of these can
    parts["coverage"] = coverage.coverage_report(made, training, test, seed=seed)
    parts["consistency"] = _every_patient(made, training, test, real.test.patients, seed)
    return parts


def _every_patient(made, training, test, patients, seed) -> dict:
    """Of how many unseen patients no scan is reached, by as many synthetic or training scans."""
    rng, n = np.random.default_rng(seed), min(len(made), len(training))
    try:
        found, floor = (coverage.reached(test, rows[rng.permutation(len(rows))[:n]], patients)
                        for rows in (made, training))  # fmt: skip
    except ValueError as error:
        return {"left_out": None, "reason": str(error)}
    left_out, usual = (sum(share == 0 for share in each.values()) for each in (found, floor))
    return {"left_out": left_out, "floor": usual, "patients": len(found), "n": n}


def measure_usefulness(sides: Sides, features: Features, *, classifier="linear", seed=0,
                       progress=True) -> dict:  # fmt: skip
    """report.json's `usefulness`: see measures.usefulness.

    classifier: "linear", a head on frozen features (seconds), or "whole", fine-tuned networks
    (minutes to hours, a GPU helps). All images are taken at the synthetic ones' size.
    """
    if classifier not in ("linear", "whole"):
        raise ValueError(f"classifier={classifier!r}: choose linear or whole")
    real, other = sides.real, sides.other_real
    if other is None:
        return {"auroc": None, "reason": "real scans of one class: there is nothing to tell apart"}
    size = sides.synthetic.images.shape[-1]

    def ready(split, label):
        patients = getattr(split, "patients", None)
        images = at_size(split.images, size)
        images = features(images, progress) if classifier == "linear" else images
        return usefulness.scans(images, label, patients)

    def both(name):
        mine, others = getattr(real, name), getattr(other, name)
        if mine is None or others is None:
            return None
        return usefulness.joined(ready(mine, real.class_), ready(others, other.class_))

    synthetic = ready(sides.synthetic, real.class_)
    if sides.other_synthetic is not None:
        synthetic = usefulness.joined(synthetic, ready(sides.other_synthetic, other.class_))
    try:
        report = usefulness.usefulness_report(
            both("training"), synthetic, both("test"), [other.class_, real.class_],
            partial(fit, whole=classifier == "whole"), contrast=sides.contrast,
            validation=both("validation"), positive=real.class_, seed=seed, progress=progress,
        )  # fmt: skip
    except ValueError as error:
        return {"auroc": None, "reason": str(error)}
    return {**report, "classifier": classifier}


def measure_shifts(sides: Sides, ruler, *, seed=0, progress=True) -> dict:
    """report.json's `anatomy` (ruler: measures.layers) or `texture` (ruler: measures.texture).

    `measures` compares synthetic with unseen real scans, all at one size, by Cliff's delta;
    `usable` is the share of scans that the ruler could read.
    """
    found = {name: ruler.measure(images, progress)
             for name, images in sides.equal.items() if len(images)}  # fmt: skip
    usable = {name: float(values.pop("usable", np.ones(1)).mean())
              for name, values in found.items()}  # fmt: skip
    real = sides.real
    table = compare(
        found["test"], found["synthetic"], real.test.patients, training=found.get("training"),
        training_patients=real.training.patients, seed=seed,
    )  # fmt: skip
    return {"measures": table, "usable": usable, "size": sides.equal["test"].shape[-1]}


def measure_memorisation(sides: Sides, features: Features, *, seed=0, progress=True) -> dict:
    """report.json's `memorisation`: copies of the scans that the generator may have seen.

    With a run those are its training scans, and the test patients show how near scans are that
    nobody copied; without one, all real scans, each compared with other patients' ones. Copies are
    planted in several disguises, to see what share of them would be missed. `other_classes` is
    a list of the same for the patients of every other class that was drawn.
    """
    settings = dict(seed=seed, progress=progress)
    found = _memorised(sides, features, **settings)
    others, found["other_classes"] = list(sides.further), []
    if sides.contrast == "conditional":
        others.insert(0, (sides.other_real, sides.other_synthetic))
    for real, made in others:
        other = _memorised(Sides(real, made), features, **settings)
        found["warnings"] += [f"{real.class_}: {said}" for said in other.pop("warnings")]
        found["other_classes"].append({"class": real.class_, **other})
    return found


def _memorised(sides: Sides, features: Features, *, seed, progress) -> dict:
    real, made = sides.real, sides.synthetic.images
    unseen = None if sides.synthetic.run is None else real.test
    sets = [made, *(split and split.images for split in (real.seen, unseen))]
    rows = control = planted = None

    def ready(split):
        return features(at_size(split.images, made.shape[-1]), progress)

    if sides.control is not None:
        control = at_size(sides.control.images, made.shape[-1])
    if real.seen is not None:
        planted = known_damage.disguised(at_size(real.seen.images, made.shape[-1]), seed=seed)
        together = [real.training, real.test]  # without a run both may have been seen, in this
        if real.seen.scans != [scan for split in together for scan in split.scans]:  # order
            together = [real.seen]
        rows = [
            features(made, progress),
            np.concatenate([ready(split) for split in together if split]),
        ]
        rows.append(ready(unseen) if unseen else None)
    return memorisation.memorisation_report(
        *sets, features=rows, training_patients=real.seen and real.seen.patients,
        unseen_patients=unseen and unseen.patients, control=control, planted=planted, seed=seed,
        progress=progress,
    )  # fmt: skip


def evaluate(real, synthetic, out, *, classifier="linear", with_inception=True, reading_test=None,
             another_clinic=None, seed=0, cache=None, progress=True,
             **sides_settings) -> dict:  # fmt: skip
    """Measure everything, write the report's files to `out` (`write_all`); returns the report.

    real, synthetic and sides_settings: as in `read_sides`. classifier: linear, whole, or off.
    reading_test: the folder of a blinded reading test, whose readers are analysed. another_clinic:
    real scans of another clinic, a source as of ``real`` (`outside`). Raises OSError
    naming ``out`` before anything is measured if it is no folder and cannot be made one.
    """
    if Path(out).exists() and not Path(out).is_dir():
        raise NotADirectoryError(f"{out}: is a file; --out takes a folder for the report's files.")
    Path(out).mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cache = Path(cache or root() / Path(os.environ.get("OCT_RUNS", "runs")).expanduser() / "cache")
    sides = read_sides(real, synthetic, seed=seed, cache=cache, device=device, progress=progress,
                       **sides_settings)  # fmt: skip
    print(sides)
    features = Features(device, cache=cache / "features", name=JUDGE)
    settings = dict(seed=seed, progress=progress)
    parts = measure_distances(sides, features, **settings)
    if with_inception:
        test, training = sides.real.test, sides.real.training
        parts["inception"] = inception.inception_report(
            sides.synthetic.images, test.images, training.images,
            patients=(test.patients, training.patients), progress=progress,
        )  # fmt: skip
    parts["anatomy"] = measure_shifts(sides, layers, **settings)
    parts["texture"] = measure_shifts(sides, texture, **settings)
    parts["memorisation"] = measure_memorisation(sides, features, **settings)
    reasons = {"usefulness": "left out by --classifier off", "inception": "left out",
               "reading": "no reading test was given"}  # fmt: skip
    if classifier != "off":
        parts["usefulness"] = measure_usefulness(sides, features, classifier=classifier, **settings)
    if another_clinic is not None:
        marked = sides_settings.get("allow_synthetic", False)
        parts["outside"] = outside.measure_outside(sides, another_clinic, features,
                                                   synthetic=marked, **settings)  # fmt: skip
    if reading_test:
        parts["reading"] = reading_analysis.analyse(reading_test)
    report = complete_report(sides, parts, reasons)
    write_all(report, sides, out)
    return report


def complete_report(sides: Sides, parts: dict, reasons: dict | None = None) -> dict:
    """The whole report: the measured parts, what they were measured on, and every warning."""
    real, made = sides.real, sides.synthetic
    warnings = list(sides.notes) + parts.pop("warnings", [])
    for part in parts.values():
        warnings += part.pop("warnings", []) if isinstance(part, dict) else []
    patients = {"test": len(set(real.test.patients)), "training": len(set(real.training.patients))}
    about = {
        "run": made.run,
        "real": {"class": real.class_, "n_test": len(real.test), "n_training": len(real.training),
                 "patients": patients["test"], "patients_training": patients["training"],
                 "patients_known": real.known_patients, "manifest": real.manifest},
        "synthetic": {"source": made.source, "class": made.class_, "n": len(made.images),
                      "size": made.images.shape[-1], "contrast": sides.contrast,
                      "marked": made.marked},
        "warnings": list(dict.fromkeys(warnings)),
    }  # fmt: skip
    return complete({**parts, **about}, reasons)


def write_all(report: dict, sides: Sides, out) -> None:
    """report.json, verdict.png, report.html and report.pdf in the folder `out`."""
    out = Path(out)
    write(report, out / "report.json")
    seen = sides.real.seen and sides.real.seen.images
    figure = verdict_figure(report, sides.real.test.images, sides.synthetic.images, seen,
                            path=out / "verdict.png")  # fmt: skip
    write_page(report, figure, out / "report.html")
    write_pdf(report, figure, out / "report.pdf")


def main(arguments=None):
    what = "Synthetic scans against real patients."
    parser = argparse.ArgumentParser(prog="python -m helpers.evaluate", description=what)
    add = parser.add_argument
    add("--real", required=True, help="a folder, a manifest.csv, simulated or oct2017")
    add("--synthetic", required=True, help="a run's folder, or a folder of images")
    add("--out", required=True, help="where report.html, report.pdf and report.json go")
    add("--contrast", help="the same recipe trained on another class: a run or a folder")
    add("--control", help="a generator that saw none of these patients: attacked as well")
    add("--outside", dest="another_clinic",
        help="real scans of another clinic: is it useful there?")  # fmt: skip
    add("--class", dest="class_", default="DRUSEN", help="where there are several (DRUSEN)")
    add("--n", type=int, default=1000, help="how many synthetic scans (1000)")
    add("--classifier", default="linear", choices=("linear", "whole", "off"),
        help="a head on frozen features (seconds), fine-tuned networks (long), none")  # fmt: skip
    add("--reading", dest="reading_test", help="the folder of a blinded reading test")
    add("--size", type=int, default=256, help="px at which real scans are compared, at least (256)")
    add("--framing", default="stretch", choices=OCT_FRAMINGS, help="of real scans (stretch)")
    add("--no-inception", dest="with_inception", action="store_false",
        help="nothing that has to be downloaded: no Inception, no DINOv2")  # fmt: skip
    add("--seed", type=int, default=0)
    add("--allow-synthetic", action="store_true", help="real files may be marked as synthetic")
    options = vars(parser.parse_args(arguments))
    try:
        report = evaluate(**options)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print_table(report)
    print_verdict(report)
    print(f"report.html, report.pdf, report.json and verdict.png in {options['out']}")

"""An outside clinic: what classifiers that learned here, from real or synthetic scans, know there.

Another device draws another picture: a classifier that is right about the clinic it learned from
may be at chance in the next one, whatever it learned from. So real and synthetic stand side by
side, asked about the same scans of patients whom neither they nor the generator have met.
"""

from pathlib import Path

import numpy as np
from scipy.special import expit

from helpers.classifiers.fit import fit
from helpers.data.cache import read_scan
from helpers.data.pixels import at_size
from helpers.data.sources import take_in
from helpers.data.split import Labelled
from helpers.evaluate.cross_fit import learn_in_components
from helpers.evaluate.sides import Sides
from helpers.measures.intervals import between
from helpers.measures.scores import auroc_difference, scores
from helpers.measures.usefulness import centred, joined, scans

QUESTION = "Does it hold in another clinic?"


def measure_outside(sides: Sides, source, features, *, synthetic=False, resamples=1000, seed=0,
                    progress=True) -> dict:  # fmt: skip
    """report.json's `outside`: AUROC, on the real scans of ``source`` (as of ``data.prepare``), of
    linear heads on ``features`` that learned here from real, from synthetic scans, and from both;
    of real and of synthetic ones also by heads that see what varies most in that clinic alone, of
    which they know no label ("in components": ``usefulness.components``).

    The disease is called there as it is here or is the only class there besides the contrast.
    Returns {"auroc" of synthetic, "arms", "minus_real", "class", "scans", "patients", "left_out"},
    with intervals over the patients of ``source``; "auroc" None and a "reason" where there is no
    such contrast, here or there. ValueError or OSError naming ``source`` if it cannot be read.
    """
    real, other, made = sides.real, sides.other_real, sides.synthetic
    if other is None or sides.other_synthetic is None:
        return {"auroc": None, "reason": "there are synthetic or real scans of one class only"}
    found = take_in(source, synthetic=synthetic).scans
    labels = {scan.label.upper(): scan.label for scan in found}
    well = labels.pop(other.class_.upper(), None)
    ill = labels.get(real.class_.upper(), *labels.values() if len(labels) == 1 else (None,))
    if well is None or ill is None:
        has = ", ".join(sorted({scan.label for scan in found}))
        return {"auroc": None, "reason": f"{Path(source).name} has {has}: not {other.class_} and "
                f"{real.class_}, nor {other.class_} and one more"}  # fmt: skip
    size, read, left_out = made.images.shape[-1], [], 0
    for scan in (scan for scan in found if scan.label in (ill, well)):
        try:
            image = read_scan(scan, size=max(256, size), framing="stretch")
            read.append((image, real.class_ if scan.label == ill else other.class_, scan.patient))
        except ValueError:
            left_out += 1
    images, truth, patients = (np.array(column) for column in zip(*read))
    classes = [other.class_, real.class_]

    def ready(images, label, names=None):
        return scans(features(at_size(images, size), progress), label, names)

    learned = {
        "real": joined(*(ready(one.training.images, one.class_, one.training.patients)
                         for one in (real, other))),
        "synthetic": joined(ready(made.images, real.class_),
                            ready(sides.other_synthetic.images, other.class_)),
    }  # fmt: skip
    learned["both"] = joined(*learned.values())
    asked, said = features(at_size(images, size), progress), {}
    for arm, taught in learned.items():
        head = fit(taught.images, taught.labels, classes, patients=taught.patients, seed=seed)
        said[arm] = head(asked)
    there = centred(asked)
    for arm in ("real", "synthetic"):
        part = learned[arm]
        taught = Labelled(centred(part.images), part.labels, part.patients)
        sure = expit(learn_in_components(taught, there, there, real.class_, seed))
        said[f"{arm}, in components"] = np.stack([1 - sure, sure], 1)
    about = (classes, patients, real.class_)
    how = dict(resamples=resamples, seed=seed)
    arms = {arm: scores(truth, p, *about, **how)["auroc"] for arm, p in said.items()}
    minus = {a: auroc_difference(truth, said[a], said["real"], *about, **how)
             for a in said if a != "real"}  # fmt: skip
    return {"auroc": arms["synthetic"], "arms": arms, "minus_real": minus, "class": ill,
            "scans": len(truth), "patients": len(set(patients)), "left_out": left_out}  # fmt: skip


def judge_outside(part: dict) -> dict:
    """The verdict's line (``verdict``) on an outside clinic."""
    line = {"question": QUESTION, "for": "everyone"}
    if part["auroc"] is None or part["auroc"]["value"] is None:
        beside = part.get("reason", "one class only")
        return line | {"answer": "not measured", "measured": "", "beside": beside}
    made, minus = part["auroc"], part["minus_real"]["synthetic"]
    if made["low"] is None or part["patients"] < 10:
        answer = "uncertain: too few patients"
    elif made["low"] <= 0.5:
        answer = "not shown: chance is not excluded"
    elif minus["low"] > -0.05:
        answer = "yes, about as well as what real scans teach"
    else:
        answer = "yes, but less may hold than of what real scans teach"
    return line | {
        "answer": answer,
        "measured": f"AUROC {between(made)} trained on synthetic, {between(part['arms']['both'])} "
        f"on both; {part['patients']} patients",
        "beside": f"{between(part['arms']['real'])} trained on real; difference {between(minus)}",
    }

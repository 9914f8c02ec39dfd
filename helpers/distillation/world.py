"""In which worlds distillation can help: simulated eyes, where every knob can be turned."""

from dataclasses import dataclass, replace
from itertools import product, zip_longest

import numpy as np
from tqdm.auto import tqdm

from helpers.data.photograph import clean_dfe
from helpers.data.simulated.simulate import make_eye
from helpers.data.split import Labelled
from helpers.distillation.distillation import distil
from helpers.distillation.study import ALONE, teach
from helpers.measures.diagnosis import as_matrix, diagnosis, difference
from helpers.measures.intervals import interval, patient_weights

MAPPED = {  # the arms of the map
    ALONE: dict(losses=""),
    "FDDM, unpaired": dict(losses="cpm=2,csa=1"),
    "KD, unpaired": dict(losses="kd=1"),
    "label smoothing": dict(losses="", smoothing=0.2),
    "KD, both pictures": dict(losses="kd=1", partners="eye"),
}
WORLD_PX = 256  # at which eyes of the map are simulated


@dataclass(frozen=True)
class World:
    """Simulated eyes, one per patient, as features: ``oct`` and ``dfe`` are {share of the disease
    shown: (N, d)}; labels (N,) are places in ``classes``."""

    oct: dict
    dfe: dict
    labels: np.ndarray
    classes: tuple


def simulate_world(
    features, *, classes=("NORMAL", "DRUSEN", "DME"), patients=200, oct_shows=(1.0,),
    dfe_shows=(0.0, 0.3, 1.0), progress=True,
) -> World:  # fmt: skip
    """``patients`` eyes of each class, seen by both modalities at every share of the disease, each
    as ``features`` (a ``Features``) sees the 6 mm about the fovea."""
    eyes = [(k, patient) for patient in range(patients) for k in range(len(classes))]
    shares = list(zip_longest(oct_shows, dfe_shows))
    rows = {"oct": {}, "dfe": {}}
    for oct_share, dfe_share in tqdm(shares, desc="simulating", disable=not progress):
        pictures = {"oct": [], "dfe": []}
        for k, patient in eyes:
            eye = make_eye(
                10_000 * k + patient, classes[k], size=WORLD_PX,
                oct_shows=1.0 if oct_share is None else oct_share,
                dfe_shows=1.0 if dfe_share is None else dfe_share,
            )  # fmt: skip
            if oct_share is not None:
                pictures["oct"].append(eye.oct[None])
            if dfe_share is not None:
                centre = eye.truth.dfe_pixel(eye.truth.x_um.mean(), 0.0)[::-1]
                crop, _ = clean_dfe(eye.dfe, size=WORLD_PX, framing="macula", centre=centre)
                pictures["dfe"].append(crop.transpose(2, 0, 1))
        for modality, share in (("oct", oct_share), ("dfe", dfe_share)):
            if share is not None:
                rows[modality][share] = features(np.stack(pictures[modality]))
    return World(**rows, labels=np.array([k for k, _ in eyes]), classes=tuple(classes))


def thirds(world: World):
    """Eyes that teach the teacher, that teach the student, and that are tested on: three slices.
    Classes take turns, so each third has as many of each."""
    third = len(world.labels) // (3 * len(world.classes)) * len(world.classes)
    return slice(third), slice(third, 2 * third), slice(2 * third, len(world.labels))


def train_teacher(rows, labels, classes, settings, seed=0):
    """A classifier of either modality's features, by the recipe of the teachers."""
    return teach(Labelled(rows, labels, np.arange(len(labels))), classes, settings, seed=seed)


def gain_map(world: World, settings, *, labelled=(5, 20, 80), noise=(0.0, 0.4), progress=True):
    """Where distillation helps: a list of cells {oct_shows, dfe_shows, labelled, noise, arm, alone,
    gain, low, high, seeds}: mAP on test eyes of a student alone, an arm's gain over it with an
    interval over these eyes, and the gain of each seed.

    labelled: photographs with a label, of each class, that the student learns from; noise: the
    share of these labels that are wrong (another class, at random). Teacher, student and test have
    a third of the eyes each. The teacher learned from true labels; partners="eye" shows it the
    scans of the student's own eyes, which it has not seen before. Means over ``settings.seeds``
    choices of labelled eyes, wrong labels, and starts. ValueError if there are fewer eyes than
    labelled.
    """
    settings = replace(settings, multilabel=False, partners="label")  # as this world and MAPPED are
    classes, count = world.classes, len(world.classes)
    first, second, test = thirds(world)
    most = (second.stop - second.start) // count
    if max(labelled) > most:
        raise ValueError(f"labelled={max(labelled)}: this world has {most} eyes per class to learn")
    teachers = {
        (share, seed): train_teacher(rows[first], world.labels[first], classes, settings, seed)
        for share, rows in world.oct.items() for seed in range(settings.seeds)
    }  # fmt: skip
    cells, grid = [], list(product(world.oct, world.dfe, labelled, noise))
    for oct_shows, dfe_shows, n, wrong in tqdm(grid, desc="map", disable=not progress):
        found = {name: [] for name in MAPPED}
        for seed in range(settings.seeds):
            own, labels = _labelled(world, second, n, wrong, seed)
            for name, changes in MAPPED.items():
                s = replace(settings, seed=seed, **changes)
                shown = own if s.partners == "eye" else np.arange(first.stop)
                theirs = labels if s.partners == "eye" else world.labels[first]
                made = distil(
                    world.dfe[dfe_shows][own], labels, classes, s,
                    teachers[oct_shows, seed] if s.losses else None,
                    world.oct[oct_shows][shown], theirs,
                )  # fmt: skip
                found[name].append(made(world.dfe[dfe_shows][test]))
        about = {"oct_shows": oct_shows, "dfe_shows": dfe_shows, "labelled": n, "noise": wrong}
        truth, stacks = world.labels[test], {name: np.stack(p) for name, p in found.items()}
        alone = diagnosis(truth, stacks[ALONE], classes, resamples=2)["map"]["value"]
        one = {name: [diagnosis(truth, p, classes, resamples=2)["map"]["value"] for p in stack]
               for name, stack in stacks.items()}  # fmt: skip
        for name in stacks:
            if name != ALONE:
                gain = difference(truth, stacks[name], stacks[ALONE], classes)["map"]
                about |= {"arm": name, "alone": alone, "gain": gain["value"]}
                seeds = [a - b for a, b in zip(one[name], one[ALONE])]
                cells.append({**about, "low": gain["low"], "high": gain["high"], "seeds": seeds})
    return cells


def _labelled(world, second, n, wrong, seed):
    """n eyes of each class out of the student's third, (n K,), and their labels, some wrong."""
    count, rng = len(world.classes), np.random.default_rng([seed, n])
    chosen = second.start + count * rng.permutation((second.stop - second.start) // count)[:n]
    own = (chosen[:, None] + np.arange(count)).ravel()
    turned = (world.labels[own] + rng.integers(1, count, len(own))) % count
    return own, np.where(rng.random(len(own)) < wrong, turned, world.labels[own])


def overlaps(world: World, settings) -> dict:
    """{title: complementarity} of a classifier of OCT and one of DFE, both taught with two thirds
    of the same eyes, on the last third; for every share of the disease that each shows but 0."""
    settings = replace(settings, multilabel=False)  # an eye of this world has one class
    first, second, test = thirds(world)
    learned, labels = slice(second.stop), world.labels
    said = {}
    for name, shown in (("OCT", world.oct), ("DFE", world.dfe)):
        for share, rows in shown.items():
            if share:
                teacher = train_teacher(rows[learned], labels[learned], world.classes, settings)
                said[name, share] = teacher(rows[test])
    return {
        f"OCT shows {a:g}, DFE {b:g}": complementarity(
            labels[test], said["OCT", a], said["DFE", b], world.classes
        )
        for (one, a), (other, b) in product(said, said) if (one, other) == ("OCT", "DFE")
    }  # fmt: skip


def complementarity(labels, first, second, classes):
    """What two classifiers of the same N eyes, one per modality, have to say to each other.

    labels (N,) or one-hot (N, K); first and second: probabilities (N, K). Returned, each {value,
    low, high, resamples} with intervals over eyes: ``first`` and ``second``, shares of eyes
    that each gets wrong; ``both``, wrong in both (what a judge who always knew whom to believe
    would get wrong); ``chance``, what ``both`` would be if errors within a class had nothing to do
    with each other; ``fused``, the share wrong of the mean of both; ``map`` of the two and of
    their mean, and ``gain``, mAP of the mean minus that of the better one.
    """
    truth = as_matrix(labels, len(classes)).argmax(1)
    weights = patient_weights(np.arange(len(truth)), 1000, seed=0)
    weights = weights / weights.sum(1, keepdims=True)
    fused = (np.asarray(first) + np.asarray(second)) / 2
    wrong = {name: np.asarray(p).argmax(1) != truth
             for name, p in (("first", first), ("second", second), ("fused", fused))}  # fmt: skip
    shares = {name: weights @ missed for name, missed in wrong.items()}
    shares["both"] = weights @ (wrong["first"] & wrong["second"])
    shares["chance"] = sum(
        (weights @ (wrong["first"] * of)) * (weights @ (wrong["second"] * of))
        / np.where(weights @ of > 0, weights @ of, np.nan)
        for of in (as_matrix(truth, len(classes)).T[np.unique(truth)])
    )  # fmt: skip
    report = {name: interval(values) for name, values in shares.items()}
    report["map"] = {
        name: diagnosis(labels, p, classes)["map"]
        for name, p in (("first", first), ("second", second), ("fused", fused))
    }
    worse = report["map"]["first"]["value"] < report["map"]["second"]["value"]
    report["gain"] = difference(labels, fused, second if worse else first, classes)["map"]
    return report

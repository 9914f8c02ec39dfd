"""What is a classifier worth on an outside clinic, and what do alignment, style and synthetic do?

    python notebooks/results/outside_clinic.py noor=noor.csv kermany=kermany.csv \\
        spectralis=spectralis.csv --generator simulated=simulated noor=RUN --out DIR

Each clinic is a folder or manifest; --ill (AMD DRUSEN) against NORMAL. A linear head on
EfficientNet-Lite2 features learns from one source and is asked about every clinic: an outside one
whole, its own by folds over patients. Sources: a clinic's real scans; N scans a class of a
generator (``--generator NAME=RUN``: the one named like a clinic learned from it, and is not asked
about it); simulated eyes; a clinic and a generator together. Each in seven ways:

    whole       scans cleaned and stretched to 256 px
    aligned     of those the crops of framing=aligned: geometry and grey levels (128 x 256 px)
    ..., style  and COPIES of every training picture in another style (``restyle``)
    ..., centred    features minus their mean, over their standard deviation, of each source and of
                each clinic asked: it takes many scans of the outside clinic, but no labels of them
    whole, in components    centred, and seen in what varies most among the scans of the clinic that
                is asked (usefulness.components): no labels either

Scans in which no RPE is found are left out of every way. Writes DIR/table.json and prints a row for
each pair. Features and scores are kept in DIR, so that the same call goes on. Not collected by
pytest.
"""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from helpers.data import shape
from helpers.data.cache import read_scan
from helpers.data.pixels import to_levels
from helpers.data.simulated.simulate import make_eye
from helpers.data.sources import load_manifest
from helpers.data.split import Labelled
from helpers.evaluate.cross_fit import (
    JUDGE,
    auroc_within_folds,
    deal_patients,
    learn_and_ask,
    learn_in_components,
)
from helpers.gan.sampling import classes_of, sample
from helpers.generate import load_generator
from helpers.measures.features import Features
from helpers.measures.intervals import between, interval, patient_weights
from helpers.measures.usefulness import centred

WAYS = ("whole", "aligned", "whole, style", "aligned, style", "whole, centred", "aligned, centred",
        "whole, in components")  # fmt: skip
CENTRED = ("whole, centred", "aligned, centred", "whole, in components")
SIZE, COPIES, FOLDS, SEED = 256, 1, 5, 0


def restyle(image, rng) -> np.ndarray:
    """A picture uint8 (H, W) as another device might write it: gamma 0.6 to 1.65, contrast about
    its mean 0.7 to 1.3, resolution 0.4 to 1, blur of 0 to 1.5 px, noise of 0 to 0.1 of white."""
    height, width = image.shape
    x = (image / 255.0) ** np.exp(rng.uniform(-0.5, 0.5))
    x = x.mean() + (x - x.mean()) * rng.uniform(0.7, 1.3)
    part = rng.uniform(0.4, 1)
    small = Image.fromarray(x.astype(np.float32)).resize(
        (round(width * part), round(height * part)), Image.Resampling.BOX
    )
    x = np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))
    x = ndimage.gaussian_filter(x, rng.uniform(0, 1.5))
    x = x + rng.normal(0, rng.uniform(0, 0.1), x.shape)
    return (x.clip(0, 1) * 255).round().astype(np.uint8)


def see(scans, ill, patients, features):
    """One source: scans uint8 (N, SIZE, SIZE), who is ill (N,) and patients (N,), to its features
    by way, restyled copies after the N originals; with how many could not be aligned."""
    rng, level, crops = np.random.default_rng(SEED), [], []
    for k, scan in enumerate(scans):
        try:
            crops.append(shape.align(scan, shape.crop_rows(SIZE), SIZE)[0])
            level.append(k)
        except ValueError:
            continue
    found = {}
    for name, pictures in (("whole", np.asarray(scans)[level]), ("aligned", np.stack(crops))):
        sets = [pictures, *([restyle(p, rng) for p in pictures] for _ in range(COPIES))]
        sets = [features(np.stack(one)[:, None], progress=True) for one in sets]
        found[name], found[f"{name}, style"] = sets[0], np.concatenate(sets)
    ill, patients = np.asarray(ill)[level], np.asarray(patients)[level]
    return SimpleNamespace(features=found, ill=ill, patients=patients, lost=len(scans) - len(level))


def clinic(path, ill, features):
    scans = [scan for scan in load_manifest(path) if scan.label in (*ill, "NORMAL")]
    read = [read_scan(scan, size=SIZE, framing="stretch")[0] for scan in scans]
    return see(read, [scan.label in ill for scan in scans], [s.patient for s in scans], features)


def made(path, ill, n, features):
    """N synthetic scans a class; every one is a patient."""
    generator, drawn = load_generator(path), []
    names = [next(name for name in classes_of(generator) if name in ill), "NORMAL"]
    for name in names:
        drawn.append(to_levels(sample(generator, n, SEED, class_name=name))[:, 0])
    return see(np.concatenate(drawn), np.repeat([True, False], n), np.arange(2 * n), features)


def simulated(n, features):
    eyes = [make_eye(number, label, size=SIZE, pictures=("oct",)).oct
            for label in ("DRUSEN", "NORMAL") for number in range(n)]  # fmt: skip
    return see(eyes, np.repeat([True, False], n), np.arange(2 * n), features)


def to_learn(sources, way, chosen) -> Labelled:
    """The sources together; of the first one the scans that are ``chosen`` (N,), or None: all."""
    parts = []
    for one, some in zip(sources, [chosen] + [None] * len(sources)):
        some = np.ones(len(one.ill), bool) if some is None else some
        if way in CENTRED:
            x = centred(one.features[way.split(",")[0]][some])
        else:
            x = one.features[way]
            some = np.tile(some, len(x) // len(one.ill))
            x = x[some]
        times = len(some) // len(one.ill)
        named = np.char.add(f"{id(one)} ", one.patients.astype(str))
        parts.append((x, np.tile(one.ill, times)[some], np.tile(named, times)[some]))
    x, ill, patients = (np.concatenate(part) for part in zip(*parts))
    return Labelled(x, np.where(ill, "ill", "well"), patients)


def asked_of(test, way) -> np.ndarray:
    x = test.features[way.split(",")[0]]
    return centred(x) if way in CENTRED else x


def learn(learned, way, own, x) -> np.ndarray:
    """What is said of ``x``, scans of the clinic whose scans are ``own``."""
    if way.endswith("components"):
        return learn_in_components(learned, own, x, "ill", SEED)
    return learn_and_ask(learned, x, "ill", SEED)


def ask(sources, tests, way) -> dict[str, np.ndarray]:
    """{clinic: scores and folds (2, N) of its scans}; one that teaches alone is cross-fitted."""
    found = {}
    for name, test in tests.items():
        if test is not sources[0]:
            continue
        scans = [SimpleNamespace(patient=p, label=i) for p, i in zip(test.patients, test.ill)]
        count = min(FOLDS, *(len(set(test.patients[test.ill == i])) for i in (True, False)))
        fold = deal_patients(scans, count, SEED)
        folds = np.array([fold[p] for p in test.patients])
        scores, x = np.zeros(len(folds)), asked_of(test, way)
        for k in range(count):
            learned = to_learn(sources, way, folds != k)
            scores[folds == k] = learn(learned, way, x[folds != k], x[folds == k])
        found[name] = np.stack([scores, folds])
    others = {name: test for name, test in tests.items() if test is not sources[0]}
    learned = to_learn(sources, way, None)
    for name, test in others.items():
        x = asked_of(test, way)
        found[name] = np.stack([learn(learned, way, x, x), np.zeros(len(x))])
    return found


def kept(file: Path, make):
    """What ``make`` returns, a source, kept in a file."""
    if not file.exists():
        one = make()
        np.savez(file, ill=one.ill, patients=one.patients, lost=one.lost, **one.features)
    known = dict(np.load(file))
    about = {name: known.pop(name) for name in ("ill", "patients", "lost")}
    return SimpleNamespace(**about, features=known)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("clinics", nargs="+", metavar="NAME=MANIFEST")
    add("--generator", nargs="*", default=["simulated=simulated"], metavar="NAME=RUN")
    add("--ill", nargs="+", default=["AMD", "DRUSEN"])
    add("--n", type=int, default=100, help="synthetic scans a class (100)")
    add("--out", required=True, help="a folder for these data alone; the same call goes on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    out, ill, n = Path(options.out), options.ill, options.n
    features = Features(name=JUDGE, cache=out / "features")
    for name in ("sources", "scores"):
        (out / name).mkdir(parents=True, exist_ok=True)
    clinics, makers, place = {}, {}, out / "sources"
    for name, path in (one.split("=", 1) for one in options.clinics):
        clinics[name] = kept(place / f"{name}.npz", lambda p=path: clinic(p, ill, features))
    for name, path in (one.split("=", 1) for one in options.generator):
        name = f"generator of {name}"
        makers[name] = kept(place / f"{name}.npz", lambda p=path: made(p, ill, n, features))
    eyes = {"simulated eyes": kept(place / "eyes.npz", lambda: simulated(n, features))}
    learned = {name: [one] for name, one in {**clinics, **makers, **eyes}.items()}
    for name, (one,) in learned.items():
        print(f"{name}: {len(one.ill)} scans ({one.ill.sum()} ill) of {len(set(one.patients))}, "
              f"{one.lost} could not be aligned", flush=True)  # fmt: skip
    for name, other in makers.items():
        learned |= {f"{real} + {name}": [one, other] for real, one in clinics.items()}
    weights = {name: patient_weights(one.patients, 2000, SEED) for name, one in clinics.items()}
    table, areas = {}, {}
    for source, sources in learned.items():
        tests = {name: one for name, one in clinics.items()  # not who has met these patients
                 if f"generator of {name}" not in source
                 and (len(sources) == 1 or one is not sources[0])}  # fmt: skip
        for way in WAYS:
            file = out / "scores" / f"{source}, {way}.npz"
            if not file.exists():
                np.savez(file, **ask(sources, tests, way))
            for name, (scores, folds) in np.load(file).items():
                areas[source, name, way] = auroc_within_folds(
                    clinics[name].ill, scores, folds, weights[name]
                )
        for name in tests:
            base = areas[source.split(" + ")[0], name, "whole"]
            values = {way: areas[source, name, way] for way in WAYS}
            row = {way: interval(value) for way, value in values.items()}
            row |= {f"{way}, gain": interval(v - base) for way, v in values.items()}
            table[f"{source} to {name}"] = row
            print(f"| {source} to {name} | " + " | ".join(between(row[way]) for way in WAYS)
                  + " |", flush=True)  # fmt: skip
        (out / "table.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()

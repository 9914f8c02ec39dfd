"""What is a classifier worth on an outside clinic, and what do alignment, style and synthetic do?

    python notebooks/results/outside_clinic.py noor=noor.csv kermany=kermany.csv \\
        spectralis=spectralis.csv --generator simulated=simulated noor=RUN --out DIR

Each clinic is a folder or manifest; --ill (AMD DRUSEN) against NORMAL. A linear head on
EfficientNet-Lite2 features learns from one source and is asked about every clinic: an outside one
whole, its own by folds over patients. Sources: a clinic's real scans; N scans a class of a
generator (``--generator NAME=RUN``: the one named like a clinic learned from it, and is not asked
about it); simulated eyes; a clinic and a generator together. Each in six ways:

    whole       scans cleaned and stretched to 256 px
    aligned     of those the crops of framing=aligned: geometry and grey levels (128 x 256 px)
    ..., style  and COPIES of every training picture in another style (``restyle``)
    ..., centred    features minus their mean, over their standard deviation, of each source and of
                each clinic asked: it takes many scans of the outside clinic, but no labels of them

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
from helpers.evaluate.cross_fit import JUDGE, auroc_within_folds, deal_patients, learn_and_ask
from helpers.gan.sampling import classes_of, sample
from helpers.generate import load_generator
from helpers.measures.features import Features
from helpers.measures.intervals import between, interval, patient_weights

WAYS = ("whole", "aligned", "whole, style", "aligned, style", "whole, centred", "aligned, centred")
SIZE, COPIES, FOLDS, SEED = 256, 2, 5, 0


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
    rng, kept, crops = np.random.default_rng(SEED), [], []
    for k, scan in enumerate(scans):
        try:
            crops.append(shape.align(scan, shape.crop_rows(SIZE), SIZE)[0])
            kept.append(k)
        except ValueError:
            continue
    found = {}
    for name, pictures in (("whole", np.asarray(scans)[kept]), ("aligned", np.stack(crops))):
        sets = [pictures, *([restyle(p, rng) for p in pictures] for _ in range(COPIES))]
        sets = [features(np.stack(one)[:, None], progress=True) for one in sets]
        found[name], found[f"{name}, style"] = sets[0], np.concatenate(sets)
    ill, patients = np.asarray(ill)[kept], np.asarray(patients)[kept]
    return SimpleNamespace(features=found, ill=ill, patients=patients, lost=len(scans) - len(kept))


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


def to_learn(sources, way, kept) -> Labelled:
    """The sources together; of the first one the scans that are ``kept`` (N,)."""
    parts = []
    for one, some in zip(sources, [kept] + [None] * len(sources)):
        some = np.ones(len(one.ill), bool) if some is None else some
        if way.endswith("centred"):
            x = one.features[way.removesuffix(", centred")][some]
            x = (x - x.mean(0)) / (x.std(0) + 1e-3)
        else:
            x = one.features[way]
            some = np.tile(some, len(x) // len(one.ill))
            x = x[some]
        times = len(some) // len(one.ill)
        named = np.char.add(f"{id(one)} ", one.patients.astype(str))
        parts.append((x, np.tile(one.ill, times)[some], np.tile(named, times)[some]))
    x, ill, patients = (np.concatenate(part) for part in zip(*parts))
    return Labelled(x, np.where(ill, "ill", "well"), patients)


def ask(sources, test, way) -> tuple[np.ndarray, np.ndarray]:
    """Scores and folds (N,) of the scans of ``test``, which is cross-fitted if it teaches too."""
    asked = test.features[way.split(",")[0]]
    if way.endswith("centred"):
        asked = (asked - asked.mean(0)) / (asked.std(0) + 1e-3)
    folds, scores = np.zeros(len(asked), int), np.zeros(len(asked))
    if test in sources:
        scans = [SimpleNamespace(patient=p, label=i) for p, i in zip(test.patients, test.ill)]
        count = min(FOLDS, *(len(set(test.patients[test.ill == i])) for i in (True, False)))
        fold = deal_patients(scans, count, SEED)
        folds = np.array([fold[p] for p in test.patients])
    for k in np.unique(folds):
        out = folds == k
        kept = ~out if test in sources else None
        scores[out] = learn_and_ask(to_learn(sources, way, kept), asked[out], "ill", SEED)
    return scores, folds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("clinics", nargs="+", metavar="NAME=MANIFEST")
    add("--generator", nargs="*", default=["simulated=simulated"], metavar="NAME=RUN")
    add("--ill", nargs="+", default=["AMD", "DRUSEN"])
    add("--n", type=int, default=150, help="synthetic scans a class (150)")
    add("--out", required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    out, ill = Path(options.out), options.ill
    features = Features(name=JUDGE, cache=out / "features")
    (out / "scores").mkdir(parents=True, exist_ok=True)
    clinics, makers = {}, {}
    for name, path in (one.split("=", 1) for one in options.clinics):
        clinics[name] = clinic(path, ill, features)
    for name, path in (one.split("=", 1) for one in options.generator):
        makers[f"generator of {name}"] = made(path, ill, options.n, features)
    eyes = {"simulated eyes": simulated(options.n, features)}
    for name, one in {**clinics, **makers, **eyes}.items():
        print(f"{name}: {len(one.ill)} scans ({one.ill.sum()} ill) of {len(set(one.patients))}, "
              f"{one.lost} could not be aligned", flush=True)  # fmt: skip
    learned = {name: [one] for name, one in {**clinics, **makers, **eyes}.items()}
    for real, one in clinics.items():
        learned |= {f"{real} + {name}": [one, other] for name, other in makers.items()}
    table = {}
    for name, test in clinics.items():
        weights = patient_weights(test.patients, 2000, SEED)
        areas = {}
        for source, sources in learned.items():
            if f"generator of {name}" in source:
                continue
            for way in WAYS:
                file = out / "scores" / f"{source} to {name}, {way}.npy"
                if not file.exists():
                    np.save(file, np.stack(ask(sources, test, way)))
                scores, folds = np.load(file)
                if len(scores) != len(test.ill):
                    raise ValueError(f"{file} is of other scans; choose another --out")
                areas[source, way] = auroc_within_folds(test.ill, scores, folds, weights)
            row = {way: interval(areas[source, way], 0.95) for way in WAYS}
            base = areas[source.split(" + ")[0], "whole"]
            row |= {f"{way}, gain": interval(areas[source, way] - base, 0.95) for way in WAYS}
            table[f"{source} to {name}"] = row
            print(f"| {source} to {name} | " + " | ".join(between(row[way]) for way in WAYS)
                  + " |", flush=True)  # fmt: skip
        print(flush=True)
    (out / "table.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()

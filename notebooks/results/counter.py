"""Does a drusen counter learn from scans that were asked for by their number?

    python notebooks/results/counter.py RUN --out FOLDER [--real MANIFEST --class AMD]

A counter is a ridge regression from EfficientNet-Lite2's features of a whole scan to its number of
drusen. It learns from synthetic scans and the number each was asked for, drawn as patients have it
("as found"), evenly from none to many ("balanced"), or each the most obedient of four ("4 tries");
from real scans, all or of a quarter of the patients; and from both. It is asked about simulated
patients whom nobody has learned from, or by cross-fitting about the real ones of --real, each
tested once; the truth is what the ruler reads off a real scan. "Class": each class's mean number,
for whoever is told the true class; what a counter knows beyond that is its correlation among scans
of the disease. "Centred": features of each side about their own mean and in units of their own
spread, for which real scans need no numbers; "in components": and in what varies most among the
real ones of whoever is asked about (usefulness.components), likewise. Correlations and mean
error, with 95 % intervals over patients. Scans are drawn once and kept in FOLDER, where
simulated.json and real.json and their tables, .md, are written. Not collected by pytest.
"""

import argparse
import json
import warnings
from functools import partial
from pathlib import Path

import numpy as np
from gpu import judge as judges
from sklearn.linear_model import RidgeCV

from helpers.data.pixels import to_levels
from helpers.data.prepare import prepare
from helpers.data.shape import DIALLED
from helpers.data.sources import load_manifest
from helpers.evaluate.cross_fit import deal_patients
from helpers.gan.dials import read_dials
from helpers.gan.sampling import classes_of, sample
from helpers.generate import load_generator
from helpers.measures.features import JUDGE, Features
from helpers.measures.intervals import between, interval, patient_weights
from helpers.measures.usefulness import centred, components

SEED, FOLDS, FEW = 41, 5, 0.25
BALANCED = range(1, 6)  # drusen a scan; beside them as many scans of NORMAL, as it has them
TRIES = 4


def synthetic(generator, disease: str, n: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{arm: (scans, numbers that were asked for)}, n scans each."""

    def draw(label, count, seed, **how):
        asked = generator.shapes.draw(count, label, seed, how.get("dials"))[:, DIALLED[0]]
        return to_levels(sample(generator, count, seed, class_name=label, **how)), asked

    def some(parts):
        return tuple(np.concatenate(side) for side in zip(*parts))

    each, arms = n // (len(BALANCED) + 1), {}
    for suffix, tries in (("", 1), (f", {TRIES} tries", TRIES)):
        found = [draw(label, n // 2, SEED, tries=tries) for label in ("NORMAL", disease)]
        even = [draw("NORMAL", each, SEED + 1, tries=tries)]
        even += [
            draw(disease, each, SEED + k, dials={"drusen": float(k)}, tries=tries) for k in BALANCED
        ]
        arms |= {f"as found{suffix}": some(found), f"balanced{suffix}": some(even)}
    return arms


def kept(path: Path, draw) -> dict:
    """What ``draw`` gives, {name: (scans, numbers)}, drawn once."""
    if not path.exists():
        both = {f"{name}/{k}": part for name, pair in draw().items() for k, part in enumerate(pair)}
        part = path.with_suffix(".part.npz")
        np.savez_compressed(part, **both)
        part.replace(path)
    found = np.load(path)
    names = dict.fromkeys(key.rpartition("/")[0] for key in found)
    return {name: (found[f"{name}/0"], found[f"{name}/1"]) for name in names}


def simulated(n: int) -> dict:
    """Scans of patients who are asked about ("test"), and of others ("real"); the second half of
    either shows the same people as the first, with drusen."""
    sides = {}
    for name, first in (("test", judges.UNSEEN), ("real", judges.OTHERS)):
        scans = np.concatenate([judges.eyes(k, n // 2, first) for k in ("NORMAL", "DRUSEN")])
        sides[name] = scans, read_dials(scans)[:, 0]
    return sides


def count(features, numbers, asked) -> np.ndarray:
    model = RidgeCV(np.logspace(0, 5, 11)).fit(features, numbers)
    return model.predict(asked)


def bounded(features, of=None) -> np.ndarray:
    """``centred``, within 5 spreads: of a feature that hardly varies one odd scan decides."""
    return centred(features, of).clip(-5, 5)


def arms_of(made, real, patients, test) -> dict[str, np.ndarray]:
    """What each counter says of ``test``, features; ``real`` and each of ``made`` are features and
    numbers, and ``patients`` those of the real ones."""
    names = sorted(set(patients), key=str)
    some = np.isin(patients, names[:: round(1 / FEW)])
    sides = {"real": real, f"real, {FEW:.0%} of the patients": tuple(x[some] for x in real)}
    said = {name: count(*side, test) for name, side in sides.items()}
    asked = bounded(test, real[0])
    for name, (features, numbers) in made.items():
        said[name] = count(features, numbers, test)
        said[f"{name}, centred"] = count(bounded(features), numbers, asked)
        seen = bounded(features)
        within = [count(seen @ a, numbers, asked @ a) for a in components(bounded(real[0]))]
        said[f"{name}, in components"] = np.mean(within, 0)
        for side, (own, counted) in sides.items():
            both = np.concatenate([bounded(own, real[0]), bounded(features)])
            said[f"{side}, and {name}, centred"] = count(
                both, np.concatenate([counted, numbers]), asked
            )
    return said


def summarise(said: dict, truth, ill, patients) -> dict:
    """``truth`` (N,) numbers, ``ill`` (N,) which scans are of the disease."""
    weights = patient_weights(patients, 2000, 0)
    said = {"class": np.where(ill, truth[ill].mean(), truth[~ill].mean())} | said

    def correlation(values, of):
        w = weights[:, of] / weights[:, of].sum(1, keepdims=True)
        a, b = (x[of] - (w @ x[of])[:, None] for x in (values, truth))
        spread = np.sqrt((w * a**2).sum(1) * (w * b**2).sum(1))
        return (w * a * b).sum(1) / np.where(spread > 1e-9, spread, np.nan)

    everybody = {name: correlation(values, ill | True) for name, values in said.items()}
    return {
        name: {
            "correlation": interval(found),
            "among the ill": interval(correlation(said[name], ill)),
            "minus real": interval(found - everybody["real"]),
            "error": float(np.abs(said[name] - truth).mean()),
        }
        for name, found in everybody.items()
    }


def cross_fitted(made, manifest, disease, features, folder):
    """What counters say of real scans, each patient asked about once, by those who learned from the
    others: ({arm: numbers}, truth, which are ill, patients)."""
    scans = [s for s in load_manifest(manifest) if s.label in ("NORMAL", disease)]
    whole = prepare(manifest, class_=f"NORMAL+{disease}", size=256, cache=folder / "cache",
                    progress=False)  # fmt: skip
    sides = (whole.train, whole.validation, whole.test)
    images = np.concatenate([side.images for side in sides])
    patients = np.concatenate([side.patients for side in sides])
    ill = np.concatenate([side.labels == disease for side in sides])
    truth = read_dials(images)[:, 0]
    images, patients, ill, truth = (x[np.isfinite(truth)] for x in (images, patients, ill, truth))
    seen, fold = features(images), deal_patients(scans, FOLDS, SEED)
    folds, said = np.array([fold[p] for p in patients]), {}
    for k in range(FOLDS):
        out = folds == k
        real = seen[~out], truth[~out]
        for name, values in arms_of(made, real, patients[~out], seen[out]).items():
            said.setdefault(name, np.zeros(len(truth)))[out] = values
    return said, truth, ill, patients


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("run", help="a generator with dials: simulated, a run's folder or its file")
    add("--out", type=Path, required=True)
    add("--real", help="a folder or a manifest.csv of real scans; without it simulated patients")
    add("--class", dest="disease", default="DRUSEN", help="of the real scans (DRUSEN)")
    add("--n", type=int, default=300, help="synthetic scans of each arm")
    o = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # of scans that cannot be measured
    o.out.mkdir(parents=True, exist_ok=True)
    features, generator = Features(name=JUDGE, cache=o.out / "features"), load_generator(o.run)
    known = classes_of(generator)
    disease = next((name for name in (o.disease, "DRUSEN") if name in known), None)
    if disease is None or "NORMAL" not in known:
        parser.error(f"{o.run}: draws {', '.join(known)}; a counter needs NORMAL and a disease.")
    name = f"synthetic-{generator.weights_hash[:8]}-{o.n}.npz"
    drawn = kept(o.out / name, partial(synthetic, generator, disease, o.n))
    made = {name: (features(scans), numbers) for name, (scans, numbers) in drawn.items()}
    if o.real:
        said, truth, ill, patients = cross_fitted(made, o.real, o.disease, features, o.out)
    else:
        sides = kept(o.out / "simulated.npz", partial(simulated, 400))
        (test, truth), (real, numbers) = sides["test"], sides["real"]
        known, half = np.isfinite(numbers), len(test) // 2
        people, ill = np.arange(len(test)) % half, np.arange(len(test)) >= half
        said = arms_of(made, (features(real)[known], numbers[known]), people[known], features(test))
        patients = people
    found = summarise(said, np.nan_to_num(truth), ill, patients)
    name = "real" if o.real else "simulated"
    (o.out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    head = ("correlation", "among the ill", "minus real")
    lines = [f"| learned from | {' | '.join(head)} | mean error |", "|---|---|---|---|---|"]
    lines += [
        f"| {arm} | {' | '.join(between(row[name]) for name in head)} | {row['error']:.2f} |"
        for arm, row in found.items()
    ]
    (o.out / f"{name}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines), f"\n{len(truth)} scans of {len(set(patients))} patients")


if __name__ == "__main__":
    main()

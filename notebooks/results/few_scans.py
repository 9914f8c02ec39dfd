"""What does a GAN of few scans borrow from other scans, and what does augmentation do for it?

    python notebooks/results/few_scans.py --few DRUSEN_FOLDER --more MANIFEST --like DRUSEN AMD \\
        --size 128 --minutes 5 --seeds 0 1 --out DIR

`few` holds the data set with the rare class (--class, DRUSEN) and perhaps other classes, split by
patient; `more` is what can be borrowed from. One table row per arm, each trained for the same
wall-clock time on one core, recipe residual/best, on whole scans (--set framing=aligned trains on
crops of theirs instead, and judges whole scans as well):

    none, fixed     the rare class's training scans alone; augmentation 0, as the recipe has it
    alike           with them every scan of `more` whose label is one of --like
    conditional     with them every scan of both, one network with a label per data set and class,
                    asked for the rare class

results/generators.md has one more row, an augmentation adapted to an overfitting of 0.6: it was
measured at an earlier commit (eee3c61 still has the setting).

Patients of `few` on its validation and test sides teach no arm. Judged are 500 scans of the best
checkpoint by the rare class's validation scans: the kernel distance (x1000) to its test scans,
precision and recall, variety (variance in features, as a share of that of the training scans), and
copies of the rare class's training scans, by the audit of notebook 05 with all validation and test
scans of `few` as the unseen. Not collected by pytest; a finished run is not trained again.
"""

import argparse
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

from helpers import config
from helpers.data import shape
from helpers.data.batches import batches
from helpers.data.pixels import at_size
from helpers.data.prepare import prepare
from helpers.gan import gan
from helpers.gan.recipes import with_recipe
from helpers.gan.sampling import sample
from helpers.generate import load_generator
from helpers.measures.coverage import coverage_report
from helpers.measures.distances import kernel_distance
from helpers.measures.features import Features
from helpers.measures.memorisation import memorisation_report
from helpers.training.loop import train
from helpers.training.runs import open_run

ARMS = {
    "none": ["--augment=0"],
    "fixed": [],
    "alike": [],
    "conditional": ["--conditional=1"],
}
JUDGED = 500


def scans(options, source, class_, size, framing="stretch"):
    return prepare(source, class_=class_, size=size, framing=framing, progress=False,
                   cache=Path(options.out).resolve() / "cache")  # fmt: skip


def to_learn(options, arm, framing):
    """Images of an arm, names of their classes, and of crops their shapes; `few` comes first."""
    few = scans(options, options.few, "all", options.size, framing).train
    sides, labels = [few], [few.labels]
    if arm in ("alike", "conditional"):
        more = scans(options, options.more, "all", options.size, framing)
        for side in (more.train, more.validation, more.test):
            sides.append(side)
            labels.append(np.array([f"{scan.dataset}-{scan.label}" for scan in side.scans]))
    images, labels = np.concatenate([side.images for side in sides]), np.concatenate(labels)
    shapes = None if few.shapes is None else np.concatenate([side.shapes for side in sides])
    if arm == "conditional":
        return images, labels, shapes
    like = {options.class_} | ({f"{d}-{c}" for d in names_of(labels) for c in options.like}
                               if arm == "alike" else set())  # fmt: skip
    chosen = np.isin(labels, sorted(like))
    return images[chosen], labels[chosen], None if shapes is None else shapes[chosen]


def names_of(labels):
    return {label.rpartition("-")[0] for label in labels}


def train_one(options, arm, seed):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    folder = place(options, arm, seed)
    argv = ["--model=residual", "--framing=stretch", "--conditional=0", f"--size={options.size}",
            f"--seed={seed}", f"--runs={folder}", "--run=run", f"--class={options.class_}",
            f"--hours={options.minutes / 60}", "--validation-images=100", "--patience=0",
            "--dials=0", *ARMS[arm], *options.set]  # fmt: skip
    settings = with_recipe(config.resolve(config.TrainGan, argv, {}))
    data = scans(options, options.few, options.class_, options.size)
    full = scans(options, options.few, options.class_, max(256, options.size))
    images, labels, shapes = to_learn(options, arm, settings.framing)
    classes, places = np.unique(labels, return_inverse=True)
    names = tuple(map(str, classes)) if settings.conditional else ()
    bank = None if shapes is None else shape.Shapes(shapes, labels)
    method = gan.GAN(settings, full.validation.images, Features(), names, shapes=bank)
    run = open_run(settings, data, {})
    told = {"labels": places} if names or method.looks else {}
    if method.looks:
        told["looks"] = shape.look(shapes)[:, : method.looks]
    draw = partial(batches, images, settings.batch_size, seed=seed, **told)
    train(method, draw, run, settings)
    if not run.finished(settings.steps, settings.hours):
        raise RuntimeError(f"{folder.name} was interrupted")
    done = {"learned": len(images), "images": int(run.metrics()[-1]["images"])}
    (folder / "done.json").write_text(json.dumps(done))


def place(options, arm, seed):
    return Path(options.out).resolve() / f"{arm}-{seed}"


def judge(options, arm, seed, features) -> dict:
    folder = place(options, arm, seed)
    made = sample(load_generator(folder / "run"), JUDGED, seed)
    made = at_size(made, made.shape[-1])
    few = scans(options, options.few, options.class_, options.size)
    full = scans(options, options.few, options.class_, max(256, options.size))
    whole = scans(options, options.few, "all", options.size)
    new = np.concatenate([whole.validation.images, whole.test.images])
    names = np.concatenate([whole.validation.patients, whole.test.patients])
    drawn, real, taught = (features(x) for x in (made, full.test.images, full.train.images))
    small = at_size(made, options.size)  # whole scans that are put together may be larger
    copied = memorisation_report(
        small, few.train.images, new, training_patients=few.train.patients, unseen_patients=names,
        features=(features(small), features(few.train.images), features(new)),
    )  # fmt: skip
    covered = coverage_report(drawn, taught, real)["value"] or {}
    return json.loads((folder / "done.json").read_text()) | {
        "distance": kernel_distance(drawn, real, None, full.test.patients),
        "floor": kernel_distance(taught, real, full.train.patients, full.test.patients),
        "to_training": kernel_distance(drawn, taught, None, full.train.patients),
        "variety": float(drawn.var(0).sum() / taught.var(0).sum()),
        "precision": covered.get("precision"), "recall": covered.get("recall"),
        "copied": [copied[name] for name in ("copied_share", "low", "high", "expected_share")],
        "nearer_to_training": copied["pixels"]["nearer_to_training"],
        "test_scans": len(real), "test_patients": len(set(full.test.patients)),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("arms", nargs="*", default=list(ARMS))
    add("--few", required=True)
    add("--more", required=True)
    add("--like", nargs="+", default=["DRUSEN"])
    add("--class", dest="class_", default="DRUSEN")
    add("--size", type=int, default=128)
    add("--minutes", type=float, default=5)
    add("--seeds", type=int, nargs="+", default=[0, 1])
    add("--set", nargs="*", default=[], help="settings for every arm: --set gamma=1")
    add("--out", required=True)
    add("--only", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.set = [f"--{setting}" for setting in options.set]
    if options.only:
        return train_one(options, options.only[0], int(options.only[1]))
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    features, table = Features(), {}
    for seed in options.seeds:
        for arm in options.arms:
            folder = place(options, arm, seed)
            if not (folder / "done.json").exists():
                folder.mkdir(parents=True, exist_ok=True)
                with (folder / "log.txt").open("w") as log:
                    subprocess.run(
                        [sys.executable, __file__, *sys.argv[1:], "--only", arm, str(seed)],
                        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
                        stdout=log, stderr=log, check=True,
                    )  # fmt: skip
            table[f"{arm}-{seed}"] = judge(options, arm, seed, features)
            print(f"{arm}-{seed}", json.dumps(table[f"{arm}-{seed}"]), flush=True)
    (Path(options.out) / "table.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()

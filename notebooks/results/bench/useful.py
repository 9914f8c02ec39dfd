"""How soon is it useful? Seconds until a classifier that learns from synthetic scans is good.

A linear head learns DRUSEN and NORMAL from drawn scans and is asked about the validation patients
(EfficientNet-Lite0, as training's own probe; the judges of the results pages are others). What is
trained on aligned crops is put back into whole scans before it is judged. The clock stands still
meanwhile. ``paper`` is two DCGANs in turn, one for each class, since the published one has none.
"""

import copy
import json
from pathlib import Path

import numpy as np
import torch

from bench import quality, steps, timing
from helpers import config
from helpers.data.pixels import to_levels
from helpers.gan import judging
from helpers.gan.recipes import with_recipe
from helpers.gan.train import build_training
from helpers.measures.features import Features
from helpers.measures.probe import probe_auroc
from helpers.training.state import update_average

GOAL = 0.9  # AUROC
LIMIT = 360  # seconds
PATIENTS, DRAWN = 200, 150  # simulated ones; scans of each class that the head learns from
CLASSES = ("NORMAL", "DRUSEN")
ARMS = {
    "aligned crops": [dict(classes="NORMAL,DRUSEN")],
    "best, whole scans": [dict(classes="NORMAL,DRUSEN", framing="stretch")],
    "paper, whole scans": [
        {"model": "dcgan", "recipe": "paper", "framing": "stretch", "class": c} for c in CLASSES
    ],
}


class Contender:
    """One or several trainings that take turns; ``draw`` gives whole scans of a class."""

    def __init__(self, place: Path, arm: list[dict], seed: int, features, size=128):
        self.trainings, self.seen = [], 0
        for changes in arm:
            given = {"data": "simulated", "n_simulated": PATIENTS, "size": size, "runs": place,
                     "seed": seed, "validation_images": 2} | changes  # fmt: skip
            arguments = [f"--{name}={value}" for name, value in given.items()]
            s = with_recipe(config.resolve(config.TrainGan, arguments, {}))
            method, draw, whole, learned = build_training(s, features, progress=False)
            self.whole = whole
            torch.manual_seed(seed)
            step = steps.Ours(method, draw(device=steps.DEVICE))
            average = copy.deepcopy(method.averaged).eval().requires_grad_(False)
            self.trainings.append((s, method, step, average))
        self.batch = sum(s.batch_size for s, *_ in self.trainings)

    def step(self) -> None:
        self.seen += self.batch
        for s, method, step, average in self.trainings:
            step()
            images = self.seen // len(self.trainings)
            update_average(average, method.averaged, images, s.batch_size, s.ema_half_life,
                           s.ema_ramp)  # fmt: skip

    @torch.no_grad()
    def draw(self, label: str) -> np.ndarray:
        """uint8 (DRAWN, 1, S, S)."""
        for s, method, _, average in self.trainings:
            if method.conditional or s.class_ == label:
                noise = torch.randn(
                    DRAWN, average.z_dim, generator=torch.Generator().manual_seed(1)
                )
                labels = None
                if method.conditional:
                    labels = torch.full((DRAWN,), method.classes.index(label))
                if (
                    s.ema_half_life == 0
                ):  # the paper keeps no average: BatchNorm's own is the judged
                    average.load_state_dict(method.averaged.state_dict())
                return to_levels(judging.generate(method, average, noise, labels))
        raise ValueError(f"nothing here draws {label}")


def time_to_useful(place: Path, seeds=3, limit=LIMIT, goal=GOAL, size=128) -> list[timing.Row]:
    features = Features(device=steps.DEVICE, cache=place / "features")
    found = {name: [] for name in ARMS}
    for seed in range(seeds):
        for name, arm in ARMS.items():
            contender = Contender(place / "useful", arm, seed, features, size)
            unseen, truth = validation_scans(place / "useful", features, size)

            def lacks(_, of=contender, unseen=unseen, truth=truth):
                made = [features(of.draw(label)) for label in CLASSES]
                of_class = np.repeat(CLASSES, [len(rows) for rows in made])
                return 1 - probe_auroc(np.concatenate(made), of_class, unseen, truth)

            started = (contender.step, contender.batch, None)
            run = quality.reach(lambda s=started: s, lacks, goal=1 - goal, limit=limit)
            found[name].append(run)
            reached = f"{run['seconds']:.0f} s" if run["seconds"] else f"not in {limit} s"
            print(f"{name}, seed {seed}: {reached}, {run['images']:,} images", flush=True)
    (place / "useful.json").write_text(json.dumps(found))
    return [as_row(name, runs, limit, goal, seeds) for name, runs in found.items()]


def validation_scans(place: Path, features, size):
    """Features and labels of whole scans of both classes, of the validation patients."""
    given = ["--data=simulated", f"--n-simulated={PATIENTS}", f"--runs={place}", f"--size={size}",
             "--classes=NORMAL,DRUSEN"]  # fmt: skip
    s = with_recipe(config.resolve(config.TrainGan, given, {}))
    method, *_ = build_training(s, features, progress=False)
    return method.probe_features, method.probed


def as_row(name, runs, limit, goal, seeds) -> timing.Row:
    spent = [run["seconds"] or limit for run in runs]
    missed = sum(run["seconds"] is None for run in runs)
    last = [1 - run["curve"][-1][2] for run in runs]
    note = f"AUROC at the end {min(last):.2f} to {max(last):.2f}; images "
    note += f"{np.median([run['images'] for run in runs]):,.0f}"
    if missed:
        note += f"; not reached within {limit} s, which then count, by {missed} of {seeds}"
    return timing.Row(
        f"Time to a useful generator: simulated eyes, 128 px, {seeds} seeds",
        f"{name}: until AUROC from synthetic alone is {goal}", "s", None, float(np.median(spent)),
        low=None, high=None, note=note,
    )  # fmt: skip

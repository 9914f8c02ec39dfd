"""Micrometres from an en-face picture: what a head of the column network reads off real strips.

    python notebooks/results/micrometres.py EXPORTS [--seeds 3] [--steps 400]
                                                    [--light clahe] [--start 1500]

EXPORTS holds a folder for each eye (Heidelberg XML and TIFs); people are told apart by the folder.
Of every B-scan the ruler reads, per column, how thick the retina is and how far the RPE is from
Bruch's membrane; from the strip of the infrared picture along its line (``data.enface``) a network
predicts both, alone ("head") or what is left of them beside the mean map ("on the map"). Each eye
is predicted by networks that saw the other eyes only, beside the mean of these at the same place
("mean map", the control), the head's predictions dealt out to other B-scans ("shuffled") and the
mean value alone. Intervals are a bootstrap over blocks of neighbouring B-scans. Last comes how many
eyes with drusen would settle whether the height of the RPE is read better than by shuffled strips.
"--light": how the infrared picture's light is evened out, by a local z-score (evened), adaptive
histogram equalisation (clahe), or not at all (as_taken). "--start": steps on strips of simulated
photographs, whose micrometres are known, before those on real ones.
"""

import argparse
import json
import warnings
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import nct, t
from skimage.exposure import equalize_adapthist
from torch import nn

from helpers import config
from helpers.data.cache import simulated_eye
from helpers.data.enface import strips
from helpers.data.hospital import read_frame, read_volumes
from helpers.data.pixels import to_float
from helpers.data.two_modalities import prepare_domains
from helpers.measures.layers import read_all
from helpers.translation.lesions import deals
from helpers.translation.networks import ColumnGenerator

ROWS, COLUMNS = 64, 128
MAPS = ("thickness", "elevation")
UNIT = torch.tensor([50.0, 20.0])[:, None]  # um, of the loss
BLOCK = 7  # neighbouring B-scans that are drawn together
RESAMPLES = 1000


class Head(nn.Module):
    """Strips (B, inputs, ROWS, W) to thickness and elevation in um, (B, 2, W)."""

    def __init__(self, mean, inputs=1, width=16):
        super().__init__()
        self.columns = ColumnGenerator(ROWS, inputs, 1, width)
        self.columns.decoder = nn.Identity()
        self.read = nn.Conv1d(4 * width, 2, 1)
        nn.init.zeros_(self.read.weight)
        self.mean = torch.as_tensor(mean, dtype=torch.float32)[:, None]

    def forward(self, images):
        return self.read(self.columns.features(images)[-1][:, :, 0]) * UNIT + self.mean


def eye(path: Path, light="evened") -> dict:
    """Strips (N, 1, ROWS, COLUMNS) and um (N, 2, COLUMNS), NaN where the ruler reads none, of one
    volume; as a right eye."""
    (volume,) = read_volumes(path)
    if light == "clahe":
        volume = replace(volume, enface=(255 * equalize_adapthist(volume.enface)).astype(np.uint8))
    images = strips(volume, ROWS, COLUMNS, even=light == "evened")[:, None]
    um = np.full((len(images), 2, COLUMNS), np.nan, np.float32)
    for number, one in enumerate(read_all([read_frame(f"{path}#{k}") for k in volume.numbers])):
        at = (np.arange(COLUMNS) + 0.5) / COLUMNS * one.shape[1] - 0.5
        for name, values in zip((0, 1), (one.thickness, one.elevation)):
            um[number, name] = np.interp(at, np.arange(len(values)), values) * volume.um_per_px_y
    if volume.eye == "OS":
        images, um = images[..., ::-1].copy(), um[..., ::-1].copy()
    return {"name": path.parent.name, "strips": images, "um": um}


@cache
def simulated_eyes() -> dict:
    """The same as ``eye`` gives, of the training patients of notebook 06: the green of the strip of
    a simulated photograph, to mean and spread of ``enface.evened``."""
    given = ["--preset=demo", "--size=128", "--n-simulated=150"]
    split = prepare_domains(config.resolve(config.TrainPix2pix, given, {}), paired=True,
                            progress=False).dfe.train  # fmt: skip
    green = np.asarray(split.images)[:, 1:2].astype(np.float32)
    green = green.reshape(len(green), 1, ROWS, -1, COLUMNS).mean(3)
    green = (green - green.mean((2, 3), keepdims=True)) / green.std((2, 3), keepdims=True)
    truths = [simulated_eye(scan, COLUMNS, ()).truth.heights_um for scan in split.scans]
    um = [[at["ILM"] - at["BM"], at["RPE"] - at["BM"]] for at in truths]
    images = (128 + 40 * green).round().clip(0, 255).astype(np.uint8)
    return {"name": "simulated", "strips": images, "um": np.array(um, np.float32)}


@cache
def started(steps: int, seed: int) -> Head:
    """A head that learned of ``simulated_eyes``."""
    return learn([simulated_eyes()], "um", steps, seed)


def learn(eyes, what: str, steps: int, seed: int, start: Head | None = None) -> Head:
    """A head that learned ``what`` of ``eyes``, from ``start`` on: mirrored and upside down at
    random, brighter and darker."""
    torch.manual_seed(seed)
    images = to_float(np.concatenate([e["strips"] for e in eyes]))
    um = torch.from_numpy(np.concatenate([e[what] for e in eyes]))
    head = Head(np.nanmean(um.numpy(), (0, 2)), images.shape[1])
    if start is not None:
        head.columns = deepcopy(start.columns).train()
    optimizer = torch.optim.AdamW(head.parameters(), 1e-3, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(images), (16,))
        x, y = images[chosen], um[chosen]
        for side, both in ((3, True), (2, False)):
            turned = torch.rand(16) < 0.5
            x = torch.where(turned[:, None, None, None], x.flip(side), x)
            y = torch.where(turned[:, None, None], y.flip(2), y) if both else y
        x = x * (1 + 0.2 * torch.randn(16, 1, 1, 1)) + 0.1 * torch.randn(16, 1, 1, 1)
        known = torch.isfinite(y)
        error = F.smooth_l1_loss(head(x) / UNIT, torch.nan_to_num(y) / UNIT, reduction="none")
        loss = (error * known).sum() / known.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return head.eval()


def predict(head, one) -> np.ndarray:
    with torch.no_grad():
        return head(to_float(one["strips"])).numpy()


def scores(predicted, true) -> dict:
    """MAE and bias in um, and the correlation over all columns, of (N, W) each."""
    known = np.isfinite(true) & np.isfinite(predicted)
    p, t = predicted[known], true[known]
    flat = p.std() < 1e-6
    return {"mae": float(np.abs(p - t).mean()), "bias": float((p - t).mean()),
            "correlation": np.nan if flat else float(np.corrcoef(p, t)[0, 1])}  # fmt: skip


def judged(one, guesses: dict) -> dict:
    """{guess: {map: scores}} and, of the correlation of elevation, head less shuffled with its
    interval over blocks of B-scans."""
    true, rng, n = one["um"], np.random.default_rng(0), len(one["um"])
    found = {
        name: {m: scores(guess[:, k], true[:, k]) for k, m in enumerate(MAPS)}
        for name, guess in guesses.items()
    }
    orders = list(deals(np.arange(n), rng, 10))
    dealt = [{m: scores(guesses["head"][order, k], true[:, k]) for k, m in enumerate(MAPS)}
             for order in orders]  # fmt: skip
    found["shuffled"] = {
        m: {key: float(np.mean([d[m][key] for d in dealt])) for key in dealt[0][m]} for m in MAPS
    }
    blocks = np.array_split(np.arange(n), n // BLOCK)
    for control in ("shuffled", "mean map"):
        gains = []
        for _ in range(RESAMPLES):
            chosen = np.concatenate(
                [blocks[b] for b in rng.integers(len(blocks), size=len(blocks))]
            )
            own = scores(guesses["head"][chosen, 1], true[chosen, 1])["correlation"]
            if control == "shuffled":
                order = orders[rng.integers(len(orders))]
                other = guesses["head"][order][chosen, 1]
            else:
                other = guesses["mean map"][chosen, 1]
            gains.append(own - scores(other, true[chosen, 1])["correlation"])
        low, high = np.nanquantile(gains, (0.025, 0.975))
        value = found["head"]["elevation"]["correlation"]
        value -= found[control]["elevation"]["correlation"]
        found[f"gain over {control}"] = [round(float(v), 2) for v in (value, low, high)]
    return found


def mean_map(eyes) -> np.ndarray:
    """um (N, 2, COLUMNS), the mean of several eyes at the same place. ValueError that names them if
    they were not scanned with equally many B-scans: then no place is the same."""
    if len({len(e["um"]) for e in eyes}) > 1:
        counts = ", ".join(f"{e['name']} {len(e['um'])}" for e in eyes)
        raise ValueError(f"a mean map takes eyes of equally many B-scans, not {counts}")
    return np.nanmean([e["um"] for e in eyes], 0)


def eyes_needed(gains, power=0.8, level=0.05) -> float:
    """How many eyes a t test needs to tell their mean gain from zero, two-sided at ``level``, in
    ``power`` of the trials, if gains of eyes have the mean and the standard deviation of these."""
    mean, spread = np.mean(gains), np.std(gains, ddof=1)
    for n in range(2, 1000):
        bound = t.ppf(1 - level / 2, n - 1)
        if nct.sf(bound, n - 1, abs(mean) / spread * np.sqrt(n)) >= power:
            return n
    return np.inf


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exports", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--light", choices=("evened", "clahe", "as_taken"), default="evened")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/measure/micrometres.json"))
    s = parser.parse_args()
    warnings.simplefilter("ignore")
    eyes = [eye(path, s.light) for path in sorted(s.exports.glob("*/*.xml"))]
    mean_map(eyes)  # before hours of training
    report, gains = {}, {}
    for held, one in enumerate(eyes):
        others = [e for k, e in enumerate(eyes) if k != held]
        guesses = {
            "mean value": np.broadcast_to(
                np.nanmean(np.concatenate([e["um"] for e in others]), (0, 2))[None, :, None],
                one["um"].shape,
            ),
            "mean map": mean_map(others),
        }
        for e in others:  # its map is of the others, as it will be of an eye that nobody has seen
            e["beside"] = e["um"] - mean_map([o for o in others if o is not e])
        for seed in range(s.seeds):
            start = started(s.start, seed) if s.start else None
            guesses["head"] = predict(learn(others, "um", s.steps, seed, start), one)
            rest = predict(learn(others, "beside", s.steps, seed, start), one)
            guesses["on the map"] = guesses["mean map"] + rest
            found = report[f"{one['name']} {seed}"] = judged(one, guesses)
            print(one["name"], seed, json.dumps(found), flush=True)
            if "AMD" in one["name"]:
                gains.setdefault(one["name"], []).append(found["gain over shuffled"][0])
    means = {name: float(np.mean(values)) for name, values in gains.items()}
    report["eyes needed"] = {"mean gain of each eye": means, "to tell their mean from zero":
                             eyes_needed([*means.values()])}  # fmt: skip
    print(json.dumps(report["eyes needed"]), flush=True)
    s.out.parent.mkdir(parents=True, exist_ok=True)
    s.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()

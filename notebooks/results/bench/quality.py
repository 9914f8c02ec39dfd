"""Is it as good, and how soon? Kernel distance against the clock, and after equal images.

The distance (x1000, EfficientNet-Lite0 features) is that of synthetic scans to scans of patients
that nothing learned from; the clock stands still while it is measured.

    PYTHONPATH=tests:notebooks/results python -m bench.quality \\
        --real MANIFEST --class AMD --size 128 --seeds 8 --images 12000

compares the two ways to execute one recipe, seed by seed (without --real on simulated eyes);
``make bench`` measures the time to quality alone.
"""

import argparse
import copy
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats

from bench import plain, steps, timing
from bench.materials import arrays, files
from helpers.data.batches import batches
from helpers.data.prepare import prepare
from helpers.gan import dcgan
from helpers.measures.distances import kernel_distance
from helpers.measures.features import Features
from helpers.training.state import update_average

SIZE, EYES, UNSEEN = 64, 400, 200
GOAL = 300  # kernel distance x1000 that has to be reached
LIMIT = 150  # seconds after which a contender has not reached it
EVERY = 1600  # images from one look to the next
WAYS = {"plain": ("fp32", torch.contiguous_format), "ours": ("auto", torch.channels_last)}


class Judge:
    """Kernel distance of a network's scans, from fixed noise, to unseen scans."""

    def __init__(self, unseen, count=UNSEEN):
        self.features, self.count = Features(device=steps.DEVICE), count
        self.unseen = self.features(unseen)

    @torch.no_grad()
    def __call__(self, network) -> float:
        mode, noise = network.training, torch.Generator().manual_seed(1)
        device = next(network.parameters()).device
        network.eval()
        drawn = [
            network(torch.randn(50, network.z_dim, generator=noise).to(device)).float().clamp(-1, 1)
            for _ in range(0, self.count, 50)
        ]
        network.train(mode)
        return kernel_distance(self.features(torch.cat(drawn)), self.unseen)


def usual(source, seed):
    """The PyTorch example from image files: a step, the images it saw, the network to judge."""
    torch.manual_seed(seed)
    networks = (dcgan.Generator(SIZE, 100, 64), dcgan.Discriminator(SIZE, 64))
    networks = [network.to(steps.DEVICE) for network in networks]
    loaded = plain.loader(source, SIZE, 64)
    stream = ((images.to(steps.DEVICE), labels) for images, labels in loaded)
    return plain.dcgan_step(*networks, stream), 64, networks[0]


def recipe(images, size, seed, way="ours", **settings):
    """The same of a recipe of ours with its moving average, in one of WAYS."""
    torch.manual_seed(seed)
    method, seen = steps.make_gan(size, **settings), 0
    s, (precision, layout) = method.settings, WAYS[way]
    stream = batches(images, s.batch_size, seed=seed, device=steps.DEVICE)
    step = steps.Ours(method, stream, precision, layout)
    torch.manual_seed(seed)
    average = copy.deepcopy(method.averaged).eval().requires_grad_(False)

    def both():
        nonlocal seen
        step()
        seen += s.batch_size
        update_average(average, method.averaged, seen, s.batch_size, s.ema_half_life, s.ema_ramp)

    return both, s.batch_size, average


def reach(start, judge, goal=GOAL, limit=LIMIT) -> dict:
    """Seconds and images until the distance is below ``goal``, what ``start()`` takes included;
    seconds are None where ``limit`` came first. ``curve`` has seconds, images, distance."""
    began = time.perf_counter()
    step, count, network = start()
    seconds, images, curve = time.perf_counter() - began, 0, []
    while seconds < limit:
        began = time.perf_counter()
        for _ in range(EVERY // count):
            step()
        seconds += time.perf_counter() - began
        images += EVERY // count * count
        curve.append((seconds, images, judge(network)))
        if curve[-1][2] < goal:
            return {"seconds": seconds, "images": images, "curve": curve}
    return {"seconds": None, "images": images, "curve": curve}


def time_to_quality(place: Path, seeds=3, **limits) -> list[timing.Row]:
    source = files(place, EYES, classes=("DRUSEN",), eyes=EYES)
    judge = Judge(arrays(UNSEEN, SIZE, first=10**6))

    def ours(seed):
        cache = place / f"quality-cache-{seed}"
        for file in cache.glob("*"):
            file.unlink()  # decoding is on the clock
        data = prepare(source, size=SIZE, cache=cache, progress=False)
        sides = (data.train, data.validation, data.test)  # the plain recipe uses all of them too
        return recipe(np.concatenate([side.images for side in sides]), SIZE, seed)

    found = {"plain": [], "ours": []}
    for seed in range(seeds):
        found["plain"].append(reach(lambda s=seed: usual(source, s), judge, **limits))
        found["ours"].append(reach(lambda s=seed: ours(s), judge, **limits))
    goal, limit = limits.get("goal", GOAL), limits.get("limit", LIMIT)
    (place / "curves.json").write_text(json.dumps(found))
    draw(found, goal, place / "quality.png")
    spent = {who: [run["seconds"] or limit for run in runs] for who, runs in found.items()}
    missed = [sum(run["seconds"] is None for run in runs) for runs in found.values()]
    images = [f"{np.median([run['images'] for run in runs]):,.0f}" for runs in found.values()]
    note = f"images seen: {images[0]}, {images[1]}; ours is `best`: half the width, batch 16, EMA"
    if any(missed):
        note += (f"; not reached within {limit} s, which then count, by {missed[0]} of {seeds} "
                 f"plain and {missed[1]} of {seeds} of ours")  # fmt: skip
    made = timing.row(
        f"Time to quality: simulated DRUSEN, {SIZE} px, {seeds} seeds",
        f"until the distance is below {goal}", "s", 1, spent["plain"], spent["ours"], note=note,
    )  # fmt: skip
    made.plain, made.ours = (float(np.median(spent[who])) for who in ("plain", "ours"))
    print(made.cells(), flush=True)
    return [made]


def draw(found: dict, goal: float, path: Path) -> None:
    """Distance against seconds, a line for each seed."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axis = figure.subplots()
    looks = {
        "plain": ("plain recipe", "0.55", "--"),
        "ours": ("best, as it runs here", "C0", "-"),
    }
    for who, (label, colour, style) in looks.items():
        for number, run in enumerate(found[who]):
            seconds, _, distances = zip(*run["curve"])
            axis.plot(seconds, distances, style, marker=".", color=colour,
                      label=None if number else label)  # fmt: skip
    axis.axhline(goal, color="0.8", zorder=0)
    axis.set(xlabel="seconds, decoding included, judging not", ylabel="kernel distance x1000",
             ylim=(0, None))  # fmt: skip
    axis.legend(frameon=False)
    figure.savefig(path, dpi=120)


def paired(images, unseen, seeds, count, size, **settings) -> dict:
    """Distances after ``count`` images of one recipe executed in both WAYS, seed by seed, and
    ``log_ratio``: mean and 95 % interval over seeds (t) of log(ours / plain)."""
    judge, distances = Judge(unseen, 500), {way: [] for way in WAYS}
    for seed in seeds:
        for way in WAYS:
            step, batch, network = recipe(images, size, seed, way, **settings)
            for _ in range(count // batch):
                step()
            distances[way].append(judge(network))
            print(seed, way, f"{distances[way][-1]:.1f}", flush=True)
    return {**distances, **log_ratio(distances["ours"], distances["plain"])}


def log_ratio(ours, usual) -> dict:
    """Mean of log(ours / usual) and its 95 % interval (t); as shares, 0.1 is ten per cent worse."""
    logs = np.log(np.array(ours) / np.array(usual))
    mean, error = logs.mean(), stats.sem(logs)
    low, high = stats.t.interval(0.95, len(logs) - 1, mean, error)
    return {"worse": float(np.expm1(mean)), "low": float(np.expm1(low)),
            "high": float(np.expm1(high))}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--real", default="simulated", help="as OCT_DATA")
    add("--class", dest="class_", default="DRUSEN")
    add("--size", type=int, default=64)
    add("--model", default="dcgan")
    add("--seeds", type=int, default=8)
    add("--first", type=int, default=0, help="the first seed")
    add("--images", type=int, default=12_000)
    add("--out", default="runs/bench/paired.json")
    o = parser.parse_args()
    cache = Path(os.environ.get("OCT_RUNS", "runs")) / "cache"
    data = prepare(o.real, class_=o.class_, size=o.size, n_simulated=400, cache=cache,
                   progress=False)  # fmt: skip
    seeds = range(o.first, o.first + o.seeds)
    found = paired(data.train.images, data.validation.images, seeds, o.images, o.size,
                   model=o.model)  # fmt: skip
    Path(o.out).parent.mkdir(parents=True, exist_ok=True)
    Path(o.out).write_text(json.dumps({**vars(o), **found}, indent=1) + "\n")
    print({name: found[name] for name in ("worse", "low", "high")})


if __name__ == "__main__":
    main()

"""Which generator is best after equal time? Contenders trained on one real data set and judged.

    python notebooks/results/generators.py --real MANIFEST --class AMD --size 128 --minutes 10 \\
        --seeds 0 1 2 --out DIR paper best residual aligned lightweight-gan

A contender is aligned (this repository as it is: a residual GAN of aligned crops, of every class
that the data have), one of its recipes for whole scans of the class alone (paper and best, a DCGAN;
residual; stylegan), or lightweight-gan (the package of that name, MIT, which people would otherwise
take: pip install lightweight-gan), with settings if wanted and a name to show:
short=best:augment=0.5,lr=0.0002 or alone=aligned:conditional=0. Lists are joined by +, an empty one
is nothing: lightweight-gan:attn_res_layers=,aug_types=translation+cutout+color. Not collected by
pytest; end it with Ctrl-C, and the same command goes on with what is not finished. With more
--minutes it continues what was trained for fewer (lightweight-gan begins again).

On one CPU core lightweight-gan sees 0.3 images/s at 128 px with its networks as they are, 1.6 with
bf16, without attention and with half the channels
(:attn_res_layers=,fmap_inverse_coef=11,amp=True). It is made for a GPU, and a comparison without
one says no more than that.

Time. Every run has a process and one thread of its own and `minutes` of wall clock, from the first
step to the last; validating counts for this repository's recipes, nothing but steps for the other
one. Contenders alternate within a seed, so that what else the machine does falls on all.

Choice. Ours keep their best checkpoint by the validation patients. lightweight-gan, which has no
such thing, gets the same: after each fifth of its time its raw weights and their moving average
(ours, with the half-life of `best`: its own begins after 20,000 steps) are put aside, and the best
of the ten by the validation patients is judged.

Distances are kernel distances x1000 to scans of test patients at max(256, size) px; "reduced" is
the same with these scans, and larger pictures, reduced to `size`. Log-ratio: log((d - cost) / (d of
paper - cost)), where cost is the distance of the reduced to the full scans, which no picture of
this size can save (0 for whole scans that are put together in full size: to compare these with
small ones, take the log-ratio with the cost, beside it); mean over the seeds that both have. Its
interval is a block bootstrap: test patients are drawn with replacement, the same for every run and
for the cost, and synthetic scans by themselves; inside each resample it is averaged over seeds.
Seeds are not drawn: the spread between them stands beside the distance. A difference d - cost (or
d) below LEAST counts as LEAST, since a log needs it positive.
"""

import argparse
import ast
import copy
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from helpers import config
from helpers.data.batches import balanced_index
from helpers.data.pixels import at_size
from helpers.data.prepare import prepare
from helpers.data.shape import Shapes
from helpers.data.split import Split
from helpers.gan.recipes import RECIPES, with_recipe
from helpers.gan.sampling import sample
from helpers.gan.train import build_training
from helpers.generate import load_generator
from helpers.measures.coverage import coverage_report
from helpers.measures.distances import (
    _across,
    _draws,
    _members,
    _within,
    kernel_distance,
)
from helpers.measures.features import Features
from helpers.training.loop import train
from helpers.training.runs import open_run
from helpers.training.state import update_average

WHOLE = ["--framing=stretch", "--conditional=0"]
OURS = {
    "paper": ["--model=dcgan", "--recipe=paper", *WHOLE],
    "best": ["--model=dcgan", "--recipe=best", *WHOLE],
    "residual": ["--model=residual", *WHOLE],
    "stylegan": ["--model=stylegan", *WHOLE],
    "aligned": ["--model=residual", "--framing=aligned"],
}
# What lightweight_gan's command line takes if nothing is said (its classes have other defaults),
# without what it draws and saves on its way. aug_prob=None: it takes 0.3 for few images.
PEER = dict(batch_size=10, gradient_accumulate_every=4, lr=2e-4, fmap_max=512, attn_res_layers=[32],
            disc_output_size=1, aug_prob=None, aug_types=["cutout", "translation"],
            amp=False)  # fmt: skip
# It refuses to run without CUDA. Every place that names it, and what a CPU needs there; with
# amp=True its mixed precision becomes bf16, which needs no scaling.
PATCHES = {
    "assert torch.cuda.is_available(), 'You need": "assert True, 'You need",
    "torch.device(f'cuda:{self.rank}')": "torch.device('cpu')",
    ".cuda(self.rank)": "",
    "self.cuda(rank)": "",
    "partial(autocast, 'cuda')": "partial(autocast, 'cpu', torch.bfloat16)",
    "GradScaler(enabled = self.amp)": "GradScaler('cpu', enabled = False)",
    "pin_memory = True": "pin_memory = False",
}
FIFTHS, VALIDATED, EXPORTED, LEAST = 5, 100, 1000, 1.0


def parse(spec: str) -> tuple[str, str, dict]:
    """name=kind:a=1,b=2 as (name, kind, {"a": "1", "b": "2"})."""
    head, _, tail = spec.partition(":")
    name, _, kind = head.rpartition("=")
    if kind not in [*OURS, "lightweight-gan"]:
        raise ValueError(f"{spec}: choose one of {', '.join(OURS)}, lightweight-gan.")
    return name or spec, kind, dict(part.split("=", 1) for part in tail.split(",") if part)


def place(options, name: str, seed: int) -> Path:
    return Path(options.out).resolve() / f"{re.sub(r'[^A-Za-z0-9.=,+-]', '_', name)}-{seed}"


def scans(options, size: int):
    return prepare(options.real, class_=options.class_, size=size, n_simulated=options.n_simulated,
                   cache=Path(options.out).resolve() / "cache", progress=False)  # fmt: skip


# --- training, each run in a process of its own ---------------------------------------------------


def train_ours(options, kind, chosen, seed, folder, features) -> dict:
    argv = [f"--data={options.real}", f"--size={options.size}", f"--seed={seed}",
            f"--hours={options.minutes / 60}", f"--class={options.class_}",
            f"--n-simulated={options.n_simulated}", f"--runs={folder.parent}",
            f"--run={folder.name}", f"--validation-images={VALIDATED}", "--patience=0", *OURS[kind],
            *(f"--{name}={value}" for name, value in chosen.items())]  # fmt: skip
    settings = with_recipe(config.resolve(config.TrainGan, argv, {}))
    method, draw, whole, learned = build_training(settings, features, progress=False)
    if options.most and options.most < len(learned.train):
        few = some(options, learned.train)
        labels = np.unique(learned.train.labels[few], return_inverse=True)[1]
        draw = partial(draw, index=few[balanced_index(labels)])
        if method.shapes is not None:
            method.shapes = Shapes(learned.train.shapes[few], learned.train.labels[few])
    parameters = {name: count(network) for name, network in method.networks.items()}
    run = open_run(settings, whole, parameters, learned)
    if run.folder != folder:
        raise ValueError(f"{folder} holds a run of other settings: name=... or another --out")
    cpu, done = time.process_time(), folder / "done.json"
    before = json.loads(done.read_text())["cpu_seconds"] if done.exists() else 0
    train(method, draw, run, settings)
    if not run.finished(settings.steps, settings.hours):
        raise RuntimeError(f"{folder.name} was interrupted")
    last = run.metrics()[-1]
    return {"images": int(last["images"]), "seconds": last["seconds"], "parameters": parameters,
            "cpu_seconds": before + time.process_time() - cpu}  # fmt: skip


def peer_module():
    """lightweight_gan.py as installed, with PATCHES."""
    found = find_spec("lightweight_gan")
    if found is None:
        raise ImportError("lightweight-gan is not installed: pip install lightweight-gan")
    file = Path(found.submodule_search_locations[0]) / "lightweight_gan.py"
    source = file.read_text()
    for old, new in ({} if torch.cuda.is_available() else PATCHES).items():
        if old not in source:
            raise ImportError(f"{file}: is not version 1.2.1, it has no line {old!r}")
        source = source.replace(old, new)
    package = types.ModuleType("lightweight_gan")  # in place of one whose import runs the assertion
    package.__path__ = [str(file.parent)]
    sys.modules["lightweight_gan"] = package
    module = types.ModuleType("lightweight_gan.lightweight_gan")
    exec(compile(source, file, "exec"), module.__dict__)
    return module


def peer_settings(chosen: dict) -> dict:
    """PEER with what the contender's spec says, as Python's numbers, words and lists."""
    settings = dict(PEER)
    for name, text in chosen.items():
        values = [part if part[:1].isalpha() and part not in ("True", "False", "None")
                  else ast.literal_eval(part) for part in text.split("+") if part]  # fmt: skip
        settings[name] = values if isinstance(PEER.get(name), list) else values[0]
    return settings


def some(options, split) -> np.ndarray:
    """Places of the training scans that --most leaves."""
    return np.linspace(0, len(split) - 1, min(options.most or len(split), len(split))).astype(int)


def train_peer(options, kind, chosen, seed, folder, features) -> dict:
    data, full = scans(options, options.size), scans(options, max(256, options.size))
    few = some(options, data.train)
    data.train = Split(data.train.images[few], [data.train.scans[i] for i in few])
    peer, settings = peer_module(), peer_settings(chosen)
    (folder / "scans").mkdir(parents=True)
    for number, image in enumerate(data.train.images):
        Image.fromarray(image[0]).save(folder / "scans" / f"{number:06d}.png")
    for seeded in (torch.manual_seed, np.random.seed, random.seed):
        seeded(seed)
    trainer = peer.Trainer(base_dir=folder, image_size=options.size, greyscale=True, num_workers=0,
                           use_aim=False, **settings)  # fmt: skip
    trainer.evaluate = lambda *_, **__: None  # 192 pictures every 100 steps, which nobody looks at
    trainer.init_GAN()
    trainer.set_data_src(folder / "scans")
    average = copy.deepcopy(trainer.GAN.G).eval()
    device = next(average.parameters()).device
    averaging = [RECIPES["dcgan"]["best"][name] for name in ("ema_half_life", "ema_ramp")]
    batch = trainer.batch_size * trainer.gradient_accumulate_every
    images, seconds, cpu, kept, broken = 0, 0.0, 0.0, [], 0
    while seconds < 60 * options.minutes:
        began, began_cpu = time.monotonic(), time.process_time()
        try:
            trainer.train()
        except peer.NanException:  # it has gone back to its last checkpoint
            broken += 1
            if broken == 3:  # as its command line has it
                raise
        images += batch
        update_average(average, trainer.GAN.G, images, batch, *averaging)
        seconds += time.monotonic() - began
        cpu += time.process_time() - began_cpu
        if seconds >= 60 * options.minutes * (len(kept) + 1) / FIFTHS:
            kept.append(folder / f"kept-{len(kept)}.pt")
            states = {"raw": trainer.GAN.G.state_dict(), "averaged": average.state_dict()}
            torch.save(states, kept[-1])
    parameters = {"generator": count(trainer.GAN.G), "discriminator": count(trainer.GAN.D)}
    report = {"images": images, "seconds": seconds, "cpu_seconds": cpu, "megabytes": megabytes(),
              "parameters": parameters}  # fmt: skip

    @torch.inference_mode()
    def draw(n):
        noise = torch.randn(n, trainer.latent_dim, generator=torch.Generator().manual_seed(seed))
        made = torch.cat([average(z.to(device)).float().cpu() for z in noise.split(50)])
        return (made.clamp(0, 1) * 255).round().byte().numpy()

    validation, scores = features(full.validation.images), {}
    for file in kept:
        for kind, weights in torch.load(file).items():
            average.load_state_dict(weights)
            score = kernel_distance(features(draw(VALIDATED)), validation)
            if score < min(scores.values(), default=np.inf):
                best = weights
            scores[f"{file.stem} {kind}"] = score
        file.unlink()  # they are large
    average.load_state_dict(best)
    np.save(folder / "images.npy", draw(EXPORTED))
    return report | {"validated": scores}


def count(network) -> int:
    return sum(weight.numel() for weight in network.parameters())


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def train_one(options, spec: str, seed: int) -> None:
    torch.set_num_threads(1)
    name, kind, chosen = parse(spec)
    folder = place(options, name, seed)
    learn = train_ours if kind in OURS else train_peer
    report = learn(options, kind, chosen, seed, folder, Features())
    report = {"megabytes": megabytes()} | report
    report["asked"] = asked(options, spec)
    (folder / "done.json").write_text(json.dumps(report, indent=1))


def asked(options, spec: str) -> list:
    """What a finished run must have been trained with to be taken again; the minutes last."""
    about = options.real, options.class_, options.size, options.most, options.minutes
    return [*parse(spec)[1:], *about]


def train_all(options) -> None:
    cores = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])

    def finished(seed, spec):
        done = place(options, parse(spec)[0], seed) / "done.json"
        return json.loads(done.read_text())["asked"] if done.exists() else None

    def one(job):
        seed, spec = job
        folder, done = place(options, parse(spec)[0], seed), finished(seed, spec)
        if done and done[-1] >= options.minutes:
            return
        if parse(spec)[1] not in OURS:  # which go on where they stopped
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("w") as log:
            done = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--only", spec, str(seed)],
                env={**os.environ, **cores, "PYTHONPATH": paths}, stdout=log, stderr=log,
            )  # fmt: skip
        last = (folder / "log.txt").read_text().strip().splitlines()[-1:]
        print(f"{folder.name}: " + ("trained" if not done.returncode else f"failed, {last}"))

    jobs = [(seed, spec) for seed in options.seeds for spec in options.contenders]
    for seed, spec in jobs:
        done = finished(seed, spec)
        if done and done[:-1] != asked(options, spec)[:-1]:
            folder = place(options, parse(spec)[0], seed)
            raise ValueError(f"{folder} was trained otherwise: name=... or another --out")
    with ThreadPoolExecutor(options.parallel) as pool:
        list(pool.map(one, jobs))


# --- judging --------------------------------------------------------------------------------------


def pictures(folder: Path, n: int, seed: int) -> np.ndarray:
    """uint8 (n, 1, S, S): the first n, whoever drew them."""
    if (folder / "images.npy").exists():
        return np.load(folder / "images.npy")[:n]
    generator = load_generator(folder)
    judged = generator.metadata.get("class") if getattr(generator, "classes", 0) else None
    made = sample(generator, n, seed, class_name=judged)
    return at_size(made, made.shape[-1])


def judge(options, runs: dict, resamples=1000) -> dict:
    """The table as plain numbers; runs: {(name, seed): folder}."""
    full, features = scans(options, max(256, options.size)), Features()
    real, training = features(full.test.images), features(full.train.images)
    small = features(at_size(full.test.images, options.size))
    patients = full.test.patients
    cost = kernel_distance(real, small, patients, patients, paired=True)
    rng = np.random.default_rng(0)
    members = _members(patients, len(real))
    draws = _draws(members, resamples, rng)
    within = _within(real, members, draws)
    costs = 1000 * (within + _within(small, members, draws)
                    - 2 * _within(real, members, draws, small))  # fmt: skip

    value, resampled, table, owes = {}, {}, {}, {}
    for (name, seed), folder in runs.items():
        drawn = pictures(folder, options.n, seed)
        owes[name] = float(drawn.shape[-1] < full.test.images.shape[-1])
        made, less = features(drawn), features(at_size(drawn, options.size))
        alone = _members(None, len(made))
        chosen = _draws(alone, resamples, rng)
        across = _across(made, real, alone, members, chosen, draws)
        resampled[name, seed] = 1000 * (_within(made, alone, chosen) + within - 2 * across)
        value[name, seed] = kernel_distance(made, real, None, patients)
        table.setdefault(name, {})[seed] = json.loads((folder / "done.json").read_text()) | {
            "distance": value[name, seed], "reduced": kernel_distance(less, small, None, patients),
            "coverage": coverage_report(made, training, real)["value"],
            "coverage_reduced": coverage_report(less, training, small)["value"],
        }  # fmt: skip

    def log_ratio(name, off, offs):
        """To paper, `off` (in the resamples `offs`) taken off both, where they owe it."""
        seeds = [seed for seed in table[name] if ("paper", seed) in runs]
        if not seeds:
            return None
        each, drawn = ([
            np.log(np.maximum(d[name, seed] - owes[name] * less, LEAST))
            - np.log(np.maximum(d["paper", seed] - owes["paper"] * less, LEAST)) for seed in seeds
        ] for d, less in ((value, off), (resampled, offs)))  # fmt: skip
        low, high = np.nanquantile(np.mean(drawn, axis=0), [0.025, 0.975])
        return {"value": np.mean(each), "low": low, "high": high, "by_seed": dict(zip(seeds, each))}

    contenders = {
        name: {"runs": rows, "log_ratio": log_ratio(name, cost, costs),
               "log_ratio_with_cost": log_ratio(name, 0, 0)} for name, rows in table.items()
    }  # fmt: skip
    about = {
        "real": Path(options.real).name, "class": full.class_, "size": options.size,
        "minutes": options.minutes, "n": options.n, "test_scans": len(real),
        "test_patients": len(members), "cost": cost,
        "floor": kernel_distance(training, real, full.train.patients, patients),
        "cost_interval": np.nanquantile(costs, [0.025, 0.975]).tolist(),
    }  # fmt: skip
    return {"about": about, "contenders": contenders}


def markdown(contenders: dict) -> str:
    head = ("contender", "seeds", "images seen", "images/s", "parameters G + D", "peak memory",
            "distance", "reduced too", "log-ratio to paper", "the same with the cost",
            "precision / recall / coverage")  # fmt: skip

    def spread(values):
        sd = f" ± {np.std(values, ddof=1):.0f}" if len(values) > 1 else ""
        return f"{np.mean(values):.0f}{sd} ({', '.join(f'{v:.0f}' for v in values)})"

    def ratio(r):
        return "" if r is None else f"{r['value']:+.2f} ({r['low']:+.2f} to {r['high']:+.2f})"

    lines = [head, ["---"] * len(head)]
    for name, row in contenders.items():
        runs = list(row["runs"].values())
        images = [run["images"] for run in runs]
        sizes = [f"{number / 1e6:.1f}" for number in runs[0]["parameters"].values()]
        shares = [np.mean([(run["coverage"] or {}).get(kind, np.nan) for run in runs])
                  for kind in ("precision", "recall", "coverage")]  # fmt: skip
        lines.append([
            name, f"{len(runs)}", f"{min(images):,} to {max(images):,}",
            f"{np.mean([run['images'] / run['seconds'] for run in runs]):.1f}",
            f"{' + '.join(sizes)} M", f"{max(run['megabytes'] for run in runs):.0f} MB",
            spread([run["distance"] for run in runs]), spread([run["reduced"] for run in runs]),
            ratio(row["log_ratio"]), ratio(row["log_ratio_with_cost"]),
            " / ".join(f"{share:.2f}" for share in shares),
        ])  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw_sheet(options, runs: dict) -> None:
    """sheet.png: real test scans, then the first eight pictures of every run. Do not commit it."""
    real = scans(options, options.size).test.images
    rows = {"real": real[np.linspace(0, len(real) - 1, 8).astype(int)]}
    rows |= {f"{name}, seed {seed}": pictures(folder, 8, seed)
             for (name, seed), folder in runs.items()}  # fmt: skip
    figure = Figure(figsize=(12, 1.8 * len(rows)), layout="constrained")
    for axis, (name, images) in zip(figure.subplots(len(rows)), rows.items()):
        axis.imshow(np.concatenate(images[:, 0], axis=1), cmap="gray", vmin=0, vmax=255)
        axis.set(xticks=[], yticks=[], title=name)
    figure.savefig(Path(options.out) / "sheet.png", dpi=100)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("contenders", nargs="+", help="[name=]kind[:setting=value,...]")
    add("--real", required=True, help="as OCT_DATA: a manifest.csv, a folder, simulated, ...")
    add("--class", dest="class_", default="DRUSEN")
    add("--size", type=int, default=128)
    add("--minutes", type=float, default=10)
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--out", required=True)
    add("--parallel", type=int, default=1, help="runs side by side")
    add("--n", type=int, default=500, help=f"synthetic scans that are judged, up to {EXPORTED}")
    add("--most", type=int, help="training scans at most, to see what few of them do")
    add("--n-simulated", type=int, default=200, help="patients, where --real is simulated")
    add("--only", nargs=2, metavar=("CONTENDER", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        return train_one(options, options.only[0], int(options.only[1]))
    names = [parse(spec)[0] for spec in options.contenders]
    train_all(options)
    runs = {(name, seed): place(options, name, seed) for name in names for seed in options.seeds}
    runs = {key: folder for key, folder in runs.items() if (folder / "done.json").exists()}
    if not runs:
        return print("nothing to judge")
    table = judge(options, runs)
    (Path(options.out) / "table.json").write_text(json.dumps(table, indent=1) + "\n")
    print(markdown(table["contenders"]), table["about"], sep="\n\n")
    draw_sheet(options, runs)


if __name__ == "__main__":
    main()

"""The result: aligned crops of all classes, 256 px, as long as there is time; then real scans.

python -m gpu.result FOLDER SECONDS [DATA]
"""

import shutil
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from gpu import judge
from gpu.tables import TINY, Table, work
from helpers import config
from helpers.data.prepare import prepare
from helpers.gan.recipes import with_recipe
from helpers.gan.train import train_gan
from helpers.generate import load_generator
from helpers.measures.features import Features
from helpers.training import checkpoint
from helpers.training.network_file import read_network, write_network

SIZE, PATIENTS, JUDGED = (64, 24, 12) if TINY else (256, 600, 200)
ENDING = 15 if TINY else 50  # seconds that judging takes
LEAST = 1 if TINY else 5  # seconds of a training


def settings(folder, **changes):
    """Of notebook 02, for a training that a GPU finishes in minutes."""
    given = {"data": "simulated", "n_simulated": PATIENTS, "size": SIZE, "classes": "all",
             "runs": work(folder), "run": "simulated", "patience": 0,
             "validation_images": 12 if TINY else 60, "validate_every": 256 if TINY else 100_000,
             "log_every": 2048, "hours": 1.0} | changes  # fmt: skip
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    return with_recipe(config.resolve(config.TrainGan, arguments, {}))


def train(table, what: str, folder: Path, seconds: float, **changes):
    """Trained, its weights put into ``folder``; the generator."""
    s = settings(folder, hours=max(seconds, LEAST) / 3600, **changes)
    began = time.monotonic()
    run = train_gan(s, Features(), progress=False)
    last = [row for row in run.metrics() if "loss_generator" in row][-1]
    speed = {"images/s": last["images"] / last["seconds"]}
    table.add(f"{what}: trained", images=last["images"], seconds=last["seconds"],
              wall=time.monotonic() - began, **speed)  # fmt: skip
    shutil.copyfile(run.folder / "metrics.jsonl", folder / f"{s.run}.jsonl")
    keep(run, folder)
    return load_generator(folder / f"{s.run}.safetensors")


def keep(run, folder: Path) -> None:
    """The last moving average of ``run`` (the exported one is the best), and its discriminator."""
    weights, about = read_network(run.folder / "generator.safetensors")
    step, state = checkpoint.load_latest(run.checkpoints)
    name, method = f"{run.folder.name}.safetensors", state["processes"][0]["method"]
    about |= {key: method[key] for key in ("louder", "gamma") if key in about}  # of the last, too
    write_network(folder / name, {**weights, **state["average"]}, {**about, "step": step})
    (folder / "discriminators").mkdir(exist_ok=True)
    weights = state["networks"]["discriminator"]
    about = {"network": f"discriminator of {run.folder.name}", "step": step}
    write_network(folder / "discriminators" / name, weights, about)


def main(folder: str, seconds: str, data="") -> None:
    warnings.simplefilter("ignore")
    folder, seconds = Path(folder), float(seconds)
    table, ending = Table(folder, "result"), ENDING * (2 if data else 1)
    share = 0.7 if data else 1.0
    labels = ("NORMAL", "DRUSEN", "DME", "CNV")
    test, real = (
        {k: judge.eyes(k, JUDGED, first) for k in labels} for first in (judge.UNSEEN, judge.OTHERS)
    )
    left = seconds - ending - table.elapsed
    generator = train(table, "simulated", folder, share * left)
    synthetic = judge.draw(generator, labels, JUDGED)
    judge.rows(table, "simulated", judge.judge(synthetic, test, real))
    judge.sheet(folder / "simulated.jpg", test, synthetic)
    if not TINY:
        large = {k: judge.eyes(k, 3, judge.UNSEEN, 512) for k in labels}
        judge.sheet(folder / "simulated-512.jpg", large, judge.draw(generator, labels, 3, 512), 3)
    if data:
        of_data(table, folder, data, seconds - ENDING - table.elapsed)


def of_data(table, folder: Path, data: str, seconds: float) -> None:
    """The same from real scans, begun from what was learned of simulated ones."""
    start = work(folder) / "simulated"
    generator = train(table, "data", folder, seconds, data=data, run="data", start=start)
    s = settings(folder, data=data)
    whole = prepare(s.data, class_="all", size=256, cache=f"{s.runs}/cache", progress=False)
    names = judge.known(generator, set(whole.test.labels))
    sides = [{k: np.asarray(side.images[side.labels == k]) for k in names}
             for side in (whole.test, whole.train)]  # fmt: skip
    synthetic = judge.draw(generator, names, JUDGED)
    judge.rows(table, "data", judge.judge(synthetic, *sides))
    judge.sheet(folder / "data.jpg", sides[0], synthetic)


if __name__ == "__main__":
    main(*sys.argv[1:])

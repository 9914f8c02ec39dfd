"""How much faster are two processes than one? Images per second of the training loop.

    PYTHONPATH=tests python notebooks/results/speed_processes.py [--ranks=1,2] [--size=128] \\
        [--steps=30]

Each rank has one thread and the same batch of its own, on a GPU each where there are any. Beside
the clock, the CPU time per image is printed: on a busy machine the clock says little.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from support.methods import Thumbnails, make_data

from helpers import config
from helpers.data.batches import batches
from helpers.gan.gan import GAN
from helpers.gan.recipes import with_recipe
from helpers.training.runs import open_run
from helpers.training.state import Training

ROOT = Path(__file__).parents[2]
WARM = 5  # steps before the clock starts


def settle(training: Training) -> None:
    """Until every process has ended its steps, on a GPU too."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    training.accelerator.wait_for_everyone()


def rank(size: int, steps: int, folder: str) -> None:
    torch.set_num_threads(1)
    arguments = ["--model=dcgan", "--framing=stretch", f"--size={size}",
                 "--steps=1", f"--runs={folder}", "--run=speed",
                 "--precision=" + ("auto" if torch.cuda.is_available() else "fp32")]  # fmt: skip
    settings = with_recipe(config.resolve(config.TrainGan, arguments, {}))
    data = make_data()
    images = np.random.default_rng(0).integers(0, 256, (512, 1, size, size), dtype=np.uint8)
    method = GAN(settings, data.validation.images, Thumbnails())
    draw = partial(batches, images, settings.batch_size)
    training = Training(method, draw, open_run(settings, data, {}), settings)
    for _ in range(WARM):
        training.step()
    settle(training)
    began, cpu = time.monotonic(), time.process_time()
    for _ in range(steps):
        training.step()
    settle(training)
    seconds = time.monotonic() - began
    cpu = sum(gather_object([time.process_time() - cpu]))
    if training.main:
        count = training.batch_size * steps
        print(f"{training.accelerator.num_processes} {count / seconds:.6g} {cpu / count:.6g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", default="1,2")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    if "RANK" in os.environ:
        return rank(options.size, options.steps, os.environ["SPEED_RUNS"])
    environment = {**os.environ, "OMP_NUM_THREADS": "1",
                   "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}  # fmt: skip
    print(f"size {options.size}, {options.steps} steps after {WARM}, load {os.getloadavg()[0]:.1f}")
    first = None
    for ranks in options.ranks.split(","):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-m", "torch.distributed.run", "--standalone",
                 f"--nproc_per_node={ranks}", __file__, f"--size={options.size}",
                 f"--steps={options.steps}"],
                env={**environment, "SPEED_RUNS": folder}, capture_output=True, text=True,
            )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        count, speed, cpu = map(float, done.stdout.split()[-3:])
        first = first or (count, speed, cpu)
        clock, work = speed / first[1] / (count / first[0]), first[2] / cpu
        print(f"{count:.0f} ranks: {speed:7.2f} images/s, {1000 * cpu:7.2f} ms of CPU an image; "
              f"efficiency by the clock {clock:.2f}, by CPU time {work:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()

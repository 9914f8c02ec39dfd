"""Does everything that trains here train on this GPU? python -m gpu.sanity FOLDER SECONDS"""

import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from support.methods import METHODS, aligned_gan

from gpu.tables import DEVICE, TINY, Table
from helpers.gan.sampling import sample
from helpers.generate import load_generator
from helpers.training import checkpoint
from helpers.training.loop import train
from helpers.training.precision import has_bf16
from helpers.training.processes import make_accelerator
from helpers.training.state import Training

STEPS = 3
GRAPHED = 40  # steps, of which the last are replayed
CLOSE = {"fp32": 0.02, "bf16": 0.2, "fp16": 0.05}  # of a loss, by which a GPU's may differ


def begun(*about) -> Training:
    """Without cuDNN's search for the fastest kernels, which takes longer than these few steps."""
    training = Training(*about)
    torch.backends.cudnn.benchmark = False
    return training


@contextmanager
def random_from_the_cpu():
    """What a method draws comes from the CPU's generator: equal numbers on both machines."""

    def moved(draw):
        return lambda *shape, device=None, **kind: draw(*shape, **kind).to(device)

    with (
        mock.patch.object(torch, "randn", moved(torch.randn)),
        mock.patch.object(torch, "rand", moved(torch.rand)),
    ):
        yield


def first_losses(name: str, precision: str, device: str) -> dict[str, float]:
    """Losses of the first step of a method, on the CPU or the GPU, from equal random numbers."""
    with tempfile.TemporaryDirectory() as folder:
        method, draw, run, settings = METHODS[name](Path(folder), precision=precision, batch_size=8)
        if device == "cpu":
            accelerator = type("Plain", (), {
                "num_processes": 1, "autocast": lambda s: torch.autocast("cpu", enabled=False),
                "backward": lambda s, loss: loss.backward(), "device": torch.device("cpu"),
                "is_main_process": True, "process_index": 0,
            })()  # fmt: skip
            batch = next(draw(start=0, device="cpu", rank=0, world_size=1))
            torch.manual_seed(0)
            record = method.step(batch, accelerator)
            return {k: float(v) for k, v in record.items()}
        training = begun(method, draw, run, settings)
        with random_from_the_cpu():
            training.step()
        first = training.read()
        for _ in range(STEPS - 1):
            training.step()
        later = training.read()
        assert training.losses_finite(later, weights=True), later
        return first


def steps(table) -> None:
    """A step of every method in every precision, its losses beside the CPU's."""
    for name in METHODS:
        reference = first_losses(name, "fp32", "cpu")
        for precision in ("fp32", "fp16", "bf16"):
            if precision == "bf16" and not has_bf16(DEVICE):
                continue
            try:
                found = first_losses(name, precision, "gpu")
                worst = max(
                    (abs(found[k] - v) / (1 + abs(v)) for k, v in reference.items()
                     if k.startswith("loss")), default=0.0,
                )  # fmt: skip
                table.add(f"{name}, {precision}", ok=True, off=worst)
            except Exception as error:  # one that fails must not hide the others
                traceback.print_exc()
                table.add(f"{name}, {precision}", ok=False, off=str(error).splitlines()[0][:90])


def graphs(table) -> None:
    """Replayed steps beside the same steps run one by one: equal random numbers, equal weights?"""
    for precision in ("fp32", "bf16", "fp16"):
        if precision == "bf16" and not has_bf16(DEVICE):
            continue
        ends, made = [], 0
        for replayed in (True, False, False):
            with tempfile.TemporaryDirectory() as folder:
                method, draw, run, settings = aligned_gan(
                    Path(folder), precision=precision, batch_size=8, penalty_every=4
                )
                training = begun(method, draw, run, settings)
                training.step()
                if not replayed and method.replayed is not None:
                    method.replayed.gave_up = True
                for _ in range(GRAPHED - 1):
                    training.step()
                training.read()
                if replayed and method.replayed is not None:
                    made = len(method.replayed.graphs)
                weights = [w.detach().flatten().double() for n in method.networks.values()
                           for w in n.parameters()]  # fmt: skip
                ends.append(torch.cat(weights))
        away, twice = (float((one - ends[1]).norm() / ends[1].norm()) for one in ends[::2])
        # without graphs, too, a GPU does not end twice at the same weights
        table.add(f"{made} graphs, {precision}", weights_apart=away, without_graphs=twice)


def exported(table, folder: Path) -> None:
    """Trained here, loaded and drawn on the CPU and on the GPU: the same pixels?"""
    method, draw, run, settings = aligned_gan(folder, steps=20, batch_size=8)
    train(method, draw, run, settings)
    one, other = (sample(load_generator(run.folder, device), 8, 3) for device in ("cpu", DEVICE))
    levels = (127.5 * (one - other)).abs()
    table.add("export, drawn on the CPU and here", grey_levels_apart=float(levels.max()),
              mean=float(levels.mean()))  # fmt: skip


def killed(table, folder: Path) -> None:
    """kill -9 in the middle, and the same command again."""
    command = [sys.executable, "-m", "gpu.sanity", str(folder), "0", "train"]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environ}
    child = subprocess.Popen(command, **quiet)
    checkpoints = folder / "killed" / "checkpoints"
    until = time.monotonic() + 90
    while checkpoint.newest_step(checkpoints) < 1 and time.monotonic() < until:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    at = checkpoint.newest_step(checkpoints)
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    end = checkpoint.newest_step(checkpoints)
    table.add(
        "kill -9, continued", killed_after=at, ended_at=end, ok=done.returncode == 0 < at < end
    )
    if done.returncode:
        print(done.stderr[-2000:])


def main(folder: str, seconds: str, *child) -> None:
    warnings.simplefilter("ignore")
    folder = Path(folder)
    if child:
        train(*aligned_gan(folder, run="killed", steps=60 if TINY else 600, batch_size=8))
        return
    table = Table(folder, "sanity")
    make_accelerator("fp32")
    with tempfile.TemporaryDirectory() as place:
        for part in (
            graphs,
            lambda t: exported(t, Path(place)),
            lambda t: killed(t, Path(place)),
            steps,
        ):
            try:
                part(table)
            except Exception as error:
                traceback.print_exc()
                table.add("FAILED", why=str(error).splitlines()[0][:200])
    if torch.cuda.is_available():
        table.add("memory", GiB=torch.cuda.max_memory_allocated() / 2**30)


if __name__ == "__main__":
    np.random.seed(0)
    main(*sys.argv[1:])

"""Notebooks up to where they launch their training, for test_processes.py: `launches.py FOLDER`.

Each in a fork of this process, which spares them the seconds that imports take, and with a log
FOLDER/NAME.log. Notebook 02 trains in two processes, and afterwards two more things are launched in
its place; the others end at their first launch.
"""

import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import jupytext
import torch

ROOT = Path(__file__).parents[2]
NOTEBOOKS = {
    path.name: jupytext.read(path) for path in sorted((ROOT / "notebooks").glob("*.py"))
    if "launch(train" in path.read_text()
}  # fmt: skip
TRAINED = "02_train_dcgan.py"
home, touched = os.getpid(), []


def trap(name: str) -> None:
    ask = getattr(torch.cuda, name)

    def asked(*arguments, **more):
        # accelerate asks through NVML, which leaves CUDA alone; the launched processes may use it
        if os.getpid() == home and os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK") != "1":
            touched.append(name)
            raise AssertionError(f"torch.cuda.{name} before the launch")
        return ask(*arguments, **more)

    setattr(torch.cuda, name, asked)


for name in ("is_available", "_lazy_init", "current_device", "get_device_capability",
             "get_device_properties", "get_rng_state", "is_bf16_supported",
             "mem_get_info"):  # fmt: skip
    trap(name)

# what the notebooks import, after the traps: that, too, must leave CUDA alone
from helpers import plots  # noqa: E402
from helpers.distillation import report  # noqa: E402, F401
from helpers.gan import train  # noqa: E402, F401
from helpers.training import processes  # noqa: E402
from helpers.training.processes import interruptible, launch  # noqa: E402
from helpers.translation import cyclegan  # noqa: E402, F401


def untouched() -> bool:
    return not touched and not torch.cuda.is_initialized()


def up_to_a_launch(name: str) -> dict:
    """Every cell of a notebook up to its last launch; what it has named."""
    cells = [c.source for c in NOTEBOOKS[name].cells if c.cell_type == "code"]
    *_, last = [i for i, source in enumerate(cells) if "launch(train" in source]
    names = {"__name__": "__main__"}
    for number, source in enumerate(cells[: last + 1]):
        if number == last:  # OpenMP's threads do not live on in a forked process
            torch.set_num_threads(2)
            torch.ones(2**20).exp()
        exec(source.split("\nif os.environ")[0], names)  # of the last what comes up to the launch
    return names


def launched(*arguments, **more):
    """Stands in for ``launch`` where a notebook goes up to its first and no further."""
    assert untouched()
    print("launched", flush=True)
    os._exit(0)


def fails(rank_one_says):
    if os.environ["RANK"] == "1":
        raise ValueError(rank_one_says)


def asks(folder):
    with interruptible() as asked:
        (folder / f"ready{os.environ['RANK']}").touch()
        end = time.monotonic() + 60
        while not asked and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.3)  # what the launcher passes on of one Ctrl-C must not cut the save short
        (folder / f"saved{os.environ['RANK']}").touch()


def train_and_launch_more(folder: Path) -> None:
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    run = up_to_a_launch(TRAINED)["run"]
    assert untouched()
    assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    print("images", run.metrics()[-1]["images"], "steps", run.metrics()[-1]["step"])

    try:
        launch(fails, "no such scan", processes=2)
    except RuntimeError as error:
        print("failed", error)

    asked_at = []

    def ctrl_c():
        while len(list(folder.glob("ready*"))) < 2:
            time.sleep(0.05)
        asked_at.append(time.monotonic())
        os.killpg(0, signal.SIGINT)  # what a terminal does, and Jupyter

    threading.Thread(target=ctrl_c).start()
    launch(asks, folder, processes=2)
    print("waited", time.monotonic() - asked_at[0])
    print("saved", sorted(path.name for path in folder.glob("saved*")))
    print("ended", flush=True)


def main(folder: Path) -> None:
    global home
    plots.compact = plots.show_source = lambda *a, **b: None  # figures cost more than the tested
    del sys.argv[1:]
    for name in NOTEBOOKS:
        if child := os.fork():
            os.waitpid(child, 0)
            continue
        try:
            os.setsid()  # a Ctrl-C for this notebook and its processes alone
            home = os.getpid()
            log = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1), os.dup2(log, 2)
            os.environ["OCT_RUNS"] = str(folder / name.removesuffix(".py"))
            if name == TRAINED:
                train_and_launch_more(folder)
            else:
                processes.launch = launched
                up_to_a_launch(name)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

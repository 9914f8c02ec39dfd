"""What training promises when the machine does not: `make chaos`.

Every method of methods.py is trained once in peace, and once while it is killed at random moments
(SIGKILL), told to stop (SIGTERM), runs into a full disk, or finds its newest checkpoint cut short
or with a flipped bit. Each time the same command goes on. Counted are the steps that had to
be done again, without those made on the full disk or held by the damaged file alone. At the end
weights, optimizers, random numbers, previews and log (but for its seconds) must equal those of the
run in peace, bit for bit.

The full disk is a real one: a small tmpfs, in a mount namespace of its own. Sittings are forked
from this process, which spares them the seconds that importing torch takes.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import torch

from helpers.training import checkpoint
from helpers.training.loop import train
from support.methods import METHODS

INTERVAL = 6  # steps between checkpoints: methods.py validates every 48 images, in batches of 8
KINDS = ("kill", "flip", "term", "cut", "full", "full, then kill")  # never two damaged in a row
ALLOWED = dict.fromkeys(KINDS, INTERVAL) | {"term": 0}


class Both:
    """Standard error: into a file on the disk that may be full, and first to where there is room,
    or nobody could tell what was said."""

    def __init__(self, *files: int):
        self.files = files

    def write(self, text: str) -> None:
        for file in self.files:
            os.write(file, text.encode())

    def flush(self) -> None:
        pass


def log_of(folder: Path) -> Path:
    """What the sittings of a run said; not on the disk that is filled."""
    return folder.parents[1] / f"{folder.name}.log"


def fork(name: str, folder: Path, steps: int, resumed, reached) -> int:
    """Begin a sitting in another process; it counts its steps in ``reached``. Returns its id."""
    if child := os.fork():
        return child
    try:
        log, output = (os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                       for path in (log_of(folder), folder.with_suffix(".out")))  # fmt: skip
        os.dup2(output, 1), os.dup2(output, 2)
        sys.stderr = Both(log, output)
        method, draw, run, settings = METHODS[name](folder, steps=steps, batch_size=8)
        found = checkpoint.load_latest(run.checkpoints)
        resumed.value = reached.value = found[0] if found else 0
        step = method.step

        def counted(*arguments):
            record = step(*arguments)
            reached.value += 1
            return record

        method.step = counted
        train(method, draw, run, settings)
        os._exit(0)
    except BaseException:
        try:
            sys.stderr.write(traceback.format_exc())
        finally:  # the disk may be full
            os._exit(1)


def wait_for(condition, child: int) -> bool:
    """Until the condition holds; False if the child ended before, or did not get there."""
    for _ in range(60_000):
        if condition():
            return True
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        time.sleep(0.002)
    raise TimeoutError("a sitting does not get on")


def fill(folder: Path) -> Path:
    """A file that takes all the room that is left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    return ballast


def strike(kind: str, child: int, folder: Path, reached, chance: random.Random) -> int:
    """One event; the child has ended after it. Returns how many steps it excuses: those made while
    the disk was full, or those that only the damaged checkpoint held."""
    excused, no_room_at_the_end = 0, False
    if kind.startswith("full"):
        ballast, began = fill(folder.parent), reached.value
        on = chance.randint(1, 2 * INTERVAL)
        no_room_at_the_end = not wait_for(lambda: reached.value >= began + on, child)
        if kind == "full, then kill":
            os.kill(child, signal.SIGKILL)
        if kind == "full, then kill" or no_room_at_the_end:
            excused = reached.value - began
        ballast.unlink()
        if (
            kind == "full" and not no_room_at_the_end
        ):  # there is room again: from its next checkpoint on all is as before
            began = reached.value
            wait_for(lambda: reached.value > began + INTERVAL, child)
    os.kill(child, signal.SIGTERM if kind == "term" else signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        said = log_of(folder).read_text()[-3000:]
        # a training that ends on a full disk has to say that it could not save
        if not (no_room_at_the_end and "no room to save the end" in said):
            raise RuntimeError(f"{kind}: died by itself\n{said}")
    if kind in ("flip", "cut"):
        checkpoints = folder / "test" / "checkpoints"
        if newest := max(checkpoints.glob("step-*.safetensors"), default=None):
            before = checkpoint.newest_step(checkpoints)
            content = bytearray(newest.read_bytes())
            place = chance.randrange(len(content))
            content[place] ^= 1 << chance.randrange(8)
            newest.write_bytes(content if kind == "flip" else content[:place])
            with warnings.catch_warnings(action="ignore"):
                whole = checkpoint.load_latest(checkpoints)
            excused = before - (whole[0] if whole else 0)
    return excused


def end_of(folder: Path) -> dict:
    """All that two runs must have in common: state, log without its clock, files by content."""
    run = folder / "test"
    step, state = checkpoint.load_latest(run / "checkpoints")
    seconds = state["progress"].pop("seconds")
    assert seconds > 0
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for record in log:
        del record["seconds"]
    files = [*(run / "previews").iterdir(), *run.glob("*.safetensors")]
    digests = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    return {"step": step, "state": state, "log": log, "files": digests}


def differences(a, b, place="") -> list[str]:
    """Where two nested states differ."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for k in a for d in differences(a[k], b[k], f"{place}/{k}")]
    if isinstance(a, (list, tuple)) and type(a) is type(b) and len(a) == len(b):
        return [d for i in range(len(a)) for d in differences(a[i], b[i], f"{place}/{i}")]
    if isinstance(a, (torch.Tensor, np.ndarray)):
        return [] if np.array_equal(np.asarray(a), np.asarray(b)) else [place]
    return [] if a == b else [f"{place}: {a} {b}"[:200]]


def survive(name: str, folder: Path, kinds, events: int, steps: int, chance) -> dict:
    """Train in peace and under ``events`` events; what was lost, and whether the ends are equal."""
    resumed, reached = (multiprocessing.Value("q", 0, lock=False) for _ in range(2))
    peace, war = folder / f"{name} peace", folder / f"{name} war"
    _, status = os.waitpid(fork(name, peace, steps, resumed, reached), 0)
    assert status == 0, log_of(peace).read_text()
    lost, finished = [], False
    before = None  # kind, step reached, steps excused: of the event before this sitting
    while not finished:
        resumed.value = -1
        child = fork(name, war, steps, resumed, reached)
        finished = not wait_for(lambda: resumed.value >= 0, child)
        if before:
            kind, last, excused = before
            lost.append((kind, last - resumed.value - excused))
            before = None
        goal = resumed.value + chance.randint(1, 2 * INTERVAL)
        if len(lost) == events or not wait_for(lambda goal=goal: reached.value >= goal, child):
            _, status = os.waitpid(child, 0)
            assert status == 0, log_of(war).read_text()[-3000:]
            finished = True
            continue
        time.sleep(chance.uniform(0, 0.1))  # anywhere in a step, a validation or a save
        kind = kinds[len(lost) % len(kinds)]
        excused = strike(kind, child, war, reached, chance)
        before = kind, reached.value, excused
    words = log_of(war).read_text()
    return {
        "method": name, "interval": INTERVAL, "lost": lost,
        "too much": [(kind, steps) for kind, steps in lost if steps > ALLOWED[kind]],
        "differences": differences(end_of(peace), end_of(war))[:5],
        "said": {word: words.count(word) for word in ("checksum", "No space left")},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=15, help="for each method (15)")
    parser.add_argument("--kinds", default=";".join(KINDS), help="; between them")
    parser.add_argument("--steps", type=int, default=180, help="of each training (180)")
    parser.add_argument("--methods", default=";".join(METHODS), help="; between them (all)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kinds, own_disk = options.kinds.split(";"), "CHAOS_NAMESPACE" in os.environ
    torch.set_num_threads(1)
    place = Path(tempfile.mkdtemp(prefix="chaos-"))
    folder = place / "disk"
    folder.mkdir()
    if own_disk:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    elif any(kind.startswith("full") for kind in kinds):
        print("No mount namespace is to be had here: no disk is filled.")
        kinds = [kind for kind in kinds if not kind.startswith("full")]
    total, failed = 0, False
    try:
        for name in options.methods.split(";"):
            began, chance = time.monotonic(), random.Random(options.seed)
            result = survive(name, folder, kinds, options.events, options.steps, chance)
            for run in folder.glob(f"{name} */"):
                shutil.rmtree(run)  # the disk is small
            print(json.dumps(result), flush=True)
            total += len(result["lost"])
            failed |= bool(result["too much"] or result["differences"])
            failed |= len(result["lost"]) < options.events  # --steps too few for them
            for kind in kinds:
                steps = [steps for k, steps in result["lost"] if k == kind]
                print(f"  {name:16} {kind:16} {len(steps):3} times, steps done again: "
                      f"at most {max(steps, default=0)} (allowed {ALLOWED[kind]})")  # fmt: skip
            same = "differs" if result["differences"] else "the same, bit for bit"
            print(f"  {name:16} end of the training {same}; {time.monotonic() - began:.0f} s")
    finally:
        if own_disk:
            subprocess.run(["umount", "-l", folder], check=False)
        shutil.rmtree(place, ignore_errors=True)
    print(f"{total} events, interval {INTERVAL} steps: {'FAILED' if failed else 'as promised'}")
    sys.exit(failed)


if __name__ == "__main__":
    own = ["unshare", "--map-root-user", "--mount"]
    if not os.environ.get("CHAOS_NAMESPACE"):
        os.environ.update(OMP_NUM_THREADS="1")
        try:
            subprocess.run([*own, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=True)
            os.environ["CHAOS_NAMESPACE"] = "1"
            os.execvp(own[0], [*own, sys.executable, *sys.argv])
        except (OSError, subprocess.CalledProcessError):
            pass
    main()

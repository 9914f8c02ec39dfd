"""Two GPUs, where there are two: how much faster, and do the ranks agree? FOLDER SECONDS"""

import subprocess
import sys
from pathlib import Path

import torch

from gpu.tables import TINY, Table


def main(folder: str, seconds: str) -> None:
    table, count = Table(folder, "two"), torch.cuda.device_count()
    if count < 2 and not TINY:
        table.add("one GPU: nothing to compare", GPUs=count)
        return
    script = Path(__file__).parents[1] / "speed_processes.py"
    size, steps = ("64", "5") if TINY else ("256", "200")
    done = subprocess.run(
        [sys.executable, str(script), "--ranks=1,2", f"--size={size}", f"--steps={steps}"],
        capture_output=True, text=True, timeout=float(seconds),
    )  # fmt: skip
    for line in done.stdout.splitlines()[1:]:
        ranks, _, found = line.partition(": ")
        table.add(ranks, found=found)
    if done.returncode:
        print(done.stderr[-2000:])
        table.add("FAILED", why=done.stderr.splitlines()[-1][:200])


if __name__ == "__main__":
    main(*sys.argv[1:])

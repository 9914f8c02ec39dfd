"""How fast is it, beside what people run today and beside what the machine allows?

    make bench                              # all parts, an hour on two cores
    make bench PARTS="steps limits"         # some of them

Nothing else should run. Ends with a table, kept as bench.md and bench.json in OCT_RUNS/bench. On a
GPU the steps are those at 256 px, in fp16 first, which is what a T4 has.
"""

import argparse
import json
import os
import platform
import time
import warnings
from functools import partial
from pathlib import Path

import torch

from bench import inputs, limits, outputs, quality, steps, timing, useful
from helpers.training.precision import choose_precision


def parts(place: Path) -> dict:
    """name: functions that return rows."""
    kinds = ("fp16", "bf16") if steps.DEVICE.type == "cuda" else ("auto",)
    return {
        "steps": [partial(steps.measure, place, kind) for kind in kinds],
        "quality": [partial(quality.time_to_quality, place)],
        "useful": [partial(useful.time_to_useful, place)],
        "inputs": [partial(inputs.measure, place)],
        "outputs": [partial(outputs.measure, place)],
        "limits": [partial(measure, place, kind) for kind in kinds
                   for measure in (limits.measure, limits.by_batch)],
    }  # fmt: skip


def machine() -> str:
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")] or [platform.processor()]  # fmt: skip
    name = torch.cuda.get_device_name() if steps.DEVICE.type == "cuda" else names[0]
    return (f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch "
            f"{torch.__version__}, {choose_precision('auto')}")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help="steps, quality, useful, inputs, outputs, limits")
    chosen = parser.parse_args().parts
    place = Path(os.environ.get("OCT_RUNS", "runs")).absolute() / "bench"
    place.mkdir(parents=True, exist_ok=True)
    known = parts(place)
    if unknown := set(chosen) - set(known):
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    warnings.simplefilter("ignore")  # of simulated data and of small sets
    rows, began, load = [], time.monotonic(), os.getloadavg()[0]
    for name in chosen or known:
        rows += [row for measure in known[name] for row in measure()]
    about = f"{machine()}; load before: {load:.1f}; {(time.monotonic() - began) / 60:.0f} minutes"
    table = f"{about}\n{timing.markdown(rows)}\n"
    (place / "bench.md").write_text(table)
    rows = timing.as_json(rows)
    (place / "bench.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    print(f"\n{table}")


if __name__ == "__main__":
    main()

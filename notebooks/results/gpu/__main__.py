"""Everything a GPU is needed for, in one command and nine minutes: `make gpu`.

    make gpu                                                  # all parts
    make gpu MINUTES=60 PARTS="result speed" DATA=my-scans    # longer; then real scans as well

It needs no network and takes the torch that is there. Each part is a process with its share of the
time, prints as it goes and fails alone; what it found until then is in the folder OCT_RUNS/gpu:
tables (gpu.md, one json a part), sheets of pictures, weights, logs. Ctrl-C ends it at any moment.
Without a GPU it is a smoke test at tiny sizes.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from gpu.tables import machine, markdown

SHARES = {"sanity": 1.0, "result": 4.5, "speed": 2.0, "translation": 1.2, "two": 0.3}
ENDING = 10  # seconds that a part has to end in after it was told to


def run(name: str, folder: Path, seconds: float, given: list[str]) -> str:
    """One part; what became of it, in words."""
    command = [sys.executable, "-u", "-m", f"gpu.{name}", str(folder), f"{seconds:.0f}", *given]
    began = time.monotonic()
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        os.set_blocking(process.stdout.fileno(), False)
        told = False
        try:
            while process.poll() is None or told is None:
                if part := process.stdout.read():
                    log.write(part)
                    log.flush()
                    sys.stdout.buffer.write(part)
                    sys.stdout.flush()
                over = time.monotonic() - began - seconds
                if over > 0 and not told:
                    process.terminate()
                    told = True
                if over > ENDING:
                    process.kill()
                time.sleep(0.2)
        finally:
            process.kill()
            rest = process.stdout.read() or b""
            log.write(rest)
            sys.stdout.buffer.write(rest)
            sys.stdout.flush()
    spent = f"{time.monotonic() - began:.0f} s"
    if told:
        return f"out of time after {spent}"
    return f"done in {spent}" if process.returncode == 0 else f"FAILED after {spent}: {name}.log"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--parts", default="", help=", ".join(SHARES))
    parser.add_argument("--data", default="", help="real scans to train on too, as OCT_DATA")
    options = parser.parse_args()
    chosen = options.parts.replace(",", " ").split() or list(SHARES)
    if unknown := set(chosen) - set(SHARES):
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(SHARES)}")
    folder = Path(os.environ.get("OCT_RUNS", "runs")).absolute() / "gpu"
    folder.mkdir(parents=True, exist_ok=True)
    began, ends = time.monotonic(), {}
    print(machine(), flush=True)
    eyes = None
    if "result" in chosen:  # drawn by the CPU while the GPU is looked at
        eyes = subprocess.Popen([sys.executable, "-m", "gpu.eyes", str(folder)])
    try:
        for number, name in enumerate(chosen):
            left = 60 * options.minutes - (time.monotonic() - began)
            seconds = left * SHARES[name] / sum(SHARES[other] for other in chosen[number:])
            print(f"\n== {name}, {seconds:.0f} s", flush=True)
            if name == "result":
                waiting = time.monotonic()
                eyes.wait()
                seconds -= time.monotonic() - waiting
            given = [options.data] if name == "result" and options.data else []
            ends[name] = run(name, folder, seconds, given)
            print(f"== {name}: {ends[name]}", flush=True)
    except KeyboardInterrupt:
        print("\nInterrupted: what was found so far is kept.")
    finally:
        if eyes is not None:
            eyes.kill()
        said = "\n".join(f"- {name}: {what}" for name, what in ends.items())
        (folder / "gpu.md").write_text(f"# make gpu\n\n{said}\n\n{markdown(folder)}")
        print(f"\n{said}\n{folder / 'gpu.md'}")
    return int(any(what.startswith("FAILED") for what in ends.values()))


if __name__ == "__main__":
    sys.exit(main())

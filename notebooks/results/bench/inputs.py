"""From JPEG files to augmented batches: an ImageFolder with the usual transforms against ours."""

import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from bench import plain, timing
from bench.materials import files
from helpers.data.augment import augment, mirror
from helpers.data.batches import batches
from helpers.data.prepare import prepare

SIZE, BATCH = 128, 64
WINDOWS = 5  # an epoch is measured so many times
LEAST = 16  # batches that are timed together: more than a DataLoader has ready


def usual(folder) -> DataLoader:
    """Resized, flipped and shifted one by one, as tutorials have it."""
    steps = [
        transforms.Grayscale(), transforms.Resize((SIZE, SIZE)), transforms.RandomHorizontalFlip(),
        transforms.RandomAffine(6, (0.125, 0.0625)), transforms.ToTensor(),
        transforms.Normalize([0.5], [0.5]),
    ]  # fmt: skip
    data = ImageFolder(folder, transforms.Compose(steps))
    endless = RandomSampler(data, num_samples=10**8)  # its workers are started once
    return DataLoader(data, BATCH, sampler=endless, num_workers=plain.WORKERS)


def epochs(who: str, folder: Path, cache: Path, count: int) -> dict:
    """Seconds of a first epoch and of later ones for ``count`` images, from files or the cache to
    augmented batches, and the MB that this process, without workers, came to use for them."""
    before, began = timing.megabytes("VmRSS"), time.perf_counter()
    timing.forget_peak()
    if who == "plain":
        known, stream = count, iter(usual(folder))
    else:  # the validation and test sides are decoded too
        data = prepare(folder, class_="all", size=SIZE, cache=cache, progress=False)
        known = len(data.train)
        stream = (augment(mirror(real), 1.0) for real in batches(data.train.images, BATCH))
    prepared = time.perf_counter() - began
    steps, seconds = max(LEAST, known // BATCH), []
    for _ in range(1 + WINDOWS):
        began = time.perf_counter()
        for _ in range(steps):
            next(stream)
        seconds.append((time.perf_counter() - began) / (steps * BATCH) * count)
    return {"first": prepared + seconds[0], "later": seconds[1:],
            "megabytes": timing.megabytes("VmHWM") - before}  # fmt: skip


def measure(place: Path, counts=(100, 1000, 10_000)) -> list[timing.Row]:
    rows, part = [], f"Input: JPEG of 768 x 496 px to augmented batches of {BATCH} at {SIZE} px"
    for count in counts:
        folder, cache, found = files(place, count), place / f"cache-{count}", {}
        for file in cache.glob("*"):
            file.unlink()  # a first epoch decodes
        for who in ("plain", "ours", "ours again"):
            done = subprocess.run(
                [sys.executable, "-m", "bench.inputs", who, str(folder), str(cache), str(count)],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            found[who] = json.loads(done.stdout.splitlines()[-1])
        usual_, first, again = found.values()
        memory = (usual_["megabytes"], first["megabytes"])
        note = {
            "first epoch": "ours: every file hashed, cleaned of padding, written to the cache",
            "first epoch of the next run": "ours: files hashed again, then the cache",
        }
        for name, one in zip(note, (first, again)):
            rows.append(timing.row(part, f"{count:,} images, {name}", "images/s", count,
                                   [usual_["first"]], [one["first"]],
                                   note=f"{note[name]}; once"))  # fmt: skip
        rows.append(timing.row(part, f"{count:,} images, later epochs", "images/s", count,
                               usual_["later"], first["later"], memory=memory))  # fmt: skip
        for one in rows[-3:]:
            print(one.cells(), flush=True)
    return rows


def main(who, folder, cache, count):
    torch.manual_seed(0)
    found = epochs(who.split()[0], Path(folder), Path(cache), int(count))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""From JPEG files to augmented batches: what people use against ours.

An ImageFolder with the usual transforms, and the same with the images of `datasets` (Hugging Face)
where that is installed. Files are in the machine's memory already, for all of them.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from bench import plain, timing
from bench.materials import EXPORT, SMALL, files
from helpers.data.augment import augment, mirror
from helpers.data.batches import batches
from helpers.data.prepare import prepare

SIZE, BATCH = 128, 64
WINDOWS = 5  # an epoch is measured so many times
LEAST, MOST = 16, 150  # batches that are timed together: more than a DataLoader has ready


def usual(folder, hugging_face=False) -> DataLoader:
    """Resized, flipped and shifted one by one, as tutorials have it."""
    steps = [
        transforms.Grayscale(), transforms.Resize((SIZE, SIZE)), transforms.RandomHorizontalFlip(),
        transforms.RandomAffine(6, (0.125, 0.0625)), transforms.ToTensor(),
        transforms.Normalize([0.5], [0.5]),
    ]  # fmt: skip
    if hugging_face:
        import datasets

        change = transforms.Compose(steps)
        data = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train",
                                     cache_dir=str(folder.with_suffix(".datasets")))  # fmt: skip
        data.set_transform(lambda those: {"image": [change(one) for one in those["image"]]})
    else:
        data = ImageFolder(folder, transforms.Compose(steps))
    endless = RandomSampler(data, num_samples=10**8)  # its workers are started once
    return DataLoader(data, BATCH, sampler=endless, num_workers=plain.WORKERS)


def epochs(who: str, folder: Path, cache: Path, count: int, open_only=False) -> dict:
    """Seconds of a first epoch and of later ones for ``count`` images, from files or the cache to
    augmented batches; of it those until the first batch is there; and the MB that this process,
    without workers, came to use for them."""
    before, began = timing.megabytes("VmRSS"), time.perf_counter()
    timing.forget_peak()
    if who == "ours":  # the validation and test sides are decoded too
        data = prepare(folder, class_="all", size=SIZE, cache=cache, progress=False)
        known = len(data.train)
        stream = (augment(mirror(real), 1.0) for real in batches(data.train.images, BATCH))
    else:
        known, stream = count, iter(usual(folder, who == "datasets"))
    next(stream)
    opened = time.perf_counter() - began
    if open_only:
        return {"opened": opened}
    steps, seconds = max(LEAST, known // BATCH), []
    for _ in range(1 + WINDOWS):
        began = time.perf_counter()
        for _ in range(steps):
            next(stream)
        seconds.append((time.perf_counter() - began) / (steps * BATCH) * count)
        steps = min(steps, MOST)
    return {"opened": opened, "first": opened + seconds[0], "later": seconds[1:],
            # the kernel counts both loosely: the peak can lie a page below what is used
            "megabytes": max(0.0, timing.megabytes("VmHWM") - before)}  # fmt: skip


def measure(place: Path, counts=((100, EXPORT), (2000, EXPORT), (100_000, SMALL))):
    """Rows for so many JPEGs of one size each."""
    rows, others = [], ["plain"] + ["datasets"] * bool(importlib.util.find_spec("datasets"))
    for count, size in counts:
        part = f"Input: {count:,} JPEGs of {size[0]} x {size[1]} px to augmented batches of {BATCH}"
        part = f"{part} at {SIZE} px"
        folder, cache = files(place, count, size=size), place / f"cache-{count}"
        for made in [*cache.glob("*"), *place.glob("*.datasets")]:
            shutil.rmtree(made) if made.is_dir() else made.unlink()  # a first epoch decodes
        found = {}
        for who in (*others, "ours", *(f"{one} again" for one in (*others, "ours"))):
            done = subprocess.run(
                [sys.executable, "-m", "bench.inputs", who, str(folder), str(cache), str(count)],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            found[who] = json.loads(done.stdout.splitlines()[-1])
        first, again = found["ours"], found["ours again"]
        for other in others:
            beside, once_more = found[other], found[f"{other} again"]
            name = {"plain": "ImageFolder", "datasets": "datasets"}[other]
            for what, one, mine in (
                ("until the first batch", beside["opened"], first["opened"]),
                ("first epoch", beside["first"], first["first"]),
                ("until the first batch of the next run", once_more["opened"], again["opened"]),
            ):
                rows.append(timing.row(part, f"{name}: {what}", "images/s", count, [one], [mine],
                                       note=f"{one:.1f} s, ours {mine:.1f} s; once"))  # fmt: skip
            memory = (beside["megabytes"], first["megabytes"])
            rows.append(timing.row(part, f"{name}: later epochs", "images/s", count,
                                   beside["later"], first["later"], memory=memory))  # fmt: skip
            for one in rows[-4:]:
                print(one.cells(), flush=True)
    return rows


def main(who, folder, cache, count):
    torch.manual_seed(0)
    who, *again = who.split()
    found = epochs(who, Path(folder), Path(cache), int(count), bool(again))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

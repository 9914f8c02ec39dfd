"""How fast, beside the plain recipe and beside the card's peak: python -m gpu.speed FOLDER SECONDS

Contenders take turns. "plain" is float32 in the default layout, step by step from image files
through a DataLoader (the cache, where nothing plain is published); the others are this repository's
as they train: channels last, fused Adam, the cache; "eager" without CUDA graphs.
"""

import sys
import traceback
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bench import limits, steps, timing
from bench.materials import files

from gpu.tables import DEVICE, TINY, Table, work
from helpers.data.batches import batches
from helpers.training.cuda_graph import Replayed
from helpers.training.precision import has_bf16

SIZE = 64 if TINY else 256
LAZY = 4  # steps from one penalty to the next
TURN, ROUNDS = (0.05, 1) if TINY else (0.3, 3)
GRAPHED = ("DCGAN", "dcgan", "residual", "stylegan")  # which have CUDA graphs
WARM = 40  # steps until every graph is captured


def place_of(folder) -> Path:
    """Where the image files lie, made if they do not."""
    place = work(folder) / "bench"
    for modality in ("oct", "dfe"):
        files(place, steps.IMAGES, modality)
    return place


def rate(step, count: int) -> float:
    """Images per second."""
    for _ in range(3 if TINY else WARM):
        step()
    seconds = timing.alternate({"": step}, rounds=ROUNDS, turn=TURN, multiple=LAZY)[""]
    return count / float(np.median(seconds))


def one_by_one(step):
    """The same without graphs."""
    if DEVICE.type == "cuda" and hasattr(step.method, "replayed"):
        step.method.replayed = Replayed(step.method.learn, step.method.optimizers.values())
        step.method.replayed.gave_up = True
    return step


def peak(kind, n=8192) -> float:
    """Operations per second of a large matrix product."""
    a, b = (torch.randn(n, n, device=DEVICE, dtype=kind) for _ in range(2))
    product = lambda: torch.mm(a, b)  # noqa: E731
    return 2 * n**3 / float(np.median(timing.alternate({"": product}, rounds=3, turn=0.2)[""]))


def methods(table, place: Path, kinds=("bf16", "fp16"), eager=True) -> None:
    """Every method beside its plain recipe."""
    kinds = [k for k in kinds if k != "bf16" or has_bf16(DEVICE)]
    for name, (count, make, _) in steps.cases("auto", SIZE).items():
        contenders = {"plain": lambda m=make: m(place, "plain")}
        for kind in kinds:
            ours = partial(make, place, "ours", precision=kind)
            contenders[kind] = ours
            if eager and any(n in name for n in GRAPHED):
                contenders[f"{kind}, eager"] = lambda m=ours: one_by_one(m())
        row, used = {}, {}
        for who, begin in contenders.items():
            try:
                if DEVICE.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                row[who] = rate(begin(), count)
                used[who] = torch.cuda.max_memory_allocated() / 2**20
            except Exception as error:
                traceback.print_exc()
                row[who] = str(error).splitlines()[0][:60]
        fast = [v for who, v in row.items() if isinstance(v, float) and who != "plain"]
        if isinstance(row["plain"], float) and fast:
            row["best / plain"] = max(fast) / row["plain"]
        table.add(f"{name}, images/s", **row)
        table.add(f"{name}, MiB", **used)


def by_batch(table, place: Path) -> None:
    """Images per second of the aligned GAN, and of the DCGAN, against the batch."""
    for count in (4, 8) if TINY else (16, 32, 64, 128):
        row = {}
        makers = {"aligned": steps.aligned, "DCGAN": partial(steps.adversarial, model="dcgan")}
        for name, make in makers.items():
            step = make(place, "ours", size=SIZE, batch_size=count)
            row[name] = rate(step, count)
        table.add(f"batch {count}, images/s", **row)


def share_of_peak(table, place: Path) -> None:
    n = 256 if TINY else 8192
    tops = {"bf16": peak(torch.bfloat16, n), "fp32": peak(torch.float32, n)}
    table.add("matrix product, TFLOP/s", **{k: v / 1e12 for k, v in tops.items()})
    step = one_by_one(steps.aligned(place, "ours", SIZE, batch_size=16))
    for _ in range(LAZY):
        step()
    with limits.Work() as work:
        for _ in range(LAZY):
            step()
    fast = rate(steps.aligned(place, "ours", SIZE, batch_size=16), 1)
    one = work.operations / LAZY
    shares = {f"of_{kind}_peak": one * fast / top for kind, top in tops.items()}
    table.add("aligned, a step", GFLOP=one / 1e9, operators=work.calls / LAZY, ms=1000 / fast,
              **shares)  # fmt: skip


def where_time_goes(table, place: Path) -> None:
    """The ten kernels that take the most, of the aligned GAN's steps."""
    step = one_by_one(steps.aligned(place, "ours", SIZE, batch_size=16))
    for _ in range(8):
        step()
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if DEVICE.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile:
        for _ in range(LAZY):
            step()
    own = "self_device_time_total" if DEVICE.type == "cuda" else "self_cpu_time_total"
    events = sorted(profile.key_averages(), key=lambda e: -getattr(e, own))
    total = sum(getattr(e, own) for e in events)
    for event in events[:10]:
        table.add(
            event.key[:60], share=getattr(event, own) / max(total, 1), calls=event.count / LAZY
        )


def loading(table, place: Path) -> None:
    """Batches a second without a step: is the data ever in the way?"""
    images = steps.cached(place, SIZE)
    stream = batches(images, 16, device=DEVICE)
    table.add("batches of 16, images/s", **{"images/s": rate(lambda: next(stream), 16)})


def compiled(table, place: Path) -> None:
    """torch.compile on the DCGAN (it has no second derivatives, which compile does not know)."""
    step = one_by_one(steps.dcgan(place, "ours", SIZE))
    before = rate(step, 64)
    for network in step.method.networks.values():
        network.compile()
    table.add("DCGAN paper, torch.compile, images/s", eager=before, compiled=rate(step, 64))


def main(folder: str, seconds: str) -> None:
    warnings.simplefilter("ignore")
    table, place = Table(folder, "speed"), place_of(folder)
    for part in (by_batch, methods, share_of_peak, where_time_goes, loading, compiled):
        try:
            part(table, place)
        except Exception as error:
            traceback.print_exc()
            table.add(f"{part.__name__} FAILED", why=str(error).splitlines()[0][:200])


if __name__ == "__main__":
    main(*sys.argv[1:])

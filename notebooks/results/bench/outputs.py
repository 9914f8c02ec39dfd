"""What comes out: pictures with their PNGs, the first picture, simulated eyes, an evaluation."""

import copy
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench import timing
from bench.materials import arrays
from helpers import generate
from helpers.data.marks import describe_png, write_png
from helpers.data.simulated import simulate
from helpers.gan import dcgan, residual
from helpers.measures import layers, memorisation, texture
from helpers.measures.distances import kernel_distance_interval
from helpers.measures.features import Features, packaged_network


def generators() -> dict:
    torch.manual_seed(0)
    return {
        "DCGAN `best`, 128 px": dcgan.Generator(128, 100, 16),
        "residual `best`, 128 px": residual.Generator(128, 64, 16, 1),
        "residual, 256 px (shipped)": generate.load_generator("simulated"),
    }


def drawing(generator, count, folder: Path):
    """Functions that draw and write ``count`` scans: the plain way and ours; and one that writes
    as many PNGs that are there already."""
    labels = (torch.full((64,), 2),) if getattr(generator, "classes", 0) else ()
    default = copy.deepcopy(generator).eval().to(memory_format=torch.contiguous_format)
    generator.eval().to(memory_format=torch.channels_last)

    @torch.no_grad()
    def plain():
        for start in range(0, count, 64):
            images = default(torch.randn(64, generator.z_dim), *labels)
            for k, image in enumerate(images):
                levels = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
                Image.fromarray(levels[0]).save(folder / f"{start + k}.png", compress_level=1)

    def ours():
        generate.export(generator, folder / "ours", count, class_name="DRUSEN", weights_hash="0",
                        progress=False)  # fmt: skip

    levels = arrays(16, generator.size).transpose(0, 2, 3, 1)
    text = describe_png(Class="DRUSEN", WeightsSHA256="0", Seed=0, Index=0)

    def writing():
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda k: write_png(levels[k % 16], folder / f"{k}.png", text),
                          range(count)))  # fmt: skip

    return plain, ours, writing


def first_picture() -> tuple[list, list]:
    """Seconds of fresh processes: importing torch alone, and a PNG on the disk."""
    alone, picture = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(timing.ROUNDS + 1):
            commands = (
                (alone, ["-c", "import torch"]),
                (picture, ["-m", "helpers.generate", "simulated", "--class", "DRUSEN", "--n", "1",
                           "--out", f"{folder}/{number}"]),
            )  # fmt: skip
            for seconds, command in commands:
                began = time.perf_counter()
                subprocess.run([sys.executable, *command], check=True, capture_output=True)
                if number:
                    seconds.append(time.perf_counter() - began)
    return alone, picture


def features_of(images, part) -> timing.Row:
    """The extractor as it comes, 64 images at a time, and as it is used."""
    network, features = packaged_network(), Features()

    @torch.inference_mode()
    def plain():
        pixels = features.resize(images).expand(-1, 3, -1, -1)
        network.forward_head(network.forward_features(pixels), pre_logits=True)

    return timing.compare(part, "EfficientNet-Lite0 features", "images/s", len(images), plain,
                          lambda: features(images), note="channels last, 4 at a time")  # fmt: skip


def evaluation(count: int) -> dict[str, float]:
    """Seconds of each measure of ``count`` scans of 256 px against as many others."""
    real, made = arrays(count, 256), arrays(count, 256, first=10**6)
    seconds, began = {}, time.perf_counter()

    def lap(name):
        nonlocal began
        now = time.perf_counter()
        seconds[name], began = now - began, now

    features = Features()
    found = [features(images) for images in (made, real)]
    lap("features of both")
    kernel_distance_interval(*found, None, np.arange(count) // 4)
    lap("kernel distance and its interval")
    for images in (real, made):
        layers.measure(images)
    lap("layers of both")
    for images in (real, made):
        texture.measure(images)
    lap("texture of both")
    memorisation.memorisation_report(made, real, features=[*found, None])
    lap("memorisation")
    return seconds


def measure(place: Path, evaluated=1000) -> list[timing.Row]:
    rows, part = [], "Output"
    for name, generator in generators().items():
        count = 64 * (256 // generator.size)
        what = f"drawing and writing PNGs: {name}"
        with tempfile.TemporaryDirectory() as folder:
            plain, ours, writing = drawing(generator, count, Path(folder))
            made = timing.compare(part, what, "images/s", count, plain, ours)
            spent = timing.alternate({"writing": writing}, turn=0.5)["writing"]
        made.note = f"precision, layout, threads; writing alone {count / np.median(spent):,.0f}"
        rows.append(made)
    alone, picture = (float(np.median(seconds)) for seconds in first_picture())
    rows.append(timing.Row(part, "first picture of a fresh process", "s", None, picture,
                           note=f"{alone:.2f} s are the import of torch"))  # fmt: skip
    for modality in ("oct", "dfe"):
        for size in (128, 256):
            numbers = iter(range(10**6))
            spent = timing.alternate(
                {"one": lambda n=numbers, s=size, m=modality: simulate.make_eye(
                    next(n), "DRUSEN", size=s, pictures=[m])}
            )  # fmt: skip
            rows.append(timing.Row(part, f"simulated eyes, {modality.upper()} of {size} px",
                                   "eyes/s", None, 1 / float(np.median(spent["one"]))))  # fmt: skip
    rows.append(features_of(arrays(64, 256), part))
    seconds = evaluation(evaluated)
    for name, value in seconds.items():
        rows.append(timing.Row(part, f"{evaluated:,} against {evaluated:,} scans, 256 px: {name}",
                               "s", None, value))  # fmt: skip
    for one in rows:
        print(one.cells(), flush=True)
    return rows

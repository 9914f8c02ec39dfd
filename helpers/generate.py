"""A labelled synthetic data set from a trained run.

python -m helpers.generate RUN --n 1000 --out DIR --seed 0
python -m helpers.generate RUN --n 1000 --out DIR --size 512 --shape same
python -m helpers.generate RUN --from-dfe PHOTOGRAPHS --out DIR
"""

import argparse
import csv
import io
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from tqdm.auto import tqdm

from helpers import __version__
from helpers.checkpoint import read_generator
from helpers.checkpoint import weights_hash as hash_of
from helpers.precision import has_bf16, in_bf16
from helpers.shape import Shapes, look, place_back

# what "network" in a generator file's metadata stands for: module and class
NETWORKS = {
    "dcgan": ("helpers.networks.dcgan", "Generator"),
    "residual": ("helpers.networks.residual_gan", "Generator"),
    "stylegan": ("helpers.networks.stylegan", "Generator"),
    "translator": ("helpers.networks.translators", "Translator"),
}
SHAPE_CHOICES = ("drawn", "same", "aligned")
SHIPPED = Path(__file__).with_name("weights")  # NAME.safetensors, asked for by NAME


def generator_file(run):
    """The generator.safetensors of a run's folder, `run` itself if it is a file, or the one of that
    name that comes with helpers.

    Raises FileNotFoundError that lists what is there instead.
    """
    run = Path(run)
    path = run / "generator.safetensors" if run.is_dir() else run
    if path.is_file():
        return path
    if not run.exists():
        shipped = {file.stem: file for file in sorted(SHIPPED.glob("*.safetensors"))}
        if str(run) in shipped:
            return shipped[str(run)]
        known = f"; with helpers come: {', '.join(shipped)}" if shipped else ""
        raise FileNotFoundError(f"{run}: no such run or file{known}")
    there = ", ".join(sorted(p.name for p in run.iterdir())[:10]) or "nothing"
    raise FileNotFoundError(
        f"{run}: no generator.safetensors in it (there is: {there}). Training writes it at its "
        "first validation; train longer or name another run."
    )


def load_generator(path, device="cpu"):
    """The trained generator of a run's folder or of a generator.safetensors, ready to sample.

    Returns a module in evaluation mode whose forward takes z (B, z_dim), N(0, 1), and returns
    images (B, C, S, S) in [-1, 1]; one that was trained on several classes also takes labels (B,),
    whole numbers, places in `.metadata["classes"]`. `.metadata` is what training wrote beside the
    weights (class, step, seed, ...), `.weights_hash` the file's SHA-256. Raises FileNotFoundError
    or ValueError naming the file if there is none, it is damaged, or its network is unknown.
    """
    path = generator_file(path)
    weights, metadata = read_generator(path)
    name = metadata.get("network")
    if name not in NETWORKS:
        raise ValueError(f"{path}: network {name!r} is unknown; known: {', '.join(NETWORKS)}")
    module, cls = NETWORKS[name]
    generator = getattr(import_module(module), cls)(**metadata["arguments"])
    generator.shapes = None
    if "shapes" in weights:
        of = [metadata.get("classes", [None])[k] for k in weights.pop("shape_labels").tolist()]
        generator.shapes = Shapes(weights.pop("shapes").numpy(), of)
    generator.load_state_dict(weights)
    generator.to(memory_format=torch.channels_last)
    generator.metadata, generator.weights_hash = metadata, hash_of(path)
    return generator.to(device).eval().requires_grad_(False)


def draw_noise(n, z_dim, seed, batch=64):
    """Noise (up to `batch`, z_dim), N(0, 1), on the CPU, n rows in all, batch by batch.

    Row i depends on the seed and i alone, not on n or the batch.
    """
    if n < 1:
        raise ValueError(f"n={n}: ask for at least one image")
    source = torch.Generator().manual_seed(seed)
    return (
        torch.stack([torch.randn(z_dim, generator=source) for _ in range(min(batch, n - start))])
        for start in range(0, n, batch)
    )


def classes_of(generator):
    """The classes that a generator can be asked for; of one class only, that one."""
    about = getattr(generator, "metadata", {})
    return about.get("classes", [about.get("class", "synthetic")])


def whole_size(generator, size=0) -> int:
    """px of the scans that leave a generator: its own, or of one of aligned crops ``size``, by
    default at least 256. ValueError for a size asked of one that draws whole scans."""
    if getattr(generator, "shapes", None) is None:
        if size and size != generator.size:
            raise ValueError(
                f"size={size}: this generator draws whole scans of {generator.size} px"
            )
        return generator.size
    return size or max(256, generator.size)


def sample_batches(generator, n, seed=0, batch=64, class_name=None, exact=True, *, size=0,
                   shape="drawn"):  # fmt: skip
    """Images (up to `batch`, C, S, S), float in [-1, 1] on the CPU, batch by batch, n in all.

    exact=False is faster, and rounds by less than a grey level on average, where the machine has
    bf16 in hardware.
    class_name: for a generator of several classes, one of them; without it, the one it was judged
    by in training. ValueError naming its classes if it knows no such class.
    Of a generator of aligned crops: size, px of the whole scans; shape, where each has its retina
    and how its device draws: "drawn" a new one each, "same" one for all, so that tissue compares,
    "aligned" none, the crops themselves, (B, 1, rows, columns).
    """
    label, shapes = None, getattr(generator, "shapes", None)
    if getattr(generator, "classes", 0):
        known = classes_of(generator)
        class_name = class_name or getattr(generator, "metadata", {}).get("class", known[0])
        if class_name not in known:
            raise ValueError(f"class {class_name}: this generator draws {', '.join(known)}")
        label = known.index(class_name)
    if shape not in SHAPE_CHOICES:
        raise ValueError(f"shape={shape!r}: choose one of {', '.join(SHAPE_CHOICES)}")
    size = whole_size(generator, size)
    parts = draw_noise(n, generator.z_dim, seed, batch)
    if shapes is None:
        if shape != "drawn":
            raise ValueError(f"shape={shape}: this generator draws whole scans, whose shape is its "
                             "own")  # fmt: skip
        return (_render(generator, noise, label, None, exact) for noise in parts)
    drawn = shapes.draw(n, None if label is None else class_name, seed=seed)
    if shape == "same":
        drawn = np.repeat(shapes.mean(None if label is None else class_name)[None], n, 0)
    return _placed(generator, parts, label, drawn, exact, size, seed, shape == "aligned")


def _placed(generator, parts, label, drawn, exact, size, seed, aligned):
    start = 0
    for noise in parts:
        own = drawn[start : start + len(noise)]
        crops = _render(generator, noise, label, own, exact)
        if aligned:
            yield crops
        else:
            levels = place_back(crops.numpy(), own, size, seed, first=start)
            yield torch.from_numpy(levels)[:, None].float() / 127.5 - 1
        start += len(noise)


@torch.inference_mode()
def _render(generator, noise, label, shapes, exact):
    noise = noise.to(next(generator.parameters()).device)
    told = () if label is None else (noise.new_full((len(noise),), label).long(),)
    if getattr(generator, "looks", 0):
        told = (told or (None,)) + (torch.from_numpy(look(shapes)).to(noise.device),)
    with in_bf16(noise.device, not exact):
        return generator(noise, *told).float().clamp(-1, 1).cpu()


def sample(generator, n, seed=0, batch=64, class_name=None, **how):
    """Images (n, C, S, S), float in [-1, 1] on the CPU; `class_name` and `how` as in
    sample_batches.

    The noise is fixed by the seed whatever the batch; pixels differ by rounding at most, since
    convolutions of another batch size may add up in another order.
    """
    return torch.cat(list(sample_batches(generator, n, seed, batch, class_name, **how)))


def export(
    generator, folder, n, seed=0, class_name=None, weights_hash=None, *, exact=False, progress=True,
    size=0, shape="drawn",
):  # fmt: skip
    """Write n labelled PNGs, folder/CLASS/000000.png and on, and folder/images.csv.

    The PNGs are 8-bit grey (colour for three channels); each carries text chunks that say it is
    synthetic, with which weights and which seed it was made. images.csv has file, class, seed,
    index, weights_sha256, size. A generator of several classes writes n of each, from the same
    noise, unless class_name chooses one; one of a single class is labelled class_name. class_name
    and weights_hash default to what load_generator found; size and shape as in sample_batches.
    Unless `exact`, it may be drawn in bf16 (sample_batches); the text chunk Precision says so.
    Returns the paths. A folder that holds the set of these weights, seed and number is written
    again; one that holds anything else raises FileExistsError.
    """
    folder = Path(folder)
    classes = [class_name] if class_name else classes_of(generator)
    weights_hash = weights_hash or generator.weights_hash
    how = dict(exact=exact, size=whole_size(generator, size), shape=shape)
    side = generator.size if shape == "aligned" else how["size"]
    rows = [(f"{c}/{i:06d}.png", c, seed, i, weights_hash, side)
            for c in classes for i in range(n)]  # fmt: skip
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["file", "class", "seed", "index", "weights_sha256", "size"])
    writer.writerows(rows)
    # the list gets its final name when every image is there
    listing, unfinished = folder / "images.csv", folder / "images.csv.part"
    same = any(p.is_file() and p.read_text() == table.getvalue() for p in (listing, unfinished))
    if folder.is_dir() and any(folder.iterdir()) and not same:
        raise FileExistsError(
            f"{folder}: not empty, and it does not hold this very set (same weights, class, seed "
            "and number). Choose another folder or empty it."
        )
    drawn = {c: sample_batches(generator, n, seed, class_name=c, **how) for c in classes}
    for c in classes:
        (folder / c).mkdir(parents=True, exist_ok=True)
    unfinished.write_text(table.getvalue())

    paths = [folder / row[0] for row in rows]
    device = next(generator.parameters()).device
    drawn_in = "bf16" if has_bf16(device) and not exact else "fp32"
    about = {"Precision": drawn_in}
    if getattr(generator, "shapes", None) is not None:
        about["Shape"] = shape
    texts = [describe_png(Class=c, WeightsSHA256=weights_hash, Seed=seed, Index=i, **about)
             for _, c, _, i, *_ in rows]  # fmt: skip
    todo = zip(paths, texts)
    with ThreadPoolExecutor() as pool, tqdm(total=len(rows), unit="image",
                                            disable=not progress) as bar:  # fmt: skip
        writing = ()
        for images in (batch for batches in drawn.values() for batch in batches):
            bar.update(len(list(writing)))  # the batch before was written while this one was drawn
            levels = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
            places, texts = zip(*(next(todo) for _ in levels))
            writing = pool.map(write_png, levels, places, texts)
        bar.update(len(list(writing)))
    unfinished.replace(listing)
    return paths


def describe_png(likeness=None, **about):
    """Text chunks that say of a PNG that it is synthetic, whose `likeness` it is if it is that of a
    patient, and what else is given."""
    text = PngInfo()
    text.add_text("Synthetic", f"true: made by a neural network; {likeness or 'shows no patient'}")
    text.add_text("Software", f"synthetic-retinal-oct {__version__}")
    for name, value in about.items():
        text.add_text(name, str(value))
    return text


def write_png(levels, path, text):
    """uint8 (H, W, 1) or (H, W, 3) and its text chunks to a file."""
    picture = Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
    picture.save(path, pnginfo=text, compress_level=1)


def is_synthetic(path):
    """Whether an image file says of itself that it is synthetic. ValueError if it is no image."""
    try:
        with Image.open(path) as picture:
            return str(picture.info.get("Synthetic", "")).startswith("true")
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not an image") from error


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m helpers.generate", description=__doc__)
    parser.add_argument("run", help="a run's folder, or a generator.safetensors")
    parser.add_argument("--n", type=int, default=1000, help="images of each class (1000)")
    parser.add_argument("--class", dest="class_", help="of a generator of several, this one only")
    parser.add_argument("--out", required=True, help="a new folder for the images")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other images (0)")
    parser.add_argument("--size", type=int, default=0, help="px of whole scans put together from "
                        "aligned crops (256, or as wide as the crop)")  # fmt: skip
    parser.add_argument("--shape", default="drawn", choices=SHAPE_CHOICES,
                        help="a new one each, one for all, or the aligned crops")  # fmt: skip
    parser.add_argument("--exact", action="store_true", help="in float32 also where bf16 is faster")
    parser.add_argument("--from-dfe", help="photographs to translate: a folder or a manifest.csv")
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if options.from_dfe and options.exact:
            raise ValueError("--exact: photographs are translated in float32 anyway; leave it out.")
        if options.from_dfe:
            from helpers.translate import translate_folder  # it imports from here

            paths = translate_folder(options.run, options.from_dfe, options.out, device=device)
        else:
            generator = load_generator(options.run, device)
            if not hasattr(generator, "z_dim"):
                raise ValueError(f"{options.run}: translates photographs; give --from-dfe DIR.")
            paths = export(generator, options.out, options.n, options.seed, options.class_,
                           exact=options.exact, size=options.size, shape=options.shape)  # fmt: skip
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(f"{len(paths)} images and images.csv in {options.out}")


if __name__ == "__main__":
    main()

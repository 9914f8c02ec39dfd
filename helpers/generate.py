"""A labelled synthetic data set from a trained run.

python -m helpers.generate RUN --n 1000 --out DIR --seed 0
python -m helpers.generate RUN --n 1000 --out DIR --size 512 --shape same
python -m helpers.generate RUN --n 200 --out DIR --class DRUSEN --dial drusen=6 --dial highest=3
python -m helpers.generate RUN --ask visits.csv --out DIR
python -m helpers.generate RUN --n 200 --out DIR --like MY_SCANS
python -m helpers.generate FLOW_RUN --n 200 --out DIR --guidance 1.5 --steps 8
python -m helpers.generate RUN --from-dfe PHOTOGRAPHS --out DIR
python -m helpers.generate RUN --from-dfe PHOTOGRAPHS --out DIR --whole simulated
python -m helpers.generate RUN --page explorer.html
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from helpers.data.manifest import as_csv, rows_of
from helpers.data.marks import describe_png, write_png
from helpers.data.pixels import to_float, to_levels
from helpers.data.scan import folder_name
from helpers.data.shape import DIALLED, DIALS, Shapes
from helpers.gan import dcgan, flow, residual, stylegan
from helpers.gan.explorer_html import RUNTIME, write_html
from helpers.gan.like import POOL, drusen_of, most_like
from helpers.gan.sampling import (
    SHAPE_CHOICES,
    classes_of,
    has_dials,
    sample_asked,
    sample_batches,
    whole_size,
)
from helpers.gan.start import generator_file
from helpers.training.network_file import file_hash, read_network
from helpers.training.precision import has_bf16
from helpers.translation.folder import translate_folder
from helpers.translation.networks import Translator

# what "network" in a generator file's metadata stands for
NETWORKS = {
    "dcgan": dcgan.Generator,
    "flow": flow.Generator,
    "residual": residual.Generator,
    "stylegan": stylegan.Generator,
    "translator": Translator,
}


def load_generator(path, device="cpu"):
    """The trained generator of a run's folder or of a generator.safetensors, ready to sample.

    Returns a module in evaluation mode whose forward takes z (B, z_dim), N(0, 1), and returns
    images (B, C, S, S) in [-1, 1]; one that was trained on several classes also takes labels (B,),
    whole numbers, places in `.metadata["classes"]`. `.metadata` is what training wrote beside the
    weights (class, step, seed, ...), `.weights_hash` the file's SHA-256. Raises FileNotFoundError
    or ValueError naming the file if there is none, it is damaged, or its network is unknown.
    """
    path = generator_file(path)
    weights, metadata = read_network(path)
    name = metadata.get("network")
    if name not in NETWORKS:
        raise ValueError(f"{path}: network {name!r} is unknown; known: {', '.join(NETWORKS)}")
    arguments = {k: v for k, v in metadata["arguments"].items() if k != "upsample"}  # of old files
    generator = NETWORKS[name](**arguments)
    generator.shapes = None
    if "shapes" in weights:
        of = [metadata.get("classes", [None])[k] for k in weights.pop("shape_labels").tolist()]
        generator.shapes = Shapes(weights.pop("shapes").numpy(), of)
    generator.load_state_dict(weights)
    generator.to(memory_format=torch.channels_last)
    generator.metadata, generator.weights_hash = metadata, file_hash(path)
    return generator.to(device).eval().requires_grad_(False)


def export(
    generator, folder, n, seed=0, class_name=None, weights_hash=None, *, exact=False, progress=True,
    size=0, shape="drawn", dials=None, asked=None, like=None, tries=1,
):  # fmt: skip
    """Write n labelled PNGs, folder/CLASS/000000.png and on, and folder/images.csv.

    The PNGs are 8-bit grey (colour for three channels); each carries text chunks that say it is
    synthetic, with which weights and which seed it was made. images.csv has file, class, seed,
    index, weights_sha256, size; shape, unless it is drawn; tries, unless one; of a flow guidance
    and steps. A generator of several classes writes n of each, from the same noise, unless
    class_name chooses one; one of a single class is labelled class_name. class_name and
    weights_hash default to what load_generator found; size, shape, dials and tries as in
    sample_batches. Of a generator with dials images.csv has what each scan was asked for besides.
    asked: {class: [(eye, dials), ...]}, see sample_asked, in place of n, class_name and dials, of
    ``read_asked``; images.csv then says which eye it is.
    like: {class: DIALS (N, 3) of patients}, of ``like.drusen_of``: of POOL times n scans those are
    written that are most like these; index is the place among all, and images.csv has what the
    ruler reads off each. ValueError for crops, which it cannot read.
    Unless `exact`, it may be drawn in bf16 (sample_batches); the text chunk Precision says so.
    Returns the paths. A folder that holds the set of these weights, seed and number is written
    again; one that holds anything else raises FileExistsError.
    """
    folder = Path(folder)
    classes = list(asked or ([class_name] if class_name else classes_of(generator)))
    weights_hash = weights_hash or generator.weights_hash
    how = dict(exact=exact, size=whole_size(generator, size), tries=tries)
    side = generator.size if shape == "aligned" else how["size"]
    head = ["file", "class", "seed", "index", "weights_sha256", "size"]
    kept = {c: range(len(asked[c]) if asked else n) for c in classes}
    if like:
        if shape == "aligned":
            raise ValueError("like: the ruler reads whole scans; leave out shape aligned.")
        chosen = [most_like(sample_batches(generator, POOL * n, seed, class_name=c, shape=shape,
                                           dials=dials, **how), like[c], n, seed)
                  for c in classes]  # fmt: skip
        kept = {c: places.tolist() for c, (places, *_) in zip(classes, chosen)}
    more = {} if shape == "drawn" else {"shape": shape}
    more |= {} if tries == 1 else {"tries": tries}
    if hasattr(generator, "guidance"):
        more |= {"guidance": f"{generator.guidance:g}", "steps": generator.steps}
    head += more
    rows = [(f"{folder_name(c)}/{i:06d}.png", c, seed, i, weights_hash, side, *more.values())
            for c in classes for i in kept[c]]  # fmt: skip
    if like:
        drawn = [[to_float(levels)] for _, levels, _ in chosen]
        head += [f"{name} read" for name in DIALS]
        read = np.concatenate([numbers for *_, numbers in chosen])
        rows = [(*row, *(f"{value:.3g}" for value in those)) for row, those in zip(rows, read)]
    elif asked:
        eyes = [eye for c in classes for eye, _ in asked[c]]
        number = {eye: k for k, eye in enumerate(dict.fromkeys(eyes))}
        both = [sample_asked(generator, c, [(number[eye], dials) for eye, dials in asked[c]], seed,
                             **how) for c in classes]  # fmt: skip
        shapes, drawn = zip(*both)
        head.append("eye")
        rows = [(*row, eye) for row, eye in zip(rows, eyes)]
    else:
        drawn = [sample_batches(generator, n, seed, class_name=c, shape=shape, dials=dials, **how)
                 for c in classes]  # fmt: skip
    if has_dials(generator):
        if not asked:
            shapes = [generator.shapes.draw(len(kept[c]) * (POOL if like else 1),
                                            c if generator.classes else None, seed, dials)
                      [list(kept[c])] for c in classes]  # fmt: skip
        head += DIALS
        told = np.concatenate(shapes)[:, DIALLED]
        rows = [(*row, *(f"{value:.3g}" for value in those)) for row, those in zip(rows, told)]
    table = as_csv([head, *rows])
    # the list gets its final name when every image is there
    listing, unfinished = folder / "images.csv", folder / "images.csv.part"
    same = any(p.is_file() and p.read_text() == table for p in (listing, unfinished))
    if folder.is_dir() and any(folder.iterdir()) and not same:
        raise FileExistsError(
            f"{folder}: not empty, and it does not hold this very set (same weights, class, seed "
            "and number). Choose another folder or empty it."
        )
    for c in classes:
        (folder / folder_name(c)).mkdir(parents=True, exist_ok=True)
    unfinished.write_text(table)

    paths = [folder / row[0] for row in rows]
    device = next(generator.parameters()).device
    drawn_in = "bf16" if has_bf16(device) and not exact else "fp32"
    about = {"Precision": drawn_in}
    if getattr(generator, "shapes", None) is not None:
        about["Shape"] = shape
    if tries > 1:
        about["Tries"] = tries
    if hasattr(generator, "guidance"):
        about |= {"Guidance": f"{generator.guidance:g}", "Steps": generator.steps}
    texts = [describe_png(Class=c, WeightsSHA256=weights_hash, Seed=seed, Index=i, **about)
             for _, c, _, i, *_ in rows]  # fmt: skip
    todo = zip(paths, texts)
    with ThreadPoolExecutor() as pool, tqdm(total=len(rows), unit="image",
                                            disable=not progress) as bar:  # fmt: skip
        writing = ()
        for images in (batch for batches in drawn for batch in batches):
            bar.update(len(list(writing)))  # the batch before was written while this one was drawn
            levels = to_levels(images.permute(0, 2, 3, 1))
            places, texts = zip(*(next(todo) for _ in levels))
            writing = pool.map(write_png, levels, places, texts)
        bar.update(len(list(writing)))
    unfinished.replace(listing)
    return paths


def read_asked(path) -> dict[str, list[tuple[str, dict[str, float]]]]:
    """A table of scans to draw, a .csv with the column ``class`` and, as wanted, ``eye`` (any name:
    rows of one eye and class are its visits; without it each row is another eye) and the names of
    DIALS, of which empty ones are left open: {class: [(eye, {dial: value})]}, in the table's order.
    Separators and encodings as ``manifest.rows_of`` reads them.
    Raises ValueError naming the file and the line, FileNotFoundError if there is none."""
    asked, names = {}, ("class", "eye", *DIALS)
    header, rows = rows_of(Path(path))
    head = [name.lower() for name in header]
    if "class" not in head or set(head) - set(names) or len(set(head)) < len(head):
        raise ValueError(f"{path}: needs the column class and knows {', '.join(names[1:])}, each "
                         f"once; it has {', '.join(head)}")  # fmt: skip
    for number, (line, values) in enumerate(rows):
        row = dict(zip(head, values))
        try:
            dials = {name: float(row[name].replace(",", ".")) for name in DIALS if row.get(name)}
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
        eye = row.get("eye") or f"of row {number + 1}"
        asked.setdefault(row["class"], []).append((eye, dials))
    if not asked:
        raise ValueError(f"{path}: no row asks for a scan")
    return asked


def set_flow(generator, guidance=None, steps=None) -> None:
    """How a flow is drawn from now on; None: as it is. ValueError for another generator, and for a
    guidance of one class or of a share, and fewer steps than one."""
    if guidance is None and steps is None:
        return
    if not hasattr(generator, "guidance"):
        raise ValueError("guidance and steps: only a flow takes them (OCT_MODEL=flow).")
    if guidance is not None:
        if not 1 <= guidance < np.inf or (guidance != 1 and not generator.classes):
            raise ValueError(
                f"guidance={guidance:g}: choose 1 (off) or more, of a flow of classes."
            )
        generator.guidance = guidance
    if steps is not None:
        if steps < 1:
            raise ValueError(f"steps={steps}: choose at least 1.")
        generator.steps = steps


def _dial(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise ValueError(f"--dial {text}: give NAME=NUMBER, of {', '.join(DIALS)}") from None


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m helpers.generate", description=__doc__)
    parser.add_argument("run", help="a run's folder, or a generator.safetensors")
    parser.add_argument("--n", type=int, default=1000, help="images of each class (1000)")
    parser.add_argument("--class", dest="class_", help="of a generator of several, this one only")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", help="a new folder for the images")
    where.add_argument("--page", metavar="FILE.html", help="the generator itself as one page: "
                       "sliders and a labelled set, in any browser, offline")  # fmt: skip
    parser.add_argument("--runtime", default=RUNTIME, help="of --page: the folder of the npm "
                        f"package onnxruntime-web ({RUNTIME})")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="another seed, other images (0)")
    parser.add_argument("--size", type=int, default=0, help="px of whole scans put together from "
                        "aligned crops (256, or as wide as the crop)")  # fmt: skip
    parser.add_argument("--shape", default="drawn", choices=SHAPE_CHOICES,
                        help="a new one each, one for all, or the aligned crops")  # fmt: skip
    parser.add_argument("--dial", action="append", default=[], metavar="NAME=VALUE",
                        help="drusen=N a scan, highest=%% of the scan's height, area=%% of the "
                        "scan, each within what the class has")  # fmt: skip
    parser.add_argument("--ask", metavar="FILE.csv", help="in place of --n, a row for each scan: "
                        "class, eye (its rows of one class are visits), drusen, highest, "
                        "area")  # fmt: skip
    parser.add_argument("--tries", type=int, default=1, metavar="N", help="draw each scan N times, "
                        "keep the one whose drusen the ruler reads most as asked for (1)"
                        )  # fmt: skip
    parser.add_argument("--like", metavar="DATA", help="a folder, manifest.csv or simulated: of "
                        f"{POOL} times as many scans those whose drusen are as its patients'"
                        )  # fmt: skip
    parser.add_argument("--guidance", type=float, help="of a flow: 1 is off, more is more typical "
                        "of the class and less varied (1)")  # fmt: skip
    parser.add_argument("--steps", type=int, help="of a flow: more is slower (as it was trained)")
    parser.add_argument("--exact", action="store_true", help="in float32 also where bf16 is faster")
    parser.add_argument("--from-dfe", help="photographs to translate: a folder or a manifest.csv")
    parser.add_argument("--whole", metavar="RUN", help="of --from-dfe: whole scans of --size px, "
                        "in shapes like those that this aligned generator knows")  # fmt: skip
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if options.from_dfe and options.exact:
            raise ValueError("--exact: photographs are translated in float32 anyway; leave it out.")
        dials = dict(map(_dial, options.dial))
        if options.ask and (dials or options.class_ or options.shape != "drawn"):
            raise ValueError("--ask: the table says class and dials, and every eye has its shape; "
                             "leave out --class, --dial and --shape.")  # fmt: skip
        if options.like and (options.ask or options.page or options.from_dfe):
            raise ValueError("--like: chooses among scans that are drawn freely; leave out --ask, "
                             "--page and --from-dfe.")  # fmt: skip
        if options.tries != 1 and (options.like or options.page or options.from_dfe):
            raise ValueError("--tries: of scans that are asked for by their dials; leave out "
                             "--like, --page and --from-dfe.")  # fmt: skip
        freely = options.ask or options.class_ or dials or options.shape != "drawn"
        if options.from_dfe and (freely or (options.size and not options.whole)):
            raise ValueError("--from-dfe: one scan for each photograph, of its class; leave out "
                             "--ask, --class, --dial, --shape and, without --whole, --size."
                             )  # fmt: skip
        if options.whole and not options.from_dfe:
            raise ValueError("--whole: puts translated photographs into whole scans; give "
                             "--from-dfe DIR.")  # fmt: skip
        generator = load_generator(options.run, device)
        set_flow(generator, options.guidance, options.steps)
        if options.page:
            if options.from_dfe or freely:
                raise ValueError("--page: every class and dial is chosen in it; leave out "
                                 "--from-dfe, --ask, --class, --dial and --shape.")  # fmt: skip
            if Path(options.page).suffix not in (".html", ".htm"):  # what is there is written over
                raise ValueError(f"--page {options.page}: name a FILE.html.")
            page = write_html(generator, options.page, options.runtime, size=options.size)
            return print(f"{page} ({page.stat().st_size / 1e6:.1f} MB) opens in any browser")
        if options.from_dfe:
            shapes = options.whole and load_generator(options.whole).shapes
            if options.whole and shapes is None:
                raise ValueError(f"{options.whole}: knows no shapes; name a run of "
                                 "OCT_FRAMING=aligned, or simulated.")  # fmt: skip
            paths = translate_folder(generator, options.from_dfe, options.out, name=options.run,
                                     shapes=shapes or None, size=options.size,
                                     seed=options.seed)  # fmt: skip
        else:
            if not hasattr(generator, "z_dim"):
                raise ValueError(f"{options.run}: translates photographs; give --from-dfe DIR.")
            known, asked = classes_of(generator), options.ask and read_asked(options.ask)
            own = [options.class_] if options.class_ else known
            if wrong := [name for name in asked or own if name not in known]:
                raise ValueError(f"class {wrong[0]}: this generator draws {', '.join(known)}")
            paths = export(generator, options.out, options.n, options.seed, options.class_,
                           exact=options.exact, size=options.size, shape=options.shape,
                           dials=dials, asked=asked, tries=options.tries,
                           like=options.like and drusen_of(options.like, own))  # fmt: skip
    except (ImportError, OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(f"{len(paths)} images and images.csv in {options.out}")


if __name__ == "__main__":
    main()

"""A folder of photographs (DFE) through a trained translator, into a labelled synthetic OCT set."""

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from helpers.data.manifest import as_csv
from helpers.data.marks import describe_png, write_png
from helpers.data.photograph import clean_dfe, crop_field_of_view
from helpers.data.pixels import read_image, to_float, to_levels
from helpers.data.scan import folder_name
from helpers.data.shape import crops_of_bands, place_back
from helpers.data.sources import load_manifest
from helpers.data.two_modalities import side_of_body
from helpers.translation.judge import translate

COLOURLESS = 3  # mean difference of the channels, in grey levels, up to which a picture is grey


def read_photograph(path, size: int, framing: str, oriented=False) -> tuple[np.ndarray, str]:
    """uint8 (3, size, size) of one file and a note ("" if there is none).

    ``oriented``: for a translator that knows right eyes only; a left one is mirrored. Raises
    ValueError naming the file for a grey picture, for one in which no whole circular field of view
    is seen (where the macula is, and how large, cannot be told there), and, oriented, for one
    whose name does not say which eye it shows.
    """
    if oriented and side_of_body(path) is None:
        raise ValueError(f"{path}: its name does not say which eye it shows (OD, OS, left, right)")
    image = read_image(path)
    if image.ndim == 2 or np.abs(image - image.mean(2, keepdims=True)).mean() < COLOURLESS:
        raise ValueError(f"{path}: is grey, and translators learned from colour photographs")
    if not crop_field_of_view(image)[1]:
        raise ValueError(f"{path}: no whole field of view is found in it")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cropped, _ = clean_dfe(image, size=size, framing=framing)
    if oriented and side_of_body(path) == "left":
        cropped = cropped[:, ::-1]
    return cropped.transpose(2, 0, 1), " ".join(str(w.message) for w in caught)


def translate_folder(
    generator, source, folder, *, name="it", shapes=None, size=0, seed=0, progress=True
) -> list[Path]:
    """One PNG for every photograph of ``source`` (a folder or a manifest.csv), and images.csv.

    ``generator``: of ``generate.load_generator``; errors call it ``name``.

    With ``shapes``, a ``shape.Shapes``, what is drawn, a level band, becomes a whole scan of
    ``size`` px (0: 256, or as wide as the band), each with a new shape of its class, or of all
    where that has none, by ``seed``.

    folder/CLASS/NAME.png is the scan of NAME, CLASS as ``sources.load_manifest`` finds it.
    images.csv has file, photograph, class, weights_sha256, size, note. What cannot be read is left
    out, with a warning that names it. Raises ValueError if the run draws from noise, if nothing can
    be read, or for shapes of what is no band, FileExistsError if ``folder`` is not empty.
    """
    about = generator.metadata
    if about["network"] != "translator" or "oct" not in generator.generators:
        raise ValueError(f"{name}: does not translate photographs into OCT; leave out --from-dfe.")
    if shapes is not None and about.get("framing", "band") != "band":
        raise ValueError(f"{name}: draws scans in the framing {about['framing']}, and only a band "
                         "is put back into a whole scan (OCT_FRAMING=band).")  # fmt: skip
    size = (size or max(256, generator.size)) if shapes is not None else generator.size
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder}: not empty. Choose another folder or empty it.")
    how = (generator.size, about["dfe_framing"], about.get("oriented", False))
    read, left_out = [], []
    for scan in tqdm(load_manifest(source, modality="dfe"), "reading", disable=not progress):
        try:
            read.append((scan, *read_photograph(scan.path, *how)))
        except (ValueError, FileNotFoundError) as error:
            left_out.append(str(error))
    if left_out:
        more = ", ..." if len(left_out) > 5 else ""
        warnings.warn(f"{len(left_out)} left out: {'; '.join(left_out[:5])}{more}", stacklevel=2)
    if not read:
        raise ValueError(f"{source}: none of its photographs can be translated.")
    if shapes is not None:
        labels = [scan.label for scan, *_ in read]
        own = {c: iter(shapes.draw(n, c, seed)) for c, n in Counter(labels).items()}
        drawn_shapes = np.stack([next(own[label]) for label in labels])
    rows, taken = [], set()
    for start in range(0, len(read), 16):
        part = read[start : start + 16]
        pictures = to_float(np.stack([p for _, p, _ in part]))
        drawn = translate(generator, pictures)
        levels = to_levels(drawn.permute(0, 2, 3, 1))
        mirrored = [how[-1] and side_of_body(scan.path) == "left" for scan, *_ in part]
        levels = [p[:, ::-1] if left else p for p, left in zip(levels, mirrored)]  # as it came
        if shapes is not None:
            crops = crops_of_bands(np.stack(levels)[..., 0])
            levels = place_back(crops, drawn_shapes[start : start + 16], size, seed, start)
        for (scan, _, note), picture in zip(part, levels):
            name = stem = Path(scan.path).stem
            number = len(rows)
            while (scan.label, name) in taken:  # a photograph may be called like that too
                name, number = f"{stem}_{number}", number + 1
            taken.add((scan.label, name))
            file = Path(folder_name(scan.label)) / f"{name}.png"
            (folder / file.parent).mkdir(parents=True, exist_ok=True)
            about = {"Class": scan.label, "WeightsSHA256": generator.weights_hash,
                     "Photograph": Path(scan.path).name}  # fmt: skip
            if shapes is not None:
                about["Shape"] = "drawn"
            write_png(picture, folder / file, describe_png(**about))
            rows.append([str(file), scan.path, scan.label, generator.weights_hash, size,
                         note])  # fmt: skip
    head = ["file", "photograph", "class", "weights_sha256", "size", "note"]
    (folder / "images.csv").write_text(as_csv([head, *rows]))
    unsure = [row[1] for row in rows if row[-1]]
    if unsure:
        names = ", ".join(Path(path).name for path in unsure[:5])
        warnings.warn(f"{len(unsure)} with an unsure fovea (note in images.csv): {names}",
                      stacklevel=2)  # fmt: skip
    return [folder / row[0] for row in rows]

"""The uint8 cache: every scan decoded and cleaned once, whole on disk or not at all."""

import errno
import hashlib
import json
import os
import warnings
from functools import partial
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from helpers.data import bscan, pixels, shape
from helpers.data.padding import without_padding
from helpers.data.photograph import clean_dfe
from helpers.data.pixels import read_image, to_grey
from helpers.data.scan import Scan
from helpers.data.simulated import simulate
from helpers.data.sources import packed_image

MANY = 1000  # scans from which on processes are worth their start, where there are cores for them


def read_scan(scan: Scan, size: int, framing: str):
    """One scan decoded and cleaned: uint8 (C, size, size); of the framing "aligned" a pair, its
    crop (1, rows, size) and its shape."""
    centre = None
    if scan.dataset == "simulated":
        size_made = max(size, 64)
        if scan.modality == "dfe" and framing in ("macula", "strip"):
            size_made = min(max(2 * size_made, 256), 512)  # half of the field is cropped away
        if scan.modality == "oct" and framing != "stretch":
            size_made = max(size_made, 256)  # what is moved by whole pixels needs small ones
        eye = simulated_eye(scan, size_made, [scan.modality])
        image = eye.oct if scan.modality == "oct" else eye.dfe
        centre = eye.truth.dfe_pixel(eye.truth.x_um.mean(), 0.0)[::-1]  # of the scan's line
    elif scan.dataset == "npz":
        image = packed_image(scan.path)
    else:
        image = read_image(scan.path)
    if scan.modality == "oct" and framing == "aligned":
        grey = without_padding(to_grey(image))
        crop, values = shape.align(grey, shape.crop_rows(size), size)
        return crop[None], values
    if scan.modality == "oct":
        return bscan.clean_oct(image, size=size, framing=framing)[None]
    framing = "full" if framing == "stretch" else framing
    return clean_dfe(image, size=size, framing=framing, centre=centre)[0].transpose(2, 0, 1)


def _attempt(scan: Scan, **how):
    """What ``read_scan`` returns, or, of a file that cannot be read, why."""
    try:
        return read_scan(scan, **how)
    except (ValueError, FileNotFoundError) as error:
        return str(error).removeprefix(f"{scan.path}: ")


def simulated_eye(scan: Scan, size: int, pictures=("oct", "dfe")) -> simulate.Eye:
    """The eye that a virtual scan stands for: its ``pictures`` and their truth."""
    _, label, name = scan.path.split("/")
    patient, eye = name.split("_")
    return simulate.make_eye(int(patient[1:]), label, eye=eye, size=size, pictures=pictures)


def decode(scans, hashes, cache: Path, *, size, framing, progress=True):
    """All scans as one read-only uint8 array (N, C, size, size), [(path, reason)] of the bad, and
    of the framing "aligned" their shapes (``shape.FIELDS``), else None.

    Decoded once into ``cache`` under a key of the files' content, the settings and the versions of
    what makes pixels (VERSION in pixels, shape and simulate): raw bytes and a note of their
    shape and sha256. The note comes last, so that a half-written or damaged file is never read as
    whole. The shapes follow the images in the same file.
    """
    versions = {"cleaning": pixels.VERSION}
    if framing == "aligned":
        versions["shape"] = shape.VERSION
    if scans[0].dataset == "simulated":
        versions["simulation"] = simulate.VERSION
    settings = [scans[0].modality, size, framing, versions]
    key = hashlib.sha256(json.dumps([settings, hashes]).encode()).hexdigest()[:24]
    raw, note = cache / f"{key}.u8", cache / f"{key}.json"
    if note.exists():
        about = _read_note(note)
        if raw.exists() and _sha256(raw) == about.get("sha256"):
            left_out = [tuple(bad) for bad in about["left_out"]]
            return _open(raw, about, left_out)
        warnings.warn(f"{raw} was damaged; it is made anew.", stacklevel=3)

    cores = os.cpu_count() or 1
    prefer = "processes" if cores > 2 and len(scans) >= MANY else "threads"
    pool = Parallel(cores, prefer=prefer, return_as="generator", batch_size=8)
    one = delayed(partial(_attempt, size=size, framing=framing))
    bad, good, sha256, shapes = [], 0, hashlib.sha256(), []
    part = raw.with_suffix(f".{os.getpid()}.part")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            images = tqdm(pool(map(one, scans)), total=len(scans), desc="decoding",
                          disable=not progress)  # fmt: skip
            for scan, image in zip(scans, images):
                if isinstance(image, str):
                    bad.append((scan.path, image))
                    continue
                if isinstance(image, tuple):
                    image, values = image
                    shapes.append(values)
                file.write(image.tobytes())
                sha256.update(image.tobytes())
                good, size_of = good + 1, image.shape
            if shapes:
                numbers = np.stack(shapes).astype("<f4").tobytes()
                file.write(numbers)
                sha256.update(numbers)
        if not good:
            first = "; ".join(f"{Path(path).name}: {reason}" for path, reason in bad[:5])
            raise ValueError(f"none of {len(scans)} files can be read: {first}")
        part.replace(raw)
        about = {"shape": [good, *size_of], "sha256": sha256.hexdigest(), "left_out": bad,
                 "fields": len(shapes[0]) if shapes else 0}  # fmt: skip
        part.write_text(json.dumps(about))
        part.replace(note)
    except OSError as error:
        reason = "no space is left" if error.errno == errno.ENOSPC else error.strerror
        raise OSError(
            f"{cache}: the cache of {len(scans)} images cannot be written ({reason}). Free some "
            "space or point OCT_RUNS at another disk."
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return _open(raw, about, bad)


def _open(raw: Path, about: dict, bad):
    """Images, what was left out, and shapes of a whole file."""
    images = np.memmap(raw, np.uint8, "r", shape=tuple(about["shape"]))
    if not about.get("fields"):
        return images, bad, None
    shapes = np.fromfile(raw, "<f4", offset=images.nbytes).reshape(-1, about["fields"])
    return images, bad, shapes


def _read_note(note: Path) -> dict:
    try:
        return json.loads(note.read_text())
    except ValueError:
        return {}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

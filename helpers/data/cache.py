"""The uint8 cache: every scan decoded and cleaned once, whole on disk or not at all."""

import errno
import json
import os
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from helpers.data import bscan, copies, look, pixels, shape
from helpers.data.hospital import read_frame
from helpers.data.padding import without_padding
from helpers.data.photograph import clean_dfe
from helpers.data.pixels import read_image, to_grey
from helpers.data.scan import Scan, digest
from helpers.data.simulated import simulate
from helpers.data.sources import packed_image

DRAWN = ("simulated", "npz")  # what is no file of somebody else's: nobody needs to look at it
LEFT = 3600  # seconds without a byte after which nobody writes to a file any more
MANY = 1000  # scans from which on processes are worth their start, where there are cores for them


@dataclass(frozen=True)
class Decoded:
    """What ``decode`` makes of a list of scans.

    images: read-only uint8 (N, C, size, size), of the framing "aligned" crops (N, 1, rows, size)
    with their ``shapes``, float32 (N, len(shape.FIELDS)), else None. bad: [(path, why)] of those
    that are not among them. mended: [(path, what was done)]. alike: [(path, path)] of files that
    show one picture, whatever their bytes.
    """

    images: np.ndarray
    bad: list[tuple[str, str]]
    shapes: np.ndarray | None
    mended: list[tuple[str, str]]
    alike: list[tuple[str, str]]
    fleeting: bool = False  # something is missing that may be read another time


def read_scan(scan: Scan, size: int, framing: str, seen: dict | None = None, watch=True):
    """One scan decoded and cleaned: uint8 (C, size, size); of the framing "aligned" a pair, its
    crop (1, rows, size) and its shape. ``seen`` takes, of a file's picture, "said": what
    ``look.examine`` noticed and mended, in words, and "print": its ``copies.fingerprint``.
    ValueError saying what it is if it cannot be mended."""
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
        image = read_picture(scan)
    if watch and scan.dataset not in DRAWN:
        image = _looked_at(image, scan.modality, {} if seen is None else seen)
    if scan.modality == "oct" and framing == "aligned":
        grey = without_padding(to_grey(image))
        crop, values = shape.align(grey, shape.crop_rows(size), size)
        return crop[None], values
    if scan.modality == "oct":
        return bscan.clean_oct(image, size=size, framing=framing)[None]
    framing = "full" if framing == "stretch" else framing
    return clean_dfe(image, size=size, framing=framing, centre=centre)[0].transpose(2, 0, 1)


def read_picture(scan: Scan) -> np.ndarray:
    """The picture of a scan that is a file, or lies in one, as it is there."""
    return read_frame(scan.path) if scan.dataset == "volume" else read_image(scan.path)


def _looked_at(image, modality: str, seen: dict):
    seen["said"] = []
    for finding in look.examine(image, modality):
        if finding.mended is None:
            raise ValueError(finding.words)
        seen["said"].append(finding.words)
        image = finding.mended
    seen["print"] = copies.fingerprint(image)
    return image


def _attempt(scan: Scan, **how):
    """What ``read_scan`` returns, and what it saw; or, of a file that cannot be read, why."""
    seen = {}
    try:
        return read_scan(scan, seen=seen, **how), seen
    except (ValueError, FileNotFoundError) as error:
        return str(error).removeprefix(f"{scan.path}: "), _fleeting(error)


def _fleeting(error) -> bool:
    """Whether the disk or the memory is to blame, not the file: another time it may be read."""
    causes = (error, error.__cause__)
    return any(isinstance(e, MemoryError) or getattr(e, "errno", None) for e in causes) or (
        isinstance(error, FileNotFoundError)
    )


def simulated_eye(scan: Scan, size: int, pictures=("oct", "dfe")) -> simulate.Eye:
    """The eye that a virtual scan stands for: its ``pictures`` and their truth."""
    _, label, name = scan.path.split("/")
    patient, eye = name.split("_")
    return simulate.make_eye(int(patient[1:]), label, eye=eye, size=size, pictures=pictures)


def decode(scans, hashes, cache: Path, *, size, framing, progress=True, watch=True) -> Decoded:
    """All scans as one array, and what was noticed on the way; unless ``watch``, which is for what
    a generator has drawn, nothing is looked at.

    Decoded once into ``cache`` under a key of the files' content, the settings and the versions of
    what makes pixels (VERSION in pixels, look, shape and simulate): raw bytes and a note of their
    shape and number. The note comes last, so that a file cut short is never read as whole. The
    shapes follow the images in the same file.
    """
    versions = {"cleaning": pixels.VERSION}
    if framing == "aligned":
        versions["shape"] = shape.VERSION
    if scans[0].dataset == "simulated":
        versions["simulation"] = simulate.VERSION
    elif watch and scans[0].dataset not in DRAWN:
        versions["look"] = look.VERSION
    settings = [scans[0].modality, size, framing, versions]
    key = digest(json.dumps([settings, hashes]))[:24]
    raw, note = cache / f"{key}.u8", cache / f"{key}.json"
    if note.exists():
        about = _read_note(note)
        if raw.exists() and raw.stat().st_size == about.get("bytes"):
            return _open(raw, about, scans)
        warnings.warn(f"{raw} was damaged; it is made anew.", stacklevel=3)

    cores = os.cpu_count() or 1
    prefer = "processes" if cores > 2 and len(scans) >= MANY else "threads"
    pool = Parallel(cores, prefer=prefer, return_as="generator", batch_size=8)
    one = delayed(partial(_attempt, size=size, framing=framing, watch=watch))
    bad, mended, good, shapes, prints, fleeting = [], [], [], [], [], False
    part = raw.with_suffix(f".{os.getpid()}.part")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(cache)
        with part.open("wb") as file:
            images = tqdm(pool(map(one, scans)), total=len(scans), desc="decoding",
                          disable=not progress)  # fmt: skip
            for number, image in enumerate(images):
                if isinstance(image[0], str):
                    bad.append((number, image[0]))
                    fleeting |= image[1] and hashes[number] != digest(scans[number].path)
                    continue
                image, seen = image
                if seen.get("said"):
                    mended.append((number, "; ".join(seen["said"])))
                if "print" in seen:
                    prints.append(seen["print"])
                if isinstance(image, tuple):
                    image, values = image
                    shapes.append(values)
                file.write(image.tobytes())
                good.append(number)
                size_of = image.shape
            if shapes:
                file.write(np.stack(shapes).astype("<f4").tobytes())
        if not good:
            first = "; ".join(f"{Path(scans[k].path).name}: {reason}" for k, reason in bad[:5])
            raise ValueError(f"none of {len(scans)} files can be read: {first}")
        part.replace(raw)
        about = {"shape": [len(good), *size_of], "bytes": raw.stat().st_size, "left_out": bad,
                 "mended": mended, "alike": _alike(scans, good, prints),
                 "fields": len(shapes[0]) if shapes else 0}  # fmt: skip
        if not fleeting:  # without its note it is made anew
            part.write_text(json.dumps(about))
            part.replace(note)
    except OSError as error:
        reason = "no space is left" if error.errno == errno.ENOSPC else error.strerror
        raise OSError(
            f"{cache}: the cache of {len(scans)} images cannot be written ({reason}). Free some "
            "space or point OCT_RUNS at another disk."
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()
    return replace(_open(raw, about, scans), fleeting=fleeting)


def _remove_leftovers(cache: Path) -> None:
    """Delete what processes have left that were killed while they wrote: gigabytes each time."""
    for part in (cache / name for name in os.listdir(cache) if name.endswith(".part")):
        with suppress(OSError):  # another process was faster
            if time.time() - part.stat().st_mtime > LEFT:
                part.unlink()


def _alike(scans: list[Scan], good: list[int], prints) -> list[tuple[int, int]]:
    """Which of ``scans`` show one picture, by number; ``prints`` are those of the ``good`` ones."""
    if len(prints) < len(good):
        return []  # nobody looked
    found = copies.find_copies(np.stack(prints), lambda i: read_picture(scans[good[i]]))
    return [(good[i], good[j]) for i, j, _ in found]


def _open(raw: Path, about: dict, scans) -> Decoded:
    """What ``decode`` returns, of a whole file. Its note knows scans by number, for the same files
    may have other names by now."""
    images, shapes = _arrays(raw, about)
    bad, mended = (
        [(scans[k].path, why) for k, why in about[what]] for what in ("left_out", "mended")
    )
    alike = [(scans[i].path, scans[j].path) for i, j in about["alike"]]
    return Decoded(images, bad, shapes, mended, alike)


def reopen(raw: Path) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Images and shapes of a file that ``decode`` has written; None if it is no longer whole."""
    about = _read_note(raw.with_suffix(".json"))
    whole = raw.exists() and raw.stat().st_size == about.get("bytes")
    return _arrays(raw, about) if whole else None


def _arrays(raw: Path, about: dict) -> tuple[np.ndarray, np.ndarray | None]:
    images = np.memmap(raw, np.uint8, "r", shape=tuple(about["shape"]))
    if not about["fields"]:
        return images, None
    return images, np.fromfile(raw, "<f4", offset=images.nbytes).reshape(-1, about["fields"])


def _read_note(note: Path) -> dict:
    try:
        return json.loads(note.read_text())
    except (OSError, ValueError):
        return {}

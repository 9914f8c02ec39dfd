"""Sources -> manifest -> patient split -> uint8 cache -> batches.

``prepare`` does all of it; the cache lies on disk and is keyed by the images' content and the
settings, so that a second call reads it in a moment and an edited image is never confused.
"""

import hashlib
import json
import os
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from helpers.config import root
from helpers.data.cache import decode
from helpers.data.scan import Scan
from helpers.data.sources import load_manifest, packed_image
from helpers.data.split import SIDES, TOO_FEW, Data, Split, choose_class, split_patients


def prepare(
    source, *, modality="oct", class_="DRUSEN", size=256, framing="stretch",
    cache=None, seed=0, n_simulated=600, most=None, sides=SIDES, progress=True,
) -> Data:  # fmt: skip
    """Find, split by patient, choose, de-duplicate and decode; uint8, ready to train on.

    ``source`` as in ``sources.load_manifest``; ``class_`` is one of its classes, several joined by
    +, or "all" (a source of one class trains on that one); ``framing`` as in ``bscan.clean_oct``
    and ``photograph.clean_dfe``; ``cache`` a folder (default: cache in OCT_RUNS). ``most`` limits
    the scans of each side, where a sample is enough, and only the ``sides`` named are decoded; the
    others are empty. The split is that of the whole source, so that a patient is on the same side
    in every class.
    Files that cannot be read are listed in ``left_out``. Raises ValueError for a class that the
    source lacks, for fewer than three patients, or if no file can be read; OSError naming OCT_RUNS
    if the cache cannot be written.
    """
    cache = Path(cache or root() / os.environ.get("OCT_RUNS", "runs") / "cache")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scans = load_manifest(source, modality=modality, n_simulated=n_simulated, size=size)
        classes = dict(Counter(scan.label for scan in scans))
        chosen, class_ = choose_class(scans, class_, str(source))
        patients = {scan.patient for scan in chosen}
        if len(patients) < 3:
            raise ValueError(
                f"{source} ({class_}): {TOO_FEW.format(len(patients))}"
                + "".join(f" ({warning.message})" for warning in caught)
            )
        side_of = {
            s: side for side, those in split_patients(scans, seed=seed).items() for s in those
        }
        hashes = content_hashes([scan for scan in chosen if scan in side_of], progress)
        copies = sum(scan in side_of for scan in chosen) - len(hashes)
        if copies:
            warnings.warn(f"{copies} files are copies of others and were left out.", stacklevel=1)
        kept = []
        for side in sides:
            those = [scan for scan in hashes if side_of[scan] == side]
            kept += sorted(those, key=hashes.get)[:most] if most else those
        images, bad, shapes = decode(
            kept, [hashes[scan] for scan in kept], cache, size=size, framing=framing,
            progress=progress,
        )  # fmt: skip
        if bad:
            names = ", ".join(f"{Path(path).name} ({reason})" for path, reason in bad[:5])
            more = ", ..." if len(bad) > 5 else ""
            warnings.warn(f"{len(bad)} files were left out: {names}{more}", stacklevel=1)
    notes = list(dict.fromkeys(str(w.message) for w in caught))
    for note in notes:
        warnings.warn(note, stacklevel=2)
    unreadable = {path for path, _ in bad}
    good = [scan for scan in kept if scan.path not in unreadable]
    splits, start = {}, 0
    for name in SIDES:
        side = [scan for scan in good if side_of[scan] == name]
        if not side and name in sides:
            raise ValueError(f"{source} ({class_}): no readable scan is left for {name}.")
        those = slice(start, start + len(side))
        splits[name] = Split(images[those], side, None if shapes is None else shapes[those])
        start += len(side)
    digest = hashlib.sha256(
        json.dumps([[s.label, s.patient, hashes[s]] for s in good]).encode()
    ).hexdigest()
    return Data(**splits, source=str(source), class_=class_, manifest_hash=digest[:16], notes=notes,
                left_out=bad, classes=classes)  # fmt: skip


def content_hashes(scans: list[Scan], progress=True) -> dict[Scan, str]:
    """sha256 of every file's bytes, without later copies; a virtual scan's is that of its path, of
    one in a .npz that of its pixels."""

    def digest(scan: Scan) -> str:
        if scan.dataset == "npz":
            return hashlib.sha256(np.ascontiguousarray(packed_image(scan.path))).hexdigest()
        path = Path(scan.path)
        virtual = scan.dataset == "simulated"
        return hashlib.sha256(
            scan.path.encode() if virtual or not path.is_file() else path.read_bytes()
        ).hexdigest()

    with ThreadPoolExecutor() as pool:
        found = tqdm(pool.map(digest, scans), total=len(scans), desc="reading files",
                     disable=not progress or len(scans) < 500)  # fmt: skip
        first = {}
        for scan, value in zip(scans, found):
            first.setdefault(value, scan)
    return {scan: value for value, scan in first.items()}

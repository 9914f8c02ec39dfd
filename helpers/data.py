"""Sources -> manifest -> patient split -> uint8 cache -> batches.

``prepare`` does all of it; the cache lies on disk and is keyed by the images' content and the
settings, so that a second call reads it in a moment and an edited image is never confused.
"""

import hashlib
import json
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from helpers.cache import decode
from helpers.sources import BLOCK, Scan, load_manifest

FRACTIONS = (0.65, 0.15, 0.2)
SIDES = ("train", "validation", "test")
MARGIN = 3  # frames left out where a stand-in block meets one of another side


@dataclass
class Split:
    """One side of the patient split: images uint8 (N, C, S, S) and their scans, in one order."""

    images: np.ndarray
    scans: list[Scan]

    def __len__(self) -> int:
        return len(self.scans)

    @property
    def patients(self) -> np.ndarray:
        return np.array([scan.patient for scan in self.scans])

    @property
    def labels(self) -> np.ndarray:
        return np.array([scan.label for scan in self.scans])


@dataclass
class Data:
    """What ``prepare`` returns; ``notes`` are the warnings, ``left_out`` (path, reason)."""

    train: Split
    validation: Split
    test: Split
    source: str
    class_: str
    manifest_hash: str
    notes: list[str] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    classes: dict[str, int] = field(default_factory=dict)  # scans per class of the whole source

    @property
    def other_class(self) -> str | None:
        """A class to compare with: NORMAL if the source has it, else its largest other one."""
        others = [label for label in self.classes if label != self.class_]
        return min(others, key=lambda c: (c != "NORMAL", -self.classes[c]), default=None)


def describe(data: Data) -> str:
    """Counts per side and class, the files left out, and the notes, as text."""
    lines = [f"{Path(data.source).name}: {data.class_}"]
    for name in SIDES:
        split = getattr(data, name)
        counts = ", ".join(f"{label} {n}" for label, n in sorted(Counter(split.labels).items()))
        lines.append(
            f"{name:12} {len(split):6} scans of {len(set(split.patients)):4} patients  ({counts})"
        )
    if data.left_out:
        lines.append(f"left out     {len(data.left_out):6} files")
        lines += [f"  {Path(path).name}: {reason}" for path, reason in data.left_out[:10]]
    return "\n".join([*lines, *(f"note: {note}" for note in data.notes)])


def prepare(
    source, *, modality="oct", class_="DRUSEN", size=256, framing="stretch", cache=None, seed=0,
    n_simulated=600, progress=True,
) -> Data:  # fmt: skip
    """Find, de-duplicate, choose, split by patient and decode; uint8, ready to train on.

    ``source`` as in ``sources.load_manifest``; ``class_`` is one of its classes, or "all" (a
    source of one class trains on that one); ``framing`` as in ``preprocess.clean_oct`` or
    ``clean_dfe``; ``cache`` a folder (default runs/cache). Files that cannot be read are listed in
    ``left_out``. Raises ValueError for a class that the source lacks, for fewer than three
    patients, or if no file can be read; OSError naming OCT_RUNS if the cache cannot be written.
    """
    cache = Path(cache or "runs/cache")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scans = load_manifest(source, modality=modality, n_simulated=n_simulated)
        classes = dict(Counter(scan.label for scan in scans))
        scans, class_ = choose_class(scans, class_, str(source))
        hashes = content_hashes(scans, progress)
        copies = len(scans) - len(hashes)
        if copies:
            warnings.warn(f"{copies} files are copies of others and were left out.", stacklevel=1)
        scans = list(hashes)
        try:
            sides = split_patients(scans, seed=seed)
        except ValueError as error:
            raise ValueError(f"{source} ({class_}): {error}") from error
        kept = [scan for side in sides.values() for scan in side]
        images, bad = decode(
            kept, [hashes[scan] for scan in kept], cache, size=size, framing=framing,
            progress=progress,
        )  # fmt: skip
        if bad:
            names = ", ".join(f"{Path(path).name} ({reason})" for path, reason in bad[:5])
            warnings.warn(f"{len(bad)} files were left out: {names}", stacklevel=1)
    notes = list(dict.fromkeys(str(w.message) for w in caught))
    for note in notes:
        warnings.warn(note, stacklevel=2)
    rows = {scan: row for row, scan in enumerate(s for s in kept if s.path not in dict(bad))}
    splits = {}
    for name, side in sides.items():
        side = [scan for scan in side if scan in rows]
        if not side:
            raise ValueError(f"{source} ({class_}): no readable scan is left for {name}.")
        index = [rows[scan] for scan in side]
        splits[name] = Split(images[index[0] : index[-1] + 1], side)
    digest = hashlib.sha256(
        json.dumps([[s.label, s.patient, hashes[s]] for s in kept]).encode()
    ).hexdigest()
    return Data(**splits, source=str(source), class_=class_, manifest_hash=digest[:16], notes=notes,
                left_out=bad, classes=classes)  # fmt: skip


def choose_class(scans: list[Scan], class_: str, source: str) -> tuple[list[Scan], str]:
    """The scans of one class, and its name; a source of one class has no choice."""
    counts = Counter(scan.label for scan in scans)
    if class_ == "all":
        return scans, class_
    if len(counts) == 1:
        (only,) = counts
        if only != class_:
            warnings.warn(f"The source has one class, {only}; it is used for OCT_CLASS={class_}.",
                          stacklevel=2)  # fmt: skip
        return scans, only
    if class_ not in counts:
        has = ", ".join(f"{label} ({n})" for label, n in sorted(counts.items()))
        raise ValueError(f"{source} has no class {class_}. It has {has}; set OCT_CLASS to one.")
    return [scan for scan in scans if scan.label == class_], class_


def content_hashes(scans: list[Scan], progress=True) -> dict[Scan, str]:
    """sha256 of every file's bytes, without later copies; a virtual scan's is that of its path."""

    def digest(scan: Scan) -> str:
        path = Path(scan.path)
        virtual = scan.dataset in ("simulated", "octmnist")
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


def split_patients(scans: list[Scan], *, seed=0, fractions=FRACTIONS) -> dict[str, list[Scan]]:
    """Training, validation and test scans, disjoint by patient, in manifest order.

    Patients are ordered by a hash of seed and name, so that their order in the source does not
    matter and adding one moves at most a neighbour of a cut. Where patients are stand-in blocks of
    consecutive frames, a volume can straddle two blocks: MARGIN frames on both sides of a boundary
    between sides are left out.
    Raises ValueError with fewer than three patients.
    """
    names = sorted({scan.patient for scan in scans})
    if len(names) < 3:
        raise ValueError(
            f"{len(names)} patient(s), and a split needs three: one each to train, to choose and "
            "to test. Add patients, put each into its own subfolder, or name them in a "
            "manifest.csv."
        )
    names.sort(key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    validation, test = (max(1, round(share * len(names))) for share in fractions[1:])
    side = dict.fromkeys(names, "train")
    side.update(dict.fromkeys(names[-test - validation :], "validation"))
    side.update(dict.fromkeys(names[-test:], "test"))
    result = {name: [] for name in SIDES}
    for scan in scans:
        if not _at_boundary(scan, side):
            result[side[scan.patient]].append(scan)
    return result


def _at_boundary(scan: Scan, side: dict[str, str]) -> bool:
    if scan.frame is None:
        return False
    stem, number = scan.patient.rsplit("block", 1)
    offset = scan.frame % BLOCK
    near = []
    if offset < MARGIN:
        near.append(f"{stem}block{int(number) - 1}")
    if offset >= BLOCK - MARGIN:
        near.append(f"{stem}block{int(number) + 1}")
    return any(side.get(n, side[scan.patient]) != side[scan.patient] for n in near)


def batches(images, batch_size, *, seed=0, device="cpu", start=0, rank=0, world_size=1):
    """Endless shuffled batches, float (batch_size, C, S, S) in [-1, 1] on ``device``.

    Every epoch is a fresh permutation, and the last batch of one is filled up from the next, so
    that the sequence follows from ``seed`` alone; ``start`` counts the batches already taken (a
    resumed run goes on where it stopped). With several processes each takes its own share of every
    global batch. Images that fit live on the device as uint8; more of them stream from the disk.
    """
    device = torch.device(device)
    room = 2 * 2**30
    if device.type == "cuda":
        room = torch.cuda.get_device_properties(device).total_memory // 4
    resident = torch.from_numpy(np.array(images)).to(device) if images.nbytes <= room else None
    order, epoch = np.empty(0, np.int64), 0
    total = batch_size * world_size
    first = start * total  # in the endless sequence of scans
    epoch, skip = divmod(first, len(images))
    while True:
        while len(order) < skip + total:
            shuffled = np.random.default_rng([seed, epoch]).permutation(len(images))
            order, epoch = np.concatenate([order, shuffled]), epoch + 1
        chosen = order[skip:][rank:total:world_size]
        order, skip = order[skip + total :], 0
        if resident is not None:
            batch = resident[torch.from_numpy(chosen).to(device)]
        else:
            batch = torch.from_numpy(images[np.sort(chosen)]).to(device, non_blocking=True)
        yield batch.float() / 127.5 - 1

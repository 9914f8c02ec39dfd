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
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from helpers.cache import decode
from helpers.config import root
from helpers.sources import BLOCK, Scan, load_manifest, packed_image

FRACTIONS = (0.65, 0.15, 0.2)
SIDES = ("train", "validation", "test")
TOO_FEW = (
    "{} patient(s), and a split needs three: one each to train, to choose and to test. Add "
    "patients, put each into a subfolder of its own, or name them in a manifest.csv."
)
MARGIN = 3  # frames left out where a stand-in block meets one of another side


@dataclass
class Split:
    """One side of the patient split: images uint8 (N, C, S, S) and their scans, in one order.

    Of the framing "aligned" the images are crops, (N, 1, rows, S), and ``shapes``, float32
    (N, len(shape.FIELDS)), what was taken off them."""

    images: np.ndarray
    scans: list[Scan]
    shapes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scans)

    @property
    def patients(self) -> np.ndarray:
        return np.array([scan.patient for scan in self.scans])

    @property
    def labels(self) -> np.ndarray:
        return np.array([scan.label for scan in self.scans])


@dataclass(repr=False)
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

    def __repr__(self) -> str:
        return describe(self)

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
    source, *, modality="oct", class_="DRUSEN", size=256, framing="stretch", clahe=False,
    cache=None, seed=0, n_simulated=600, most=None, sides=SIDES, progress=True,
) -> Data:  # fmt: skip
    """Find, split by patient, choose, de-duplicate and decode; uint8, ready to train on.

    ``source`` as in ``sources.load_manifest``; ``class_`` is one of its classes, several joined by
    +, or "all" (a source of one class trains on that one); ``framing`` and, for photographs,
    ``clahe`` as in ``preprocess.clean_oct`` and ``clean_dfe``; ``cache`` a folder (default:
    cache in OCT_RUNS). ``most`` limits the scans of each side, where a sample is enough, and only
    the ``sides`` named are decoded; the others are empty. The split is that of the whole source, so
    that a patient is on the same side in every class.
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
            kept, [hashes[scan] for scan in kept], cache, size=size, framing=framing, clahe=clahe,
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


def choose_class(scans: list[Scan], class_: str, source: str) -> tuple[list[Scan], str]:
    """The scans of one class or several, and their name; a source of one class has no choice."""
    counts = Counter(scan.label for scan in scans)
    if class_.lower() == "all":
        return scans, "all"
    if "+" in class_:
        wanted = set(class_.split("+"))
        several = [scan for scan in scans if wanted & set(findings(scan.label))]
        if several:
            return several, class_
    class_ = next((label for label in counts if label.lower() == class_.strip().lower()), class_)
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


def findings(label: str) -> list[str]:
    """A label of several findings, "DR;GLAUCOMA", taken apart."""
    return [part.strip() for part in label.split(";")]


def content_hashes(scans: list[Scan], progress=True) -> dict[Scan, str]:
    """sha256 of every file's bytes, without later copies; a virtual scan's is that of its path, of
    one in a .npz that of its pixels."""

    def digest(scan: Scan) -> str:
        if scan.dataset == "npz":
            return hashlib.sha256(np.ascontiguousarray(packed_image(scan.path))).hexdigest()
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

    Every class is divided by ``fractions``, smallest class first; a patient of several classes
    stays on one side. Patients are ordered by a hash of seed and name, so that their order in the
    source does not matter and adding one moves at most a neighbour of a cut. Where patients are
    stand-in blocks of consecutive frames, a volume can straddle two blocks: MARGIN frames on both
    sides of a boundary between sides are left out. A class of one patient trains, one of two also
    tests. Raises ValueError with fewer than three patients.
    """
    if len(names := {scan.patient for scan in scans}) < 3:
        raise ValueError(TOO_FEW.format(len(names)))
    side = {scan.patient: scan.side for scan in scans if scan.side}
    classes = {}
    for scan in scans:
        classes.setdefault(scan.label, set()).add(scan.patient)
    for _, patients in sorted(classes.items(), key=lambda item: (len(item[1]), item[0])):
        count = len(patients)
        validation, test = (max(1, round(share * count)) for share in fractions[1:])
        wanted = {"test": test if count > 1 else 0, "validation": validation if count > 2 else 0}
        free = sorted(
            (name for name in patients if name not in side),
            key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest(),
        )
        for where, number in wanted.items():
            number -= sum(side.get(name) == where for name in patients)
            for _ in range(min(number, len(free))):
                side[free.pop()] = where
        side.update(dict.fromkeys(free, "train"))
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


def batches(
    images, batch_size, *, labels=None, looks=None, index=None, seed=0, device="cpu", start=0,
    rank=0, world_size=1,
):  # fmt: skip
    """Endless shuffled batches, float (batch_size, C, H, W) in [-1, 1] on ``device``.

    ``images`` is uint8 (N, C, H, W); features, float32 (N, d), are given as they are. With
    ``labels``, whole numbers (N,) or 0/1 (N, K), a batch is a pair of images and their labels, and
    with ``looks``, float (N, L), their looks come third.
    ``index``, whole numbers, lists which images an epoch has, some of them several times perhaps;
    None: each once. Every epoch is a fresh permutation, and the last batch of one is filled up
    from the next, so that the sequence follows from ``seed`` alone; ``start`` counts the batches
    already taken (a resumed run goes on where it stopped). With
    several processes each takes its own share of every global batch. Images that fit (2 GiB, on a
    GPU a quarter of its memory) live on the device as uint8; more of them stream from the disk,
    one batch ahead.
    """
    device = torch.device(device)
    index = np.arange(len(images)) if index is None else np.asarray(index)
    chosen = (index[c] for c in _order(len(index), batch_size, seed, start, rank, world_size))
    told = [torch.as_tensor(values, device=device) for values in (labels, looks)
            if values is not None]  # fmt: skip

    def batch(levels, those):
        pixels = levels.to(device)
        pixels = pixels.float() / 127.5 - 1 if pixels.dtype == torch.uint8 else pixels
        return (pixels, *(values[those.to(device)] for values in told)) if told else pixels

    room = 2 * 2**30
    if device.type == "cuda":
        room = torch.cuda.get_device_properties(device).total_memory // 4
    if images.nbytes <= room:
        resident = torch.from_numpy(np.array(images)).to(device)
        for those in map(torch.from_numpy, chosen):
            yield batch(resident[those.to(device)], those)
        return

    def read(those):
        return torch.from_numpy(np.array(images[those])), torch.from_numpy(those)

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(read, next(chosen))
        for those in chosen:
            ready, coming = coming.result(), pool.submit(read, those)
            yield batch(*ready)


def evenly(labels) -> np.ndarray:
    """Places in ``labels`` (N,), those of rarer classes repeated, so that each is as frequent."""
    most = np.bincount(labels).max()
    return np.concatenate([np.resize(np.flatnonzero(labels == k), most) for k in np.unique(labels)])


def _order(count, batch_size, seed, start, rank, world_size):
    """Endless index arrays (batch_size,): one process's share of the endless shuffled sequence."""
    total = batch_size * world_size
    epoch, skip = divmod(start * total, count)
    order = np.empty(0, np.int64)
    while True:
        while len(order) < skip + total:
            shuffled = np.random.default_rng([seed, epoch]).permutation(count)
            order, epoch = np.concatenate([order, shuffled]), epoch + 1
        yield order[skip:][rank:total:world_size]
        order, skip = order[skip + total :], 0

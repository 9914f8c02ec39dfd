"""One side of the split for every patient: what is drawn, how it is described."""

import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from helpers.data.scan import BLOCK, BLOCK_PATIENT, Scan, digest, shown

FRACTIONS = (0.65, 0.15, 0.2)
SIDES = ("train", "validation", "test")
TOO_FEW = (
    "{} patient(s), and a split needs three: one each to train, to choose and to test. Add "
    "patients, put each into a subfolder of its own, or name them in a manifest.csv."
)
MARGIN = 3  # frames left out where a stand-in block meets one of another side


@dataclass
class Labelled:
    """images (N, C, S, S) or features (N, d), and of each its label (N,) and its patient (N,)."""

    images: np.ndarray | torch.Tensor
    labels: np.ndarray
    patients: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index) -> "Labelled":
        return Labelled(self.images[index], self.labels[index], self.patients[index])


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
    lines = [f"{shown(Path(data.source).name)}: {data.class_}"]
    for name in SIDES:
        split = getattr(data, name)
        counts = ", ".join(f"{label} {n}" for label, n in sorted(Counter(split.labels).items()))
        lines.append(
            f"{name:12} {len(split):6} scans of {len(set(split.patients)):4} patients  ({counts})"
        )
    if data.left_out:
        lines.append(f"left out     {len(data.left_out):6} files")
        lines += [
            f"  {shown(Path(path).name)}: {shown(reason)}" for path, reason in data.left_out[:10]
        ]
    return "\n".join([*lines, *(f"note: {note}" for note in data.notes)])


def choose_class(scans: list[Scan], class_: str, source: str) -> tuple[list[Scan], str]:
    """The scans of one class or several, and their name; a source of one class has no choice."""
    counts = Counter(scan.label for scan in scans)
    if class_.lower() == "all":
        return scans, "all"
    if "+" in class_:
        wanted = {name.strip().lower() for name in class_.split("+")}
        several = [scan for scan in scans if wanted & set(findings(scan.label.lower()))]
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
        has = ", ".join(f"{shown(label)} ({n})" for label, n in sorted(counts.items()))
        raise ValueError(
            f"{shown(source)} has no class {class_}. It has {has}; set OCT_CLASS to one."
        )
    return [scan for scan in scans if scan.label == class_], class_


def findings(label: str) -> list[str]:
    """A label of several findings, "DR;GLAUCOMA", taken apart."""
    return [part.strip() for part in label.split(";")]


def split_patients(scans: list[Scan], *, seed=0, fractions=FRACTIONS) -> dict[str, list[Scan]]:
    """Training, validation and test scans, disjoint by patient, in manifest order.

    Every class is divided by ``fractions``, smallest class first; a patient of several classes
    stays on one side. Patients are ordered by a hash of seed and name, so that their order in the
    source does not matter and adding one moves at most a neighbour of a cut. Where patients are
    stand-in blocks of consecutive frames, a volume can straddle two blocks: MARGIN frames on both
    sides of a boundary between sides are left out. A class of one patient trains, one of two also
    tests. A side that a scan names (``Scan.side``, of a published split) is kept; where nobody is
    left to validate or to test, it takes from those said to train. Raises ValueError with fewer
    than three patients.
    """
    if len(names := {scan.patient for scan in scans}) < 3:
        raise ValueError(TOO_FEW.format(len(names)))
    side = {scan.patient: scan.side for scan in scans if scan.side}
    classes, published = {}, set(side.values())
    for scan in scans:
        classes.setdefault(scan.label, set()).add(scan.patient)
    for _, patients in sorted(classes.items(), key=lambda item: (len(item[1]), item[0])):
        count = len(patients)
        validation, test = (max(1, round(share * count)) for share in fractions[1:])
        wanted = {"test": test if count > 1 else 0, "validation": validation if count > 2 else 0}
        free = shuffled([name for name in patients if name not in side], seed)
        for where, number in wanted.items():
            number -= sum(side.get(name) == where for name in patients)
            if published and where not in published and len(free) < number:
                taken = [name for name in patients if side.get(name) == "train"]
                free += shuffled(taken, seed)[1:][: max(number, 0)]
            for _ in range(min(number, len(free))):
                side[free.pop()] = where
        side.update(dict.fromkeys(free, "train"))
    result = {name: [] for name in SIDES}
    for scan in scans:
        if not _at_boundary(scan, side):
            result[side[scan.patient]].append(scan)
    return result


def shuffled(names, seed: int) -> list[str]:
    """In the order that a seed draws, which neither names nor places in a list decide."""
    return sorted(names, key=lambda name: digest(f"{seed}:{name}"))


def _at_boundary(scan: Scan, side: dict[str, str]) -> bool:
    if scan.frame is None or not BLOCK_PATIENT.search(scan.patient):
        return False
    stem, number = scan.patient.rsplit("block", 1)
    offset = scan.frame % BLOCK
    near = []
    if offset < MARGIN:
        near.append(f"{stem}block{int(number) - 1}")
    if offset >= BLOCK - MARGIN:
        near.append(f"{stem}block{int(number) + 1}")
    return any(side.get(n, side[scan.patient]) != side[scan.patient] for n in near)

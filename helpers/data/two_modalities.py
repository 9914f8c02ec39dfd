"""Photographs (DFE) on one side, OCT on the other: unpaired, or two pictures of each eye.

Both sides are split by patient with the same rule. Labels of both are brought to one set of names,
because data sets call a condition differently.
"""

import re
import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from helpers.config import root
from helpers.data.batches import balanced_index, batches
from helpers.data.bscan import band
from helpers.data.cache import simulated_eye
from helpers.data.prepare import prepare
from helpers.data.scan import BLOCK_PATIENT, Scan, digest
from helpers.data.split import SIDES, Data, Split, findings

LEAST = 2  # images of each side, to train on
EYES = {"od": "right", "right": "right", "re": "right", "os": "left", "left": "left", "le": "left"}


@dataclass
class Domains:
    """``dfe`` and ``oct`` as ``data.prepare`` gives them, labels named as in ``classes``.

    ``paired``: row i of a side's photographs and row i of its scans show one eye. ``oriented``: all
    are turned into right eyes, so that nothing may be mirrored at random.
    """

    dfe: Data
    oct: Data
    classes: tuple[str, ...]
    paired: bool
    notes: list[str] = field(default_factory=list)
    oriented: bool = False

    def numbers(self, split: Split) -> np.ndarray:
        """Labels as places in ``classes``, (N,)."""
        return np.array([self.classes.index(label) for label in split.labels])

    def matrix(self, split: Split) -> np.ndarray:
        """Labels as 0/1, float32 (N, K), several to an image perhaps."""
        has = [set(findings(label)) for label in split.labels]
        return np.array([[c in own for c in self.classes] for own in has], np.float32)


def prepare_domains(
    settings, *, paired=False, multilabel=False, may_lack=(), most=None, progress=True
) -> Domains:
    """The photographs of ``settings.dfe`` and the scans of ``settings.data``.

    ``settings.classes`` says what is one condition: "NORMAL,DRUSEN+AMD+AMD_DRY" keeps two, named
    by the first of each group, and leaves out everything else. Photographs are cropped as
    ``settings.dfe_framing`` says. ``paired`` keeps the eyes of which both are there, matched by
    file name without its folder, ending and the words oct, dfe, fundus; the others are counted in
    a warning. Unpaired, no patient teaches both sides: where the sources share patients, every
    second one keeps the photograph, the others the scan. Where a label joins several findings by
    ";", an image with two of the conditions is left out, unless ``multilabel``. A modality that
    ``may_lack`` classes is noted, with a warning, if it does. ``most`` limits the images of each
    side of the split.

    ValueError that names the setting: a class that one side lacks, or of which nobody is left to
    train on, fewer than two images of a side, or no pair at all.
    """
    s = settings
    groups = [[name.strip() for name in g.split("+")] for g in s.classes.split(",") if g.strip()]
    named = {name: group[0] for group in groups for name in group}
    classes = tuple(group[0] for group in groups)
    wanted = "+".join([*named, ""])
    shared = dict(class_=wanted, size=s.size, n_simulated=s.n_simulated, most=most,
                  cache=root() / s.runs / "cache", progress=progress)  # fmt: skip
    data = {
        "dfe": prepare(s.dfe, modality="dfe", framing=s.dfe_framing, **shared),
        "oct": prepare(s.data, framing=s.framing, **shared),
    }
    said = []

    def say(words: str) -> None:
        said.append(words)
        warnings.warn(words, stacklevel=3)

    for modality, source in data.items():
        data[modality], ambiguous = renamed(source, named, multilabel)
        if ambiguous:
            say(f"{ambiguous} images of {modality.upper()} show several conditions at once and "
                "were left out; OCT_MULTILABEL=1 keeps them.")  # fmt: skip
        missing = lacks(data[modality].train, classes)
        if modality in may_lack and 0 < len(missing) < len(classes):
            say(f"{', '.join(missing)}: none in {modality.upper()}.")
        elif missing:
            setting = {"dfe": "OCT_DFE", "oct": "OCT_DATA"}[modality]
            has = ", ".join(f"{label} ({n})" for label, n in sorted(source.classes.items()))
            raise ValueError(
                f"{setting}: no {', '.join(missing)} to train on in {source.source}. It "
                f"has {has}; say in OCT_CLASSES what is one condition, as "
                "NORMAL,DRUSEN+AMD+AMD_DRY."
            )
    if paired:
        sides = {side: matched(*(getattr(data[m], side) for m in ("dfe", "oct"))) for side in SIDES}
        lost = sum(lost for *_, lost in sides.values())
        empty = [side for side, (dfe, _, _) in sides.items() if not len(dfe)]
        if empty:
            raise ValueError(
                f"OCT_DFE and OCT_DATA: no pairs for {', '.join(empty)}. Give both pictures of an "
                "eye one name, such as dfe/P01_OD.png and oct/P01_OD.png."
            )
        if lost:
            say(f"{lost} images have no partner and were left out.")
        unlike = [pair for dfe, oct, _ in sides.values() for pair in zip(dfe.scans, oct.scans)
                  if set(findings(pair[0].label)) != set(findings(pair[1].label))]  # fmt: skip
        if unlike:
            one, other = unlike[0]
            say(f"{len(unlike)} pairs have two classes, as {one.path} ({one.label}) and "
                f"{other.path} ({other.label}): the photograph's counts.")  # fmt: skip
        for k, modality in enumerate(("dfe", "oct")):
            data[modality] = replace(data[modality], **{side: v[k] for side, v in sides.items()})
    else:
        # stand-ins are called alike in any two sources, and are nobody
        held = {p for d in data.values() for split in (d.validation, d.test)
                for p in split.patients if not BLOCK_PATIENT.search(p)}  # fmt: skip
        for modality, source in data.items():  # the sources need not be split alike
            data[modality] = replace(source, train=without(source.train, held))
        both = set(data["dfe"].train.patients) & set(data["oct"].train.patients)
        both = {p for p in both if not BLOCK_PATIENT.search(p)}
        # class by class: cases and controls may be numbered by turns
        of_class = {s.patient: classes.index(findings(s.label)[0]) for s in data["dfe"].train.scans}
        dfe_only = set(sorted(both, key=lambda p: (of_class[p], p))[::2])
        data["dfe"] = replace(data["dfe"], train=without(data["dfe"].train, both - dfe_only))
        data["oct"] = replace(data["oct"], train=without(data["oct"].train, dfe_only))
    for modality, setting in (("dfe", "OCT_DFE"), ("oct", "OCT_DATA")):
        for side in SIDES:
            split = getattr(data[modality], side)
            if len(split) < LEAST:
                raise ValueError(
                    f"{setting}: {len(split)} image(s) for {side} in {data[modality].source}, and "
                    f"{LEAST} are needed. Add patients."
                )
        gone = [c for c in lacks(data[modality].train, classes) if modality not in may_lack]
        if gone:
            why = ("no eye of it has both pictures" if paired else
                   "its patients teach the other modality, or are held out there")  # fmt: skip
            raise ValueError(f"{setting}: nobody of {', '.join(gone)} is left to train on in "
                             f"{data[modality].source}: {why}. Add patients.")  # fmt: skip
    unknown = sum(
        side_of_body(scan.path) is None
        for source in data.values() for side in SIDES for scan in getattr(source, side).scans
    )  # fmt: skip
    if s.orient and unknown:
        say(f"orient=1, but the names of {unknown} images do not say which eye they show "
            "(OD, OS, left, right): nothing is turned.")  # fmt: skip
    both = digest("".join(d.manifest_hash for d in data.values()))
    data["oct"] = replace(data["oct"], manifest_hash=both[:16])  # a run is one of both sources
    notes = [*data["dfe"].notes, *data["oct"].notes, *said]
    oriented = s.orient and not unknown
    if oriented:
        data = {modality: as_right_eyes(source) for modality, source in data.items()}
    return Domains(data["dfe"], data["oct"], classes, paired, notes, oriented)


def renamed(data: Data, named: dict[str, str], multilabel=False) -> tuple[Data, int]:
    """``data`` with the labels that ``named`` knows, under their new names; and how many images
    were left out because they have several of them, which only ``multilabel`` takes."""
    ambiguous, named = 0, {name.lower(): to for name, to in named.items()}  # as ``prepare`` asks

    def one(split: Split) -> Split:
        nonlocal ambiguous
        found = [dict.fromkeys(named[f] for f in findings(label.lower()) if f in named)
                 for label in split.labels]  # fmt: skip
        chosen = np.array([bool(names) and (multilabel or len(names) == 1) for names in found])
        ambiguous += sum(map(bool, found)) - int(chosen.sum())
        scans = [replace(scan, label=";".join(names))
                 for scan, names, keep in zip(split.scans, found, chosen) if keep]  # fmt: skip
        images = split.images if chosen.all() else np.asarray(split.images)[chosen]
        return Split(images, scans)

    sides = {side: one(getattr(data, side)) for side in SIDES}
    counts = Counter(label for split in sides.values() for label in split.labels)
    class_ = "+".join(dict.fromkeys(named.values()))
    return replace(data, **sides, class_=class_, classes=counts), ambiguous


def lacks(split: Split, classes) -> list[str]:
    """Of which ``classes`` there is nothing in ``split``."""
    return sorted({*classes} - {part for label in split.labels for part in findings(label)})


def without(split: Split, patients: set[str]) -> Split:
    """``split`` without these patients."""
    keep = ~np.isin(split.patients, list(patients))
    if keep.all():
        return split  # its images stay on the disk
    return Split(np.asarray(split.images)[keep], [s for s, k in zip(split.scans, keep) if k])


def eye_name(path: str) -> str:
    """What two pictures of an eye have in common: the file's name without modality and ending."""
    stem = Path(path).name if "/" in path and "." not in Path(path).name else Path(path).stem
    words = [w for w in re.split(r"[_\-\s.]+", stem.lower()) if w not in ("oct", "dfe", "fundus")]
    return "_".join(words)


def by_name(*sides: list[Scan]) -> list[dict[tuple, int]]:
    """Where each eye stands in each of ``sides``: by the name of its file; where that occurs twice
    on one of them, by the patient, too; then by the eye, as of P01/OD/1.png.

    Warns of what bears one name even so, as visits and the B-scans of a volume do, and leaves it
    out: nobody can tell which goes with which.
    """
    keys = [[(eye_name(s.path), s.patient, s.eye or "") for s in scans] for scans in sides]
    twice = set()
    for much in (1, 2, 3):
        for own in keys:
            counts = Counter(key[:much] for key in own)
            twice |= {key for key, count in counts.items() if count > 1}
    found, unsure = [], []
    for scans, own in zip(sides, keys):
        found.append({})
        for i, key in enumerate(own):
            short = next((key[:much] for much in (1, 2, 3) if key[:much] not in twice), None)
            if short is None:
                unsure.append(scans[i].path)
            else:
                found[-1][short] = i
    if unsure:
        warnings.warn(
            f"{len(unsure)} pictures bear one name with others of the same eye ({unsure[0]}, "
            f"{unsure[1]}, ...): which goes with which is not known, and they are left out.",
            stacklevel=4,
        )
    return found


def one_person(photograph: Scan, scan: Scan) -> bool:
    """Whether the two may show one patient: the same name, or a stand-in for an unknown one and the
    same class, for 001.png lies in the folders of all classes; and not the one eye and the other.
    """
    if photograph.eye and scan.eye and photograph.eye != scan.eye:
        return False
    unknown = any(BLOCK_PATIENT.search(one.patient) for one in (photograph, scan))
    return photograph.label == scan.label if unknown else photograph.patient == scan.patient


def as_right_eyes(data: Data) -> Data:
    """``data`` with left eyes mirrored: the optic disc lies to the right in all."""

    def one(split: Split) -> Split:
        images = np.array(split.images)
        left = [side_of_body(scan.path) == "left" for scan in split.scans]
        images[left] = images[left][..., ::-1]
        return Split(images, split.scans)

    return replace(data, **{side: one(getattr(data, side)) for side in SIDES})


def as_taken(images, scans: list[Scan], domains: Domains):
    """Images (N, C, S, S), a tensor, as their eyes lie in the files: left ones of oriented domains
    mirrored back."""
    if not domains.oriented:
        return images
    left = [side_of_body(scan.path) == "left" for scan in scans]
    images = images.clone()
    images[left] = images[left].flip(3)
    return images


def side_of_body(path: str) -> str | None:
    """ "left", "right", or None where the file's name does not say it."""
    found = {EYES[word] for word in eye_name(path).split("_") if word in EYES}
    return found.pop() if len(found) == 1 else None


def matched(dfe: Split, oct: Split) -> tuple[Split, Split, int]:
    """The pairs of both, in one order, and how many images have no partner.

    Warns, with their names, of a patient's left and right eye that are each alone.
    """
    names = by_name(dfe.scans, oct.scans)
    both = sorted(
        name for name in names[0].keys() & names[1].keys()
        if one_person(*(split.scans[own[name]] for split, own in zip((dfe, oct), names)))
    )  # fmt: skip
    alone = [[split.scans[i] for n, i in own.items() if n not in both]
             for split, own in zip((dfe, oct), names)]  # fmt: skip
    for photograph in alone[0]:
        one = side_of_body(photograph.path)
        for scan in alone[1]:
            other = side_of_body(scan.path)
            same = photograph.patient == scan.patient
            if same and one and other and one != other:
                warnings.warn(
                    f"{photograph.path} is a {one} eye, {scan.path} a {other} one: no pair.",
                    stacklevel=3,
                )
    picked = []
    for split, own in zip((dfe, oct), names):
        chosen = [own[name] for name in both]
        picked.append(Split(np.asarray(split.images)[chosen], [split.scans[i] for i in chosen]))
    return *picked, len(dfe) + len(oct) - 2 * len(both)


def unpaired_batches(domains: Domains, batch_size, *, seed=0, **where):
    """Endless ((photographs, labels), (scans, labels)), each shuffled for itself.

    Every class comes equally often on both sides. A translator that is to draw what cannot be told
    from scans draws diseases as often as the scans have them; were they rarer among the
    photographs, it would have to make healthy eyes ill.
    """
    streams = []
    for k, data in enumerate((domains.dfe, domains.oct)):
        labels = domains.numbers(data.train)
        streams.append(batches(data.train.images, batch_size, labels=labels, seed=2 * seed + k,
                               index=balanced_index(labels), **where))  # fmt: skip
    return zip(*streams)


def paired_batches(domains: Domains, batch_size, *, seed=0, **where):
    """Endless (photographs and scans as four channels (B, 4, S, S), labels)."""
    both = np.concatenate([domains.dfe.train.images, domains.oct.train.images], 1)
    return batches(both, batch_size, labels=domains.numbers(domains.dfe.train), seed=seed, **where)


def all_simulated(scans: list[Scan]) -> bool:
    """Whether the truth of all of these eyes is known."""
    return all(scan.dataset == "simulated" for scan in scans)


def truths_of(scans: list[Scan], size: int, framing: str):
    """What is in simulated scans of ``size`` px: a list of ``simulate.Truth``, and the micrometres
    (N,) that a row of each stands for in its ``framing``."""
    truths = [simulated_eye(scan, size, ()).truth for scan in scans]
    um_per_row = [truth.oct_um_per_px[1] for truth in truths]
    if framing == "band":
        made = [simulated_eye(scan, max(size, 256), ["oct"]).oct for scan in scans]
        um_per_row = [um * len(band(oct)) / len(oct) for um, oct in zip(um_per_row, made)]
    return truths, np.array(um_per_row)

"""What was found in a source, before anything is trained: as a table, and as intake.json.

``sources.take_in`` makes it; ``python -m helpers.data FOLDER`` prints it.
"""

import json
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from helpers.data.scan import BLOCK_PATIENT, DEVICES, Scan, ending, in_source, shown, some

SHOWN = 8  # names of one kind in the table; the json has all
HALF = 0.5  # of the scans under one patient, from which on that is doubted
NOT_DATA = (
    "not an image", "hidden", "the system's own", "a table", "part of a volume", "a run of",
    "a report of",
    "of another modality:",
)  # fmt: skip


@dataclass
class Intake:
    """``scans`` are used, ``left_out`` are (path, why): together every file that was found.

    ``layout``: of "class", "person", "eye", "visit", what says it. ``doubts``: sentences on what
    may have been read wrongly.
    """

    source: str
    modality: str
    scans: list[Scan]
    left_out: list[tuple[str, str]] = field(default_factory=list)
    layout: dict[str, str] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return table(self)


def classes(intake: Intake) -> dict[str, dict[str, int]]:
    """Of every class its scans, patients and eyes; a patient whose eyes are not named has none."""
    found = {}
    for scan in intake.scans:
        found.setdefault(scan.label, []).append(scan)
    return {
        label: {
            "scans": len(those),
            "patients": len({scan.patient for scan in those}),
            "eyes": len({(scan.patient, scan.eye) for scan in those if scan.eye}),
        }
        for label, those in sorted(found.items())
    }


def reasons(intake: Intake) -> dict[str, int]:
    """How many files were left out for each reason, the most frequent first."""
    return dict(Counter(why for _, why in intake.left_out).most_common())


def missed(intake: Intake) -> dict[str, int]:
    """``reasons`` without those of files that nobody takes for scans."""
    return {why: n for why, n in reasons(intake).items() if not why.startswith(NOT_DATA)}


def opened(intake: Intake) -> Intake:
    """The same, with the px of every scan; files that are no pictures are left out. Only the heads
    of files are read: one may still be cut."""

    def size(scan: Scan):
        if scan.dataset in ("simulated", "npz", "volume"):
            return scan.width, scan.height
        try:
            with Image.open(scan.path) as picture:
                return picture.size
        except Exception as error:  # decoders raise many kinds
            return str(getattr(error, "strerror", None) or error).split(scan.path)[0].strip(" '")

    scans, left_out = [], list(intake.left_out)
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # of large pictures; threads share one filter
        for scan, found in zip(intake.scans, pool.map(size, intake.scans)):
            if isinstance(found, str):
                why = f"cannot be read ({found or 'no picture'})"
                left_out.append((in_source(scan.path, intake.source), why))
            else:
                scans.append(replace(scan, width=found[0], height=found[1]))
    return replace(intake, scans=scans, left_out=left_out)


def sizes(intake: Intake) -> dict[str, int]:
    """ "768 x 496": how many scans have it, as far as it is known (``opened``)."""
    found = Counter(f"{s.width} x {s.height}" for s in intake.scans if s.width and s.height)
    return dict(found.most_common())


def devices(intake: Intake) -> dict[str, int]:
    """How many scans come from files of which device; of pictures nobody knows."""
    names = DEVICES | {".xml": "Heidelberg", ".tif": "a TIFF stack", ".tiff": "a TIFF stack"}
    found = Counter(
        names.get(ending(scan.path.rpartition("#")[0]), "DICOM")
        for scan in intake.scans if scan.dataset == "volume"
    )  # fmt: skip
    unknown = len(intake.scans) - found.total()
    return dict(found.most_common()) | ({"unknown, pictures": unknown} if unknown else {})


def doubts_of(scans: list[Scan]) -> list[str]:
    """What looks wrong in a list of scans, as sentences."""
    doubts, known = [], [scan for scan in scans if not BLOCK_PATIENT.search(scan.patient)]
    patients = Counter(scan.patient for scan in known)
    if len(patients) > 1:
        name, count = patients.most_common(1)[0]
        if count >= HALF * len(scans) and len({scan.patient for scan in scans}) > 2:
            doubts.append(
                f"one patient, {shown(name)}, holds {count} of {len(scans)} scans: is that one "
                "person?"
            )
    of = {}
    for scan in scans:
        of.setdefault(scan.label, set()).add(scan.patient)
    alone = sorted(label for label, those in of.items() if len(those) == 1)
    if alone and len(of) > 1:
        doubts.append(
            f"only one patient has {some(alone, SHOWN)}: it cannot be both learned and tested"
        )
    eyes = {}
    for scan in known:
        if scan.eye:
            eyes.setdefault((scan.patient, scan.eye), {}).setdefault(scan.label, scan.path)
    several = {eye: those for eye, those in eyes.items() if len(those) > 1}
    if several:
        (patient, eye), those = next(iter(several.items()))
        doubts.append(
            f"{len(several)} eyes have more than one class: {shown(patient)} {eye} is "
            + " and ".join(f"{shown(c)} ({shown(Path(p).name)})" for c, p in sorted(those.items()))
        )
    return doubts


def table(intake: Intake) -> str:
    """The intake as text, for a screen 100 characters wide."""
    scans = intake.scans
    stand_ins = {s.patient for s in scans if BLOCK_PATIENT.search(s.patient)}
    people = len({s.patient for s in scans} - stand_ins)
    eyes = len({(s.patient, s.eye) for s in scans if s.eye})
    lines = [
        f"{shown(intake.source)}: {len(scans)} scans of modality {intake.modality}, "
        f"{people} patients"
        + (f", {eyes} eyes named" if eyes else "")
        + (f", {len(stand_ins)} stand-ins for patients" if stand_ins else "")
    ]
    lines += [f"  {role:8} {what}" for role, what in intake.layout.items()]
    lines += ["", f"  {'class':24}{'scans':>8}{'patients':>10}{'eyes':>8}"]
    lines += [
        f"  {shown(label):24}{n['scans']:8}{n['patients']:10}{n['eyes'] or '-':>8}"
        for label, n in classes(intake).items()
    ]
    if found := sizes(intake):
        lines += ["", f"  px       {_counted(found)}"]
    if any(scan.dataset == "volume" for scan in scans):
        lines.append(f"  device   {_counted(devices(intake))}")
    if sides := Counter(scan.side for scan in scans if scan.side):
        lines.append(f"  split    {_counted(sides)} (as published)")
    if intake.left_out:
        lines += ["", f"  left out {len(intake.left_out):14}"]
        for why, count in list(reasons(intake).items())[: 3 * SHOWN]:
            those = [shown(path) for path, reason in intake.left_out if reason == why]
            lines.append(f"  {count:8}  {shown(why)}: {those[0]}{', ...' if count > 1 else ''}")
    lines += [""] * bool(intake.doubts) + [f"  doubt: {shown(doubt)}" for doubt in intake.doubts]
    return "\n".join(lines)


def as_json(intake: Intake) -> str:
    """The intake as intake.json: all of it, paths relative to the source."""
    about = {
        "source": shown(intake.source),
        "modality": intake.modality,
        "layout": intake.layout,
        "classes": classes(intake),
        "sizes": sizes(intake),
        "devices": devices(intake),
        "doubts": [shown(doubt) for doubt in intake.doubts],
        "left_out": [[shown(path), shown(why)] for path, why in intake.left_out],
        "scans": [
            [shown(in_source(s.path, intake.source)), s.label, s.patient, s.eye]
            for s in intake.scans
        ],
    }
    return json.dumps(about, indent=1, ensure_ascii=False) + "\n"


def _counted(counts: dict) -> str:
    those = [f"{shown(name)} ({count})" for name, count in list(counts.items())[:SHOWN]]
    return ", ".join(those) + (", ..." if len(counts) > SHOWN else "")

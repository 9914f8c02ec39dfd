"""Where the images are and who the patient is: every source becomes one list of scans.

A patient is known from a manifest, from OCT_PATIENT, from the file name where there is a rule
(OCT2017: CLASS-PATIENT-N; ODIR: the leading number; what stands before OD or OS), or from a folder
(``layout``). Else blocks of 50 consecutive frames stand in, with a warning.
"""

import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from helpers.data import hospital, layout, listing, public_sets
from helpers.data.intake import Intake, doubts_of
from helpers.data.manifest import WORKBOOKS, by_images_csv, manifest, workbook
from helpers.data.scan import (
    BLOCK,
    CLASSES,
    PICTURES,
    Scan,
    condition,
    dataset_of,
    ending,
    in_source,
    natural_order,
    shown,
)
from helpers.data.simulated import anatomy, photograph_picture

NAMED = ("simulated", "oct2017", "odir")
TABLES = (".csv", ".tsv", ".txt")
SYNTHETIC = "marked as synthetic"


def load_manifest(source, **how) -> list[Scan]:
    """Every scan that ``source`` has: those of ``take_in``, whose doubts become warnings."""
    intake = take_in(source, **how)
    for doubt in intake.doubts:
        warnings.warn(f"{shown(source)}: {doubt}", stacklevel=2)
    return intake.scans


def take_in(
    source, *, modality="oct", n_simulated=600, size=224, synthetic=None, patient=None
) -> Intake:
    """What ``source`` has of ``modality`` ("oct" or "dfe"): every file accounted for.

    ``source`` is "simulated", "oct2017", "odir", a manifest.csv, a folder, or a .npz
    with ``images`` uint8 (N, H, W) or (N, H, W, 3), and names ``labels`` and ``patients`` (N,).
    ``n_simulated`` counts patients per class, of two eyes each, ``size`` their px. ``synthetic``:
    what this project has made and marked is left out among other scans, and read where there is
    nothing else (None), never (False) or always (True). ``patient``: a regular expression that
    finds the person in a path below the source (default: OCT_PATIENT). Raises FileNotFoundError or
    ValueError that names the source and says what was looked for.
    """
    name = str(source)
    if name == "simulated":
        scans = simulated(n_simulated, modality, max(size, 64))
        return Intake(name, modality, scans, layout={"class": "the simulation's own"})
    if (name, modality) in (("oct2017", "dfe"), ("odir", "oct")):
        raise ValueError(f"{name} has no {modality.upper()} images: use it for the other modality.")
    if name == "oct2017":
        return _finished(public_sets.oct2017())
    if name == "odir":
        return _finished(public_sets.odir())
    path = Path(name)
    kind = ending(path.name)
    try:
        is_file, is_dir = path.is_file(), path.is_dir()
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"{shown(name)[:200]}: cannot be opened ({error})") from None
    if is_file and kind in WORKBOOKS:
        raise ValueError(workbook(path))
    if is_file and kind == ".npz":
        intake = Intake(name, modality, packed(path, modality))
    elif is_file and kind in TABLES:
        scans, left_out, doubts = manifest(path, modality)
        scans = found_by_pattern(scans, path.parent, patient)
        says = {"class": "the table's label", "person": "the table's patient"}
        intake = Intake(name, modality, scans, left_out, says, doubts)
    elif is_dir:
        intake = folder(path, modality, patient)
    else:
        raise FileNotFoundError(
            f"{shown(name)}: neither a folder, a manifest.csv nor a .npz, nor one of "
            f"{', '.join(NAMED)}. Point OCT_DATA (OCT_DFE for photographs) at your images."
        )
    without_synthetic(intake, synthetic)
    return _finished(intake)


def found_by_pattern(scans: list[Scan], root: Path, pattern: str | None) -> list[Scan]:
    """The scans of a table, those of an unknown patient ("") with what OCT_PATIENT finds."""
    pattern = os.environ.get("OCT_PATIENT", "") if pattern is None else pattern
    unknown = [scan for scan in scans if not scan.patient]
    if not (pattern and unknown):
        return scans
    files = [in_source(scan.path, root).split("/") for scan in unknown]
    places = [layout.Place(scan.label, "", scan.eye) for scan in unknown]
    found = iter(layout.with_pattern(files, places, pattern))
    return [s if s.patient else replace(s, patient=next(found).patient) for s in scans]


def _finished(intake: Intake) -> Intake:
    """With stand-ins for patients that nobody knows, and what looks wrong in the whole."""
    intake.scans = stand_in_patients(intake.scans, intake.doubts)
    intake.doubts += doubts_of(intake.scans)
    return intake


def simulated(patients: int, modality: str, size: int) -> list[Scan]:
    """Both eyes of ``patients`` simulated patients per class; no patient has two classes.

    The height that an OCT spans differs from eye to eye, so its scale stands in simulate.Truth.
    """
    um = (
        anatomy.SCAN_WIDTH_UM / size
        if modality == "oct"
        else photograph_picture.FIELD_OF_VIEW_UM / size / 0.97
    )
    return [
        Scan(f"simulated/{label}/P{number:05}_{eye}", modality, "simulated", label, f"P{number:05}",
             size, size, um, None if modality == "oct" else um, eye=eye)
        for index, label in enumerate(CLASSES)
        for number in range(index * 10_000, index * 10_000 + patients)
        for eye in ("OD", "OS")
    ]  # fmt: skip


def packed(path: Path, modality: str) -> list[Scan]:
    """The scans of a .npz, a data set in one file: see ``take_in``."""
    try:
        arrays = _arrays(str(path), *_changed(path))
        images, labels, patients = (arrays[k] for k in ("images", "labels", "patients"))
    except Exception as error:  # KeyError, ValueError, OSError, BadZipFile, EOFError
        raise ValueError(
            f"{shown(path)}: needs the arrays images, labels and patients ({error})"
        ) from None
    pictures = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
    if images.dtype != np.uint8 or not (
        pictures and labels.shape == patients.shape == images.shape[:1]
    ):
        raise ValueError(
            f"{shown(path)}: images {images.dtype} {images.shape}, labels {labels.shape} and "
            f"patients {patients.shape}; needs uint8 (N, H, W) or (N, H, W, 3), and (N,) of each."
        )
    labels, patients = (  # bytes, as of an HDF5 file, are text
        np.char.decode(names, "utf-8", "replace") if names.dtype.kind == "S" else names
        for names in (labels, patients)
    )
    return [
        Scan(f"{path}#{k}", modality, "npz", condition(str(label)), str(patient),
             images.shape[2], images.shape[1])
        for k, (label, patient) in enumerate(zip(labels, patients))
    ]  # fmt: skip


def _changed(path) -> tuple[int, int]:
    about = os.stat(path)
    return about.st_size, about.st_mtime_ns


@lru_cache(maxsize=4)
def _arrays(path: str, _size: int, _time: int) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def packed_image(path: str) -> np.ndarray:
    """The pixels of FILE.npz#INDEX."""
    file, _, index = path.rpartition("#")
    return _arrays(file, *_changed(file))["images"][int(index)]


def folder(path: Path, modality: str, pattern: str | None = None) -> Intake:
    """What lies in a folder and below it: see ``layout``. A patient is "" where nobody knows.

    The class is the last folder that bears the name of a condition, else what the file name says
    (OCT2017's CLASS-PATIENT-N), else a folder by whose few names the files are parted, else the
    folder's own name. In a copy of ODIR-5K, full_df.csv tells it.
    """
    found = listing.walk(path)
    table = next((parts for parts in found.tables if parts[-1].lower() == "full_df.csv"), None)
    if table and modality == "dfe":
        return public_sets.odir(path, found)
    not_scans = listing.beside(found.pictures, modality)
    if table:
        photographs = public_sets.photographs_of(path.joinpath(*table))
        not_scans |= {
            parts: "of the other modality: a photograph of ODIR" for parts in found.pictures
            if parts[-1].lower() in photographs
        }  # fmt: skip
    volumes, refused, members = volumes_of(path, found, modality)
    not_scans |= {parts: "part of a volume" for parts in members}
    files = [parts for parts in found.pictures if parts not in not_scans]
    if volumes:
        files = sorted({*files, *volumes}, key=lambda parts: natural_order("/".join(parts)))
    left_out = [
        *refused.items(), *not_scans.items(), *((parts, "a table") for parts in found.tables),
    ]  # fmt: skip
    name = dataset_of(path)
    intake = Intake(str(path), modality, [])
    intake.left_out = [*found.left_out, *(("/".join(parts), why) for parts, why in left_out)]
    if not files:
        has = "; ".join(f"{shown(p)}: {shown(why)}" for p, why in intake.left_out[:3])
        raise FileNotFoundError(
            f"{shown(path)}: no image in it or below it ({', '.join(sorted(PICTURES))})."
            + (f" What there is: {has}." if has else "")
        )
    known = by_images_csv(path, found.tables)
    places, intake.layout, intake.doubts = layout.read_layout(files, name, modality, known)
    pattern = os.environ.get("OCT_PATIENT", "") if pattern is None else pattern
    if pattern:
        places = layout.with_pattern(files, places, pattern)
        intake.layout["person"] = f"OCT_PATIENT={pattern}"
    else:
        places = one_person(files, places, volumes, intake.doubts)
    for parts, place in zip(files, places):
        if place.label is None:
            intake.left_out.append(("/".join(parts), "lies outside of every class folder"))
            continue
        file = os.path.join(path, *parts)
        for volume in volumes.get(parts, ()):
            intake.scans += scans_of(volume, file, modality, place)
            intake.doubts += [f"{shown(parts[-1])}: {note}" for note in volume.notes]
        if parts not in volumes:
            intake.scans.append(
                Scan(file, modality, name, place.label, place.patient, eye=place.eye)
            )
    return intake


def one_person(files, places, volumes, doubts) -> list[layout.Place]:
    """Places in which folders whose volumes bear one patient id of the device are one patient; and
    a doubt where neither folder nor file names anybody."""
    names, nobody = {}, 0
    for parts, place in zip(files, places):
        for volume in volumes.get(parts, ()):
            if volume.patient_known and place.patient:
                names.setdefault(volume.patient, {})[place.patient] = None
            nobody += not (volume.patient_known or place.patient)
    if nobody:
        doubts.append(
            f"{nobody} volumes name no patient, and no folder does; each file is taken for a "
            "patient of its own, though both eyes of a person may lie in two. Put each patient "
            "into a subfolder, or say by OCT_PATIENT='regular expression' what names the person."
        )
    several = [list(those) for those in names.values() if len(those) > 1]
    if not several:
        return places
    some = " and ".join(map(shown, several[0][:3]))
    if len(names) == 1:
        doubts.append(f"the volumes of all folders bear one patient id: are {some} one person?")
        return places
    doubts.append(f"{len(several)} patient ids lie in several folders, which are taken for one "
                  f"person each: {some}")  # fmt: skip
    same = {}
    for those in several:
        joined = {same.get(name, name) for name in those}
        first = min(joined)
        same |= {name: first for name, to in same.items() if to in joined}
        same |= dict.fromkeys((*those, *joined), first)
    return [replace(place, patient=same.get(place.patient, place.patient)) for place in places]


def volumes_of(path: Path, found: listing.Listing, modality: str):
    """What lies in a folder as whole volumes: {parts of the path: volumes}, {parts: why not}, and
    the parts of pictures that belong to a volume."""
    volumes, refused, members = {}, {}, set()
    stacks = [parts for parts in found.pictures if ending(parts[-1]) in (".tif", ".tiff")
              and hospital.is_hospital_file(path.joinpath(*parts))]  # fmt: skip
    there = {(*parts[:-1], parts[-1].lower()) for parts in found.devices}
    for parts in [*found.devices, *stacks]:
        if modality != "oct":
            refused[parts] = "of the other modality: a volume of B-scans"
            continue
        twin = hospital.resampled_twin(parts[-1])
        if (*parts[:-1], twin) in there:
            refused[parts] = "the raw form of a cube that lies beside it resampled"
            continue
        file = path.joinpath(*parts)
        try:
            volumes[parts] = hospital.read_volumes(file)
            members |= {(*parts[:-1], picture.name) for picture in hospital.pictures_of(file)}
        except (ValueError, OSError, ImportError) as error:
            refused[parts] = str(error).removeprefix(f"{file}: ")
    return volumes, refused, members | {parts for parts in stacks if parts in refused}


def scans_of(volume, file: str, modality: str, place) -> list[Scan]:
    """The B-scans of a ``hospital.Volume``, every OCT_EVERY-th of them, of the person that the
    folders name, or else the file. With OCT_SPLIT=volumes a volume counts as a person."""
    patient = place.patient or volume.patient
    split = os.environ.get("OCT_SPLIT") or "patients"
    if split not in ("patients", "volumes"):
        raise ValueError(f"OCT_SPLIT={split!r}: choose patients or volumes.")
    if split == "volumes":
        patient = f"{patient} {volume.volume}"
    every = os.environ.get("OCT_EVERY") or "1"
    if not every.isdecimal() or int(every) < 1:
        raise ValueError(f"OCT_EVERY={every!r}: a whole number from 1 up; 1 takes all B-scans.")
    count, step = len(volume.frames), int(every)
    scans = []
    for i in range((count // 2) % step, count, step):  # the middle one, nearest the fovea, is kept
        number, line = volume.numbers[i], volume.lines[i]
        scans.append(
            Scan(f"{file}#{volume.first + number}", modality, "volume", place.label, patient,
                 volume.width, volume.height, volume.um_per_px_x, volume.um_per_px_y, number,
                 eye=volume.eye or place.eye, volume=volume.volume,
                 line=line and " ".join(f"{end:.1f}" for end in line))
        )  # fmt: skip
    return scans


def says_synthetic(path) -> bool:
    """Whether a file is a PNG, whatever it is called, that bears the mark of this project."""
    try:
        with open(path, "rb") as file:
            return is_marked(file.read(2000))
    except (OSError, ValueError):
        return False  # it is named where it is decoded


def is_marked(content: bytes) -> bool:
    """Whether the first bytes of a PNG say that it is synthetic (``marks.describe_png``)."""
    return content[:8] == b"\x89PNG\r\n\x1a\n" and b"tEXtSynthetic\0true" in content[:2000]


def without_synthetic(intake: Intake, synthetic: bool | None) -> None:
    """Leave out what is marked as synthetic, see ``take_in``. JPEGs by their names are taken at
    their word here, for 100,000 of them need not be opened; ``prepare`` looks at what it reads."""
    if synthetic:
        return
    able = [s for s in intake.scans if ending(s.path) not in (".jpg", ".jpeg", ".jpe", ".jfif")
            and s.dataset not in ("simulated", "npz")]  # fmt: skip
    with ThreadPoolExecutor() as pool:
        marked = {scan for scan, said in zip(able, pool.map(says_synthetic,
                  [scan.path for scan in able])) if said}  # fmt: skip
    if not marked:
        return
    first = shown(Path(next(s for s in able if s in marked).path).name)
    if len(marked) == len(intake.scans):
        if synthetic is False:
            raise ValueError(all_synthetic(intake.source, len(marked), first))
        intake.doubts.append(f"all {len(marked)} images are {SYNTHETIC} ({first}, ...)")
        return
    intake.doubts.append(f"{len(marked)} images are {SYNTHETIC} ({first}, ...) and left out")
    intake.left_out += [
        (in_source(s.path, intake.source), SYNTHETIC) for s in intake.scans if s in marked
    ]
    intake.scans = [scan for scan in intake.scans if scan not in marked]


def all_synthetic(source, count: int, first: str) -> str:
    return (
        f"{shown(source)}: all {count} of its images are {SYNTHETIC} ({first}, ...). What they "
        "teach is their own generator; give real scans."
    )


def stand_in_patients(scans: list[Scan], doubts: list[str]) -> list[Scan]:
    """Scans of unknown patient ("") get blocks of BLOCK consecutive frames, and a sentence says so.

    A frame is numbered by its file name if every name of a folder holds one number of its own,
    else by its place. Folders of one class are numbered each for itself, but for those of sides,
    eyes and visits: their frames of one number are in one block.
    """
    unknown, known = {}, [scan for scan in scans if scan.patient]
    for scan in scans:
        if not scan.patient:
            home = tuple(p for p in Path(scan.path).parent.parts
                         if layout.kind(p) not in ("side", "eye", "visit"))  # fmt: skip
            unknown.setdefault(scan.label, {}).setdefault((home, scan.side), []).append(scan)
    for label, groups in unknown.items():
        homes = {home for home, _ in groups}
        shared = len(os.path.commonpath(["/".join(home) for home in homes]).split("/"))
        for (home, side), group in groups.items():  # no block of two published sides
            below = "/".join(home[shared:]) if len(homes) > 1 else ""
            name = shown("-".join([label, *filter(None, (below, side)), "block"]))
            known += [
                replace(scan, patient=f"{name}{frame // BLOCK}", frame=frame)
                for scan, frame in zip(group, _frames(group))
            ]
    if unknown:
        count = sum(len(group) for groups in unknown.values() for group in groups.values())
        doubts.append(
            f"{count} images name no patient; blocks of {BLOCK} consecutive frames stand in. Put "
            "each patient into a subfolder, write a manifest.csv, or say by OCT_PATIENT='regular "
            "expression' what in the path names the person (its first group, or the one named "
            "patient), for a split you can trust."
        )
    return known


def _frames(scans: list[Scan]) -> list[int]:
    """The numbers of frames: those in the file names, if no two of a folder are alike."""
    numbers = [re.findall(r"\d+", Path(scan.path).stem) for scan in scans]
    frames = [int(found[0]) for found in numbers if len(found) == 1]
    own = {(os.path.dirname(scan.path), frame) for scan, frame in zip(scans, frames)}
    return frames if len(own) == len(frames) == len(scans) else list(range(len(scans)))

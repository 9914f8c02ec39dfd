"""Where the images are and who the patient is: every source becomes one list of scans.

A patient is known from a manifest, from the file name where the data set has a rule (OCT2017:
CLASS-PATIENT-N; ODIR: the leading number), or from a subfolder. Else blocks of 50 consecutive
frames stand in, with a warning.
"""

import csv
import re
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from helpers.data import public_sets
from helpers.data.scan import BLOCK, OCT2017_NAME, ODIR_NAME, Scan, natural_order
from helpers.data.simulated import anatomy, photograph_picture

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif"}
CLASSES = ("NORMAL", "DRUSEN", "DME", "CNV")
NAMED = ("simulated", "oct2017", "odir")
BLOCK_PATIENT = re.compile(r"block(\d+)$")

# other spellings of a manifest's columns
COLUMNS = {
    "file": "path", "filename": "path", "file_name": "path", "image": "path", "image_path": "path",
    "class": "label", "condition": "label", "diagnosis": "label",
    "patient_id": "patient", "patientid": "patient", "subject": "patient", "subject_id": "patient",
}  # fmt: skip
SIDE_FOLDERS = ("train", "training", "val", "valid", "validation", "test", "testing")
CONDITIONS = CLASSES + ("AMD", "DR", "GLAUCOMA", "CATARACT", "MYOPIA", "HYPERTENSION", "OTHER")


def load_manifest(source, *, modality="oct", n_simulated=600, size=224) -> list[Scan]:
    """Every scan of ``modality`` ("oct" or "dfe") that ``source`` has.

    ``source`` is "simulated", "oct2017", "odir", a manifest.csv, a folder, or a .npz
    with ``images`` uint8 (N, H, W) or (N, H, W, 3), and names ``labels`` and ``patients`` (N,).
    ``n_simulated`` counts patients per class, of two eyes each, ``size`` their px. Raises
    FileNotFoundError or ValueError that names the source and says what was looked for.
    """
    name = str(source)
    if name == "simulated":
        return simulated(n_simulated, modality, max(size, 64))
    if (name, modality) in (("oct2017", "dfe"), ("odir", "oct")):
        raise ValueError(f"{name} has no {modality.upper()} images: use it for the other modality.")
    if name == "oct2017":
        return public_sets.oct2017()
    if name == "odir":
        return public_sets.odir()
    path = Path(name)
    if path.suffix == ".csv" and path.is_file():
        return manifest(path, modality)
    if path.suffix == ".npz" and path.is_file():
        return packed(path, modality)
    if path.is_dir() and modality == "dfe" and any(path.rglob("full_df.csv")):
        return public_sets.odir(path)
    if path.is_dir():
        return folder(path, modality)
    raise FileNotFoundError(
        f"{name}: neither a folder, a manifest.csv nor a .npz, nor one of {', '.join(NAMED)}. "
        "Point OCT_DATA (OCT_DFE for photographs) at your images."
    )


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
             size, size, um, None if modality == "oct" else um)
        for index, label in enumerate(CLASSES)
        for number in range(index * 10_000, index * 10_000 + patients)
        for eye in ("OD", "OS")
    ]  # fmt: skip


def condition(label: str) -> str:
    """One spelling per class: "drusen" and "Amd dry" are DRUSEN and AMD_DRY; other names stay."""
    label = label.strip()
    upper = re.sub(r"[\s-]+", "_", label.upper())
    return upper if upper.split("_")[0] in CONDITIONS else label


def manifest(path: Path, modality: str) -> list[Scan]:
    """Rows of a CSV with path, label and patient; modality, dataset, size and scale may follow.

    Paths are relative to the CSV. A patient named ...blockN is a stand-in for BLOCK consecutive
    frames, numbered by the last number in the file name; so are rows without a patient.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        head = file.readline()
        file.seek(0)
        table = csv.DictReader(file, delimiter="," if "," in head else ";")
        names = [name.strip().lower().replace(" ", "_") for name in table.fieldnames or ()]
        table.fieldnames = [COLUMNS.get(name, name) for name in names]
        rows = [{k: (v or "").strip() for k, v in row.items() if k} for row in table]
    missing = {"path", "label", "patient"} - set(table.fieldnames)
    if missing:
        raise ValueError(f"{path}: needs the columns path, label, patient; lacks {sorted(missing)}")
    aliases = {"fundus": "dfe", "cfp": "dfe"}
    scans = []
    for line, row in enumerate(rows, 2):
        kind = (row.get("modality") or modality).lower()
        if aliases.get(kind, kind) != modality:
            continue
        try:
            width, height, um_x, um_y = (
                float(row[name]) if row.get(name) else None
                for name in ("width", "height", "um_per_px_x", "um_per_px_y")
            )
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
        digits = re.findall(r"\d+", Path(row["path"]).stem)
        is_block = BLOCK_PATIENT.search(row["patient"]) and digits
        is_virtual = row.get("dataset") == "simulated"
        scans.append(
            Scan(
                row["path"] if is_virtual else str(path.parent / row["path"]),
                modality,
                row.get("dataset") or path.parent.name,
                condition(row["label"]),
                row["patient"],
                width and int(width),
                height and int(height),
                um_x,
                um_y,
                int(digits[-1]) if is_block else None,
            )
        )
    if not scans:
        raise ValueError(f"{path}: has no row of modality {modality}.")
    return stand_in_patients(scans, str(path))


def packed(path: Path, modality: str) -> list[Scan]:
    """The scans of a .npz, a data set in one file: see ``load_manifest``."""
    try:
        images, labels, patients = (_arrays(str(path))[k] for k in ("images", "labels", "patients"))
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(
            f"{path}: needs the arrays images, labels and patients ({error})"
        ) from None
    if images.dtype != np.uint8 or not len(images) == len(labels) == len(patients):
        raise ValueError(
            f"{path}: images {images.dtype} {images.shape}, {len(labels)} labels and "
            f"{len(patients)} patients; needs uint8 and as many of each."
        )
    scans = [
        Scan(f"{path}#{k}", modality, "npz", condition(str(label)), str(patient),
             images.shape[2], images.shape[1])
        for k, (label, patient) in enumerate(zip(labels, patients))
    ]  # fmt: skip
    return stand_in_patients(scans, str(path))


@cache
def _arrays(path: str) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def packed_image(path: str) -> np.ndarray:
    """The pixels of FILE.npz#INDEX."""
    file, _, index = path.rpartition("#")
    return _arrays(file)["images"][int(index)]


def folder(path: Path, modality: str) -> list[Scan]:
    """Images under ``path``: class subfolders, patient subfolders, both, or flat.

    The class is the last subfolder that bears the name of a condition, else what the file name
    says (OCT2017's CLASS-PATIENT-N), else the first subfolder that is neither a split (train, val,
    test) nor a patient, else the folder's own name. A subfolder below the class, or whose name
    holds a digit, is a patient, where the file name does not say more.
    """
    files = sorted(
        (p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()),
        key=natural_order,
    )
    if not files:
        raise FileNotFoundError(
            f"{path}: no image in it or below it ({', '.join(sorted(SUFFIXES))})."
        )
    scans, name = [], path.resolve().name.strip()
    for file in files:
        parts = [part.strip() for part in file.relative_to(path).parts[:-1]]
        parts = [part for part in parts if part.lower() not in SIDE_FOLDERS]
        conditions = [
            i for i, part in enumerate(parts) if condition(part).split("_")[0] in CONDITIONS
        ]
        words = [i for i, part in enumerate(parts) if not re.search(r"\d", part)]
        at = conditions[-1] if conditions else words[0] if words else -1
        named = OCT2017_NAME.match(file.stem) if modality == "oct" else ODIR_NAME.match(file.stem)
        label = parts[at] if at >= 0 else name
        if named and modality == "oct" and not conditions:
            label = named["label"]
        patient = parts[at + 1 :] or [
            part for part in parts[: max(at, 0)] if re.search(r"\d", part)
        ]
        patient = named["patient"] if named else "/".join(patient)  # "": nobody knows
        scans.append(Scan(str(file), modality, name, condition(label), patient))
    return stand_in_patients(scans, str(path))


def stand_in_patients(scans: list[Scan], source: str) -> list[Scan]:
    """Scans of unknown patient ("") get blocks of BLOCK consecutive frames, with a warning.

    A frame is numbered by its file name if every name of the class holds one number of its own,
    else by its place in the folder.
    """
    unknown, known = {}, [scan for scan in scans if scan.patient]
    for scan in scans:
        if not scan.patient:
            unknown.setdefault(scan.label, []).append(scan)
    for label, group in unknown.items():
        numbers = [re.findall(r"\d+", Path(scan.path).stem) for scan in group]
        frames = [int(found[0]) for found in numbers if len(found) == 1]
        if len(set(frames)) < len(group):
            frames = range(len(group))
        known += [
            replace(scan, patient=f"{label}-block{frame // BLOCK}", frame=frame)
            for scan, frame in zip(group, frames)
        ]
    if unknown:
        warnings.warn(
            f"{source}: {sum(map(len, unknown.values()))} images name no patient; blocks of "
            f"{BLOCK} consecutive frames stand in. Put each patient into a subfolder, or write a "
            "manifest.csv, for a split you can trust.",
            stacklevel=3,
        )
    return known

"""Spreadsheets saved as text: the manifest, and the tables that come with data sets.

Whatever a spreadsheet program writes is read, or named with file and line: encodings, separators,
blank rows, other names of columns, Windows paths.
"""

import csv
import io
import math
import re
from collections import Counter
from pathlib import Path

from helpers.data.scan import BLOCK_PATIENT, Scan, condition, dataset_of, shown

# other spellings of a manifest's columns
COLUMNS = {
    "file": "path", "filename": "path", "file_name": "path", "image": "path", "image_path": "path",
    "file_path": "path", "filepath": "path", "img": "path", "image_file": "path",
    "class": "label", "condition": "label", "diagnosis": "label", "disease": "label",
    "labels": "label", "category": "label",
    "patient_id": "patient", "patientid": "patient", "subject": "patient", "subject_id": "patient",
    "patient_no": "patient", "person": "patient", "pid": "patient",
    "laterality": "eye", "eye_side": "eye",
    "set": "split", "subset": "split", "partition": "split",
}  # fmt: skip
NEEDED = ("path", "label", "patient")
UNKNOWN = {"", "nan", "none", "null", "na", "n/a", "#n/a", "<na>", "nat", "-", "--", "?", "unknown"}
MODALITIES = {"fundus": "dfe", "cfp": "dfe", "bscan": "oct", "b-scan": "oct"}
EYES = {
    "od": "OD", "r": "OD", "re": "OD", "right": "OD", "right_eye": "OD", "right eye": "OD",
    "os": "OS", "l": "OS", "le": "OS", "left": "OS", "left_eye": "OS", "left eye": "OS",
}  # fmt: skip
SIDE_NAMES = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation",
    "validation": "validation", "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip
WORKBOOKS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")


def rows_of(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header and the rows of a table, each with its line in the file, blank rows left out.

    The separator is the one of comma, semicolon and tab that the header has most of. Raises
    ValueError naming the file if it is a workbook, empty, or has a row longer than its header.
    """
    content = path.read_bytes()
    if content[:2] == b"PK" or content[:4] == b"\xd0\xcf\x11\xe0":
        raise ValueError(workbook(path))
    text = decoded(content)
    hint = re.match(r"sep=.\s*?\n", text)  # Excel's own
    skip = 1 if hint else 0
    text = text[hint.end() :] if hint else text
    first = next((line for line in text.splitlines() if line.strip(' ,;\t"')), "")
    separator = max(",;\t", key=first.count)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    header, rows = None, []
    try:
        for row in table:
            row = [value.strip().strip("\ufeff\u200b") for value in row]
            if not any(row):
                continue
            if header is None:
                header = row
            elif any(row[len(header) :]):
                raise ValueError(
                    f"{shown(path)}, line {table.line_num + skip}: {len(row)} values, and the "
                    f"header has {len(header)} columns. Is there a separator within a value?"
                )
            else:
                rows.append((table.line_num + skip, row + [""] * (len(header) - len(row))))
    except csv.Error as error:
        raise ValueError(f"{shown(path)}, line {table.line_num + skip}: {error}") from None
    if header is None:
        raise ValueError(f"{shown(path)}: the table is empty")
    return header, rows


def as_csv(rows) -> str:
    """Rows of values as a table's text."""
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(rows)
    return table.getvalue()


def decoded(content: bytes) -> str:
    """Text of any spreadsheet program: UTF-8, UTF-16 where it says so, else Windows' code page."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", "replace")
    for encoding in ("utf-8-sig", "cp1252", "latin-1"):  # the last reads anything
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue


def workbook(path) -> str:
    return (
        f"{shown(path)}: is a workbook. Save its sheet as text: File > Save As > CSV UTF-8 "
        "(comma delimited), and give that file."
    )


def table_of(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a table as {column: value}, with their lines; columns by their own names in this
    project. ValueError naming both where two columns have one meaning and different values."""
    header, rows = rows_of(path)
    tidy = [re.sub(r"[\s-]+", "_", name.strip().lower()) for name in header]
    names = [COLUMNS.get(name, name) for name in tidy]
    for name, count in Counter(name for name in names if name).items():
        at = [k for k, other in enumerate(names) if other == name]
        line = next((n for n, row in rows if len({row[k] for k in at}) > 1), None)
        if count > 1 and (line or not rows):
            both = " and ".join(repr(header[k]) for k in at)
            raise ValueError(
                f"{shown(path)}: the columns {both} both mean {name}, and differ"
                + (f" (line {line})" if line else "")
                + ". Rename the one that does not."
            )
    return [(line, dict(zip(names, row))) for line, row in rows]


def manifest(path: Path, modality: str) -> tuple[list[Scan], list[tuple[str, str]], list[str]]:
    """The scans of a table with path, label and patient, what was left out, and doubts.

    modality, dataset, width, height, um_per_px_x, um_per_px_y, eye, volume, frame, line and split
    may follow. Paths are relative to the table. A patient named ...blockN is a stand-in for BLOCK
    consecutive frames, numbered by the last number in the file name; the patient is "" where the
    table does not know it. Raises ValueError that names file and line.
    """
    rows = table_of(path)
    has = set().union(*(row for _, row in rows)) if rows else set(NEEDED)
    if missing := sorted(set(NEEDED) - has):
        raise ValueError(
            f"{shown(path)}: needs the columns path, label, patient; lacks {missing}. It has "
            f"{', '.join(shown(name) for name in sorted(has) if name)}."
        )
    scans, left_out, first, sides, floats = [], [], {}, {}, _floats(rows)
    for line, row in rows:
        kind = (row.get("modality") or modality).lower()
        if MODALITIES.get(kind, kind) != modality:
            left_out.append((row["path"], f"of another modality: {kind}"))
            continue
        at = f"{shown(path)}, line {line}"
        if row["path"].lower() in UNKNOWN or row["label"].lower() in UNKNOWN:
            lacks = "label" if row["label"].lower() in UNKNOWN else "path"
            left_out.append((row["path"] or at, f"line {line} has no {lacks}"))
            continue
        scan = _scan(path, row, modality, at, floats)
        if scan.path in first:
            line_before, before = first[scan.path]
            if (before.label, before.patient) != (scan.label, scan.patient):
                raise ValueError(
                    f"{at}: {shown(row['path'])} is {shown(scan.label)} of patient "
                    f"{shown(scan.patient) or 'unknown'} here, and {shown(before.label)} of "
                    f"{shown(before.patient) or 'unknown'} in line {line_before}."
                )
            left_out.append((row["path"], "named twice in the table"))
            continue
        first[scan.path] = line, scan
        if scan.side and scan.patient:
            line_before, before = sides.setdefault(scan.patient, (line, scan.side))
            if before != scan.side:
                raise ValueError(
                    f"{at}: patient {shown(scan.patient)} is of {scan.side} here and of {before} "
                    f"in line {line_before}. A patient can be on one side only."
                )
        scans.append(scan)
    if not scans:
        raise ValueError(f"{shown(path)}: has no row of modality {modality}.")
    unknown = sum(not scan.patient for scan in scans)
    doubts = []
    if unknown and unknown < len(scans):
        doubts.append(f"{unknown} of {len(scans)} rows name no patient")
    return scans, left_out, doubts


def _floats(rows) -> set[str]:
    """Columns of whole numbers that pandas wrote as floats, for the sake of one that is missing."""
    return {
        name for name in ("label", "patient")
        if all(re.fullmatch(r"\d+\.0", row.get(name, "")) or row.get(name, "").lower() in UNKNOWN
               for _, row in rows)
    }  # fmt: skip


def _scan(path: Path, row: dict, modality: str, at: str, floats: set[str]) -> Scan:
    label, patient = (row[name].removesuffix(".0") if name in floats else row[name]
                      for name in ("label", "patient"))  # fmt: skip
    patient = "" if patient.lower() in UNKNOWN else shown(patient)
    virtual = row.get("dataset") == "simulated"
    file = row["path"] if virtual else str(found_file(path.parent, row["path"]))
    digits = re.findall(r"\d+", Path(file).stem)
    frame = number(row, "frame", at)
    if frame is None and BLOCK_PATIENT.search(patient):
        frame = int(digits[-1]) if digits else frame
    width, height = (number(row, name, at) for name in ("width", "height"))
    um_x, um_y = (number(row, name, at) for name in ("um_per_px_x", "um_per_px_y"))
    for name, value in (("width", width), ("height", height), ("um_per_px_x", um_x),
                        ("um_per_px_y", um_y)):  # fmt: skip
        if value is not None and value <= 0:
            raise ValueError(f"{at}: {name} is {row[name]}, and has to be above 0")
    return Scan(
        file, modality, row.get("dataset") or dataset_of(path.parent), condition(shown(label)),
        patient, width and int(width), height and int(height), um_x, um_y,
        None if frame is None else int(frame),
        one_of(row, "split", SIDE_NAMES, at),
        one_of(row, "eye", EYES, at),
        row.get("volume") or None,
        row.get("line") or None,
    )  # fmt: skip


def number(row: dict, name: str, at: str) -> float | None:
    """A value as a number, None where it is unknown; a decimal comma is one."""
    value = row.get(name, "")
    if value.lower() in UNKNOWN:
        return None
    try:
        found = float(value.replace(",", "."))
    except ValueError:
        raise ValueError(f"{at}: {name} is {shown(value)!r}, and has to be a number") from None
    return found if math.isfinite(found) else None


def one_of(row: dict, name: str, known: dict, at: str) -> str | None:
    """A value as this project spells it, None where it is unknown."""
    value = row.get(name, "").lower()
    if value in UNKNOWN:
        return None
    if value not in known:
        raise ValueError(
            f"{at}: {name} is {shown(row[name])!r}; known are {', '.join(sorted(known))}."
        )
    return known[value]


def found_file(folder: Path, name: str) -> Path:
    """The file that a table means: relative to it, with the slashes of Windows, or, of a path on
    another machine, the longest end of it that is there. What is nowhere stays as it is called."""
    plain = folder / name
    if "\\" not in name and not re.match(r"[A-Za-z]:", name) and not name.startswith("/"):
        return plain
    try:
        if plain.exists():
            return plain
    except OSError:
        return plain
    parts = [part for part in re.split(r"[\\/]+", re.sub(r"^[A-Za-z]:", "", name)) if part]
    ends = (folder.joinpath(*parts[k:]) for k in range(len(parts)) if ".." not in parts[k:])
    relative = [folder.joinpath(*parts)] if name.startswith("..") else []
    return next((end for end in (*relative, *ends) if end.exists()), plain)


def by_images_csv(source: Path, tables: list[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """What this project's own images.csv says: the class of every file that it names."""
    found = {}
    for parts in tables:
        if parts[-1] != "images.csv":
            continue
        try:
            rows = table_of(source.joinpath(*parts))
        except (ValueError, OSError):
            continue  # not one of this project
        for _, row in rows:
            if "weights_sha256" in row and row.get("label") and row.get("path"):
                found[(*parts[:-1], *re.split(r"[\\/]+", row["path"]))] = row["label"]
    return found

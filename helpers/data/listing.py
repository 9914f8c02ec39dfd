"""One walk through a folder: every file once, and of those that are no scans, why."""

import os
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from helpers.data.hospital import is_hospital_file
from helpers.data.scan import DEVICES, PICTURES, ending, natural_order, stem_of

SYSTEM = {
    "__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "system volume information",
    "lost+found", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip
MASKS = {
    "mask", "masks", "segmentation", "segmentations", "annotation", "annotations", "groundtruth",
}  # fmt: skip
LAYERS = {
    "layer", "layers", "label", "labels", "contour", "contours", "overlay", "overlays", "seg",
    "gt", "boundaries",
}  # fmt: skip
PHOTOGRAPH_WORDS = {"fundus", "cfp", "dfe", "slo", "faf", "photograph", "photographs"}
OCT_WORDS = {"oct", "octs", "bscan", "bscans"}
PAGES = {"report", "overview", "thumbnail", "preview", "verdict", "legend", "logo", "screenshot"}


@dataclass
class Listing:
    """``pictures``, ``tables`` (.csv) and ``devices``: paths below the folder, as tuples of their
    parts, in natural order. ``left_out``: (path below the folder, why)."""

    pictures: list[tuple[str, ...]] = field(default_factory=list)
    tables: list[tuple[str, ...]] = field(default_factory=list)
    devices: list[tuple[str, ...]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


def walk(source) -> Listing:
    """Every file below a folder. Links are followed after everything else, so that a folder is
    read under its own name first and once; loops, dead ends and what cannot be opened are named."""
    found, links = Listing(), []
    seen = {_identity(path): str(path) for path in Path(source).resolve().parents}
    outside = set(seen.values())
    todo = [((), "")]
    while todo or links:
        parts, why = todo.pop() if todo else links.pop(0)
        path, name = os.path.join(source, *parts), "/".join(parts)
        try:
            identity = _identity(path)
            if identity in seen:
                to = seen[identity]
                circle = to in outside or f"{name}/".startswith(f"{to}/") or not to
                reason = f"a link {'in a circle, ' * circle}to {to or 'the source itself'}"
                found.left_out.append((name, reason))
                continue
            seen[identity] = name
            with os.scandir(path) as entries:
                entries = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            found.left_out.append((name, f"cannot be opened ({error.strerror or error})"))
            continue
        names = {entry.name.lower() for entry in entries if "." in entry.name}
        why = why or _own(names, parts)
        for entry in entries:
            below = (*parts, entry.name)
            try:
                if entry.is_dir():
                    inherited = why or _hidden(entry.name)
                    (links if entry.is_symlink() else todo).append((below, inherited))
                    continue
                reason = why or _hidden(entry.name) or _no_file(entry)
            except OSError as error:
                reason = f"cannot be opened ({error.strerror or error})"
            kind = ending(entry.name)
            if reason:
                found.left_out.append(("/".join(below), reason))
            elif kind in PICTURES:
                found.pictures.append(below)
            elif kind in DEVICES or (
                (kind in (".xml", "") or kind[1:].isdecimal()) and is_hospital_file(entry.path)
            ):
                found.devices.append(below)
            elif kind in (".csv", ".tsv"):
                found.tables.append(below)
            else:
                found.left_out.append(("/".join(below), f"not an image ({kind or 'no ending'})"))
    for those in (found.pictures, found.tables, found.devices):
        those.sort(key=lambda parts: natural_order("/".join(parts)))
    found.left_out.sort(key=lambda one: natural_order(one[0]))
    return found


def _identity(path):
    status = os.stat(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _hidden(name: str) -> str:
    if name.startswith("."):
        return f"hidden ({name})" if not name.startswith("._") else "hidden (a Mac's ._ file)"
    return f"the system's own ({name})" if name.lower() in SYSTEM else ""


def _no_file(entry) -> str:
    if entry.is_file():
        return ""
    dead = entry.is_symlink() and not os.path.exists(entry.path)
    return f"a link to nothing ({os.readlink(entry.path)})" if dead else "no file but a device"


def _own(names: set[str], parts: tuple) -> str:
    """What this project itself has written below a source: the report of an evaluation, a run."""
    if "report.json" in names and names & {"report.html", "verdict.png"} and parts:
        return "a report of this project"
    return "a run of this project" if "metrics.jsonl" in names and parts else ""


def beside(pictures: list[tuple[str, ...]], modality: str) -> dict[tuple[str, ...], str]:
    """Which pictures are no scans of ``modality`` by their names, and why: masks beside the scans,
    pages, pictures of the other modality. If that is all there is, none."""
    at = {(parts[:-1], stem_of(parts[-1]).lower()) for parts in pictures}
    scans = {stem for folders, stem in at if not _mask_folders(folders)[1]}
    why = {}
    own, other = OCT_WORDS, PHOTOGRAPH_WORDS
    if modality == "dfe":
        own, other = other, own
    told = own | other

    def last(names) -> frozenset:
        """The words of the last name that tells the modality; those of ``own`` if none does."""
        return next((words for words in map(_words, reversed(names)) if words & told), own)

    of_folder = {folders: last(folders) for folders in {parts[:-1] for parts in pictures}}
    for parts in pictures:
        stem = stem_of(parts[-1]).lower()
        words = _words(stem)
        if stem in PAGES:
            why[parts] = "a page or a drawing by its name"
        elif _is_mask(parts, stem, words, at, scans):
            why[parts] = "a mask beside a scan"
        elif not (words if words & told else of_folder[parts[:-1]]) & own:
            why[parts] = "of the other modality by its name"
    return why if len(why) < len(pictures) else {}


@cache
def _words(part: str) -> frozenset[str]:
    return frozenset(re.split(r"[\W_]+", part.lower().strip()))


def _is_mask(parts, stem: str, words: frozenset, at: set, scans: set) -> bool:
    """scan_mask.png beside scan.png; layers/scan.png where there is images/scan.png; all that
    lies in a folder called masks."""
    for word in words & (MASKS | LAYERS):
        for bare in (
            stem.removesuffix(word).rstrip(" _.-"),
            stem.removeprefix(word).lstrip(" _.-"),
        ):
            if bare != stem and (parts[:-1], bare) in at:
                return True
    masks, layers = _mask_folders(parts[:-1])
    return masks or (layers and stem in scans)


@cache
def _mask_folders(folders: tuple) -> tuple[bool, bool]:
    """Whether one of the folders is for masks, and whether one may be for layers."""
    words = [_words(folder) for folder in folders]
    masks = any(those & MASKS and len(those) < 3 for those in words)
    return masks, any(those <= LAYERS for those in words)

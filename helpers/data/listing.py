"""One walk through a folder: every file once, and of those that are no scans, why."""

import os
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from helpers.data.scan import DEVICES, PICTURES, ending, natural_order

SYSTEM = {
    "__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "system volume information",
    "lost+found", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip
MASKS = set("mask masks segmentation segmentations annotation annotations groundtruth".split())
LAYERS = set("layer layers label labels contour contours overlay overlays seg gt boundaries".split())
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
            elif kind in DEVICES:
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
    stems, why = {}, {}
    for parts in pictures:
        stems.setdefault(Path(parts[-1]).stem.lower(), []).append(parts)
    own, other = OCT_WORDS, PHOTOGRAPH_WORDS
    if modality == "dfe":
        own, other = other, own
    for parts in pictures:
        stem = Path(parts[-1]).stem.lower()
        words = [_words(part) for part in (*parts[:-1], stem)]
        telling = next((those for those in reversed(words) if those & (own | other)), own)
        if stem in PAGES:
            why[parts] = "a page or a drawing by its name"
        elif _is_mask(parts, stem, words[:-1], stems):
            why[parts] = "a mask beside a scan"
        elif not telling & own:
            why[parts] = "of the other modality by its name"
    return why if len(why) < len(pictures) else {}


@cache
def _words(part: str) -> frozenset[str]:
    return frozenset(re.split(r"[\W_]+", part.lower().strip()))


def _is_mask(parts, stem: str, folders: list[frozenset], stems: dict) -> bool:
    """scan_mask.png beside scan.png; layers/scan.png where there is images/scan.png; all that
    lies in a folder called masks."""
    for word in _words(stem) & (MASKS | LAYERS):
        for bare in (stem.removesuffix(word).rstrip(" _.-"), stem.removeprefix(word).lstrip(" _.-")):
            if bare != stem and any(other[:-1] == parts[:-1] for other in stems.get(bare, ())):
                return True
    if any(words & MASKS and len(words) < 3 for words in folders):
        return True
    in_layers = any(len(words) == 1 and words & LAYERS for words in folders)
    return in_layers and any(
        not any(_words(folder) <= LAYERS for folder in other[:-1]) for other in stems[stem]
    )

"""What opening a folder came to, remembered for as long as no file in it changes.

To know whether one has, a folder is walked and its files' sizes and times of change are read; their
names are not understood anew, and nothing is opened. Of 100,000 files that takes a second or two.
"""

import hashlib
import json
import os
import time
import warnings
from dataclasses import astuple
from importlib.util import find_spec
from pathlib import Path

from helpers.data import look, pixels, shape
from helpers.data.cache import reopen
from helpers.data.scan import Scan, digest
from helpers.data.split import SIDES, Data, Split

VERSION = 2  # of what names, spreadsheets and the split make of a folder
SETTLED = 5  # seconds: what was written more recently may change again within one tick of a clock
READERS = ("pydicom", "defusedxml", "pylibjpeg", "imagecodecs")  # without which files are refused
ASKED = ("OCT_PATIENT", "OCT_EVERY", "OCT_SPLIT")  # what a folder is read by besides arguments


def state_of(source) -> str | None:
    """A hash of the names, sizes and times of change of every file below a folder. None where that
    tells too little: no folder, a link to another one, what was written just now."""
    known, newest, todo = hashlib.sha256(), 0, [str(source)]
    try:
        while todo:
            with os.scandir(todo.pop()) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                    continue
                about = entry.stat()
                if entry.is_symlink() and entry.is_dir():
                    return None
                newest = max(newest, about.st_mtime_ns)
                times = f"{about.st_mtime_ns}\0{about.st_ctime_ns}"  # the second: of its name, too
                line = f"{entry.path}\0{about.st_size}\0{times}\n"
                known.update(line.encode("utf-8", "surrogateescape"))
    except OSError:  # what cannot be opened is named where it is read
        return None
    return known.hexdigest() if 0 < newest < (time.time() - SETTLED) * 1e9 else None


def record_of(source, cache: Path, settings: list) -> Path | None:
    """Where it is remembered what ``source`` came to under ``settings``; None where it is not."""
    state = state_of(source)
    if not state:
        return None
    versions = [VERSION, pixels.VERSION, shape.VERSION, look.VERSION]
    asked = [os.environ.get(name) for name in ASKED]
    asked += [find_spec(name) is not None for name in READERS]
    key = json.dumps([os.path.abspath(source), str(source), state, settings, versions, asked])
    return cache / f"{digest(key)[:24]}.opened"


def remember(record: Path, data: Data, pixels_file: Path) -> None:
    """Write ``data`` but for its pixels, which lie in ``pixels_file``, whole, beside it."""
    about = {name: getattr(data, name) for name in
             ("source", "class_", "manifest_hash", "notes", "left_out", "classes")}  # fmt: skip
    sides = {name: [astuple(scan) for scan in getattr(data, name).scans] for name in SIDES}
    part = record.with_suffix(f".{os.getpid()}.part")
    try:
        part.write_text(json.dumps({"pixels": pixels_file.name, "about": about, "sides": sides}))
        part.replace(record)
    except OSError:  # it is understood anew the next time
        part.unlink(missing_ok=True)


def recall(record: Path) -> Data | None:
    """The ``data`` of ``remember``, its notes said again as warnings; None if there is no record,
    or if it or its pixels are no longer whole."""
    try:
        known = json.loads(record.read_text())
        opened = reopen(record.with_name(known["pixels"]))
        sides = {name: [Scan(*row) for row in rows] for name, rows in known["sides"].items()}
        about = known["about"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if opened is None or len(opened[0]) != sum(map(len, sides.values())):
        return None
    images, shapes = opened
    for note in about["notes"]:
        warnings.warn(note, stacklevel=3)
    splits, start = {}, 0
    for name in SIDES:
        those = slice(start, start := start + len(sides[name]))
        splits[name] = Split(images[those], sides[name], None if shapes is None else shapes[those])
    about["left_out"] = [tuple(one) for one in about["left_out"]]
    return Data(**splits, **about)

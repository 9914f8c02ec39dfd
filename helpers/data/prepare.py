"""Sources -> manifest -> patient split -> uint8 cache -> batches.

``prepare`` does all of it; the cache lies on disk and is keyed by the images' content and the
settings, so that a second call reads it in a moment and an edited image is never confused. Of a
folder that has not changed since, not even the names are read anew (``opened``).
"""

import hashlib
import json
import os
import stat
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from helpers.config import root
from helpers.data import opened
from helpers.data.cache import decode
from helpers.data.hospital import picture_of
from helpers.data.intake import Intake, missed
from helpers.data.scan import Scan, digest, in_source, shown
from helpers.data.sources import NAMED, SYNTHETIC, all_synthetic, is_marked, packed_image, take_in
from helpers.data.split import SIDES, TOO_FEW, Data, Split, choose_class, split_patients

UNREAD = "cannot be read"  # by the disk's fault: perhaps another time


def prepare(
    source, *, modality="oct", class_="DRUSEN", size=256, framing="stretch",
    cache=None, seed=0, n_simulated=600, most=None, sides=SIDES, progress=True, synthetic=False,
    intake=None,
) -> Data:  # fmt: skip
    """Find, split by patient, choose, de-duplicate and decode; uint8, ready to train on.

    ``source`` and ``synthetic`` as in ``sources.take_in``, of which ``intake`` is the result where
    it is there already; ``class_`` is one of its classes, several joined by +, or "all" (a source
    of one class trains on that one); ``framing`` as in ``bscan.clean_oct`` and
    ``photograph.clean_dfe``; ``cache`` a folder (default: cache in OCT_RUNS). ``most`` limits the
    scans of each side, where a sample is enough, drawn by a hash of their paths before any is
    read, and only the ``sides`` named are decoded; the others are empty. The split is that of the
    whole source, so that a patient is on the same side in every class; where a side has nothing
    that can be read, the source is split again without what cannot.
    Files that cannot be read are listed in ``left_out``. Of two files of a public set that show one
    picture on two sides of the split, the one that is learned from is left out. Raises ValueError
    for that in a source of one's own, for a class that the source lacks, for fewer than three
    patients, or if no file can be read; OSError naming OCT_RUNS if the cache cannot be written.
    """
    cache = Path(cache or root() / Path(os.environ.get("OCT_RUNS", "runs")).expanduser() / "cache")
    if most and most < 0:
        raise ValueError(f"most={most} (OCT_MAX_IMAGES): choose 1 or more, or 0 for all.")
    sides = sorted(sides, key=SIDES.index)  # the order in which images lie in the cache
    public = str(source) in NAMED  # no folder; nobody can take a picture out of it
    asked = [modality, class_, size, framing, seed, most, sides, synthetic]
    record = None if intake or public else opened.record_of(source, cache, asked)
    if record and (known := opened.recall(record)):
        return known
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        intake = intake or take_in(
            source, modality=modality, n_simulated=n_simulated, size=size, synthetic=synthetic
        )
        for note in [*intake.doubts, *_not_taken(intake)]:
            warnings.warn(note, stacklevel=1)
        scans = intake.scans
        classes = dict(Counter(scan.label for scan in scans))
        chosen, class_ = choose_class(scans, class_, str(source))
        patients = {scan.patient for scan in chosen}
        if len(patients) < 3:
            raise ValueError(
                f"{shown(source)} ({class_}): {TOO_FEW.format(len(patients))}"
                + "".join(f" ({warning.message})" for warning in caught)
            )
        bad, lost, twins, without, fleeting = [], set(), set(), set(), False
        while True:
            split = split_patients([s for s in scans if s.path not in without], seed=seed)
            side_of = {scan: side for side, those in split.items() for scan in those}
            copies, failed = [], []
            there = [scan for scan in chosen if scan.path not in twins | lost]
            hashes = _drawn(there, side_of, sides, most, source, progress, failed, copies,
                            synthetic, cache)  # fmt: skip
            _say_copies(copies, side_of, strict=not public)
            kept = [scan for side in sides for scan in hashes if side_of[scan] == side]
            if not kept:
                raise ValueError(_nothing_left(source, class_, sides[0], bad + failed))
            decoded = decode(
                kept, [hashes[scan] for scan in kept], cache, size=size, framing=framing,
                progress=progress,
            )  # fmt: skip
            warnings.simplefilter("always")  # threads that decode may leave another filter behind
            fleeting |= decoded.fleeting or any(why.startswith(UNREAD) for _, why in failed)
            failed += decoded.bad
            bad += failed
            lost |= {path for path, _ in failed}
            good = [scan for scan in kept if scan.path not in lost]
            empty = [side for side in sides if not any(side_of[scan] == side for scan in good)]
            readable = {scan.patient for scan in chosen if scan.path not in lost}
            found = _twins(decoded.alike, {s.path: s for s in kept}, side_of) if public else set()
            twins |= found
            again = empty and failed and len(readable) >= 3
            without = set(lost) if again else without  # of the split; twins do not change it
            if not (found or again):
                break
    # said outside: threads that decode may have changed what happens to warnings inside
    said = [str(warning.message) for warning in caught]
    said += [_several("mended", decoded.mended)] if decoded.mended else []
    said += _alike(decoded.alike, {s.path: s for s in kept}, side_of)
    if twins:
        said.append(f"{len(twins)} files show what another patient's show on another side of the "
                    f"split and were left out: {shown(Path(min(twins)).name)}, ...")  # fmt: skip
    said += [_several("left out", bad)] if bad else []
    notes = list(dict.fromkeys(said))
    for note in notes:
        warnings.warn(note, stacklevel=2)
    if empty:
        raise ValueError(_nothing_left(source, class_, empty[0], bad))
    splits, start = {}, 0
    for name in SIDES:
        side = [scan for scan in good if side_of[scan] == name]
        those = slice(start, start + len(side))
        shapes = None if decoded.shapes is None else decoded.shapes[those]
        splits[name] = Split(decoded.images[those], side, shapes)
        start += len(side)
    # a published side may change where no picture does
    seen = [[s.label, s.patient, hashes[s], *([s.side] if s.side else [])] for s in good]
    data = Data(**splits, source=str(source), class_=class_,
                manifest_hash=digest(json.dumps(seen))[:16], notes=notes, left_out=bad,
                classes=classes)  # fmt: skip
    if record and not fleeting:
        opened.remember(record, data, Path(decoded.images.filename))
    return data


def _several(what: str, files) -> str:
    names = ", ".join(f"{shown(Path(path).name)} ({shown(why)})" for path, why in files[:5])
    return f"{len(files)} files were {what}: {names}{', ...' if len(files) > 5 else ''}"


def _not_taken(intake: Intake) -> list[str]:
    """One sentence on the files that somebody may have taken for scans."""
    why = missed(intake)
    if not why:
        return []
    words = ", ".join(f"{shown(reason)} ({count})" for reason, count in list(why.items())[:5])
    return [
        f"{sum(why.values())} files are not used: {words}{', ...' if len(why) > 5 else ''}; "
        "python -m helpers.data SOURCE names them"
    ]


def _nothing_left(source, class_: str, side: str, bad) -> str:
    first = "".join(f"; {shown(Path(path).name)}: {shown(why)}" for path, why in bad[:3])
    return f"{shown(source)} ({class_}): no readable scan is left for {side}{first}."


def _drawn(chosen, side_of, sides, most, source, progress, failed, copies, synthetic, cache):
    """{scan: hash of its content} of the scans to decode, without copies; of each side ``most`` at
    the most, of which no more are read than that takes."""
    known = cache / f"{digest(os.path.abspath(source))[:24]}.hashes"
    how = dict(progress=progress, bad=failed, copies=copies, marked=synthetic is not False,
               known=known)  # fmt: skip
    there = [scan for scan in chosen if scan in side_of]
    if not most:
        hashes = content_hashes(there, **how)
    else:
        root = source if Path(str(source)).is_dir() else Path(str(source)).parent
        hashes, first = {}, {}
        for side in sides:
            queue = [scan for scan in there if side_of[scan] == side]
            queue.sort(key=lambda scan: digest(in_source(scan.path, root)))
            wanted = most
            while wanted and queue:
                found = content_hashes(queue[:wanted], **how)
                queue = queue[wanted:]
                for scan, value in found.items():
                    if value in first:
                        copies.append((scan, first[value]))
                    else:
                        first[value], hashes[scan] = scan, value
                        wanted -= 1
    if not hashes and any(why == SYNTHETIC for _, why in failed):
        raise ValueError(all_synthetic(source, len(failed), shown(Path(failed[0][0]).name)))
    return hashes


@lru_cache(maxsize=64)
def _file_hash(path: str, _size: int, _time: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _say_copies(copies, side_of: dict[Scan, str], strict: bool) -> None:
    """Warn of files that are byte by byte the same. ValueError naming both if they have two classes
    on two sides of the split, where nobody can tell which to believe."""
    if copies:
        warnings.warn(f"{len(copies)} files are copies of others and were left out.", stacklevel=2)
    across = _across(copies, side_of)
    for scan, first in across:
        if strict and scan.label != first.label:
            raise ValueError(
                f"{shown(first.path)} and {shown(scan.path)} are one picture, once {first.label} "
                f"({side_of[first]}) and once {scan.label} ({side_of[scan]}). Take out the wrong "
                "one, or give both one patient."
            )
    others = [f"{what}: {_pair(*pair)}" for what, pair in (
        *(("two classes", pair) for pair in copies if pair[0].label != pair[1].label),
        *(("two patients, on two sides of the split", pair) for pair in across),
    )]  # fmt: skip
    if others:
        warnings.warn(f"one picture has {'; '.join(others[:3])}", stacklevel=2)


def _across(pairs, side_of: dict[Scan, str]):
    return [pair for pair in pairs if side_of[pair[0]] != side_of[pair[1]]]


def _twins(alike, at: dict[str, Scan], side_of: dict[Scan, str]) -> set[str]:
    """Of two files that show one picture on two sides of the split the one that is learned from."""
    across = _across(((at[a], at[b]) for a, b in alike if a in at and b in at), side_of)
    return {min(pair, key=lambda scan: SIDES.index(side_of[scan])).path for pair in across}


def _alike(alike, at: dict[str, Scan], side_of: dict[Scan, str]) -> list[str]:
    """A sentence on pictures that are the same though their bytes differ. ValueError naming some
    where they lie on two sides of the split: what is learned from one is tested on the other."""
    pairs = [(at[one], at[other]) for one, other in alike if one in at and other in at]
    if across := _across(pairs, side_of):
        named = "; ".join(_pair(*pair[::-1]) for pair in across[:5])
        raise ValueError(
            f"one picture on two sides of the split, encoded, scaled or mirrored anew: {named}"
            f"{f'; and {len(across) - 5} more' if len(across) > 5 else ''}. Take one out, or give "
            "both one patient."
        )
    if not pairs:
        return []
    return [
        f"{len(pairs)} pairs of files show one picture, encoded, scaled or mirrored anew: "
        f"{_pair(*pairs[0][::-1])}{', ...' if len(pairs) > 1 else ''}"
    ]


def _pair(scan: Scan, first: Scan) -> str:
    return " and ".join(f"{shown(s.path)} ({s.label}, {shown(s.patient)})" for s in (first, scan))


def doubted_copies(scans: list[Scan]) -> list[str]:
    """Sentences on files that are byte by byte the same and differ in class or patient; only those
    of one size are read."""
    sizes = {}
    for scan in scans:
        try:
            sizes.setdefault(os.stat(scan.path).st_size, []).append(scan)
        except (OSError, ValueError):
            continue  # virtual, or named where it is decoded
    copies = []
    alike = [scan for those in sizes.values() if len(those) > 1 for scan in those]
    content_hashes(alike, bad=[], copies=copies, marked=True)
    doubts = [f"{len(copies)} files are copies of others"] if copies else []
    for what, name in (("class", "label"), ("patient", "patient")):
        differ = [pair for pair in copies if getattr(pair[0], name) != getattr(pair[1], name)]
        if differ:
            doubts.append(f"{what} differs between {len(differ)} copies: {_pair(*differ[0])}")
    return doubts


def content_hashes(
    scans: list[Scan], progress=True, *, bad=None, copies=None, marked=True, known=None
) -> dict[Scan, str]:
    """sha256 of every file's bytes, without later copies; a virtual scan's is that of its path, of
    one in a .npz that of its pixels.

    A file that cannot be read is left out, as (path, reason) in the list ``bad``; copies are put
    into the list ``copies`` as (scan, the first of its content). Unless ``marked``, files that are
    marked as synthetic count as bad. ``known``: a file in which hashes are kept, so that a picture
    whose size and time of change are the same is not read again; it names none.
    """
    remembered = _remembered(known)
    new, now = {}, time.time()

    def read(scan: Scan, name="", state="") -> tuple[str, str]:
        """The hash of a scan's content, or why there is none."""
        if scan.dataset == "npz":
            return hashlib.sha256(np.ascontiguousarray(packed_image(scan.path))).hexdigest(), ""
        try:
            if scan.dataset == "volume":  # its file is read once
                path, _, number = scan.path.rpartition("#")
                about = os.stat(path)  # a notebook goes on where a file was replaced
                whole = _file_hash(path, about.st_size, about.st_mtime_ns)
                if picture := picture_of(scan.path):  # which an XML only names
                    whole += hashlib.sha256(picture.read_bytes()).hexdigest()
                return digest(f"{whole}#{number}"), ""
            content = Path(scan.path).read_bytes()
        except FileNotFoundError:
            return digest(scan.path), ""  # it is named where it is decoded
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            return "", f"{UNREAD} ({reason})"
        was = state, hashlib.sha256(content).hexdigest(), is_marked(content)
        if state:
            new[name] = was
        return told(was)

    def told(was) -> tuple[str, str]:
        return ("", SYNTHETIC) if was[2] and not marked else (was[1], "")

    values, unread = [None] * len(scans), {}
    for k, scan in enumerate(scans):
        if scan.dataset == "simulated":
            values[k] = digest(scan.path), ""
            continue
        name = state = ""
        if scan.dataset not in ("npz", "volume"):
            try:
                about = os.stat(scan.path)
                if not stat.S_ISREG(about.st_mode):  # a pipe would never end
                    values[k] = digest(scan.path), ""
                    continue
                name = digest(scan.path)[:24]
                state = f"{about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}"
                if name in remembered and remembered[name][0] == state:
                    values[k] = told(remembered[name])
                    continue
                if now - about.st_mtime < 5:  # what is written just now may change once more
                    state = ""
            except (OSError, ValueError):
                pass  # said where it is read
        unread[k] = scan, name, state
    with ThreadPoolExecutor() as pool:
        found = tqdm(pool.map(lambda one: read(*one), unread.values()), total=len(unread),
                     desc="reading files", disable=not progress or len(unread) < 500)  # fmt: skip
        for k, value in zip(unread, found):
            values[k] = value
    first, found = {}, {}
    for scan, (value, reason) in zip(scans, values):
        if reason:
            if bad is not None:
                bad.append((scan.path, reason))
        elif value in first:
            if copies is not None:
                copies.append((scan, first[value]))
        else:
            first[value] = scan
            found[scan] = value
    if known and new:
        _remember(known, remembered | new)
    return found


def _remembered(known: Path | None) -> dict:
    try:
        return json.loads(known.read_text()) if known else {}
    except (OSError, ValueError):
        return {}  # it is made anew


def _remember(known: Path, hashes: dict) -> None:
    part = known.with_suffix(f".{os.getpid()}.part")
    try:
        known.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(hashes))
        part.replace(known)
    except OSError:  # files are read again; that the cache cannot be written is said by ``decode``
        with suppress(OSError):
            part.unlink()

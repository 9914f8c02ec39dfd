"""A blinded reading test on disk: scans that give nothing away, and the answers of its readers.

What a reader may see lies in one folder, the key in a file beside it:

    FOLDER/test.json  FOLDER/images/ID.jpg  FOLDER/readers/NAME.csv      FOLDER-key.json

To send a test elsewhere, send the folder alone, or the one file of ``reading_html``, whose answers
come back as NAME.json. ``reading_widget.ReadingTest`` shows the single scans, ``reading_analysis``
analyses all of it.
"""

import csv
import hashlib
import io
import json
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from helpers.data.pixels import resize
from helpers.plots import pixels

CANNOT_TELL = "cannot tell"
ANSWERS = ("real", "synthetic")
CONFIDENCE = (1, 2, 3, 4, 5)  # 1: a guess, 5: certain
# What is rated from 1 to 5: drusen by shape and content (Khanifar et al., Ophthalmology 2008;115:
# 1883), the layers over them (Schuman et al., Ophthalmology 2009;116:488), what lies below, size
FEATURES = {
    "shape": "RPE: raised as over drusen, convex, pointed or flat, in one smooth line",
    "content": "Content: as bright and as even as drusen are, or with a core that is possible",
    "layers": "Layers above: thinned or lifted over drusen, none of them cut off",
    "below": "Below: Bruch's membrane goes on; shadow and light of the choroid fit what is above",
    "spread": "Size and spacing: drusen of sizes and at distances as in patients",
}
COLUMNS = ("test", "reader", "kind", "position", "image", "answer", "confidence", "diagnosis",
           "seconds", "time")  # fmt: skip


@dataclass
class BlindedTest:
    """What a reader may know: the folder, the scans' names in no meaningful order, the question."""

    folder: Path
    id: str
    images: list[str]
    size: int  # px, side of the square pictures
    diagnoses: list[str]  # to choose from, beside "cannot tell"; none: no diagnosis is asked
    quartets: list[list[str]] = field(default_factory=list)  # four other scans, one of them real
    rated: list[str] = field(default_factory=list)  # of `images`, to be rated by FEATURES

    def __len__(self) -> int:
        return len(self.images)

    @property
    def key(self) -> Path:
        return self.folder.with_name(self.folder.name + "-key.json")

    def reader_file(self, name: str) -> Path:
        """Where a reader's answers lie; ValueError for a name without a letter or digit."""
        plain = re.sub(r"\W+", "_", name.casefold()).strip("_")
        if not plain:
            raise ValueError("Please give a name or initials: letters or digits.")
        return self.folder / "readers" / f"{plain[:60]}.csv"

    def picture(self, image: str) -> bytes:
        """One scan as JPEG. FileNotFoundError, or ValueError if it is not the scan of this test."""
        path = self.folder / "images" / f"{image}.jpg"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: a scan of this test is missing. Copy it back.")
        content = path.read_bytes()
        if _name(content) != image:
            raise ValueError(f"{path}: this scan was changed after the test was made.")
        return content


def prepare_test(
    real, synthetic, folder, *, n=50, real_labels=None, synthetic_labels=None, real_patients=None,
    diagnoses=None, size=None, quartets=0, rated=0, seed=0,
) -> BlindedTest:  # fmt: skip
    """Choose `n` real and `n` synthetic scans and write them as a blinded test.

    real, synthetic: uint8 or float [-1, 1], (N, C, H, W) or a list of (C, H, W) of any sizes.
    Labels (N,) or one for all: the classes, right diagnoses later on; as many of each class as
    possible are chosen, and with `real_patients` (N,) of as many patients as possible. `diagnoses`
    to choose from: by default the labels' classes. `size`: px; by default the smallest side of all.
    `quartets` are made of further scans, one real and three synthetic ones each, of one class as
    far as there are enough; `rated` of the n scans of each kind are rated by FEATURES besides.

    File and pixels must not tell: every scan becomes grey, is resized alike (antialiased) to size x
    size, and is compressed once by the same JPEG encoder, because real scans have been through one
    and generated ones have not. Files are filled up to one length, behind the picture's end, and
    named by their hash. Still, give scans of the size that the generator learned where you can.

    With n = 50 a reader's accuracy is known to about +-10 points. The same call again finds its
    test and its answers, and writes a lost key anew; a folder with another test is left alone.
    Raises FileExistsError there, ValueError for fewer than n different scans, a `size` that would
    enlarge, a label that is no diagnosis, or a synthetic scan equal to a real one.
    """
    if n < 1 or rated > n:
        raise ValueError(f"n={n}: a test needs at least one scan of each kind, and rates no more.")
    smallest = min((min(np.shape(i)[-2:]) for i in [*real, *synthetic]), default=0)
    if size and size > smallest:
        raise ValueError(f"size={size}: some scans have only {smallest} px, and enlarging shows.")
    size = size or smallest
    sides = {}
    for truth, scans, labels, patients in (
        ("real", real, real_labels, real_patients),
        ("synthetic", synthetic, synthetic_labels, None),
    ):
        labels = _per_scan(labels, scans, f"{truth}_labels")
        patients = _per_scan(patients, scans, f"{truth}_patients")
        order = np.random.default_rng([seed, len(truth)]).permutation(len(scans))
        order = sorted(_deal(order, patients), key=lambda i: labels[i])
        wanted = n + quartets * (1 if truth == "real" else 3)
        sides[truth] = _first_different(scans, _deal(order, labels), wanted, size, labels, truth)
    twins = sides["real"].keys() & sides["synthetic"].keys()
    if twins:
        a, b = (sides[t][min(twins)]["index"] for t in ANSWERS)
        raise ValueError(
            f"Real scan {a} and synthetic scan {b} are the same picture; no reader could tell. Was "
            "it copied, or are there synthetic scans among the real ones?"
        )
    chosen = [entry for side in sides.values() for entry in side.values()]
    longest = max(len(entry["picture"]) for entry in chosen)
    for entry in chosen:  # the length of a file would tell: speckle compresses badly
        filling = hashlib.shake_256(entry["picture"]).digest(longest - len(entry["picture"]))
        entry["picture"] += filling
    real_ones, others = ({_name(entry["picture"]): entry for entry in side.values()}
                         for side in sides.values())  # fmt: skip
    key = {name: entry for side in (real_ones, others) for name, entry in list(side.items())[:n]}
    fours = _quartets(list(real_ones.items())[n:], dict(list(others.items())[n:]))
    to_rate = sorted([*list(real_ones)[:rated], *list(others)[:rated]])
    labels = {entry["label"] for entry in key.values()} - {""}
    diagnoses = sorted(labels) if diagnoses is None else list(diagnoses)
    if unknown := labels - set(diagnoses) if diagnoses else set():
        raise ValueError(f"Label {min(unknown)} is none of the diagnoses {', '.join(diagnoses)}.")
    images = sorted(key)
    asked = [seed, size, images, diagnoses, *([fours, to_rate] if fours or to_rate else [])]
    identity = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]
    test = BlindedTest(Path(folder), identity, images, size, diagnoses, fours, to_rate)
    if (test.folder / "test.json").exists() and open_test(folder).id != identity:
        raise FileExistsError(
            f"{folder} holds another test (other scans or settings). Choose another folder, or go "
            f"on with the one that is there: open_test({str(folder)!r})."
        )
    (test.folder / "images").mkdir(parents=True, exist_ok=True)
    for name, entry in (real_ones | others).items():
        (test.folder / "images" / f"{name}.jpg").write_bytes(entry.pop("picture"))
    content = {"schema": 1, "test": identity, "size": size, "diagnoses": diagnoses,
               "images": images, "quartets": fours, "rated": to_rate}  # fmt: skip
    found = [next(name for name in four if name in real_ones) for four in fours]
    opened = {"test": identity, "seed": seed, "images": key, "real_of_quartets": found}
    for path, what in ((test.key, opened), (test.folder / "test.json", content)):  # fmt: skip
        path.write_text(json.dumps(what, indent=1) + "\n")
    return test


def open_test(folder) -> BlindedTest:
    """The test in a folder, without its key. FileNotFoundError or ValueError say what is amiss."""
    path = Path(folder) / "test.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no reading test in it (test.json); prepare_test first.")
    try:
        found = json.loads(path.read_text())
        return BlindedTest(
            path.parent, found["test"], found["images"], found["size"], found["diagnoses"],
            found.get("quartets", []), found.get("rated", []),
        )  # fmt: skip
    except (json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{path}: damaged ({error}).") from error


def _quartets(real, synthetic) -> list[list[str]]:
    """One real and three synthetic names each, of one class where they last, in no meaningful order
    (names are hashes). real: [(name, entry)]; synthetic: {name: entry}, three times as many."""
    fours, left = [], dict(synthetic)
    for name, entry in real:
        alike = sorted(left, key=lambda other: left[other]["label"] != entry["label"])[:3]
        fours.append(sorted([name, *alike]))
        left = {other: left[other] for other in left if other not in alike}
    return sorted(fours)


def _per_scan(values, scans, name):
    if values is None or isinstance(values, str):
        return [values or ""] * len(scans)
    if len(values) != len(scans):
        raise ValueError(f"{name}: {len(values)} for {len(scans)} scans.")
    return [str(value) for value in values]


def _deal(order, groups):
    """`order`, dealt like cards: the first of every group, then the second of every group, ..."""
    seen, turn = Counter(), {}
    for i in order:
        turn[i] = seen[groups[i]]
        seen[groups[i]] += 1
    return sorted(order, key=turn.get)


def _first_different(scans, order, n, size, labels, truth):
    """{name: what the key says of it, and its picture} of the first n scans that differ."""
    chosen = {}
    for i in order:
        content = _jpeg(scans[i], size)
        entry = {"truth": truth, "label": labels[i], "index": int(i), "picture": content}
        chosen.setdefault(_name(content), entry)
        if len(chosen) == n:
            return chosen
    raise ValueError(f"{len(chosen)} different {truth} scans, and n={n} are wanted: lower n.")


def _jpeg(image, size):
    image = np.asarray(image)
    levels = pixels(image[None, None] if image.ndim == 2 else image[None])[0]
    levels = levels.mean(-1) if levels.ndim == 3 else levels
    levels = levels.round().clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(resize(levels, size, size)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _name(content):
    return hashlib.sha256(content).hexdigest()[:12]


def read_mailed(test: BlindedTest, path) -> dict:
    """What came back from the html file: {reader, singles, quartets, ratings}.

    Raises ValueError for a damaged file, for answers of another test, or ones that this test does
    not offer.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        other = found["test"] != test.id
        for answer in found["quartets"]:
            other |= answer["image"] not in test.quartets[answer["quartet"]]
        for answer in found["ratings"]:
            other |= answer["image"] not in test.rated
            other |= any(int(answer[feature]) not in CONFIDENCE for feature in FEATURES)
        singles = [dict.fromkeys(COLUMNS, "") | {"test": found["test"], "kind": found["kind"],
                   "reader": found["reader"]} | {k: str(v) for k, v in answer.items()}
                   for answer in found["singles"]]  # fmt: skip
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged, or no answers to a reading test ({error}).") from error
    if other:
        raise ValueError(f"{path}: answers of another test. Move it away.")
    return {**found, "singles": singles}


def read_answers(test: BlindedTest, path) -> list[dict]:
    """The rows of a reader's CSV, or the single scans of what was mailed back (.json), one per
    scan, as text; a line that a crash broke is left out.

    Raises ValueError for answers of another test, or ones that this test does not offer.
    """
    if Path(path).suffix == ".json":
        rows = read_mailed(test, path)["singles"]
    else:
        with Path(path).open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("time")]
    answers = {}
    for number, row in enumerate(rows, 2):
        if row["test"] != test.id or row["image"] not in test.images:
            raise ValueError(f"{path}, line {number}: an answer of another test. Move it away.")
        try:
            check_answer(test, row["answer"], int(row["confidence"]), row["diagnosis"])
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        answers.setdefault(row["image"], row)
    return list(answers.values())


def check_answer(test, answer, confidence, diagnosis):
    """ValueError if an answer is not one that the test offers."""
    offered = [*test.diagnoses, CANNOT_TELL] if test.diagnoses else ["", None]
    if answer not in ANSWERS:
        raise ValueError(f"answer {answer!r}: it is real or synthetic.")
    if confidence not in CONFIDENCE:
        raise ValueError(f"confidence {confidence!r}: it is a whole number from 1 to 5.")
    if diagnosis not in offered:
        raise ValueError(f"diagnosis {diagnosis!r} is none of {', '.join(map(str, offered))}.")


def reading_order(test: BlindedTest, name: str) -> list[str]:
    """The scans in this reader's order: fatigue and practice fall on other scans for each."""
    salt = f"{test.id}:{test.reader_file(name).stem}:"
    return sorted(test.images, key=lambda i: hashlib.sha256((salt + i).encode()).digest())


class Reader:
    """One reader's answers, each on disk as soon as it is given; the same name goes on.

    Names are alike whatever their case and spaces. `left`: the scans to come. Raises ValueError for
    an empty name or a file with answers of another test, RuntimeError while somebody else is
    answering under this name. `close` lets the name go.
    """

    def __init__(self, test: BlindedTest, name: str):
        self.test, self.path = test, test.reader_file(name)
        self.path.parent.mkdir(exist_ok=True)
        self._lock = FileLock(self.path.with_suffix(".lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RuntimeError(
                f"Somebody is answering as {name.strip()} right now in another notebook. Press "
                "Pause there or shut down its kernel, or choose another name."
            ) from None
        except (NotImplementedError, OSError):
            pass  # some network drives cannot lock
        try:
            if self.path.exists():  # a crash may have broken the last line
                text = self.path.read_text()
                os.truncate(self.path, len(text[: text.rfind("\n") + 1].encode()))
            self.rows = read_answers(test, self.path) if self.path.exists() else []
        except ValueError:
            self.close()
            raise
        self.name = self.rows[0]["reader"] if self.rows else " ".join(name.split())
        done = {row["image"] for row in self.rows}
        self.left = [image for image in reading_order(test, name) if image not in done]

    def record(self, image, answer, confidence, diagnosis, seconds, kind="human"):
        """Append one answer. ValueError for an answer, diagnosis or scan that is not asked for."""
        check_answer(self.test, answer, confidence, diagnosis)
        if not self.left or image != self.left[0]:
            raise ValueError(f"{image} is not the scan that {self.name} is asked about now.")
        row = dict(zip(COLUMNS, (
            self.test.id, self.name, kind, len(self.rows) + 1, image, answer, confidence,
            diagnosis or "", f"{seconds:.1f}", datetime.now(UTC).isoformat(timespec="seconds"),
        )))  # fmt: skip
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if not self.path.stat().st_size:
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            os.fsync(file.fileno())
        self.rows.append({key: str(value) for key, value in row.items()})
        self.left.pop(0)

    def close(self):
        self._lock.release()

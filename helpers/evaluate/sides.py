"""What an evaluation compares: real scans by patient, what the generator may have seen, synthetic.

Folders may be flat or nested, of one class or several, of mixed sizes, or nearly empty: what is
doubtful about them is a note, and only an empty or unreadable side is an error.
"""

import contextlib
import hashlib
import json
import os
import warnings
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from helpers.config import root
from helpers.data import cache
from helpers.data.pixels import at_size, to_levels
from helpers.data.prepare import content_hashes, prepare
from helpers.data.sources import load_manifest, says_synthetic, take_in
from helpers.data.split import Split, choose_class
from helpers.gan.sampling import sample
from helpers.generate import load_generator


@dataclass
class Real:
    """Real scans of one class. `training` gives the floor and teaches classifiers, `validation`
    chooses thresholds, `test` is unseen; `seen` is what the generator may have been trained on
    (None: nobody knows)."""

    class_: str
    training: Split
    validation: Split | None
    test: Split
    seen: Split | None
    manifest: str
    classes: dict
    known_patients: bool = True
    notes: list = field(default_factory=list)


@dataclass
class Synthetic:
    """Images uint8 (N, 1, S, S) of one class; `run` is what is known about their generator."""

    images: np.ndarray
    class_: str
    run: dict | None
    source: str
    marked: float | None = None  # share of a folder's files that say that they are synthetic
    notes: list = field(default_factory=list)


def refuse_synthetic(source) -> None:
    """ValueError if files of a folder say of themselves that they are synthetic."""
    marked = [file for file in Path(source).rglob("*.png") if says_synthetic(file)]
    if marked:
        raise ValueError(
            f"{source}: {len(marked)} of its images are marked as synthetic ({marked[0].name}, "
            "...). They would be measured against their like. Take them out, or say "
            "--allow-synthetic if you mean it."
        )


def read_real(source, class_, *, size, framing="stretch", n_simulated=600, folder=None, run=None,
              learned=False, synthetic=False, progress=True) -> Real:  # fmt: skip
    """Real scans of `class_` at `size` px, by patient.

    run: what `read_synthetic` found out about a run. If it was trained on this very source, its
    own split holds, and its training scans are the seen ones. That is known of the class it is
    judged by, whose manifest it names; of another one that it draws, ``learned`` says so. Otherwise
    no validation patients were used for anything, and they join the test patients; without a run
    every real scan counts as seen.
    """
    keep = dict(size=size, framing=framing, n_simulated=n_simulated, progress=progress)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of is in the notes
        intake = take_in(source, n_simulated=n_simulated, size=size, synthetic=synthetic)
        scans = intake.scans
        chosen, class_ = choose_class(scans, class_, str(source))
        if len({scan.patient for scan in chosen}) < 3:
            few = _few(chosen, class_, Counter(s.label for s in scans), folder, size, framing)
            if run is not None and not learned:  # nobody trains on so few patients
                few.seen = None
            return few
        data = prepare(source, class_=class_, cache=folder, synthetic=synthetic, intake=intake,
                       **keep)  # fmt: skip
    sides = dict(training=data.train, validation=data.validation, test=data.test, seen=data.train)
    notes = list(data.notes)
    if run is None or not (learned or run["data_manifest"] == data.manifest_hash):
        sides |= dict(validation=None, test=_together(data.validation, data.test), seen=None)
    if run is None:
        sides["seen"] = _together(data.train, sides["test"])
        notes.append("nobody says what the generator was trained on: where these patients are "
                     "among it, 'unseen' is not true, and usefulness, distances and coverage are "
                     "too kind")  # fmt: skip
    elif sides["seen"] is None:
        notes.append("the run was trained on other scans than these: none of them is 'seen'")
    return Real(class_, **sides, manifest=data.manifest_hash, classes=data.classes, notes=notes)


def _together(*splits) -> Split:
    images = np.concatenate([split.images for split in splits])
    return Split(images, [scan for split in splits for scan in split.scans])


def _few(chosen, class_, classes, folder, size, framing) -> Real:
    """Fewer than three patients: halves by image, and a word that this is not a split."""
    hashes = content_hashes(chosen, progress=False)
    scans = list(hashes)
    decoded = cache.decode(
        scans, list(hashes.values()), Path(folder), size=size, framing=framing, progress=False
    )
    unreadable = {path for path, _ in decoded.bad}
    scans = [scan for scan in scans if scan.path not in unreadable]
    whole, half = Split(np.array(decoded.images), scans), len(scans) // 2
    count = len({scan.patient for scan in scans})
    notes = [
        f"{count} patient(s): real scans are split by image, so every yardstick and interval is "
        "too kind"
    ]
    training, test = (Split(whole.images[side], scans[side])
                      for side in (slice(half), slice(half, None)))  # fmt: skip
    return Real(class_, training, None, test, whole, "-", dict(classes), False, notes)


def read_synthetic(source, class_="", *, n=1000, seed=0, folder=None, device="cpu",
                   progress=True) -> list[Synthetic]:  # fmt: skip
    """`n` images of a run (a folder with generator.safetensors), or those of a folder, by class."""
    path = Path(source)
    if path.is_file() or (path / "generator.safetensors").exists():
        generator = load_generator(path, device)
        if not hasattr(generator, "z_dim"):
            raise ValueError(
                f"{path}: translates photographs and draws nothing by itself. Judge a folder of "
                "its scans: python -m helpers.generate RUN --from-dfe PHOTOGRAPHS --out DIR."
            )
        config = (path if path.is_dir() else path.parent) / "config.json"
        about = json.loads(config.read_text()) if config.exists() else {}
        run = {
            "name": path.name if path.is_dir() else path.parent.name,
            "weights": generator.weights_hash,
            "class": generator.metadata.get("class"),
            "step": generator.metadata.get("step"),
            "identity": about.get("identity"),
            "data_manifest": about.get("identity", {}).get("data_manifest"),
        }
        judged = run["class"] or class_
        classes = generator.metadata.get("classes", [judged])
        made = []
        for name in sorted(classes, key=lambda name: name != judged):  # the one judged first
            images = sample(generator, n, seed, class_name=name)
            made.append(Synthetic(to_levels(images), name, run | {"class": name}, run["name"]))
        return made
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of stand-in patients: synthetic scans have none
        scans = load_manifest(source)
    return [
        _read_folder([s for s in scans if s.label == label], label, path, n, seed, folder, progress)
        for label in sorted({scan.label for scan in scans})
    ]


def _read_folder(scans, label, source, n, seed, folder, progress) -> Synthetic:
    order = np.sort(np.random.default_rng(seed).permutation(len(scans))[:n])
    scans, sizes, notes = [scans[i] for i in order], [], []
    for scan in scans:
        try:
            with Image.open(scan.path) as picture:
                sizes.append(min(picture.size))
        except (OSError, ValueError):
            continue  # reported by decode
    size = int(np.clip(np.median(sizes), 32, 512)) if sizes else 256
    if len(set(sizes)) > 1:
        notes.append(f"synthetic images of {len(set(sizes))} sizes; all are measured at {size} px")
    hashes = [hashlib.sha256(Path(scan.path).read_bytes()).hexdigest() for scan in scans]
    if len(set(hashes)) < len(scans):
        notes.append(f"only {len(set(hashes))} of {len(scans)} synthetic files differ")
    decoded = cache.decode(
        scans, hashes, Path(folder), size=size, framing="stretch", progress=progress, watch=False
    )
    if decoded.bad:
        first = Path(decoded.bad[0][0]).name
        notes.append(f"{len(decoded.bad)} synthetic files cannot be read: {first}, ...")
    marked = float(np.mean([says_synthetic(scan.path) for scan in scans]))
    return Synthetic(np.array(decoded.images), label, None, Path(source).name, marked, notes)


@dataclass
class Sides:
    """All that is compared: the class in question, and one to contrast it with, or None."""

    real: Real
    synthetic: Synthetic
    other_real: Real | None = None
    other_synthetic: Synthetic | None = None
    contrast: str = "none"  # synthetic | conditional | real | none
    control: Synthetic | None = None  # of a generator that saw none of these patients
    further: list = field(default_factory=list)  # (Real, Synthetic) of classes drawn besides

    @property
    def notes(self) -> list[str]:
        return list(dict.fromkeys(self.real.notes + self.synthetic.notes))

    @cached_property
    def equal(self) -> dict[str, np.ndarray]:
        """uint8 images of `test`, `training` and `synthetic` at one size, through one filter."""
        images = {"test": self.real.test.images, "training": self.real.training.images,
                  "synthetic": self.synthetic.images}  # fmt: skip
        size = min(side.shape[-1] for side in images.values())
        return {name: at_size(side, size) for name, side in images.items()}

    def __str__(self) -> str:
        real, made = self.real, self.synthetic
        count = len(set(real.test.patients))
        lines = [
            f"synthetic    {len(made.images):5} scans of {made.class_}, {made.images.shape[-1]} px,"
            f" from {made.source}",
            f"unseen       {len(real.test):5} real scans of {count} patients, {real.class_}",
            f"training     {len(real.training):5} real scans of other patients",
            f"seen         {len(real.seen) if real.seen else 0:5} real scans may have been trained "
            "on",
            f"contrast     {self.contrast}" + (f", {self.other_real.class_}" if self.other_real
                                               else ""),
        ]  # fmt: skip
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


def read_sides(real, synthetic, *, class_="DRUSEN", contrast=None, control=None, n=1000, seed=0,
               size=256, framing="stretch", n_simulated=600, cache=None, allow_synthetic=False,
               device="cpu", progress=True) -> Sides:  # fmt: skip
    """Read both sides and find what the disease is contrasted with.

    real: as in `data.prepare` (a folder, a manifest.csv, "simulated", ...). synthetic: a run, a
    generator.safetensors, or a folder of images. contrast: the same for another class, made by
    the same recipe. Without it another class in the synthetic folder is taken ("conditional"),
    else real scans of another class on both sides ("real"). control: a run or folder of a generator
    that saw none of these patients, to attack as well. Raises ValueError naming the folder if a
    side is empty, or if real files are marked as synthetic.
    """
    cache = Path(cache or root() / Path(os.environ.get("OCT_RUNS", "runs")).expanduser() / "cache")
    if not allow_synthetic and Path(str(real)).is_dir():
        refuse_synthetic(real)
    keep = dict(folder=cache, progress=progress)
    made = read_synthetic(synthetic, class_, n=n, seed=seed, device=device, **keep)
    names = {m.class_: m for m in made}
    asked = class_.strip().lower()
    target = next((m for m in made if m.class_.lower() == asked), made[0])
    size = max(size, target.images.shape[-1])
    if target.run and target.run["identity"]:  # of as many simulated patients the split is its own
        n_simulated = target.run["identity"].get("n_simulated", n_simulated)
        own = target.run["identity"].get("framing", framing)  # aligned crops come as whole scans
        framing = "stretch" if own == "aligned" else own
    keep.update(size=size, framing=framing, n_simulated=n_simulated)
    keep["synthetic"] = bool(allow_synthetic)
    wanted = class_ if target.run is None else target.class_
    learned = False
    if target.run and target is not made[0]:  # its manifest is that of the class it is judged by
        with contextlib.suppress(ValueError):  # which this source may lack
            learned = read_real(real, made[0].class_, run=target.run, **keep).seen is not None
    sides = Sides(read_real(real, wanted, run=target.run, learned=learned, **keep), target)
    if target.class_ != sides.real.class_:
        if target.class_ in sides.real.classes:
            raise ValueError(
                f"{synthetic} has {', '.join(names)} and no {class_}: its {target.class_} would be "
                f"compared with real {sides.real.class_}. Say --class."
            )
        target.notes.append(f"images called {target.class_} are compared with {sides.real.class_}")
    if control is not None:
        found = read_synthetic(control, class_, n=n, seed=seed, device=device, folder=cache)
        sides.control = next((m for m in found if m.class_ == target.class_), found[0])
    others = [label for label in sides.real.classes if label != sides.real.class_]
    if contrast is not None:
        found = read_synthetic(contrast, "NORMAL", n=n, seed=seed, device=device, folder=cache)
        sides.other_synthetic = next((m for m in found if m.class_ in others), found[0])
        sides.contrast = "synthetic"
    elif common := [label for label in others if label in names and names[label] is not target]:
        sides.other_synthetic = names["NORMAL" if "NORMAL" in common else common[0]]
        sides.contrast = "conditional"
    elif others:
        sides.contrast = "real"
    if others:
        label = sides.other_synthetic.class_ if sides.other_synthetic else None
        if label not in others:
            label = max(others, key=lambda c: (c == "NORMAL", sides.real.classes[c]))
        run = sides.other_synthetic.run if sides.other_synthetic else None
        # the split is that of the whole source, so a generator of both has trained on its part here
        learned = sides.contrast == "conditional" and sides.real.seen is not None
        sides.other_real = read_real(real, label, run=run, learned=learned, **keep)
    for label in others:  # privacy is asked of all that was drawn
        drawn = names.get(label)
        if drawn is not None and drawn is not target and drawn is not sides.other_synthetic:
            learned = drawn.run is not None and sides.real.seen is not None
            further = read_real(real, label, run=drawn.run, learned=learned, **keep)
            sides.further.append((further, drawn))
    return sides

"""A run's folder: what it holds, who may write it, and which command continues it.

config.json  metrics.jsonl  previews/  checkpoints/  generator.safetensors  finished.json
"""

import contextlib
import dataclasses
import errno
import json
import os
import platform
import shutil
import warnings
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

from helpers.training.checkpoint import newest_step
from helpers.training.network_file import write_whole
from helpers.training.processes import is_first

# What may change between two sittings of one run: where it lies, how long it goes on, who watches,
# what is compared beside it.
NOT_IDENTITY = ("preset", "data", "dfe", "runs", "run", "steps", "hours", "first_hours",
                "session_hours", "useful_images", "processes", "log_every", "validate_every",
                "patience", "arm", "folds", "seeds", "patient", "every", "split", "report_images",
                "edit_time")  # fmt: skip
ATTACHED = Path("/kaggle/input")  # where Kaggle shows an earlier session's output, read-only
PACKAGES = ("torch", "torchvision", "accelerate", "timm", "numpy")
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of some network drives
_HELD = {}  # locks of this process


class Run:
    """One run's folder, held by one writer at a time."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.previews = folder / "previews"
        self.checkpoints = folder / "checkpoints"
        self.generator = folder / "generator.safetensors"
        self.config = folder / "config.json"
        self._metrics = folder / "metrics.jsonl"
        self._finished = folder / "finished.json"
        self._lines, self._files = "", {}  # of the log, and whole files, that wait for room

    def log(self, step: int, **values) -> bool:
        """Append one line to metrics.jsonl; numbers are rounded to six digits, words stay."""
        rounded = {k: v if isinstance(v, str) else float(f"{v:.6g}") for k, v in values.items()}
        self._lines += json.dumps({"step": step, **rounded}) + "\n"
        return self.flush()

    def write(self, path: Path, content: bytes) -> bool:
        """Write one of the run's files, whole or not at all."""
        self._files[path] = content
        return self.flush()

    def flush(self) -> bool:
        """Write what waits. What a full disk refuses goes on waiting, with a warning."""
        size = self._metrics.stat().st_size if self._metrics.exists() else None
        try:
            for path, content in list(self._files.items()):
                write_whole(path, content)
                del self._files[path]
            with self._metrics.open("a") as file:
                file.write(self._lines)
            self._lines = ""
        except OSError as error:
            if size is not None:
                os.truncate(self._metrics, size)  # half a line would spoil the next one
            warnings.warn(
                f"{self.folder}: cannot be written ({error.strerror}). Training goes on and keeps "
                "log, previews and weights in memory until there is room; free some space.",
                stacklevel=3,
            )
            return False
        return True

    def metrics(self) -> list[dict]:
        """Every complete line of metrics.jsonl, oldest first; a killed run may break its last."""
        records = []
        for line in self._metrics.read_text().splitlines() if self._metrics.exists() else ():
            with contextlib.suppress(json.JSONDecodeError):
                records.append(json.loads(line))
        return records

    def rewind(self, step: int) -> None:
        """Drop what was logged after ``step``. OSError naming the folder if it is not writable."""
        kept = [record for record in self.metrics() if record["step"] <= step]
        self._lines = ""
        with explain_errors(self.folder):
            text = "".join(json.dumps(record) + "\n" for record in kept)
            write_whole(self._metrics, text.encode())

    def finish(self, step: int, seconds: float, best: float, hours: float, worse=0) -> bool:
        """Note that training ended by its budget; ``hours`` is the one that it used up, or 0;
        ``worse`` counts the validations since the best one."""
        summary = {"steps": step, "seconds": round(seconds, 1), "best": best, "hours": hours,
                   "worse": worse}  # fmt: skip
        return self.write(self._finished, (json.dumps(summary, indent=2) + "\n").encode())

    def finished(self, steps: int, hours: float, patience: int = 0) -> bool:
        """Whether training ended by a budget that ``steps`` and ``hours`` do not exceed, or after
        as many validations without a better one as ``patience`` allows (0: any number)."""
        if not self._finished.exists():
            return False
        done = read_json(self._finished, "the training goes on from its checkpoints")
        if not {"seconds", "steps"} <= done.keys():
            return False
        used = max(done["seconds"] / 3600, done.get("hours", 0))
        impatient = patience and done.get("worse", 0) >= patience
        return bool((steps and done["steps"] >= steps) or (hours and used >= hours) or impatient)


def read_json(path: Path, remedy: str) -> dict:
    """What a file of a run holds; {} of one that was cut short, with a warning and what follows."""
    try:
        found = json.loads(path.read_text())
        if isinstance(found, dict):
            return found
        reason = "no settings in it"
    except ValueError as error:
        reason = str(error)
    warnings.warn(f"{path}: damaged or cut short ({reason}); {remedy}.", stacklevel=3)
    return {}


@contextlib.contextmanager
def explain_errors(folder):
    """A disk that refuses, in words."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{folder}: cannot be written ({error.strerror or error}). Free some space or point "
            "OCT_RUNS at another folder; the same command continues."
        ) from error


def count_parameters(networks) -> dict[str, int]:
    """Parameters of each of ``networks`` ({name: module})."""
    return {name: sum(weight.numel() for weight in network.parameters())
            for name, network in networks.items()}  # fmt: skip


def open_run(settings, data, networks, learned=None) -> Run:
    """The folder $OCT_RUNS/$OCT_RUN for these settings and this data, locked for writing.

    ``settings`` is a dataclass with ``runs`` and ``run``; ``data`` a ``helpers.data.split.Data``;
    ``networks`` are those that are trained, {name: module}; ``learned``, where more is trained on
    than the class in ``data``, all of it. A folder that holds a run of the same settings and data
    is continued; one of others is left alone and NAME-2, NAME-3, ... is taken. If the output of an
    earlier Kaggle session is attached and has come further, it is copied there first.

    Raises RuntimeError if another process writes to that folder, OSError naming OCT_RUNS if
    the folder cannot be written, ValueError if a patient is learned from and judged by: files that
    cannot be read may split ``data`` and ``learned`` in two ways (``data.prepare``).
    """
    if learned is not None:
        judged = {*data.validation.patients, *data.test.patients}
        if both := sorted(judged & set(learned.train.patients)):
            bad = sorted({Path(path).name for path, _ in data.left_out + learned.left_out})
            raise ValueError(
                f"{', '.join(both[:3])}: learned from, and judged by. Of a side of the split no "
                "scan could be used, and it was filled anew; take what cannot be used out of "
                f"OCT_DATA: {', '.join(bad[:10])}."
            )
    identity = {k: v for k, v in dataclasses.asdict(settings).items() if k not in NOT_IDENTITY}
    identity["data_manifest"] = data.manifest_hash
    if learned is not None:
        identity["learned_manifest"] = learned.manifest_hash
    identity = json.loads(json.dumps(identity))  # tuples become lists, as in config.json
    wanted = Path(settings.runs) / settings.run
    differs = ""
    for number in range(1, 1000):
        run = Run(wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}"))
        if not run.config.exists():
            break
        found = read_json(run.config, "it is written anew, of the settings of now").get("identity")
        if found is not None and not _differing(found, identity):
            break
        if found is None:  # its checkpoints are whole or named by themselves
            run.config.unlink()
            break
        differs = differs or _difference(found, identity)
    if run.folder != wanted:
        print(f"{wanted.name} holds a run with {differs}; this one is {run.folder.name}.")
    if not is_first():
        return run
    with explain_errors(run.folder):
        for folder in (run.previews, run.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
        _lock(run)
        _fetch_attached(run, identity)
        if run.config.exists():
            return run
        content = {
            "identity": identity,
            "settings": dataclasses.asdict(settings),
            "data": {"source": Path(data.source).name, "class": data.class_, "notes": data.notes,
                     "training_scans": len((learned or data).train),
                     "left_out": len(data.left_out)},
            "parameters": count_parameters(networks),
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in PACKAGES},
        }  # fmt: skip
        write_whole(run.config, (json.dumps(content, indent=2) + "\n").encode())
    return run


def _differing(found: dict, wanted: dict) -> list[str]:
    """What is not the same of two runs. A setting that an older version did not have, and that is
    left open (None) by a newer one, is."""
    names = [n for n in {**found, **wanted} if n not in NOT_IDENTITY]  # of these it had some
    return [n for n in names if found.get(n) != wanted.get(n)]


def _difference(found: dict, wanted: dict) -> str:
    """What a run has that another one has not, in words: settings, or else the data."""
    names = _differing(found, wanted)
    settings = [n for n in names if not n.endswith("_manifest")]
    if not settings:
        return "the same settings and other data"
    shown = ", ".join(f"{n.rstrip('_')}={found.get(n)} (now {wanted.get(n)})" for n in settings[:4])
    return f"other settings: {shown}" + (", ..." if len(settings) > 4 else "")


def _fetch_attached(run: Run, identity: dict) -> None:
    """Copy the attached run of this identity that has come furthest, if further than ``run``.

    It is looked for in every mounted output and data set (SLUG, or KIND/OWNER/SLUG), as a folder of
    runs like this one or as the run itself.
    """
    found, furthest = None, newest_step(run.checkpoints)
    for mount in ("*", "*/*/*"):
        for inside in (f"{run.folder.parent.name}/*", "*", "."):
            for config in ATTACHED.glob(f"{mount}/{inside}/config.json"):
                with contextlib.suppress(ValueError, KeyError, TypeError):  # someone else's config
                    if not _differing(json.loads(config.read_text())["identity"], identity):
                        step = newest_step(config.parent / "checkpoints")
                        if step > furthest:
                            found, furthest = config.parent, step
    if not found:
        return
    print(f"Going on from step {furthest} of {found}, copied to {run.folder}.")
    (run.folder / "finished.json").unlink(missing_ok=True)
    # checkpoints last, since a copy that breaks off is known by their absence
    for file in sorted(found.rglob("*"), key=lambda file: file.parent.name == "checkpoints"):
        place = file.relative_to(found)
        if file.is_file() and place.name != "lock" and place.parts[0] != "synthetic":
            target = run.folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f"{target.name}.part")
            shutil.copyfile(file, part)  # not its mode: what is attached is read-only
            part.replace(target)


def _lock(run: Run) -> None:
    """Hold the folder until this process ends, however it ends."""
    path = run.folder / "lock"
    if path in _HELD:
        return
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RuntimeError(
            f"{run.folder} is being written by another process. Wait for it, or set OCT_RUN to "
            "another name."
        ) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        warnings.warn(f"{run.folder}: this disk knows no locks; let one process write to it.",
                      stacklevel=2)  # fmt: skip
    _HELD[path] = lock

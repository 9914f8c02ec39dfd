"""A run's folder: what it holds, who may write it, and which command continues it.

config.json  metrics.jsonl  previews/  checkpoints/  generator.safetensors  finished.json
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

# What may change between two sittings of one run: where it lies, how long it goes on, who watches.
NOT_IDENTITY = ("preset", "data", "runs", "run", "steps", "hours", "log_every", "validate_every")
PACKAGES = ("torch", "torchvision", "accelerate", "timm", "numpy")
_HELD = {}  # open lock files of this process


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

    def log(self, step: int, **values) -> None:
        """Append one line to metrics.jsonl; numbers are rounded to six digits."""
        rounded = {k: float(f"{v:.6g}") for k, v in values.items()}
        with self._metrics.open("a") as file:
            file.write(json.dumps({"step": step, **rounded}) + "\n")

    def metrics(self) -> list[dict]:
        """Every complete line of metrics.jsonl, oldest first; a killed run may break its last."""
        records = []
        for line in self._metrics.read_text().splitlines() if self._metrics.exists() else ():
            with contextlib.suppress(json.JSONDecodeError):
                records.append(json.loads(line))
        return records

    def rewind(self, step: int) -> None:
        """Drop what was logged after ``step``."""
        kept = [record for record in self.metrics() if record["step"] <= step]
        _write(self._metrics, "".join(json.dumps(record) + "\n" for record in kept))

    def finish(self, step: int, seconds: float, best: float) -> None:
        summary = {"steps": step, "seconds": round(seconds, 1), "best": best}
        _write(self._finished, json.dumps(summary, indent=2) + "\n")

    def finished(self, steps: int, hours: float) -> bool:
        """Whether training ended by a budget that ``steps`` and ``hours`` do not exceed."""
        if not self._finished.exists():
            return False
        done = json.loads(self._finished.read_text())
        return bool(
            (steps and done["steps"] >= steps) or (hours and done["seconds"] >= 3600 * hours)
        )


def open_run(settings, data, parameters: dict[str, int]) -> Run:
    """The folder $OCT_RUNS/$OCT_RUN for these settings and this data, locked for writing.

    ``settings`` is a dataclass with ``runs`` and ``run``; ``data`` a ``helpers.data.Data``;
    ``parameters`` counts the parameters by network. A folder that holds a run of the same settings
    and data is continued; one of others is left alone and NAME-2, NAME-3, ... is taken.

    Raises RuntimeError if another process writes to that folder, OSError naming OCT_RUNS if
    the folder cannot be written.
    """
    identity = {k: v for k, v in dataclasses.asdict(settings).items() if k not in NOT_IDENTITY}
    identity["data_manifest"] = data.manifest_hash
    wanted = Path(settings.runs) / settings.run
    for number in range(1, 1000):
        run = Run(wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}"))
        if not run.config.exists():
            break
        if json.loads(run.config.read_text())["identity"] == identity:
            _lock(run)
            return run
    if run.folder != wanted:
        print(f"{wanted.name} holds a run with other settings; this one is {run.folder.name}.")
    try:
        for folder in (run.previews, run.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
        _lock(run)
        content = {
            "identity": identity,
            "settings": dataclasses.asdict(settings),
            "data": {"source": Path(data.source).name, "class": data.class_, "notes": data.notes,
                     "training_scans": len(data.train), "left_out": len(data.left_out)},
            "parameters": parameters,
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in PACKAGES},
        }  # fmt: skip
        if _writes():
            _write(run.config, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise OSError(
            f"{run.folder}: cannot be written ({error.strerror}). Free some space or point "
            "OCT_RUNS at another folder."
        ) from error
    return run


def _lock(run: Run) -> None:
    """Hold the folder until this process ends, however it ends."""
    path = run.folder / "lock"
    if path in _HELD or not _writes():
        return
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RuntimeError(
            f"{run.folder} is being written by another process. Wait for it, or set OCT_RUN to "
            "another name."
        ) from None
    _HELD[path] = file


def _writes() -> bool:
    """Whether this process is the one of several that writes (torchrun numbers them)."""
    return os.environ.get("RANK", "0") == "0"


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)

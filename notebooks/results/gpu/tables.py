"""What a part finds, row by row: on disk after each, so that an interrupted one loses nothing."""

import json
import os
import platform
import time
from pathlib import Path

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TINY = DEVICE.type == "cpu"  # a smoke test: the same code at sizes that a CPU does in seconds
BEGAN = time.monotonic()


def work(folder) -> Path:
    """Where caches and runs lie, which are too large to be kept: beside ``folder``."""
    return Path(folder).with_name("gpu-work")


def machine() -> str:
    if DEVICE.type == "cpu":
        return f"no GPU ({platform.processor() or platform.machine()}), torch {torch.__version__}"
    about = torch.cuda.get_device_properties(0)
    return (
        f"{torch.cuda.device_count()} x {about.name}, {about.total_memory / 2**30:.0f} GiB, CUDA "
        f"{torch.version.cuda}, torch {torch.__version__}, {os.cpu_count()} cores"
    )


class Table:
    """The rows of the part ``name``, kept in FOLDER/name.json; ``elapsed`` since its start."""

    def __init__(self, folder, name: str):
        self.path, self.rows = Path(folder) / f"{name}.json", []

    @property
    def elapsed(self) -> float:
        return time.monotonic() - BEGAN

    def add(self, what: str, **values) -> None:
        self.rows.append({"what": what, **values})
        self.path.write_text(json.dumps({"machine": machine(), "rows": self.rows}, indent=1))
        shown = "  ".join(f"{name} {short(value)}" for name, value in values.items())
        print(f"[{self.elapsed:5.0f} s] {what}: {shown}", flush=True)


def short(value) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(short, value)) + ")"
    return str(value)


def markdown(folder) -> str:
    """All parts' tables; rows of the same columns stand together."""
    lines = []
    for path in sorted(Path(folder).glob("*.json"), key=lambda p: p.stat().st_mtime):
        found = json.loads(path.read_text())
        if not isinstance(found, dict) or "rows" not in found:
            continue  # no table: what a script keeps beside its own
        lines += ["", f"## {path.stem}", "", found["machine"]]
        before = None
        for row in found["rows"]:
            if list(row) != before:
                before = list(row)
                lines += ["", "| " + " | ".join(["", *before[1:]]) + " |", "|" + "---|" * len(row)]
            lines.append("| " + " | ".join(short(value) for value in row.values()) + " |")
    return "\n".join(lines).strip() + "\n"

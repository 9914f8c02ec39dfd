"""How long things take, side by side, and what memory a process needed for them."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

ROUNDS = 5  # turns of each contender, of which the median counts
TURN = 1.5  # seconds that a turn takes, about


@dataclass
class Row:
    """One line of the table: a rate of the plain way and of ours, and the ratio of the two.

    ``low`` and ``high`` are the smallest and the largest of the ratios turn by turn.
    """

    part: str
    what: str
    unit: str
    plain: float | None
    ours: float
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    memory: tuple[float, float] | None = None  # MB above what importing takes: plain, ours
    note: str = ""

    def cells(self) -> list[str]:
        spread = f" ({self.low:.2f} to {self.high:.2f})" if self.low is not None else ""
        memory = " / ".join(f"{value:.0f}" for value in self.memory) if self.memory else ""
        return [self.what, _short(self.plain), f"{_short(self.ours)} {self.unit}",
                f"{self.ratio:.2f}{spread}" if self.ratio else "", memory, self.note]  # fmt: skip


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def alternate(contenders: dict, rounds=ROUNDS, turn=TURN, multiple=1) -> dict[str, list[float]]:
    """Seconds per call of each function, one number for every round.

    They take turns, so that what else the machine does falls on all of them; each turn has as many
    calls as fill ``turn`` seconds, a ``multiple``. The first turn warms up and is not counted.
    """
    calls, seconds = {}, {name: [] for name in contenders}
    for name, function in contenders.items():
        function()
        whole = multiple * max(_timed(function, 1), 1e-9)
        calls[name] = multiple * max(1, round(turn / whole))
    for number in range(rounds + 1):
        for name, function in contenders.items():
            spent = _timed(function, calls[name])
            if number:
                seconds[name].append(spent)
    return seconds


def _timed(function, calls: int) -> float:
    settle()
    began = time.perf_counter()
    for _ in range(calls):
        function()
    settle()
    return (time.perf_counter() - began) / calls


def settle() -> None:
    """Wait for a GPU: a step returns before it has ended there."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def compare(part, what, unit, count, plain, ours, multiple=1, **others) -> Row:
    """A Row from two functions that each deal with ``count`` things per call."""
    seconds = alternate({"plain": plain, "ours": ours}, multiple=multiple)
    return row(part, what, unit, count, seconds["plain"], seconds["ours"], **others)


def row(part, what, unit, count, plain: list, ours: list, **others) -> Row:
    """A Row from seconds per call, round by round."""
    ratios = np.array(plain) / np.array(ours)
    spread = (float(ratios.min()), float(ratios.max())) if len(ratios) > 1 else (None, None)
    return Row(part, what, unit, count / float(np.median(plain)), count / float(np.median(ours)),
               float(np.median(ratios)), *spread, **others)  # fmt: skip


def megabytes(name: str) -> float:
    """VmRSS or VmHWM of this process (Linux); a child's rusage would begin with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def forget_peak() -> None:
    """From now on VmHWM counts from what is in use."""
    Path("/proc/self/clear_refs").write_text("5")


def markdown(rows: list[Row]) -> str:
    """The rows as a table under a headline for each part."""
    lines = []
    for part in dict.fromkeys(r.part for r in rows):
        lines += ["", f"### {part}", ""]
        lines += ["| | plain | ours | ratio (turns) | MB plain / ours | |", "|" + "---|" * 6]
        lines += ["| " + " | ".join(r.cells()) + " |" for r in rows if r.part == part]
    return "\n".join(lines)


def as_json(rows: list[Row]) -> list[dict]:
    return [asdict(r) for r in rows]

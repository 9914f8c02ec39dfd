"""One image before it is decoded, and what file names tell of it."""

import re
from dataclasses import dataclass
from pathlib import Path

BLOCK = 50  # consecutive frames that stand in for a patient
OCT2017_NAME = re.compile(r"^(?P<label>CNV|DME|DRUSEN|NORMAL)-(?P<patient>\w+)-\d+$", re.IGNORECASE)
ODIR_NAME = re.compile(r"^(?P<patient>\d+)_(left|right)", re.IGNORECASE)


@dataclass(frozen=True)
class Scan:
    """One image before it is decoded.

    ``path`` is a file, or virtual: simulated/CLASS/PATIENT_EYE, or FILE.npz#INDEX.
    ``frame`` is the position among consecutive frames where ``patient`` is only a stand-in block;
    ``side`` is set where a published split has to be kept.
    ``width`` and ``height`` in px and the scale in micrometres per px are None where unknown.
    """

    path: str
    modality: str
    dataset: str
    label: str
    patient: str
    width: int | None = None
    height: int | None = None
    um_per_px_x: float | None = None
    um_per_px_y: float | None = None
    frame: int | None = None
    side: str | None = None


def natural_order(path: Path) -> list:
    """scan_2 before scan_10."""
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", str(path))]

"""One image before it is decoded, and what names tell of it: files, classes, eyes."""

import hashlib
import itertools
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

BLOCK = 50  # consecutive frames that stand in for a patient
OCT2017_NAME = re.compile(r"^(?P<label>CNV|DME|DRUSEN|NORMAL)-(?P<patient>\w+)-\d+$", re.IGNORECASE)
ODIR_NAME = re.compile(r"^(?P<patient>\d+)_(left|right)", re.IGNORECASE)
BLOCK_PATIENT = re.compile(r"block(\d+)$")

# What the endings of files stand for, in small letters: pictures are read, the files of devices
# are named; everything else is no image.
PICTURES = {
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2",
    ".j2k", ".pgm", ".ppm",
}  # fmt: skip
DEVICES = {
    ".dcm": "DICOM", ".dicom": "DICOM", ".vol": "Heidelberg volume", ".e2e": "Heidelberg",
    ".sdb": "Heidelberg", ".fda": "Topcon", ".fds": "Topcon", ".img": "Zeiss",
    ".oct": "Optovue or Bioptigen",
}  # fmt: skip

CLASSES = ("NORMAL", "DRUSEN", "DME", "CNV")
CONDITIONS = CLASSES + (
    "AMD", "AMRD", "ARMD", "GLAUCOMA", "CATARACT", "MYOPIA", "HYPERTENSION", "OTHER", "HEALTHY",
    "CONTROL", "CONTROLS", "CSC", "CSR", "CSCR", "ERM", "RVO", "BRVO", "CRVO", "RAO", "VID", "VMT",
    "PED", "STARGARDT", "RETINOSCHISIS",
)  # fmt: skip
ALONE = ("DR", "NPDR", "PDR", "MH", "RP", "GA", "MS")  # known as a whole name only: Dr Miller
STAGE = re.compile(
    r"(?:^|[\s_-])(stage|grade|type|level|phase|class|category|label)[\s_-]*[\divx]+$",
    re.IGNORECASE,
)


VIRTUAL = ("simulated", "npz", "volume")  # data sets whose scans are no picture files


def dataset_of(folder: Path) -> str:
    """A folder's name as that of a data set, which must not be taken for one of ``VIRTUAL``."""
    name = folder.resolve().name.strip()
    return f"{name}/" if name in VIRTUAL else name


@dataclass(frozen=True)
class Scan:
    """One image before it is decoded.

    ``path`` is a file, or virtual: simulated/CLASS/PATIENT_EYE, or FILE.npz#INDEX.
    ``frame`` is the position among consecutive frames where ``patient`` is only a stand-in block,
    else in its volume; ``side`` is set where a published split has to be kept.
    ``width`` and ``height`` in px and the scale in micrometres per px are None where unknown;
    ``eye`` is "OD", "OS" or None, ``volume`` a name within the patient, ``line`` the place on the
    picture of the back of the eye, as text.
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
    eye: str | None = None
    volume: str | None = None
    line: str | None = None

    def __hash__(self) -> int:
        return hash(self.path)  # of all fields it takes seconds for 100,000 scans


def digest(text: str) -> str:
    """SHA-256 of a text, of names that are no UTF-8 too."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def natural_order(path) -> list:
    """scan_2 before scan_10."""
    return [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", str(path))]


def shown(name) -> str:
    """A name that every screen and every file can take: what is no UTF-8, or a control character,
    is escaped as in repr."""
    name = str(name)
    if name.isprintable():
        return name
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name
    )


def some(names, most=6) -> str:
    """The first names in alphabetical order, as text."""
    names = sorted(shown(name) for name in names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def stem_of(name: str) -> str:
    """The name of a file without its suffix, as ``Path.stem``, of which 100,000 take seconds."""
    stem, dot, last = name.rpartition(".")
    return stem if dot and stem and last else name


def ending(name: str) -> str:
    """The suffix of a file's name in small letters: ".png"; "" if it has none."""
    stem, dot, last = name.strip().rpartition(".")
    return f".{last.lower()}" if dot and stem else ""


@cache
def condition(label: str) -> str:
    """One spelling per class: "drusen", "1. Drusen" and "Amd dry" are DRUSEN, DRUSEN and AMD_DRY;
    other names stay."""
    label = label.strip()
    upper = re.sub(r"[\s-]+", "_", re.sub(r"^\d+[\s_.:)-]+", "", label).upper())
    return upper if is_condition(upper) else label


def is_condition(name: str) -> bool:
    """Whether a class of this name is known."""
    upper = re.sub(r"[\s-]+", "_", name.strip().upper())
    return upper in ALONE or upper.split("_")[0] in CONDITIONS


@cache
def class_of_folder(name: str) -> tuple[str, str]:
    """The known class that a folder's name stands for, or "", and the number that goes with it:
    0_NORMAL is NORMAL and "0", AMD15 is AMD and "15", "DRUSEN-P07" is DRUSEN and "P07".

    Which stage or type it is belongs to the class: AMD_stage2 is AMD_STAGE2."""
    bare = re.sub(r"^\d+[\s_.:)-]+", "", name.strip())
    bare = re.sub(r"\s*\((\d+)\)$", r"_\1", bare)  # as Windows names a second folder
    numbers = re.findall(r"^\d+", name.strip()) if bare != name.strip() else []
    words = [word for word in re.split(r"[\s_-]+", bare) if word]
    if not STAGE.search(bare):
        if words and (ends := re.fullmatch(r"([A-Za-z]{2,})(\d+)", words[0])):
            words[:1] = ends.groups()
        kept = list(itertools.takewhile(lambda word: not re.search(r"\d", word), words))
        numbers += words[len(kept) :]
    else:
        kept = words
    label = "_".join(kept).upper()
    return (label, "_".join(numbers)) if kept and is_condition(label) else ("", "")


def folder_name(label: str) -> str:
    """A name for the folder of a class that stays inside its parent and that every system takes.

    Labels that are such a name already are their own; another gets a few letters of its hash, so
    that no two labels share a folder.
    """
    clean = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f]', "_", shown(label)).strip().rstrip(". ")[:80]
    if not clean.strip("._ ") or clean.startswith((".", "~")):
        clean = "_" + clean.lstrip("._~ ")
    reserved = r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?"
    if clean == label and not re.fullmatch(reserved, clean, re.IGNORECASE):
        return clean
    digest = hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{clean}-{digest}"


def in_source(path: str, source) -> str:
    """A path as it stands below the source, with slashes; another path as it is."""
    path, root = str(path).replace("\\", "/"), str(Path(source)).replace("\\", "/")
    return path[len(root) + 1 :] if path.startswith(root + "/") else path

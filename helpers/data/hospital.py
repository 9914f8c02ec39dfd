"""What the devices of a clinic write: whole volumes of B-scans, each one eye of one person.

Heidelberg XML with its TIFs, .vol and .e2e; Topcon .fda and .fds; Zeiss .img; DICOM OPT; TIFFs of
several pages. defusedxml and pydicom (``pip install .[hospital]``) are imported only where such a
file is opened. The binary formats are read here, because the libraries cannot be relied on: eyepy
0.21 fails on XML exports that name the eye at each image, refuses radial scans, and like
oct-converter 0.7 reads the mantissa of .e2e pixels in reverse; oct-converter's Topcon readers stop
at numpy 2.3 (np.fromstring), and it brings a second OpenCV and ffmpeg.

Names, birth dates, ids and comments in the files' headers go nowhere: not into a ``Volume``, not
into its rows, not into a message. No exception of a library is passed on, for it may quote them.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import struct
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from PIL import Image, ImageSequence

from helpers.data.pixels import read_image, to_grey, to_uint8

EYES = {"R": "OD", "RIGHT": "OD", "OD": "OD", "L": "OS", "LEFT": "OS", "OS": "OS"}
NO_ID = {"", "anonymous", "anonymized", "anonymised", "anonym", "unknown", "none", "null", "nan",
         "n/a", "na", "-", "patient", "test"}  # fmt: skip
MOST_XML = 256 << 20  # bytes; an export of 261 B-scans with all layers has about 10 MB
UM_PER_DEGREE = 289.6  # of a medium long eye: .e2e has angles only, the length is not in it
FIELD_DEGREES = 30  # of the infrared picture in .e2e, where it does not stand either
ZEISS_DEPTH = 1024
ZEISS_CUBES = {n * m * ZEISS_DEPTH: (n, m) for n, m in ((512, 128), (200, 200))}  # A-, B-scans
ZEISS_NAME = re.compile(
    r"^(?:(?P<patient>[^_].*?)_)?(?P<kind>[^_]*?(?P<width>\d{3,4})x(?P<count>\d{2,4})[^_]*)_"
    r".*_(?P<eye>O[DS])_.*?(?P<what>cube_z|cube_raw|hidef\w*|FlowCube\w*)$",
    re.IGNORECASE,
)
OPT = "1.2.840.10008.5.1.4.1.1.77.1.5.4"  # the SOP class of ophthalmic tomography
MULTIFRAME = "1.2.840.10008.5.1.4.1.1.7."  # secondary captures, where they say OPT
DICOM_TAGS = [
    "SOPClassUID", "SeriesInstanceUID", "Modality", "PatientID", "Laterality", "ImageLaterality",
    "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "PixelData",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
# no other tag is parsed, names and birth dates least of all
AGAIN = "Copy it from the device once more, or leave it out."

for _library in ("PIL", "pydicom"):
    logging.getLogger(_library).setLevel(logging.INFO)  # at DEBUG, PIL prints a TIFF's artist


class Unreadable(ValueError):
    """A file that is not read, and what to do; made here, so that it quotes no header."""


class Frames(Sequence):
    """B-scans, uint8 (H, W) each, decoded when they are asked for; ``Unreadable`` if one cannot."""

    def __init__(self, path: Path, decode: Callable[[int], np.ndarray], count: int):
        self._path, self._decode, self._count = path, decode, count

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        try:
            return self._decode(index % self._count)
        except (Unreadable, ImportError):
            raise
        except Exception:  # decoders raise many kinds
            raise _cut(self._path) from None


@dataclass
class Volume:
    """One scan of one eye.

    ``frames`` are its B-scans in the order of the file, ``numbers`` their places in it from 0 (a
    picture that is missing leaves a gap), ``first`` the number of B-scans that stand before it in
    the same file. Micrometres are None where the file does not say; ``spacing_um`` lies between
    neighbouring B-scans and is None if they are not parallel and evenly spaced. ``eye`` is "OD",
    "OS" or None. ``patient`` is a hash of the device's patient id: a pseudonym, not anonymity, for
    whoever has the list of ids can hash them too. Where ``patient_known`` is False the file names
    nobody, and the hash is of the names of folder and file. ``lines`` has for every frame its
    (x0, y0, x1, y1) on ``enface`` in px, or None; ``enface`` is the infrared picture (H, W) or the
    photograph (H, W, 3), uint8, or None. ``notes`` say what was left out.
    """

    volume: str
    eye: str | None
    patient: str
    patient_known: bool
    um_per_px_x: float | None
    um_per_px_y: float | None
    spacing_um: float | None
    height: int
    width: int
    frames: Sequence[np.ndarray] = field(repr=False)
    numbers: list[int] = field(default=None, repr=False)  # None: all of them
    lines: list[tuple[float, float, float, float] | None] = field(default=None, repr=False)
    enface: np.ndarray | None = field(default=None, repr=False)
    enface_um_per_px: float | None = None
    first: int = 0
    notes: list[str] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list, repr=False)  # of an XML, one for each frame

    def __post_init__(self):
        self.numbers = self.numbers or list(range(len(self.frames)))
        self.lines = self.lines or [None] * len(self.frames)


# what callers use


def is_hospital_file(path) -> bool:
    """Is this a file that ``read_volumes`` should be tried on? By its suffix, in any case; an .xml
    by its first kB, a .tif by its second page, a file without suffix by DICOM's mark."""
    path = Path(path)
    suffix = _suffix(path)
    if path.name.startswith("."):
        return False  # macOS puts a ._scan.vol beside a scan.vol
    try:
        if suffix in (".tif", ".tiff"):
            return _is_tiff_volume(path)
        if suffix == ".xml":
            with path.open("rb") as file:
                return b"<HEDX" in file.read(1024).replace(b"\0", b"")  # UTF-16, too
        if not suffix and path.is_file() and path.name.upper() != "DICOMDIR":
            with path.open("rb") as file:
                return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
    return suffix in READERS


def _suffix(path: Path) -> str:
    """In small letters; none of a DICOM file that is called by its UID, 1.2.840.113619.2.55."""
    return "" if path.suffix[1:].isdecimal() else path.suffix.lower()


def resampled_twin(name: str) -> str | None:
    """What the resampled copy of a Zeiss device's raw cube is called, in small letters; None of
    any other file."""
    twin = re.sub(r"cube_raw(?=\.img$)", "cube_z", name.lower())
    return twin if twin != name.lower() else None


def read_volumes(path) -> list[Volume]:
    """Every volume of one file: an .e2e or an XML may hold both eyes and several visits.

    Raises ValueError that names the file and what to do if it is cut, empty, of something else, or
    contradicts itself; FileNotFoundError; ImportError naming ``pip install .[hospital]``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise Unreadable(f"{path}: the file is empty. {AGAIN}")
    reader = READERS.get(_suffix(path), _dicom if not _suffix(path) else None)
    if reader is None:
        raise Unreadable(f"{path}: no hospital format; known are {', '.join(READERS)}.")
    try:
        volumes = reader(path)
    except (Unreadable, ImportError, OSError):
        raise
    except Exception:  # struct, pydicom, PIL: they raise many kinds, and may quote the header
        raise _cut(path) from None
    if not volumes:
        raise Unreadable(f"{path}: has no B-scan. Export the volume, not only the photograph.")
    first = 0
    for volume in volumes:
        volume.first = first
        first += max(volume.numbers) + 1
    return volumes


def read_frame(path) -> np.ndarray:
    """The B-scan uint8 (H, W) that ``path``, FILE#NUMBER, stands for, the number running through
    all volumes of the file.

    The last files stay open, so that 49 B-scans do not parse a header 49 times. Raises what
    ``read_volumes`` raises, and ValueError if the file has no such B-scan.
    """
    volume, place = _found(path)
    return volume.frames[place]


def picture_of(path) -> Path | None:
    """The picture file in which the B-scan FILE#NUMBER of an XML lies; None of other files. Raises
    what ``read_frame`` raises."""
    if not str(path).rpartition("#")[0].lower().endswith(".xml"):
        return None
    volume, place = _found(path)
    return volume.pictures[place]


def _found(path) -> tuple[Volume, int]:
    """The volume that FILE#NUMBER lies in, and its place among the frames."""
    file, _, number = str(path).rpartition("#")
    if not file or not number.isdigit():
        raise Unreadable(f"{path}: a B-scan is named FILE#NUMBER.")
    for volume in _opened_file(file):
        inside = int(number) - volume.first
        if inside in volume.numbers:
            return volume, volume.numbers.index(inside)
    raise Unreadable(f"{file}: has no B-scan {number}.")


def pictures_of(path) -> list[Path]:
    """The picture files that an XML names and that are there: part of a volume, no scans of their
    own. Of other files []. Errors as in ``read_volumes``."""
    path = Path(path)
    if path.suffix.lower() != ".xml":
        return []
    there = _siblings(path)
    names = (_last_part(url.text) for url in _xml_root(path).iter("ExamURL"))
    return [there[name.lower()] for name in names if name and name.lower() in there]


_LOCK = threading.Lock()  # lru_cache alone lets threads open the same file at the same time


def _opened_file(file: str) -> list[Volume]:
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    stat = path.stat()
    with _LOCK:
        beside = path.parent.stat().st_mtime_ns  # the pictures of an XML may come later
        return _opened(file, stat.st_mtime_ns, stat.st_size, beside)


@lru_cache(maxsize=4)
def _opened(file: str, _time: int, _size: int, _beside: int) -> list[Volume]:
    return read_volumes(file)


# what the formats have in common


def _lacks(module: str) -> ImportError:
    return ImportError(f"Reading this hospital file needs {module}: pip install .[hospital]")


def _cut(path) -> Unreadable:
    return Unreadable(f"{path}: the file is cut or damaged. {AGAIN}")


def _hash(*parts) -> str:
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:12]


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("latin-1").strip()


def _known_id(text) -> str | None:
    """A device's patient id, unless anonymising has left the same one for everybody."""
    text = str(text or "").strip(" \0").lower()
    return None if text in NO_ID or len(set(text)) == 1 else text


def _person(path: Path, hospital_id, device_id=None) -> dict:
    """The fields ``patient`` and ``patient_known``. ``device_id`` is a number inside the device's
    own data base, for files where the hospital's id is missing."""
    hospital_id, device_id = _known_id(hospital_id), _known_id(device_id)
    if hospital_id:
        return {"patient": "P" + _hash("patient", hospital_id), "patient_known": True}
    if device_id:
        return {"patient": "P" + _hash("device", device_id), "patient_known": True}
    return {
        "patient": "F" + _hash("file", path.resolve().parent.name, path.name),
        "patient_known": False,
    }


def _name(path: Path, *more) -> str:
    """A volume's name: not the file's, which may be a person's."""
    return "V" + _hash("volume", path.resolve().parent.name, path.name, *more)


def _eye(path: Path, values) -> str | None:
    eyes = {EYES.get(str(value or "").strip(" \0").upper()) for value in values} - {None}
    if len(eyes) > 1:
        raise Unreadable(f"{path}: says of one volume both OD and OS. Export each eye by itself.")
    return eyes.pop() if eyes else None


def _um(path: Path, mm, what: str, most=1000) -> float | None:
    """Micrometres of a stated length in mm, ``most`` at most; None where nothing is stated."""
    if mm is None or mm == "":
        return None
    try:
        um = float(mm) * 1000
    except (TypeError, ValueError):
        um = math.nan
    if not 0.05 <= um <= most:  # not (nan is neither)
        raise Unreadable(
            f"{path}: {um:g} um {what} is impossible. Export it again, or leave it out."
        )
    return round(um, 6)


def _spacing_um(lines_um) -> float | None:
    """Micrometres between parallel, evenly spaced lines [(x0, y0, x1, y1) or None]; else None."""
    if len(lines_um) < 2 or any(line is None for line in lines_um):
        return None
    lines = np.asarray(lines_um, float)
    along = lines[:, 2:] - lines[:, :2]
    length = np.hypot(*along.T)
    if length.min() <= 0:
        return None
    along /= length[:, None]
    if np.abs(along[:, 0] * along[0, 1] - along[:, 1] * along[0, 0]).max() > 0.05:
        return None
    middle = (lines[:, 2:] + lines[:, :2]) / 2
    steps = np.diff(middle @ np.array([-along[0, 1], along[0, 0]]))
    usual = np.median(steps)
    if abs(usual) < 1 or np.abs(steps - usual).max() > 0.25 * abs(usual):
        return None
    return round(float(abs(steps.mean())), 3)


def _mapped(path: Path) -> memoryview:
    """The bytes of a file without reading them."""
    return memoryview(np.memmap(path, np.uint8, "r"))


def _part(path: Path, data: memoryview, start: int, size: int) -> memoryview:
    """``size`` bytes from ``start``; ValueError if the file ends before."""
    if start < 0 or size < 0 or start + size > len(data):
        raise _cut(path)
    return data[start : start + size]


def _check_shape(path: Path, width: int, height: int, count: int):
    if count < 1:
        raise Unreadable(f"{path}: has no B-scan. Export the volume, not only the photograph.")
    if not (16 <= width <= 16384 and 16 <= height <= 16384 and count <= 16384):
        raise Unreadable(
            f"{path}: {count} B-scans of {width} x {height} px are impossible. {AGAIN}"
        )


def _heidelberg_levels(values: np.ndarray) -> np.ndarray:
    """Heidelberg's intensities, 0 to 1, in the grey levels that its own software shows; what is
    above 1.99 is where no scan is, black."""
    values = np.nan_to_num(values.astype(np.float64), nan=9, posinf=9, neginf=0)
    levels = (np.log(values.clip(0, 1) + 2.44e-4) + 8.3) / 8.285
    return np.where(values > 1.99, 0, np.round(255 * levels.clip(0, 1))).astype(np.uint8)


class _Levels:
    """Pixels of more than 8 bits as uint8, all B-scans of a volume by one scale: from the 0.1 to
    the 99.9 percentile of some of them, as in ``pixels.read_image``."""

    def __init__(self, raw: Callable[[int], np.ndarray], count: int):
        self._raw, self._count = raw, count

    @cached_property
    def _range(self):
        some = range(0, self._count, -(-self._count // 16))
        values = np.concatenate([np.asarray(self._raw(i))[::2, ::2].ravel() for i in some])
        return np.percentile(np.nan_to_num(values.astype(np.float64)), (0.1, 99.9))

    def __call__(self, index: int) -> np.ndarray:
        image = np.asarray(self._raw(index))
        if image.dtype == np.uint8:
            return image
        low, high = self._range
        image = (np.nan_to_num(image.astype(np.float64)) - low) / max(high - low, 1e-9)
        return np.round(255 * image.clip(0, 1)).astype(np.uint8)


# Heidelberg XML + TIF


def _xml_root(path: Path):
    """The root element of a Heidelberg XML."""
    try:
        from defusedxml import ElementTree, common
    except ImportError:
        raise _lacks("defusedxml") from None
    if path.stat().st_size > MOST_XML:
        raise Unreadable(f"{path}: {path.stat().st_size >> 20} MB are too much for an XML export.")
    data = path.read_bytes()
    try:
        try:
            root = ElementTree.fromstring(data, forbid_dtd=True)
        except ElementTree.ParseError:
            # a name with umlauts in Latin-1 and no word of it: only the names suffer
            text = re.sub(r"^\s*<\?xml.*?\?>", "", data.decode("utf-8", "replace"), flags=re.S)
            root = ElementTree.fromstring(text, forbid_dtd=True)
    except common.DefusedXmlException:
        raise Unreadable(
            f"{path}: defines entities or a document type, which no export does; it was not read, "
            "for it may be an XML bomb. Leave it out."
        ) from None
    except (ElementTree.ParseError, ValueError):
        raise _cut(path) from None
    if root.tag != "HEDX":
        raise Unreadable(f"{path}: is XML, but no Heidelberg export (HEDX). Leave it out.")
    return root


def _last_part(url) -> str:
    r"""The file's name in file:///C:\HRAExport\A%20B.tif; "" if there is none."""
    name = re.split(r"[\\/]", unquote((url or "").strip()))[-1]
    return "" if name in (".", "..") else name


def _siblings(path: Path) -> dict[str, Path]:
    """The files beside ``path`` by their names in lower case, as Windows compares them."""
    return _files_in(path.parent, path.parent.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _files_in(folder: Path, _time: int) -> dict[str, Path]:
    return {other.name.lower(): other for other in folder.iterdir() if other.is_file()}


def _number(element, where: str) -> float | None:
    text = element.findtext(where) if element is not None else None
    try:
        number = None if text is None or not text.strip() else float(text)
    except ValueError:
        number = math.nan
    return math.nan if number != number else number  # one nan, equal to itself in a set


def _heidelberg_xml(path: Path) -> list[Volume]:
    volumes, there = [], _siblings(path)
    for patient in _xml_root(path).iter("Patient"):
        person = _person(path, patient.findtext("PatientID"), patient.findtext("ID"))
        for place, series in enumerate(patient.iter("Series")):
            volume = _xml_series(path, series, place, person, there)
            if volume:
                volumes.append(volume)
    return volumes


def _xml_series(path: Path, series, place: int, person: dict, there: dict) -> Volume | None:
    """The volume of one series; None if it has no B-scan."""
    of_type = defaultdict(list)
    for image in series.findall("Image"):
        of_type[(image.findtext("ImageType/Type") or "").strip().upper()].append(image)
    scans = of_type["OCT"]
    if not scans:
        return None
    context = "OphthalmicAcquisitionContext"
    # newer exports say the eye at the series, older ones at every image
    eyes = [e.text for e in series.iter("Laterality")]
    localizer = of_type["LOCALIZER"][0] if of_type["LOCALIZER"] else None
    slo = localizer.find(context) if localizer is not None else None
    slo_x, slo_y = (_um(path, _number(slo, s), "per px of the SLO") for s in ("ScaleX", "ScaleY"))
    stated = {tuple(_number(i.find(context), s) for s in ("Width", "Height")) for i in scans}
    scales = {tuple(_number(i.find(context), s) for s in ("ScaleX", "ScaleY")) for i in scans}
    if len(scales) > 1 or len(stated) > 1:
        raise Unreadable(f"{path}: B-scans of several sizes in one series. Export them singly.")
    um_x, um_y = (_um(path, mm, "per px") for mm in scales.pop())
    circle = "circ" in (series.findtext("Type") or "").lower()
    lines_um, found, numbers, missing, shapes = [], [], [], [], set()
    for number, image in enumerate(scans):
        ends = [
            _number(image.find(context), f"{end}/Coord/{axis}")
            for end in ("Start", "End") for axis in "XY"
        ]  # fmt: skip
        known = not circle and all(end is not None and math.isfinite(end) for end in ends)
        lines_um.append(tuple(1000 * end for end in ends) if known else None)
        name = _last_part(image.findtext("ImageData/ExamURL"))
        file = there.get(name.lower())
        shape = _picture_size(file)
        if shape is None:
            missing.append(name or "one without a name")
            continue
        shapes.add(shape)
        found.append(file)
        numbers.append(number)
    notes = []
    if missing:
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        notes.append(f"{path}: {len(missing)} of {len(scans)} pictures are missing: {some}")
    if not found:
        raise Unreadable(
            f"{path}: none of its {len(scans)} pictures lies beside it ({some}). "
            "Keep the XML and its TIFs in one folder."
        )
    width, height = next(iter(shapes))
    if len(shapes) > 1 or any(s and s != m for s, m in zip(stated.pop(), (width, height))):
        raise Unreadable(
            f"{path}: its pictures have another size than it says, so that no length would be "
            "right. Export it again, without resizing."
        )
    enface = None
    if localizer is not None:
        name = _last_part(localizer.findtext("ImageData/ExamURL"))
        try:
            enface = _picture(there[name.lower()])
        except (KeyError, ValueError):
            notes.append(f"{path}: the SLO picture is missing: {name or 'without a name'}")
    return Volume(
        volume=_name(path, place), eye=_eye(path, eyes), **person, um_per_px_x=um_x,
        um_per_px_y=um_y, spacing_um=_spacing_um(lines_um), height=height, width=width,
        frames=Frames(path, lambda i: _picture(found[i]), len(found)), numbers=numbers,
        lines=[_on_enface(lines_um[n], slo_x, slo_y) for n in numbers], enface=enface,
        enface_um_per_px=slo_x, notes=notes, pictures=found,
    )  # fmt: skip


def _picture(path: Path) -> np.ndarray:
    try:
        return to_grey(read_image(path))
    except ValueError as error:
        raise Unreadable(str(error)) from None


def _picture_size(path: Path | None) -> tuple[int, int] | None:
    try:
        with Image.open(path) as file:
            return file.size
    except Exception:  # not there (AttributeError), no picture, a bomb: all the same
        return None


def _on_enface(line_um, um_x, um_y):
    """A line in um from the picture's corner as one in px."""
    if line_um is None or not um_x or not um_y:
        return None
    return tuple(round(end / um, 2) for end, um in zip(line_um, (um_x, um_y) * 2))


# Heidelberg .vol


def _vol(path: Path) -> list[Volume]:
    """A flat file: 2048 bytes of header, the SLO picture, and for each B-scan a header and float32
    pixels."""
    data = _mapped(path)
    head = _part(path, data, 0, 2048)
    if bytes(head[:4]) not in (b"HSF-", b"ep-v"):  # ep-v: written by eyepy
        raise Unreadable(f"{path}: is no Heidelberg .vol (HSF-OCT). Leave it out.")
    width, count, height, mm_x, mm_z, mm_y = struct.unpack_from("<3I3d", head, 12)
    slo_width, slo_height, slo_mm_x, slo_mm_y = struct.unpack_from("<2I2d", head, 48)
    eye = _text(bytes(head[84:88]))
    pattern, scan_head = struct.unpack_from("<iI", head, 96)
    (device_id,) = struct.unpack_from("<I", head, 136)
    _check_shape(path, width, height, count)
    start, size = 2048 + slo_width * slo_height, scan_head + 4 * width * height
    _part(path, data, start, count * size)
    has_slo = min(slo_width, slo_height) >= 16
    slo_x, slo_y = (_um(path, mm, "per px of the SLO") if has_slo else None
                    for mm in (slo_mm_x, slo_mm_y))  # fmt: skip
    lines_um = []
    for i in range(count):
        ends = struct.unpack_from("<4d", data, start + i * size + 16)
        known = pattern != 2 and all(map(math.isfinite, ends))  # 2: a circle and its centre
        lines_um.append(tuple(1000 * end for end in ends) if known else None)
    spacing = _spacing_um(lines_um)
    if spacing is None and count > 1 and pattern in (0, 3, 4):
        spacing = _um(path, mm_z, "between B-scans", most=20_000)

    def decode(i):
        pixels = _part(path, data, start + i * size + scan_head, 4 * width * height)
        return _heidelberg_levels(np.frombuffer(pixels, "<f4").reshape(height, width))

    slo = np.frombuffer(_part(path, data, 2048, slo_width * slo_height), np.uint8)
    return [Volume(
        volume=_name(path), eye=_eye(path, [eye]),
        **_person(path, _text(bytes(head[140:164])), device_id),
        um_per_px_x=_um(path, mm_x, "per px"), um_per_px_y=_um(path, mm_y, "per px"),
        spacing_um=spacing, height=height, width=width, frames=Frames(path, decode, count),
        lines=[_on_enface(line, slo_x, slo_y) for line in lines_um],
        enface=slo.reshape(slo_height, slo_width).copy() if has_slo else None,
        enface_um_per_px=slo_x,
    )]  # fmt: skip


# Heidelberg .e2e

PATIENT, LATERALITY, SERIES_START, SCAN, PICTURE = 9, 11, 3, 10004, 1 << 30
B_SCAN, INFRARED = 35652097, 33620481  # what a PICTURE is of


@cache
def _e2e_levels() -> np.ndarray:
    """Grey levels (65536,) of .e2e's 16-bit floats: 6 bits exponent, 10 bits mantissa, no sign."""
    codes = np.arange(1 << 16)
    exponent, mantissa = codes >> 10, (codes & 1023) / 1024
    values = np.where(exponent == 0, mantissa * 2.0**-62, (1 + mantissa) * 2.0 ** (exponent - 63))
    return _heidelberg_levels(values)


def _e2e(path: Path) -> list[Volume]:
    """Folders of the device's data base, chained from the last to the first; each lists chunks of
    one patient, study, series and slice. Angles are turned into micrometres by UM_PER_DEGREE, for
    the length of the eye is not in the file: right to about 5 %."""
    data = _mapped(path)
    skip = 64 if bytes(data[:21]) == b"E2EMultipleVolumeFile" else 0
    if bytes(data[skip : skip + 4]) != b"CMDb":
        raise Unreadable(f"{path}: is no Heidelberg .e2e. Leave it out.")
    (place,) = struct.unpack_from("<I", data, skip + 36 + 40)
    chunks, seen = [], set()
    while place:
        if place in seen:
            raise _cut(path)
        seen.add(place)
        folder = _part(path, data, place + skip, 52)
        count, _, before, _ = struct.unpack_from("<4I", folder, 36)
        entries = _part(path, data, place + skip + 52, 44 * count)
        for entry in struct.iter_unpack("<4I4i2H2I", entries):
            position, start, size, kind = *entry[:3], entry[10]
            if start > position and kind in (PATIENT, LATERALITY, SERIES_START, SCAN, PICTURE):
                chunks.append((start + skip, size, kind))
        place = before
    patients, eyes, scans, pictures = {}, defaultdict(list), defaultdict(dict), defaultdict(dict)
    enfaces = {}
    for start, size, kind in sorted(chunks):
        head = _part(path, data, start, 60)
        patient, study, series, slice_, _, _, found, _ = struct.unpack_from("<4i2H2I", head, 32)
        if found != kind:  # the device's own anonymising leaves such
            continue
        body, key = _part(path, data, start + 60, size), (patient, study, series)
        if kind == PATIENT:
            patients.setdefault(patient, _text(bytes(body[102:127])))
        elif kind in (LATERALITY, SERIES_START):
            at = 14 if kind == LATERALITY else 4
            eyes[key, kind].append(chr(body[at]) if len(body) > at else "")
        elif kind == SCAN:
            scans[key].setdefault(slice_, body)
        else:
            _, of, _, height, width = struct.unpack_from("<5I", body, 0)
            if of == B_SCAN:
                _part(path, body, 20, 2 * height * width)
                pictures[key].setdefault(slice_, (start + 80, height, width))
            elif of == INFRARED and key not in enfaces:
                pixels = _part(path, body, 20, height * width)
                enfaces[key] = np.frombuffer(pixels, np.uint8).reshape(height, width).copy()
    volumes = []
    for key in sorted(pictures):
        # the series' beginning names the eye too, but wrongly for some scans of the disc
        eye = _eye(path, eyes[key, LATERALITY] or eyes[key, SERIES_START])
        person = _person(path, patients.get(key[0]), key[0] if key[0] > 0 else None)
        volumes.append(
            _e2e_series(path, data, key, pictures[key], scans[key], enfaces.get(key), eye, person)
        )
    return volumes


def _e2e_series(path, data, key, pictures, scans, enface, eye, person) -> Volume:
    order = sorted(pictures)
    where = [pictures[slice_] for slice_ in order]
    if len({place[1:] for place in where}) > 1:
        raise Unreadable(f"{path}: B-scans of several sizes in one series. Export them singly.")
    _, height, width = where[0]
    _check_shape(path, width, height, len(order))
    lines, um_x, um_y, expected = [], None, None, 0
    for slice_ in order:
        about = scans.get(slice_)
        if about is None or len(about) < 76:
            lines.append(None)
            continue
        ends = struct.unpack_from("<4f", about, 12)
        (mm_y,) = struct.unpack_from("<f", about, 36)
        filled, expected, _, pattern = struct.unpack_from("<4I", about, 60)
        straight = pattern != 2 and all(map(math.isfinite, ends))
        lines.append(ends if straight else None)
        um_y = um_y or _um(path, mm_y, "per px")
        if straight and um_x is None:
            degrees = math.hypot(ends[2] - ends[0], ends[3] - ends[1])
            um_x = _um(path, degrees / (filled or width) * UM_PER_DEGREE / 1000, "per px")
    notes = []
    if expected > len(order):
        notes.append(f"{path}: {expected - len(order)} of {expected} B-scans are missing")
    spacing = _spacing_um([line and tuple(UM_PER_DEGREE * end for end in line) for line in lines])
    per_px = None if enface is None else FIELD_DEGREES / enface.shape[1]
    inside = per_px and all(line is None or max(map(abs, line)) <= 15 for line in lines)

    def decode(i):
        pixels = _part(path, data, where[i][0], 2 * height * width)
        return _e2e_levels()[np.frombuffer(pixels, "<u2")].reshape(height, width)

    return Volume(
        volume=_name(path, *key), eye=eye, **person, um_per_px_x=um_x, um_per_px_y=um_y,
        spacing_um=spacing, height=height, width=width, frames=Frames(path, decode, len(order)),
        lines=[tuple(round((end + FIELD_DEGREES / 2) / per_px, 2) for end in line)
               if inside and line else None for line in lines],
        enface=enface, enface_um_per_px=round(per_px * UM_PER_DEGREE, 6) if inside else None,
        notes=notes,
    )  # fmt: skip


# Topcon


def _topcon(path: Path) -> list[Volume]:
    """Named chunks, one after the other. Where the B-scans lie on the photograph is in the file,
    but not in which order and direction, and no real file was at hand to learn it: no lines."""
    data = _mapped(path)
    if bytes(data[:4]) != b"FOCT":
        raise Unreadable(f"{path}: is no Topcon file (FOCT). Leave it out.")
    chunks, at = {}, 15
    while at < len(data) and data[at]:
        name = bytes(_part(path, data, at + 1, data[at]))
        (size,) = struct.unpack_from("<I", data, at + 1 + data[at])
        at += 5 + data[at]
        chunks.setdefault(name, _part(path, data, at, size))
        at += size
    if at > len(data):
        raise _cut(path)
    if b"@IMG_JPEG" in chunks:
        mode, width, height, count, decode = _topcon_jpegs(path, chunks[b"@IMG_JPEG"])
    else:
        names = (b"@IMG_SCAN_03", b"@IMG_SCAN_02", b"@IMG_MOT_COMP_03")
        name = next((name for name in names if name in chunks), None)
        if name is None:
            raise Unreadable(f"{path}: has no B-scan. Export the volume, not only the photograph.")
        mode, width, height, count, decode = _topcon_raw(path, name, chunks[name])
    um_x = um_y = spacing = None
    for name, at in ((b"@PARAM_SCAN_04", 12), (b"@PARAM_SCAN_02", 21)):
        if name in chunks:
            mm_x, mm_z, um_y = struct.unpack_from("<3d", chunks[name], at)
            around = math.pi if mode == 1 else 1  # a circle's diameter
            um_x = _um(path, around * mm_x / width, "per px")
            um_y = _um(path, um_y / 1000, "per px")
            if mode == 2 and count > 1:
                spacing = _um(path, mm_z / count, "between B-scans", most=20_000)
            break
    eye = next((chunks[n][0] for n in (b"@CAPTURE_INFO_02", b"@CAPTURE_INFO") if n in chunks), None)
    # PATIENT_INFO_03 is encrypted: nobody is known from it
    patient = _text(bytes(chunks.get(b"@PATIENT_INFO_02", b"")[:32]))
    return [Volume(
        volume=_name(path), eye={0: "OD", 1: "OS"}.get(eye), **_person(path, patient),
        um_per_px_x=um_x, um_per_px_y=um_y, spacing_um=spacing, height=height, width=width,
        frames=Frames(path, decode, count), enface=_topcon_photograph(chunks),
    )]  # fmt: skip


def _topcon_jpegs(path: Path, chunk: memoryview):
    mode, _, _, width, height, count, _ = struct.unpack_from("<B6I", chunk, 0)
    _check_shape(path, width, height, count)
    parts, at = [], 25
    for _ in range(count):
        (size,) = struct.unpack_from("<I", chunk, at)
        parts.append(_part(path, chunk, at + 4, size))
        at += 4 + size

    def raw(i):
        try:
            with Image.open(BytesIO(parts[i])) as file:
                image = np.asarray(file if file.mode in ("L", "I;16", "I") else file.convert("L"))
        except Exception:
            raise _cut(path) from None
        if image.shape != (height, width):
            raise _cut(path)
        return image

    return mode, width, height, count, _Levels(raw, count)


def _topcon_raw(path: Path, name: bytes, chunk: memoryview):
    mode, width, height, bits, count = struct.unpack_from("<B4I", chunk, 0)
    _check_shape(path, width, height, count)
    if bits != 16:
        raise Unreadable(f"{path}: B-scans of {bits} bits are not known; export them as DICOM.")
    start = 30 if name == b"@IMG_SCAN_02" else 22
    if name == b"@IMG_MOT_COMP_03" and len(chunk) - 2 * width * height * count in (17, 38):
        start = len(chunk) - 2 * width * height * count  # other versions of its header
    pixels = _part(path, chunk, start, 2 * width * height * count)
    scans = np.frombuffer(pixels, "<u2").reshape(count, height, width)
    return mode, width, height, count, _Levels(lambda i: scans[i], count)


def _topcon_photograph(chunks: dict) -> np.ndarray | None:
    """The photograph (H, W, 3), else the infrared picture; None if there is none to be read."""
    try:
        if b"@IMG_OBS" in chunks:
            chunk = chunks[b"@IMG_OBS"]
            width, height, _, _, _, size = struct.unpack_from("<4IBI", chunk, 0)
            if size == 3 * width * height:
                image = np.frombuffer(chunk[21 : 21 + size], np.uint8)
                return image.reshape(height, width, 3)[..., ::-1].copy()  # blue comes first
        for name, start in ((b"@IMG_FUNDUS", 24), (b"@IMG_TRC_02", 21)):
            if name in chunks:
                (size,) = struct.unpack_from("<I", chunks[name], start - 4)
                with Image.open(BytesIO(chunks[name][start : start + size])) as file:
                    image = to_uint8(file)
                return image[..., ::-1].copy() if image.ndim == 3 else image
    except Exception:  # the B-scans can do without
        return None
    return None


# Zeiss


def _zeiss(path: Path) -> list[Volume]:
    """Raw uint8, B-scan by B-scan, turned by 180 degrees; all that is known of it stands in the
    name: PATIENT_Macular Cube 512x128_DATE_TIME_EYE_sn123_cube_z.img. Cubes span 6 x 6 x 2 mm."""
    named, size = ZEISS_NAME.match(path.stem), path.stat().st_size
    if named and not named["what"].lower().startswith("cube"):
        raise Unreadable(f"{path}: is no structural cube (cube_z). Leave it out.")
    if named:
        width, count = int(named["width"]), int(named["count"])
    elif size in ZEISS_CUBES:
        width, count = ZEISS_CUBES[size]
    else:
        raise Unreadable(
            f"{path}: neither its name nor its size is that of a Zeiss cube (512 x 128 or 200 x "
            f"200 A-scans of {ZEISS_DEPTH} px). Keep the name that the device gave it, or leave "
            "it out."
        )
    _check_shape(path, width, ZEISS_DEPTH, count)
    if size != width * count * ZEISS_DEPTH:
        raise Unreadable(
            f"{path}: {size} bytes are not {count} B-scans of {width} x {ZEISS_DEPTH} px: it is "
            f"cut, or no Zeiss cube. {AGAIN}"
        )
    cube = not named or "cube" in named["kind"].lower()
    scans = np.memmap(path, np.uint8, "r", shape=(count, ZEISS_DEPTH, width))
    um_x, um_y, spacing = (round(um, 6) if cube else None
                           for um in (6000 / width, 2000 / ZEISS_DEPTH, 6000 / count))  # fmt: skip
    return [Volume(
        volume=_name(path), eye=_eye(path, [named["eye"]] if named else []),
        **_person(path, named and named["patient"]), um_per_px_x=um_x, um_per_px_y=um_y,
        spacing_um=spacing, height=ZEISS_DEPTH, width=width,
        frames=Frames(path, lambda i: np.ascontiguousarray(scans[i, ::-1, ::-1]), count),
    )]  # fmt: skip


# DICOM


def _dicom(path: Path) -> list[Volume]:
    try:
        import pydicom
        from pydicom import pixels
    except ImportError:
        raise _lacks("pydicom") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote what they complain of
            data = pydicom.dcmread(path, specific_tags=DICOM_TAGS)
    except Exception:
        raise Unreadable(f"{path}: is no whole DICOM file. {AGAIN}") from None
    sop, modality = str(data.get("SOPClassUID", "")), str(data.get("Modality", "")).upper()
    if sop != OPT and not (sop.startswith(MULTIFRAME) and modality == "OPT"):
        known = {"OP": "a photograph of the fundus", "CT": "a CT", "MR": "an MRI",
                 "OAM": "a measurement", "OCT": "an OCT of vessels"}  # fmt: skip
        raise Unreadable(
            f"{path}: is {known.get(modality, 'a DICOM of something else')}, no ophthalmic "
            "tomography (OPT). Leave it out."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [_dicom_volume(path, data, pixels.pixel_array)]


def _dicom_volume(path: Path, data, pixel_array) -> Volume:
    def group(functional, name):
        sequence = functional.get(name) if functional is not None else None
        return sequence[0] if sequence else None

    if "PixelData" not in data:
        raise Unreadable(f"{path}: has no pixels. {AGAIN}")
    count = int(data.get("NumberOfFrames") or 1) if data.get("NumberOfFrames") != 0 else 0
    height, width = int(data.Rows), int(data.Columns)
    _check_shape(path, width, height, count)
    shared = group(data, "SharedFunctionalGroupsSequence")
    frames = list(data.get("PerFrameFunctionalGroupsSequence") or [])
    if frames and len(frames) != count:
        raise Unreadable(f"{path}: says {count} B-scans and describes {len(frames)}. {AGAIN}")
    groups = [g for g in (shared, *frames) if g is not None]
    anatomy = [group(g, "FrameAnatomySequence") for g in groups]
    eyes = [data.get("ImageLaterality"), data.get("Laterality")]
    eye = _eye(path, eyes + [a.get("FrameLaterality") for a in anatomy if a is not None])
    measures = next((m for g in groups if (m := group(g, "PixelMeasuresSequence"))), data)
    mm_y, mm_x = measures.get("PixelSpacing") or (None, None)
    lines = []
    for frame in frames:
        line = group(frame, "OphthalmicFrameLocationSequence")
        ends = list(line.get("ReferenceCoordinates") or []) if line is not None else []
        # start and end, of each the row first
        lines.append((ends[1], ends[0], ends[3], ends[2]) if len(ends) == 4 else None)
    lines = [line and tuple(round(float(end), 2) for end in line) for line in lines]
    spacing = None
    if count > 1:
        between = measures.get("SpacingBetweenSlices") or measures.get("SliceThickness")
        spacing = _um(path, between, "between B-scans", most=20_000)
        if lines and all(lines) and not _spacing_um([np.multiply(1000, line) for line in lines]):
            spacing = None  # a star, or lines that cross: no one number
    inverted = data.get("PhotometricInterpretation") == "MONOCHROME1"
    series = data.get("SeriesInstanceUID")

    def raw(i):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = pixel_array(data, index=i)
        except Exception as error:
            if "missing dependencies" in str(error) or "plugins" in str(error):
                raise Unreadable(
                    f"{path}: its pixels are compressed in a way that needs another decoder. "
                    "pip install pylibjpeg[all], or export it uncompressed."
                ) from None
            raise _cut(path) from None
        if image.ndim == 3:
            image = to_grey(to_uint8(Image.fromarray(image)))
        return image

    levels = _Levels(raw, count)

    def decode(i):
        return 255 - levels(i) if inverted else levels(i)

    decode(count - 1)  # what is cut is cut at the end
    return Volume(
        # one file for each B-scan is usual, too: what they share is the series
        volume="V" + _hash("series", series) if series else _name(path), eye=eye,
        **_person(path, data.get("PatientID")), um_per_px_x=_um(path, mm_x, "per px"),
        um_per_px_y=_um(path, mm_y, "per px"), spacing_um=spacing, height=height, width=width,
        frames=Frames(path, decode, count), lines=lines,
    )  # fmt: skip


# TIFFs of several pages


def _is_tiff_volume(path: Path) -> bool:
    """More than one page, the second as large as the first: a preview is no B-scan."""
    try:
        with Image.open(path) as file:
            size = file.size
            file.seek(1)
            return file.size == size
    except Exception:  # one page (EOFError), or no TIFF at all
        return False


def _tiff(path: Path) -> list[Volume]:
    try:
        with Image.open(path) as file:
            shapes = {page.size for page in ImageSequence.Iterator(file)}
            count = file.n_frames
    except Exception:
        raise _cut(path) from None
    if count < 2 or len(shapes) > 1:
        raise Unreadable(
            f"{path}: {count} pages of {len(shapes)} sizes are no volume. Save each as a picture."
        )
    width, height = shapes.pop()
    _check_shape(path, width, height, count)

    def raw(i):
        try:
            with Image.open(path) as file:
                file.seek(i)
                return np.array(file) if file.mode[0] in "IF" else to_grey(to_uint8(file))
        except Exception:
            raise _cut(path) from None

    levels = _Levels(raw, count)
    levels(count - 1)  # what is cut is cut at the end
    return [Volume(
        volume=_name(path), eye=None, **_person(path, None), um_per_px_x=None, um_per_px_y=None,
        spacing_um=None, height=height, width=width, frames=Frames(path, levels, count),
    )]  # fmt: skip


READERS = {
    ".xml": _heidelberg_xml, ".vol": _vol, ".e2e": _e2e, ".fda": _topcon, ".fds": _topcon,
    ".img": _zeiss, ".dcm": _dicom, ".dicom": _dicom, ".tif": _tiff, ".tiff": _tiff,
}  # fmt: skip

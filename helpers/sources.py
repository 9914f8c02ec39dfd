"""Where the images are and who the patient is: every source becomes one list of scans.

A patient is known from a manifest, from the file name where the data set has a rule (OCT2017:
CLASS-PATIENT-N; ODIR: the leading number), or from a subfolder. Else blocks of 50 consecutive
frames stand in, with a warning.
"""

import csv
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif"}
CLASSES = ("NORMAL", "DRUSEN", "DME", "CNV")
NAMED = ("simulated", "oct2017", "odir", "octmnist")
BLOCK = 50  # consecutive frames that stand in for a patient
KAGGLE_INPUT = Path("/kaggle/input")
OCT2017_NAME = re.compile(r"^(CNV|DME|DRUSEN|NORMAL)-(\w+)-\d+$", re.IGNORECASE)
ODIR_NAME = re.compile(r"^(\d+)_(left|right)", re.IGNORECASE)
BLOCK_PATIENT = re.compile(r"block(\d+)$")

# ODIR's diagnostic keywords per eye, first match wins; dry AMD is named before drusen.
ODIR_KEYWORDS = (
    ("low image quality", None), ("lens dust", None), ("optic disk photographically", None),
    ("wet age-related", "AMD_WET"), ("dry age-related", "AMD_DRY"), ("drusen", "DRUSEN"),
    ("retinopathy", "DR"), ("glaucoma", "GLAUCOMA"), ("cataract", "CATARACT"),
    ("myopi", "MYOPIA"), ("hypertensive", "HYPERTENSION"), ("normal fundus", "NORMAL"),
)  # fmt: skip


@dataclass(frozen=True)
class Scan:
    """One image before it is decoded.

    ``path`` is a file, or virtual: simulated/CLASS/PATIENT_EYE, octmnist/SIZE/SPLIT/INDEX.
    ``frame`` is the position among consecutive frames where ``patient`` is only a stand-in block.
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


def load_manifest(source, *, modality="oct", n_simulated=600) -> list[Scan]:
    """Every scan of ``modality`` ("oct" or "dfe") that ``source`` has.

    ``source`` is "simulated", "oct2017", "odir", "octmnist", a manifest.csv or a folder.
    ``n_simulated`` counts patients per class, of two eyes each. Raises FileNotFoundError or
    ValueError that names the source and says what was looked for.
    """
    name = str(source)
    if name == "simulated":
        return simulated(n_simulated, modality)
    if (
        name in ("oct2017", "octmnist")
        and modality != "oct"
        or name == "odir"
        and modality != "dfe"
    ):
        raise ValueError(f"{name} has no {modality.upper()} images: use it for the other modality.")
    if name == "oct2017":
        return oct2017()
    if name == "odir":
        return odir()
    if name == "octmnist":
        return octmnist()
    path = Path(name)
    if path.suffix == ".csv" and path.is_file():
        return manifest(path, modality)
    if path.is_dir():
        return folder(path, modality)
    raise FileNotFoundError(
        f"{name}: neither a folder nor a manifest.csv, nor one of {', '.join(NAMED)}. Point "
        "OCT_DATA (OCT_DFE for photographs) at your images."
    )


def simulated(patients: int, modality: str) -> list[Scan]:
    """Both eyes of ``patients`` simulated patients per class; no patient has two classes."""
    return [
        Scan(f"simulated/{label}/P{number:05}_{eye}", modality, "simulated", label, f"P{number:05}")
        for index, label in enumerate(CLASSES)
        for number in range(index * 10_000, index * 10_000 + patients)
        for eye in ("OD", "OS")
    ]


def manifest(path: Path, modality: str) -> list[Scan]:
    """Rows of a CSV with path, label and patient; modality, dataset, size and scale may follow.

    Paths are relative to the CSV. A patient named ...blockN is a stand-in for BLOCK consecutive
    frames, numbered by the last number in the file name.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    missing = {"path", "label", "patient"} - set(rows[0] if rows else ())
    if missing:
        raise ValueError(f"{path}: needs the columns path, label, patient; lacks {sorted(missing)}")
    aliases = {"fundus": "dfe", "cfp": "dfe"}
    scans = []
    for row in rows:
        kind = (row.get("modality") or modality).lower()
        if aliases.get(kind, kind) != modality:
            continue
        number = lambda name, cast: cast(row[name]) if row.get(name) else None  # noqa: B023, E731
        digits = re.findall(r"\d+", Path(row["path"]).stem)
        is_block = BLOCK_PATIENT.search(row["patient"]) and digits
        is_virtual = row.get("dataset") in ("simulated", "octmnist")
        scans.append(
            Scan(
                row["path"] if is_virtual else str(path.parent / row["path"]),
                modality,
                row.get("dataset") or path.parent.name,
                row["label"],
                row["patient"],
                number("width", int),
                number("height", int),
                number("um_per_px_x", float),
                number("um_per_px_y", float),
                int(digits[-1]) if is_block else None,
            )  # fmt: skip
        )
    if not scans:
        raise ValueError(f"{path}: has no row of modality {modality}.")
    return scans


def folder(path: Path, modality: str) -> list[Scan]:
    """Images under ``path``: class subfolders (then perhaps patient subfolders), or flat.

    The first level of subfolders names the class. Without subfolders the class is the folder's
    own name.
    """
    files = sorted(
        (p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()), key=_natural
    )
    if not files:
        raise FileNotFoundError(
            f"{path}: no image in it or below it ({', '.join(sorted(SUFFIXES))})."
        )
    scans = []
    for file in files:
        parts = file.relative_to(path).parts
        label = parts[0].strip() if len(parts) > 1 else path.name.strip()
        named = OCT2017_NAME.match(file.stem) if modality == "oct" else ODIR_NAME.match(file.stem)
        known = named[named.lastindex if modality == "oct" else 1] if named else None
        patient = known or "/".join(parts[1:-1])  # "": nobody knows
        scans.append(Scan(str(file), modality, path.name, label, patient))
    return stand_in_patients(scans, str(path))


def stand_in_patients(scans: list[Scan], source: str) -> list[Scan]:
    """Scans of unknown patient ("") get blocks of BLOCK consecutive frames, with a warning."""
    seen, known = {}, []
    for scan in scans:
        if not scan.patient:
            frame = seen[scan.label] = seen.get(scan.label, -1) + 1
            scan = replace(scan, patient=f"{scan.label}-block{frame // BLOCK}", frame=frame)
        known.append(scan)
    if seen:
        warnings.warn(
            f"{source}: {sum(seen.values()) + len(seen)} images name no patient; blocks of {BLOCK} "
            "consecutive files stand in. Put each patient into a subfolder, or write a "
            "manifest.csv, for a split you can trust.",
            stacklevel=3,
        )
    return known


def mounted(owner: str, slug: str) -> Path | None:
    """Where Kaggle mounts a data set, in both of its path styles; None if it does not."""
    for path in (KAGGLE_INPUT / slug, KAGGLE_INPUT / "datasets" / owner / slug):
        if path.is_dir():
            return path
    return None


def downloaded(owner: str, slug: str, size: str) -> Path:
    """A Kaggle data set: mounted, or fetched by kagglehub into its own cache."""
    if path := mounted(owner, slug):
        return path
    import kagglehub

    print(f"{owner}/{slug} ({size}) comes from Kaggle, once; its terms are on its page there.")
    try:
        return Path(kagglehub.dataset_download(f"{owner}/{slug}"))
    except Exception as error:  # network, token, terms: kagglehub raises many kinds
        raise FileNotFoundError(
            f"{owner}/{slug} is not mounted under {KAGGLE_INPUT} and could not be downloaded "
            f"({type(error).__name__}: {error}). On Kaggle attach it to the notebook; elsewhere "
            "download it by hand and point OCT_DATA (OCT_DFE) at its folder."
        ) from error


def oct2017() -> list[Scan]:
    """Kermany et al. 2018 from Kaggle; train, val and test of every nested copy, pooled.

    Its official split shares patients, so ours replaces it. Copies go by content, later.
    """
    path = downloaded("paultimothymooney", "kermany2018", "11 GB")
    scans = []
    for file in sorted(path.rglob("*.jpeg"), key=_natural):
        if named := OCT2017_NAME.match(file.stem):
            scans.append(Scan(str(file), "oct", "oct2017", named[1].upper(), named[2]))
    if not scans:
        raise FileNotFoundError(f"{path}: no CLASS-PATIENT-N.jpeg below it; is this OCT2017?")
    return scans


def odir() -> list[Scan]:
    """ODIR-5K photographs, each eye labelled by its own diagnostic keywords in full_df.csv."""
    path = downloaded("andrewmvd", "ocular-disease-recognition-odir5k", "2 GB")
    tables = sorted(path.rglob("full_df.csv"))
    if not tables:
        raise FileNotFoundError(f"{path}: no full_df.csv below it; is this ODIR-5K?")
    keywords = {}
    with tables[0].open(newline="") as file:
        for row in csv.DictReader(file):
            for side in ("Left", "Right"):
                keywords[row[f"{side}-Fundus"]] = row[f"{side}-Diagnostic Keywords"]
    scans = []
    for file in sorted(path.rglob("*.jpg"), key=_natural):
        named, text = ODIR_NAME.match(file.stem), keywords.get(file.name, "").lower()
        label = next((label for word, label in ODIR_KEYWORDS if word in text), "OTHER")
        if named and text and label:
            scans.append(Scan(str(file), "dfe", "odir", label, named[1]))
    if not scans:
        raise FileNotFoundError(f"{path}: no photograph that full_df.csv describes.")
    return scans


def octmnist(size=224) -> list[Scan]:
    """OCTMNIST (Yang et al. 2023) at 64, 128 or 224 px; it names no patients."""
    labels = {0: "CNV", 1: "DME", 2: "DRUSEN", 3: "NORMAL"}
    scans = [
        Scan(f"octmnist/{size}/{split}/{index}", "oct", "octmnist", labels[int(label)], "",
             size, size)
        for split in ("train", "val", "test")
        for index, label in enumerate(octmnist_split(split, size).labels[:, 0])
    ]  # fmt: skip
    return stand_in_patients(scans, "octmnist")


def octmnist_split(split: str, size: int, _open={}):  # noqa: B006  one open file per split
    """medmnist's data set object of one split; downloaded on first use."""
    if (split, size) not in _open:
        import medmnist

        try:
            _open[split, size] = medmnist.OCTMNIST(split=split, download=True, size=size)
        except RuntimeError as error:
            raise FileNotFoundError(f"octmnist could not be downloaded: {error}") from error
    return _open[split, size]


def _natural(path: Path) -> list:
    """scan_2 before scan_10."""
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", str(path))]

"""Public data sets: OCT2017 and ODIR-5K from Kaggle, OCTMNIST from medmnist.

On Kaggle they are read where they are mounted; elsewhere they are downloaded once.
"""

import csv
import warnings
from pathlib import Path

from helpers.sources import BLOCK, OCT2017_NAME, ODIR_NAME, Scan, natural_order

KAGGLE_INPUT = Path("/kaggle/input")

# ODIR's diagnostic keywords per eye, the first that occurs decides; None: not gradable
ODIR_KEYWORDS = (
    ("low image quality", None), ("lens dust", None), ("optic disk photographically", None),
    ("anterior segment", None), ("no fundus image", None), ("wet age-related", "AMD_WET"),
    ("dry age-related", "AMD_DRY"), ("drusen", "DRUSEN"), ("hypertensive", "HYPERTENSION"),
    ("retinopathy", "DR"), ("glaucoma", "GLAUCOMA"), ("cataract", "CATARACT"),
    ("myopi", "MYOPIA"), ("normal fundus", "NORMAL"),
)  # fmt: skip


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
    for file in sorted(path.rglob("*.jpeg"), key=natural_order):
        if named := OCT2017_NAME.match(file.stem):
            scans.append(
                Scan(str(file), "oct", "oct2017", named["label"].upper(), named["patient"])
            )
    if not scans:
        raise FileNotFoundError(f"{path}: no CLASS-PATIENT-N.jpeg below it; is this OCT2017?")
    return scans


def odir(path: Path | None = None) -> list[Scan]:
    """ODIR-5K photographs, each eye labelled by its own diagnostic keywords in full_df.csv.

    The set holds every photograph twice, as taken and cropped; the one as taken counts.
    """
    path = path or downloaded("andrewmvd", "ocular-disease-recognition-odir5k", "2 GB")
    tables = sorted(path.rglob("full_df.csv"))
    if not tables:
        raise FileNotFoundError(f"{path}: no full_df.csv below it; is this ODIR-5K?")
    keywords = {}
    with tables[0].open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            for side in ("Left", "Right"):
                keywords[row[f"{side}-Fundus"]] = row[f"{side}-Diagnostic Keywords"]
    photographs = {}
    for file in sorted(
        path.rglob("*.jpg"), key=lambda p: ("preprocessed" in str(p), natural_order(p))
    ):
        photographs.setdefault(file.name, file)
    scans = []
    for file in sorted(photographs.values(), key=natural_order):
        named, text = ODIR_NAME.match(file.stem), keywords.get(file.name, "").lower()
        label = next((label for word, label in ODIR_KEYWORDS if word in text), "OTHER")
        if named and text and label:
            scans.append(Scan(str(file), "dfe", "odir", label, named["patient"]))
    if not scans:
        raise FileNotFoundError(f"{path}: no photograph that full_df.csv describes.")
    return scans


def octmnist(size=224) -> list[Scan]:
    """OCTMNIST (Yang et al. 2023) at 64, 128 or 224 px. It names no patients: its split is kept."""
    labels = {0: "CNV", 1: "DME", 2: "DRUSEN", 3: "NORMAL"}
    scans = []
    for split, side in (("train", "train"), ("val", "validation"), ("test", "test")):
        for index, label in enumerate(octmnist_split(split, size).labels[:, 0]):
            path = f"octmnist/{size}/{split}/{index}"
            patient = f"{side}-{index // BLOCK}"
            scans.append(Scan(path, "oct", "octmnist", labels[int(label)], patient, size, size,
                              side=side))  # fmt: skip
    warnings.warn(
        f"octmnist names no patients: its published split is kept, and {BLOCK} consecutive scans "
        "stand in for a patient. Its training and validation scans share patients.",
        stacklevel=3,
    )
    return scans


def octmnist_split(split: str, size: int, _open={}):  # noqa: B006  one open file per split
    """medmnist's data set object of one split; downloaded on first use."""
    if (split, size) not in _open:
        import medmnist

        try:
            _open[split, size] = medmnist.OCTMNIST(split=split, download=True, size=size)
        except RuntimeError as error:
            raise FileNotFoundError(f"octmnist could not be downloaded: {error}") from error
    return _open[split, size]

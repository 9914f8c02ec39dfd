"""Public data sets: OCT2017 and ODIR-5K from Kaggle.

They are read where Kaggle mounts them, or where kagglehub put them; else they are downloaded once.
"""

import csv
import os
import shutil
import warnings
from pathlib import Path

from helpers.data.scan import OCT2017_NAME, ODIR_NAME, Scan, natural_order

KAGGLE_INPUT = Path("/kaggle/input")
HOSTED = {
    "KAGGLE_KERNEL_RUN_TYPE",
    "COLAB_RELEASE_TAG",
}  # there kagglehub attaches: no space needed

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
        if path.is_dir() and any(path.iterdir()):
            return path
    return None


def fetched(owner: str, slug: str) -> Path | None:
    """Where kagglehub has put a data set earlier, its newest whole version; else None.

    kagglehub itself asks Kaggle which version is the newest, and fails where there is no network.
    """
    versions = kagglehub_folder() / "datasets" / owner / slug
    whole = [path for path in versions.glob("*.complete") if path.stem.isdigit()]
    for marker in sorted(whole, key=lambda path: -int(path.stem)):
        if (path := versions / "versions" / marker.stem).is_dir():
            return path
    return None


def kagglehub_folder() -> Path:
    return Path(os.environ.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub")


def downloaded(owner: str, slug: str, gigabytes: int, terms: str) -> Path:
    """A Kaggle data set: where it is mounted, or was fetched earlier, or fetched now by kagglehub.

    Before a download of about ``gigabytes``, says so, with the ``terms`` and when a token is
    needed. Raises FileNotFoundError that says what to do, before the download if space is short.
    """
    if path := mounted(owner, slug) or fetched(owner, slug):
        return path
    import kagglehub

    handle, need = f"{owner}/{slug}", 2 * gigabytes  # the archive and what is in it
    by_hand = (
        f"On Kaggle attach it to the notebook (Add Input); elsewhere download it from "
        f"https://www.kaggle.com/datasets/{handle} and point OCT_DATA (OCT_DFE) at its folder."
    )
    if HOSTED & os.environ.keys():
        print(f"{handle} is not attached; kagglehub asks for it. Terms: {terms}.")
    else:
        parent = next(path for path in (kagglehub_folder(), *kagglehub_folder().parents)
                      if path.exists())  # fmt: skip
        free = int(shutil.disk_usage(parent).free / 1e9)
        print(
            f"{handle} is fetched from Kaggle once, about {gigabytes} GB, into "
            f"{kagglehub_folder()}: {need} GB while it is unpacked, {free} GB are free.\n"
            f"Terms: {terms}. Fetching it accepts them. No token is needed for a public set; if "
            "Kaggle asks for one (kaggle.com/settings), set KAGGLE_API_TOKEN to it."
        )
        if free < need:
            raise FileNotFoundError(
                f"{handle} needs {need} GB in {kagglehub_folder()}, where {free} GB are free. "
                f"Set KAGGLEHUB_CACHE to a folder on another disk. {by_hand}"
            )
    try:
        return Path(kagglehub.dataset_download(handle))
    except Exception as error:  # network, token, terms, space: kagglehub raises many kinds
        raise FileNotFoundError(
            f"{handle} is not mounted under {KAGGLE_INPUT} and could not be downloaded "
            f"({type(error).__name__}: {' '.join(str(error).split())[:300]}). {by_hand}"
        ) from error


def oct2017() -> list[Scan]:
    """Kermany et al. 2018 from Kaggle; train, val and test pooled.

    Its official split shares patients, so ours replaces it. The set lies there twice, one copy
    nested in the other: of files with the same split, class and name the first counts, so that
    the second copy is not even read. Other copies go by content, later.
    """
    path = downloaded("paultimothymooney", "kermany2018", 11, "CC BY 4.0 (Kermany et al. 2018)")
    scans, copies = {}, 0
    for file in sorted(
        path.rglob("*.jpeg"), key=lambda file: (len(file.parts), natural_order(file))
    ):
        if named := OCT2017_NAME.match(file.stem):
            scan = Scan(str(file), "oct", "oct2017", named["label"].upper(), named["patient"])
            copies += file.parts[-3:] in scans
            scans.setdefault(file.parts[-3:], scan)
    if not scans:
        raise FileNotFoundError(f"{path}: no CLASS-PATIENT-N.jpeg below it; is this OCT2017?")
    if copies:
        warnings.warn(f"{copies} files are copies of others and were left out.", stacklevel=3)
    return list(scans.values())


def odir(path: Path | None = None) -> list[Scan]:
    """ODIR-5K photographs, each eye labelled by its own diagnostic keywords in full_df.csv.

    The set holds every photograph twice, as taken and cropped; the one as taken counts.
    """
    path = path or downloaded(
        "andrewmvd", "ocular-disease-recognition-odir5k", 2, "those on its page; read them first"
    )
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

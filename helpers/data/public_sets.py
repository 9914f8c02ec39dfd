"""Public data sets: OCT2017 and ODIR-5K from Kaggle.

They are read where Kaggle mounts them, or where kagglehub put them; else they are downloaded once.
"""

import os
import re
import shutil
import warnings
from pathlib import Path

from helpers.data import listing
from helpers.data.intake import Intake
from helpers.data.manifest import rows_of
from helpers.data.scan import OCT2017_NAME, ODIR_NAME, Scan, natural_order

KAGGLE_INPUT = Path("/kaggle/input")
HOSTED = {
    "KAGGLE_KERNEL_RUN_TYPE",
    "COLAB_RELEASE_TAG",
}  # there kagglehub attaches: no space needed

# ODIR's diagnostic keywords per eye, whole terms as they stand in full_df.csv, without "suspected"
# and "suspicious". An eye with several terms has the first class in this order.
AMD = "age-related macular degeneration"
ODIR_CLASSES = {
    "AMD_WET": {f"wet {AMD}"},
    "AMD_DRY": {f"dry {AMD}"},
    "AMD": {AMD},
    "DRUSEN": {"drusen", "macular drusen"},
    "HYPERTENSION": {"hypertensive retinopathy"},
    "DR": {
        "diabetic retinopathy", "proliferative diabetic retinopathy",
        "severe proliferative diabetic retinopathy", "mild non proliferative retinopathy",
        "moderate non proliferative retinopathy", "severe non proliferative retinopathy",
        "non proliferative retinopathy",
    },
    "GLAUCOMA": {"glaucoma"},
    "CATARACT": {"cataract"},
    "MYOPIA": {"myopia", "pathological myopia", "myopia retinopathy", "myopic maculopathy",
               "myopic retinopathy"},
    "OTHER": {
        "central serous chorioretinopathy", "chorioretinal atrophy", "refractive media opacity",
        "branch retinal vein occlusion", "old branch retinal vein occlusion", "maculopathy",
        "central retinal vein occlusion", "central retinal artery occlusion", "laser spot",
        "post laser photocoagulation", "post retinal laser surgery", "retinitis pigmentosa",
        "macular epiretinal membrane", "epiretinal membrane", "epiretinal membrane over the macula",
        "macular hole", "myelinated nerve fibers", "optic nerve drusen", "optic nerve atrophy",
        "optic disc edema", "optic discitis", "spotted membranous change", "vitreous degeneration",
        "white vessel", "tessellated fundus", "asteroid hyalosis", "retina fold",
        "retinal detachment", "rhegmatogenous retinal detachment", "retinal artery macroaneurysm",
        "retinal pigmentation", "retinal pigment epithelium atrophy", "atrophic change", "atrophy",
        "retinal pigment epithelial hypertrophy", "pigment epithelium proliferation",
        "depigmentation of the retinal pigment epithelium", "diffuse chorioretinal atrophy",
        "diffuse retinal atrophy", "choroidal nevus", "congenital choroidal coloboma",
        "retinochoroidal coloboma", "macular coloboma", "morning glory syndrome", "vascular loops",
        "vessel tortuosity", "vitreous opacity", "wedge-shaped change", "wedge white line change",
        "arteriosclerosis", "silicone oil eye", "punctate inner choroidopathy", "old choroiditis",
        "old chorioretinopathy", "intraretinal hemorrhage", "glial remnants anterior to the "
        "optic disc", "intraretinal microvascular abnormality", "oval yellow-white atrophy",
        "idiopathic choroidal neovascularization", "peripapillary atrophy", "abnormal pigment",
        "fundus laser photocoagulation spots", "optic disk epiretinal membrane",
        "microvascular anomalies", "retinal vascular sheathing", "macular epimacular membrane",
        "abnormal color of optic disc", "macular pigmentation disorder", "pigmentation disorder",
        "chorioretinal atrophy with pigmentation proliferation",
    },
    "NORMAL": {"normal fundus"},
}  # fmt: skip
UNGRADABLE = {"low image quality", "optic disk photographically invisible", "no fundus image",
              "anterior segment image"}  # fmt: skip
NO_FINDING = {"lens dust", "image offset"}  # what is wrong with the picture, not with the eye


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


def oct2017() -> Intake:
    """Kermany et al. 2018 from Kaggle; train, val and test pooled.

    Its official split shares patients, so ours replaces it. The set lies there twice, one copy
    nested in the other: of files with the same split, class and name the first counts, so that
    the second copy is not even read. Other copies go by content, later.
    """
    path = downloaded("paultimothymooney", "kermany2018", 11, "CC BY 4.0 (Kermany et al. 2018)")
    found, intake = listing.walk(path), Intake("oct2017", "oct", [])
    intake.left_out, scans = list(found.left_out), {}
    for parts in sorted(found.pictures, key=len):
        if not (named := OCT2017_NAME.match(Path(parts[-1]).stem)):
            intake.left_out.append(("/".join(parts), "is not named CLASS-PATIENT-N"))
        elif parts[-3:] in scans:
            intake.left_out.append(("/".join(parts), "a copy, by its split, class and name"))
        else:
            scans[parts[-3:]] = Scan(
                str(path.joinpath(*parts)), "oct", "oct2017", named["label"].upper(),
                named["patient"],
            )  # fmt: skip
    if not scans:
        raise FileNotFoundError(f"{path}: no CLASS-PATIENT-N.jpeg below it; is this OCT2017?")
    if copies := sum("copy" in why for _, why in intake.left_out):
        warnings.warn(f"{copies} files are copies of others and were left out.", stacklevel=4)
    intake.scans = list(scans.values())
    intake.layout = {"class": "the file names", "person": "the file names (CLASS-PATIENT-N)"}
    return intake


def odir(path: Path | None = None, found: listing.Listing | None = None) -> Intake:
    """ODIR-5K photographs, each eye labelled by its own diagnostic keywords in full_df.csv.

    The set holds every photograph twice, as taken and cropped; the one as taken counts. ``found``:
    what ``listing.walk`` has found in ``path``.
    """
    path = path or downloaded(
        "andrewmvd", "ocular-disease-recognition-odir5k", 2, "those on its page; read them first"
    )
    found = found or listing.walk(path)
    table = next((parts for parts in found.tables if parts[-1].lower() == "full_df.csv"), None)
    if not table:
        raise FileNotFoundError(f"{path}: no full_df.csv below it; is this ODIR-5K?")
    keywords = photographs_of(path.joinpath(*table))
    intake = Intake(str(path), "dfe", [])
    intake.left_out = [*found.left_out, *(("/".join(parts), "a table") for parts in found.tables)]
    photographs, unknown = {}, {}
    for parts in sorted(found.pictures, key=lambda parts: "preprocessed" in "/".join(parts)):
        if parts[-1].lower() in photographs:
            intake.left_out.append(("/".join(parts), "a second picture of its name (cropped)"))
        else:
            photographs[parts[-1].lower()] = parts
    for name, parts in sorted(
        photographs.items(), key=lambda item: natural_order("/".join(item[1]))
    ):
        named, text = ODIR_NAME.match(name), keywords.get(name, "")
        label, strange = odir_label(text)
        unknown |= dict.fromkeys(strange, name)
        if not named or not text:
            intake.left_out.append(("/".join(parts), "full_df.csv does not describe it"))
        elif not label:
            intake.left_out.append(("/".join(parts), f"not gradable ({text.strip()})"))
        else:
            eye = {"left": "OS", "right": "OD"}[named[2].lower()]
            intake.scans.append(Scan(str(path.joinpath(*parts)), "dfe", "odir", label,
                                     named["patient"], eye=eye))  # fmt: skip
    if not intake.scans:
        raise FileNotFoundError(f"{path}: no photograph that full_df.csv describes.")
    if unknown:
        some = ", ".join(f"{term!r} ({name})" for term, name in sorted(unknown.items())[:10])
        intake.doubts.append(f"keywords of ODIR never seen, taken for OTHER: {some}")
    intake.layout = {"class": "full_df.csv's keywords of each eye", "person": "the file names"}
    return intake


def photographs_of(table: Path) -> dict[str, str]:
    """The keywords of every photograph that full_df.csv names, by its name in small letters.
    ValueError naming the table if it lacks a column."""
    header, rows = rows_of(table)
    needed = [f"{side}-{what}" for side in ("Left", "Right")
              for what in ("Fundus", "Diagnostic Keywords")]  # fmt: skip
    if missing := [name for name in needed if name not in header]:
        raise ValueError(f"{table}: lacks the columns {', '.join(missing)}; is this ODIR-5K's?")
    at = [header.index(name) for name in needed]
    return {row[at[k]].lower(): row[at[k + 1]] for _, row in rows for k in (0, 2)}


def odir_label(text: str) -> tuple[str | None, list[str]]:
    """The class that the keywords of one eye stand for, None if it cannot be graded, and the terms
    that nobody knows."""
    terms = {_term(term) for term in re.split(r"[,\uff0c;\u3001]", text)} - {""}
    known = set().union(UNGRADABLE, NO_FINDING, *ODIR_CLASSES.values())
    strange = sorted(terms - known)
    if not terms - NO_FINDING or terms & UNGRADABLE:
        return None, strange
    label = next((label for label, those in ODIR_CLASSES.items() if terms & those), "OTHER")
    return ("OTHER" if label == "NORMAL" and strange else label), strange


def _term(term: str) -> str:
    """One spelling of a keyword: "Suspected nonproliferative ..." is "non proliferative ..."."""
    term = " ".join(term.lower().split())
    term = re.sub(r"^(suspected|suspicious) ", "", term)
    return re.sub(r"\bnon-?proliferative", "non proliferative", term)

"""Simulated eyes: one macular anatomy, seen by OCT and by DFE, with its ground truth.

    eye = make_eye(7, "DRUSEN", eye="OS", size=256)
    eye.oct, eye.dfe, eye.truth.rows["RPE"], eye.truth.lesions

Nothing here is a patient's picture. The same arguments give the same bytes in every process.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from helpers.data.simulated import anatomy, disease, oct_picture, photograph_picture
from helpers.data.simulated.anatomy import SURFACES, Lesion, Vessel

CONDITIONS = ("NORMAL", "DRUSEN", "DME", "CNV")
VERSION = 1  # of the pictures that an eye makes; a new one makes new caches


@dataclass(frozen=True)
class Truth:
    """What is in the two pictures of an eye.

    Boundaries are sampled at the OCT's columns: heights_um (um above BM, inwards) and rows (float
    rows of the OCT). Places: pixels are (column, row), um are x to the right and y down from the
    fovea, the same in both pictures. crossings: (x, width) in um of vessels on the scan line.
    """

    seed: int
    condition: str
    eye: str
    grade: float
    look: str
    x_um: np.ndarray
    heights_um: dict[str, np.ndarray]
    rows: dict[str, np.ndarray]
    lesions: list[Lesion]
    vessels: list[Vessel]
    crossings: list[tuple[float, float]]
    oct_um_per_px: tuple[float, float]
    dfe_um_per_px: tuple[float, float]
    oct_fovea_column: float
    dfe_fovea: tuple[float, float]
    dfe_disc: tuple[float, float]
    disc_um: float
    wedge: np.ndarray | None = field(default=None)

    def oct_column(self, x_um):
        """OCT column of a place x_um from the fovea."""
        return self.oct_fovea_column + np.asarray(x_um) / self.oct_um_per_px[0]

    def dfe_pixel(self, x_um, y_um):
        """DFE (column, row) of a place given in um from the fovea."""
        return (
            self.dfe_fovea[0] + np.asarray(x_um) / self.dfe_um_per_px[0],
            self.dfe_fovea[1] + np.asarray(y_um) / self.dfe_um_per_px[1],
        )


@dataclass(frozen=True)
class Eye:
    """oct: uint8 (size, size); dfe: uint8 (size, size, 3); truth: what is in them. A picture that
    was not asked for is None."""

    oct: np.ndarray | None
    dfe: np.ndarray | None
    truth: Truth


def make_eye(
    seed: int, condition: str, *, eye="OD", size=256, grade=None, oct_shows=1.0, dfe_shows=1.0,
    wedge=False, pictures=("oct", "dfe"),
) -> Eye:  # fmt: skip
    """One eye of the patient `seed`, seen by both modalities.

    condition: one of CONDITIONS. eye: "OD" or "OS"; the two mirror each other and are alike.
    size: 32 to 1024 px a side, all of the same anatomy. grade: 0 (subtle) to 1 (plain), None draws
    it per patient. oct_shows, dfe_shows: how much of the disease that modality shows, 0 (none) to
    1 (all): lesions lose height in the OCT and opacity in the DFE. wedge: leave the white corners
    of a rotated export in the OCT. pictures: which to draw; neither changes with the other, and
    each takes about half of the time. The OCT shows 6 mm through the fovea, the DFE 45 degrees.
    Raises ValueError for anything outside of these.
    """
    if condition not in CONDITIONS:
        raise ValueError(f"condition={condition!r}: there are {', '.join(CONDITIONS)}")
    if eye not in ("OD", "OS"):
        raise ValueError(f"eye={eye!r}: it is OD (right) or OS (left)")
    if not 32 <= size <= 1024:
        raise ValueError(f"size={size}: a simulated eye has 32 to 1024 px a side")
    if not {*pictures} <= {"oct", "dfe"}:
        raise ValueError(f"pictures={pictures}: there are oct and dfe")
    for name, value in (("grade", grade), ("oct_shows", oct_shows), ("dfe_shows", dfe_shows)):
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name}={value}: it lies between 0 and 1")
    side = 1 if eye == "OD" else -1
    own = 1 if eye == "OD" else 2

    # one stream per purpose, so that a setting never shifts what another draws
    def stream(*key):
        return np.random.default_rng([seed, *key])

    person = anatomy.draw_person(stream(0, 0))
    body = anatomy.draw_eye(person, stream(own, 0), side)
    body.update(draw_look(person, side, stream(0, 1), stream(own, 1)))
    keep_in_frame(body)
    if grade is not None:
        body["grade"] = float(grade)
    which = CONDITIONS.index(condition)
    lesions = disease.draw_lesions(condition, body["grade"], stream(0, 2, which))
    lesions = anatomy.mirrored(lesions, side, stream(own, 2, which))
    vessels = anatomy.draw_vessels(body, stream(0, 3))
    crossings = [c for v in vessels for c in v.crossings() if abs(c[0]) < 3600]
    shown = [replace(s, height_um=s.height_um * oct_shows) for s in lesions if oct_shows > 0]

    scan = photo = mask = None
    if "oct" in pictures:
        scan = oct_picture.render_oct(body, shown, crossings, stream(own, 4), size)
    if "dfe" in pictures:
        photo = photograph_picture.render_dfe(
            body, lesions, vessels, stream(own, 5), size, dfe_shows
        )
    if wedge:
        mask = oct_picture.white_wedge(stream(own, 6), size)
        scan = None if scan is None else np.where(mask, np.uint8(255), scan)

    x = oct_picture.columns(body, size)
    heights, _ = anatomy.surfaces(body, shown, x)
    heights["BM"] = 0 * x
    um_x, um_y = anatomy.SCAN_WIDTH_UM / size, body["scan_height"] / size
    um_dfe = photograph_picture.FIELD_OF_VIEW_UM / (0.97 * size)
    truth = Truth(
        seed=seed, condition=condition, eye=eye, grade=body["grade"],
        look="noor" if body["noor"] else "kermany",
        x_um=x,
        heights_um={name: heights[name] for name in SURFACES},
        rows={name: oct_picture.oct_rows(body, heights[name], x, size) for name in SURFACES},
        lesions=lesions, vessels=vessels, crossings=crossings,
        oct_um_per_px=(um_x, um_y), dfe_um_per_px=(um_dfe, um_dfe),
        oct_fovea_column=size / 2 - 0.5 - body["scan_x"] / um_x,
        dfe_fovea=photograph_picture.dfe_pixel(body, 0.0, 0.0, size),
        dfe_disc=photograph_picture.dfe_pixel(body, side * body["disc_x"], body["disc_y"], size),
        disc_um=body["disc_um"], wedge=mask,
    )  # fmt: skip
    return Eye(scan, photo, truth)


def keep_in_frame(body):
    """Move the scan, if need be, so that a retina of 480 um fits above BM and 120 um below."""
    path = anatomy.bruch(body, oct_picture.columns(body, 64))
    height = body["scan_height"]
    share = max(body["bm_share"], (480 - path.min()) / height)
    body["bm_share"] = float(min(share, (height - 120 - path.max()) / height))


def draw_look(person, side, shared, own) -> dict:
    """Device and photograph of one eye: position, contrast, noise, light, colour."""
    noor = person["noor"]
    pigment = person["pigment"]
    colour = np.array([214, 130, 62]) * (1 - pigment) + np.array([150, 72, 32]) * pigment
    return {
        "scan_height": shared.uniform(1080, 1250) if noor else shared.uniform(1850, 1960),
        "bm_share": own.normal(0.64, 0.06) if noor else own.normal(0.44, 0.09),
        "contrast": shared.normal(1.0, 0.07) + 0.2 * noor,
        "gain": own.normal(0, 5) + 8 * noor,
        "speckle": shared.uniform(6, 10) + 2 * noor,
        "noise": shared.uniform(5, 11) + 9 * noor,
        "floor": own.normal(27, 6) - 4 * noor,
        "floor_drop": 0.0 if noor else own.uniform(6, 22),
        "penetration": shared.uniform(130, 360) * (1 + 1.0 * noor),
        "serous": shared.uniform(0, 1),
        "ez": shared.uniform(30, 75),
        "rpe": shared.uniform(0.86, 1.06),
        "hyaloid_um": own.uniform(40, 1300),
        "hyaloid": own.uniform(20, 75),
        "colour": colour * shared.uniform(0.85, 1.12),
        "light_x": own.normal(0, 0.10),
        "light_y": own.normal(0, 0.10),
        "photo_x": side * own.uniform(0, 2300),
        "photo_y": own.normal(0, 250),
        "blur": abs(own.normal(0.4, 0.5)),
    }

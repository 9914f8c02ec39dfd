"""The simulated macula: layer boundaries, vessels and lesions of one eye, in micrometres.

Coordinates: x to the right and y downwards as both pictures show them, origin at the fovea;
"nasal" is x in a right eye and -x in a left one. Heights are measured inwards from Bruch's
membrane (BM). All shapes are analytic, so that any number of pixels samples the same eye.
Thicknesses follow normal macular OCT: about 220 um at the fovea, 340 um at its rim.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

SURFACES = ("ILM", "RNFL/GCL", "GCL/IPL", "IPL/INL", "INL/OPL", "OPL/ONL", "ELM", "EZ", "RPE", "BM")
SCAN_WIDTH_UM = 6000.0


@dataclass(frozen=True)
class Lesion:
    """One lesion. kind: druse, cyst, exudate, subretinal_fluid, tissue, detachment, haemorrhage,
    thickening. x_um, y_um: its centre from the fovea. width_um: its diameter in the fundus plane.
    height_um: its axial size. level: where a cyst or an exudate lies, as a share of the way from
    the RPE (0) to the ILM (1). on_line: whether the horizontal scan through the fovea cuts it."""

    kind: str
    x_um: float
    y_um: float
    width_um: float
    height_um: float
    level: float = 0.0

    @property
    def on_line(self) -> bool:
        return abs(self.y_um) < 0.49 * self.width_um


@dataclass(frozen=True)
class Vessel:
    """One vessel: points (K, 2) from the fovea and widths (K,) in um; artery or vein."""

    points: np.ndarray
    widths: np.ndarray
    artery: bool

    def crossings(self) -> list[tuple[float, float]]:
        """(x, width) in um wherever the vessel crosses the scan line y = 0."""
        y = self.points[:, 1]
        k = np.nonzero(y[:-1] * y[1:] < 0)[0]
        t = y[k] / (y[k] - y[k + 1])
        x = self.points[k, 0] + t * (self.points[k + 1, 0] - self.points[k, 0])
        return list(zip(x.tolist(), self.widths[k].tolist(), strict=True))


def ripple(rng, count, longest):
    """A smooth random function of x in um with unit variance: a sum of sines."""
    wavelength = longest * 0.6 ** np.arange(count)
    phase = rng.uniform(0, 2 * np.pi, count)
    weight = rng.normal(size=count) * 0.75 ** np.arange(count)
    weight /= np.sqrt(0.5 * (weight**2).sum())
    return lambda x: (
        np.sin(x[..., None] * (2 * np.pi / wavelength) + phase).astype(x.dtype)
        @ weight.astype(x.dtype)
    )


def draw_person(rng) -> dict:
    """What both eyes of a patient share."""
    return {
        "thickness": rng.normal(1.0, 0.055),
        "pit_width": rng.uniform(420, 760),
        "pit_depth": rng.uniform(0.8, 1.0),
        "nerve_fibres": rng.uniform(0.7, 1.3),
        "choroid_um": rng.uniform(150, 380),
        "curvature": rng.normal(0.85, 0.85),
        "disc_x": rng.normal(4600, 170),
        "disc_y": rng.normal(-350, 150),
        "disc_um": rng.normal(1800, 130),
        "arcade": rng.uniform(2900, 3900),
        "pigment": rng.uniform(0, 1),
        "grade": float(np.clip(rng.beta(1.6, 1.4), 0.03, 1)),
        "noor": rng.uniform() < 0.25,
    }


def draw_eye(person, rng, side) -> dict:
    """One eye of that patient: the person's numbers, a little changed, and its own position."""
    eye = dict(person)
    for name, spread in (
        ("thickness", 0.012), ("pit_width", 30), ("pit_depth", 0.02), ("choroid_um", 18),
        ("curvature", 0.12), ("disc_x", 60), ("disc_y", 60), ("disc_um", 40), 
    ):  # fmt: skip
        eye[name] = person[name] + rng.normal(0, spread)
    eye["side"] = side
    eye["pit_depth"] = min(eye["pit_depth"], 1.0)
    eye["scan_x"] = rng.normal(0, 180)
    eye["tilt"] = rng.normal(0, 0.045)
    eye["wave"] = ripple(rng, 3, 9000)
    eye["wave_um"] = abs(rng.normal(0, 13))
    eye["rough"] = ripple(rng, 6, 2500)
    return eye


def healthy_thickness(eye, x) -> dict:
    """Thickness in um of each layer at x (N,), named by its inner boundary."""
    nasal = eye["side"] * x / 1000
    r = np.abs(nasal)
    pit = np.exp(-((r / (eye["pit_width"] / 1000)) ** 2)) * eye["pit_depth"]
    inner = (1 - pit) * (0.5 + 0.62 * np.exp(-(((r - 1.05) / 1.35) ** 2)))
    fibres = (1 - pit) * (9 + 9 * r + 20 * np.clip((nasal - 0.4) / 2.6, 0, None) ** 1.5)
    t = eye["thickness"]
    return {
        "ILM": eye["nerve_fibres"] * fibres + 3,
        "RNFL/GCL": t * 48 * inner + 2,
        "GCL/IPL": t * 40 * inner + 4,
        "IPL/INL": t * 38 * (0.12 + 0.9 * inner) * (1 - 0.55 * pit),
        "INL/OPL": t * 27 * (1 - 0.45 * pit),
        "OPL/ONL": t * (62 + 50 * np.exp(-((r / 0.8) ** 2)) - 4 * r),
        "ELM": 24 + 7 * np.exp(-((r / 0.4) ** 2)),
        "EZ": 34 + 10 * np.exp(-((r / 0.35) ** 2)),
        "RPE": 21 + 0 * r,
    }


def dome(x, lesion, power=1.0):
    """Height in um at x (N,) along the scan line of a lesion shaped as a dome; 0 off it."""
    away = ((x - lesion.x_um) ** 2 + lesion.y_um**2) / (0.5 * lesion.width_um) ** 2
    return lesion.height_um * np.clip(1 - away, 0, 1) ** power


def surfaces(eye, lesions, x) -> tuple[dict, dict]:
    """Heights (N,) above BM of all SURFACES but BM, and of the sheets that lesions add.

    The sheets: "druse" (material under the RPE), "fluid" and "tissue" (between RPE and EZ).
    """
    layers = healthy_thickness(eye, x)
    sheet = {"druse": 0 * x, "ped": 0 * x, "fluid": 0 * x, "tissue": 0 * x}
    swelling = 0 * x
    for lesion in lesions:
        if not lesion.on_line and lesion.kind != "thickening":
            continue
        if lesion.kind == "druse":
            sheet["druse"] = np.maximum(sheet["druse"], dome(x, lesion, 1.0))
        elif lesion.kind == "detachment":
            sheet["ped"] = np.maximum(sheet["ped"], dome(x, lesion, 0.8))
        elif lesion.kind == "subretinal_fluid":
            sheet["fluid"] = np.maximum(sheet["fluid"], dome(x, lesion, 0.9))
        elif lesion.kind == "tissue":
            sheet["tissue"] = np.maximum(sheet["tissue"], dome(x, lesion, 0.7))
        elif lesion.kind == "thickening":
            away = ((x - lesion.x_um) ** 2 + lesion.y_um**2) / (0.5 * lesion.width_um) ** 2
            swelling = swelling + lesion.height_um * np.exp(-1.5 * away)
    uneven = 1 + 0.18 * eye["rough"](x)
    sheet["druse"] = np.maximum(sheet["druse"], sheet["ped"]) * np.clip(uneven, 0.6, 1.4)
    sheet["tissue"] = sheet["tissue"] * np.clip(1 + 0.3 * eye["rough"](x + 900), 0.3, 1.7)
    blur = 22 / abs(x[1] - x[0])
    sheet = {name: ndimage.gaussian_filter1d(height, blur) for name, height in sheet.items()}
    sheet["swelling"] = swelling
    lift = sheet["druse"]
    heights, total = {}, layers["RPE"] + lift
    heights["RPE"] = total
    # the outer layers are squeezed over drusen: the inner retina follows smoothly and in part
    layers["EZ"] = layers["EZ"] * (1 - 0.35 * np.clip(lift / 80, 0, 1))
    layers["ELM"] = layers["ELM"] * (1 - 0.25 * np.clip(lift / 80, 0, 1))
    layers["EZ"] = layers["EZ"] + sheet["tissue"] + sheet["fluid"]
    solid = lift + sheet["tissue"]
    step = abs(x[1] - x[0])
    pushed = solid + sheet["fluid"]
    least = np.maximum(pushed - layers["OPL/ONL"] + 24, 0.45 * solid + 0.95 * sheet["fluid"])
    carried = ndimage.gaussian_filter1d(least, 140 / step)
    layers["OPL/ONL"] = np.maximum(layers["OPL/ONL"] - pushed + carried, 10) + 0.42 * swelling
    layers["INL/OPL"] = layers["INL/OPL"] + 0.2 * swelling
    layers["IPL/INL"] = layers["IPL/INL"] + 0.25 * swelling
    layers["RNFL/GCL"] = layers["RNFL/GCL"] + 0.13 * swelling
    for name in SURFACES[7::-1]:
        total = total + layers[name]
        heights[name] = total
    return heights, sheet


def bruch(eye, x):
    """Depth in um of BM at x (N,), 0 at the fovea: tilt, curvature and a slow wave."""
    wave = eye["wave_um"] * (eye["wave"](x) - eye["wave"](np.zeros(1)))
    return eye["tilt"] * x - 12 * eye["curvature"] * (x / 1000) ** 2 + wave


def draw_vessels(eye, rng) -> list[Vessel]:
    """Four arcades with an artery and a vein each, and branches, some towards the macula."""
    t = np.linspace(0, 1, 46)
    start = np.array([eye["disc_x"], eye["disc_y"]])
    trees = []

    def add(u, v, first, last, artery):
        points = np.stack([eye["side"] * u, v], 1)
        trees.append(Vessel(points, first + (last - first) * t[: len(u)], artery))

    for up in (-1, 1):
        for artery in (True, False):
            width = rng.uniform(85, 110) if artery else rng.uniform(115, 150)
            top = eye["arcade"] * rng.uniform(0.9, 1.12)
            reach = rng.uniform(8500, 11000)
            bend = ripple(rng, 4, 4000)(3000 * t) * 90 * np.sqrt(t)
            u = start[0] - reach * t**1.55 + bend
            v = start[1] + up * (top + up * 200) * np.sin(np.pi * rng.uniform(0.6, 0.72) * t**0.75)
            v = v + bend
            add(u, v, width, 0.45 * width, artery)
            for _ in range(8):  # towards the macula, and away from it
                at = rng.integers(6, 42)
                inwards = rng.uniform() < 0.62
                angle = rng.uniform(0, 2 * np.pi)
                end = rng.uniform(450, 1500) * np.array([np.cos(angle), 0.7 * np.sin(angle)])
                end[1] -= up * rng.uniform(-100, 900) * (abs(end[0]) > 600)
                if not inwards:
                    end = np.array(
                        [u[at] - rng.uniform(500, 5000), v[at] + up * rng.uniform(900, 3500)]
                    )
                curve = (1 - t)[:, None] * [u[at], v[at]] + t[:, None] * end
                knee = np.array([u[at] - 900, v[at] * 0.75 + end[1] * 0.25])
                curve = curve + (2 * t * (1 - t))[:, None] * (knee - (curve[0] + end) / 2)
                wiggle = ripple(rng, 4, 2200)(2500 * t) * 75 * np.sin(np.pi * t)
                first = rng.uniform(0.3, 0.55) * width
                add(curve[:, 0] + wiggle, curve[:, 1] + wiggle, first, 0.4 * first, artery)
            angle = rng.uniform(0.15, 1.1)  # nasal to the disc
            u = start[0] + 4500 * t * np.cos(angle) + bend
            v = start[1] + up * 4500 * t * np.sin(angle) - bend
            add(u, v, 0.7 * width, 0.3 * width, artery)
    return trees


def mirrored(lesions, side, rng) -> list[Lesion]:
    """Lesions given in nasal coordinates, placed into one eye with a shift of their own."""
    shift = rng.normal(0, 1, (len(lesions), 2)) * 60
    return [
        replace(
            lesion,
            x_um=side * (lesion.x_um + dx),
            y_um=lesion.y_um if abs(lesion.y_um) < 1 else lesion.y_um + dy,
            height_um=lesion.height_um * rng.uniform(0.85, 1.15),
        )
        for lesion, (dx, dy) in zip(lesions, shift, strict=True)
    ]

"""The OCT B-scan of a simulated eye.

It is computed in grey levels of a log-compressed export, where a layer's reflectivity is
additive and a shadow subtracts. Speckle multiplies the intensity, so it too is additive; the
detector's noise adds in intensity, which is why the sum is taken under an exponential.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

from helpers.data.simulated.anatomy import SCAN_WIDTH_UM, bruch, surfaces

FOLD = 30.0  # grey levels for a factor e in intensity

# grey levels of what lies below each boundary, before speckle
LEVELS = {
    "vitreous": 0, "ILM": 92, "RNFL/GCL": 62, "GCL/IPL": 74, "IPL/INL": 42, "INL/OPL": 70,
    "OPL/ONL": 30, "ELM": 50, "EZ": 128, "RPE": 205, "BM": 104,
}  # fmt: skip


def columns(eye, size):
    """x in um from the fovea of `size` columns."""
    return eye["scan_x"] + ((np.arange(size) + 0.5) / size - 0.5) * SCAN_WIDTH_UM


def oct_rows(eye, heights, x, size):
    """Rows (float) of surfaces given as heights above BM; row 0 is the first row's centre."""
    depth = eye["bm_share"] * eye["scan_height"] + bruch(eye, x) - heights
    return depth / eye["scan_height"] * size - 0.5


def smooth_noise(rng, shape, sigma):
    """Correlated Gaussian noise of unit variance, float32."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), sigma, truncate=2.5)
    return noise / noise.std()


def render_oct(eye, lesions, crossings, rng, size):
    """uint8 (size, size) B-scan and, under wedge, its white mask; rng makes the texture."""
    n = max(size, 256)
    x = columns(eye, n)
    heights, sheet = surfaces(eye, lesions, x)
    heights = {name: height.astype(np.float32) for name, height in heights.items()}
    sheet = {name: height.astype(np.float32) for name, height in sheet.items()}
    x = x.astype(np.float32)
    um = eye["scan_height"] / n
    z = (np.arange(n, dtype=np.float32)[:, None] + 0.5) * um
    bm = (eye["bm_share"] * eye["scan_height"] + bruch(eye, x)).astype(np.float32)
    above = bm[None] - z  # height above BM of every pixel, um
    contrast = eye["contrast"]

    def step(height, edge=um):
        return np.clip((np.asarray(height, np.float32)[None] - above) / edge + 0.5, 0, 1)

    grey = np.zeros((n, n), np.float32)
    previous = LEVELS["vitreous"]
    lifted = np.clip(sheet["druse"] / 55, 0, 1)
    sick = np.clip(sheet["tissue"] / 40, 0, 1)
    # about a neovascular lesion the EZ is lost and the RPE is patchy
    around = np.clip(1.6 * ndimage.gaussian_filter1d(sick, 350 / (x[1] - x[0])), 0, 1)
    patchy = eye["rough"](2 * x)
    swollen = 0.85 * np.clip(sheet["swelling"] / 130, 0, 1)
    worn = 1.0 + 1.0 * np.clip(ndimage.gaussian_filter1d(lifted + sick + swollen, 12) * 2, 0, 1)
    mottle = 1 + 0.1 * worn * ndimage.gaussian_filter1d(rng.standard_normal(n, np.float32), 1.5)
    nasal = eye["side"] * x / 1000
    inner = 1 + 0.12 * np.clip(nasal, -1, 3) + 0.08 * eye["rough"](2 * x + 500)
    for name in ("ILM", "RNFL/GCL", "GCL/IPL", "IPL/INL", "INL/OPL", "OPL/ONL", "ELM"):
        level = LEVELS[name] * contrast
        if name == "ILM":
            level = level * inner
        if name in ("IPL/INL", "INL/OPL", "OPL/ONL"):
            level = level + swollen * (62 * contrast - level)
        grey += step(heights[name], 9 if name == "ILM" else 14) * (level - previous)
        previous = level
    # below the EZ: a bright line, outer segments, and the sheets of fluid and tissue
    rpe = heights["RPE"]
    ez = heights["EZ"]
    gap = sheet["fluid"] + sheet["tissue"]
    outer = LEVELS["EZ"] * contrast * (1 - 0.35 * lifted - 0.2 * sick)
    grey += step(ez, max(um, 8)) * (outer - previous)
    line = np.exp(-(((above - ez + 8) / 9) ** 2))
    grey += line * (
        eye["ez"] * contrast * mottle * (1 - 0.8 * lifted) * (1 - 0.9 * around) * (1 - swollen)
    )
    grey += np.exp(-(((above - heights["ELM"]) / 6) ** 2)) * (12 * (1 - lifted))
    if gap.max() > 1:
        inside = step(rpe + gap, 10) - step(rpe, 10)
        wet = step(rpe + gap, 10) - step(rpe + sheet["tissue"], 10)
        grey += inside * (gap > 3) * (122 * contrast + 14 * eye["rough"](3 * x) - outer)
        grey += wet * (sheet["fluid"] > 3) * (-92 * contrast)
    band = step(rpe, max(um, 7))
    pigment = LEVELS["RPE"] * contrast * eye["rpe"] * mottle * (1 - 0.2 * swollen)
    pigment *= 1 - np.maximum(sick, 0.6 * around) * np.clip(0.22 + 0.25 * patchy, 0, 0.55)
    grey += band * (pigment - outer)
    bottom = np.maximum(rpe - 24 + 5 * lifted, 0)
    material = (122 - 65 * np.clip(sheet["ped"] / 90, 0, 1) * eye["serous"]) * contrast
    below = step(bottom, max(um, 8))
    grey += below * (material - pigment)
    floor = step(0 * rpe, max(um, 8))
    grey += floor * (LEVELS["BM"] * contrast - material)
    grey += np.exp(-((above / 6) ** 2)) * (26 * np.clip((rpe - 35) / 30, 0, 1))
    # choroid: grains, dark lumina, light lost with depth; light passes where the RPE is damaged
    depth = np.clip(-above, 0, None)
    wide = smooth_noise(rng, (48, 128), (1.2, 1.7))
    fine = smooth_noise(rng, (48, 128), (0.7, 0.8))
    texture = 21 * np.clip(wide, -2.2, 0.8) + 5 * fine
    texture = Image.fromarray(texture.astype(np.float32)).resize(
        (n, 4 * 48), Image.Resampling.BICUBIC
    )
    at = np.minimum((depth * (4 / 13)).astype(np.intp), 4 * 48 - 1)
    texture = np.take_along_axis(np.asarray(texture), at, axis=0)
    thick = eye["choroid_um"] * (1 + 0.12 * eye["wave"](x))
    fade = 32 * (1 - np.exp(-depth / 55)) + 60 * depth / eye["penetration"]
    fade = fade + 14 * np.clip((depth - thick) / 90, 0, 1)
    inside = np.clip(depth / 25, 0, 1) * np.clip(1.15 - depth / thick, 0, 1)
    stripes = ndimage.gaussian_filter1d(rng.standard_normal(n, np.float32), 2.0) * 2.6
    through = (20 + 26 * np.clip(stripes, 0, 2)) * np.clip(sick + 0.4 * sheet["ped"] / 60, 0, 1)
    grey += floor * (texture * inside - fade + through)
    paint_lesions(grey, above, lesions, heights, sheet, x, contrast)
    shade_vessels(grey, above, crossings, heights, x)
    # glints of the inner limiting membrane, and in some eyes a detached posterior hyaloid
    glint = np.clip(eye["rough"](1.3 * x + 3000) - 0.9, 0, 1.2) * np.exp(-((x / 2500) ** 2))
    grey += 55 * glint * np.exp(-(((above - heights["ILM"] + 8) / 9) ** 2))
    if eye["hyaloid_um"] < 350:
        away = eye["hyaloid_um"] * (0.15 + 0.85 * np.abs(np.sin(x / 2600 + eye["hyaloid_um"])))
        line = np.exp(-(((above - heights["ILM"].max() - away) / 8) ** 2))
        grey += eye["hyaloid"] * line * (above > heights["ILM"] + 12)
    streaks = ndimage.gaussian_filter1d(rng.standard_normal(n, np.float32), 1.2) * 6
    grey += streaks * np.clip((heights["ILM"] - above) / 250, 0, 1.4)
    grey += eye["gain"] * (above < heights["ILM"])
    grey = ndimage.gaussian_filter(grey, (0.65, 0.5), truncate=2.5)
    return finish(grey, step(heights["ILM"], max(um, 7)), eye, rng, size)


def paint_lesions(grey, above, lesions, heights, sheet, x, contrast):
    """Cystoid spaces (dark, with a faint rim) and exudates (bright, with a shadow), in place."""
    for lesion in lesions:
        if lesion.kind not in ("cyst", "exudate") or not lesion.on_line:
            continue
        cut = np.sqrt(1 - (lesion.y_um / (0.5 * lesion.width_um)) ** 2)
        half = 0.5 * lesion.width_um * cut
        here = np.nonzero(np.abs(x - lesion.x_um) < half + 40)[0]
        if len(here) == 0 or lesion.height_um < 4:
            continue
        part = slice(here[0], here[-1] + 1)
        middle = int(np.argmin(np.abs(x - lesion.x_um)))
        low = heights["RPE"][middle] + sheet["fluid"][middle] + sheet["tissue"][middle] + 45
        room = heights["ILM"][middle] - 22 - low
        tall = min(0.5 * lesion.height_um * cut, 0.47 * room)
        centre = np.clip(low + lesion.level * room, low + tall, low + room - tall)
        away = np.hypot((x[part] - lesion.x_um)[None] / half, (above[:, part] - centre) / tall)
        inside = np.clip((1 - away) * tall / 9 + 0.5, 0, 1).astype(np.float32)
        if lesion.kind == "cyst":
            grey[:, part] += inside * (8 - grey[:, part])
        else:
            grey[:, part] += inside * (165 * contrast - grey[:, part])
            shadow = np.clip(1 - ((x[part] - lesion.x_um) / half) ** 2, 0, 1)
            grey[:, part] -= 22 * shadow * (above[:, part] < centre - tall)


def shade_vessels(grey, above, crossings, heights, x):
    """Vessel walls in the nerve fibre layer and the shadows under them, in place."""
    for where, width in crossings:
        profile = np.clip(1.2 - ((x - where) / (0.5 * width + 12)) ** 2, 0, 1).astype(np.float32)
        here = np.nonzero(profile > 0)[0]
        if len(here) == 0:
            continue
        part = slice(here[0], here[-1] + 1)
        top = heights["ILM"][part] - 12
        oval = np.exp(-(((above[:, part] - top + 0.4 * width) / (0.5 * width)) ** 2))
        strength = float(np.clip((width - 18) / 80, 0, 1))
        grey[:, part] += (34 * strength) * profile[part] * oval
        under = np.clip((top - width - above[:, part]) / 30, 0, 1)
        grey[:, part] -= (62 * strength) * profile[part] * under


def finish(grey, retina, eye, rng, size):
    """Speckle, detector noise, log compression, and the size asked for."""
    n = len(grey)
    speckle = smooth_noise(rng, (n, n), (0.62, 0.5))
    noise = smooth_noise(rng, (n, n), (0.62, 0.42))
    signal = np.exp((grey + eye["speckle"] * speckle) / FOLD) * np.maximum(retina, 0.3)
    floor = eye["floor"] - eye["floor_drop"] * np.linspace(0, 1, n, dtype=np.float32)[:, None]
    detector = np.exp((floor + eye["noise"] * noise) / FOLD)
    image = FOLD * np.log(signal + detector)
    image = np.clip(image, 0, 255).astype(np.uint8)
    if n != size:
        image = np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BOX))
    return image


def white_wedge(rng, size):
    """Mask (size, size) of the white triangles that a rotated export leaves at top or bottom."""
    x = np.linspace(-0.5, 0.5, size)[None]
    y = (np.arange(size)[:, None] + 0.5) / size
    slope = rng.choice([-1, 1]) * rng.uniform(0.03, 0.12)
    depth = rng.uniform(0.02, 0.10, 2)
    both = rng.uniform() < 0.4
    top = y < depth[0] + slope * x
    bottom = y > 1 - depth[1] + slope * x
    first = rng.uniform() < 0.5
    return (top & (both or first)) | (bottom & (both or not first))

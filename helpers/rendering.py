"""Pictures of a simulated eye: the OCT B-scan and the DFE photograph.

The OCT is computed in grey levels of a log-compressed export, where a layer's reflectivity is
additive and a shadow subtracts. Speckle multiplies the intensity, so it too is additive; the
detector's noise adds in intensity, which is why the sum is taken under an exponential.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

from helpers.anatomy import SCAN_WIDTH_UM, bruch, surfaces

FIELD_OF_VIEW_UM = 13_000.0
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
    um = eye["scan_height"] / n
    z = (np.arange(n, dtype=np.float32)[:, None] + 0.5) * um
    bm = (eye["bm_share"] * eye["scan_height"] + bruch(eye, x)).astype(np.float32)
    above = bm[None] - z  # height above BM of every pixel, um
    contrast = eye["contrast"]

    def step(height, edge=um):
        return np.clip((np.asarray(height, np.float32)[None] - above) / edge + 0.5, 0, 1)

    grey = np.zeros((n, n), np.float32)
    previous = LEVELS["vitreous"]
    lifted = np.clip(sheet["druse"] / 80, 0, 1)
    sick = np.clip(sheet["tissue"] / 40, 0, 1)
    swollen = 0.6 * np.clip(sheet["swelling"] / 120, 0, 1)
    mottle = 1 + 0.05 * ndimage.gaussian_filter1d(rng.standard_normal(n), 1.5) * 2
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
    rpe = heights["RPE"].astype(np.float32)
    ez = heights["EZ"].astype(np.float32)
    gap = sheet["fluid"] + sheet["tissue"]
    outer = LEVELS["EZ"] * contrast * (1 - 0.35 * lifted - 0.2 * sick)
    grey += step(ez, max(um, 8)) * (outer - previous)
    line = np.exp(-(((above - ez + 8) / 9) ** 2))
    grey += line * (70 * contrast * mottle * (1 - 0.8 * lifted) * (1 - 0.8 * sick))
    grey += np.exp(-(((above - heights["ELM"]) / 6) ** 2)) * (12 * (1 - lifted))
    if gap.max() > 1:
        inside = step(rpe + gap, 10) - step(rpe, 10)
        wet = step(rpe + gap, 10) - step(rpe + sheet["tissue"], 10)
        grey += inside * (gap > 3) * (96 * contrast + 10 * eye["rough"](3 * x) - outer)
        grey += wet * (sheet["fluid"] > 3) * (-66 * contrast)
    band = step(rpe, max(um, 7))
    pigment = (
        LEVELS["RPE"]
        * contrast
        * mottle
        * (1 - sick * np.clip(0.2 + 0.2 * eye["rough"](2 * x), 0, 0.5))
    )
    grey += band * (pigment - outer)
    bottom = np.maximum(rpe - 24, 0)
    material = (105 - 55 * np.clip(sheet["ped"] / 90, 0, 1) * eye["serous"]) * contrast
    below = step(bottom, max(um, 8))
    grey += below * (material - pigment)
    floor = step(0 * rpe, max(um, 8))
    grey += floor * (LEVELS["BM"] * contrast - material)
    grey += np.exp(-((above / 6) ** 2)) * (26 * np.clip((rpe - 35) / 30, 0, 1))
    # choroid: grains, dark lumina, light lost with depth; light passes where the RPE is damaged
    depth = np.clip(-above, 0, None)
    wide = smooth_noise(rng, (48, 128), (1.2, 1.7))
    fine = smooth_noise(rng, (48, 128), (0.7, 0.8))
    texture = 17 * np.clip(wide, -2.4, 1.0) + 5 * fine
    texture = Image.fromarray(texture.astype(np.float32)).resize((n, 4 * 48), Image.BICUBIC)
    at = np.minimum((depth * (4 / 13)).astype(np.intp), 4 * 48 - 1)
    texture = np.take_along_axis(np.asarray(texture), at, axis=0)
    thick = eye["choroid_um"] * (1 + 0.12 * eye["wave"](x))
    fade = 25 * (1 - np.exp(-depth / 45)) + 60 * depth / eye["penetration"]
    fade = fade + 14 * np.clip((depth - thick) / 90, 0, 1)
    inside = np.clip(depth / 25, 0, 1) * np.clip(1.15 - depth / thick, 0, 1)
    stripes = ndimage.gaussian_filter1d(rng.standard_normal(n), 2.0) * 2.6
    through = (14 + 22 * np.clip(stripes, 0, 2)) * np.clip(sick + 0.4 * sheet["ped"] / 60, 0, 1)
    grey += floor * (texture * inside - fade + through)
    paint_lesions(grey, above, lesions, heights, sheet, x, contrast)
    shade_vessels(grey, above, crossings, heights, x)
    streaks = ndimage.gaussian_filter1d(rng.standard_normal(n), 1.2) * 6
    grey += streaks * np.clip((heights["ILM"] - above) / 250, 0, 1.4)
    grey += eye["gain"] * (grey > 1)
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
    signal = np.exp((grey + eye["speckle"] * speckle) / FOLD) * np.maximum(retina, 0.004)
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


def dfe_pixel(eye, x_um, y_um, size):
    """Pixel (column, row) of a place given from the fovea."""
    um = FIELD_OF_VIEW_UM / (0.97 * size)
    return (
        (x_um - eye["photo_x"]) / um + size / 2 - 0.5,
        (y_um - eye["photo_y"]) / um + size / 2 - 0.5,
    )


def render_dfe(eye, lesions, vessels, rng, size, shows):
    """uint8 (size, size, 3) photograph."""
    n = max(size, 256)
    um = FIELD_OF_VIEW_UM / (0.97 * n)
    grid = (np.arange(n, dtype=np.float32) - n / 2 + 0.5) * um
    x = (grid + np.float32(eye["photo_x"]))[None]
    y = (grid + np.float32(eye["photo_y"]))[:, None]
    r2 = x**2 + y**2
    patches = smooth_noise(rng, (32, 32), 2.2)
    patches = np.asarray(Image.fromarray(patches).resize((n, n), Image.Resampling.BICUBIC))
    fine = smooth_noise(rng, (n // 2, n // 2), 0.7).repeat(2, 0).repeat(2, 1)
    fine = np.pad(fine, ((0, n - len(fine)), (0, n - len(fine))), mode="edge")
    light = (1 + eye["light_x"] * grid / 6500 - 0.30 * grid**2 / 6500**2)[None]
    light = light + (eye["light_y"] * grid / 6500 - 0.30 * grid**2 / 6500**2)[:, None]
    light = light.astype(np.float32)
    macula = 0.30 * np.exp(-r2 / 1500**2) + 0.20 * np.exp(-r2 / 420**2)
    shade = light * (1 + 0.045 * patches + 0.018 * fine) * (1 - macula)
    image = shade[..., None] * np.asarray(eye["colour"], np.float32)
    disc_x, disc_y = eye["side"] * eye["disc_x"], eye["disc_y"]
    away = np.hypot((x - disc_x) / 0.92, y - disc_y) / (0.5 * eye["disc_um"])
    disc = np.clip((1 - away) * 6 + 0.5, 0, 1)[..., None]
    cup = np.clip((0.45 - away) * 4 + 0.5, 0, 1)[..., None]
    halo = (0.18 * np.exp(-((away - 1.1) ** 2) / 0.05))[..., None]
    image += halo * (np.array((220, 150, 80), np.float32) - image)
    image += disc * (np.array((236, 176, 104), np.float32) * light[..., None] - image)
    image += 0.7 * cup * (np.array((246, 214, 160), np.float32) - image)
    mask = vessel_mask(eye, vessels, n)
    vein, artery = np.float32((0.36, 0.54, 0.48)), np.float32((0.16, 0.42, 0.40))
    image *= 1 - mask[..., :1] * vein - mask[..., 1:2] * artery
    paint_fundus(image, lesions, x, y, light, rng, shows)
    image += 1.6 * rng.standard_normal((n, n, 1), np.float32)
    field = np.clip((0.485 * n - np.hypot(grid[None], grid[:, None]) / um) + 0.5, 0, 1)
    image = Image.fromarray(np.clip(image * field[..., None], 0, 255).astype(np.uint8))
    if eye["blur"] > 0.3:
        image = image.filter(ImageFilter.GaussianBlur(eye["blur"] * n / 256))
    if n != size:
        image = image.resize((size, size), Image.Resampling.BOX)
    return np.array(image)


def vessel_mask(eye, vessels, n):
    """Float32 (n, n, 3): 1 in the middle of a vein (channel 0) or an artery (channel 1)."""
    scale = 3
    um = FIELD_OF_VIEW_UM / (0.97 * n * scale)
    canvas = Image.new("RGB", (n * scale, n * scale))
    pen = ImageDraw.Draw(canvas)
    for vessel in sorted(vessels, key=lambda v: v.widths[0]):
        u, v = dfe_pixel(eye, vessel.points[:, 0], vessel.points[:, 1], n * scale)
        path = np.stack([u, v], 1)
        for k in range(0, len(u) - 5, 5):
            width = float(vessel.widths[k])
            ink = int(min(90 + 1.6 * width, 255))
            fill = (0, ink, 0) if vessel.artery else (ink, 0, 0)
            points = path[k : k + 6].ravel().tolist()
            pen.line(points, fill=fill, width=max(1, round(width / um)), joint="curve")
    canvas = canvas.reduce(scale).filter(ImageFilter.GaussianBlur(0.55 * n / 256))
    return np.asarray(canvas, np.float32) / 255


def paint_fundus(image, lesions, x, y, light, rng, shows):
    """Drusen, exudates, haemorrhages and subretinal lesions as the photograph shows them."""
    looks = {
        "druse": ((236, 200, 118), 0.5, 1.2), "exudate": ((250, 228, 140), 0.95, 3.0),
        "haemorrhage": ((92, 22, 14), 0.85, 2.0), "detachment": ((214, 150, 84), 0.30, 1.0),
        "subretinal_fluid": ((120, 84, 48), 0.22, 1.0), "tissue": ((226, 196, 130), 0.5, 1.0),
    }  # fmt: skip
    for lesion in lesions:
        ragged = rng.normal(0, 0.13, 3)  # drawn for every lesion: the stream stays in step
        phase = rng.uniform(0, 2 * np.pi, 3)
        if lesion.kind not in looks or shows == 0:
            continue
        colour, strength, sharp = looks[lesion.kind]
        half = 0.5 * lesion.width_um * 1.5 + 30
        part = (
            slice(*np.searchsorted(y[:, 0], (lesion.y_um - half, lesion.y_um + half))),
            slice(*np.searchsorted(x[0], (lesion.x_um - half, lesion.x_um + half))),
        )
        dx, dy = x[0, part[1]][None] - lesion.x_um, y[part[0], 0][:, None] - lesion.y_um
        angle = np.arctan2(dy, dx)
        edge = 1 + np.cos(angle[..., None] * (2, 3, 4) + phase) @ ragged
        away = np.hypot(dx, dy) / (0.5 * max(lesion.width_um, 60) * edge)
        alpha = strength * shows * np.clip((1 - away) * sharp + 0.35, 0, 1)[..., None]
        target = np.array(colour, np.float32) * np.clip(light[part], 0.3, 1.1)[..., None]
        image[part] += alpha * (target - image[part])

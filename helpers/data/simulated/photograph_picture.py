"""The DFE photograph of a simulated eye."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from helpers.data.simulated.oct_picture import smooth_noise

FIELD_OF_VIEW_UM = 13_000.0  # 45 degrees


def dfe_pixel(eye, x_um, y_um, size):
    """Pixel (column, row) of a place given from the fovea."""
    um = FIELD_OF_VIEW_UM / (0.97 * size)
    return (
        (x_um - eye["photo_x"]) / um + size / 2 - 0.5,
        (y_um - eye["photo_y"]) / um + size / 2 - 0.5,
    )


def render_dfe(eye, lesions, vessels, rng, size, shows):
    """uint8 (size, size, 3) photograph; lesions are painted with `shows` of their opacity."""
    n = max(size, 256)
    um = FIELD_OF_VIEW_UM / (0.97 * n)
    grid = (np.arange(n, dtype=np.float32) - n / 2 + 0.5) * um
    x, y = grid + np.float32(eye["photo_x"]), grid + np.float32(eye["photo_y"])
    patches = smooth_noise(rng, (32, 32), 2.2)
    patches = np.asarray(Image.fromarray(patches).resize((n, n), Image.Resampling.BICUBIC))
    grain = rng.standard_normal((n, n), np.float32)
    light = (1 + eye["light_x"] * grid / 6500 - 0.30 * grid**2 / 6500**2)[None]
    light = light + (eye["light_y"] * grid / 6500 - 0.30 * grid**2 / 6500**2)[:, None]
    shade = light * (1 + 0.045 * patches)
    for depth, width in ((0.30, 1500), (0.20, 420)):  # pigment of the macula and the fovea
        shade *= 1 - depth * np.outer(np.exp(-((y / width) ** 2)), np.exp(-((x / width) ** 2)))
    image = shade[..., None] * np.asarray(eye["colour"], np.float32)
    paint_disc(image, eye, x, y, light)
    mask = vessel_mask(eye, vessels, n)
    vein, artery = np.float32((0.36, 0.54, 0.48)), np.float32((0.16, 0.42, 0.40))
    image *= 1 - mask[..., :1] * vein - mask[..., 1:2] * artery
    paint_fundus(image, lesions, x, y, light, rng, shows)
    image += 1.8 * grain[..., None]
    field = np.clip((0.485 * n - np.hypot(grid[None], grid[:, None]) / um) + 0.5, 0, 1)
    image *= field[..., None]
    image = Image.fromarray(np.clip(image, 0, 255, out=image).astype(np.uint8))
    if eye["blur"] > 0.3:
        image = image.filter(ImageFilter.GaussianBlur(eye["blur"] * n / 256))
    if n != size:
        image = image.resize((size, size), Image.Resampling.BOX)
    return np.array(image)


def window(x, y, at_x, at_y, half):
    """Slices of the pixels within `half` um of a place; x, y: the um of columns and rows."""
    return (
        slice(*np.searchsorted(y, (at_y - half, at_y + half))),
        slice(*np.searchsorted(x, (at_x - half, at_x + half))),
    )


def paint_disc(image, eye, x, y, light):
    """The optic disc with its cup and halo, in place."""
    at_x, at_y = eye["side"] * eye["disc_x"], eye["disc_y"]
    part = window(x, y, at_x, at_y, 0.9 * eye["disc_um"])
    away = np.hypot((x[part[1]] - at_x)[None] / 0.92, (y[part[0]] - at_y)[:, None])
    away = (away / (0.5 * eye["disc_um"]))[..., None]
    here, lit = image[part], light[part][..., None]
    here += 0.18 * np.exp(-((away - 1.1) ** 2) / 0.05) * (np.float32((220, 150, 80)) - here)
    here += np.clip((1 - away) * 6 + 0.5, 0, 1) * (np.float32((236, 176, 104)) * lit - here)
    here += 0.7 * np.clip((0.45 - away) * 4 + 0.5, 0, 1) * (np.float32((246, 214, 160)) - here)


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
    return np.asarray(canvas.reduce(scale), np.float32) / 255


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
        if lesion.kind == "druse":  # low ones are faint
            strength *= min(1.0, 0.1 + lesion.height_um / 35)
        half = 0.5 * lesion.width_um * 1.5 + 30
        part = window(x, y, lesion.x_um, lesion.y_um, half)
        dx, dy = (x[part[1]] - lesion.x_um)[None], (y[part[0]] - lesion.y_um)[:, None]
        edge = 1.0
        if lesion.width_um > 150:  # smaller ones are too few pixels for a ragged edge
            angle = np.arctan2(dy, dx)
            edge = 1 + np.cos(angle[..., None] * (2, 3, 4) + phase) @ ragged
        away = np.hypot(dx, dy) / (0.5 * max(lesion.width_um, 60) * edge)
        alpha = strength * shows * np.clip((1 - away) * sharp + 0.35, 0, 1)[..., None]
        target = np.array(colour, np.float32) * np.clip(light[part], 0.3, 1.1)[..., None]
        image[part] += alpha * (target - image[part])

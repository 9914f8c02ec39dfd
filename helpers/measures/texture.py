"""The physics of a B-scan: speckle, spectra, vessel shadows, light; and how two sets differ in it.

Everything is in px and grey levels of the picture as it is given, so compare only pictures of one
size that went through one filter: `pixels.at_size`.
"""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, gaussian_filter1d, label, median_filter
from scipy.signal import find_peaks
from skimage.filters import threshold_otsu
from tqdm.auto import tqdm

MEASURES = {
    "speckle_axial": "speckle size, axial (px)",
    "speckle_lateral": "speckle size, lateral (px)",
    "speckle_contrast": "speckle contrast in the retina (%)",
    "spectrum_slope_axial": "slope of the axial spectrum (log power per log frequency)",
    "spectrum_slope_lateral": "slope of the lateral spectrum (log power per log frequency)",
    "fine_detail_axial": "axial power above 0.25 cycles/px (dB of all)",
    "fine_detail_lateral": "lateral power above 0.25 cycles/px (dB of all)",
    "checkerboard_2px": "power in excess at 0.5 cycles/px (dB)",
    "checkerboard_4px": "power in excess at 0.25 cycles/px (dB)",
    "shadow_count": "vessel shadows per scan",
    "vitreous_level": "brightness of the vitreous (grey levels)",
    "vitreous_noise": "noise in the vitreous (grey levels)",
    "retina_contrast": "contrast of retina to vitreous (Michelson)",
}
LAGS = 12  # px: the longest distance at which speckle is compared with itself
GRAIN = 10  # px: what varies more slowly than this along the scan is structure, not speckle
SHADOW = 0.06  # the least depth of a vessel's shadow, as a share of the light about it
STRAY = 2.0  # dB: by so much a spectrum without a checkerboard strays from its surroundings


def line_spectra(levels, axis):
    """Mean power (grey levels squared) of every picture's lines along `axis` (1 depth, 2 across).

    levels: (N, H, W). Returns (frequencies in cycles per px (F,), power (N, F)), without the
    constant. A Hann window keeps the edges out of it.
    """
    lines = np.moveaxis(levels, axis, -1)
    lines = lines - lines.mean(-1, keepdims=True)
    window = np.hanning(lines.shape[-1])
    power = np.abs(np.fft.rfft(lines * window)) ** 2 / (window**2).sum()
    return np.fft.rfftfreq(lines.shape[-1])[1:], power.mean(1)[:, 1:]


def _spectrum(frequency, power):
    """(slope, share above 0.25 cycles/px in dB, excess at 0.5 and at 0.25 cycles/px in dB)."""
    low = (frequency > 0.03) & (frequency < 0.3)
    slope = np.polyfit(np.log(frequency[low]), np.log(power[low] + 1e-9), 1)[0]
    fine = power[frequency > 0.25].sum() / power.sum()

    def excess(place):
        away = np.abs(frequency - place)
        around = np.median(power[(away > 0.035) & (away < 0.1)])
        near = away < max(0.017, away.min() + 1e-9)  # of few px none may be as near as that
        ratio = power[near].max() / max(around, 1e-9)
        return max(0.0, 10 * np.log10(max(ratio, 1e-9)) - STRAY)

    return slope, 10 * np.log10(max(fine, 1e-9)), excess(0.5), excess(0.25)


def find_retina(levels):
    """(top, ridge, inside) of one picture (H, W), or None where no retina stands out.

    top: row of the inner surface per column; ridge: row of the brightest deep band (the RPE);
    inside: mask (H, W) of the tissue, choroid and all. Coarse on purpose: layers.py is the ruler.
    """
    height, width = levels.shape
    smooth = gaussian_filter(levels, (0.01 * height, 0.02 * width))
    if smooth.max() - smooth.min() < 10:
        return None
    pieces, count = label(smooth > threshold_otsu(smooth))
    if count == 0:
        return None
    largest = np.argmax(np.bincount(pieces.ravel())[1:]) + 1
    inside = pieces == largest
    if inside.any(0).mean() < 0.6:  # a retina runs from side to side
        return None
    columns = np.arange(width)
    seen = inside.any(0)
    top = np.interp(columns, columns[seen], inside.argmax(0)[seen])
    rows = np.arange(height)[:, None]
    inside = inside & (rows >= top)
    wide = gaussian_filter(levels, (0.008 * height, 0.04 * width))
    # the nerve fibres can be as bright as the RPE: look below the upper third of the tissue
    bottom = np.interp(columns, columns[seen], height - 1 - inside[::-1].argmax(0)[seen])
    deep = (rows > top + 0.3 * (bottom - top)) & (rows <= bottom)
    ridge = np.where(deep, wide, -1).argmax(0)
    ridge = median_filter(ridge, max(3, width // 6), mode="nearest")
    return top, gaussian_filter1d(ridge.astype(float), 0.02 * width), inside


def _speckle(levels, inside):
    """(axial size, lateral size, contrast) of the speckle within the mask.

    What varies slowly along the scan is structure and is taken away; what is left is compared
    with itself in blocks of 1/16 of the picture, and the median block counts, so that the few with
    an edge left in them do not. Size: twice the lag at which the autocorrelation falls to one
    half. Contrast: standard deviation over mean, in %.
    """
    rest = levels - gaussian_filter1d(levels, GRAIN, axis=1)
    side = max(8, levels.shape[1] // 16)
    lags = min(LAGS, side)

    def blocks(values):
        rows, columns = (n // side * side for n in values.shape)
        cut = values[:rows, :columns]
        return cut.reshape(rows // side, side, columns // side, side).mean((1, 3))

    kept = blocks(inside.astype(float)) > 0.8
    variance = blocks(rest**2)
    kept &= variance > 1e-6
    if kept.sum() < 4:
        return np.nan, np.nan, np.nan
    sizes = []
    for axis in (0, 1):
        before, size = 1.0, 2.0 * lags
        for lag in range(1, lags + 1):
            moved = np.roll(rest, -lag, axis)
            both = np.sqrt(variance * blocks(moved**2))[kept]
            now = np.median(blocks(rest * moved)[kept] / np.maximum(both, 1e-6))
            if now < 0.5:
                size = 2 * (lag - 1 + (before - 0.5) / (before - now))
                break
            before = now
        sizes.append(size)
    contrast = np.median((np.sqrt(variance) / np.maximum(blocks(levels), 1))[kept])
    return *sizes, 100 * contrast


def find_shadows(levels, ridge):
    """Columns of the vessel shadows of one picture (H, W), given the rows of its RPE.

    A vessel dims everything below it, so the light is followed along the scan in three bands:
    above the RPE, in it, and below. A shadow is a dip in all three, by SHADOW of the light to both
    sides and 0.5 to 6 % of the width wide; what the choroid or a patchy RPE does alone is none.
    """
    height, width = levels.shape
    rows, dips = np.arange(height)[:, None], []
    for top, bottom in ((-0.1, -0.03), (-0.03, 0.03), (0.03, 0.1)):
        band = (rows > ridge + top * height) & (rows <= ridge + bottom * height)
        light = (levels * band).sum(0) / np.maximum(band.sum(0), 1)
        light = gaussian_filter1d(light, 0.006 * width)
        around = median_filter(light, max(5, width // 8), mode="nearest")
        dips.append(1 - light / np.maximum(around, 1))
    width_limits = (0.005 * width, 0.06 * width)
    least = np.min(dips, axis=0)
    return find_peaks(least, height=SHADOW / 2, prominence=SHADOW, width=width_limits)[0]


def measure(images, progress=False):
    """Every measure of MEASURES for images (N, C, H, W), uint8 or float [-1, 1]: name -> (N,).

    NaN where a picture shows no retina, or no vitreous above it.
    """
    values = {name: np.full(len(images), np.nan) for name in MEASURES}
    for i in tqdm(range(len(images)), desc="texture", disable=not progress):
        pixels = np.asarray(images[i].cpu() if torch.is_tensor(images[i]) else images[i])
        levels = pixels.astype(np.float32).mean(0)
        levels = levels if pixels.dtype == np.uint8 else (levels + 1) * 127.5
        for name, value in _one(levels).items():
            values[name][i] = value
    return values


def _one(levels):
    found = {}
    if levels.std() < 1:
        return found
    axial, lateral = (
        _spectrum(f, p[0]) for f, p in (line_spectra(levels[None], a) for a in (1, 2))
    )
    found["spectrum_slope_axial"], found["fine_detail_axial"] = axial[:2]
    found["spectrum_slope_lateral"], found["fine_detail_lateral"] = lateral[:2]
    found["checkerboard_2px"], found["checkerboard_4px"] = np.maximum(axial[2:], lateral[2:])
    retina = find_retina(levels)
    if retina is None:
        return found
    top, ridge, inside = retina
    found["speckle_axial"], found["speckle_lateral"], found["speckle_contrast"] = _speckle(
        levels, inside
    )
    found["shadow_count"] = len(find_shadows(levels, ridge))
    height = len(levels)
    above = np.arange(height)[:, None] < top - 0.04 * height
    if above.sum() >= 0.02 * above.size:
        light = np.median(levels[above])
        grain = levels - gaussian_filter(levels, 3)
        found["vitreous_level"], found["vitreous_noise"] = light, grain[above].std()
        tissue = levels[inside].mean()
        found["retina_contrast"] = (tissue - light) / (tissue + light)
    return found

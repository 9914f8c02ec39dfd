"""What of an eye survives when its DFE is turned into an OCT: its class, and each druse's place.

A translated scan that looks right may be right about nothing. So every score here stands beside a
control, the same scans dealt out to other eyes, and a ceiling, the same ruler on the true scans.
"""

import numpy as np
import torch
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from helpers.data.pixels import to_float, to_levels
from helpers.measures.intervals import ENDS
from helpers.measures.layers import read_all
from helpers.measures.scores import scores
from helpers.measures.true_layers import true_layers
from helpers.translation.losses import blurred

TOLERANCE_UM = 150.0
DEALS = 20  # times that scans are dealt out anew for a control


def as_a_file(images: torch.Tensor, sigma=1 / 128) -> torch.Tensor:
    """What is left of images (N, C, S, S) in [-1, 1] once written as 8 bit and slightly blurred.

    ``sigma`` is a share of the side, at least half a px; 0: no blur. CycleGAN hides its input in
    detail too fine to see (Chu, Zhmoginov & Sandler 2017, arXiv 1712.02950); that does not survive.
    """
    levels = to_float(to_levels(images)).to(images.device)
    if not sigma:
        return levels
    return blurred(levels, max(0.5 / images.shape[-1], sigma))


def deals(groups, rng, count=DEALS):
    """``count`` permutations of (N,) in which nobody gets a scan of the own group back, as far as
    a few hundred exchanges can see to it."""
    groups = np.asarray(groups)
    for _ in range(count):
        order = rng.permutation(len(groups))
        for _ in range(10 * len(groups)):
            own = np.flatnonzero(groups[order] == groups)
            if not len(own):
                break
            one, other = own[0], rng.integers(len(groups))
            order[[one, other]] = order[[other, one]]
        yield order


def class_survives(labels, probabilities, classes, patients=None, *, positive=None, seed=0):
    """AUROC of the photograph's class as a judge of OCT reads it off the translated scan.

    labels (N,) names; probabilities (N, K) of the judge. Returned: {value, low, high, shuffled,
    ...} as ``scores`` has it; ``shuffled`` is the mean with scans dealt out anew (0.5 expected).
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    patients = np.arange(len(labels)) if patients is None else np.asarray(patients)
    found = dict(scores(labels, probabilities, classes, patients, positive, seed=seed)["auroc"])
    rng = np.random.default_rng(seed)
    dealt = [
        scores(labels, probabilities[order], classes, patients, positive, resamples=1)["auroc"]
        for order in deals(patients, rng)
    ]
    values = [entry["value"] for entry in dealt if entry["value"] is not None]
    return found | {"shuffled": float(np.mean(values)) if values else None}


def true_drusen(truth) -> np.ndarray:
    """Columns (K,), px, of the drusen that the scan of a ``simulate.Truth`` cuts: those that the
    ruler would find if it made no error (``true_layers``)."""
    return np.array([druse.x for druse in true_layers(truth).drusen])


def rise(height) -> np.ndarray:
    """How far the RPE rises, from its height (W,) above BM: above the height's 5th percentile, the
    RPE's own thickness, which is of no interest and which a blur changes. NaN stays NaN."""
    return height - np.nanpercentile(height, 5)


def elevation(truth) -> np.ndarray:
    """um (W,) by which drusen lift the RPE of a ``simulate.Truth`` above its own thickness."""
    return rise(truth.heights_um["RPE"] - truth.heights_um["BM"])


def concordance(read, true) -> float:
    """Lin's concordance correlation coefficient of two (W,) (Lin, Biometrics 1989), -1 to 1:

    2 cov(read, true) / (var(read) + var(true) + (mean(read) - mean(true))^2)

    1 only if both are equal: a rise in another place, of another height, or with a bias costs, and
    what is flat has 0. Columns in which one is NaN do not count; NaN if both are one constant.
    """
    read, true = np.asarray(read, float), np.asarray(true, float)
    good = np.isfinite(read) & np.isfinite(true)
    if not good.any():
        return np.nan
    read, true = read[good], true[good]
    apart = read.var() + true.var() + (read.mean() - true.mean()) ** 2
    if apart < 1e-9:
        return np.nan
    return float(2 * np.mean((read - read.mean()) * (true - true.mean())) / apart)


def rises_in_place(images, rises, units_per_row) -> dict[str, np.ndarray]:
    """How far the RPE rises on drawn scans, against what is known of the eyes they stand for.

    images (N, 1, S, S) in [-1, 1]; rises (N, S) as ``rise`` gives them, NaN where unknown, in um or
    any unit of which a row of each image is ``units_per_row`` (N,). Returned per scan, arrays (N,):
    ``concordance``; ``error``, mean absolute, in that unit. What the ruler cannot read, a scan or
    columns of one, has not risen: a scan without layers has concordance 0.
    """
    found = {"concordance": [], "error": []}
    readings = read_all(as_a_file(images, 0))
    for reading, known, unit in zip(readings, rises, units_per_row, strict=True):
        read = np.zeros(len(known))
        if reading.usable:
            read = np.nan_to_num(rise(reading.elevation) * unit)
        found["concordance"].append(concordance(read, known))
        found["error"].append(np.nanmean(np.abs(read - known)))
    return {name: np.array(values, float) for name, values in found.items()}


def match(found, true, tolerance):
    """Pairs (of places) of two lists of columns, nearest first, each used once."""
    away = np.abs(np.subtract.outer(np.asarray(found, float), np.asarray(true, float)))
    pairs = []
    while away.size and away.min() <= tolerance:
        i, j = np.unravel_index(np.argmin(away), away.shape)
        pairs.append((int(i), int(j)))
        away[i], away[:, j] = np.inf, np.inf
    return pairs


def lesions_in_place(readings, truths, um_per_row=None, *, tolerance_um=TOLERANCE_UM) -> dict:
    """Drusen of scans, read by ``layers.read_all``, against the truths of the eyes they stand for.

    um_per_row (N,): of the scans, where a framing cropped them; None: as the truths have it.
    Returned per scan, arrays (N,): ``true``, ``found``, ``matched`` drusen; ``position_um``, mean
    error of the matched; ``thickness_um``, mean absolute error of BM - ILM over the A-scans;
    ``likeness``, the correlation over A-scans of how far the RPE rises. NaN where there is nothing
    to compare. A scan that the ruler cannot read has found nothing.
    """
    rows = []
    if um_per_row is None:
        um_per_row = [truth.oct_um_per_px[1] for truth in truths]
    for reading, truth, um_row in zip(readings, truths, um_per_row, strict=True):
        um_x, um_y = truth.oct_um_per_px
        true, found = true_drusen(truth), [druse.x for druse in reading.drusen]
        pairs = match(found, true, tolerance_um / um_x)
        row = {"true": len(true), "found": len(found), "matched": len(pairs),
               "readable": float(reading.usable)}  # fmt: skip
        away = [abs(found[i] - true[j]) * um_x for i, j in pairs]
        row["position_um"] = np.mean(away) if away else np.nan
        row["thickness_um"] = row["likeness"] = np.nan
        if reading.usable:
            thick = (truth.rows["BM"] - truth.rows["ILM"]) * um_y
            row["thickness_um"] = np.nanmean(np.abs(reading.thickness * um_row - thick))
            row["likeness"] = _correlation(reading.elevation, elevation(truth))
        rows.append(row)
    return {name: np.array([row[name] for row in rows], float) for name in rows[0]}


def _correlation(a, b) -> float:
    good = np.isfinite(a) & np.isfinite(b)
    if good.sum() < 3 or a[good].std() < 1e-9 or b[good].std() < 1e-9:
        return np.nan
    return float(np.corrcoef(a[good], b[good])[0, 1])


def summary(per_scan: dict, weights=None) -> dict[str, float]:
    """``detected`` (share of the true drusen found), ``false`` (drusen per scan that are none), and
    means of the rest over scans; ``weights`` (N,) count scans several times (a bootstrap)."""
    n = len(per_scan["true"])
    weights = np.ones(n) if weights is None else weights

    def mean(values):
        good = np.isfinite(values)
        total = weights[good].sum()
        return float((weights[good] * values[good]).sum() / total) if total else np.nan

    true = (weights * per_scan["true"]).sum()
    matched = (weights * per_scan["matched"]).sum()
    result = {"detected": float(matched / true) if true else np.nan}
    result["false"] = mean(per_scan["found"] - per_scan["matched"])
    return result | {name: mean(per_scan[name]) for name in
                     ("readable", "position_um", "thickness_um", "likeness")}  # fmt: skip


def lesion_report(
    translated, true_scans, truths, patients, um_per_row=None, *, seed=0, resamples=500
) -> dict:
    """How much of what is drawn lies where it lies in the eye: {name: {...}}.

    translated, true_scans: (N, 1, S, S); truths: ``simulate.Truth`` of each eye; patients (N,);
    um_per_row (N,) as in ``lesions_in_place``.
    ``translated``: summary with an interval over patients for each value; ``shuffled``: the same
    scans against other patients' truths; ``ruler``: the true scans, the ceiling; ``gain``: detected
    and likeness of the first minus the second, paired. Drusen everywhere are detected everywhere:
    read ``detected`` beside ``false`` and beside ``shuffled``. Of one patient there is no interval:
    low and high are None.
    """
    patients = np.asarray(patients)
    rng = np.random.default_rng(seed)
    drawn = read_all(translated)
    own = lesions_in_place(drawn, truths, um_per_row)
    others = [lesions_in_place([drawn[i] for i in order], truths, um_per_row)
              for order in deals(patients, rng, 5)]  # fmt: skip
    ceiling = lesions_in_place(read_all(true_scans), truths, um_per_row)
    names, index = np.unique(patients, return_inverse=True)
    draws = [np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[index]
             for _ in range(resamples)]  # fmt: skip

    def dealt(weights=None):
        parts = [summary(other, weights) for other in others]
        return {name: float(np.mean([p[name] for p in parts])) for name in parts[0]}

    def between(values, draws):
        if len(names) < 2:
            return {"value": values, "low": None, "high": None}
        low, high = np.nanquantile(draws, ENDS)
        return {"value": values, "low": float(low), "high": float(high)}

    all_own, all_dealt = [summary(own, w) for w in draws], [dealt(w) for w in draws]
    first, second = summary(own), dealt()
    report = {
        "translated": {k: between(first[k], [d[k] for d in all_own]) for k in first},
        "shuffled": {k: between(second[k], [d[k] for d in all_dealt]) for k in second},
        "ruler": {k: {"value": v} for k, v in summary(ceiling).items()},
        "gain": {
            k: between(first[k] - second[k], [a[k] - b[k] for a, b in zip(all_own, all_dealt)])
            for k in ("detected", "likeness")
        },
    }
    return report | {"scans": len(truths), "drusen": int(own["true"].sum())}


def honest_cycle(originals, cycled, cycled_after_file) -> dict[str, float]:
    """Mean absolute error in grey levels (0 to 255) of there and back again: as it is, with the
    picture in the middle passed through ``as_a_file``, and the gap, which is the hidden message."""
    plain, honest = (
        (images - originals).abs().mean().item() * 127.5 for images in (cycled, cycled_after_file)
    )
    return {"plain": plain, "honest": honest, "hidden": honest - plain}


def pair_scores(images: torch.Tensor, true: torch.Tensor) -> dict[str, float]:
    """SSIM and PSNR (dB) of images (N, 1, S, S) in [-1, 1] against the true scans."""
    return {
        "ssim": float(structural_similarity_index_measure(images, true, data_range=2.0)),
        "psnr": float(peak_signal_noise_ratio(images, true, data_range=2.0)),
    }

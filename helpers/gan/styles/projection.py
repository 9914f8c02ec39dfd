"""A real scan into W+: which styles draw it, how well, and what an edit makes of it.

Projection (Abdal, Qin & Wonka, ICCV 2019; StyleGAN2, Karras et al., CVPR 2020, section 5) looks for
the styles whose picture is nearest to a given scan. One channel from end to end. Two things differ
from public projectors, which are made for photographs of faces:

- *What is compared* are means of cells of 2, 4, 8 and 16 px. Speckle is different in every frame
  of the same eye: fitting it would bend the anatomy for the sake of noise.
- *Where it starts*: a ridge regression from features of drawn scans to their styles guesses w,
  which is nearer than the mean style and takes no time.

How far styles may leave the distribution that the generator was trained with is a weight: with 0
the picture comes nearest and edits break it; the larger it is, the likelier the styles.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from tqdm.auto import tqdm

from helpers.data.padding import padding_mask
from helpers.data.pixels import resize, to_float, to_levels
from helpers.gan.styles.directions import FAMILIES, Directions, Sample, needs_styles
from helpers.measures.layers import read_layers
from helpers.training.precision import in_bf16

CELLS = (2, 4, 8, 16)  # px
EDGES = 2.0  # weight of the layers' edges
WHITE, WEDGE = 235, 0.01  # share of a scan's pixels in white padding above which it is refused
RIDGE = 300.0


@dataclass(frozen=True)
class Projection:
    """styles (N, levels, latent) and the scans that they draw without speckle, float (N, 1, S, S)
    in [-1, 1]; error (N,): root mean square difference of cells of 4 px, in grey levels of 255;
    distance (N,): root mean square of the styles' whitened coordinates: draws have 1 on average,
    less is more ordinary."""

    styles: torch.Tensor
    scans: torch.Tensor
    error: np.ndarray
    distance: np.ndarray


def check_scan(scan, size: int, name="scan") -> np.ndarray:
    """One scan as an OCT generator of ``size`` px takes it: uint8 (size, size).

    Takes (S, S) or (1, S, S), uint8 or float in [-1, 1]. Raises ValueError that says what to do
    with colour, another size, a white wedge, or a picture in which the ruler finds no retina, as
    in a fundus photograph.
    """
    scan = np.asarray(scan)
    clean = f"use helpers.data.bscan.clean_oct(image, size={size})"
    if scan.ndim == 3 and 3 in (scan.shape[0], scan.shape[2]):
        planes = scan if scan.shape[0] == 3 else np.moveaxis(scan, 2, 0)
        if np.ptp(planes.astype(float), axis=0).mean() > 2 * (
            1 if scan.dtype == np.uint8 else 1e-2
        ):
            raise ValueError(
                f"{name}: a colour picture (a fundus photograph?); this generator draws grey OCT "
                "B-scans. Choose a B-scan."
            )
        raise ValueError(f"{name}: a grey scan saved in three channels; {clean}.")
    if scan.ndim == 3 and len(scan) == 1:
        scan = scan[0]
    if scan.ndim != 2:
        raise ValueError(f"{name}: a B-scan is (S, S) or (1, S, S), not {scan.shape}; {clean}.")
    if scan.shape != (size, size):
        raise ValueError(
            f"{name}: {scan.shape[1]} x {scan.shape[0]} px, and this generator draws {size} x "
            f"{size}; {clean}."
        )
    if not np.isfinite(scan.astype(float)).all():
        raise ValueError(f"{name}: not every pixel is a number; {clean}.")
    if np.issubdtype(scan.dtype, np.integer):
        scan = scan.clip(0, 255).astype(np.uint8)
    else:
        scan = to_levels(scan)
    large = resize(scan, 256, 256)  # the mask is made for the size of real scans
    wedge = (padding_mask(large) & (large >= WHITE)).mean()  # black corners may be the device's
    if wedge > WEDGE:
        raise ValueError(
            f"{name}: {100 * wedge:.0f} % of it is white padding (a wedge, a frame), which no "
            f"generator can draw; {clean}."
        )
    layers = read_layers(scan)
    if not layers.usable:
        raise ValueError(
            f"{name}: the ruler finds no retina to measure ({layers.reason}). A fundus photograph, "
            "or another picture? Choose a B-scan in which the layers can be seen."
        )
    return scan


class Projector:
    """Finds the styles of scans, for one generator and a ``Sample`` of its draws.

    features: a measures.features.Features, in which the first guess is made.
    """

    def __init__(self, generator, sample: Sample, features):
        needs_styles(generator)
        if getattr(generator, "shapes", None) is not None:
            raise ValueError(
                "this generator draws aligned crops, and whole scans are projected: train one with "
                "OCT_FRAMING=stretch."
            )
        self.generator, self.features = generator, features
        self.guess = Ridge(RIDGE).fit(features(sample.scans), sample.w)
        w = torch.from_numpy(sample.w).float()
        self.mean = w.mean(0)
        variances, axes = torch.linalg.eigh(torch.cov(w.T))
        floor = variances.max() * 1e-3  # or a step where styles do not vary would cost everything
        self.whiten = axes / variances.clamp_min(floor).sqrt()
        self.colour = (axes * variances.clamp_min(floor).sqrt()).T

    def __call__(self, scans, *, steps=200, rate=0.2, anchor=0.1, apart=0.1, plus=True,
                 progress=False) -> Projection:  # fmt: skip
        """The Projection of scans, uint8 (N, 1, S, S). ValueError as ``check_scan``, naming which.

        One style for all levels (W), for all ``steps`` of Adam or, with ``plus``, for half of them;
        in the other half every level finds a difference of its own (W+). Straight into W+, some
        scans end as a blur: levels wander off where no scan ever was. ``anchor`` and ``apart`` are
        the prices of leaving the mean style and of levels that differ, in whitened coordinates,
        where styles have unit variance.
        """
        size = self.generator.size
        scans = np.stack(
            [check_scan(scan, size, f"scan {k}")[None] for k, scan in enumerate(scans)]
        )
        device = next(self.generator.parameters()).device
        self.mean, self.whiten, self.colour = (
            t.to(device) for t in (self.mean, self.whiten, self.colour)
        )
        goal = to_float(scans).to(device)
        guess = torch.from_numpy(self.guess.predict(self.features(scans))).float().to(device)
        shared = ((guess - self.mean) @ self.whiten)[:, None].requires_grad_()
        levels = self.generator.levels
        own = torch.zeros(len(goal), levels, shared.shape[-1], device=device, requires_grad=True)
        phases = [([shared], steps // 2 if plus else steps)]
        phases += [([shared, own], steps - steps // 2)] * plus
        bar = tqdm(total=sum(count for _, count in phases), desc="projection", disable=not progress)
        for free, count in phases:
            optimizer = torch.optim.Adam(free, rate, betas=(0.9, 0.99))
            slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, count))
            for _ in range(count):
                with in_bf16(device):
                    drawn = self._draw(shared + own).float()
                loss = _unlike(drawn, goal)
                loss = (
                    loss + anchor * shared.square().mean((1, 2)) + apart * own.square().mean((1, 2))
                )
                optimizer.zero_grad()
                loss.sum().backward()
                optimizer.step()
                slower.step()
                bar.update()
        bar.close()
        place = (shared + own).detach()
        with torch.no_grad():
            drawn = self._draw(place).clamp(-1, 1)
        wrong = _cells(drawn - goal, 4).square().mean((1, 2, 3)).sqrt() * 127.5
        return Projection(
            (self.mean + place @ self.colour).cpu(), drawn.cpu(), wrong.cpu().numpy(),
            place.square().mean((1, 2)).sqrt().cpu().numpy(),
        )  # fmt: skip

    def _draw(self, place):
        """Scans of whitened coordinates (N, levels, d), without grain."""
        silent = torch.zeros(1, self.generator.size**2, device=place.device)
        return self.generator.draw(self.mean + place @ self.colour, silent)


def _unlike(drawn, goal):
    """How unlike two sets of scans are, (N,): absolute differences of cells of all CELLS, and of
    the steps in depth between cells of 2 px, which are the edges of layers."""
    away = drawn - goal
    fine = _cells(away, 2)
    edges = (fine[:, :, 1:] - fine[:, :, :-1]).abs().mean((1, 2, 3))
    return sum(_cells(away, cell).abs().mean((1, 2, 3)) for cell in CELLS) + EDGES * edges


def _cells(images, cell):
    return F.avg_pool2d(images, cell)


def same_anatomy(scans, drawn) -> dict[str, np.ndarray]:
    """Mean distance along the scan, in % of its height, between the ILM, RPE and BM that the ruler
    finds on scans and on what was drawn for them (both uint8 (N, 1, S, S)); NaN where it cannot."""
    found = {name: [] for name in ("ILM", "RPE", "BM")}
    for scan, other in zip(scans, drawn, strict=True):
        ours, theirs = read_layers(scan), read_layers(other)
        for name, values in found.items():
            away = np.abs(ours.rows[name] - theirs.rows[name]) * 100 / ours.shape[0]
            values.append(np.nanmean(away) if np.isfinite(away).any() else np.nan)
    return {name: np.array(values) for name, values in found.items()}


def moved(styles: torch.Tensor, directions: Directions, steps: dict[str, float]) -> torch.Tensor:
    """W+ (N, levels, latent) after a step along each named direction, in standard deviations of W,
    at every level. KeyError naming those there are for an unknown one."""
    way = sum(step * directions[name] for name, step in steps.items())
    return styles + torch.as_tensor(way, dtype=styles.dtype, device=styles.device)


def readings(styles: torch.Tensor, directions: Directions) -> dict[str, np.ndarray]:
    """{measure: (N,)} what fitted directions say of W+ (N, levels, latent), in standard deviations
    of the measure among draws: the mean style's linear reading."""
    w = styles.mean(1).cpu().numpy() - directions.mean
    return {name: w @ reader for name, reader in zip(directions.names, directions.readers)
            if name in FAMILIES}  # fmt: skip


def lines_up(read: dict, known: dict) -> dict[str, float]:
    """Spearman's correlation of what was read with what is known, {measure: rho}, over the scans
    where both are; NaN for fewer than three or if nothing varies."""
    found = {}
    for name, values in read.items():
        both = np.isfinite(values) & np.isfinite(known[name])
        varies = both.sum() > 2 and np.ptp(values[both]) > 0 and np.ptp(known[name][both]) > 0
        rho = spearmanr(values[both], known[name][both]).statistic if varies else np.nan
        found[name] = float(rho)
    return found

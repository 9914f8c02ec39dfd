"""Directions in W: what varies inside one disease, and whether a straight step changes just that.

Two kinds. *Principal components* of W are the directions along which styles vary most (GANSpace,
Härkönen et al., NeurIPS 2020); what they mean has to be read off afterwards. *Anatomical*
directions are fitted: draw scans, let the ruler measure them, and regress each measure on w, as
InterFaceGAN does with classifiers of faces (Shen et al., CVPR 2020); then take out of every
direction what would change the measures of another family.

Both are only candidates. ``accept`` takes a direction if what it does, measured on scans that were
not fitted to, is larger than the ruler's own error, monotonic, and little else.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_predict
from tqdm.auto import tqdm

from helpers.data.pixels import at_size
from helpers.data.shape import place_back
from helpers.gan.sampling import draw_noise
from helpers.measures.layers import flat_without_drusen, measure

# what directions are fitted to, and its family: measures of one family may change together
FAMILIES = {
    "drusen_count": "drusen",
    "drusen_area": "drusen",
    "drusen_height": "drusen",
    "retinal_thickness": "thickness",
    "fovea_column": "fovea",
    "tilt": "tilt",
}
WORDS = {
    "drusen_count": "number of drusen",
    "drusen_area": "area of drusen",
    "drusen_height": "height of drusen",
    "retinal_thickness": "retinal thickness",
    "fovea_column": "place of the fovea",
    "tilt": "tilt",
}
POSITIONS = (-2.0, -1.0, 0.0, 1.0, 2.0)  # standard deviations of W where directions are tested
ENDS_RIGHT = 0.8  # share of scans whose ends must be in the right order
LITTLE = 0.5  # of a direction's own change, in standard deviations: what another measure may change
READABLE = 0.9  # share of the scans readable as drawn that the ruler must read at every position
ALIKE = 0.9  # cosine of what two directions do, for them to be one
FAINT = 1e-4  # variance of a component of W, as a share of the largest, below which it is none
FEWEST = 50  # scans on which a measure must be read, for a direction to be fitted to it
MOST_UNREADABLE = 0.5  # share of draws above which nothing can be fitted
SAME = 0.2  # a combination of unit slopes that is shorter, over the longest one, is noise
FOLDS, ALPHAS = 5, np.logspace(0, 5, 11)  # of the ridge regressions


@dataclass(frozen=True)
class Sample:
    """Draws of a generator: z and its styles w, both (N, latent), grain (N, size^2), scans uint8
    (N, 1, S, S) and, for every name of FAMILIES, what the ruler measures on them, (N,), NaN where
    it cannot."""

    z: np.ndarray
    w: np.ndarray
    grain: torch.Tensor
    scans: np.ndarray
    values: dict[str, np.ndarray]


@dataclass
class Directions:
    """Straight lines in W, for the one generator whose file of weights has ``weights_hash``.

    vectors (K, latent): one standard deviation of the styles along each. duals (K, latent): where
    along it a style lies, (w - mean) @ dual, in standard deviations. readers (K, latent): of a
    fitted direction, the linear reading of its measure, (w - mean) @ reader, in standard deviations
    of the measure; of a component, zero. explained (K,): the share of the measure's variance that
    the reading gets right on scans left out; of a component, its share of the variance of W.
    mean (latent,): of the styles. report: what ``accept`` found, by name.
    """

    names: list[str]
    vectors: np.ndarray
    duals: np.ndarray
    readers: np.ndarray
    explained: np.ndarray
    mean: np.ndarray
    weights_hash: str = ""
    report: dict = field(default_factory=dict)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.vectors[self.index(name)]

    def index(self, name: str) -> int:
        if name not in self.names:
            raise KeyError(f"no direction {name!r}; there are {', '.join(self.names)}")
        return self.names.index(name)

    @property
    def accepted(self) -> list[str]:
        return [name for name in self.names if self.report.get(name, {}).get("accepted")]

    def at(self, w: np.ndarray, name: str) -> np.ndarray:
        """Where styles w (..., latent) lie along a direction, in standard deviations: (...)."""
        return (w - self.mean) @ self.duals[self.index(name)]

    def put(self, w: np.ndarray, name: str, position: float) -> np.ndarray:
        """The same styles (..., latent), all moved to one place along a direction."""
        return w + (position - self.at(w, name))[..., None] * self[name]

    def save(self, path) -> None:
        """To a JSON file."""
        about = {name: value.tolist() if isinstance(value, np.ndarray) else value
                 for name, value in vars(self).items()}  # fmt: skip
        Path(path).write_text(json.dumps(about) + "\n")


def load_directions(path, generator=None) -> Directions:
    """Directions from their JSON file; of this ``generator``, if one is given.

    Raises FileNotFoundError that says how they are made, ValueError if they are of other weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no directions yet; notebook 07 fits them (fit, accept).")
    about = json.loads(path.read_text())
    found = Directions(**{name: np.array(value) if name not in ("names", "weights_hash", "report")
                          else value for name, value in about.items()})  # fmt: skip
    if generator is not None:
        check_weights(found, generator, path)
    return found


def check_weights(directions: Directions, generator, name="these directions") -> None:
    """ValueError if directions are of another generator; one that was never saved has no hash."""
    if getattr(generator, "weights_hash", "") not in ("", directions.weights_hash):
        raise ValueError(
            f"{name}: fitted to other weights than this generator's: a direction means nothing in "
            "another W. Fit again (notebook 07)."
        )


def needs_styles(generator) -> None:
    """ValueError for a generator that has no W to explore."""
    if not hasattr(generator, "styles"):
        raise ValueError(
            "this generator has no styles (it is no stylegan): train one with OCT_MODEL=stylegan "
            "or notebook 07."
        )


@torch.inference_mode()
def render(generator, styles: torch.Tensor, grain: torch.Tensor, batch=32) -> np.ndarray:
    """Scans uint8 (N, 1, S, S) of W+ (N, levels, latent) and grain (N, rows x size), or (1, ...).

    Aligned crops are placed back with the average shape, all with the same, so that what differs is
    what styles and grain differ in."""
    shapes = getattr(generator, "shapes", None)
    drawn = []
    for start in range(0, len(styles), batch):
        part = slice(start, start + batch)
        noise = grain if len(grain) == 1 else grain[part]
        scans = generator.draw(styles[part], noise)
        if shapes is not None:
            own = np.repeat(shapes.mean()[None], len(scans), 0)
            scans = scans.float().clamp(-1, 1).cpu().numpy()
            drawn.append(place_back(scans, own, max(256, generator.size))[:, None])
        else:
            drawn.append(at_size(scans, generator.size))
    return np.concatenate(drawn)


def read_measures(scans: np.ndarray, progress=False) -> dict[str, np.ndarray]:
    """The measures of FAMILIES, (N,) each, of scans (N, 1, S, S); a scan without drusen has drusen
    of height 0, one that the ruler cannot read is NaN throughout."""
    found = measure(scans, progress=progress)
    found = flat_without_drusen(found)
    return {name: found[name] for name in FAMILIES}


def draw_sample(generator, n: int, seed=0, *, class_name=None, progress=False) -> Sample:
    """n draws of a style-based generator, each with its own grain, and what the ruler reads.

    Raises ValueError if the generator has no styles, or if the ruler can read less than half of
    what it draws: to that of an untrained one, no direction can be fitted.
    """
    needs_styles(generator)
    device = next(generator.parameters()).device
    z = torch.cat(list(draw_noise(n, generator.z_dim, seed)))
    labels = ()
    if generator.classes:
        known, judged = generator.metadata["classes"], generator.metadata.get("class")
        class_name = class_name or (judged if judged in known else known[0])
        if class_name not in known:
            raise ValueError(f"class {class_name}: this generator draws {', '.join(known)}")
        labels = (torch.full((n,), known.index(class_name), device=device),)
    with torch.inference_mode():
        styles = generator.styles(z.to(device), *labels)
    grain = z[:, generator.latent :]
    scans = render(generator, styles, grain.to(device))
    values = read_measures(scans, progress)
    lost = np.isnan(values["tilt"]).mean()
    if lost > MOST_UNREADABLE:
        raise ValueError(
            f"the ruler can read {100 * (1 - lost):.0f} % of what this generator draws: it is "
            "untrained, or trained too briefly, for directions to be fitted. Train it for longer."
        )
    latent = z[:, : generator.latent].numpy()
    return Sample(latent, styles[:, 0].cpu().numpy(), grain, scans, values)


def linear(rows: np.ndarray, values: dict) -> dict[str, float]:
    """{measure: share of its variance that a ridge regression on rows (N, d) predicts for scans
    left out of it} (R^2, five folds; 0 or less: nothing), NaN where too few scans could be read."""
    found = {}
    for name, measured in values.items():
        known = np.isfinite(measured)
        y = measured[known]
        if len(y) < FEWEST or y.std() == 0:
            found[name] = np.nan
            continue
        guess = cross_val_predict(RidgeCV(ALPHAS), rows[known], y, cv=FOLDS)
        found[name] = float(1 - np.mean((y - guess) ** 2) / y.var())
    return found


def decided_by_style(generator, count=16, seed=0, *, class_name=None) -> dict[str, float]:
    """{measure: share of its variance that the style decides}; the rest is the grain's.

    Analysis of variance over ``count`` styles, each under ``count`` grains of its own: scans of one
    style that differ in a measure differ by their noise (and the ruler's error) alone.
    """
    drawn = draw_sample(generator, count, seed, class_name=class_name)
    device = next(generator.parameters()).device
    styles = torch.from_numpy(drawn.w).to(device)[:, None].repeat(1, generator.levels, 1)
    noise = torch.Generator().manual_seed(seed)
    read = []
    for w in styles:
        grain = torch.randn(count, generator.z_dim - generator.latent, generator=noise).to(device)
        read.append(read_measures(render(generator, w.expand(count, -1, -1), grain)))
    found = {}
    for name in FAMILIES:
        table = np.array([values[name] for values in read])  # styles, grains
        table = table[np.isfinite(table).sum(1) > 1]
        within = np.nanvar(table, axis=1, ddof=1).mean() if len(table) else np.nan
        between = np.var(_mean(table, 1), ddof=1) if len(table) > 1 else np.nan
        between = max(between - within / count, 0.0)
        found[name] = float(between / max(between + within, 1e-12))
    return found


def fit(sample: Sample, *, components=6, weights_hash="") -> Directions:
    """Candidates: a direction for every measure of FAMILIES, and the first ``components``.

    In coordinates u in which styles have unit variance in every direction, a measure's direction
    is its ridge regression's coefficients, less their part within the span of the other families'
    coefficients. Among all directions that leave those readings alone it changes its own the
    fastest per standard deviation (nearly: combinations of the others that are mostly noise stay).
    A measure that is read on fewer than FEWEST scans, or that never varies, has no direction; if
    that is all of them, ValueError.
    """
    mean = sample.w.mean(0)
    variances, axes = np.linalg.eigh(np.cov(sample.w.T))
    order = np.argsort(-variances)
    order = order[variances[order] > FAINT * variances[order[0]]]
    variances, axes = variances[order], axes[:, order]
    whiten, colour = axes / np.sqrt(variances), (axes * np.sqrt(variances)).T
    u = (sample.w - mean) @ whiten

    slopes = {}
    for name, values in sample.values.items():
        known = np.isfinite(values)
        if known.sum() >= FEWEST and values[known].std() > 0:
            y = (values[known] - values[known].mean()) / values[known].std()
            slopes[name] = RidgeCV(ALPHAS).fit(u[known], y).coef_
    if not slopes:
        raise ValueError(
            f"no measure could be read on {FEWEST} of {len(u)} scans: train longer or draw more."
        )
    units = []
    for name, slope in slopes.items():
        others = [s for k, s in slopes.items() if FAMILIES[k] != FAMILIES[name]]
        alone = slope
        if others:  # three measures of drusen have nearly one slope: how they differ is noise
            others = np.array([s / np.linalg.norm(s) for s in others])
            alone = slope - np.linalg.lstsq(others.T, slope, rcond=SAME)[0] @ others
        units.append(alone / np.linalg.norm(alone))
    components = min(components, len(order))
    units = np.concatenate([np.array(units), np.eye(len(order))[:components]])
    readers = np.zeros_like(units)
    readers[: len(slopes)] = list(slopes.values())
    straight = linear(u, {name: sample.values[name] for name in slopes})
    explained = [*straight.values(), *(variances / variances.sum())[:components]]
    return Directions(
        [*slopes, *(f"component {k + 1}" for k in range(components))],
        units @ colour, units @ whiten.T, readers @ whiten.T,
        np.array(explained), mean, weights_hash,
    )  # fmt: skip


def effects(generator, directions: Directions, base: Sample, *, progress=False) -> np.ndarray:
    """What the ruler reads when scans are put to each of POSITIONS along each direction:
    (directions, positions, scans, measures of FAMILIES). ``base``: scans not fitted to."""
    device = next(generator.parameters()).device
    grain = base.grain.to(device)
    read = []
    for name in tqdm(directions.names, desc="directions", disable=not progress):
        for position in POSITIONS:
            w = torch.from_numpy(directions.put(base.w, name, position).astype(np.float32))
            styles = w.to(device)[:, None].repeat(1, generator.levels, 1)
            values = read_measures(render(generator, styles, grain))
            read.append(np.stack([values[measure] for measure in FAMILIES], 1))
    return np.array(read).reshape(len(directions.names), len(POSITIONS), len(base.w), -1)


def accept(found: np.ndarray, directions: Directions, sample: Sample, errors: dict) -> dict:
    """{direction: verdict} of ``effects``; also written into ``directions.report``.

    sample: what they were fitted to. errors: the ruler's root mean square error of each measure
    (measures.true_layers.ruler_errors). Of a fitted direction, its own measure counts; of a
    component, the one that it changes most.

    changes: mean change from the first position to the last, by measure, in the measure's unit, NaN
    if no scan has it at both (a fovea, say);
    in_sd: the same in standard deviations of the measure over ``sample``. beyond_error: own change
    over the ruler's error (above 1). monotonic: the mean moves one way at every step. ends_right:
    share of scans whose ends are in that order (at least 0.8). others: largest change of a measure
    of another family, as a share of its own, both in standard deviations (at most 0.5). readable:
    share of scans whose own measure can be read at the worst position, over that of ``sample``
    (at least 0.9). accepted: all of them. All changes are means over scans: one that moves half of
    the scans one way and half the other counts as none.
    """
    measures = list(FAMILIES)
    spreads = np.array([np.nanstd(sample.values[name]) or np.nan for name in measures])
    for name, values in zip(directions.names, found, strict=True):
        ends = values[-1] - values[0]  # (scans, measures)
        changes = _mean(ends, 0)
        in_sd = changes / spreads
        own = (
            measures.index(name) if name in FAMILIES else int(np.nan_to_num(np.abs(in_sd)).argmax())
        )
        family = FAMILIES[measures[own]]
        steps = np.diff(_mean(values[:, :, own], 1)) * np.sign(changes[own])
        there = np.isfinite(values[:, :, own]).mean(1).min()
        others = [
            abs(np.nan_to_num(in_sd[k])) for k, m in enumerate(measures) if FAMILIES[m] != family
        ]
        moved = ends[:, own][np.isfinite(ends[:, own])]
        verdict = {
            "measure": measures[own],
            "changes": dict(zip(measures, changes.tolist())),
            "in_sd": dict(zip(measures, in_sd.tolist())),
            "beyond_error": float(abs(changes[own]) / errors[measures[own]]),
            "monotonic": bool((steps > 0).all()),
            "ends_right": float(_mean(moved * np.sign(changes[own]) > 0, 0)),
            "others": float(max(others) / max(abs(in_sd[own]), 1e-9)),
            "readable": float(there / max(np.isfinite(sample.values[measures[own]]).mean(), 1e-9)),
        }
        verdict["accepted"] = bool(
            verdict["beyond_error"] > 1
            and verdict["monotonic"]
            and verdict["ends_right"] >= ENDS_RIGHT
            and verdict["others"] <= LITTLE
            and verdict["readable"] >= READABLE
        )
        directions.report[name] = verdict
    return directions.report


def _mean(values, axis):
    """The mean of what is known, NaN where nothing is; numpy warns of that."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis) / known.sum(axis)


def returns(first: Directions, second: Directions, *more: Directions) -> dict[str, float]:
    """{accepted direction of ``first``: how alike its counterparts of other trainings are}.

    Two trainings have two spaces W, so vectors cannot be compared; what they do can. Of each other
    training, the largest cosine between what the direction changes and what a direction accepted
    there for the same measure changes, both in standard deviations of all measures; 0 if there is
    none. Fitted directions are held against fitted ones, components against components. The
    smallest over the trainings is the value. A direction returns if it is at least ALIKE. What is
    accepted changes mainly its own measure, so most of this is that it was accepted everywhere; the
    rest is that its side effects are alike.
    """

    def profile(directions, name):
        values = np.nan_to_num(list(directions.report[name]["in_sd"].values()))
        return values / np.linalg.norm(values)

    def best(name, other):
        alike = [abs(profile(first, name) @ profile(other, n)) for n in other.accepted
                 if other.report[n]["measure"] == first.report[name]["measure"]
                 and (n in FAMILIES) == (name in FAMILIES)]  # fmt: skip
        return max(alike, default=0.0)

    return {
        name: float(min(best(name, other) for other in (second, *more))) for name in first.accepted
    }

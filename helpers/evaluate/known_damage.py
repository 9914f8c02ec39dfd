"""Known damage, to see whether a measure notices: each takes and returns uint8 (N, 1, S, S)."""

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.cluster import KMeans

from helpers import plots
from helpers.measures import layers, texture
from helpers.measures.coverage import coverage_report
from helpers.measures.distances import kernel_distance
from helpers.measures.memorisation import memorisation_report

# which way a measure has to go (+1 up, -1 down) when real scans are damaged
EXPECTED = {
    "kernel distance": {"blurred": 1, "noise": 1, "one kind only": 1, "another class": 1},
    "precision": {"blurred": -1, "noise": -1},
    "coverage": {"blurred": -1, "noise": -1, "one kind only": -1},
    "speckle size, lateral": {"blurred": 1, "noise": -1},
    "fine detail, lateral": {"blurred": -1, "noise": 1},
    "drusen per scan": {"another class": -1},
    "copies, %": {"a fifth copied": 1},
}


def blur(images, sigma=3 / 224):
    """Gaussian blur of `sigma` picture widths: what an autoencoder or a long average does."""
    pixels = images.shape[-1] * sigma
    return gaussian_filter(images.astype(np.float32), (0, 0, pixels, pixels)).round().astype("u1")


def noise(images, strength=0.15, seed=0):
    """White noise of `strength` times the grey scale, which is not speckle."""
    rng = np.random.default_rng(seed)
    noisy = images + rng.normal(0, 255 * strength, images.shape)
    return noisy.clip(0, 255).round().astype("u1")


def drop_modes(images, features, kept=1, modes=6, seed=0):
    """As many images, but of `kept` of `modes` clusters only, repeated mirrored and shifted.

    features: rows (N, d) of the same images. What a collapsed generator does.
    """
    clusters = KMeans(modes, n_init=4, random_state=seed).fit_predict(features)
    largest = np.argsort(np.bincount(clusters))[::-1][:kept]
    left = np.flatnonzero(np.isin(clusters, largest))
    rng = np.random.default_rng(seed)
    drawn = images[rng.choice(left, len(images))]
    return np.stack([np.roll(image, rng.integers(-3, 4), axis=-1) for image in drawn])


def plant_copies(images, training, share, seed=0):
    """`share` of the images replaced by training scans: exact, mirrored, or shifted by a few px."""
    rng = np.random.default_rng(seed)
    planted, count = images.copy(), round(share * len(images))
    for i in rng.permutation(len(images))[:count]:
        copy = training[rng.integers(len(training))]
        copy = copy[..., ::-1] if rng.random() < 0.5 else copy
        planted[i] = np.roll(copy, rng.integers(-4, 5, 2), axis=(-2, -1))
    return planted


DISGUISES = {  # of a copy: none may hide it
    "as it is": lambda images: images,
    "flipped": lambda images: images[..., ::-1],
    "shifted": lambda images: np.roll(
        images, (images.shape[-2] // 20, images.shape[-1] // 12), (-2, -1)
    ),
    "blurred": blur,
    "noisy": lambda images: noise(images, 0.06),
    "flipped, shifted, blurred": lambda images: DISGUISES["shifted"](blur(images[..., ::-1])),
}


def disguised(images, count=60, seed=0):
    """{disguise: copies of up to `count` of the images (N, 1, S, S), the same ones each time}."""
    chosen = np.random.default_rng(seed).permutation(len(images))[:count]
    return {name: disguise(images[chosen]) for name, disguise in DISGUISES.items()}


def responses(real, features, *, other=None, seed=0, progress=True):
    """What every measure says of damaged real scans: damage -> measure -> value or None.

    real, other: objects with `training` and `test` Splits (`sides.Real`); other: of
    another class, NORMAL where that is wanted. Half of the training patients play the synthetic
    scans, the other half what a generator was trained on; all are compared with the test patients.
    """
    patients = np.unique(real.training.patients)
    half = np.isin(real.training.patients, np.random.default_rng(seed).permutation(patients)[::2])
    scans, trained = real.training.images[half], real.training.images[~half]
    sets = {
        "undamaged": scans,
        "blurred": blur(scans),
        "noise": noise(scans, seed=seed),
        "one kind only": drop_modes(scans, features(scans, progress), seed=seed),
        "a fifth copied": plant_copies(scans, trained, 0.2, seed),
    }
    if other is not None:
        sets["another class"] = other.training.images[: len(scans)]
    test = features(real.test.images, progress)
    yard = features(trained, progress)
    return {name: _response(images, trained, real.test, test, yard, features, progress)
            for name, images in sets.items()}  # fmt: skip


def _response(images, trained, unseen, test, yard, features, progress):
    rows = features(images, progress)
    kinds = coverage_report(rows, yard, test)["value"] or {"precision": None, "coverage": None}
    grain = texture.measure(images)
    anatomy = layers.measure(images)
    copies = memorisation_report(images, trained, unseen.images, unseen_patients=unseen.patients)
    share = copies["copied_share"]
    return {
        "kernel distance": kernel_distance(rows, test, None, unseen.patients),
        "precision": kinds["precision"],
        "coverage": kinds["coverage"],
        "speckle size, lateral": _middle(np.nanmedian, grain["speckle_lateral"]),
        "fine detail, lateral": _middle(np.nanmedian, grain["fine_detail_lateral"]),
        "drusen per scan": _middle(np.nanmean, anatomy["drusen_count"]),
        "copies, %": None if share is None else 100 * share,
    }


def _middle(of, values):
    return float(of(values)) if np.isfinite(values).any() else None


def response_figure(found, *, caption="", path=None):
    """`responses` as a table: dark where a measure went the way it has to, red where it did not."""
    damages, measures = list(found), list(EXPECTED)
    with plt.rc_context(plots.STYLE):
        size = (plots.WIDTH, 0.42 * len(measures) + 1.2)
        figure, axes = plt.subplots(figsize=size)
        for row, measure in enumerate(measures):
            for column, damage in enumerate(damages):
                value, before = found[damage][measure], found["undamaged"][measure]
                wanted = EXPECTED[measure].get(damage)
                text = "-" if value is None else f"{value:.3g}"
                colour, weight = plots.REAL, "normal"
                if wanted is not None and None not in (value, before):
                    right = wanted * (value - before) > 0
                    colour, weight = ("#1f7a3d" if right else "#c0202a"), "bold"
                axes.text(column, row, text, ha="center", va="center", color=colour, weight=weight)
        axes.set_xticks(range(len(damages)), damages)
        axes.set_yticks(range(len(measures)), measures)
        axes.set(xlim=(-0.6, len(damages) - 0.4), ylim=(len(measures) - 0.5, -0.5))
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return plots.finish(figure, caption, path)

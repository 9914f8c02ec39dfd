"""Every measure of texture moves the right way on known damage, and effect sizes are right."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, median_filter

from helpers.data.pixels import at_size
from helpers.data.simulated import oct_picture
from helpers.data.simulated.simulate import CONDITIONS, make_eye
from helpers.measures import texture
from helpers.measures.effects import compare, effect


def levels(images):
    return np.asarray(images).round().clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def scans():
    """Simulated scans of 24 patients, uint8 (N, 1, 256, 256)."""
    return np.stack([make_eye(seed, CONDITIONS[seed % 4]).oct for seed in range(24)])[:, None]


@pytest.fixture(scope="module")
def plain(scans):
    return texture.measure(scans)


def checkerboard(images, period, depth=0.04):
    wave = 1 + depth * np.where(np.arange(images.shape[-1]) % period < period / 2, 1, -1)
    return levels(images * wave * wave[:, None])


def blurred(images, sigma=1.0):
    return levels(gaussian_filter(images.astype(float), (0, 0, sigma, sigma)))


def noisy(images):
    return levels(images + np.random.default_rng(0).normal(0, 15, images.shape))


# damage -> what must rise and what must fall, in nearly every picture
DAMAGE = {
    "blur": (blurred, "speckle_axial speckle_lateral", "speckle_contrast fine_detail_axial "
             "fine_detail_lateral spectrum_slope_axial spectrum_slope_lateral vitreous_noise"),
    "noise": (noisy, "speckle_contrast fine_detail_axial fine_detail_lateral vitreous_noise "
              "spectrum_slope_axial spectrum_slope_lateral", "speckle_axial speckle_lateral"),
    "speckle removed": (lambda x: median_filter(x, (1, 1, 3, 3)), "speckle_axial speckle_lateral",
                        "speckle_contrast fine_detail_axial fine_detail_lateral"),
    "checkerboard of 2 px": (lambda x: checkerboard(x, 2), "checkerboard_2px", ""),
    "checkerboard of 4 px": (lambda x: checkerboard(x, 4), "checkerboard_4px", ""),
    "veil": (lambda x: levels(40 + 0.8 * x), "vitreous_level", "retina_contrast"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGE)
def test_known_damage_moves_the_measures_the_right_way(scans, plain, name):
    damage, rising, falling = DAMAGE[name]
    after = texture.measure(damage(scans))
    for measure in rising.split():
        assert (after[measure] > plain[measure]).mean() >= 0.9, measure
    for measure in falling.split():
        assert (after[measure] < plain[measure]).mean() >= 0.9, measure


def test_an_intact_scan_has_no_checkerboard_and_the_two_are_told_apart(scans, plain):
    assert np.median(plain["checkerboard_2px"]) == 0 and np.median(plain["checkerboard_4px"]) == 0
    assert np.median(texture.measure(blurred(scans, 2))["checkerboard_2px"]) == 0
    assert np.median(texture.measure(checkerboard(scans, 4))["checkerboard_2px"]) == 0
    assert np.median(texture.measure(checkerboard(scans, 2))["checkerboard_4px"]) == 0


def test_speckle_size_is_that_of_filtered_noise(scans):
    # the autocorrelation of a Gaussian filter of sigma s falls to one half at 2 s sqrt(ln 2)
    rng = np.random.default_rng(0)
    grain = gaussian_filter(rng.normal(size=(256, 256)), (2.0, 1.2))
    picture = 120 + 20 * grain / grain.std()
    axial, lateral, contrast = texture._speckle(picture, np.ones((256, 256), bool))
    assert axial == pytest.approx(4 * 2.0 * np.sqrt(np.log(2)), rel=0.1)
    assert lateral == pytest.approx(4 * 1.2 * np.sqrt(np.log(2)), rel=0.2)  # structure taken away
    assert contrast == pytest.approx(100 * 20 / 120, rel=0.15)


def test_shadows_are_counted_and_erased_vessels_missed(monkeypatch):
    draw = oct_picture.shade_vessels
    vessels = []

    def planted(grey, above, crossings, heights, x):
        draw(grey, above, [(place, 90.0) for place in vessels], heights, x)

    monkeypatch.setattr(oct_picture, "shade_vessels", planted)
    counts, truth = [], []
    for seed in range(24):
        vessels[:] = np.linspace(-2500, 2500, seed % 8) if seed % 8 > 1 else [900.0] * (seed % 8)
        picture = make_eye(seed, CONDITIONS[seed % 4]).oct[None, None]
        counts.append(texture.measure(picture)["shadow_count"][0])
        truth.append(seed % 8)
    counts, truth = np.array(counts), np.array(truth)
    assert np.corrcoef(counts, truth)[0, 1] > 0.7
    assert counts[truth >= 5].mean() > counts[truth == 0].mean() + 2
    assert counts[truth == 0].mean() < 3


def test_unusable_pictures_are_nan_and_left_out(scans, plain):
    rng = np.random.default_rng(0)
    strange = np.stack([np.zeros((256, 256)), np.full((256, 256), 200),
                        rng.normal(120, 25, (256, 256))])[:, None]  # fmt: skip
    found = texture.measure(levels(strange))
    assert all(np.isnan(values[:2]).all() for values in found.values())
    row = compare(plain, found)["shadow_count"]
    assert row["n_real"] == 24 and row["left_out_synthetic"] + row["n_synthetic"] == 3
    nothing = compare(plain, {name: np.full(3, np.nan) for name in plain})["speckle_axial"]
    assert nothing["effect"] is None and nothing["real_median"] is not None
    assert set(plain) == set(texture.MEASURES)


def test_cliffs_delta_and_its_interval():
    assert effect(np.zeros(5), np.ones(5))[0] == 1
    assert effect(np.arange(4), np.arange(4))[0] == 0
    assert effect(np.array([1.0, 3.0]), np.array([2.0]))[1:] == (None, None)
    rng = np.random.default_rng(0)
    delta = 2 * 0.76025 - 1  # of unit normals one apart: P(Y > X) = Phi(1 / sqrt 2)
    covered, widths = [], []
    for _ in range(100):
        people = rng.normal(0, 0.7, 20)
        ours = (people[:, None] + rng.normal(0, np.sqrt(1 - 0.49), (20, 6))).ravel()
        theirs = rng.normal(1, 1, 120)
        names = np.repeat(np.arange(20), 6)
        _, low, high = effect(ours, theirs, names, resamples=200)
        covered.append(low <= delta <= high)
        alone = effect(ours, theirs, resamples=200)
        widths.append((high - low) / (alone[2] - alone[1]))
    assert np.mean(covered) >= 0.86  # 95 % wanted; a bootstrap of 20 patients falls a little short
    assert np.mean(widths) > 1.3  # scans of one patient are not independent


def test_compare_has_a_floor_and_counts(scans, plain):
    half = {name: values[:12] for name, values in plain.items()}
    rest = {name: values[12:] for name, values in plain.items()}
    made = texture.measure(blurred(scans[:6]))
    table = compare(half, made, np.arange(12) // 2, training=rest, resamples=50)
    row = table["speckle_axial"]
    assert row["effect"] > 0.9 and row["low"] > 0.5 and row["n_synthetic"] == 6
    assert abs(row["floor"]) < 0.7 and row["floor_low"] <= row["floor"] <= row["floor_high"]
    assert row["synthetic_median"] > row["real_median"]


@pytest.mark.parametrize("size", (16, 18, 26, 27))
def test_pictures_of_few_pixels_are_measured(scans, size):
    found = texture.measure(at_size(scans[:2], size))
    assert np.isfinite(found["checkerboard_4px"]).all()

"""The truth of a simulated eye in the ruler's words, and the ruler's error against it."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.data.simulated.simulate import make_eye
from helpers.measures import true_layers as module
from helpers.measures.layers import MEASURES, measure
from helpers.measures.true_layers import (
    PIGMENT_UM,
    ruler_errors,
    true_layers,
    true_lift,
    true_measures,
)

SIZE = 128
DOWN = 15.0  # um per px of 128, so 7.5 um per px of 256


def constructed(*, tilt=0.0, lift_um=0.0, fovea=70.0, thickness=40.0):
    """The truth of an eye whose layers are straight but for what is lifted, 128 columns."""
    truth = make_eye(3, "NORMAL", size=SIZE).truth
    x = np.arange(SIZE)
    bm = 90 + tilt * (x - 63.5)
    rpe = np.zeros(SIZE) + PIGMENT_UM + lift_um
    rows = truth.rows | {"ILM": bm - thickness, "RPE": bm - rpe / DOWN, "BM": bm}
    return replace(
        truth, rows=rows, heights_um=truth.heights_um | {"RPE": rpe}, oct_fovea_column=fovea,
        oct_um_per_px=(46.875, DOWN),
    )  # fmt: skip


def bump(column, half, height):
    return height * np.clip(1 - ((np.arange(SIZE) - column) / half) ** 2, 0, 1)


def test_a_straight_retina_measures_as_it_was_made():
    found = true_measures(constructed(tilt=0.1))
    assert set(found) == set(MEASURES)
    assert found["retinal_thickness"] == pytest.approx(100 * 40 / SIZE)
    assert found["central_thickness"] == pytest.approx(100 * 40 / SIZE)
    assert found["thickness_spread"] == pytest.approx(0, abs=1e-9)
    assert found["tilt"] == pytest.approx(10) and found["curvature"] == pytest.approx(0, abs=1e-6)
    assert found["rpe_elevation_mean"] == pytest.approx(100 * PIGMENT_UM / DOWN / SIZE)
    assert found["fovea_column"] == pytest.approx(100 * 70.5 / SIZE)
    assert found["drusen_count"] == found["drusen_area"] == 0
    assert np.isnan(found["drusen_height"]) and np.isnan(found["fovea_depth"])
    assert true_measures(constructed(tilt=-0.1))["tilt"] == pytest.approx(-10)


def test_planted_drusen_are_counted_and_measured():
    lift = bump(30, 6, 60) + bump(95, 9, 90)
    truth = constructed(lift_um=lift)
    # 60 um are 8 px of 256; 256 columns see what 128 do
    assert true_lift(truth).shape == (256,)
    assert true_lift(truth).max() == pytest.approx(12, abs=0.05)
    assert true_lift(truth)[60:62] == pytest.approx([8, 8], abs=0.1)
    found, layers = true_measures(truth), true_layers(truth)
    assert found["drusen_count"] == 2
    assert [d.x for d in layers.drusen] == pytest.approx([30, 95], abs=0.6)
    assert [d.height for d in layers.drusen] == pytest.approx([4, 6], abs=0.05)  # px of 128
    assert [d.width for d in layers.drusen] == pytest.approx([12, 18], abs=1.5)
    assert found["drusen_height"] == pytest.approx(100 * 6 / SIZE, abs=0.05)
    area = 4 / 3 * (6 * 4 + 9 * 6)  # of two parabolas
    assert found["drusen_area"] == pytest.approx(100 * area / SIZE**2, rel=0.03)


def test_a_fovea_outside_the_scan_is_none():
    for column in (-0.5, SIZE + 3.0):
        layers = true_layers(constructed(fovea=column))
        assert layers.fovea is None and np.isnan(true_measures(constructed(fovea=column))[
            "fovea_column"])  # fmt: skip
    assert true_layers(constructed(fovea=20)).fovea == pytest.approx((20, 50))


def test_measures_of_simulated_eyes():
    for k in range(6):
        truth = make_eye(k, "NORMAL", size=256).truth
        assert np.abs(true_lift(truth)).max() < 1.5, k
        found = true_measures(truth)
        assert found["usable"] == 1 and found["drusen_count"] == 0
        thick = (truth.rows["BM"] - truth.rows["ILM"]).mean()
        assert found["retinal_thickness"] == pytest.approx(100 * thick / 256)
        downwards = truth.rows["BM"][-20:].mean() > truth.rows["BM"][:20].mean()
        assert (found["tilt"] > 0) == downwards
    sick = [true_measures(make_eye(k, "DRUSEN", grade=0.8).truth) for k in range(4)]
    assert all(row["drusen_count"] > 0 and row["drusen_height"] > 1 for row in sick)


def test_sizes_agree():
    large, small = (true_measures(make_eye(5, "DRUSEN", size=s, grade=0.6).truth)
                    for s in (256, 128))  # fmt: skip
    for name in ("retinal_thickness", "tilt", "fovea_column", "curvature"):
        assert small[name] == pytest.approx(large[name], abs=0.2), name
    assert small["drusen_count"] == large["drusen_count"] > 0
    assert small["drusen_height"] == pytest.approx(large["drusen_height"], rel=0.05)
    assert small["drusen_area"] == pytest.approx(large["drusen_area"], rel=0.05)


@pytest.fixture(scope="module")
def eyes():
    return [make_eye(700 + k, "DRUSEN", eye=("OD", "OS")[k % 2]) for k in range(12)]


def test_the_ruler_s_errors_are_small_beside_what_differs_between_eyes(eyes):
    errors = ruler_errors(eyes)
    assert set(errors) == set(MEASURES) and errors["usable"] == 0
    true = [true_measures(eye.truth) for eye in eyes]
    for name, share in (("retinal_thickness", 0.2), ("tilt", 0.2), ("fovea_column", 0.5)):
        spread = np.nanstd([row[name] for row in true])
        assert 0 < errors[name] < share * spread, name
    assert np.isnan(errors["fovea_depth"])  # not known of an eye
    alone = ruler_errors(eyes[:1])
    found, expected = measure([eyes[0].oct]), true[0]
    for name in ("retinal_thickness", "tilt", "drusen_area"):
        assert alone[name] == pytest.approx(abs(found[name][0] - expected[name]))


def test_errors_are_root_mean_squares_where_both_are_known(eyes, monkeypatch):
    true = [true_measures(eye.truth) for eye in eyes[:3]]
    shift = np.array([3.0, -4, np.nan])
    read = {name: np.array([row[name] for row in true]) + shift for name in MEASURES}
    monkeypatch.setattr(module, "measure", lambda scans: read)
    errors = ruler_errors(eyes[:3])
    for name in ("tilt", "retinal_thickness"):
        assert errors[name] == pytest.approx(np.sqrt((9 + 16) / 2))


def test_an_eye_that_cannot_be_read_does_not_count(eyes):
    noise = np.random.default_rng(0).integers(0, 256, eyes[0].oct.shape, dtype=np.uint8)
    lost = replace(eyes[3], oct=noise)
    with_it, without = ruler_errors([*eyes[:3], lost]), ruler_errors(eyes[:3])
    for name in set(MEASURES) - {"usable"}:
        assert with_it[name] == pytest.approx(without[name], nan_ok=True), name

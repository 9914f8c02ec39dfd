"""The simulated eye: its truth agrees with its pixels, and both pictures show one anatomy."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from helpers.data.simulated.anatomy import SURFACES
from helpers.data.simulated.simulate import CONDITIONS, make_eye


def make_eyes(seeds, condition, **settings):
    return [make_eye(seed, condition, **settings) for seed in seeds]


def brightest_row(scan, around, reach):
    """The brightest row of every column within `reach` rows of `around`, after some smoothing."""
    smooth = ndimage.gaussian_filter(scan.astype(float), (0.8, 2.5))
    rows = np.arange(scan.shape[0])[:, None]
    return np.argmax(np.where(np.abs(rows - around[None]) <= reach, smooth, -1), axis=0)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_the_rpe_is_where_the_truth_says(seed):
    eye = make_eye(seed, "NORMAL")
    middle = 0.5 * (eye.truth.rows["RPE"] + eye.truth.rows["BM"])
    error = brightest_row(eye.oct, middle, 30) - middle
    assert np.median(np.abs(error)) < 2.5


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_the_retina_begins_at_the_ilm(seed):
    eye = make_eye(seed, "NORMAL")
    smooth = ndimage.gaussian_filter(eye.oct.astype(float), (1, 4))
    columns = np.arange(20, 236)
    row = np.round(eye.truth.rows["ILM"]).astype(int)[columns]
    inside, outside = smooth[row + 4, columns], smooth[np.maximum(row - 5, 0), columns]
    assert np.mean(inside > outside) > 0.9


@pytest.mark.parametrize("condition", CONDITIONS)
def test_boundaries_are_in_order(condition):
    for eye in make_eyes(range(12), condition):
        heights = np.stack([eye.truth.heights_um[name] for name in SURFACES])
        assert np.all(np.diff(heights, axis=0) <= 0)
        assert np.all(heights[-1] == 0)
        rows = np.stack([eye.truth.rows[name] for name in SURFACES])
        assert np.allclose(
            np.diff(rows, axis=0) * eye.truth.oct_um_per_px[1], -np.diff(heights, axis=0)
        )


def test_normal_thickness_is_that_of_a_macula():
    eyes = make_eyes(range(40), "NORMAL")
    fovea = [np.interp(0, e.truth.x_um, e.truth.heights_um["ILM"]) for e in eyes]
    rim = [np.interp(1100, e.truth.x_um, e.truth.heights_um["ILM"]) for e in eyes]
    assert 190 < np.mean(fovea) < 260
    assert 300 < np.mean(rim) < 370


def biggest(eye, on_line):
    found = [s for s in eye.truth.lesions if s.kind == "druse" and s.on_line == on_line]
    found = [s for s in found if abs(s.x_um - eye.truth.x_um.mean()) < 2500]
    return max(found, key=lambda s: s.height_um)


def spot(eye, lesion, radius=2):
    """Mean colour (3,) of the DFE about a lesion."""
    column, row = eye.truth.dfe_pixel(lesion.x_um, lesion.y_um)
    column, row = int(round(float(column))), int(round(float(row)))
    patch = eye.dfe[row - radius : row + radius + 1, column - radius : column + radius + 1]
    return patch.reshape(-1, 3).mean(0)


@pytest.mark.parametrize("side", ["OD", "OS"])
@pytest.mark.parametrize("seed", [3, 8, 21])
def test_a_druse_on_the_line_is_in_both_modalities(seed, side):
    eye = make_eye(seed, "DRUSEN", eye=side, grade=0.9)
    without = make_eye(seed, "DRUSEN", eye=side, grade=0.9, oct_shows=0, dfe_shows=0)
    druse = biggest(eye, on_line=True)
    column = int(round(float(eye.truth.oct_column(druse.x_um))))
    here = slice(column - 1, column + 2)
    lift = (without.truth.rows["RPE"] - eye.truth.rows["RPE"])[here].mean()
    assert lift > 3
    assert np.allclose(eye.truth.rows["BM"], without.truth.rows["BM"])
    seen = brightest_row(eye.oct, eye.truth.rows["RPE"], 6)[here].mean()
    flat = brightest_row(without.oct, without.truth.rows["RPE"], 6)[here].mean()
    assert flat - seen > 0.4 * lift
    red, green, blue = spot(eye, druse) - spot(without, druse)
    assert red > 3 and green > 8
    assert green > blue  # yellowish


def test_a_druse_off_the_line_is_only_in_the_dfe():
    eye = make_eye(5, "DRUSEN", grade=0.9)
    without = make_eye(5, "DRUSEN", grade=0.9, dfe_shows=0)
    druse = biggest(eye, on_line=False)
    assert (spot(eye, druse) - spot(without, druse))[1] > 8
    on_line = [s for s in eye.truth.lesions if s.on_line]
    lifted = eye.truth.heights_um["RPE"] > eye.truth.heights_um["RPE"].min() + 8
    near = [np.abs(eye.truth.x_um - s.x_um) < 0.5 * s.width_um + 80 for s in on_line]
    assert not np.any(lifted & ~np.any(near, axis=0))


def digest(eye):
    parts = [eye.oct, eye.dfe, eye.truth.rows["ILM"].round(6), eye.truth.rows["RPE"].round(6)]
    return hashlib.sha256(b"".join(p.tobytes() for p in parts)).hexdigest()


@pytest.mark.slow
def test_same_seed_same_bytes_in_every_process():
    here = [digest(make_eye(11, condition, eye="OS", size=128)) for condition in CONDITIONS]
    assert here == [digest(make_eye(11, condition, eye="OS", size=128)) for condition in CONDITIONS]
    assert len(set(here)) == len(CONDITIONS)
    program = (
        "from test_simulate import *;"
        "print(*[digest(make_eye(11, c, eye='OS', size=128)) for c in CONDITIONS])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True,
        env={"PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(("tests", "."))},
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert answer.stdout.split() == here


def test_the_two_eyes_mirror_each_other_and_are_alike():
    far, near = [], []
    for seed in range(8):
        right, left = make_eye(seed, "NORMAL"), make_eye(seed, "NORMAL", eye="OS")
        other = make_eye(seed + 100, "NORMAL", eye="OS")
        x = np.linspace(-2400, 2400, 97)

        def thickness(eye, x):
            return np.interp(x, eye.truth.x_um, eye.truth.heights_um["ILM"])

        near.append(np.abs(thickness(right, x) - thickness(left, -x)).mean())
        far.append(np.abs(thickness(right, x) - thickness(other, -x)).mean())
        assert right.truth.dfe_disc[0] > right.truth.dfe_fovea[0]
        assert left.truth.dfe_disc[0] < left.truth.dfe_fovea[0]
        assert not np.array_equal(right.oct, left.oct[:, ::-1])
    assert 0 < np.mean(near) < 0.5 * np.mean(far)


@pytest.mark.slow
@pytest.mark.parametrize("condition", ["DRUSEN", "DME", "CNV"])
def test_the_two_eyes_of_a_patient_have_the_same_disease(condition):
    for seed in range(12):
        right, left = [make_eye(seed, condition, eye=e, size=64).truth for e in ("OD", "OS")]
        assert len(right.lesions) == len(left.lesions)
        pairs = list(zip(right.lesions, left.lesions, strict=True))
        assert all(a.kind == b.kind for a, b in pairs)
        assert np.median([abs(a.x_um + b.x_um) for a, b in pairs]) < 200
        assert right.lesions != left.lesions


def test_the_disc_lies_outside_the_scan():
    for eye in make_eyes(range(30), "NORMAL"):
        column, _ = eye.truth.dfe_disc
        disc = (column - eye.truth.dfe_fovea[0]) * eye.truth.dfe_um_per_px[0]
        assert disc - 0.5 * eye.truth.disc_um > eye.truth.x_um.max()


@pytest.mark.slow
@pytest.mark.parametrize("condition", ["DRUSEN", "DME", "CNV"])
def test_the_disease_shows_more_with_the_grade(condition):
    def change(grade):
        eyes = make_eyes(range(12), condition, grade=grade, size=128)
        sound = make_eyes(range(12), "NORMAL", size=128)
        differences = [
            (np.abs(a.oct - b.oct.astype(float)).mean(), np.abs(a.dfe - b.dfe.astype(float)).mean())
            for a, b in zip(eyes, sound, strict=True)
        ]
        return np.mean(differences, axis=0)

    subtle, plain = change(0.05), change(0.95)
    assert np.all(subtle > 0)
    assert np.all(plain > 1.3 * subtle)


@pytest.mark.parametrize("condition", ["DRUSEN", "DME", "CNV"])
def test_a_modality_can_be_made_to_show_nothing(condition):
    sound = make_eye(9, "NORMAL")
    assert np.array_equal(make_eye(9, condition, oct_shows=0).oct, sound.oct)
    shown = [make_eye(9, condition, grade=0.8, oct_shows=s, dfe_shows=s) for s in (0, 0.5, 1)]
    for picture in ("oct", "dfe"):
        none, half, full = [getattr(eye, picture).astype(float) for eye in shown]
        assert 0 < np.abs(half - none).mean() < np.abs(full - none).mean()


def test_every_size_shows_the_same_eye():
    large = make_eye(4, "DRUSEN", size=512, grade=0.9)
    for size in (64, 128, 256):
        small = make_eye(4, "DRUSEN", size=size, grade=0.9)
        assert small.oct.shape == (size, size) and small.dfe.shape == (size, size, 3)
        assert small.truth.lesions == large.truth.lesions
        rows = np.interp(small.truth.x_um, large.truth.x_um, large.truth.rows["ILM"])
        assert np.abs((rows + 0.5) / 512 - (small.truth.rows["ILM"] + 0.5) / size).max() < 0.01
        block = 512 // 64
        for a, b in ((small.oct, large.oct), (small.dfe[..., 1], large.dfe[..., 1])):
            a = a.reshape(64, size // 64, 64, size // 64).mean((1, 3))
            b = b.reshape(64, block, 64, block).mean((1, 3))
            assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.95


def test_a_wedge_is_there_only_when_asked_for():
    plain, rotated = make_eye(6, "NORMAL"), make_eye(6, "NORMAL", wedge=True)
    assert plain.truth.wedge is None
    assert 0 < rotated.truth.wedge.mean() < 0.35
    assert np.all(rotated.oct[rotated.truth.wedge] == 255)
    assert np.array_equal(rotated.oct[~rotated.truth.wedge], plain.oct[~rotated.truth.wedge])
    assert np.array_equal(rotated.dfe, plain.dfe)


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="NORMAL, DRUSEN, DME, CNV"):
        make_eye(0, "GLAUCOMA")
    with pytest.raises(ValueError, match="OD"):
        make_eye(0, "NORMAL", eye="left")
    with pytest.raises(ValueError, match="size=4"):
        make_eye(0, "NORMAL", size=4)
    with pytest.raises(ValueError, match="oct_shows"):
        make_eye(0, "NORMAL", oct_shows=2)


def test_a_picture_that_is_not_asked_for_is_not_drawn_and_the_other_stays():
    both = make_eye(8, "DRUSEN", size=64, wedge=True)
    for name, other in (("oct", "dfe"), ("dfe", "oct")):
        one = make_eye(8, "DRUSEN", size=64, wedge=True, pictures=[name])
        assert getattr(one, other) is None
        assert np.array_equal(getattr(one, name), getattr(both, name))
        assert np.array_equal(one.truth.rows["ILM"], both.truth.rows["ILM"])

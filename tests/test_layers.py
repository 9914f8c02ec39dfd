"""The ruler against simulated truth, hand-drawn retinas and pictures that are none."""

import numpy as np
import pytest

from helpers.data.pixels import resize
from helpers.data.simulated.simulate import make_eye
from helpers.measures.layers import MEASURES, SURFACES, find_drusen, measure, read_all, read_layers
from helpers.measures.surfaces import lower_envelope, shortest_paths
from helpers.measures.true_layers import true_layers
from helpers.plots import show_layers


def drawn(ilm=80, bm=140, drusen=(), pit=0, tilt=0.0, size=256, seed=0):
    """A retina drawn by hand: uint8 (256, 256), resized; drusen are (column, half width, height)"""
    x, row = np.arange(256), np.arange(256)[:, None]
    bm = bm + tilt * (x - 128)
    lift = np.zeros(256)
    for column, half, height in drusen:
        lift = np.maximum(lift, height * np.clip(1 - ((x - column) / half) ** 2, 0, 1))
    ilm = ilm + tilt * (x - 128) + pit * np.exp(-(((x - 128) / 22) ** 2))
    rpe = bm - 4 - lift
    grey = np.where(row < ilm, 25, 90) + np.where(row > rpe - 22, -45, 0)
    grey = np.where(row >= rpe, 190, grey)
    grey = np.where(row >= np.minimum(rpe + 4, bm), 110, grey)
    grey = np.where(row >= bm, 80 - 0.3 * (row - bm), grey)
    grey = grey + np.random.default_rng(seed).normal(0, 6, grey.shape)
    return resize(np.clip(grey, 0, 255).astype(np.uint8), size, size)


@pytest.mark.parametrize(
    ("condition", "rpe", "bm"),
    [("NORMAL", 0.6, 0.5), ("DRUSEN", 0.9, 0.6), ("DME", 0.8, 0.5), ("CNV", 2.0, 1.3)],
)
def test_surfaces_on_simulated_truth(condition, rpe, bm):
    eyes = [make_eye(400 + k, condition, eye=("OD", "OS")[k % 2]) for k in range(10)]
    layers = read_all([eye.oct for eye in eyes])
    assert all(read.usable for read in layers)
    for surface, bound in (("ILM", 0.4), ("RPE", rpe), ("BM", bm)):
        errors = [np.abs(r.rows[surface] - e.truth.rows[surface]) for r, e in zip(layers, eyes)]
        assert np.nanmean(errors) < bound, surface
    assert np.mean([np.isfinite(read.rows["RPE"]).mean() for read in layers]) > 0.95
    if condition in ("NORMAL", "DRUSEN"):
        away = [abs(r.fovea[0] - e.truth.oct_fovea_column) for r, e in zip(layers, eyes)]
        assert np.median(away) < 1.5 and max(away) < 6
    if condition == "NORMAL":
        assert np.mean([len(read.drusen) for read in layers]) < 0.5


@pytest.mark.parametrize(("size", "wedge"), [(64, False), (128, False), (512, False), (256, True)])
def test_sizes_and_wedges(size, wedge):
    eyes = [make_eye(500 + k, "NORMAL", size=size, wedge=wedge) for k in range(5)]
    for eye, read in zip(eyes, read_all([eye.oct for eye in eyes])):
        assert read.usable and read.shape == (size, size)
        for surface in SURFACES:
            assert read.rows[surface].shape == (size,)
        for surface, bound in (("ILM", 0.006), ("BM", 0.008)):  # shares of the height
            error = np.abs(read.rows[surface] - eye.truth.rows[surface])
            assert np.nanmean(error) < bound * size, surface


def test_tall_drusen_are_followed_to_their_top():
    """Their filling is bright, and a path along their base is the shorter one."""
    found = []
    for k in range(24):
        eye = make_eye(400 + k, "DRUSEN", grade=0.8, pictures=("oct",))
        um_x, um_y = eye.truth.oct_um_per_px
        read = read_layers(eye.oct)
        for druse in true_layers(eye.truth).drusen:
            if druse.height * um_y > 60:
                near = [d for d in read.drusen if abs(d.x - druse.x) * um_x < 150]
                found.append(max((d.height / druse.height for d in near), default=0))
    assert len(found) > 15
    assert np.mean(np.array(found) > 0.6) > 0.8


def test_flat_retina():
    read = read_layers(drawn(tilt=0.1))
    x = np.arange(256)
    for surface, row, bound in (("ILM", 79.5, 0.6), ("RPE", 135.5, 1.0), ("BM", 139.5, 0.6)):
        error = np.abs(read.rows[surface] - row - 0.1 * (x - 128))
        assert error.mean() < bound, surface
    assert read.tilt == pytest.approx(0.1, abs=0.01)
    assert read.drusen == [] and read.fovea is None
    assert read.thickness.mean() == pytest.approx(60, abs=1)


def test_planted_drusen_and_fovea():
    planted = [(60, 12, 9), (165, 8, 6), (205, 18, 12)]
    read = read_layers(drawn(drusen=planted, pit=25))
    assert len(read.drusen) == 3
    for druse, (column, half, height) in zip(read.drusen, planted):
        assert druse.x == pytest.approx(column, abs=2.5)
        assert druse.height == pytest.approx(height, abs=2)
        assert druse.width == pytest.approx(2 * half, abs=6)
        assert druse.area == pytest.approx(4 / 3 * half * height, rel=0.3)
    assert read.fovea[0] == pytest.approx(128, abs=2)
    assert read.fovea[1] == pytest.approx(104.5, abs=2)
    assert read.fovea_depth == pytest.approx(25, abs=4)
    twice = read_layers(drawn(drusen=planted, pit=25, size=512))
    assert [d.height for d in twice.drusen] == pytest.approx(
        [2 * d.height for d in read.drusen], abs=1.5
    )


def test_drusen_on_simulated_truth():
    found, true = [], []
    for k in range(12):
        eye = make_eye(600 + k, "DRUSEN", grade=0.5)
        scale = eye.truth.oct_um_per_px[1]
        lift = (eye.truth.heights_um["RPE"] - 21) / scale
        true.append(sum(d.area for d in find_drusen(lift)))
        found.append(sum(d.area for d in read_layers(eye.oct).drusen))
    assert np.corrcoef(found, true)[0, 1] > 0.75
    assert np.sum(found) == pytest.approx(np.sum(true), rel=0.3)


def test_separate_and_merged_drusen():
    x = np.arange(256)
    far = 10 * np.exp(-(((x - 80) / 8) ** 2)) + 6 * np.exp(-(((x - 110) / 8) ** 2))
    near = 10 * np.exp(-(((x - 80) / 8) ** 2)) + 6 * np.exp(-(((x - 92) / 8) ** 2))
    assert [round(d.x) for d in find_drusen(far)] == [80, 110]
    assert len(find_drusen(near)) == 1
    assert find_drusen(np.full(256, 0.5)) == []


def test_what_is_no_retina_is_not_usable():
    rng = np.random.default_rng(0)
    pictures = [
        rng.integers(0, 256, (128, 128), dtype=np.uint8),
        np.zeros((64, 64), np.uint8),
        np.full((200, 100), 255, np.uint8),
        np.tile(np.linspace(0, 255, 128).astype(np.uint8)[:, None], (1, 128)),
        np.full((64, 64), np.nan, np.float32),
        rng.normal(0, 1, (1, 96, 96)).astype(np.float32),
        drawn()[::-1],  # upside down
        drawn().T,
    ]
    for k, read in enumerate(read_all(pictures)):
        assert not read.usable and read.reason, k
        assert read.drusen == [] and read.fovea is None
        assert all(np.isnan(read.rows[surface]).all() for surface in SURFACES)
    values = measure(pictures)
    assert (values["usable"] == 0).all() and np.isnan(values["retinal_thickness"]).all()
    assert not read_layers(drawn()[95:]).usable  # the ILM lies above the picture
    with pytest.raises(ValueError, match="B-scan"):
        read_layers(np.zeros((3, 64, 64), np.uint8))


def test_float_uint8_and_batches_agree():
    pictures = np.stack([drawn(drusen=[(100, 10, 8)], seed=k) for k in range(3)])
    whole = measure(pictures[:, None])
    floats = measure(pictures[:, None].astype(np.float32) / 127.5 - 1)
    single = measure([pictures[1]])
    assert list(whole) == list(MEASURES)
    for name in MEASURES:
        np.testing.assert_allclose(whole[name], floats[name], err_msg=name)
        np.testing.assert_allclose(whole[name][1], single[name][0], rtol=1e-4, err_msg=name)


def test_mirrored_picture_gives_mirrored_layers():
    eye = make_eye(7, "DRUSEN", grade=0.6)
    one, other = read_all([eye.oct, eye.oct[:, ::-1]])
    for surface in SURFACES:
        difference = np.abs(one.rows[surface] - other.rows[surface][::-1])
        assert np.nanmean(difference) < 0.1, surface
    assert [d.x for d in one.drusen] == pytest.approx([255 - d.x for d in other.drusen][::-1])
    assert one.tilt == pytest.approx(-other.tilt, abs=1e-3)
    assert one.fovea[0] == pytest.approx(255 - other.fovea[0], abs=1.5)


def test_measures_move_the_right_way():
    flat, thick, sick = (
        {name: value[0] for name, value in measure([picture]).items()}
        for picture in (drawn(), drawn(ilm=60), drawn(drusen=[(70, 14, 10), (180, 10, 8)]))
    )
    assert thick["retinal_thickness"] - flat["retinal_thickness"] == pytest.approx(7.8, abs=0.5)
    assert flat["drusen_count"] == 0 and sick["drusen_count"] == 2
    assert np.isnan(flat["drusen_height"]) and 3 < sick["drusen_height"] < 5
    for name in ("drusen_area", "rpe_elevation_mean", "rpe_elevation_max", "rpe_roughness"):
        assert sick[name] > 1.2 * flat[name], name


def test_shortest_path_and_envelope():
    cost = np.ones((1, 20, 30), np.float32)
    truth = np.round(10 + 5 * np.sin(np.arange(30) / 8)).astype(int)
    cost[0, truth, np.arange(30)] = 0
    assert (shortest_paths(cost, 2, 0.01)[0] == truth).all()
    x = np.arange(256.0)
    curve = 150 + 0.1 * x - 0.001 * (x - 128) ** 2
    path = curve - 12 * np.exp(-(((x - 90) / 12) ** 2)) - 8 * np.exp(-(((x - 190) / 9) ** 2))
    assert np.abs(lower_envelope(path, np.ones(256)) - curve).max() < 0.6


def test_figure(tmp_path):
    pictures = np.stack([drawn(drusen=[(100, 10, 8)], pit=20), np.zeros((256, 256), np.uint8)])
    figure = show_layers(
        pictures[:, None], read_all(pictures), ["a", "b"], path=tmp_path / "layers.png"
    )
    assert len(figure.axes) == 2 and len(figure.axes[0].lines) == 4
    assert "no layers" in figure.axes[1].texts[0].get_text()
    assert (tmp_path / "layers.png").exists()

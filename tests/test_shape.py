"""Align, draw, place back."""

import numpy as np
import pytest

from helpers.data import shape
from helpers.data.pixels import at_size, resize
from helpers.data.simulated import simulate
from helpers.measures import layers


@pytest.fixture(scope="module")
def eyes():
    return [
        simulate.make_eye(seed, condition, size=256, pictures=("oct",))
        for condition in ("DRUSEN", "NORMAL")
        for seed in range(12)
    ]


@pytest.fixture(scope="module")
def aligned(eyes):
    crops, shapes = zip(*(shape.align(eye.oct, 128, 128) for eye in eyes))
    return np.stack(crops)[:, None], np.stack(shapes)


def test_the_rpe_is_level_and_the_retina_has_one_size(eyes, aligned):
    crops, shapes = aligned
    row = shape.ABOVE / (shape.ABOVE + shape.BELOW) * 128
    for eye, values in zip(eyes, shapes):
        thick = values[shape.AT["thickness"]] * 256
        rpe = np.polynomial.legendre.legval(np.linspace(-1, 1, 256), values[shape.CURVE] * 256)
        bm = eye.truth.rows["BM"]
        assert np.abs(bm - rpe).mean() < 7  # of 256 px, the RPE's own height among them
        ilm = (eye.truth.rows["ILM"] - rpe) / thick  # in thicknesses above the RPE
        assert ilm.min() > -shape.ABOVE and -1.4 < np.median(ilm) < -0.6
    brightest = crops[12:, 0].mean((0, 2)).argmax()  # of healthy eyes, the row of RPE and EZ
    assert abs(brightest - row) < 8


def test_black_and_white_are_set_for_every_device(aligned):
    low, high = np.percentile(aligned[0], (shape.DARK, shape.BRIGHT), axis=(1, 2, 3))
    assert np.abs(low - shape.BLACK).max() <= 1 and np.abs(high - shape.WHITE).max() <= 2


def test_placed_back_with_its_own_shape_a_scan_is_what_it_was(eyes, aligned):
    back = shape.place_back(*aligned, 256)
    scans = np.stack([eye.oct for eye in eyes])
    for scan, other, eye in zip(scans, back, eyes):
        rows = np.arange(256)[:, None]
        retina = (rows > eye.truth.rows["ILM"]) & (rows < eye.truth.rows["BM"])
        error = np.abs(scan.astype(float) - other)
        assert error[retina].mean() < 0.12 * scan[retina].mean()
        assert abs(scan[~retina].mean() - other[~retina].mean()) < 6
    found = [layers.measure(images[:12, None]) for images in (scans, back)]  # eyes with drusen
    counts = [values["drusen_count"].mean() for values in found]
    assert counts[0] > 1.5 and abs(counts[1] / counts[0] - 1) < 0.25


def test_texture_does_not_find_the_seam(eyes, aligned):
    """Rows of background just beyond the crop are as bright and as grainy as a scan's own."""
    crops, shapes = aligned
    back = shape.place_back(crops, shapes, 256)
    for side in ("over", "under"):
        jumps, grains = [], []
        for scans in (np.stack([eye.oct for eye in eyes]), back):
            jump, grain = [], []
            for scan, values in zip(scans.astype(float), shapes):
                thick = values[shape.AT["thickness"]] * 256
                curve = values[shape.CURVE] * 256
                rpe = np.polynomial.legendre.legval(np.linspace(-1, 1, 256), curve)
                away = (np.arange(256)[:, None] - rpe) / thick
                edge = -shape.ABOVE if side == "over" else shape.BELOW
                inside, outside = (
                    scan[np.abs(away - edge - shift) < 0.12] for shift in (-0.2, 0.2)
                )
                if min(inside.size, outside.size) > 300:
                    jump.append(outside.mean() - inside.mean())
                    grain.append(outside.std() / inside.std())
            jumps.append(jump)
            grains.append(grain)
        assert np.abs(np.subtract(*jumps)).mean() < 3  # grey levels
        assert np.abs(np.subtract(*grains)).mean() < 0.25


def test_background_is_not_repeated(aligned):
    crops, shapes = aligned
    vitreous = shape.place_back(crops[:1], shapes[:1], 256)[0, :40].astype(float)
    vitreous -= vitreous.mean()
    likeness = np.fft.irfft2(np.abs(np.fft.rfft2(vitreous)) ** 2, s=vitreous.shape)
    likeness /= likeness[0, 0]
    likeness[:5, :5] = likeness[-4:, :5] = likeness[:5, -4:] = likeness[-4:, -4:] = 0
    assert likeness.max() < 0.15


def test_drawn_shapes_are_like_those_they_come_from_and_nobodys():
    rng = np.random.default_rng(0)
    values = np.tile(rng.normal(size=len(shape.FIELDS)), (400, 1)).astype(np.float32)
    smooth = len(shape.SMOOTH)
    values[:, :smooth] = rng.normal(0, 1, (400, smooth)) @ rng.normal(size=(smooth, smooth)) * 0.01
    values[:, shape.AT["place"]] += 0.5
    values[:, shape.AT["thickness"]] += 0.2
    values[:, shape.AT["white"]] += 200
    values[:, shape.AT["noise"]] += 6
    model = shape.Shapes(values, ["A"] * 400)
    drawn = model.draw(2000, "A", seed=1)[:, :smooth]
    own = values[:, :smooth]
    spread = own.std(0)
    assert np.abs((drawn.mean(0) - own.mean(0)) / spread).max() < 0.15
    assert np.abs(drawn.std(0) / spread - 1).max() < 0.15
    likeness = [np.corrcoef(side, rowvar=False) for side in (own, drawn)]
    assert np.abs(np.subtract(*likeness)).max() < 0.15
    nearest = [np.abs((own - one) / spread).mean(1).min() for one in drawn[:50]]
    assert min(nearest) > 0.05  # in standard deviations, of the numbers' mean


def test_a_drawn_shape_holds_the_speckle_of_no_single_scan(aligned):
    taken = slice(len(shape.SMOOTH) + 2, None)  # after height and width
    drawn = shape.Shapes(aligned[1], ["A"] * 24).draw(40, "A")[:, taken]
    away = np.abs(drawn[:, None] - aligned[1][None, :, taken]).max(2)
    assert away.min() > 1e-3
    assert set(map(tuple, aligned[1][:, shape.SIZE])) == {(256.0, 256.0)}


def test_a_row_of_shapes_depends_on_seed_and_place_alone(aligned):
    model = shape.Shapes(aligned[1], ["DRUSEN"] * 12 + ["NORMAL"] * 12)
    few, many = model.draw(2, "DRUSEN", seed=3), model.draw(5, "DRUSEN", seed=3)
    assert np.array_equal(few, many[:2])
    assert not np.array_equal(few, model.draw(2, "DRUSEN", seed=4))
    whole = shape.place_back(aligned[0][:3], many[:3], 256, seed=5)
    assert np.array_equal(whole[2:], shape.place_back(aligned[0][2:3], many[2:3], 256, 5, first=2))


@pytest.mark.parametrize("size", (128, 256, 512))
def test_whole_scans_have_any_size(aligned, size):
    scans = shape.place_back(aligned[0][:2], aligned[1][:2], size)
    assert scans.shape == (2, size, size) and scans.dtype == np.uint8
    small = at_size(scans[:, None], 64).astype(float)
    usual = at_size(shape.place_back(aligned[0][:2], aligned[1][:2], 256)[:, None], 64)
    assert np.abs(small - usual).mean() < 4


def test_a_picture_without_rpe_is_refused_in_words():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="no RPE found"):
        shape.align(rng.integers(0, 60, (256, 256)).astype(np.uint8), 128, 128)
    rows = np.linspace(0, 255, 256)[:, None]
    wandering = 128 + 110 * np.sin(np.linspace(0, 7 * np.pi, 256))
    waves = (200 * np.exp(-(((rows - wandering) / 4) ** 2))).astype(np.uint8)
    with pytest.raises(ValueError, match="no RPE found"):
        shape.align(waves, 128, 128)


def test_too_few_shapes_are_named(aligned):
    with pytest.raises(ValueError, match="2 scan"):
        shape.Shapes(aligned[1][:2], ["DRUSEN"] * 2)
    with pytest.warns(UserWarning, match="NORMAL: 1 scan"):
        model = shape.Shapes(aligned[1][:13], ["DRUSEN"] * 12 + ["NORMAL"])
    assert model.draw(3, "NORMAL").shape == (3, len(shape.FIELDS))


def test_compare_has_the_floor_beside_it(aligned):
    model = shape.Shapes(aligned[1], ["A"] * 24)
    found = shape.compare(model.draw(50, "A"), aligned[1][:12], aligned[1][12:])
    assert set(shape.LOOK) < set(found)
    assert all(0 <= value <= 1 for both in found.values() for value in both)


def test_too_few_pixels_are_refused_in_words():
    eye = simulate.make_eye(3, "DRUSEN", size=512, pictures=("oct",))
    with pytest.raises(ValueError, match="too few pixels of the retina"):
        shape.align(resize(eye.oct, 16, 16), 128, 128)

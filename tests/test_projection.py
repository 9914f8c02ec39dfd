"""Scans into W+: which are refused, whether the styles that come nearest are found, and edits."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import Thumbnails

from helpers.data.simulated.simulate import make_eye
from helpers.gan import residual, stylegan
from helpers.gan.styles import projection
from helpers.gan.styles.directions import FAMILIES, Directions, Sample, render
from helpers.gan.styles.projection import (
    Projector,
    check_scan,
    lines_up,
    moved,
    readings,
    same_anatomy,
)

LATENT, SIZE = 8, 256
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def eye():
    return make_eye(4, "NORMAL", size=SIZE)


# --- what is refused, and in which words


def test_a_scan_is_taken_in_every_form_that_generators_and_files_have(eye):
    expected = check_scan(eye.oct, SIZE)
    assert expected.dtype == np.uint8 and (expected == eye.oct).all()
    floats = eye.oct.astype(np.float32) / 127.5 - 1
    for form in (eye.oct[None], floats, floats[None], torch.from_numpy(floats)):
        assert (check_scan(form, SIZE) == eye.oct).all() and check_scan(form, SIZE).dtype == "u1"
    assert (check_scan(np.where(eye.oct == eye.oct.max(), 9.0, floats), SIZE) <= 255).all()


def framed(eye):
    return np.pad(eye.oct[20:-20, 20:-20], 20, constant_values=255)


def pale(eye):
    """The photograph in grey, without the black around its field of view."""
    grey = eye.dfe.mean(2).astype(np.uint8)
    return np.where(grey < 20, np.uint8(90), grey)


REFUSED = {
    "another size": (lambda eye: eye.oct[:, :128], "128 x 256 px.*draws 256 x 256.*clean_oct"),
    "half the size": (lambda eye: eye.oct[::2, ::2], "128 x 128 px.*clean_oct.*size=256"),
    "a frame": (framed, "white padding.*clean_oct"),
    "grey in the last of three channels": (
        lambda eye: np.repeat(eye.oct[:, :, None], 3, 2), "grey scan saved in three channels"
    ),
    "grey in the first of three channels": (
        lambda eye: np.repeat(eye.oct[None], 3, 0), "grey scan saved in three channels"
    ),
    "grey floats in three channels": (
        lambda eye: np.repeat(eye.oct[None] / 127.5 - 1, 3, 0), "grey scan saved in three channels"
    ),
    "a colour photograph": (lambda eye: eye.dfe, "colour picture.*fundus photograph.*B-scan"),
    "a colour photograph of floats": (
        lambda eye: eye.dfe.transpose(2, 0, 1) / 127.5 - 1, "colour picture"
    ),
    "a grey photograph": (pale, "finds no retina.*fundus photograph"),
    "noise": (
        lambda eye: np.random.default_rng(0).integers(1, 230, eye.oct.shape, "u1"), "no retina"
    ),
    "upside down": (lambda eye: eye.oct[::-1], "no retina"),
    "two scans": (lambda eye: np.stack([eye.oct, eye.oct]), r"not \(2, 256, 256\)"),
    "one row": (lambda eye: eye.oct[0], r"not \(256,\)"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_no_clean_scan_of_this_size_is_refused_in_words(eye, fault):
    make, words = REFUSED[fault]
    with pytest.raises(ValueError, match=f"patient 7: .*{words}"):
        check_scan(make(eye), SIZE, "patient 7")


def test_a_white_wedge_is_refused_with_its_share():
    wedged = make_eye(4, "NORMAL", size=SIZE, wedge=True)
    share = 100 * wedged.truth.wedge.mean()
    with pytest.raises(ValueError, match="% of it is white padding.*a wedge") as error:
        check_scan(wedged.oct, SIZE)
    said = float(str(error.value).split("scan: ")[1].split(" %")[0])
    assert abs(said - share) < 6  # and its blurred edge


# --- finding styles


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    generator = stylegan.Generator(64, LATENT, width=4).eval().requires_grad_(False)
    generator.finest.bias[1:] = -4.0  # speckle is faint
    for layer in (*generator.to_image, generator.finest):
        layer.gain *= 2  # pictures differ as scans do
    return generator


def draws(generator, count, seed):
    z = torch.randn(count, LATENT, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        styles = generator.styles(z)
    return styles, render(generator, styles, torch.zeros(1, 64**2))


@pytest.fixture(scope="module")
def projector(generator):
    styles, scans = draws(generator, 200, seed=1)
    return Projector(generator, Sample(None, styles[:, 0].numpy(), None, scans, {}), Thumbnails())


@pytest.fixture(autouse=True)
def anything_goes(request, monkeypatch):
    """An untrained generator draws no retinas: the tests of projecting do not ask for them."""
    if "projector" in request.fixturenames:
        monkeypatch.setattr(projection, "check_scan", lambda scan, size, name="": scan[0])


@pytest.fixture(scope="module")
def goals(generator):
    """Scans that styles of W draw, and the mean of cells of 4 px that are compared."""
    return draws(generator, 3, seed=2)[1]


@pytest.fixture(scope="module")
def found(projector, goals):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection, "check_scan", lambda scan, size, name="": scan[0])
        return {
            "guess": projector(goals, steps=0),
            "W": projector(goals, steps=80, plus=False),
            "W+": projector(goals, steps=80),
        }


def away(one, other):
    """Root mean square difference of cells of 4 px, in grey levels."""
    return ((F.avg_pool2d(one, 4) - F.avg_pool2d(other, 4)) * 127.5).square().mean((1, 2, 3)).sqrt()


def test_a_projection_is_nearer_than_the_guess_and_than_to_any_other_scan(found, goals, generator):
    scans = torch.from_numpy(goals) / 127.5 - 1
    for name, one in found.items():
        assert one.styles.shape == (3, generator.levels, LATENT), name
        assert one.scans.shape == (3, 1, 64, 64) and one.scans.abs().max() <= 1
        torch.testing.assert_close(torch.from_numpy(one.error), away(one.scans, scans))
        drawn = generator.draw(one.styles, torch.zeros(1, 64**2)).clamp(-1, 1)
        torch.testing.assert_close(one.scans, drawn, rtol=0, atol=1e-3)
    assert (found["W"].error < 0.7 * found["guess"].error).all()
    others = [away(found["W"].scans, scans.roll(k, 0)).numpy() for k in (1, 2)]
    assert (found["W"].error < 0.5 * np.minimum(*others)).all()


def test_the_guess_is_nearer_than_the_mean_style(found, goals, projector, generator):
    mean = projector.mean.expand(3, generator.levels, -1)
    drawn = generator.draw(mean, torch.zeros(1, 64**2)).clamp(-1, 1)
    at_mean = away(drawn, torch.from_numpy(goals) / 127.5 - 1).numpy()
    assert found["guess"].error.mean() < 0.8 * at_mean.mean()


def test_w_has_one_style_for_all_levels_and_w_plus_comes_as_near(found):
    for name in ("guess", "W"):
        styles = found[name].styles
        torch.testing.assert_close(styles, styles[:, :1].expand_as(styles))
    styles = found["W+"].styles
    assert ((styles - styles.mean(1, keepdim=True)).abs().amax((1, 2)) > 0.01).all()
    assert (found["W+"].error <= found["W"].error + 4).all()  # grey levels


def test_w_plus_draws_what_no_single_style_does(projector, generator):
    styles = torch.stack([draws(generator, 2, seed=k)[0][:, 0] for k in range(5)], 1)
    scans = render(generator, styles, torch.zeros(1, 64**2))
    single, plus = (projector(scans, steps=80, plus=plus, apart=0.01) for plus in (False, True))
    assert (plus.error < 0.8 * single.error).all()


def test_projections_are_the_same_every_time_and_whoever_is_beside(projector, goals):
    first = projector(goals, steps=20)
    torch.manual_seed(99)
    assert torch.equal(projector(goals, steps=20).styles, first.styles)
    alone = projector(goals[1:2], steps=20)
    torch.testing.assert_close(alone.styles, first.styles[1:2], rtol=0, atol=0.02)


def test_a_higher_price_keeps_styles_likely_and_levels_together(projector, goals):
    bound = projector(goals, steps=40, anchor=30, apart=30)
    free = projector(goals, steps=40, anchor=0, apart=0)
    assert (bound.distance < 0.5 * free.distance).all() and (bound.error > free.error).all()

    def spread(one):
        return (one.styles - one.styles.mean(1, keepdim=True)).square().mean().sqrt()

    assert spread(bound) < 0.3 * spread(free)


def test_the_distance_of_a_draw_is_about_one(projector, generator):
    """Whitened by the draws that it was given: root mean square 1 over all of them."""
    styles, _ = draws(generator, 200, seed=1)
    place = (styles[:, 0] - projector.mean) @ projector.whiten
    assert place.square().mean() == pytest.approx(1, abs=0.01)
    torch.testing.assert_close(projector.mean + place @ projector.colour, styles[:, 0])
    _, scans = draws(generator, 1, seed=1)
    guessed = projector(scans, steps=0)
    place = (guessed.styles[0, 0] - projector.mean) @ projector.whiten
    assert guessed.distance[0] == pytest.approx(place.square().mean().sqrt().item(), rel=1e-3)


def test_speckle_is_not_what_is_compared(projector, generator):
    smooth = draws(generator, 1, seed=3)[1].clip(30, 225)
    strength = np.random.default_rng(0).integers(0, 30, (32, 32)).repeat(2, 0).repeat(2, 1)
    board = 1 - 2 * (np.indices((64, 64)).sum(0) % 2)  # nothing is left of it in cells of 2 px
    rough = (smooth + strength * board).astype("u1")
    clean, other = (projector(scans, steps=30) for scans in (smooth, rough))
    torch.testing.assert_close(clean.styles, other.styles, rtol=0, atol=0.01)
    assert clean.error == pytest.approx(other.error, abs=0.1)


def test_what_is_refused_is_named_by_its_number(generator, eye):
    w, scans = np.random.default_rng(0).normal(size=(9, LATENT)), np.zeros((9, 1, 64, 64), "u1")
    sample = Sample(None, w, None, scans, {})
    strict = Projector(generator, sample, Thumbnails())
    good = make_eye(4, "NORMAL", size=64).oct
    with pytest.raises(ValueError, match="scan 1: .*no retina"):
        strict(np.stack([good, good[::-1]])[:, None])
    other = residual.Generator(64, LATENT, width=2)
    with pytest.raises(ValueError, match="no styles"):
        Projector(other, sample, Thumbnails())


# --- edits and readings


def make_directions():
    """Tilt and thickness along two axes of W; a component along a third."""
    vectors = np.diag([2.0, 3, 4])
    return Directions(["tilt", "component 1", "retinal_thickness"], vectors, vectors,
                      np.array([[1.0, 0, 0], [0, 0, 0], [0, 0.5, 2]]), np.zeros(3),
                      np.array([10.0, 20, 30]))  # fmt: skip


def test_an_edit_moves_every_level_by_the_sum_of_its_steps():
    styles = torch.randn(2, 5, 3)
    edited = moved(styles, make_directions(), {"tilt": 1.5, "component 1": -1})
    assert edited.dtype == styles.dtype
    torch.testing.assert_close(edited - styles, torch.tensor([3.0, -3, 0]).expand(2, 5, 3))
    torch.testing.assert_close(moved(styles, make_directions(), {}), styles)
    with pytest.raises(KeyError, match="no direction 'age'.*tilt, component 1, retinal"):
        moved(styles, make_directions(), {"age": 1})


def test_readings_are_of_the_mean_style_and_of_fitted_directions_alone():
    styles = torch.tensor([[10.0, 20, 30], [12, 24, 31]]).expand(1, 2, 3)
    read = readings(styles, make_directions())
    assert set(read) == {"tilt", "retinal_thickness"} <= set(FAMILIES)
    assert read["tilt"] == pytest.approx([1])
    assert read["retinal_thickness"] == pytest.approx([0.5 * 2 + 2 * 0.5])


def test_what_is_read_lines_up_with_what_is_known():
    nan = np.nan
    read = {"a": [1.0, 2, 3, 9], "b": [1.0, 2, nan, 3, 4], "c": [1.0, 2, nan, nan],
            "d": [1.0, 2, 3, 4], "e": [5.0, 5, 5, nan], "f": [1.0, 2, 3, 4]}  # fmt: skip
    known = {"a": [1.0, 4, 9, 10], "b": [4.0, 3, 99, 2, 1], "c": [1.0, 2, 3, 4],
             "d": [1.0, 3, 2, nan], "e": [1.0, 2, 3, 4], "f": [7.0, 7, 7, 8]}  # fmt: skip
    known["f"][3] = nan
    found = lines_up(*({k: np.array(v) for k, v in side.items()} for side in (read, known)))
    assert found["a"] == pytest.approx(1) and found["b"] == pytest.approx(-1)
    assert np.isnan(found["c"])  # two scans
    assert found["d"] == pytest.approx(0.5)  # ranks 1 2 3 and 1 3 2
    assert np.isnan(found["e"]) and np.isnan(found["f"])  # nothing varies


def test_anatomy_is_the_same_in_itself_and_away_by_as_much_as_it_is_shifted(eye):
    scan = eye.oct[None, None]
    same = same_anatomy(scan, scan)
    assert list(same) == ["ILM", "RPE", "BM"] and all(v == [0] for v in same.values())
    noise = np.random.default_rng(0).integers(0, 256, scan.shape, "u1")
    pairs = [np.roll(scan, 8, 2), np.roll(scan, -5, 2), noise]
    found = same_anatomy(np.concatenate([scan, scan, scan]), np.concatenate(pairs))
    for name, values in found.items():
        assert values[:2] == pytest.approx([100 * 8 / SIZE, 100 * 5 / SIZE], abs=0.1), name
        assert np.isnan(values[2]), name

"""Directions in W: planted ones are found, kept apart from others, and judged by what they do."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.data.simulated.simulate import make_eye
from helpers.gan import residual, stylegan
from helpers.gan.styles import directions as module
from helpers.gan.styles.directions import (
    FAMILIES,
    LITTLE,
    POSITIONS,
    Directions,
    Sample,
    accept,
    decided_by_style,
    draw_sample,
    effects,
    fit,
    linear,
    load_directions,
    needs_styles,
    read_measures,
    render,
    returns,
)
from helpers.measures.layers import measure

MEASURES = list(FAMILIES)
LATENT = 8
# which factor each measure is of
FACTORS = {"drusen_count": 0, "drusen_area": 1, "drusen_height": 2, "retinal_thickness": 3,
           "fovea_column": 4, "tilt": 5}  # fmt: skip


class Drawer(torch.nn.Module):
    """Draws 64 px retinas whose drusen (number, width, height), thickness, fovea and tilt are
    linear in the first style."""

    size, levels, latent, classes = 64, 5, LATENT, 0
    z_dim = LATENT + 64**2

    def __init__(self):
        super().__init__()
        turn = np.linalg.qr(np.random.default_rng(3).normal(size=(LATENT, LATENT)))[0]
        spread = np.diag([1.0, 1.5, 0.7, 1.2, 0.5, 0.9, 0.6, 0.8])
        self.mix = torch.nn.Parameter(torch.from_numpy(spread @ turn).float(), requires_grad=False)

    def styles(self, z, labels=None):
        return (1 + z[:, :LATENT] @ self.mix)[:, None].repeat(1, self.levels, 1)

    def draw(self, styles, grain):
        count, width, height, thickness, fovea, tilt, *_ = torch.linalg.solve(
            self.mix, styles[:, 0] - 1, left=False
        ).T[..., None, None]
        at = (torch.arange(64) + 0.5) * 4 - 0.5  # in px of 256
        x, row = at[None, None, :], at[None, :, None]
        bm = 150 + 10 * tilt * (x - 127.5) / 127.5
        ilm = bm - 62 - 8 * thickness + 18 * torch.exp(-(((x - 128 - 18 * fovea) / 20) ** 2))
        lift = torch.zeros(len(styles), 1, 64)
        for least, column in ((-9, 30), (-0.8, 70), (0, 190), (0.8, 230)):
            rise = 1 - ((x - column) / (12 + 2.5 * width)) ** 2
            there = (8 * (count - least)).sigmoid()
            lift = torch.maximum(lift, there * (9 + 2 * height) * rise)
        rpe = bm - 4 - lift
        grey = 25 - 0.3 * (row - bm).clamp(min=0)
        for level, edge in (
            (65, ilm), (-45, rpe - 22), (145, rpe), (-80, torch.minimum(rpe + 4, bm)), (-30, bm),
        ):  # fmt: skip
            grey = grey + level * (row - edge).sigmoid()
        grey = grey + 6 * grain.view(-1, 64, 64)
        return (grey[:, None] / 127.5 - 1).clamp(-1, 1)


@pytest.fixture(scope="module")
def drawer():
    return Drawer()


def make_sample(slopes=None, *, n=2000, noise=0.1, seed=0, spread=None):
    """Styles with another spread along each factor, and measures that are linear in factors.

    slopes: {measure: row over the factors}; without it each family has one of its own.
    """
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, LATENT))
    turn = np.linalg.qr(rng.normal(size=(LATENT, LATENT)))[0]
    mix = np.diag(np.linspace(0.5, 3, LATENT) if spread is None else spread) @ turn
    eye = np.eye(LATENT)
    slopes = {name: eye[FACTORS[name]] for name in MEASURES} | (slopes or {})
    values = {name: 10 + 5 * (factors @ slope) + noise * rng.normal(size=n)
              for name, slope in slopes.items()}  # fmt: skip
    return Sample(None, 2 + factors @ mix, None, None, values), np.linalg.inv(mix)


def cosine(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


# --- fitting


def test_planted_directions_are_found():
    sample, unmix = make_sample()
    found = fit(sample, components=3, weights_hash="abc")
    assert found.names == [*MEASURES, "component 1", "component 2", "component 3"]
    assert found.weights_hash == "abc" and found.report == {} and found.accepted == []
    for name in MEASURES:
        step = found[name] @ unmix  # what one standard deviation does to the factors
        assert step[FACTORS[name]] == pytest.approx(1, abs=0.05), name
        assert cosine(step, np.eye(LATENT)[FACTORS[name]]) > 0.99, name
        assert found.explained[found.index(name)] > 0.99, name


def test_a_measure_that_is_noise_is_explained_by_nothing():
    rng = np.random.default_rng(1)
    sample, _ = make_sample()
    sample.values["tilt"] = rng.normal(size=len(sample.w))
    half = sample.values["fovea_column"]
    sample.values["fovea_column"] = half + half.std() * rng.normal(size=len(half))
    explained = dict(zip(MEASURES, fit(sample).explained))
    assert abs(explained["tilt"]) < 0.1
    assert explained["fovea_column"] == pytest.approx(0.5, abs=0.1)


def test_what_other_families_would_change_is_taken_out():
    """Thick eyes are tilted here: the direction of either measure must leave the other alone."""
    eye = np.eye(LATENT)
    thickness, tilt = eye[3] + 0.3 * eye[6], 0.8 * eye[3] + 0.6 * eye[5]
    sample, unmix = make_sample({"retinal_thickness": thickness, "tilt": tilt})
    found = fit(sample)
    for name, own, other in (
        ("retinal_thickness", thickness, tilt), ("tilt", tilt, thickness),
    ):  # fmt: skip
        step = found[name] @ unmix
        assert abs(step @ other) < 0.05 * (step @ own), name
        # and no other direction of that length does more for its own measure
        best = own - (own @ other) / (other @ other) * other
        assert cosine(step, best) > 0.98, name


def test_measures_of_one_family_may_change_together():
    eye = np.eye(LATENT)
    area = 0.9 * eye[0] + 0.4 * eye[1]
    sample, unmix = make_sample({"drusen_area": area})
    found = fit(sample)
    assert cosine(found["drusen_count"] @ unmix, eye[0]) > 0.98
    assert cosine(found["drusen_area"] @ unmix, area) > 0.98


def test_a_scan_that_cannot_be_read_is_left_out():
    sample, unmix = make_sample()
    for name in MEASURES:
        sample.values[name][::3] = np.nan
    found = fit(sample)
    for name in MEASURES:
        assert cosine(found[name] @ unmix, np.eye(LATENT)[FACTORS[name]]) > 0.98, name


def test_readings_are_what_the_measure_is_in_standard_deviations():
    sample, _ = make_sample()
    found = fit(sample, components=2)
    for name, values in sample.values.items():
        read = (sample.w - found.mean) @ found.readers[found.index(name)]
        expected = (values - values.mean()) / values.std()
        np.testing.assert_allclose(read, expected, atol=0.15)
    assert (found.readers[-2:] == 0).all()


def test_components_have_unit_variance_along_themselves():
    sample, _ = make_sample()
    found = fit(sample, components=4)
    variances = np.linalg.eigvalsh(np.cov(sample.w.T))[::-1]
    vectors = []
    for k in range(4):
        name = f"component {k + 1}"
        assert found.at(sample.w, name).std(ddof=1) == pytest.approx(1)
        assert found[name] @ found[name] == pytest.approx(variances[k])
        explained = found.explained[found.index(name)]
        assert explained == pytest.approx(variances[k] / variances.sum())
        vectors.append(found[name] / np.linalg.norm(found[name]))
    np.testing.assert_allclose(np.array(vectors) @ np.array(vectors).T, np.eye(4), atol=1e-9)
    assert np.allclose(found.at(sample.w, "tilt").std(ddof=1), 1)  # fitted ones as well


def test_there_are_no_more_components_than_ways_in_which_styles_vary():
    sample, _ = make_sample(spread=[2, 1, 1, 1, 1e-4, 1e-4, 1e-4, 1e-4])
    assert fit(sample, components=6).names[-1] == "component 4"


@pytest.mark.parametrize("fault", ["the same everywhere", "hardly ever read", "never read"])
def test_a_measure_that_cannot_be_fitted_has_no_direction(fault):
    sample, _ = make_sample()
    values = sample.values["drusen_height"]
    first = {"the same everywhere": 0, "hardly ever read": 49, "never read": 0}[fault]
    values[first:] = 3.0 if fault == "the same everywhere" else np.nan
    names = fit(sample, components=1).names
    assert names == [name for name in FAMILIES if name != "drusen_height"] + ["component 1"]
    assert np.isnan(linear(sample.w, sample.values)["drusen_height"])


def test_where_nothing_can_be_read_nothing_is_fitted():
    sample, _ = make_sample()
    for values in sample.values.values():
        values[:] = np.nan
    with pytest.raises(ValueError, match="no measure could be read on 50 of 2000"):
        fit(sample)


def test_how_much_a_straight_line_predicts():
    rng = np.random.default_rng(0)
    rows, noise = rng.normal(size=(600, 3)), rng.normal(size=600)
    values = {"all": 3 * rows[:, 0] + 7, "half": rows[:, 1] + noise, "nothing": noise,
              "bent": rows[:, 2] ** 2}  # fmt: skip
    values["half"][::4] = np.nan
    found = linear(rows, values)
    assert found["all"] == pytest.approx(1, abs=1e-3)
    assert found["half"] == pytest.approx(0.5, abs=0.1)
    assert abs(found["nothing"]) < 0.05 and abs(found["bent"]) < 0.1
    few = rng.normal(size=(60, 50))  # so few that they could be learned by heart
    assert linear(few, {"some": few[:, :3].sum(1) + noise[:60]})["some"] < 0.75


# --- places along them


def test_what_is_put_to_a_place_is_there_and_nowhere_else_along_the_others():
    sample, _ = make_sample()
    found = fit(sample)
    for name in found.names:
        moved = found.put(sample.w, name, 1.5)
        np.testing.assert_allclose(found.at(moved, name), 1.5, atol=1e-9)
        np.testing.assert_allclose(found.put(moved, name, -2)[0],
                                   found.put(sample.w, name, -2)[0], atol=1e-9)  # fmt: skip
        step = moved - sample.w
        np.testing.assert_allclose(step - np.outer(step @ found[name], found[name])
                                   / (found[name] @ found[name]), 0, atol=1e-9)  # fmt: skip
        if name.startswith("component"):
            for other in found.names[len(MEASURES) :]:
                if other != name:
                    np.testing.assert_allclose(
                        found.at(moved, other), found.at(sample.w, other), atol=1e-9
                    )
    assert found.at(found.mean, "tilt") == 0
    assert found.put(sample.w[0], "tilt", 1).shape == (LATENT,)
    plus = np.stack([sample.w[:3], sample.w[3:6]], 1)  # (N, levels, latent)
    np.testing.assert_allclose(found.at(found.put(plus, "tilt", 1), "tilt"), np.ones((3, 2)))


def test_an_unknown_direction_is_answered_with_those_there_are():
    found = fit(make_sample()[0], components=1)
    for ask in (found.__getitem__, found.index, lambda name: found.at(found.mean, name)):
        with pytest.raises(KeyError, match="no direction 'age'.*drusen_count.*component 1"):
            ask("age")


# --- judging: a direction is accepted, and refused for each single reason

N, M = 40, len(MEASURES)
SPREAD = 2.0  # of every measure over the sample
ERRORS = dict.fromkeys(MEASURES, 1.0)
TILT, THICK = MEASURES.index("tilt"), MEASURES.index("retinal_thickness")


def judged_sample(unread=0):
    values = {name: np.resize([10 - SPREAD, 10 + SPREAD], N).astype(float) for name in MEASURES}
    for row in values.values():
        row[:unread] = np.nan
    return Sample(None, np.zeros((N, 2)), None, None, values)


def one_direction(name="tilt"):
    zero = np.zeros((1, 2))
    return Directions([name], zero, zero, zero, np.zeros(1), np.zeros(2))


def planted(step=1.0, measure=TILT):
    """What is read when one measure grows by `step` from place to place, (1, positions, N, M)."""
    read = np.random.default_rng(0).normal(10, SPREAD, (1, 1, N, M)).repeat(len(POSITIONS), 1)
    read[..., measure] += step * np.arange(len(POSITIONS))[:, None]
    return read


def verdict_of(read, *, name="tilt", unread=0, errors=ERRORS):
    directions = one_direction(name)
    report = accept(read, directions, judged_sample(unread), errors)
    assert report is directions.report and list(report) == [name]
    assert directions.accepted == [name] * report[name]["accepted"]
    return report[name]


def reasons(verdict):
    return {
        "beyond_error": verdict["beyond_error"] <= 1,
        "monotonic": not verdict["monotonic"],
        "ends_right": verdict["ends_right"] < 0.8,
        "others": verdict["others"] > LITTLE,
        "readable": verdict["readable"] < 0.9,
    }


@pytest.mark.parametrize("step", [1.0, -1.0])
def test_a_planted_direction_is_accepted_whichever_way_it_goes(step):
    verdict = verdict_of(planted(step))
    assert verdict["accepted"] and not any(reasons(verdict).values())
    assert verdict["measure"] == "tilt"
    assert verdict["changes"] == pytest.approx(
        dict.fromkeys(MEASURES, 0) | {"tilt": 4 * step}, abs=1e-9
    )
    assert verdict["in_sd"]["tilt"] == pytest.approx(4 * step / SPREAD)
    assert verdict["beyond_error"] == pytest.approx(4)
    assert verdict["ends_right"] == 1 and verdict["others"] == pytest.approx(0, abs=1e-9)
    assert verdict["readable"] == 1


def blurred(read):
    return read, dict(ERRORS, tilt=4.1)


def crooked(read):
    read[:, 2, :, TILT] -= 1.5
    return read, ERRORS


def turned(read):
    # a quarter goes the other way; the others go further, so that the mean is monotonic
    read[0, :, : N // 4, TILT] -= 2 * np.arange(5)[:, None]
    read[0, :, N // 4 :, TILT] += np.arange(5)[:, None]
    return read, ERRORS


def entangled(read):
    read[0, :, :, THICK] += 0.6 * np.arange(5)[:, None]
    return read, ERRORS


def lost(read):
    read[0, -1, : N // 5] = np.nan
    return read, ERRORS


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (blurred, "beyond_error"),
        (crooked, "monotonic"),
        (turned, "ends_right"),
        (entangled, "others"),
        (lost, "readable"),
    ],
)
@pytest.mark.parametrize("step", [1.0, -1.0])
def test_a_direction_is_refused_for_each_single_reason(fault, reason, step):
    read, errors = fault(planted())
    verdict = verdict_of(20 - read if step < 0 else read, errors=errors)
    assert not verdict["accepted"]
    assert [name for name, holds in reasons(verdict).items() if holds] == [reason]


def test_each_limit_lets_pass_what_is_just_within_it():
    read = planted()
    read[0, :, :, THICK] += 0.35 * np.arange(5)[:, None]
    read[0, -1, : N // 20] = np.nan
    few = slice(N // 2, N // 2 + 6)  # of 38 scans, these 6 end on the wrong side
    read[0, -1, few, TILT] = read[0, 0, few, TILT] - 0.5
    verdict = verdict_of(read, errors=dict(ERRORS, tilt=2.0))
    assert verdict["accepted"] and verdict["others"] > 0.4 and verdict["readable"] == 0.95
    assert verdict["ends_right"] == pytest.approx(32 / 38)


def test_measures_of_its_own_family_may_change_as_much():
    read = planted(measure=MEASURES.index("drusen_count"))
    area = MEASURES.index("drusen_area")
    read[..., area] += 2 * np.arange(5)[:, None]
    assert verdict_of(read, name="drusen_count")["accepted"]


@pytest.mark.parametrize("step", [1.0, -1.0])
def test_a_component_is_judged_by_what_it_changes_most(step):
    read = planted(step, THICK)
    read[0, :, :, TILT] -= 0.3 * step * np.arange(5)[:, None]
    verdict = verdict_of(read, name="component 1")
    assert verdict["measure"] == "retinal_thickness" and verdict["accepted"]
    assert verdict["others"] == pytest.approx(0.3)


def test_a_generator_that_can_be_read_now_and_then_is_held_to_that():
    read = planted()
    read[0, :, :10] = np.nan
    assert verdict_of(read)["readable"] == 0.75
    verdict = verdict_of(read, unread=10)
    assert verdict["accepted"] and verdict["readable"] == 1


def test_a_measure_that_is_never_there_is_unknown_and_decides_nothing():
    read = planted()
    read[..., MEASURES.index("fovea_column")] = np.nan
    verdict = verdict_of(read)
    assert np.isnan(verdict["changes"]["fovea_column"]) and verdict["accepted"]
    assert verdict_of(read, name="component 1")["measure"] == "tilt"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ["tilt", "component 1"])
def test_a_direction_with_an_end_that_nobody_can_read_is_refused(name):
    read = planted()
    read[0, -1] = np.nan
    verdict = verdict_of(read, name=name)
    assert not verdict["accepted"] and verdict["readable"] == 0


# --- what another training has


def with_report(**profiles):
    """Directions, their report from {name: (measure, changes in SD, accepted)}."""
    directions = Directions(list(profiles), *np.zeros((3, len(profiles), 2)), np.zeros(1),
                            np.zeros(2))  # fmt: skip
    for name, (measured, changes, accepted) in profiles.items():
        in_sd = dict(zip(MEASURES, map(float, changes)))
        directions.report[name] = {"measure": measured, "in_sd": in_sd, "accepted": accepted}
    return directions


def test_a_direction_returns_as_far_as_it_does_the_same():
    tilt, both = (0, 0, 0, 0, 0, 2), (0, 0, 0, 1.5, 0, 2)
    first = with_report(tilt=("tilt", tilt, True), drusen_area=("drusen_area", (1, 1, 0, 0, 0, 0),
                                                                False))  # fmt: skip
    assert returns(first, first) == {"tilt": 1.0}
    assert returns(first, with_report(tilt=("tilt", tilt, False))) == {"tilt": 0.0}
    assert returns(first, with_report(other=("retinal_thickness", both, True))) == {"tilt": 0.0}
    less = with_report(tilt=("tilt", both, True))
    assert returns(first, less)["tilt"] == pytest.approx(0.8)
    component = {"component 1": ("tilt", [-3 * change for change in tilt], True)}
    two = with_report(tilt=("tilt", both, True), **component)
    assert returns(first, two)["tilt"] == pytest.approx(0.8)  # a component is no counterpart
    of_components = with_report(**{"component 2": ("tilt", tilt, True)})
    assert returns(of_components, two)["component 2"] == pytest.approx(1)  # it has no sign either


def test_what_was_never_read_does_not_keep_a_direction_from_returning():
    first = with_report(tilt=("tilt", (0, 0, 0, 0, np.nan, 2), True))
    assert returns(first, first) == {"tilt": 1.0}


def test_a_direction_returns_in_every_training_or_not_at_all():
    tilt, both = (0, 0, 0, 0, 0, 2), (0, 0, 0, 1.5, 0, 2)
    first = with_report(tilt=("tilt", tilt, True))
    less, never = with_report(tilt=("tilt", both, True)), with_report(tilt=("tilt", tilt, False))
    for others, expected in (((first, less), 0.8), ((less, first), 0.8), ((first, never), 0)):
        assert returns(first, *others)["tilt"] == pytest.approx(expected)


# --- files


def test_directions_are_read_as_they_were_written(tmp_path):
    found = fit(make_sample()[0], weights_hash="abc")
    found.report["tilt"] = {"accepted": True, "measure": "tilt", "in_sd": {"tilt": 1.25}}
    path = tmp_path / "directions.json"
    found.save(path)
    again = load_directions(path, Weights("abc"))
    assert again.names == found.names and again.report == found.report
    assert again.weights_hash == "abc" and again.accepted == ["tilt"]
    for name in ("vectors", "duals", "readers", "explained", "mean"):
        assert np.array_equal(getattr(again, name), getattr(found, name)), name
    assert load_directions(path).names == found.names


class Weights:
    def __init__(self, weights_hash):
        self.weights_hash = weights_hash


def test_directions_of_other_weights_or_none_are_refused_in_words(tmp_path):
    path = tmp_path / "directions.json"
    with pytest.raises(FileNotFoundError, match="directions.json.*notebook 07 fits them"):
        load_directions(path)
    fit(make_sample()[0], weights_hash="abc").save(path)
    with pytest.raises(ValueError, match="directions.json: fitted to other weights.*Fit again"):
        load_directions(path, Weights("abd"))


# --- from pictures


def test_a_scan_without_drusen_has_drusen_of_height_zero():
    rng = np.random.default_rng(0)
    eyes = [make_eye(4, "NORMAL", size=128), make_eye(600, "DRUSEN", grade=1.0, size=128)]
    scans = np.stack([*(eye.oct for eye in eyes), rng.integers(0, 256, (128, 128), "u1")])[:, None]
    values, plain = read_measures(scans), measure(scans)
    assert list(values) == MEASURES
    assert plain["drusen_count"][0] == 0 and np.isnan(plain["drusen_height"][0])
    assert values["drusen_height"][0] == 0 and values["drusen_height"][1] > 1
    assert all(np.isnan(values[name][2]) for name in MEASURES)
    for name in set(MEASURES) - {"drusen_height"}:
        np.testing.assert_array_equal(values[name], plain[name])


def test_scans_are_rendered_alike_in_any_batch_and_with_one_grain_for_all(drawer):
    z = torch.randn(5, drawer.z_dim, generator=torch.Generator().manual_seed(0))
    styles, grain = drawer.styles(z), z[:, LATENT:]
    scans = render(drawer, styles, grain)
    assert scans.dtype == np.uint8 and scans.shape == (5, 1, 64, 64)
    expected = (drawer.draw(styles, grain).numpy() + 1) * 127.5
    assert np.abs(scans - expected).max() <= 0.5 + 1e-3
    assert (render(drawer, styles, grain, batch=2) == scans).all()
    shared = render(drawer, styles, grain[:1], batch=2)
    assert (shared == render(drawer, styles, grain[:1].expand(5, -1))).all()
    assert (shared[0] == scans[0]).all() and (shared[4] != scans[4]).any()


@pytest.fixture(scope="module")
def drawn(drawer):
    return draw_sample(drawer, 80, seed=5)


def test_a_sample_is_what_was_drawn_and_what_is_read_on_it(drawer, drawn):
    assert drawn.w.shape == (80, LATENT) and drawn.grain.shape == (80, 64**2)
    np.testing.assert_allclose(drawer.styles(torch.from_numpy(drawn.z))[:, 0], drawn.w, rtol=1e-5)
    styles = torch.from_numpy(drawn.w)[:, None].repeat(1, 5, 1)
    assert (render(drawer, styles, drawn.grain) == drawn.scans).all()
    few = draw_sample(drawer, 2, seed=5)
    np.testing.assert_allclose(few.w, drawn.w[:2], rtol=1e-5)
    assert torch.equal(few.grain, drawn.grain[:2])
    for name in MEASURES:
        np.testing.assert_allclose(few.values[name], drawn.values[name][:2], rtol=1e-3)
    assert not np.allclose(draw_sample(drawer, 2, seed=6).w, few.w)


@pytest.mark.slow
def test_what_is_planted_in_pictures_is_fitted_read_and_accepted(drawer, drawn):
    found = fit(drawn, components=0)
    unmix = np.linalg.inv(drawer.mix.numpy())
    for name in ("drusen_height", "retinal_thickness", "fovea_column", "tilt"):
        assert cosine(found[name] @ unmix, np.eye(LATENT)[FACTORS[name]]) > 0.93, name
    keep = ["tilt", "retinal_thickness"]
    rows = [found.index(name) for name in keep]
    found = replace(found, names=keep, vectors=found.vectors[rows], duals=found.duals[rows])
    base = draw_sample(drawer, 10, seed=6)
    read = effects(drawer, found, base)
    assert read.shape == (2, len(POSITIONS), 10, M)
    put = torch.from_numpy(found.put(base.w, "retinal_thickness", -1)).float()
    again = read_measures(render(drawer, put[:, None].repeat(1, 5, 1), base.grain))
    for k, name in enumerate(MEASURES):
        np.testing.assert_allclose(read[1, 1, :, k], again[name], rtol=1e-6)
    # a step of one standard deviation of styles is one of what is drawn
    change = np.diff(read[0, :, :, TILT], axis=0).mean()
    assert change == pytest.approx(drawn.values["tilt"].std(), rel=0.1)
    report = accept(read, found, drawn, dict.fromkeys(MEASURES, 0.3))
    assert report["tilt"]["accepted"] and report["retinal_thickness"]["accepted"]


class Codes(torch.nn.Module):
    """Draws pictures of two pixels: one is the style, the other the grain."""

    size, levels, latent, classes, z_dim = 2, 1, 1, 0, 5

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def styles(self, z, labels=None):
        return z[:, None, :1]

    def draw(self, styles, grain):
        return torch.stack([styles[:, 0, 0], grain[:, 0]], 1)[:, None, None] / 5


def test_what_the_style_decides_and_what_the_grain(monkeypatch):
    def read(scans, progress=False):
        style, grain = scans[:, 0, 0].T.astype(float)
        lost = np.where(np.arange(len(scans)) == 2, np.nan, 0)
        values = (style, grain, 2 * style + grain, style + grain, style + 2 * grain, style)
        return {name: value + lost for name, value in zip(MEASURES, values)}

    monkeypatch.setattr(module, "read_measures", read)
    found = decided_by_style(Codes(), 60)
    assert list(found) == MEASURES
    expected = dict(zip(MEASURES, (1, 0, 0.8, 0.5, 0.2, 1)))
    assert found == pytest.approx(expected, abs=0.12)


def test_the_share_of_the_style_by_hand(monkeypatch):
    reads = iter(([1, 1], [0, 2], [4, 6]))  # of the draws, then of each style under both grains

    def read(scans, progress=False):
        return dict.fromkeys(MEASURES, np.array(next(reads), float))

    monkeypatch.setattr(module, "read_measures", read)
    # within: (2 + 2) / 2; between: the variance of 1 and 5, less 2 / 2
    assert decided_by_style(Codes(), 2)["tilt"] == pytest.approx(7 / 9)


def test_the_style_decides_the_anatomy_of_pictures(drawer):
    found = decided_by_style(drawer, 5)
    assert min(found[name] for name in ("retinal_thickness", "tilt", "fovea_column")) > 0.9


def test_what_is_no_style_based_generator_or_untrained_is_refused():
    torch.manual_seed(0)
    untrained = stylegan.Generator(64, LATENT, width=2).eval()
    with pytest.raises(ValueError, match="can read 0 %.*untrained.*Train it for longer"):
        draw_sample(untrained, 8)
    other = residual.Generator(64, LATENT, width=2)
    for refuse in (needs_styles, lambda generator: draw_sample(generator, 8)):
        with pytest.raises(ValueError, match="no styles.*OCT_MODEL=stylegan"):
            refuse(other)
    needs_styles(untrained)


def test_a_sample_may_have_some_scans_that_cannot_be_read(drawer, monkeypatch):
    def share(lost):
        values = {name: np.where(np.arange(20) < lost, np.nan, 1.0) for name in MEASURES}
        monkeypatch.setattr(module, "read_measures", lambda *args, **kwargs: values)
        return draw_sample(drawer, 20)

    assert np.isnan(share(10).values["tilt"]).sum() == 10
    with pytest.raises(ValueError, match="can read 45 %"):
        share(11)


def test_a_sample_of_one_class(monkeypatch):
    torch.manual_seed(0)
    generator = stylegan.Generator(64, LATENT, width=2, classes=2).eval()
    generator.metadata = {"classes": ["DRUSEN", "NORMAL"], "class": "DRUSEN"}
    values = dict.fromkeys(MEASURES, np.ones(3))
    monkeypatch.setattr(module, "read_measures", lambda *args, **kwargs: values)
    first, other = draw_sample(generator, 3), draw_sample(generator, 3, class_name="NORMAL")
    for sample, label in ((first, 0), (other, 1)):
        z = torch.from_numpy(sample.z)
        expected = generator.styles(z, torch.full((3,), label))[:, 0].detach().numpy()
        np.testing.assert_allclose(sample.w, expected, rtol=1e-5)

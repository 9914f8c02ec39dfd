"""Planted copies are found however they are disguised, scans that copy nothing are left alone."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, shift

from helpers.data.pixels import at_size
from helpers.data.simulated.simulate import CONDITIONS, make_eye
from helpers.measures.alignment import Alignment
from helpers.measures.memorisation import (
    copies,
    design_effect,
    membership,
    memorisation_report,
    near_volumes,
    preference,
)

SIZE = 128


@pytest.fixture(scope="module")
def eyes():
    """Simulated eyes of as many patients, uint8 (N, 1, 128, 128): training, unseen, others."""
    scans = [
        make_eye(seed, CONDITIONS[seed % 4], size=SIZE, pictures=("oct",)).oct
        for seed in range(110)
    ]
    scans = np.stack(scans)[:, None]
    return scans[:30], scans[30:70], scans[70:]


def levels(image):
    return image.round().clip(0, 255).astype(np.uint8)


def jpeg(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=25)
    return np.asarray(Image.open(file))


def moved(image):
    return levels(shift(image.astype(float), (-5, 7), order=1, mode="reflect"))


DISGUISES = {
    "exact": lambda x: x,
    "mirrored": lambda x: x[:, ::-1],
    "shifted": moved,
    "brightness": lambda x: levels(255 * (x / 255) ** 0.7 * 0.8 + 15),
    "blurred": lambda x: levels(gaussian_filter(x.astype(float), 1.5)),
    "noisy": lambda x: levels(x + np.random.default_rng(0).normal(0, 12, x.shape)),
    "64 px": lambda x: at_size(at_size(x[None, None], 64), SIZE)[0, 0],
    "jpeg": jpeg,
    "mirrored, shifted, blurred": lambda x: DISGUISES["blurred"](moved(x[:, ::-1])),
}


@pytest.mark.slow
def test_a_copy_is_found_under_every_disguise_and_its_source_named(eyes):
    training, unseen, others = eyes
    alignment = Alignment(training)
    threshold = alignment.similarity(unseen).max(1).max()
    for name, disguise in DISGUISES.items():
        planted = np.stack([disguise(scan[0]) for scan in training[:20]])[:, None]
        found = alignment.similarity(planted)
        assert (found.argmax(1) == np.arange(20)).all(), name
        assert (found.max(1) > threshold).mean() >= 0.95, name
        innocent = np.stack([disguise(scan[0]) for scan in others[:20]])[:, None]
        assert (alignment.similarity(innocent).max(1) > threshold).mean() <= 0.1, name


@pytest.mark.parametrize("share", [0, 0.025, 0.2])
def test_the_reported_share_follows_the_planted_one(eyes, share):
    training, unseen, others = eyes
    synthetic, planted = others.copy(), round(share * len(others))
    kinds = list(DISGUISES.values())
    for i in range(planted):
        synthetic[3 * i, 0] = kinds[-1 - i % len(kinds)](training[7 + i, 0])
    report = memorisation_report(synthetic, training, unseen)
    json.dumps(report, allow_nan=False)
    assert share <= report["copied_share"] <= share + 0.06
    assert report["low"] <= share <= report["high"]
    assert report["expected_share"] == pytest.approx(1 / 41)
    named = {(pair["synthetic"], pair["training"]) for pair in report["closest"]}
    assert len(named) == 10
    assert len({(3 * i, 7 + i) for i in range(planted)} & named) == planted
    assert (report["p_value"] < 0.05) == (share == 0.2)  # one copy in 40 proves nothing
    assert (report["excess"]["low"] > 0) == (share == 0.2)


def test_copies_of_scans_that_were_not_compared_are_not_excluded(eyes):
    training, unseen, others = eyes
    synthetic = others.copy()
    synthetic[::10] = training[: len(synthetic[::10])]  # a tenth
    report = memorisation_report(synthetic, training, unseen, limit=len(training) // 4)
    assert report["excess"]["high"] >= 0.1
    assert f"only {len(training) // 4} of {len(training)} training scans" in report["warnings"][0]


def test_the_alignment_lays_the_training_scan_over_its_copy(eyes):
    training, unseen, _ = eyes
    copy = np.roll(training[9, 0, :, ::-1], (-8, 16), (0, 1))
    report = memorisation_report([copy[None]], training, unseen)
    pair = report["closest"][0]
    assert pair["training"] == 9 and pair["mirrored"] and pair["copy"]
    assert pair["shift"] == pytest.approx([-8, 16], abs=1.5)


def test_real_scans_are_not_compared_with_their_own_patient(eyes):
    training, unseen, others = eyes
    twice = np.concatenate([unseen, training[:10]])  # ten scans serve on both sides
    names, own = np.arange(30), np.concatenate([np.arange(30, 70), np.arange(10)])
    careless = memorisation_report(others, training, twice)
    assert careless["pixels"]["threshold"] < 0.01
    report = memorisation_report(
        others, training, twice, training_patients=names, unseen_patients=own
    )
    assert report["pixels"]["threshold"] > 0.2


def test_without_unseen_scans_the_patients_stand_in_for_each_other(eyes):
    training, _, others = eyes
    pairs = np.concatenate([training, training[..., ::-1]])
    patients = np.tile(np.arange(30), 2)
    synthetic = np.concatenate([others[:30], training[:10]])
    report = memorisation_report(synthetic, pairs, training_patients=patients)
    assert report["copied_share"] == pytest.approx(0.25, abs=0.05)
    assert any("no unseen scans" in warning for warning in report["warnings"])
    blind = memorisation_report(synthetic, pairs)
    assert any("patients unknown" in warning for warning in blind["warnings"])


def test_what_cannot_be_measured_is_null_with_a_reason(eyes):
    training, unseen, others = eyes
    for report in (
        memorisation_report(others, None, unseen),
        memorisation_report(others, training[:1], unseen),
        memorisation_report(others[:0], training, unseen),
        memorisation_report(others, training, training_patients=["one"] * 30),
    ):
        assert report["copied_share"] is None and report["reason"] and report["closest"] == []
        json.dumps(report)
    report = memorisation_report(others, training, unseen)
    assert report["features"]["copied_share"] is None and report["features"]["reason"]


@pytest.mark.slow
def test_features_and_lists_of_mixed_sizes(eyes):
    training, unseen, others = eyes
    mixed = [*others[:20], *at_size(training[:20], 64)]
    rng = np.random.default_rng(0)
    seen, new = rng.normal(size=(30, 16)), rng.normal(size=(40, 16))
    made = np.concatenate([rng.normal(size=(20, 16)), 3 * seen[:20]])  # length does not matter
    report = memorisation_report(mixed, list(training), unseen, features=(made, seen, new))
    assert report["copied_share"] == pytest.approx(0.5, abs=0.03)
    assert report["features"]["copied_share"] == pytest.approx(0.5, abs=0.06)
    as_floats = others[:9].astype(np.float32) / 127.5 - 1
    one, two = (memorisation_report(images, training, unseen) for images in (others[:9], as_floats))
    assert one["pixels"]["nearest_synthetic"] == two["pixels"]["nearest_synthetic"]
    few = memorisation_report(mixed, list(training), unseen, limit=25, features=(made, seen, new))
    assert few["n_synthetic"] == few["n_training"] == 25


def test_the_expected_share_and_p_value_hold_when_nothing_is_copied():
    rng = np.random.default_rng(0)
    drawn = [copies(rng.normal(size=200), rng.normal(size=250)) for _ in range(400)]
    assert drawn[0]["expected_share"] == pytest.approx(2 / 251)
    assert np.mean([d["copied_share"] for d in drawn]) == pytest.approx(2 / 251, rel=0.2)
    assert np.mean([d["p_value"] < 0.05 for d in drawn]) < 0.07
    assert np.mean([d["excess"]["low"] > 0 for d in drawn]) < 0.03
    least = copies(np.ones(10), np.zeros(3))  # three scans set a threshold, but a poor one
    assert least["expected_share"] == 0.25 and least["copied_share"] == 0 and least["high"] < 0.31


def test_scans_of_few_patients_set_a_less_certain_threshold():
    rng = np.random.default_rng(0)
    people, names = rng.normal(size=10), np.repeat(np.arange(10), 12)
    alike = people[names] + 0.1 * rng.normal(size=120)
    assert design_effect(alike, names) == pytest.approx(12, rel=0.1)
    assert design_effect(rng.normal(size=120), names) < 3
    assert design_effect(alike, None) == design_effect(alike, np.arange(120)) == 1
    one, each = copies(alike, alike, names), copies(alike, alike)
    assert one["threshold"] == each["threshold"]
    assert each["expected_share"] < 0.01 < 0.05 < one["expected_share"] < 0.15
    assert one["expected_high"] > 2 * each["expected_high"]
    # other patients, no copies: the share below the threshold is in the interval
    inside = []
    for _ in range(300):
        ours = rng.normal(size=10)[names] + 0.3 * rng.normal(size=120)
        theirs = rng.normal(size=5000) * np.hypot(1, 0.3)
        found = copies(theirs, ours, names)
        inside.append(found["copied_share"] <= found["expected_high"])
    assert np.mean(inside) >= 0.9  # 0.975 wanted: ten patients, whose scans differ little, are few


def test_a_generator_that_prefers_its_training_patients_shows():
    rng = np.random.default_rng(0)
    alike = preference(rng.random((100, 60)), rng.random((100, 40)))
    assert alike["nearer_to_training"] == pytest.approx(0.5, abs=0.1)
    leaky = preference(0.8 * rng.random((100, 60)), rng.random((100, 40)) + 0.1)
    assert leaky["nearer_to_training"] > 0.9 and leaky["ratio"] < 0.5


def distances_of(points, others, patients=None):
    """Euclidean distances (N, R), infinite within a patient where `patients` (R,) are given."""
    apart = np.linalg.norm(points[:, None] - others, axis=2)
    if patients is not None:
        apart[patients[:, None] == patients] = np.inf
    return apart


def test_the_control_takes_out_what_members_and_others_differ_by_themselves():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 3).astype(str)
    member = np.repeat(np.arange(60) < 36, 3)
    # members are ordinary, the others odd: near to anything, or far from it
    real = np.where(member, 0.6, 1.4)[:, None] * rng.normal(size=(180, 4))
    control = distances_of(real, real, patients)
    innocent = rng.normal(size=(180, 4))
    found = membership(distances_of(innocent, real), control, member, patients)
    assert found["attack"]["low"] > 0.6 < found["control"]["value"]  # both, without any leak
    assert found["excess"]["low"] < 0 < found["excess"]["high"] and found["n"] == 180
    leaky = innocent.copy()
    leaky[:60] = real[member][:60] + 0.05 * rng.normal(size=(60, 4))
    found = membership(distances_of(leaky, real), control, member, patients)
    assert found["excess"]["low"] > 0
    # and members that are odd hide a leak, until the control is taken off
    odd = np.where(member, 1.4, 0.7)[:, None] * rng.normal(size=(180, 4))
    leaky = np.concatenate([odd[member][:40] + 0.05 * rng.normal(size=(40, 4)), innocent[40:]])
    found = membership(distances_of(leaky, odd), distances_of(odd, odd, patients), member, patients)
    assert found["attack"]["low"] < 0.5 and found["excess"]["low"] > 0
    one = membership(distances_of(leaky, odd), control, member, np.where(member, patients, "one"))
    assert one["excess"]["low"] is None and one["excess"]["value"] is not None


def test_without_a_leak_the_excess_is_rarely_called_one():
    called = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        patients, member = np.repeat(np.arange(40), 3).astype(str), np.arange(120) < 72
        real = rng.normal(size=(40, 1, 3)).repeat(3, 1) + 0.3 * rng.normal(size=(40, 3, 3))
        real = real.reshape(120, 3)
        made = np.hypot(1, 0.3) * rng.normal(size=(120, 3))
        control = distances_of(real, real, patients)
        found = membership(distances_of(made, real), control, member, patients, resamples=200)
        called.append(found["excess"]["low"] > 0)
    assert np.mean(called) <= 0.1


def test_a_volume_that_is_drawn_again_stands_out_and_no_other():
    rng = np.random.default_rng(0)
    people = rng.normal(size=(40, 1, 6))
    real = (people + 0.3 * rng.normal(size=(40, 5, 6))).reshape(200, 6)
    patients, trained = np.repeat(np.arange(40), 5).astype(str), np.arange(200) < 125
    innocent = rng.normal(size=(300, 6)) * np.hypot(1, 0.3)
    between = distances_of(real, real)
    for planted in (0, 75):
        made = innocent.copy()
        made[:planted] = people[7] + 0.3 * rng.normal(size=(planted, 6))  # no scan is repeated
        found = near_volumes(distances_of(made, real), between, trained, patients)
        json.dumps(found, allow_nan=False)
        assert found["trained"]["patients"] == 25 and found["unseen"]["patients"] == 15
        assert found["unseen"]["stand_out"] == 0
        assert found["trained"]["stand_out"] == (planted > 0)
        if planted:
            assert patients[found["trained"]["largest"]["scan"]] == "7"
            assert found["trained"]["largest"]["share"] == pytest.approx(0.25, abs=0.05)
    alone = near_volumes(distances_of(made, real), between, trained, np.arange(200).astype(str))
    assert alone == {"trained": None, "unseen": None}


@pytest.mark.slow
def test_the_report_tells_a_leak_a_volume_and_what_it_would_have_missed(eyes):
    training, unseen, others = eyes
    slices = [np.roll(scan, move, -1) for scan in training for move in (-2, 0, 2)]
    names, new = np.repeat(np.arange(30), 3), np.arange(30, 70)
    slices = np.stack(slices)
    again = [np.roll(slices[21:24], move, -1)[..., ::-1] for move in (-3, 0, 3, 5)]
    copied = np.concatenate([others[:23], *again])
    planted = {"flipped": slices[..., ::-1], "unlike": others}
    leaks = {}
    for made in (others, copied):
        report = memorisation_report(
            made, slices, unseen, training_patients=names, unseen_patients=new, planted=planted
        )
        json.dumps(report, allow_nan=False)
        leaks[len(made)] = report
        assert report["pixels"]["membership"]["control_is"] == "real scans of other patients"
        assert report["missed"]["flipped"]["value"] == 0 and report["missed"]["flipped"]["n"] == 90
        assert report["missed"]["unlike"]["value"] > 0.9  # no copies: nothing there to be found
    clean, leaky = leaks[40]["pixels"], leaks[35]["pixels"]
    assert clean["membership"]["excess"]["low"] < 0 < clean["membership"]["excess"]["high"]
    assert clean["volumes"]["trained"]["stand_out"] == 0
    assert leaky["volumes"]["trained"]["stand_out"] == 1
    assert names[leaky["volumes"]["trained"]["largest"]["scan"]] == 7
    every = memorisation_report(training, training, unseen, control=others)  # all are copied
    assert every["pixels"]["membership"]["control_is"] == "another generator"
    assert every["pixels"]["membership"]["excess"]["low"] > 0.2

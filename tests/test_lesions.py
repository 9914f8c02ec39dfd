"""What survives a translation: class, drusen in their place, and messages nobody sees."""

import numpy as np
import pytest
import torch

from helpers.data.simulated.simulate import make_eye
from helpers.measures.layers import read_all
from helpers.translation.lesions import (
    as_a_file,
    class_survives,
    concordance,
    deals,
    elevation,
    honest_cycle,
    lesion_report,
    lesions_in_place,
    match,
    pair_scores,
    rises_in_place,
    summary,
    true_drusen,
)

SIZE = 256


@pytest.fixture(scope="module")
def eyes():
    return [make_eye(seed, "DRUSEN", size=SIZE) for seed in range(10)]


@pytest.fixture(scope="module")
def scans(eyes):
    return torch.stack([torch.from_numpy(eye.oct)[None].float() / 127.5 - 1 for eye in eyes])


def test_true_scans_are_found_right_and_those_of_others_are_not(eyes, scans):
    truths = [eye.truth for eye in eyes]
    report = lesion_report(scans, scans, truths, range(10), resamples=40)
    own, dealt = report["translated"], report["shuffled"]
    assert own["detected"]["value"] == report["ruler"]["detected"]["value"] > 0.6
    assert dealt["detected"]["value"] < 0.45
    assert own["position_um"]["value"] < 30 and own["thickness_um"]["value"] < 5
    assert own["false"]["value"] < 0.5 < dealt["false"]["value"]
    assert report["gain"]["detected"]["low"] > 0 and report["gain"]["likeness"]["low"] > 0
    assert own["detected"]["low"] <= own["detected"]["value"] <= own["detected"]["high"]


def test_of_one_patient_there_is_no_interval(eyes, scans):
    report = lesion_report(scans[:2], scans[:2], [e.truth for e in eyes[:2]], [0, 0], resamples=5)
    for part in ("translated", "shuffled", "gain"):
        assert report[part]["detected"]["value"] is not None
        assert report[part]["detected"]["low"] is report[part]["detected"]["high"] is None


def test_what_is_moved_along_the_scan_is_lost(eyes, scans):
    truths = [eye.truth for eye in eyes]
    moved = scans.roll(round(900 / truths[0].oct_um_per_px[0]), 3)
    here, there = (summary(lesions_in_place(read_all(x), truths)) for x in (scans, moved))
    assert there["detected"] < 0.6 * here["detected"]
    assert there["likeness"] < 0.5 * here["likeness"]


def test_eyes_without_drusen_have_none_to_find():
    eye = make_eye(3, "NORMAL", size=SIZE)
    assert len(true_drusen(eye.truth)) == 0
    found = summary(lesions_in_place(read_all([eye.oct]), [eye.truth]))
    assert np.isnan(found["detected"]) and found["false"] <= 1


def test_a_scan_that_cannot_be_read_has_found_nothing(eyes):
    noise = np.random.default_rng(0).integers(0, 255, (1, SIZE, SIZE)).astype(np.uint8)
    found = summary(lesions_in_place(read_all([noise]), [eyes[0].truth]))
    assert found["readable"] == 0 and found["detected"] == 0 and np.isnan(found["thickness_um"])


def test_concordance_is_lins():
    true = np.array([2.0, 3, 4, 5])  # variance 1.25
    assert concordance(true, true) == 1
    assert concordance(true - 1, true) == pytest.approx(2.5 / (2.5 + 1))  # a bias of 1
    assert concordance(2 * true - 3.5, true) == pytest.approx(2 * 2.5 / (5 + 1.25))  # twice as high
    assert concordance(true[::-1], true) == -1 and concordance(np.full(4, 3.5), true) == 0
    assert concordance([np.nan, 1, 2, 3, 4], [9, *true]) == pytest.approx(2.5 / 3.5)
    assert np.isnan(concordance([1, 1], [1, 1])) and np.isnan(concordance([np.nan], [1]))


def test_what_the_ruler_cannot_read_has_not_risen(eyes, scans):
    truths = [eye.truth for eye in eyes[:2]]
    known = np.stack([elevation(truth) for truth in truths])
    um = [truth.oct_um_per_px[1] for truth in truths]
    noise = torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = rises_in_place(torch.cat([scans[:1], noise]), known, um)
    assert found["concordance"][0] > 0.2 and found["concordance"][1] == 0
    assert found["error"][1] == pytest.approx(np.abs(known[1]).mean())


def test_each_druse_is_matched_once_and_the_nearest_first():
    assert match([10, 12], [11.5], 5) == [(1, 0)]
    assert sorted(match([1, 20, 40], [19, 42], 5)) == [(1, 0), (2, 1)]
    assert match([], [3], 5) == match([3], [], 5) == match([3], [30], 5) == []


def test_a_class_that_is_read_off_every_scan_survives_and_one_dealt_out_does_not():
    labels = np.array(["NORMAL", "DRUSEN"] * 20)
    sure = np.stack([labels == "NORMAL", labels == "DRUSEN"], 1).astype(float)
    found = class_survives(labels, sure, ("NORMAL", "DRUSEN"))
    assert found["value"] == 1 and found["shuffled"] == pytest.approx(0.5, abs=0.1)
    nothing = np.random.default_rng(0).random((40, 2))
    found = class_survives(labels, nothing / nothing.sum(1, keepdims=True), ("NORMAL", "DRUSEN"))
    assert found["low"] < 0.5 < found["high"]


def test_nobody_gets_the_own_scan_back():
    groups = np.repeat(np.arange(8), 2)
    for order in deals(groups, np.random.default_rng(0)):
        assert sorted(order) == list(range(16)) and not (groups[order] == groups).any()


def test_a_hidden_message_does_not_survive_a_file(scans):
    message = torch.randn_like(scans).sign() * 0.3 / 127.5  # a third of a grey level
    plain = as_a_file(scans)
    left = (as_a_file(scans + message) - plain).abs().mean()
    assert left < 0.2 * message.abs().mean()
    assert (plain - scans).abs().mean() < 0.1  # and the picture does
    found = honest_cycle(scans, scans, plain)
    assert found["plain"] == 0 and found["hidden"] == found["honest"] > 0


def test_pairs_are_compared_pixel_by_pixel(scans):
    same, noisy = pair_scores(scans, scans), pair_scores(scans, scans + 0.2)
    assert same["ssim"] == pytest.approx(1) and noisy["psnr"] == pytest.approx(20, abs=0.1)
    assert noisy["ssim"] < 1

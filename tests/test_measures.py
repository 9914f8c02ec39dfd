"""The kernel distance against its definition, its interval's coverage, and the whole report."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import KernelInceptionDistance

from helpers.evaluate.report import complete, print_table
from helpers.measures.distances import (
    distance_report,
    kernel_distance,
    kernel_distance_interval,
    log_ratio_interval,
    resampled_distances,
)
from helpers.measures.features import PACKAGED, Features, packaged_network


@pytest.fixture(scope="module")
def features():
    return Features()


class Pixels(Features):
    """Stands in for the network where only the bookkeeping is tested: 8 x 8 mean grey levels."""

    def __init__(self):
        self.device, self.batch_size, self.cache = torch.device("cpu"), 64, None

    def _batch(self, images):
        small = [self.resize(image[None], 8) for image in images]
        return torch.cat(small).mean(1).flatten(1).numpy()


def layers(n, size, seed, rows=(0.4, 0.7)):
    """Images of two bright bands, uint8 (n, 1, size, size)."""
    rng = np.random.default_rng(seed)
    depth = np.linspace(0, 1, size)[:, None]
    grey = sum(np.exp(-(((depth - row) / 0.05) ** 2)) for row in rows)
    images = (
        40 + 150 * grey + rng.normal(0, 15, (n, 1, size, size)) + rng.normal(0, 20, (n, 1, 1, 1))
    )
    return images.clip(0, 255).astype(np.uint8)


def split(n, size, seed, patients):
    return SimpleNamespace(images=layers(n, size, seed), patients=np.arange(n) % patients)


def test_importing_helpers_loads_nothing_heavy():
    code = "import sys, helpers; print('torch' in sys.modules, helpers.__version__)"
    environment = {k: v for k, v in os.environ.items() if k != "DISPLAY"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert out.stdout.decode().startswith("False "), out.stderr.decode()


def test_features_do_not_depend_on_how_images_are_handed_over(features):
    grey = layers(3, 96, 0)
    expected = features(grey)
    assert expected.shape == (3, 1280) and expected.dtype == np.float32
    ways = [
        list(grey),
        np.repeat(grey, 3, axis=1),
        grey.astype(np.float32) / 127.5 - 1,
        torch.from_numpy(grey),
    ]
    for images in ways:
        np.testing.assert_allclose(features(images), expected, atol=1e-4)
    assert features([grey[0], np.repeat(grey[1], 3, 0)[:, :50]]).shape == (2, 1280)
    with pytest.raises(ValueError, match="empty"):
        features([])
    with pytest.raises(ValueError, match="1 or 3"):
        features(np.zeros((2, 4, 8, 8), np.uint8))


def test_features_are_kept_under_a_hash_of_the_pixels(tmp_path, monkeypatch):
    cached = Features(cache=tmp_path)
    images = layers(4, 64, 0)
    first = cached(images)
    monkeypatch.setattr(cached, "_batch", lambda images: pytest.fail("computed twice"))
    np.testing.assert_array_equal(cached(images), first)
    np.testing.assert_array_equal(cached(images.copy()), first)
    changed = images.copy()
    changed[0, 0, 0, 0] ^= 1
    with pytest.raises(pytest.fail.Exception):
        cached(changed)
    assert not list(tmp_path.glob("*.part"))


def test_features_are_the_pretrained_ones(features):
    """Pinned values: another resizing, scaling or set of weights would change every distance."""
    ramp = np.add.outer(np.arange(160), np.arange(200)).astype(np.float32)[None, None] / 359 * 2 - 1
    value = features(ramp)[0]
    np.testing.assert_allclose(
        [value.mean(), value.std(), (value < 0.01).mean()], [0.07262, 0.37518, 0.84766], rtol=0.01
    )


def test_kernel_distance_is_its_definition():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 7)), rng.normal(0.5, 1, size=(4, 7))
    k = lambda a, b: (a @ b / 7 + 1) ** 3  # noqa: E731
    within_x = np.mean([k(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
    within_y = np.mean([k(y[i], y[j]) for i in range(4) for j in range(4) if i != j])
    across = np.mean([k(a, b) for a in x for b in y])
    expected = 1000 * (within_x + within_y - 2 * across)
    assert kernel_distance(x, y) == pytest.approx(expected)
    with pytest.raises(ValueError, match="two images"):
        kernel_distance(x[:1], y)


def test_kernel_distance_agrees_with_torchmetrics():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 16)), rng.normal(0.3, 1, size=(40, 16))
    metric = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=1, subset_size=40)
    metric.update(torch.from_numpy(x), real=True)
    metric.update(torch.from_numpy(y), real=False)
    assert kernel_distance(x, y) == pytest.approx(1000 * metric.compute()[0].item(), rel=1e-4)


def test_kernel_distance_is_unbiased_also_for_paired_sets():
    rng = np.random.default_rng(2)
    free, paired, careless = [], [], []
    for _ in range(400):
        x, y = rng.normal(size=(6, 4)), rng.normal(size=(9, 4))
        free.append(kernel_distance(x, y))
        paired.append(kernel_distance(x, x, paired=True))
        careless.append(kernel_distance(x, x))
    assert abs(np.mean(free)) < 4 * np.std(free) / 20
    assert paired == pytest.approx([0] * 400, abs=1e-6)
    assert np.mean(careless) < -500  # what a scan's own copy would do to the estimate


def patients(rng, count, each=8, d=12):
    groups = np.repeat(np.arange(count), each)
    return rng.normal(0, 0.7, (count, d))[groups] + rng.normal(0, 0.7, (len(groups), d)), groups


def test_several_scans_of_a_patient_do_not_keep_one_population_apart():
    rng = np.random.default_rng(6)
    apart, careless, same = [], [], []
    for _ in range(200):
        (x, mine), (y, theirs) = patients(rng, 8), patients(rng, 12)
        apart.append(kernel_distance(x, y, mine, theirs))
        careless.append(kernel_distance(x, y))
        same.append(kernel_distance(x, x, mine, mine, paired=True))
    assert abs(np.mean(apart)) < 4 * np.std(apart) / np.sqrt(200)
    assert np.mean(careless) > 10 * np.std(careless) / np.sqrt(200)
    assert same == pytest.approx([0] * 200, abs=1e-6)
    one = kernel_distance(x, y, np.zeros(len(x)), theirs)  # of one patient alone, its own scans
    assert one == pytest.approx(kernel_distance(x, y, None, theirs))


def test_interval_covers_and_resampling_is_not_biased():
    rng = np.random.default_rng(3)
    estimates, means, intervals = [], [], []
    for seed in range(120):
        y, groups = patients(rng, 12)
        x = rng.normal(0.5, 1, (60, 12))
        estimates.append(kernel_distance(x, y, None, groups))
        means.append(np.mean(resampled_distances(x, y, None, groups, resamples=200, seed=seed)))
        intervals.append(kernel_distance_interval(x, y, None, groups, resamples=200, seed=seed))
    alone = np.mean(
        [np.ptp(kernel_distance_interval(x, y, seed=s, resamples=200)) for s in range(9)]
    )
    truth, intervals = np.mean(estimates), np.array(intervals)
    covered = np.mean((intervals[:, 0] < truth) & (truth < intervals[:, 1]))
    assert 0.87 < covered < 0.995
    assert abs(np.mean(means) - truth) < 0.03 * truth  # copies left in would add a third
    # every scan for itself would promise too much
    assert alone < 0.85 * np.mean(intervals[:, 1] - intervals[:, 0])
    with pytest.raises(ValueError, match="two patients"):
        kernel_distance_interval(x, y, None, np.zeros(len(y)))
    with pytest.raises(ValueError, match="group names"):
        kernel_distance_interval(x, y, None, groups[1:])


def test_log_ratio_interval_tells_the_nearer_generator():
    rng = np.random.default_rng(4)
    real, groups = patients(rng, 12)
    near, far, far_too = (rng.normal(m, 1, (80, 12)) for m in (0.3, 0.6, 0.6))
    value, low, high = log_ratio_interval(near, far, real, groups)
    assert low < value < high < 0
    assert value == pytest.approx(
        np.log(kernel_distance(near, real, None, groups) / kernel_distance(far, real, None, groups))
    )
    _, low, high = log_ratio_interval(far, far_too, real, groups)
    assert low < 0 < high
    with pytest.raises(ValueError, match="No ratio"):
        log_ratio_interval(real, far, real, groups)


@pytest.mark.slow
def test_report_moves_the_right_way(features):
    training, test = split(10, 256, 1, 5), split(10, 256, 2, 5)
    other = split(8, 256, 4, 4)
    other.images = layers(8, 256, 4, rows=(0.2, 0.9))
    small = layers(10, 256, 3).reshape(10, 1, 64, 4, 64, 4).mean((3, 5)).astype(np.uint8)
    report = distance_report(
        small, training, test,
        other_class=other, other_class_name="NORMAL",
        features=features, resamples=50,
    )  # fmt: skip
    json.dumps(report, allow_nan=False)
    distance, scale = report["kernel_distance"], report["scale"]
    assert distance["low"] <= distance["value"] <= distance["high"]
    assert max(distance["same_size"], distance["floor"]) < scale["other_class"]["value"]
    assert distance["same_size"] != distance["value"]
    assert distance["floor"] < scale["blur"] and distance["floor"] < scale["noise"]
    assert report["resolution"]["size"] == 64 and report["resolution"]["value"] > 0
    assert (distance["n_synthetic"], distance["n_real"], distance["patients"]) == (10, 10, 5)
    text = print_table(complete(report))
    assert "real NORMAL" in text and f"{distance['floor']:.1f}" in text


def test_report_of_few_images_says_what_is_doubtful(capsys):
    report = distance_report(
        layers(8, 32, 0).astype(np.float32) / 127.5 - 1, split(8, 32, 1, 3), split(8, 32, 2, 1),
        features=Pixels(), resamples=20,
    )  # fmt: skip
    json.dumps(report, allow_nan=False)
    assert report["kernel_distance"]["low"] is None
    assert any("only 8 synthetic" in w for w in report["warnings"])
    assert any("1 test patient" in w for w in report["warnings"])
    assert report["resolution"]["value"] is None and "32 px" in report["resolution"]["reason"]
    assert report["scale"]["other_class"] is None
    print_table(complete(report))
    assert "only 8 synthetic" in capsys.readouterr().out
    with pytest.raises(ValueError, match="two images"):
        distance_report(layers(1, 32, 0), split(8, 32, 1, 3), split(8, 32, 2, 2), features=Pixels())


def test_another_packaged_network_sees_with_other_eyes(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (2, 1, 64, 64)).astype(np.uint8)
    first = Features(cache=tmp_path)(images)
    other = Features(cache=tmp_path, name="tf_efficientnet_lite2")(images)
    assert first.shape == other.shape == (2, 1280) and not np.allclose(first, other, atol=0.1)


@pytest.mark.parametrize("name", PACKAGED)
def test_folded_batch_norms_change_no_feature(name):
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 224, 224), dtype=np.uint8)
    features = Features(name=name)
    pixels = features.resize(images).expand(-1, 3, -1, -1)
    plain = packaged_network(name)
    with torch.inference_mode():
        expected = plain.forward_head(plain.forward_features(pixels), pre_logits=True)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in features.network.modules())
    np.testing.assert_allclose(features(images), expected, atol=1e-4)

"""Precision, recall, density, coverage and the Frechet distance on sets whose truth is known."""

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import KernelInceptionDistance

from helpers.measures import inception
from helpers.measures.coverage import coverage_report, neighbourhoods


def clusters(n, centres, seed, spread=0.1):
    """Rows (n, 3), dealt to the centres on a line in turn."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, spread, (n, 3))
    rows[:, 0] += np.resize(centres, n)
    return rows


def test_by_hand():
    real, synthetic = np.array([[0.0], [1], [2], [10]]), np.array([[0.4], [0.6], [5], [30]])
    found = neighbourhoods(real, synthetic, k=1)
    # radii of the real ones: 1, 1, 1, 8; of the synthetic ones: 0.2, 0.2, 4.4, 25
    assert found["precision"] == 3 / 4  # 0.4 and 0.6 lie near 0 and 1, 5 near 10, 30 nowhere
    assert found["recall"] == 3 / 4  # 1 and 2 lie near 5, and 10 near 30
    assert found["density"] == (2 + 2 + 1) / 4
    assert found["coverage"] == 3 / 4
    with pytest.raises(ValueError, match="more images"):
        neighbourhoods(real, synthetic, k=4)


def test_missing_kinds_lower_recall_and_coverage_only():
    real = clusters(120, [0, 5, 10], 0)
    alike = neighbourhoods(real, clusters(120, [0, 5, 10], 1))
    missing = neighbourhoods(real, clusters(120, [0], 2))
    unreal = neighbourhoods(real, clusters(120, [0, 5, 10, 100, 200, 300], 3))
    assert min(alike.values()) > 0.8
    assert missing["precision"] > 0.8 and missing["density"] > 0.8
    assert missing["recall"] < 0.4 and missing["coverage"] < 0.4
    assert unreal["precision"] < 0.6 and unreal["recall"] > 0.7


def test_report_compares_equal_numbers_and_says_when_there_are_too_few():
    real = clusters(200, [0, 5, 10], 0)
    report = coverage_report(clusters(500, [0, 5], 1), real[:120], real[120:])
    assert report["n"] == 80
    assert report["value"]["coverage"] < 0.75 < report["floor"]["coverage"]
    few = coverage_report(real, real, real[:4])
    assert few["value"] is None and "not 4" in few["reason"]


def test_frechet_distance_of_known_gaussians_and_its_warning():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20_000, 3)), rng.normal(2, 3, size=(20_000, 3))
    # |2 - 0|^2 * 3 dimensions + 3 * (1 + 9 - 2 * 3)
    assert inception.frechet_distance(x, y)["value"] == pytest.approx(24, rel=0.03)
    assert inception.frechet_distance(x, y)["warning"] is None
    few = inception.frechet_distance(x[:29], y)
    assert few["value"] > 0 and "of 29 images for 3 dimensions" in few["warning"]


class Means(torch.nn.Module):
    """Stands in for Inception: mean grey level of each quarter."""

    def forward(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images[:, :1].float(), 2).flatten(1) / 64


def test_kid_is_torchmetrics_and_fid_warns_of_few():
    rng = np.random.default_rng(1)
    x, y = (rng.integers(0, top, (60, 1, 8, 8)).astype("u1") for top in (200, 256))
    report = inception.inception_report(x, y, network=Means())
    metric = KernelInceptionDistance(feature=Means(), subsets=1, subset_size=60)
    metric.update(torch.from_numpy(x).expand(-1, 3, -1, -1), real=True)
    metric.update(torch.from_numpy(y).expand(-1, 3, -1, -1), real=False)
    assert report["kid"]["value"] == pytest.approx(1000 * metric.compute()[0].item(), rel=1e-3)
    assert report["fid"]["value"] > 0
    both = inception.inception_report(x, y, y[::2], network=Means(), second=Means())
    assert both["dinov2"]["value"] == both["kid"]["value"] > abs(both["dinov2"]["floor"])
    few = inception.inception_report(x[:30], y, network=Means())
    assert few["fid"]["n"] == 30 and "30 images for 4" in few["fid"]["warning"]


def test_without_weights_there_is_a_reason(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(inception, "NoTrainInceptionV3", offline)
    report = inception.inception_report(np.zeros((2, 1, 8, 8), "u1"), np.zeros((2, 1, 8, 8), "u1"))
    assert report["fid"] is None and "no route to host" in report["reason"]


def test_dinov2_sees_scans_as_it_learned_to(monkeypatch):
    """Its weights have to be downloaded; what it is shown can be looked at without them."""
    make, seen = inception.timm.create_model, []

    def untrained(name, pretrained, **how):
        network = make(name, **how)
        network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        return network

    monkeypatch.setattr(inception.timm, "create_model", untrained)
    look, reason = inception.dinov2()
    with torch.inference_mode():
        rows = look(torch.full((2, 3, 100, 80), 124, dtype=torch.uint8))
    assert rows.shape == (2, 384) and reason is None
    assert seen[0].shape == (2, 3, 224, 224)
    assert seen[0][:, 0].mean().item() == pytest.approx((124 / 255 - 0.485) / 0.229, abs=1e-3)


def test_without_dinov2_there_is_a_reason(monkeypatch):
    def offline(*args, **kwargs):
        raise FileNotFoundError("not in the cache\nand more")

    monkeypatch.setattr(inception.timm, "create_model", offline)
    assert inception.dinov2() == (None, "DINOv2's weights cannot be had (not in the cache)")

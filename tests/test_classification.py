"""The classifier learns, in both ways; it is saved, loaded, resumed, and says what it cannot do."""

import copy
import os
import signal
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from helpers.classifiers import linear_head as head
from helpers.classifiers import networks
from helpers.classifiers.classification import Classification, ClassifierSettings
from helpers.classifiers.fit import fit
from helpers.classifiers.linear_head import label_numbers, linear_head
from helpers.classifiers.networks import load_classifier
from helpers.data.batches import batches
from helpers.data.scan import Scan
from helpers.data.simulated.simulate import make_eye
from helpers.data.split import Data, Split
from helpers.measures.features import Features
from helpers.training.loop import train
from helpers.training.network_file import write_network
from helpers.training.runs import open_run

CLASSES = ["NORMAL", "DRUSEN"]
SMALL = {"backbone": "test_efficientnet", "pretrained": False}


def eyes(first, count, grade=1.0, size=64):
    """Simulated scans (2 * count, 1, size, size), half of each class, and their labels."""
    made = [
        make_eye(seed, c, size=size, grade=grade).oct
        for c in CLASSES
        for seed in range(first, first + count)
    ]
    return np.stack(made)[:, None], np.repeat(CLASSES, count)


@pytest.fixture(scope="module")
def few():
    return eyes(0, 8)


def settings_for(tmp_path, **changes):
    return ClassifierSettings(
        **{"classes": tuple(CLASSES), "size": 32, "batch_size": 8, "precision": "fp32",
           **SMALL, "runs": str(tmp_path), "validate_every": 16, **changes}
    )  # fmt: skip


def run_once(settings, few, method=None):
    images, labels = few[0], label_numbers(few[1], CLASSES)
    side = Split(
        images, [Scan(str(i), "oct", "simulated", c, str(i)) for i, c in enumerate(few[1])]
    )
    data = Data(side, side, side, "simulated", "all", "0123456789abcdef")
    torch.manual_seed(settings.seed)
    method = method or Classification(settings, labels, (images, labels))
    run = open_run(settings, data, {})
    train(method, partial(batches, images, settings.batch_size, labels=labels), run, settings)
    return method, run


@pytest.mark.slow
def test_a_linear_head_beats_chance_on_other_eyes_and_not_with_shuffled_labels():
    images, labels = eyes(0, 16)
    others, truth = eyes(100, 12)
    classifier = fit(images, labels, CLASSES, size=64)
    features, test = classifier.features(images), classifier.features(others)
    probabilities = classifier(test)
    assert probabilities.shape == (24, 2) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(classifier(others[:5]), probabilities[:5], atol=1e-4)
    again = fit(features, labels, CLASSES, size=64)  # features made before: the same classifier
    np.testing.assert_allclose(again(test), probabilities, atol=1e-4)
    assert roc_auc_score(truth == "DRUSEN", probabilities[:, 1]) > 0.8
    rng = np.random.default_rng(0)
    chance = [
        roc_auc_score(
            truth == "DRUSEN",
            fit(features, rng.permutation(labels), CLASSES, size=64)(test)[:, 1],
        )
        for _ in range(3)
    ]
    assert 0.3 < np.mean(chance) < 0.7


@pytest.mark.slow
def test_fine_tuning_learns_a_small_set_and_leaves_the_random_state(few):
    before = torch.get_rng_state()
    learned = fit(
        *few, CLASSES, whole=True, size=48, steps=40, lr=1e-3, augment=0.0, precision="fp32"
    )
    assert torch.equal(before, torch.get_rng_state())
    assert (learned(few[0]).argmax(1) == label_numbers(few[1], CLASSES)).mean() > 0.9


def test_equal_seeds_give_equal_classifiers(tmp_path, few):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        settings = dict(size=32, steps=2, batch_size=4, precision="fp32", **SMALL)
        fit(*few, CLASSES, whole=True, seed=seed, **settings).save(tmp_path / name)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b and a != c


def test_features_of_the_default_backbone_are_those_of_the_house_metric(few):
    mine = fit(np.eye(2, 1280, dtype=np.float32), [0, 1], CLASSES).features(few[0][:2])
    np.testing.assert_allclose(mine, Features()(few[0][:2]), atol=1e-4)
    colour = np.repeat(few[0][:2], 3, axis=1)  # a photograph has three channels
    np.testing.assert_allclose(fit(mine, [0, 1], CLASSES).features(colour), mine, atol=1e-4)


def test_a_saved_classifier_is_loaded_from_its_file_alone(tmp_path, few):
    classifier = fit(*few, CLASSES, size=32)
    classifier.save(tmp_path / "classifier.safetensors", note="anything")
    for path in (tmp_path, tmp_path / "classifier.safetensors"):
        loaded = load_classifier(path)
        np.testing.assert_allclose(loaded(few[0]), classifier(few[0]), atol=1e-6)
        assert loaded.classes == CLASSES
    write_network(tmp_path / "other.safetensors", {}, {"network": "dcgan"})
    with pytest.raises(ValueError, match="other.safetensors: holds a 'dcgan'"):
        load_classifier(tmp_path / "other.safetensors")


def test_under_the_one_loop_it_is_exported_and_resumed_bit_for_bit(tmp_path, few, capsys):
    whole, whole_run = run_once(settings_for(tmp_path / "whole", steps=6), few)
    settings = settings_for(tmp_path / "cut", steps=6)
    labels = label_numbers(few[1], CLASSES)
    torch.manual_seed(0)
    method = Classification(settings, labels, (few[0], labels))
    step, calls = method.step, []

    def ctrl_c_in_step_3(*arguments):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments)

    method.step = ctrl_c_in_step_3
    run_once(settings, few, method)
    assert "Interrupted at step 3" in capsys.readouterr().out
    method, run = run_once(settings, few)
    assert method.steps_done == 6
    for name, value in whole.averaged.state_dict().items():
        assert torch.equal(value, method.averaged.state_dict()[name]), name
    judged = [r["validation_loss"] for r in run.metrics() if "validation_loss" in r]
    assert len(judged) > 1 and list(run.previews.iterdir())
    best = load_classifier(run.folder)(few[0])
    assert best.shape == (16, 2)
    assert run.folder.joinpath("classifier.safetensors").exists()


def test_the_linear_head_is_a_logistic_regression_on_standardised_features(monkeypatch):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    rows = rng.normal(0, 1, (90, 5)) * [1, 10, 0.1, 1, 1] + labels[:, None]
    monkeypatch.setattr(head, "STRENGTHS", np.array([0.1]))
    weight, bias = linear_head(rows, labels)
    scaler = StandardScaler().fit(rows)
    expected = LogisticRegression(C=0.1, class_weight="balanced").fit(
        scaler.transform(rows), labels
    )
    logits = rows @ weight.T + bias
    got = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(got, expected.predict_proba(scaler.transform(rows)), atol=1e-3)


def test_several_findings_at_once(few):
    both = np.stack([few[1] == "DRUSEN", np.arange(16) % 2], 1).astype(int)
    whole = dict(whole=True, size=32, steps=3, batch_size=4, precision="fp32", **SMALL)
    for way in (dict(size=32), whole):
        classifier = fit(few[0], both, ["DRUSEN", "RIGHT"], multilabel=True, **way)
        probabilities = classifier(few[0])
        assert probabilities.shape == (16, 2) and not np.allclose(probabilities.sum(1), 1)
        if not way.get("whole"):
            assert roc_auc_score(both[:, 0], probabilities[:, 0]) > 0.8


def test_rare_classes_weigh_as_much_as_common_ones():
    method = Classification(ClassifierSettings(classes=("A", "B"), pretrained=False), [0] * 9 + [1])
    logits = torch.zeros(10, 2, requires_grad=True)
    method.loss(logits, torch.tensor([0] * 9 + [1])).backward()
    assert logits.grad[:, 0].sum().item() == pytest.approx(0, abs=1e-6)


def test_any_backbone_and_words_for_what_cannot_work(monkeypatch, few):
    network = networks.Network("resnet10t", 32, CLASSES)
    assert network(torch.zeros(2, 1, 48, 40)).shape == (2, 2)
    with pytest.raises(ValueError, match="Label CNV is none of the classes NORMAL, DRUSEN"):
        fit(few[0], ["CNV"] * 16, CLASSES)
    with pytest.raises(ValueError, match="8 images without contrast.*DRUSEN"):
        fit(few[0][:8], few[1][:8], CLASSES)
    with pytest.raises(ValueError, match="16 images but 3 labels"):
        fit(few[0], few[1][6:9], CLASSES)
    with pytest.raises(ValueError, match=r"must be 0/1 of shape \(16, 2\)"):
        fit(few[0], few[1], CLASSES, multilabel=True)
    with pytest.raises(ValueError, match=r"not \(16, 2, 64, 64\)"):
        fit(few[0].repeat(2, 1), few[1], CLASSES)

    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(networks.timm, "create_model", no_network)
    with pytest.raises(OSError, match="backbone='resnet18'.*tf_efficientnet_lite0"):
        networks.Network("resnet18", 32, CLASSES, pretrained=True)


def test_depthwise_layers_compute_in_float32_under_autocast_and_copies_are_their_own():
    torch.manual_seed(0)
    network = networks.Network("tf_efficientnet_lite0", 32, CLASSES)
    layer = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1)
    maps = torch.randn(2, layer.in_channels, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        drawn = layer(maps)
        assert layer(maps.bfloat16()).dtype == torch.bfloat16
        assert next(network.children())(torch.randn(2, 3, 32, 32)).isfinite().all()
    assert torch.equal(drawn, layer(maps)) and drawn.dtype == torch.float32
    copied = copy.deepcopy(network)
    with torch.no_grad():
        layer.weight.zero_()
    found = dict(copied.named_modules())[dict((m, n) for n, m in network.named_modules())[layer]]
    assert found(maps).abs().max() > 0

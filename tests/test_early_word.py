"""An early word while a training runs: what it says of planted failures, and that it costs none."""

import hashlib
import time

import numpy as np
import pytest
import torch
from support.methods import CLASSES, aligned_data, aligned_gan, retinas

from helpers.data import shape
from helpers.data.scan import Scan
from helpers.data.split import Split
from helpers.gan import judging
from helpers.gan.early_word import copied_share, early_word, shrink
from helpers.measures.probe import probe_auroc
from helpers.training.loop import train

COUNT = 60
LABELS = np.array(CLASSES)[np.arange(COUNT) % 2]


def crops(seed):
    return np.stack([shape.align(scan[0], 64, 64)[0] for scan in retinas(LABELS, seed)])[:, None]


def thumbnails(images):
    """Features of crops (N, 1, 64, 64): their blocks of 4 px."""
    return images.reshape(len(images), 16, 4, 16, 4).mean((2, 4)).reshape(len(images), -1) / 255


def disguised(images, seed=5):
    """Mirrored, noisier, of more contrast."""
    noise = np.random.default_rng(seed).normal(0, 12, images.shape)
    return (images[..., ::-1] * 1.1 - 10 + noise).clip(0, 255).astype(np.uint8)


def swapped(images):
    """The scans of the one class under the name of the other."""
    return images.reshape(-1, 2, *images.shape[1:])[:, ::-1].reshape(images.shape)


PLANTED = {
    "one scan": ("collapsing", lambda train: disguised(train[np.arange(COUNT) % 2])),
    "one scan of one class": (
        "collapsing",
        lambda train: np.where((LABELS == "NORMAL")[:, None, None, None], train[1], crops(3)),
    ),
    "training scans": ("copying", lambda train: train),
    "training scans, disguised": ("copying", disguised),
    "a third of them": (
        "copying",
        lambda train: np.where((np.arange(COUNT) % 6 < 2)[:, None, None, None], train, crops(3)),
    ),
    "noise": (
        "unlike scans",
        lambda train: np.random.default_rng(4).integers(0, 256, train.shape, np.uint8),
    ),
    "classes swapped": ("not useful yet", lambda train: swapped(crops(3))),
    "other patients": ("useful so far", lambda train: crops(3)),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_said_of_planted_failures(name):
    expected, draw = PLANTED[name]
    train, unseen = crops(1), crops(2)
    drawn = draw(train)
    taught, made, real = (thumbnails(side) for side in (train, drawn, unseen))
    probes = [probe_auroc(side, LABELS, real, LABELS) for side in (made, taught)]
    sides = [{c: side[c == LABELS] for c in CLASSES} for side in (made, real)]
    start = time.perf_counter()
    copied = copied_share(*(shrink(side) for side in (drawn, train, unseen)))
    word, why = early_word(*sides, *probes, copied)
    assert time.perf_counter() - start < 1
    assert word == expected, (why, probes, copied)


def test_where_nothing_can_be_said_it_says_so():
    rng = np.random.default_rng(0)
    made, real = ({"A": rng.normal(size=(30, 8))} for _ in range(2))
    assert early_word(made, real)[0] == "no failure seen"  # of one class
    assert early_word(made, real, 0.9, 0.55)[0] == "cannot be told"
    assert early_word(made, real, 0.55, 0.62)[0] == "not useful yet"  # near, but shows nothing
    assert early_word(made, real, 0.9, None) == (
        "useful so far", "it teaches an AUROC of 0.90; what real scans teach is not known"
    )  # fmt: skip
    few = rng.normal(size=(19, 1024)).astype(np.float32)
    assert copied_share(few, few, few) is None
    made["A"] = np.full((30, 8), np.nan)  # a network whose weights are no numbers
    assert early_word(made, real, 0.9, 0.9)[0] == "unlike scans"


def learned_sides():
    learned, labels, *_ = aligned_data()
    scans = [Scan(str(i), "oct", "bands", label, str(i)) for i, label in enumerate(labels)]
    training = Split(learned.images, scans, learned.shapes)
    return training, Split(crops(2), [scans[0]] * COUNT)


def test_what_real_scans_teach_is_known_where_classes_take_turns(tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "TAUGHT", 47)  # of 48: every second one is of one class
    method = aligned_gan(tmp_path)[0]
    judging.know(method, *learned_sides())
    assert 0 <= method.real_probe <= 1


def test_a_class_that_no_training_scan_has_is_not_asked_about(tmp_path):
    method, (_, _, validation, labels) = aligned_gan(tmp_path)[0], aligned_data()
    judging.begin(method, method.averaged, validation, method.features, ("DRUSEN",), labels,
                  method.shapes)  # fmt: skip
    assert np.isfinite(method.validate(method.averaged)) and "probe" not in method.judgement


def test_a_training_says_and_logs_it_and_is_the_same_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(judging, "EARLY", 30)
    hashes = []
    for known in (False, True):
        arguments = aligned_gan(tmp_path / str(known), steps=4, validate_every=16, width=4)
        if known:
            state = torch.get_rng_state(), np.random.get_state()[1].tolist()
            judging.know(arguments[0], *learned_sides())
            assert torch.equal(state[0], torch.get_rng_state())
            assert state[1] == np.random.get_state()[1].tolist()
        run = train(*arguments)
        hashes.append(hashlib.sha256(run.generator.read_bytes()).hexdigest())
        judged = [record for record in run.metrics() if "word" in record]
        assert judged and judged[0]["word"] == "too early to say"
        said = capsys.readouterr().out
        assert all(f"{r['images']:,.0f} images: {r['word']}: {r['why']}." in said for r in judged)
    assert hashes[0] == hashes[1]
    assert judged[-1]["word"] not in ("too early to say", "useful so far")
    assert 0 <= arguments[0].real_probe <= 1

"""The probe: do these scans teach what tells classes apart?"""

import numpy as np
import pytest

from helpers.measures.probe import probe_auroc


def draw(count, names, apart, seed):
    """Features (count, 20) and labels; the classes lie ``apart`` standard deviations apart, each
    along an axis of its own."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(names, count)
    features = rng.normal(size=(count, 20))
    for axis, name in enumerate(names):
        features[labels == name, axis] += apart
    return features, labels


@pytest.mark.parametrize("names", [["A", "B"], ["A", "B", "C"]])
def test_what_can_be_told_apart_is_and_noise_is_not(names):
    taught, asked = (draw(400, names, 6, seed) for seed in (0, 1))
    assert probe_auroc(*taught, *asked) > 0.999
    taught, asked = (draw(400, names, 0, seed) for seed in (0, 1))
    assert abs(probe_auroc(*taught, *asked) - 0.5) < 0.08


def test_scans_of_the_wrong_class_teach_the_opposite():
    taught, asked = (draw(400, ["A", "B"], 6, seed) for seed in (0, 1))
    swapped = np.where(taught[1] == "A", "B", "A")
    assert probe_auroc(taught[0], swapped, *asked) < 0.001


def test_of_three_classes_every_pair_counts_alike():
    """A and B are one and the same, C is another: one pair by chance, two certain."""
    names = np.array(["A", "B", "C"])
    rng = np.random.default_rng(0)

    def both(count):
        labels = rng.choice(names, count, p=[0.45, 0.45, 0.1])
        features = rng.normal(size=(count, 20))
        features[labels == "C", 0] += 8
        return features, labels

    assert probe_auroc(*both(600), *both(600)) == pytest.approx((0.5 + 1 + 1) / 3, abs=0.05)


def test_a_class_that_only_one_side_has_is_not_asked_for():
    taught, asked = draw(300, ["A", "B", "C"], 6, 0), draw(300, ["A", "B"], 6, 1)
    assert probe_auroc(*taught, *asked) > 0.999


def test_one_class_is_refused_in_words():
    two, one = draw(50, ["A", "B"], 1, 0), draw(50, ["A"], 1, 1)
    for taught, asked in ((two, one), (one, two)):
        with pytest.raises(ValueError, match="two classes on both sides, not A"):
            probe_auroc(*taught, *asked)
    with pytest.raises(ValueError, match="not 0"):  # classes may be numbers
        probe_auroc(two[0], (two[1] == "A").astype(int), one[0], np.zeros(50, int))
    with pytest.raises(ValueError, match="not none"):
        probe_auroc(*two, one[0], ["C"] * 50)

"""The score that chooses a translator's checkpoint: it sees whether drusen are where they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from micrometres import mean_map
from support.methods import Thumbnails, make_domains
from translation import batches_as_found, chosen, unequal

from helpers.data.cache import read_scan
from helpers.data.pixels import to_float
from helpers.data.scan import Scan
from helpers.data.split import Data, Split
from helpers.data.two_modalities import (
    Domains,
    as_right_eyes,
    side_of_body,
    truths_of,
    unpaired_batches,
)
from helpers.translation.judge import CLASS_LOST, MOST_EYES, PLACE_LOST, Judge, evenly, known_rises
from helpers.translation.lesions import elevation

SIZE, EYES = 128, 12  # of each class
CLASSES = ("NORMAL", "DRUSEN")


@pytest.fixture(scope="module")
def simulated():
    """Simulated eyes, left ones and right ones, as bands; photographs that say by their
    grey level which eye it is."""
    scans = [
        Scan(f"simulated/{label}/P{k:05d}_{'OD' if k % 2 else 'OS'}", "oct", "simulated", label,
             f"P{k:05d}") for label in CLASSES for k in range(EYES)
    ]  # fmt: skip
    levels = np.stack([read_scan(scan, SIZE, "band") for scan in scans])
    numbers = np.arange(len(scans), dtype=np.uint8)[:, None, None, None]
    photographs = np.broadcast_to(numbers, (len(scans), 3, SIZE, SIZE))
    dfe, oct = (Split(images, scans) for images in (photographs, levels))
    sides = [Data(part, part, part, "simulated", "DRUSEN", "0") for part in (dfe, oct)]
    return Domains(*sides, CLASSES, paired=True)


class Draws(torch.nn.Module):
    """Draws the k-th of ``scans`` (N, 1, S, S) from the k-th photograph."""

    def __init__(self, scans):
        super().__init__()
        self.one = torch.nn.Parameter(torch.zeros(1))  # says on which device it is
        self.scans = scans

    def forward(self, images, to):
        return self.scans[((images.mean((1, 2, 3)) + 1) * 127.5).round().long()]


def true_scans(domains):
    return to_float(domains.oct.validation.images)


def dealt(scans):
    """Each to the next eye but one of its own class, which is of the same side of the body."""
    return torch.cat([part.roll(2, 0) for part in scans.split(len(scans) // 2)])


def with_half_the_rise(scans, domains):
    """Columns moved down by half of what drusen lift them."""
    truths, um = truths_of(domains.dfe.validation.scans, SIZE, "band")
    rows, moved = np.arange(SIZE), scans.numpy().copy()
    for scan, truth, um_row in zip(moved, truths, um):
        for x, lift in enumerate(elevation(truth) / um_row / 2):
            scan[0, :, x] = np.interp(rows - lift, rows, scan[0, :, x])
    return torch.from_numpy(moved)


def measured(domains, *sets):
    """(score, what it is made of) of each of several sets of scans."""
    judge = Judge(domains, Thumbnails(), SIZE, "band")
    return [(judge(Draws(scans)), judge.measured) for scans in sets]


@pytest.mark.parametrize("paired", [True, False])
def test_scans_that_are_of_these_eyes_beat_the_same_scans_dealt_out(simulated, paired):
    domains = replace(simulated, paired=paired)  # the truth of a simulated eye needs no pair
    true = true_scans(domains)
    (good, own), (bad, others) = measured(domains, true, dealt(true))
    for name in ("kernel_distance", "class_auroc"):  # which see no difference
        assert own[name] == pytest.approx(others[name], abs=1e-3)
    assert own["rpe_concordance"] > 0.8 > 0.3 > others["rpe_concordance"]
    assert own["rpe_um"] < 8 < others["rpe_um"]
    lost = PLACE_LOST * (own["rpe_concordance"] - others["rpe_concordance"])
    assert bad - good == pytest.approx(lost, abs=0.5)


def test_a_blank_the_mean_scan_and_half_the_height_are_worse_than_true_scans(simulated):
    true = true_scans(simulated)
    sets = {"true": true, "half": with_half_the_rise(true, simulated),
            "mean": true.mean(0, keepdim=True).expand_as(true),
            "blank": torch.zeros_like(true)}  # fmt: skip
    found = dict(zip(sets, measured(simulated, *sets.values())))
    score, place = ({name: f[k] for name, f in found.items()} for k in (0, 1))
    place = {name: values["rpe_concordance"] for name, values in place.items()}
    assert score["true"] < min(score["half"], score["mean"], score["blank"])
    assert place["true"] > place["half"] + 0.05 > place["mean"] + 0.1
    assert abs(place["mean"]) < 0.1 and place["blank"] == 0
    assert all(np.isfinite(value) for value in found["blank"][1].values())  # the loop reads them


def test_turned_eyes_are_turned_back_before_they_meet_the_truth(simulated):
    turned = Domains(*map(as_right_eyes, (simulated.dfe, simulated.oct)), CLASSES, True, [], True)
    left = [side_of_body(scan.path) == "left" for scan in turned.dfe.validation.scans]
    assert 0 < sum(left) < len(left)
    as_they_lie, right_eyes = true_scans(simulated), true_scans(turned)
    own, right, wrong = (
        found["rpe_concordance"]
        for _, found in (*measured(simulated, as_they_lie),
                         *measured(turned, right_eyes, as_they_lie))
    )  # fmt: skip
    assert right == own > wrong + 0.1


def as_if_real(domains, **changes):
    """The same pictures of eyes of whom no truth is known."""

    def nameless(split):
        scans = [replace(s, path=s.path.replace("simulated", "P"), dataset="real")
                 for s in split.scans]  # fmt: skip
        return Split(split.images, scans)

    sides = [replace(data, validation=nameless(data.validation), train=nameless(data.train))
             for data in (domains.dfe, domains.oct)]  # fmt: skip
    return replace(domains, dfe=sides[0], oct=sides[1], **changes)


@pytest.mark.parametrize("oriented", [False, True])
def test_real_pairs_are_held_against_the_ruler_on_their_own_scan(simulated, oriented):
    domains = as_if_real(simulated)
    if oriented:
        sides = map(as_right_eyes, (domains.dfe, domains.oct))
        domains = Domains(*sides, CLASSES, True, [], True)
    true = true_scans(domains)
    (good, own), (bad, others) = measured(domains, true, dealt(true))
    assert own["rpe_concordance"] == 1 > others["rpe_concordance"] + 0.5 and good < bad
    assert "rpe_um" not in own  # nobody said how many um a row is


def test_real_photographs_without_a_pair_are_judged_by_distance_and_class(simulated):
    domains = as_if_real(simulated, paired=False)
    ((score, found),) = measured(domains, true_scans(domains))
    assert set(found) == {"kernel_distance", "class_auroc"}
    assert score == found["kernel_distance"] + CLASS_LOST * (1 - found["class_auroc"])


def test_healthy_eyes_have_no_place_to_be_right_about(simulated):
    known = known_rises(simulated, SIZE, "band")
    labels = simulated.dfe.validation.labels
    assert set(labels[known["eyes"]]) == {"DRUSEN"} and known["um"]
    truths, um = truths_of([simulated.dfe.validation.scans[i] for i in known["eyes"]], SIZE, "band")
    assert np.array_equal(known["units"], um)
    assert np.array_equal(known["rises"][0], elevation(truths[0]))
    assert len(known["eyes"]) < EYES  # of some the ruler loses the druse on the true scan, too
    every = simulated.dfe.validation
    healthy = Split(every.images[:EYES], every.scans[:EYES])
    domains = replace(simulated, dfe=replace(simulated.dfe, validation=healthy))
    assert known_rises(domains, SIZE, "band") is None


def test_eyes_are_chosen_at_equal_distances():
    assert evenly(7, 3).tolist() == [0, 3, 6] and evenly(4, 9).tolist() == [0, 1, 2, 3]
    assert len(evenly(0, 9)) == 0 and len(evenly(1000, MOST_EYES)) == MOST_EYES


# ------------------------------------------------------------ notebooks/results/translation.py


def test_each_score_chooses_its_own_checkpoint():
    log = [{"images": k, "kernel_distance": d, "class_auroc": 0.9, "rpe_concordance": c}
           for k, d, c in ((1, 100, 0.1), (2, 120, 0.4), (3, 300, 0.5))]  # fmt: skip
    found = {who: r["images"] for who, r in chosen(log).items()}
    assert found == {"distance, class": 1, "distance, class, place": 2, "last": 3}


def test_two_clinics_have_the_shares_that_are_asked_for_and_whole_patients():
    domains = make_domains(paired=False)
    for data in (domains.dfe, domains.oct):
        scans = [replace(s, label=CLASSES[k % 40 < 20], patient=f"p{k // 2}")
                 for k, s in enumerate(data.train.scans * 5)]  # fmt: skip
        data.train = Split(np.repeat(data.train.images, 5, 0), scans)
    domains = replace(domains, classes=CLASSES)
    before = {modality: len(getattr(domains, modality).train) for modality in ("dfe", "oct")}
    found = unequal(domains, (0.9, 0.1))
    for data, share in ((found.dfe, 0.9), (found.oct, 0.1)):
        labels = data.train.labels
        assert np.mean(labels == "NORMAL") == pytest.approx(share, abs=0.02)
        assert len(data.train.images) == len(labels) < before["dfe"]
        assert all(np.sum(data.train.patients == p) == 2 for p in data.train.patients)
    for draw, share in ((batches_as_found, 0.1), (unpaired_batches, 0.5)):
        stream = draw(found, 20)
        labels = np.concatenate([next(stream)[0][1].numpy() for _ in range(20)])
        assert labels.mean() == pytest.approx(share, abs=0.03)  # of photographs with drusen
    with pytest.raises(ValueError, match="no pairs"):
        unequal(make_domains(paired=True), (0.9, 0.1))


# ------------------------------------------------------------ notebooks/results/micrometres.py


def test_a_mean_map_is_of_eyes_that_were_scanned_alike():
    eyes = [{"name": f"eye{n}", "um": np.full((n, 2, 8), n, float)} for n in (49, 49, 31)]
    assert (mean_map(eyes[:2]) == 49).all()
    with pytest.raises(ValueError, match="equally many B-scans, not eye49 49, eye49 49, eye31 31"):
        mean_map(eyes)

"""Modes inside one disease, their shares and who is not reached, on sets whose truth is known."""

import numpy as np
import pytest

from helpers.measures.coverage import difference, find_modes, flat_map, reached, shares

CENTRES = 10 * np.eye(4, 20)


def planted(counts, seed=0):
    """Rows around CENTRES, `counts` of each, shuffled, and which centre each is of."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    return CENTRES[truth] + rng.normal(0, 0.3, (len(truth), CENTRES.shape[1])), truth


def test_planted_groups_are_found_and_the_largest_comes_first():
    counts = [20, 90, 10, 40]
    rows, truth = planted(counts)
    modes = find_modes(rows, 4)
    assert modes.count == 4
    others, of_others = planted([9, 8, 7, 6], seed=1)
    order = np.argsort(np.argsort(-np.array(counts)))  # the place of each planted group
    assert (modes.of(rows) == order[truth]).all()
    assert (modes.of(others) == order[of_others]).all()
    again = find_modes(rows, 4)
    assert (again.groups.cluster_centers_ == modes.groups.cluster_centers_).all()


def test_typical_scans_are_the_nearest_to_their_centre():
    rows, _ = planted([20, 12, 9, 3])
    modes = find_modes(rows, 4)
    typical, groups, flat = modes.typical(rows, each=4), modes.of(rows), modes.axes.transform(rows)
    assert [len(those) for those in typical] == [4, 4, 4, 3]
    for group, those in enumerate(typical):
        assert (groups[those] == group).all()
        away = np.linalg.norm(flat - flat[groups == group].mean(0), axis=1)
        own = np.flatnonzero(groups == group)
        assert list(those) == list(own[np.argsort(away[own])][: len(those)])
    nobody = modes.typical(rows[groups != 3])
    assert [len(those) for those in nobody] == [4, 4, 4, 0]


def test_too_few_scans_for_so_many_modes():
    rows, _ = planted([20, 20, 20, 20])
    with pytest.raises(ValueError, match="11 scans for 4 modes: that needs 12; choose fewer"):
        find_modes(rows[:11], 4)
    assert find_modes(rows[:12], 4).count == 4


def test_shares_of_known_counts():
    found = shares(np.repeat([0, 1, 3], [50, 30, 20]), 4)
    assert found["share"] == pytest.approx([0.5, 0.3, 0, 0.2])
    # of a binomial share p: 1.96 sqrt(p (1 - p) / n)
    for k, p in ((0, 0.5), (1, 0.3), (3, 0.2)):
        half = 1.96 * np.sqrt(p * (1 - p) / 100)
        assert found["low"][k] == pytest.approx(p - half, abs=0.03)
        assert found["high"][k] == pytest.approx(p + half, abs=0.03)
    assert found["low"][2] == found["high"][2] == 0
    again = shares(np.repeat([0, 1, 3], [50, 30, 20]), 4)
    assert all((found[name] == again[name]).all() for name in found)


def test_scans_of_few_patients_say_less():
    groups = np.repeat([0, 1], [60, 40])
    by_scan = shares(groups, 2)
    by_patient = shares(groups, 2, [f"patient {i // 10}" for i in range(100)])  # each of one mode
    assert by_patient["share"] == pytest.approx(by_scan["share"])

    def width(found):
        return found["high"] - found["low"]

    assert (width(by_patient) > 2.5 * width(by_scan)).all()  # sqrt(10) times, about
    alone = shares(groups, 2, np.random.default_rng(0).permutation(100))
    assert width(alone) == pytest.approx(width(by_scan), abs=0.05)


def test_of_one_patient_a_share_has_no_interval():
    found = shares(np.array([0, 0, 1]), 2, ["a"] * 3)
    assert found["share"][1] == pytest.approx(1 / 3)
    assert np.isnan(found["low"]).all() and np.isnan(found["high"]).all()


def test_patients_with_more_scans_count_as_much_more():
    found = shares(np.array([0] * 30 + [1, 1]), 2, ["a"] * 30 + ["b", "c"])
    assert found["share"] == pytest.approx([30 / 32, 2 / 32])
    assert found["low"][0] == 0 and found["high"][0] == 1  # without a, or with a alone


def test_difference_of_shares():
    assert difference([0.2, 0.8], [0.2, 0.8]) == 0
    assert difference([1, 0, 0], [0, 0.5, 0.5]) == 1
    assert difference([0.5, 0.3, 0.2], [0.4, 0.3, 0.3]) == pytest.approx(0.1)
    assert difference([0.4, 0.6], [0.1, 0.9]) == difference([0.1, 0.9], [0.4, 0.6])


def test_a_mode_that_is_not_drawn_is_seen():
    rows, _ = planted([40, 30, 20, 10])
    modes = find_modes(rows, 4)
    real = shares(modes.of(planted([40, 30, 20, 10], seed=1)[0]), 4)["share"]
    alike = shares(modes.of(planted([38, 32, 21, 9], seed=2)[0]), 4)
    dropped = shares(modes.of(planted([50, 50, 0, 10], seed=3)[0]), 4)
    assert difference(real, alike["share"]) < 0.05
    assert difference(real, dropped["share"]) == pytest.approx(0.209, abs=0.01)
    assert dropped["share"][2] == dropped["high"][2] == 0 < real[2]


def test_a_patient_whose_group_is_not_drawn_is_not_reached():
    rows, truth = planted([30, 30, 30, 30])
    synthetic = planted([40, 40, 0, 20], seed=1)[0]
    patients = np.array([f"{group}{'ab'[k % 2]}" for k, group in enumerate(truth)])
    found = reached(rows, synthetic, patients)
    assert set(found) == set(patients)
    assert found["2a"] == found["2b"] == 0
    assert min(share for name, share in found.items() if name[0] != "2") > 0.7
    assert list(found.values()) == sorted(found.values())
    assert list(found)[:2] == ["2a", "2b"]


def test_neighbourhoods_by_hand():
    real = np.array([[0.0], [1], [2], [3]])
    # the 2nd nearest scans of others: of 0 at 2, of 1 at 3, of 2 at 1 (itself 2 - 1), of 3 at 1
    found = reached(real, np.array([[5.5]]), ["a", "a", "b", "b"], k=1)
    # radii with k=1: 2, 1, 1, 2; the synthetic scan is 5.5, 4.5, 3.5, 2.5 away
    assert found == {"a": 0, "b": 0}
    assert reached(real, np.array([[5.0]]), ["a", "a", "b", "b"], k=1) == {"a": 0, "b": 0.5}
    assert reached(real, np.array([[5.5]]), ["a", "a", "b", "b"], k=2) == {"a": 0, "b": 0.5}


def test_a_patient_s_own_frames_do_not_make_its_neighbourhood_smaller():
    rng = np.random.default_rng(0)
    crowd, frames = rng.normal(0, 1, (60, 3)), np.array([[3.0, 0, 0]])
    patients = [f"p{i}" for i in range(60)]
    synthetic = np.array([[2.5, 0, 0]])
    shares_of = []
    for copies in (1, 20):
        mine = frames + rng.normal(0, 0.01, (copies, 3))
        rows, who = np.concatenate([crowd, mine]), patients + ["many"] * copies
        shares_of.append(reached(rows, synthetic, who)["many"])
    assert shares_of == [1, 1]


def test_neighbourhoods_need_other_patients():
    rows, _ = planted([5, 5, 5, 5])
    with pytest.raises(ValueError, match="neighbourhoods of 5 need as many scans of other"):
        reached(rows, rows, ["a"] * 16 + ["b"] * 4)
    assert reached(rows, rows, ["a"] * 15 + ["b"] * 5)


def test_a_map_has_a_point_for_every_scan_and_keeps_groups_together():
    rows, truth = planted([15, 15, 15, 15])
    other, of_other = planted([5, 0, 8, 0], seed=1)
    modes = find_modes(rows, 4)
    first, second = flat_map(modes, rows, other)
    assert first.shape == (60, 2) and second.shape == (13, 2)
    centres = np.array([first[truth == k].mean(0) for k in range(4)])
    for points, groups in ((first, truth), (second, of_other)):
        away = np.linalg.norm(points[:, None] - centres, axis=2)
        assert (away.argmin(1) == groups).mean() > 0.9
    assert (flat_map(modes, rows, other)[1] == second).all()
    assert flat_map(modes, rows[:5])[0].shape == (5, 2)  # fewer than the perplexity

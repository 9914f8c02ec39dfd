"""Distillation losses: by hand, by their invariances, and of nothing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.distillation.losses import (
    class_prototype_matching,
    class_similarity_alignment,
    dkd,
    fitnets,
    gate,
    kd,
    partners,
    prototypes,
    rkd,
    similarities,
    similarity_preserving,
    simkd,
    softened_kl,
)

PAIRWISE = {
    "cpm": class_prototype_matching, "csa": class_similarity_alignment, "kd": kd,
    "kd multilabel": lambda a, b: kd(a, b, multilabel=True), "fitnets": fitnets, "simkd": simkd,
    "rkd": rkd, "sp": similarity_preserving,
    "dkd": lambda a, b: dkd(a, b, F.one_hot(torch.arange(len(a)) % 5, 5)[:, : a.shape[1]]),
}  # fmt: skip
each_loss = pytest.mark.parametrize("name", PAIRWISE)


def two(rows=6, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, rows, width, generator=generator, dtype=torch.float64).unbind()


@each_loss
def test_a_student_like_its_teacher_has_nothing_to_learn(name):
    student, teacher = two()
    loss = PAIRWISE[name]
    assert loss(teacher.clone(), teacher).abs() < 1e-12
    assert loss(student, teacher) > 1e-4


@each_loss
def test_only_the_student_learns(name):
    student, teacher = (side.requires_grad_() for side in two())
    PAIRWISE[name](student, teacher).backward()
    assert student.grad.abs().max() > 0 and teacher.grad is None


@each_loss
def test_nothing_to_compare_is_zero_with_a_gradient(name):
    student, teacher = (side[:0].requires_grad_() for side in two())
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    loss = PAIRWISE[name](student * weight, teacher)
    loss.backward()
    assert loss == 0 and weight.grad == 0


@each_loss
def test_rows_that_are_alike_pull_no_harder_than_others(name):
    """Images are drawn twice; a direction between two equal rows must not explode, nor be NaN."""
    student, teacher = two()
    for rows in ([0, 0, 1, 1, 2, 3], [0] * 6):
        given = student[rows].requires_grad_()
        PAIRWISE[name](given, teacher[rows]).backward()
        assert given.grad.isfinite().all() and given.grad.abs().max() < 10


def test_prototypes_are_class_means_and_a_sample_counts_for_each_of_its_classes():
    values = torch.tensor([[1.0, 0], [3, 2], [5, 7]])
    labels = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0]])
    means, present = prototypes(values, labels)
    assert means.tolist() == [[2, 1], [4, 4.5], [0, 0]] and present.tolist() == [True, True, False]


def test_softened_kl_by_hand():
    student, teacher = np.array([[0.0, 2.0]]), np.array([[1.0, 0.0]])
    p = np.exp(teacher / 4) / np.exp(teacher / 4).sum()
    q = np.exp(student / 4) / np.exp(student / 4).sum()
    wanted = 16 * (p * np.log(p / q)).sum()
    found = softened_kl(torch.from_numpy(student), torch.from_numpy(teacher), 4.0)
    assert found.item() == pytest.approx(wanted)


def test_at_high_temperature_it_is_half_the_variance_of_the_difference():
    student, teacher = two()
    wanted = (student - teacher).var(1, unbiased=False).mean() / 2
    assert softened_kl(student, teacher, 1e3).item() == pytest.approx(wanted.item(), rel=1e-2)


def test_prototype_matching_splits_dimensions_by_the_students_mean():
    """Shifting one group's teacher numbers by a constant changes nothing; across groups it does."""
    student = torch.tensor([[2.0, 3, -1, -2], [4, 5, -2, -1]], dtype=torch.float64)  # major: 0 1
    teacher = torch.tensor([[1.0, 0, 2, 0], [0, 1, 0, 2]], dtype=torch.float64)
    plain = class_prototype_matching(student, teacher)
    shifted = teacher + torch.tensor([5.0, 5, 0, 0], dtype=torch.float64)
    assert class_prototype_matching(student, shifted).item() == pytest.approx(plain.item())
    crossed = teacher + torch.tensor([5.0, 0, 5, 0], dtype=torch.float64)
    assert abs(class_prototype_matching(student, crossed) - plain) > 0.1
    by_group = sum(softened_kl(student[:, g], teacher[:, g], 4) for g in ([0, 1], [2, 3]))
    assert plain.item() == pytest.approx(by_group.item())


def test_similarities_ignore_length_and_three_classes_have_three_free_numbers():
    logits, _ = two(3, 3)
    found = similarities(logits * torch.tensor([[1.0], [2], [7]]))
    torch.testing.assert_close(found, similarities(logits))
    torch.testing.assert_close(found, found.T)
    torch.testing.assert_close(found.diagonal(), torch.ones(3, dtype=torch.float64))


def test_kd_is_decoupled_into_the_target_and_the_rest():
    """Zhao et al. 2022, eq. 5: KD = KL of the target + (1 - p_target) KL of the rest."""
    student, teacher = two(1, 4)
    labels = torch.tensor([[0, 1, 0, 0]])
    rest = 1 - F.softmax(teacher / 4, 1)[0, 1].item()
    found = dkd(student, teacher, labels, 4.0, alpha=1, beta=rest)
    assert found.item() == pytest.approx(kd(student, teacher, 4.0).item())


def test_dkd_refuses_several_labels():
    student, teacher = two(2, 3)
    with pytest.raises(ValueError, match="one label per sample"):
        dkd(student, teacher, torch.tensor([[1, 1, 0], [0, 0, 1]]))


def test_dkd_of_one_class_has_nothing_to_tell_apart():
    student = torch.ones(3, 1, requires_grad=True)
    dkd(student, torch.zeros(3, 1), torch.ones(3, 1)).backward()
    assert (student.grad == 0).all()


def test_relations_are_exact_in_large_batches_with_rows_drawn_twice():
    """Above 25 rows torch.cdist takes products, unless told not to."""
    student, teacher = two(32, 256)
    student, teacher = (torch.cat([side, side]) for side in (student, teacher))
    rough = rkd(student.float(), teacher.float())
    assert rough.item() == pytest.approx(rkd(student, teacher).item(), rel=1e-4)


def test_multilabel_kd_by_hand():
    p, q = 1 / (1 + np.exp(-0.5)), 1 / (1 + np.exp(-0.25))
    wanted = 16 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    found = kd(torch.tensor([[1.0]]), torch.tensor([[2.0]]), 4.0, multilabel=True)
    assert found.item() == pytest.approx(wanted, rel=1e-4)


def test_relations_ignore_turning_moving_and_scaling():
    _, teacher = two(6, 4)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    assert rkd(3 * teacher @ turn + 2, teacher).abs() < 1e-10
    assert similarity_preserving(3 * teacher @ turn, teacher).abs() < 1e-10
    assert similarity_preserving(teacher + 2, teacher) > 1e-4


def test_partners_have_the_same_labels_or_there_are_none():
    labels = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 1, 1]])
    of = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 1, 0]])
    seen = set()
    for seed in range(20):
        draw = torch.rand(3, 3, generator=torch.Generator().manual_seed(seed))
        rows, there = partners(labels, of, draw)
        assert there.tolist() == [True, True, False] and rows[0] == 1
        seen.add(rows[1].item())
    assert seen == {0, 2}


def test_the_gate_opens_where_the_teacher_is_better():
    labels = F.one_hot(torch.tensor([0, 1, 2, 0, 1, 2]), 3)
    good, bad = labels * 0.9 + 0.05, torch.full((6, 3), 1 / 3)
    assert gate(bad, good, labels, labels).all()
    assert not gate(good, bad, labels, labels).any()
    mixed = torch.where(torch.tensor([True, False, False]), good, 1 - good)
    assert gate(bad, mixed, labels, labels).tolist() == [True, False, False]

"""What a student learns from a teacher of another modality: pure functions, none needs pairs.

Shapes: B samples, K classes, d numbers per feature. ``labels`` are 0/1 (B, K), one-hot or
multilabel. The teacher's arguments pass no gradient. Losses by sample take rows that belong
together, the same eye or merely the same label (``partners``); losses by class take prototypes.
Every loss of nothing (no row, no class) is zero and has a gradient, never NaN.
"""

import torch
import torch.nn.functional as F


def prototypes(values: torch.Tensor, labels: torch.Tensor):
    """Class means (K, d) of ``values`` (B, d), and which classes are there, bool (K,).

    A sample counts for each of its classes (Wang et al. 2023, eq. 1). Absent classes are zero.
    """
    weights = labels.T.to(values.dtype)
    counts = weights.sum(1)
    return weights @ values / counts.clamp(min=1)[:, None], counts > 0


def partners(labels: torch.Tensor, of: torch.Tensor, draw: torch.Tensor):
    """For each row of ``labels`` (B, K) a random row of ``of`` (C, K) that is labelled alike, (B,),
    and whether there is one, bool (B,). ``draw`` (B, C), uniform random numbers, decides."""
    alike = (labels[:, None] == of[None]).all(2)
    return torch.where(alike, draw, -1).argmax(1), alike.any(1)


def gate(student, teacher, student_labels, teacher_labels) -> torch.Tensor:
    """In which classes the teacher is better on this batch, bool (K,), after OCT-CoDA (Wang et al.
    2024, which distils only from a teacher that beats the student).

    student (B, K) and teacher (C, K) are probabilities. Per class, the binary cross-entropy of all
    samples: a teacher that does not beat the student has nothing to teach it about that class.
    """

    def error(probabilities, labels):
        found = probabilities.detach().clamp(1e-6, 1 - 1e-6)
        labels = labels.to(found.dtype)
        return -(labels * found.log() + (1 - labels) * (1 - found).log()).mean(0)

    return error(teacher, teacher_labels) < error(student, student_labels)


def softened_kl(student, teacher, temperature) -> torch.Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over rows (Hinton et al. 2015).

    For T far above the spread of the numbers it is half the variance, over a row, of teacher minus
    student: a squared error that no longer depends on T.
    """
    if not student.numel():
        return student.sum()
    soft = [F.log_softmax(side / temperature, 1) for side in (student, teacher.detach())]
    return temperature**2 * F.kl_div(*soft, log_target=True, reduction="batchmean")


def class_prototype_matching(student, teacher, temperature=4.0) -> torch.Tensor:
    """CPM (Wang et al., MICCAI 2023, eq. 2): prototypes (C, d) of the C classes that both have.

    Dimensions in which the mean of the student's prototypes lies above its own mean are "major",
    the others "minor": of each group apart, T^2 KL(softmax(p_teacher / T) || softmax(p_student /
    T)), added, mean over classes.
    """
    mean = student.detach().mean(0) if len(student) else student.detach().sum(0)
    major = mean > mean.mean()
    groups = [(student[:, part], teacher[:, part]) for part in (major, ~major)]
    return sum(softened_kl(*group, temperature) for group in groups)


def similarities(logits: torch.Tensor) -> torch.Tensor:
    """Cosine of every two rows: S (C, C) of C classes' mean logits (C, K)."""
    directions = F.normalize(logits, dim=1)
    return directions @ directions.T


def class_similarity_alignment(student, teacher, temperature=4.0) -> torch.Tensor:
    """CSA (Wang et al., MICCAI 2023, eq. 3 and 4): mean logits (C, K) of the classes both have.

    T^2 KL(softmax(S_teacher / T) || softmax(S_student / T)) row by row, S = ``similarities``.
    Multi-class and multilabel alike. Of C classes S has C (C - 1) / 2 free numbers: three of three.
    A softmax forgets the mean of its logits, the cosines do not: as in the paper, whose logits are
    those of sigmoids, they are taken as they are.
    """
    return softened_kl(similarities(student), similarities(teacher), temperature)


def kd(student, teacher, temperature=4.0, multilabel=False) -> torch.Tensor:
    """Knowledge distillation (Hinton, Vinyals & Dean 2015): logits (B, K) of partners.

    T^2 KL(softmax(teacher / T) || softmax(student / T)); multilabel, the KL of each class's two
    outcomes, summed over classes.
    """
    if multilabel:
        student, teacher = (torch.stack([x, torch.zeros_like(x)], 2) for x in (student, teacher))
        classes = student.shape[1]
        return classes * softened_kl(student.flatten(0, 1), teacher.flatten(0, 1), temperature)
    return softened_kl(student, teacher, temperature)


def dkd(student, teacher, labels, temperature=4.0, alpha=1.0, beta=8.0) -> torch.Tensor:
    """Decoupled distillation (Zhao et al., CVPR 2022, eq. 7): logits (B, K) of partners, one class
    each.

    alpha KL of (target, all others) + beta KL among the others without the target, both times T^2.
    ValueError if a sample has several labels: then there is no one target.
    """
    if len(labels) and not (labels.sum(1) == 1).all():
        raise ValueError("dkd needs one label per sample: use kd for multilabel targets")
    if not len(student) or student.shape[1] < 2:  # of one class there is nothing to tell apart
        return 0 * student.sum()
    target = labels.bool()

    def parts(logits):
        logits = logits / temperature
        its, others = logits[target], logits[~target].view(len(logits), -1)
        pair = torch.stack([its, others.logsumexp(1)], 1)
        return pair * temperature, others * temperature

    (pair, others), (pair_teacher, others_teacher) = parts(student), parts(teacher.detach())
    return alpha * softened_kl(pair, pair_teacher, temperature) + beta * softened_kl(
        others, others_teacher, temperature
    )


def mean_squared(student, teacher) -> torch.Tensor:
    """Mean over rows and numbers of (student - teacher)^2; zero of nothing."""
    return F.mse_loss(student, teacher.detach()) if student.numel() else student.sum()


def fitnets(student, teacher) -> torch.Tensor:
    """FitNets (Romero et al., ICLR 2015, eq. 3): features (B, d) of partners, the student's after
    a regressor of its own. Published for feature maps: places of two pictures that are no pair
    mean nothing, so here it is pooled features."""
    return mean_squared(student, teacher)


def simkd(student, teacher) -> torch.Tensor:
    """SimKD (Chen et al., CVPR 2022, eq. 2): the student's features (B, d) become the teacher's,
    whose classifier it then uses as its own; there is no other loss."""
    return mean_squared(student, teacher)


def rkd(student, teacher, distance=1.0, angle=2.0) -> torch.Tensor:
    """Relational distillation (Park et al., CVPR 2019, eq. 4 to 7): features (B, d) of partners.

    Huber loss between the distances of every two samples, each side's divided by its mean, and
    between the cosines of the angle at every sample between every two others.
    """
    if len(student) < 3:
        return 0 * student.sum()

    def distances(x):
        # the fast way by products finds distances above 0 between equal rows
        apart = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        return apart / apart[apart > 0].mean() if (apart > 0).any() else apart

    def angles(x):
        away = x[None] - x[:, None]
        squared = away.square().sum(2, keepdim=True)
        # a sample and itself (drawn twice, perhaps) have no direction: no division by almost zero
        away = away * torch.where(squared > 0, squared, 1).rsqrt()
        return away @ away.transpose(1, 2)

    fixed = teacher.detach()
    return distance * F.smooth_l1_loss(distances(student), distances(fixed)) + (
        angle * F.smooth_l1_loss(angles(student), angles(fixed))
    )


def similarity_preserving(student, teacher) -> torch.Tensor:
    """Similarity-preserving distillation (Tung & Mori, ICCV 2019, eq. 4): features of partners.

    G = F F^T (B, B), rows scaled to length 1; |G_student - G_teacher|^2 / B^2.
    """
    if not len(student):
        return student.sum()
    rows = [F.normalize(x @ x.T, dim=1) for x in (student, teacher.detach())]
    return F.mse_loss(*rows)

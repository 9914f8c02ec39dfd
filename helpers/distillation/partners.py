"""Labelled photographs and labelled scans of other people, drawn together for distillation."""

import numpy as np
import torch
import torch.nn.functional as F

from helpers.data.batches import balanced_index, batches
from helpers.data.split import SIDES, Labelled
from helpers.data.two_modalities import Domains, prepare_domains, side_of_body

PARTNERS = ("label", "independent", "eye")
EPOCHS = 20  # for which partners are dealt out ahead


def prepare_both(settings, *, progress=True) -> Domains:
    """Photographs and scans by ``prepare_domains``; the teacher's modality may lack classes, about
    which it then says nothing."""
    teacher, _ = modalities(settings)
    return prepare_domains(
        settings, paired=settings.partners == "eye", multilabel=settings.multilabel,
        may_lack=[teacher], most=settings.max_images or None, progress=progress,
    )  # fmt: skip


def modalities(settings) -> tuple[str, str]:
    """The teacher's and the student's: ("oct", "dfe") or the other way round."""
    teacher, arrow, student = settings.direction.partition("_to_")
    if not arrow or {teacher, student} != {"oct", "dfe"}:
        raise ValueError(f"direction={settings.direction!r}: choose oct_to_dfe or dfe_to_oct.")
    return teacher, student


def images_of(domains: Domains, modality: str, *sides: str, multilabel=False) -> Labelled:
    """Images uint8 of some SIDES (none named: of all), labels as places in the classes (N,) or,
    ``multilabel``, as 0/1 (N, K), and patients."""
    splits = [getattr(getattr(domains, modality), side) for side in sides or SIDES]
    labels = np.concatenate(
        [domains.matrix(split) if multilabel else domains.numbers(split) for split in splits]
    )
    images = np.concatenate([np.asarray(split.images) for split in splits])
    return Labelled(images, labels, np.concatenate([split.patients for split in splits]))


def eyes_of(scans) -> np.ndarray:
    """A name for the eye that each ``sources.Scan`` shows, (N,): patient and side, where the file's
    name tells the side; a stand-in for patients is one eye."""
    return np.array([f"{scan.patient} {side_of_body(scan.path) or ''}".strip() for scan in scans])


def one_hot(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Labels as 0/1 (B, K): whole numbers (B,), -1 being none of them, or 0/1 already."""
    if labels.ndim == 2:
        return labels.float()
    known = (labels >= 0)[:, None]
    return F.one_hot(labels.long().clamp(min=0), classes).float() * known


def distillation_batches(
    images, labels, their_images, their_labels, batch_size, *, partners="label", seed=0, **where
):
    """Endless ((images, labels), (their images, labels)), shuffled; arguments as ``data.batches``.

    partners: "label" gives every image of the student a random one of the teacher with the
    identical labels (FDDM; in classes that the teacher's side has), any other if there is none;
    "independent" shuffles both sides for themselves; "eye" takes line by line what shows one eye,
    the only draw that needs pairs. Where every image has one class, all classes of the student are
    drawn equally often.
    """
    labels, their_labels = np.asarray(labels), np.asarray(their_labels)
    known = their_labels.any(0) if their_labels.ndim == 2 else slice(None)  # what they can show
    both = [part.reshape(len(part), -1)[:, known] for part in (labels, their_labels)]
    codes = np.unique(np.concatenate(both), axis=0, return_inverse=True)[1].reshape(-1)
    own, theirs = codes[: len(labels)], codes[len(labels) :]

    def order(labels):  # by all its classes, those that the other side lacks too
        rows = labels.reshape(len(labels), -1)
        kinds = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
        single = labels.ndim == 1 or (labels.sum(1) == 1).all()
        return np.tile(balanced_index(kinds) if single else np.arange(len(kinds)), EPOCHS)

    index, seeds = order(labels), (seed, seed)
    if partners == "eye":
        if len(labels) != len(their_labels):
            raise ValueError(f"partners='eye': {len(labels)} and {len(their_labels)} are no pairs")
        their_index = index
    elif partners == "label":
        rng = np.random.default_rng(seed)
        rows = [np.flatnonzero(theirs == code) for code in range(codes.max() + 1)]
        anything = np.arange(len(theirs))
        their_index = np.empty_like(index)
        for code in np.unique(own):
            here = own[index] == code
            their_index[here] = rng.choice(rows[code] if len(rows[code]) else anything, here.sum())
    else:
        their_index, seeds = order(their_labels), (seed, seed + 10_000)
    return zip(
        batches(images, batch_size, labels=labels, index=index, seed=seeds[0], **where),
        batches(their_images, batch_size, labels=their_labels, index=their_index, seed=seeds[1],
                **where),
    )  # fmt: skip

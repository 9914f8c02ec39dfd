"""Which distillation helps: many small fits on cached features of a frozen backbone, all methods on
the same folds of patients."""

from dataclasses import replace

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold
from tqdm.auto import tqdm

from helpers.distillation_data import distillation_batches, one_hot
from helpers.measures.usefulness import Scans
from helpers.methods.classification import ClassifierSettings, fit, seeded
from helpers.methods.distillation import Distillation, Side, distil
from helpers.networks.classifiers import Classifier

ALONE = "student alone"
ARMS = {  # what differs from the settings; CPM and CSA weigh what the paper gives them
    ALONE: dict(losses=""),
    "label smoothing": dict(losses="", smoothing=0.2),  # a teacher that knows nothing
    "KD": dict(losses="kd=1"),
    "DKD": dict(losses="dkd=1"),
    "FitNets": dict(losses="fitnets=1"),
    "RKD": dict(losses="rkd=1"),
    "SP": dict(losses="sp=1"),
    "SimKD": dict(losses="simkd=1"),
    "CPM": dict(losses="cpm=2"),
    "CSA": dict(losses="csa=1"),
    "FDDM (CPM + CSA)": dict(losses="cpm=2,csa=1"),
    "FDDM, gate": dict(losses="cpm=2,csa=1", gate=True),
    "KD, gate": dict(losses="kd=1", gate=True),
    "FDDM, T = 1": dict(losses="cpm=2,csa=1", temperature=1.0),
    "FDDM, teacher learns": dict(losses="cpm=2,csa=1", teacher_learns=True),
    "FDDM, momentum 0.9": dict(losses="cpm=2,csa=1", momentum=0.9),
    "FDDM, independent": dict(losses="cpm=2,csa=1", draws="independent"),
    "KD, independent": dict(losses="kd=1", draws="independent"),
}
ONE_LABEL = ("DKD", "label smoothing")  # make sense only where every image has one label


def screening(settings):
    """``settings`` for fits on frozen features: small steps, strong decay, thousands of images."""
    return replace(
        settings, steps=settings.screen_steps, lr=settings.screen_lr,
        weight_decay=settings.screen_weight_decay, batch_size=2 * settings.batch_size,
    )  # fmt: skip


def teacher_settings(settings, classes, seed=0) -> ClassifierSettings:
    """Of a teacher with the student's kind of embedding, trained as long and in the same manner."""
    s = settings
    same = ("pretrained", "size", "embedding", "dropout", "mirror", "augment", "batch_size", "lr",
            "weight_decay", "steps", "hours", "precision", "multilabel", "runs", "log_every",
            "validate_every")  # fmt: skip
    return ClassifierSettings(
        classes=tuple(classes), backbone=s.teacher_backbone, seed=seed,
        **{name: getattr(s, name) for name in same},
    )  # fmt: skip


def teach(scans: Scans, classes, settings, *, seed=0, start=None) -> Classifier:
    """A teacher from images or features, without a run's folder."""
    return fit(scans.images, scans.labels, classes, whole=True, seed=seed, start=start,
               settings=teacher_settings(settings, classes, seed),
               multilabel=settings.multilabel)  # fmt: skip


def head_start(scans: Scans, classes, settings, *, backbone=None) -> Classifier:
    """A student alone (or a teacher, with its ``backbone``) whose embedding and head have learned
    on features of the untouched backbone: what fine-tuning begins with. From a random head it
    would first tear the backbone's features apart (Kumar et al., ICLR 2022)."""
    s = replace(settings, losses="", backbone=backbone or settings.backbone)
    blank = Distillation(s, classes, None)
    rows = Classifier(blank.averaged, blank.architecture["arguments"]).features(scans.images)
    return distil(rows, scans.labels, classes, screening(s))


def folds_of(scans: Scans, classes, folds: int, seed=0) -> np.ndarray:
    """Which fold each scan is in, (N,): whole patients, classes spread over all folds.

    ValueError naming a class that has fewer patients than there are folds.
    """
    labels = np.asarray(scans.labels)
    of_class = labels.T.astype(bool) if labels.ndim == 2 else [labels == k for k in
                                                                range(len(classes))]  # fmt: skip
    for name, those in zip(classes, of_class):
        count = len(set(scans.patients[those]))
        if count < folds:
            raise ValueError(
                f"{name} has {count} patient(s), and {folds} folds need {folds}: add patients, set "
                "OCT_FOLDS lower, or leave the class out of OCT_CLASSES."
            )
    codes = np.unique(labels.reshape(len(labels), -1), axis=0, return_inverse=True)[1].reshape(-1)
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    place = np.zeros(len(labels), int)
    for number, (_, those) in enumerate(split.split(codes, codes, scans.patients)):
        place[those] = number
    return place


def out_of_fold(student: Scans, teacher: Scans, classes, settings, arms=None, *, progress=True):
    """{arm: probabilities (S, N, K)} of ``student``'s scans, each by a student that saw nothing of
    its patient, for ``settings.seeds`` seeds.

    ``student`` and ``teacher`` hold features (N, d) or images, labels (whole numbers or 0/1) and
    patients. The teacher learns from all of ``teacher``, whose patients must not be the student's
    (ValueError) unless draws are by eye. Every arm sees the same folds and, per seed, one teacher.
    """
    if settings.draws != "eye" and (shared := set(student.patients) & set(teacher.patients)):
        raise ValueError(f"{len(shared)} patient(s) teach both sides: {min(shared)}")
    arms = {name: ARMS[name] for name in ARMS if arms is None or name in arms}
    place = folds_of(student, classes, settings.folds)
    known = classes_of(teacher, classes)
    found = {name: np.zeros((settings.seeds, len(student), len(classes)), np.float32)
             for name in arms}  # fmt: skip
    bar = tqdm(total=settings.seeds * (1 + settings.folds * len(arms)), desc="students",
               disable=not progress)  # fmt: skip
    for seed in range(settings.seeds):
        master = teach(of_classes(teacher, classes, known), known, settings, seed=seed)
        bar.update()
        for fold in range(settings.folds):
            kept = student.take(place != fold)
            for name, changes in arms.items():
                changed = replace(settings, seed=seed, **changes)
                made = distil(
                    kept.images, kept.labels, classes, changed, master if changed.losses else None,
                    teacher.images, teacher.labels,
                )  # fmt: skip
                found[name][seed, place == fold] = made(student.images[place == fold])
                bar.update()
    return found


def classes_of(scans: Scans, classes) -> list[str]:
    """Those of ``classes`` that have a scan."""
    labels = np.asarray(scans.labels)
    has = labels.any(0) if labels.ndim == 2 else [k in labels for k in range(len(classes))]
    return [name for name, there in zip(classes, has) if there]


def of_classes(scans: Scans, classes, wanted) -> Scans:
    """``scans`` labelled by places in ``wanted``, which are some of ``classes``."""
    labels, places = np.asarray(scans.labels), [list(classes).index(name) for name in wanted]
    if labels.ndim == 2:
        return replace(scans, labels=labels[:, places])
    return replace(scans, labels=np.array([places.index(label) for label in labels]))


def pull_of(student: Scans, teacher: Scans, classes, settings,
            temperatures=(0.1, 0.25, 0.5, 1, 2, 4, 8, 16)):  # fmt: skip
    """How hard each loss pulls at a student: {loss: {T: |its gradient| / |the gradient of the
    cross-entropy|}}, weighted as in the paper, over the student's weights.

    Of a student that has learned alone for a tenth of ``settings.steps``; means over 8 batches.
    """
    early = replace(settings, steps=max(1, settings.steps // 10), losses="")
    half_way = distil(student.images, student.labels, classes, early)
    known = classes_of(teacher, classes)
    master = teach(of_classes(teacher, classes, known), known, settings)
    found = {}
    for name, weight in (("cpm", 2.0), ("csa", 1.0), ("kd", 1.0)):
        for temperature in temperatures:
            changed = replace(settings, losses=f"{name}={weight}", temperature=temperature)
            with seeded(settings.seed):
                method = Distillation(changed, classes, master, start=half_way)
            draw = distillation_batches(student.images, student.labels, teacher.images,
                                        teacher.labels, settings.batch_size)  # fmt: skip
            shares = [_pull(method, name, next(draw)) for _ in range(8)]
            found.setdefault(name, {})[temperature] = weight * float(np.mean(shares))
    return found


def _pull(method, name, batch):
    """|gradient of a loss| / |gradient of the cross-entropy| over the student's weights."""
    student, projector = method.averaged, method.networks.get("projector")
    (rows, labels), (their_rows, their_labels) = batch
    count = student.head.out_features
    labels, their_labels = one_hot(labels, count), one_hot(their_labels, count)
    features = student.embed(rows)
    logits = student.head(features)
    projected = projector(features) if projector else features
    own = method.own
    side = Side(features, projected, logits[:, own], labels[:, own], method.settings.multilabel)
    with torch.no_grad():
        theirs = method.teacher.embed(their_rows)
        their_logits = method.teacher.head(theirs)[:, method.theirs]
    shown = Side(theirs, theirs, their_logits, their_labels[:, own], side.multilabel)
    weights = [*student.embedding.parameters(), *student.head.parameters()]

    def length(loss):
        parts = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        return sum(part.square().sum() for part in parts if part is not None).sqrt()

    terms, _ = method.terms(side, shown)
    return float(length(terms[name]) / length(method.classification(logits, labels)))

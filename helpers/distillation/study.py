"""Which distillation helps: many small fits on cached features of a frozen backbone, all methods on
the same folds of patients."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold
from tqdm.auto import tqdm

from helpers.classifiers.classification import ClassifierSettings
from helpers.classifiers.fit import fit, run_steps, seeded
from helpers.classifiers.networks import Classifier
from helpers.config import Distil
from helpers.data.split import Labelled
from helpers.distillation.distillation import Distillation, Side, distil, loss_weights
from helpers.distillation.partners import distillation_batches, one_hot

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
    "FDDM, independent": dict(losses="cpm=2,csa=1", partners="independent"),
    "KD, independent": dict(losses="kd=1", partners="independent"),
    "as set": {},  # the settings themselves, where OCT_LOSSES asks for something else
}
ONE_LABEL = ("DKD", "label smoothing")  # make sense only where every image has one label


def arms_of(settings, classes, known) -> list[str]:
    """The names of ARMS that make sense: with several labels an image, and where the teacher knows
    only some of the ``classes``, some do not. ValueError for ``settings.arm`` that is none."""
    some = [name for name in ARMS if not (settings.multilabel and name in ONE_LABEL)]
    if not loss_weights(settings.losses) or settings.losses == Distil.losses:
        # that is the student alone, or FDDM
        some.remove("as set")
    if list(known) != list(classes):
        some.remove("SimKD")
    if settings.arm and settings.arm not in some:
        raise ValueError(f"arm={settings.arm!r}: choose one of {', '.join(some)}.")
    return some


def screening(settings, backbone=None):
    """``settings`` for fits on frozen features: small steps, strong decay, thousands of images.
    ``backbone``: that of the features, where it is not that which is fine-tuned."""
    both = dict(backbone=backbone, teacher_backbone=backbone) if backbone else {}
    return replace(
        settings, steps=settings.screen_steps, lr=settings.screen_lr,
        weight_decay=settings.screen_weight_decay, batch_size=2 * settings.batch_size, **both,
    )  # fmt: skip


def teacher_settings(settings, classes, seed=0) -> ClassifierSettings:
    """Of a teacher with the student's kind of embedding, trained as long and in the same manner."""
    s = settings
    same = ("pretrained", "size", "embedding", "dropout", "mirror", "augment", "batch_size", "lr",
            "weight_decay", "steps", "hours", "session_hours", "precision", "multilabel", "runs",
            "log_every", "validate_every")  # fmt: skip
    return ClassifierSettings(
        classes=tuple(classes), backbone=s.teacher_backbone, seed=seed,
        balanced=not s.multilabel,  # as the student, who is shown classes equally often if so
        **{name: getattr(s, name) for name in same},
    )  # fmt: skip


def teach(scans: Labelled, classes, settings, *, seed=0, start=None) -> Classifier:
    """A teacher from images or features, without a run's folder."""
    return fit(scans.images, scans.labels, classes, whole=True, seed=seed, start=start,
               settings=teacher_settings(settings, classes, seed),
               multilabel=settings.multilabel)  # fmt: skip


def head_start(scans: Labelled, classes, settings, *, backbone=None) -> Classifier:
    """A student alone (or a teacher, with its ``backbone``) whose embedding and head have learned
    on features of the untouched backbone: what fine-tuning begins with. From a random head it
    would first tear the backbone's features apart (Kumar et al., ICLR 2022)."""
    s = replace(settings, losses="", backbone=backbone or settings.backbone)
    with seeded(s.seed):
        blank = Distillation(s, classes, None)
    start = Classifier(blank.averaged, blank.architecture["arguments"])
    rows = start.features(scans.images)
    start.network.embedding.fit(torch.from_numpy(rows))
    return distil(rows, scans.labels, classes, screening(s), start=start)


def folds_of(scans: Labelled, classes, folds: int, seed=0) -> np.ndarray:
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


def out_of_fold(
    student: Labelled, teacher: Labelled, classes, settings, arms=None, *, progress=True
):
    """{arm: probabilities (S, N, K)} of ``student``'s scans, each by a student that saw nothing of
    its patient, for ``settings.seeds`` seeds.

    ``student`` and ``teacher`` hold features (N, d) or images, labels (whole numbers or 0/1) and
    patients. The teacher learns from all of ``teacher``, whose patients must not be the student's
    (ValueError); with draws by eye, where rows of both are one eye, from the same folds as the
    student. Every arm sees the same folds and, per seed, the same teacher. ``arms``: names of ARMS
    (None: all that make sense).
    """
    pairs = settings.partners == "eye"
    shared = set(student.patients) & set(teacher.patients)
    if shared and not pairs:
        raise ValueError(f"{len(shared)} patient(s) teach both sides: {min(shared)}")
    if pairs and student.patients.tolist() != teacher.patients.tolist():
        raise ValueError("partners='eye': rows of both sides are to be the same eyes")
    known = classes_of(teacher, classes)
    arms = arms_of(settings, classes, known) if arms is None else arms
    place = folds_of(student, classes, settings.folds)
    found = {name: np.zeros((settings.seeds, len(student), len(classes)), np.float32)
             for name in arms}  # fmt: skip
    bar = tqdm(total=settings.seeds * settings.folds * len(arms), desc="students",
               disable=not progress)  # fmt: skip
    for seed in range(settings.seeds):
        master = None
        for fold in range(settings.folds):
            kept = student.take(place != fold)
            shown = teacher.take(place != fold) if pairs else teacher
            if master is None or pairs:
                master = teach(of_classes(shown, classes, known), known, settings, seed=seed)
            for name in arms:
                s = replace(settings, seed=seed, **ARMS[name])
                made = distil(
                    kept.images, kept.labels, classes, s, master if s.losses else None,
                    shown.images, shown.labels,
                )  # fmt: skip
                found[name][seed, place == fold] = made(student.images[place == fold])
                bar.update()
    return found


def classes_of(scans: Labelled, classes) -> list[str]:
    """Those of ``classes`` that have a scan."""
    labels = np.asarray(scans.labels)
    has = labels.any(0) if labels.ndim == 2 else [k in labels for k in range(len(classes))]
    return [name for name, there in zip(classes, has) if there]


def of_classes(scans: Labelled, classes, wanted) -> Labelled:
    """``scans`` labelled by places in ``wanted``, which are some of ``classes``; those of one label
    that is not wanted are left out."""
    labels, places = np.asarray(scans.labels), [list(classes).index(name) for name in wanted]
    if labels.ndim == 2:
        return replace(scans, labels=labels[:, places])
    kept = scans.take(np.isin(labels, places))
    return replace(kept, labels=np.array([places.index(k) for k in kept.labels], np.int64))


def pull_of(student: Labelled, teacher: Labelled, classes, settings,
            temperatures=(0.1, 0.25, 0.5, 1, 2, 4, 8, 16)):  # fmt: skip
    """How hard each loss pulls at a student: {loss: {T: |its gradient| / |the gradient of the
    cross-entropy|}}, over the weights of embedding and head. CPM and CSA weigh what the paper gives
    them, KD, which is not of the paper, 1.

    Of a student (and its projector) that has learned with all three losses for a tenth of
    ``settings.steps``; means over 8 batches.
    """
    weights = {"cpm": 2.0, "csa": 1.0, "kd": 1.0}
    wanted = ",".join(f"{name}={weight}" for name, weight in weights.items())
    s = replace(
        settings, steps=max(1, settings.steps // 10), losses=wanted, partners="label", gate=0
    )
    known = classes_of(teacher, classes)
    master = teach(of_classes(teacher, classes, known), known, settings)
    with seeded(s.seed):
        method = Distillation(s, classes, master, shown=student.images)
        draw = partial(
            distillation_batches, student.images, student.labels, teacher.images, teacher.labels,
            s.batch_size, seed=s.seed,
        )  # fmt: skip
        run_steps(method, draw, features=True)
        stream = draw(start=s.steps)
        batches = [next(stream) for _ in range(8)]
        found = {name: {} for name in weights}
        for temperature in temperatures:
            method.settings = replace(s, temperature=temperature)
            shares = [_pull(method, batch) for batch in batches]
            for name, weight in weights.items():
                found[name][temperature] = weight * float(np.mean([one[name] for one in shares]))
    return found


def _pull(method, batch) -> dict[str, float]:
    """|gradient of each loss| / |gradient of the cross-entropy|."""
    student, own = method.averaged, method.own
    (rows, labels), (their_rows, their_labels) = batch
    count = student.head.out_features
    labels, their_labels = one_hot(labels, count), one_hot(their_labels, count)
    features = student.embed(rows)
    logits = student.head(features)
    projected = method.networks["projector"](features)
    mine = logits[:, own]
    side = Side(features, projected, mine, labels[:, own], mine, method.settings.multilabel)
    with torch.no_grad():
        theirs = method.teacher.embed(their_rows)
        said = method.teacher.head(theirs)[:, method.theirs]
    shown = Side(theirs, theirs, said, their_labels[:, own], said, side.multilabel)
    weights = [*student.embedding.parameters(), *student.head.parameters()]

    def length(loss):
        parts = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        return sum(part.square().sum() for part in parts if part is not None).sqrt()

    terms, _ = method.terms(side, shown)
    whole = length(method.classification(logits, labels))
    return {name: float(length(term) / whole) for name, term in terms.items()}

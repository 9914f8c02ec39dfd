"""A GAN or a flow trained from its settings alone, without pictures, for who needs a run."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from helpers.data import shape
from helpers.data.batches import balanced_index, batches
from helpers.data.prepare import prepare
from helpers.data.sources import take_in
from helpers.gan import flow, gan, judging
from helpers.gan.dials import RULED, with_dials
from helpers.gan.start import start_from
from helpers.training.loop import train
from helpers.training.runs import Run, open_run


def learned_classes(settings, known) -> str:
    """What ``data.prepare`` is asked for as class_: of a conditional GAN all that it learns, out of
    the ``known`` ones of the source. ValueError naming a class of ``settings.classes`` that the
    source lacks, or the one to judge if it is not among them."""
    s = settings
    if not s.conditional:
        return s.class_
    names = [name.strip() for name in s.classes.split(",") if name.strip()]
    if names in ([], ["all"]) or len(known) == 1:
        return "all"
    spelled = {name.upper(): name for name in known}
    missing = [name for name in names if name.upper() not in spelled]
    if missing or s.class_ not in [spelled[name.upper()] for name in names]:
        lacks = f"the source has no {missing[0]}" if missing else f"{s.class_} is judged and not in"
        raise ValueError(
            f"classes={s.classes}: {lacks}. The source has {', '.join(sorted(known))}; set "
            "OCT_CLASSES to some of them, or to all."
        )
    return "+".join(spelled[name.upper()] for name in names)


def build_training(settings, features, progress=True):
    """(method, draw, whole, learned) of a ``config.TrainGan`` with its recipe: the method, its
    batches (``training.train``), the class that is judged as whole scans, and what is learned, both
    ``data.Data``. ``settings.conditional`` is decided where it was left open, ``class_`` spelled as
    the source has it. ``features``: a ``measures.features.Features``."""
    s = settings
    size = max(256, s.size)
    intake = take_in(s.data, n_simulated=s.n_simulated, size=size, synthetic=False)  # once
    about = dict(intake=intake, cache=Path(s.runs) / "cache", progress=progress)
    seen = "stretch" if s.framing == "aligned" else s.framing  # of what is judged
    whole = prepare(s.data, class_=s.class_, size=size, framing=seen, **about)
    s.class_ = whole.class_
    if s.conditional is None:  # of "all" or A+B nobody can say which class is to be judged
        s.conditional = s.class_ in whole.classes
    which = learned_classes(s, whole.classes)
    learned = prepare(s.data, class_=which, size=s.size, framing=s.framing, **about)
    every = whole
    if s.conditional:
        every = prepare(s.data, class_=which, size=size, framing=seen, sides=("validation",),
                        most=2000, **about)  # fmt: skip
    classes, labels = np.unique(learned.train.labels, return_inverse=True)
    shapes = None
    if s.framing == "aligned":
        if s.dials:
            scans = prepare(s.data, class_=which, size=RULED, framing="stretch",
                            sides=("train", "test"), **about)  # fmt: skip
            learned.train.shapes = with_dials(learned.train, scans.train)
            learned.test.shapes = with_dials(learned.test, scans.test)  # which may be edited
        shapes = shape.Shapes(learned.train.shapes, learned.train.labels)
    torch.manual_seed(s.seed)
    names = tuple(map(str, classes)) if s.conditional else ()
    if s.model == "flow" and (words := flow.few_scans(learned.train.labels)):
        print(words)
    method = (flow.Flow if s.model == "flow" else gan.GAN)(
        s, every.validation.images, features, names, labels=every.validation.labels, shapes=shapes
    )
    judging.know(method, learned.train, learned.validation)
    if s.start:
        print(start_from(method, s.start))
    told = {}
    if s.conditional or method.looks:
        told = {"labels": labels, "index": balanced_index(labels)}
    if method.looks:
        told["looks"] = shape.look(learned.train.shapes)[:, : method.looks]
    draw = partial(batches, learned.train.images, s.batch_size, seed=s.seed, **told)
    return method, draw, whole, learned


def train_gan(settings, features, progress=True) -> Run:
    """The run of these settings, trained now if it is not finished."""
    method, draw, whole, learned = build_training(settings, features, progress)
    return train(method, draw, open_run(settings, whole, method.networks, learned), settings)

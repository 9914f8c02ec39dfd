"""What a generator in training draws, and what that is worth, whatever way it learns.

Functions of a method (``gan.GAN``, ``flow.Flow``), which ``begin`` gives what they need.
"""

import warnings

import numpy as np
import torch

from helpers.data import shape
from helpers.data.pixels import to_levels
from helpers.gan import dials
from helpers.gan.early_word import MOST, copied_share, early_word, shrink
from helpers.measures.distances import kernel_distance
from helpers.measures.probe import probe_auroc

EARLY = 5000  # images before which a bad state is no alarm
COLLAPSED = 0.05  # of the validation scans' variance in features, that of the synthetic ones
PROBE = 400  # that a whole AUROC counts in the score: a tenth of it as much as a distance of 40
COPYING = 1000  # that it counts if patients are copied: such a checkpoint is the last to be chosen
TAUGHT = 300  # training scans off which a probe learns what real ones teach
READ = 150  # validation scans off which the ruler reads what has come of the dials
SHAPES_KEPT = 256  # of each class, in an exported generator


def learns_classes(settings, classes) -> bool:
    """Whether the generator is asked for a class; ValueError where ``classes`` do not allow it."""
    s = settings
    conditional = len(classes) > 0 if s.conditional is None else s.conditional
    if conditional and not classes:
        raise ValueError("conditional=1: classes=, the names of what is learned, are missing.")
    if conditional and s.class_ not in classes:
        raise ValueError(f"class={s.class_}: choose the one to judge, of {', '.join(classes)}.")
    return conditional


def begin(method, generator, validation, features, classes, labels, shapes) -> None:
    """Give ``method``, which has settings and ``conditional``, what it is judged by.

    validation: uint8 (N, 1, S, S), of ``labels`` (N,); of a method that is not conditional all are
    of its class. shapes: a ``shape.Shapes`` of the crops, of aligned ones.
    """
    s = method.settings
    if labels is None or not method.conditional:  # "all" and A+B are names of no label
        labels = np.full(len(validation), s.class_)
    labels = np.asarray(labels)
    own = validation[labels == s.class_]
    if len(own) < 2:
        raise ValueError(
            f"{len(own)} validation scan(s) of {s.class_}: a distance needs two. Add patients "
            "to OCT_DATA."
        )
    if s.framing == "aligned" and shapes is None:
        raise ValueError("framing=aligned: whole scans need shapes=, those of the crops.")
    method.judged = classes.index(s.class_) if method.conditional else None
    method.classes = list(classes) if method.conditional else []
    method.shapes, method.whole = shapes, validation.shape[-1]
    method.looks = getattr(generator, "looks", 0)
    method.louder = np.ones(len(shape.DIALS))  # that dials are told, see ``dials.louder``
    noise = torch.Generator().manual_seed(s.seed)
    method.preview_noise = torch.randn(16, generator.z_dim, generator=noise)
    method.validation_noise = torch.randn(s.validation_images, generator.z_dim, generator=noise)
    method.features = features
    method.validation_features = features(own)
    method.probed = labels if len(set(labels) & set(method.classes)) > 1 else None
    method.probe_features = features(validation) if method.probed is not None else None
    method.steps, method.judgement = 0, {}
    method.real_probe = method.known = None  # until ``know``


def know(method, training, validation) -> None:
    """Tell ``method`` what its early words are measured by (``early_word``): the two sides of what
    it learns, each a ``data.Split``. Nothing of it is learned from, and no random number is drawn.
    """
    method.known = [shrink(np.asarray(side.images[_some(len(side), MOST)]))
                    for side in (training, validation)]  # fmt: skip
    some = np.flatnonzero(np.isin(training.labels, method.classes))
    some = some[_some(len(some), TAUGHT)]
    if method.probed is None or len(set(training.labels[some]) & set(method.probed)) < 2:
        return
    images = np.asarray(training.images[some])
    if method.shapes is not None:
        images = shape.place_back(images, training.shapes[some], method.whole)[:, None]
    method.real_probe = probe_auroc(method.features(images), training.labels[some],
                                    method.probe_features, method.probed)  # fmt: skip


def _some(count: int, most: int) -> np.ndarray:
    """Places of ``most`` of ``count`` scans, rising, the same every time: by chance, since every
    n-th may be of one class."""
    return np.sort(np.random.default_rng(0).permutation(count)[:most])


def kept(method) -> dict[str, torch.Tensor]:
    """What an exported generator needs besides its weights: shapes, drawn anew, so that no row
    is a scan's, and which class each is of."""
    if method.shapes is None:
        return {}
    names = method.classes or [None]
    drawn = [method.shapes.draw(SHAPES_KEPT, name, seed=method.settings.seed) for name in names]
    places = np.repeat(np.arange(len(names)), SHAPES_KEPT)
    return {"shapes": torch.from_numpy(np.concatenate(drawn)),
            "shape_labels": torch.from_numpy(places)}  # fmt: skip


def generate(method, network: torch.nn.Module, noise: torch.Tensor, labels=None) -> torch.Tensor:
    """Whole scans (N, 1, S, S) in [-1, 1] on the CPU from noise (N, z_dim), 64 at a time.

    ``labels`` (N,) of a conditional generator; without them all are of the class judged.
    """
    return _place(method, *_draw(method, network, noise, labels))


@torch.no_grad()
def _draw(method, network, noise, labels=None):
    """What the network itself draws, (N, 1, rows, columns), and the shapes of crops, or None."""
    device = next(network.parameters()).device
    if labels is None:
        labels = torch.full((len(noise),), method.judged or 0)
    parts = [noise.split(64)]
    shapes = None if method.shapes is None else _draw_shapes(method, labels)
    if method.looks:
        looks = torch.from_numpy(shape.look(shapes, method.louder)[:, : method.looks])
        parts += [labels.split(64), looks.split(64)]
    elif method.conditional:
        parts.append(labels.split(64))
    drawn = [network(*(part.to(device) for part in both)) for both in zip(*parts)]
    return torch.cat([scans.float().clamp(-1, 1).cpu() for scans in drawn]), shapes


def _place(method, drawn: torch.Tensor, shapes) -> torch.Tensor:
    if shapes is None:
        return drawn
    whole = shape.place_back(drawn.numpy(), shapes, method.whole, method.settings.seed)
    return torch.from_numpy(whole)[:, None].float() / 127.5 - 1


def _draw_shapes(method, labels) -> np.ndarray:
    """The same shapes for the same labels every time, so that pictures compare."""
    drawn = np.empty((len(labels), len(shape.FIELDS)), np.float32)
    for k in labels.unique().tolist():
        name = method.classes[k] if method.classes else None
        those = (labels == k).numpy()
        drawn[those] = method.shapes.draw(int(those.sum()), name, seed=method.settings.seed)
    return drawn


def preview(method, network: torch.nn.Module) -> torch.Tensor:
    """The same 16 noise vectors every time, so that pictures compare: (16, 1, S, S).

    A conditional generator shows all its classes, one after the other, in each half.
    """
    count = len(method.architecture.get("classes", ())) or 1
    return generate(method, network, method.preview_noise, torch.arange(16) % 8 * count // 8)


def score(method, network: torch.nn.Module, mend: str) -> float:
    """Smaller is better: the kernel distance (x1000) of ``settings.validation_images`` synthetic
    scans of ``settings.class_`` to the validation patients' scans of that class.

    Where scans of other classes are there too, PROBE times what the AUROC of a probe lacks is
    added: a linear head learns the classes from synthetic scans alone, and is asked about the
    patients. Distance alone prefers scans without drusen, since most of a scan is no druse. Where
    the early word is "copying", COPYING is added: the checkpoint from before is kept, and the
    settings' patience ends the training. The noise is fixed, and ``method.judgement`` keeps the
    parts, with an early word in two strings. Warns of a collapse, with what may ``mend`` it.
    """
    s = method.settings
    method.features.to(next(network.parameters()).device)
    small, shapes = _draw(method, network, method.validation_noise)
    drawn, small = _place(method, small, shapes), [small]
    synthetic = method.features(drawn)
    if method.looks > len(shape.LOOK):
        _listen(method, drawn)
    spread = synthetic.var(0).sum() / max(method.validation_features.var(0).sum(), 1e-12)
    if spread < COLLAPSED and not early(method):
        warnings.warn(
            f"step {method.steps}: the synthetic scans are nearly one picture ({100 * spread:.0f}"
            " % of the variety of real ones): collapse. The best checkpoint so far is kept; "
            f"set {mend}.",
            stacklevel=3,
        )
    distance = float(kernel_distance(synthetic, method.validation_features))
    method.judgement = {"kernel_distance": distance}
    made, real = {s.class_: synthetic}, {s.class_: method.validation_features}
    if method.probed is not None:
        for name in method.classes:
            if name in set(method.probed) and name != s.class_:
                label = torch.full((len(synthetic),), method.classes.index(name))
                some, shapes = _draw(method, network, method.validation_noise, label)
                made[name] = method.features(_place(method, some, shapes))
                real[name] = method.probe_features[method.probed == name]
                small.append(some)
        known = np.isin(method.probed, list(made))
        auroc = probe_auroc(np.concatenate(list(made.values())),
                            np.repeat(list(made), [len(one) for one in made.values()]),
                            method.probe_features[known], method.probed[known])  # fmt: skip
        method.judgement["probe"] = auroc
        distance += PROBE * (1 - auroc)
    _say(method, made, real, small)
    return distance + COPYING * (method.judgement["word"] == "copying")


def _say(method, made, real, small) -> None:
    """The early word of a validation, as method.judgement["word"] and ["why"]."""
    word, why = "too early to say", f"fewer than {EARLY:,} images have been seen"
    if not early(method):
        made = {name: one for name, one in made.items() if len(real[name]) > 1}  # has a variety
        copied = method.known and copied_share(shrink(torch.cat(small)), *method.known)
        if copied is not None:
            method.judgement["copied"] = copied
        word, why = early_word(made, real, method.judgement.get("probe"), method.real_probe, copied)
    method.judgement |= {"word": word, "why": why}


def _listen(method, drawn: torch.Tensor) -> None:
    """How much louder dials have to be told from now on, and in what is exported now."""
    labels = torch.full((len(drawn),), method.judged or 0)
    asked = _draw_shapes(method, labels)[:READ, shape.DIALLED]
    method.louder = dials.louder(method.louder, asked, to_levels(drawn[:READ]))
    method.architecture["louder"] = method.louder.round(3).tolist()


def early(method) -> bool:
    return method.steps * method.settings.batch_size < EARLY

"""Synthetic scans from a trained generator: noise, classes, shapes placed back."""

import numpy as np
import torch

from helpers.data.pixels import to_float, to_levels
from helpers.data.shape import DIALLED, LOOK, SMALLEST, look, place_back
from helpers.gan.dials import RULED, misdrawn
from helpers.training.precision import in_bf16

SHAPE_CHOICES = ("drawn", "same", "aligned")


def draw_noise(n, z_dim, seed, batch=64):
    """Noise (up to `batch`, z_dim), N(0, 1), on the CPU, n rows in all, batch by batch.

    Row i depends on the seed and i alone, not on n or the batch.
    """
    if n < 1:
        raise ValueError(f"n={n}: ask for at least one image")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed}: choose a whole number from 0 to 2^63 - 1")
    source = torch.Generator().manual_seed(seed)
    return (
        torch.stack([torch.randn(z_dim, generator=source) for _ in range(min(batch, n - start))])
        for start in range(0, n, batch)
    )


def _seeds(seed, tries):
    """``tries`` seeds, the first ``seed`` itself."""
    more = [np.random.SeedSequence([seed, k]) for k in range(1, tries)]
    return [seed, *(int(one.generate_state(1, np.uint64)[0] >> 1) for one in more)]


def classes_of(generator):
    """The classes that a generator can be asked for; of one class only, that one."""
    about = getattr(generator, "metadata", {})
    return about.get("classes", [about.get("class", "synthetic")])


def whole_size(generator, size=0) -> int:
    """px of the scans that leave a generator: its own, or of one of aligned crops ``size``, by
    default at least 256. ValueError for a size asked of one that draws whole scans, and for one
    too small, before anything is drawn or written."""
    if getattr(generator, "shapes", None) is None:
        if size and size != generator.size:
            raise ValueError(
                f"size={size}: this generator draws whole scans of {generator.size} px"
            )
        return generator.size
    if size and size < SMALLEST:
        raise ValueError(f"size={size}: a whole scan needs {SMALLEST} px or more")
    return size or max(256, generator.size)


def has_dials(generator) -> bool:
    """Whether a generator can be asked for so many drusen."""
    return getattr(generator, "looks", 0) > len(LOOK)


def sample_batches(generator, n, seed=0, batch=64, class_name=None, exact=True, *, size=0,
                   shape="drawn", dials=None, tries=1):  # fmt: skip
    """Images (up to `batch`, C, S, S), float in [-1, 1] on the CPU, batch by batch, n in all.

    exact=False is faster, and rounds by less than a grey level on average, where the machine has
    bf16 in hardware.
    class_name: for a generator of several classes, one of them; without it, the one it was judged
    by in training. ValueError naming its classes if it knows no such class.
    Of a generator of aligned crops: size, px of the whole scans; shape, where each has its retina
    and how its device draws: "drawn" a new one each, "same" one for all, so that tissue compares,
    "aligned" none, the crops themselves, (B, 1, rows, columns); dials, {name of shape.DIALS:
    value}, the drusen that are asked for, each within what scans of the class have; tries, how
    often each scan is drawn: the one whose drusen the ruler reads most as asked for is kept.
    """
    shapes = getattr(generator, "shapes", None)
    label, class_name = _label(generator, class_name)
    if shape not in SHAPE_CHOICES:
        raise ValueError(f"shape={shape!r}: choose one of {', '.join(SHAPE_CHOICES)}")
    size = whole_size(generator, size)
    _need_dials(generator, dials)
    _check_tries(generator, tries, shape)
    parts = draw_noise(n, generator.z_dim, seed, batch)
    if shapes is None:
        if shape != "drawn":
            raise ValueError(f"shape={shape}: this generator draws whole scans, whose shape is its "
                             "own")  # fmt: skip
        return (render_crops(generator, noise, label, None, exact) for noise in parts)
    name = None if label is None else class_name
    drawn = shapes.draw(n, name, seed, dials)
    if shape == "same":
        dialled = drawn[:, DIALLED]
        drawn = np.repeat(shapes.mean(name)[None], n, 0)
        drawn[:, DIALLED] = dialled
    if tries > 1:
        several = zip(*(draw_noise(n, generator.z_dim, s, batch) for s in _seeds(seed, tries)))
        parts = (_most_obedient(generator, noises, label, drawn, exact, seed, batch * k)
                 for k, noises in enumerate(several))  # fmt: skip
    return _placed(generator, parts, label, drawn, exact, size, seed, shape == "aligned")


def sample_asked(generator, class_name, asked, seed=0, batch=64, exact=True, *, size=0, tries=1):
    """(shapes, batches): whole scans of one class, as of ``sample_batches``, one for each (eye,
    dials) of ``asked``, and before them their shapes, (len(asked), len(FIELDS)).

    Scans of one eye, a whole number from 0 on, have the noise and the shape of scan number ``eye``
    of ``sample_batches`` and differ in their dials, {name: value}, alone: visits, as the disease
    goes on. A dial that is not named stays as it was drawn for that eye. The speckle is every
    scan's own. Of several ``tries`` that is kept in which all visits of an eye are most as asked
    for. Raises ValueError for an eye below 0, and for dials as ``sample_batches`` does.
    """
    label, class_name = _label(generator, class_name)
    if getattr(generator, "shapes", None) is None:
        raise ValueError("this generator draws whole scans and cannot be asked for one eye twice")
    name = None if label is None else class_name
    eyes = [eye for eye, _ in asked]
    _check_tries(generator, tries)
    size = whole_size(generator, size)
    if min(eyes) < 0:
        raise ValueError(f"eye {min(eyes)}: number eyes from 0 on")
    draw_noise(1, generator.z_dim, seed)  # says what is wrong with a seed
    drawn = generator.shapes.draw(max(eyes) + 1, name, seed)[eyes]
    for row, (_, dials) in zip(drawn, asked):
        _need_dials(generator, dials)
        generator.shapes.ask(row, name, dials)
    count = max(eyes) + 1
    noises = (torch.cat(list(draw_noise(count, generator.z_dim, s)))[eyes]
              for s in _seeds(seed, tries))  # fmt: skip

    def parts():
        tried = noises
        if tries > 1:
            tried = [_most_obedient(generator, noises, label, drawn, exact, seed, eyes=eyes)]
        for noise in tried:
            yield from noise.split(batch)

    return drawn, _placed(generator, parts(), label, drawn, exact, size, seed, False)


def _label(generator, class_name) -> tuple[int | None, str | None]:
    """A class's place among those of the generator, None of one class, and its name."""
    if not getattr(generator, "classes", 0):
        return None, class_name
    known = classes_of(generator)
    class_name = class_name or getattr(generator, "metadata", {}).get("class", known[0])
    if class_name not in known:
        raise ValueError(f"class {class_name}: this generator draws {', '.join(known)}")
    return known.index(class_name), class_name


def _need_dials(generator, dials) -> None:
    if dials and not has_dials(generator):
        raise ValueError(f"dial {next(iter(dials))}: this generator was trained without dials "
                         "(OCT_DIALS=1, OCT_FRAMING=aligned)")  # fmt: skip


def _check_tries(generator, tries, shape="drawn") -> None:
    if tries < 1:
        raise ValueError(f"tries={tries}: choose at least 1.")
    if tries > 1 and not has_dials(generator):
        raise ValueError(f"tries={tries}: this generator was trained without dials, so nothing is "
                         "asked of it (OCT_DIALS=1, OCT_FRAMING=aligned).")  # fmt: skip
    if tries > 1 and shape == "aligned":
        raise ValueError(f"tries={tries}: the ruler reads whole scans; leave out shape aligned.")


def _most_obedient(generator, noises, label, drawn, exact, seed, first=0, eyes=None):
    """For each of the shapes in ``drawn``, numbered from ``first`` on, that one of several
    ``noises``, each (B, z_dim), with which the ruler reads most what was asked for: (B, z_dim);
    of all scans of one of ``eyes`` together."""
    best = least = None
    for noise in noises:
        own = drawn[first : first + len(noise)]
        scans = _placed(generator, noise.split(64), label, own, exact, RULED, seed, False, first)
        levels = np.concatenate([to_levels(batch) for batch in scans])
        off = misdrawn(levels, own[:, DIALLED])
        for eye in set(eyes or ()):
            visits = np.array(eyes) == eye
            off[visits] = off[visits].sum()
        if best is None:
            best, least = noise, off
        else:
            better = torch.from_numpy(off < least)[:, None]
            best, least = torch.where(better, noise, best), np.minimum(off, least)
    return best


def _placed(generator, parts, label, drawn, exact, size, seed, aligned, first=0):
    start = 0
    for noise in parts:
        own = drawn[start : start + len(noise)]
        crops = render_crops(generator, noise, label, own, exact)
        if aligned:
            yield crops
        else:
            levels = place_back(crops.numpy(), own, size, seed, first + start)
            yield to_float(levels)[:, None]
        start += len(noise)


@torch.inference_mode()
def render_crops(generator, noise, label, shapes, exact):
    """What a generator draws from noise (B, z_dim), a class's place or None, and shapes (B,
    len(FIELDS)) or None: its own pictures, float in [-1, 1] on the CPU."""
    noise = noise.to(next(generator.parameters()).device)
    told = () if label is None else (noise.new_full((len(noise),), label).long(),)
    if getattr(generator, "looks", 0):
        louder = getattr(generator, "metadata", {}).get("louder", (1, 1, 1))
        looks = torch.from_numpy(look(shapes, louder)[:, : generator.looks])
        told = (told or (None,)) + (looks.to(noise.device),)
    with in_bf16(noise.device, not exact):
        return generator(noise, *told).float().clamp(-1, 1).cpu()


def sample(generator, n, seed=0, batch=64, class_name=None, **how):
    """Images (n, C, S, S), float in [-1, 1] on the CPU; `class_name` and `how` as in
    sample_batches.

    The noise is fixed by the seed whatever the batch; pixels differ by rounding at most, since
    convolutions of another batch size may add up in another order.
    """
    return torch.cat(list(sample_batches(generator, n, seed, batch, class_name, **how)))

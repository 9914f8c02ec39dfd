"""An early word while a training runs: useful so far, or unlike scans, collapsing, copying.

Rules that anyone can read, of what a validation has computed anyway; what is shown in
results/evaluation.md is what they say of failures that were planted. A word is no verdict: the
report of notebook 05 is, on patients who have not chosen the checkpoint.
"""

import numpy as np
import torch
import torch.nn.functional as F

ALIKE = 0.1  # of the variance in features of real scans of a class, that of synthetic ones
FAR = 1.5  # mean of the synthetic scans from that of real ones, in standard deviations of these
COPIED = 0.2  # of the synthetic scans, where of unseen real ones UNSEEN would be called copies
UNSEEN, ENOUGH = 0.01, 20  # unseen scans that it takes
CHANCE, NEAR = 0.6, 0.05  # an AUROC that shows something; what may be lacking to that of real scans
SMALL = 32  # px of a side of the pictures in which copies are looked for
MOST = 5000  # training scans among which they are


def early_word(made, real, probe=None, real_probe=None, copied=None) -> tuple[str, str]:
    """(word, why) of a training at a validation; the first rule that holds says it.

    made, real: {class: features (N, d)} of synthetic and of validation scans, of every class with
    two of each at least. probe, real_probe: AUROC on the validation scans of a linear head that
    learned the classes from the synthetic scans, and from real training scans (None: one class, or
    not known). copied: ``copied_share`` (None: not known).
    """
    for name, scans in made.items():
        spread = max(real[name].var(0).sum(), 1e-12)
        away = np.sqrt(((scans.mean(0) - real[name].mean(0)) ** 2).sum() / spread)
        variety = f"{scans.var(0).sum() / spread:.0%} of the variety of real ones"
        if not away < FAR:  # NaN is far
            why = f"synthetic scans of {name} lie {away:.1f} times as far from real ones as these"
            return "unlike scans", f"{why} from their mean, with {variety}"
        if scans.var(0).sum() < ALIKE * spread:
            return "collapsing", f"the synthetic scans of {name} are nearly one picture, {variety}"
    if copied is not None and copied > COPIED:
        return "copying", (f"{copied:.0%} of the synthetic scans lie as near to a training scan as "
                           "next to no unseen scan does")  # fmt: skip
    if probe is None:
        return "no failure seen", "of one class, whether it is useful is not asked"
    if real_probe is None:
        word = "useful so far" if probe >= CHANCE else "not useful yet"
        return word, f"it teaches an AUROC of {probe:.2f}; what real scans teach is not known"
    taught = f"it teaches an AUROC of {probe:.2f}, real scans {real_probe:.2f}"
    if real_probe < CHANCE:
        return "cannot be told", f"{taught}: on these validation patients neither shows anything"
    useful = probe >= CHANCE and probe >= real_probe - NEAR
    return ("useful so far" if useful else "not useful yet"), taught


def shrink(images) -> np.ndarray:
    """Pictures (N, 1, H, W), uint8 or float, without noise, brightness and contrast: float32
    (N, SMALL * SMALL), of mean 0 and standard deviation 1."""
    parts = (
        torch.from_numpy(np.asarray(images[i : i + 512]).copy()) for i in range(0, len(images), 512)
    )
    small = torch.cat([F.adaptive_avg_pool2d(part.float(), SMALL).flatten(1) for part in parts])
    small = small - small.mean(1, keepdim=True)
    return (small / small.std(1, keepdim=True).clamp(min=1e-6)).numpy()


def nearness(images, training) -> np.ndarray:
    """How far each of ``images`` (N, d) of ``shrink`` is from the nearest of ``training`` (T, d),
    mirrored or not, as a share of its median distance to them: (N,). A blurred or an ordinary scan
    is near to all of them, a copy to one."""
    mirrored = images.reshape(-1, SMALL, SMALL)[:, :, ::-1].reshape(images.shape)
    both = [(images**2).sum(1)[:, None] + (training**2).sum(1) - 2 * one @ training.T
            for one in (images, mirrored)]  # fmt: skip
    away = np.sqrt(np.minimum(*both).clip(0))
    return away.min(1) / np.maximum(np.median(away, 1), 1e-6)


def copied_share(synthetic, training, unseen) -> float | None:
    """The share of ``synthetic`` (N, d) of ``shrink`` that are nearer to one of ``training`` than
    all but UNSEEN of the real scans ``unseen`` (U, d), which taught nothing; None of too few."""
    if len(unseen) < ENOUGH:
        return None
    known = np.sort(nearness(unseen, training))
    return float((nearness(synthetic, training) < known[int(UNSEEN * len(known))]).mean())

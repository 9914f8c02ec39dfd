"""Differentiable, OCT-safe augmentation (Zhao et al., NeurIPS 2020; Karras et al., NeurIPS 2020).

A discriminator with a few hundred scans learns them by heart. Showing it real *and* synthetic scans
through the same random, differentiable changes takes that way out without teaching the generator
to draw the changes. OCT allows few of them: depth has a direction (no vertical flip), layers are
near horizontal (a tilt of some degrees is an eye that looked aside, 90 degrees is no retina), and
grey values mean reflectivity (small changes of gain and offset only, as between devices).
"""

import math

import torch
import torch.nn.functional as F

SHIFT = 0.125  # of the image, along the scan: fixation is never perfect
LIFT = 0.0625  # of the image, in depth: where the reference arm stood
TILT = math.radians(6)
GAIN, OFFSET = 0.25, 0.15  # in grey values of [-1, 1]

MOST = 0.8  # share of changed scans beyond which the changes leak into what is drawn (ADA)
ADAPT_EVERY = 4  # steps
ADAPT_IMAGES = 20_000  # that move the share from 0 to 1, if they all say so


def mirror(images: torch.Tensor) -> torch.Tensor:
    """Mirror half of the images (B, C, H, W) left to right: a right eye becomes a left one.

    For real scans alone it is ordinary data augmentation; both eyes exist, so nothing false leaks
    into the generator.
    """
    chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(chosen, images.flip(3), images)


def augment(images: torch.Tensor, strength: float) -> torch.Tensor:
    """Shift, lift, tilt, gain and offset, each on a share ``strength`` in [0, 1] of the images.

    Images are (B, C, H, W) in [-1, 1]; gradients flow through; what is shifted in from outside is
    the mirror image of the border. ``strength=0`` returns the images themselves. Draws from
    torch's global random generator, which a checkpoint holds.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"augment={strength}: choose a share between 0 (off) and 1.")
    if strength == 0:
        return images
    count, device = len(images), images.device

    def draw(limit: float) -> torch.Tensor:
        value = (torch.rand(count, device=device) * 2 - 1) * limit
        return torch.where(torch.rand(count, device=device) < strength, value, 0.0)

    angle, shift, lift = draw(TILT), draw(2 * SHIFT), draw(2 * LIFT)
    cos, sin = angle.cos(), angle.sin()
    affine = torch.stack([cos, -sin, shift, sin, cos, lift], 1).view(count, 2, 3)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    moved = F.grid_sample(
        images.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    gain, offset = 1 + draw(GAIN), draw(OFFSET)
    return moved * gain.view(-1, 1, 1, 1) + offset.view(-1, 1, 1, 1)


class AdaptiveShare:
    """The share of changed scans, moved so that the discriminator's overfitting stays near a value.

    The signal is r_v of adaptive discriminator augmentation (Karras et al., NeurIPS 2020, eq. 1):
    r = (E[D(training)] - E[D(validation)]) / (E[D(training)] - E[D(synthetic)]), 0 if scans of
    patients it never saw look as real to the discriminator as those it trains on, 1 if they look
    as false as synthetic ones. (r_t, the sign of the logits, says nothing here: a relativistic
    discriminator knows differences only.) ``target`` 0 leaves the share at ``value``, and
    ``validation``, uint8 (N, C, S, S), may be None.
    """

    def __init__(self, value: float, target: float, validation):
        self.value, self.target = value, target
        self.validation = torch.from_numpy(validation).float() / 127.5 - 1 if target else None
        self.signal, self.calls, self.gaps = 0.0, 0, (0.0, 0.0)

    @torch.no_grad()
    def adapt(self, discriminator, on_real, on_fake, label, accelerator, labels=None) -> dict:
        """Move the share, after every step; ``label`` is the class of the validation scans,
        ``labels`` those of the batch."""
        self.calls += 1
        if self.calls % ADAPT_EVERY == 0:
            chosen = torch.randint(len(self.validation), (len(on_real),))
            scans = augment(self.validation[chosen].to(on_real.device), self.value)
            asked = () if label is None else (on_real.new_full((len(scans),), label).long(),)
            with accelerator.autocast():
                on_unseen = discriminator(scans, *asked).float().mean()
            # a class may have logits higher than another's: compare within the one validated
            own = torch.ones_like(on_real) if labels is None else (labels == label).float()
            sums = torch.stack([(own * on_real).sum(), (own * on_fake).sum(), own.sum()])
            if accelerator.num_processes > 1:
                sums = accelerator.reduce(sums, reduction="sum")
                on_unseen = accelerator.reduce(on_unseen, reduction="mean")
            if sums[2] == 0:
                return {"augment": self.value, "overfitting": self.signal}
            real, fake = sums[:2] / sums[2]
            gaps = torch.stack([real - on_unseen, real - fake])
            self.gaps = [0.9 * old + 0.1 * new for old, new in zip(self.gaps, gaps.tolist())]
            self.signal = min(max(self.gaps[0] / max(self.gaps[1], 1e-6), -1.0), 1.0)
            images = ADAPT_EVERY * len(on_real) * accelerator.num_processes
            move = math.copysign(images / ADAPT_IMAGES, self.signal - self.target)
            self.value = min(max(self.value + move, 0.0), MOST)
        return {"augment": self.value, "overfitting": self.signal}

    def state_dict(self) -> dict:
        return {k: v for k, v in vars(self).items() if k not in ("validation", "target")}

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)

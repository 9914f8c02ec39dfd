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
CHANGES = 5  # numbers that tell what was done to an image


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
    return change(images, draw_changes(len(images), strength, images.device))


def draw_changes(count: int, strength: float, device="cpu") -> torch.Tensor:
    """What ``change`` does to each of ``count`` images, (count, CHANGES) in [-1, 1], 0 for what is
    left as it is: tilt, shift, lift, gain and offset, as shares of the largest there is."""

    def draw() -> torch.Tensor:
        value = torch.rand(count, device=device) * 2 - 1
        return torch.where(torch.rand(count, device=device) < strength, value, 0.0)

    return torch.stack([draw() for _ in range(CHANGES)], 1)


def change(images: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
    """Images (B, C, H, W) in [-1, 1] changed as ``changes`` (B, CHANGES) say."""
    limits = TILT, 2 * SHIFT, 2 * LIFT, GAIN, OFFSET  # numbers, which a CUDA graph may hold
    angle, shift, lift, gain, offset = (part * most for part, most in zip(changes.T, limits))
    cos, sin = angle.cos(), angle.sin()
    affine = torch.stack([cos, -sin, shift, sin, cos, lift], 1).view(len(images), 2, 3)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    moved = F.grid_sample(
        images.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return moved * (1 + gain).view(-1, 1, 1, 1) + offset.view(-1, 1, 1, 1)

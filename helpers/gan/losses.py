"""Adversarial losses and gradient penalties: pure functions of logits, (B,) or a map of them, to a
scalar.

A logit above 0 means that the discriminator takes the image for real. Every function is smaller
when its owner does better, and averages over the batch.
"""

import math

import torch
import torch.nn.functional as F


def bce_discriminator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """-log D(x) - log(1 - D(G(z))) with D = sigmoid(logit) (Goodfellow et al. 2014, eq. 1)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def bce_generator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """-log D(G(z)), the non-saturating form (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake).mean()


def hinge_discriminator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """max(0, 1 - D(x)) + max(0, 1 + D(G(z))) (Lim & Ye 2017; Miyato et al. 2018)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """-D(G(z)) (Miyato et al. 2018)."""
    return -fake.mean()


def relativistic_discriminator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """softplus(-(D(x) - D(G(z)))): each real against one fake (Jolicoeur-Martineau 2019; R3GAN,
    Huang et al., NeurIPS 2024). To be used with both R1 and R2."""
    return F.softplus(fake - real).mean()


def relativistic_generator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """softplus(-(D(G(z)) - D(x))), the mirror image of the discriminator's term."""
    return F.softplus(real - fake).mean()


def least_squares_discriminator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """((D(x) - 1)^2 + D(G(z))^2) / 2 (LSGAN; Mao et al., ICCV 2017), as CycleGAN uses it."""
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def least_squares_generator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """(D(G(z)) - 1)^2 (Mao et al. 2017)."""
    return (fake - 1).square().mean()


LOSSES = {
    "bce": (bce_discriminator, bce_generator),
    "hinge": (hinge_discriminator, hinge_generator),
    "least_squares": (least_squares_discriminator, least_squares_generator),
    "relativistic": (relativistic_discriminator, relativistic_generator),
}


def zero_centred_penalty(logits: torch.Tensor, images: torch.Tensor, fine=1.0) -> torch.Tensor:
    """Mean over the batch of ||grad_x D(x)||^2: R1 on real images, R2 on fakes
    (Mescheder, Geiger & Nowozin, ICML 2018). Weight it with gamma / 2.

    ``images`` (B, C, H, W), H and W even, must require a gradient and ``logits`` (B,) must come
    from them through a discriminator without BatchNorm: there the logit of one sample depends on
    the others, and the sum below would mix their gradients. The graph is kept, so that the penalty
    can be trained on.

    ``fine``, 0 to 1, is the weight of the finest detail (1: as published). With P for the mean of
    every cell of 2 x 2 px, put back in its place, the penalty is ||P g||^2 + fine ||g - P g||^2.
    The published one asks for the same flatness in every direction, but scans do not vary alike in
    all: most of their contrast is coarse, and what tells grain from grain is a function of small
    differences between neighbours, which has to be steep. results/generators.md has what
    it makes of speckle.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    gradient = gradient.float()
    penalty = fine * gradient.square().sum(dim=(1, 2, 3))
    if fine < 1:  # ||P g||^2 is four times that of the means; P is a projection
        coarse = F.avg_pool2d(gradient, 2).square().sum(dim=(1, 2, 3)) * 4
        penalty = penalty + (1 - fine) * coarse
    return penalty.mean()


def path_lengths(images: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """How far a picture moves per step in W, (B,): ||J_w^T y|| with y = N(0, I) / sqrt(H W)
    (StyleGAN2, Karras et al., CVPR 2020, section 3.2).

    ``images`` (B, C, H, W) are drawn from ``styles`` (B, levels, latent), which require a gradient;
    as there, the norm is the root of the mean over levels. If the length is the same everywhere, a
    step of one size in W changes every eye as much: then directions in W mean something. The
    penalty is (length - a)^2, a their running mean. The graph is kept.
    """
    draw = torch.randn(len(images), *images.shape[1:], device=images.device)
    height, width = images.shape[-2:]
    projected = (images.float() * draw).sum() / math.sqrt(height * width)
    (gradient,) = torch.autograd.grad(projected, styles, create_graph=True)
    return gradient.float().square().sum(2).mean(1).sqrt()

"""What keeps a translated image the same eye: cycles, and contrast between places.

Pure functions of images in [-1, 1], or of features of them, to a scalar (CycleGAN: Zhu et al., ICCV
2017; CUT: Park et al., ECCV 2020).
"""

import torch
import torch.nn.functional as F


def patch_nce(queries: torch.Tensor, keys: torch.Tensor, temperature=0.07) -> torch.Tensor:
    """-log exp(q_i k_i / t) / sum_j exp(q_i k_j / t), mean over places (Park et al. 2020, eq. 3).

    ``queries`` (B, P, C) are features of P places of the translated images, ``keys`` those of the
    same places of the originals, both of length 1; the other places of the same image are the
    negatives. Keys pass no gradient.
    """
    likeness = queries @ keys.detach().transpose(1, 2) / temperature
    places = torch.arange(queries.shape[1], device=queries.device)
    return F.cross_entropy(likeness.flatten(0, 1), places.repeat(len(queries)))


def pixel_places(features: torch.Tensor, count: int, chosen=None):
    """``count`` random pixels of a map (B, C, H, W) as (B, P, C), and which: the published form."""
    places = features.flatten(2).transpose(1, 2)
    if chosen is None:
        chosen = torch.randperm(places.shape[1], device=features.device)[:count]
    return places[:, chosen], chosen


def column_places(features: torch.Tensor, count: int, chosen=None):
    """``count`` random columns of a map (B, C, H, W) as (B, P, 2C), and which.

    A column of a DFE that is cropped along the scan line and a column of its OCT are one place on
    the retina, a row of the one and a row of the other are not. So a place is a whole column, the
    mean and the largest value of each channel over its rows.
    """
    places = torch.cat([features.mean(2), features.amax(2)], 1).transpose(1, 2)
    if chosen is None:
        chosen = torch.randperm(places.shape[1], device=features.device)[:count]
    return places[:, chosen], chosen


PLACES = {"pixel": pixel_places, "column": column_places}


LUMINANCE = (0.299, 0.587, 0.114)  # of red, green, blue (ITU-R BT.601)


def grey(images: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W): the luminance of RGB images, grey ones as they are."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor(LUMINANCE, device=images.device, dtype=images.dtype)
    return (images * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)


def with_channels(images: torch.Tensor, channels: int) -> torch.Tensor:
    """(B, channels, H, W): grey repeated for RGB, the luminance of RGB for grey."""
    if images.shape[1] == channels:
        return images
    return grey(images).expand(-1, channels, -1, -1)


def blurred(images: torch.Tensor, share: float) -> torch.Tensor:
    """Images (B, C, S, S) after a Gaussian blur with a standard deviation of ``share`` of the side,
    of what lies in the image; 0: as they are.

    As two products of matrices: as a convolution of each channel with 25 x 25 weights, in bf16 and
    channels last, it takes a CPU minutes.
    """
    if not share:
        return images
    place = torch.arange(images.shape[-1], device=images.device) / (share * images.shape[-1])
    weights = (-((place - place[:, None]) ** 2) / 2).softmax(1).to(images.dtype)
    return weights @ images @ weights.T


def cycle_loss(images: torch.Tensor, there_and_back: torch.Tensor) -> torch.Tensor:
    """|F(G(x)) - x|, mean over pixels (Zhu et al., ICCV 2017, eq. 2)."""
    return F.l1_loss(there_and_back, images)


def identity_loss(images: torch.Tensor, translated: torch.Tensor) -> torch.Tensor:
    """|G(y) - y| for images y of the side that G draws (Zhu et al. 2017, section 5.2).

    Published for equal numbers of channels. Where G takes another number, it is given
    ``with_channels(y, number)``, and what it draws is compared by luminance: no colour is asked
    for that the input did not have.
    """
    return F.l1_loss(grey(translated), grey(images))

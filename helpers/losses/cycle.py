"""What keeps a translated image the same eye: pure functions of images in [-1, 1] to a scalar."""

import torch
import torch.nn.functional as F

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


def class_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of a frozen classifier's logits (B, K) on translated images against the class
    (B,) of what they were translated from (semantic loss of CyCADA, Hoffman et al., ICML 2018)."""
    return F.cross_entropy(logits, labels)

"""Where a classifier looks: Grad-CAM (Selvaraju et al., ICCV 2017)."""

import torch
import torch.nn.functional as F

from helpers.data.pixels import to_float


def grad_cam(classifier, images: torch.Tensor, target: int) -> torch.Tensor:
    """Maps (N, H, W) in [0, 1] of what speaks for class number ``target`` in images (N, C, H, W),
    uint8 or float in [-1, 1].

    ReLU of the sum over channels of the last feature maps, each weighted by the mean of the
    class's gradient in it (eq. 1 and 2), enlarged to the image and divided by its largest value.
    An image in which nothing speaks for the class has an empty map. ValueError for a backbone that
    ends in tokens or in channels-last maps (vision transformers), for which it is not defined.
    """
    network = classifier.network
    device = network.head.weight.device
    with torch.no_grad():
        maps = network.maps(to_float(images).to(device)).float()
    if maps.ndim != 4 or getattr(network.backbone, "output_fmt", "NCHW") == "NHWC":
        raise ValueError(f"{classifier.arguments['backbone']} has no feature maps for Grad-CAM")
    with torch.enable_grad():
        maps = maps.detach().requires_grad_()
        pooled = network.backbone.forward_head(maps, pre_logits=True)
        (slope,) = torch.autograd.grad(network(pooled)[:, target].sum(), maps)
    found = F.relu((slope.mean((2, 3), keepdim=True) * maps.detach()).sum(1, keepdim=True))
    found = F.interpolate(found, images.shape[-2:], mode="bilinear")[:, 0]
    most = found.amax((1, 2), keepdim=True)
    return (found / torch.where(most > 0, most, torch.ones_like(most))).cpu()

"""FID and KID as published, and a distance in DINOv2, where their weights can be had."""

import warnings

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
from tqdm.auto import tqdm

from helpers.measures.distances import kernel_distance

DINOV2 = "vit_small_patch14_dinov2.lvd142m"  # of timm
PER_DIMENSION = 10  # images for each dimension, below which a covariance is mostly noise


class _Given(torch.nn.Module):
    """Features that were computed before, in torchmetrics' clothes."""

    def __init__(self, dimension):
        super().__init__()
        self.num_features = dimension

    def forward(self, features):
        return features


def frechet_distance(x, y):
    """{"value": Fréchet distance between Gaussians fitted to feature rows, "n", "warning"}.

    Heusel et al. 2017, equation 6. A covariance of d dimensions has d (d + 1) / 2 numbers: below
    PER_DIMENSION * d images on a side the value says more about the count than about the images
    (the fewer, the larger), and the warning says so.
    """
    dimension, n = x.shape[1], min(len(x), len(y))
    found = {"n": n, "warning": None}
    if n < PER_DIMENSION * dimension:
        found["warning"] = (
            f"of {n} images for {dimension} dimensions: compare it with nothing that was computed "
            f"from another number; {PER_DIMENSION * dimension} make it steady"
        )
    metric = FrechetInceptionDistance(_Given(dimension)).set_dtype(torch.float64)
    metric.update(torch.as_tensor(np.asarray(x, np.float64)), real=True)
    metric.update(torch.as_tensor(np.asarray(y, np.float64)), real=False)
    return {"value": float(metric.compute()), **found}


def inception():
    """torchmetrics' Inception network (the published FID's weights) and None, or None and why not.

    The weights are downloaded on the first use and kept by torch.hub.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return NoTrainInceptionV3(name="inception-v3-compat", features_list=["2048"]), None
    except (OSError, ModuleNotFoundError) as error:  # URLError is an OSError
        return None, f"Inception's weights cannot be had ({error})"


def dinov2():
    """DINOv2, ViT-S/14 (Oquab et al., TMLR 2024), whose distances agree with people's judgement
    better than Inception's (Stein et al., NeurIPS 2023), and None, or None and why not.

    From uint8 (N, 3, H, W) to (N, 384). timm downloads the weights on the first use and keeps them.
    """
    try:
        network = timm.create_model(DINOV2, pretrained=True, img_size=224, num_classes=0).eval()
    except (OSError, RuntimeError) as error:
        return None, f"DINOv2's weights cannot be had ({str(error).splitlines()[0]})"
    mean, std = (torch.tensor(network.pretrained_cfg[name])[:, None, None]
                 for name in ("mean", "std"))  # fmt: skip

    def look(images):
        pixels = F.interpolate(images / 255, (224, 224), mode="bicubic", antialias=True)
        return network((pixels.clamp(0, 1) - mean) / std)

    return look, None


@torch.inference_mode()
def inception_report(synthetic, test, training=None, *, patients=(None, None), network=None,
                     second=None, progress=False):  # fmt: skip
    """report.json's `inception`: {"fid": {value, n, warning}, "kid" and "dinov2": {value, floor,
    n}}, each null where it cannot be had, with the reason.

    synthetic, test and training (for the floor, real to unseen): uint8 (N, C, S, S). network and
    second: from uint8 (N, 3, H, W) to features (N, d); None: torchmetrics' Inception, which resizes
    to 299 px by itself, and DINOv2. Kernel distances use all images at once and are multiplied by
    1000; of the FID see frechet_distance.
    """
    reason = None
    if training is not None:  # a floor needs no more of them than there are to compare with
        training = training[:: max(1, len(training) // max(len(test), 2))]
    if network is None:
        network, reason = inception()
        # without a network DINOv2 cannot be had either, and would try for a minute
        second, reason = (None, reason) if network is None else dinov2()
    found = {"fid": None, "kid": None, "dinov2": None}
    if network is not None:
        x, y, *others = (_looked_at(network, images, progress) for images in
                         (synthetic, test, training) if images is not None)  # fmt: skip
        found |= {"fid": frechet_distance(x, y), "kid": _distance(x, y, *others, patients=patients)}
    if second is not None:
        rows = (_looked_at(second, images, progress) for images in
                (synthetic, test, training) if images is not None)  # fmt: skip
        found["dinov2"] = _distance(*rows, patients=patients)
    return found | ({"reason": reason} if reason else {})


def _looked_at(network, images, progress) -> np.ndarray:
    starts = tqdm(range(0, len(images), 32), desc="inception", disable=not progress)
    parts = [torch.as_tensor(np.array(images[i : i + 32])) for i in starts]
    return torch.cat([network(p.expand(-1, 3, -1, -1)).float() for p in parts]).cpu().numpy()


def _distance(made, test, training=None, *, patients) -> dict:
    own, theirs = patients
    floor = None if training is None else kernel_distance(training, test, theirs, own)
    return {"value": kernel_distance(made, test, None, own), "floor": floor, "n": len(made)}

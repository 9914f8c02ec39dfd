"""Fréchet distance, and FID and KID as published, by torchmetrics, where weights can be had."""

import warnings

import numpy as np
import torch
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
from tqdm.auto import tqdm

from helpers.measures.distances import kernel_distance

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


@torch.inference_mode()
def inception_report(synthetic, test, *, network=None, progress=False):
    """report.json's `inception`: {"fid": {value, n, warning}, "kid": {value, n}}, or the reason.

    synthetic, test: uint8 (N, C, S, S). network: a module from uint8 (N, 3, H, W) to features
    (N, d); None: torchmetrics' Inception, which resizes to 299 px by itself. KID here uses all
    images at once and is multiplied by 1000; of the FID see frechet_distance.
    """
    reason = None
    if network is None:
        network, reason = inception()
    if network is None:
        return {"fid": None, "kid": None, "reason": reason}

    def features(images):
        starts = tqdm(range(0, len(images), 32), desc="inception", disable=not progress)
        parts = [torch.as_tensor(np.array(images[i : i + 32])) for i in starts]
        return torch.cat([network(p.expand(-1, 3, -1, -1)).float() for p in parts]).cpu().numpy()

    x, y = features(synthetic), features(test)
    return {"fid": frechet_distance(x, y), "kid": {"value": kernel_distance(x, y), "n": len(x)}}

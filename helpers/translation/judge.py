"""What the three translators have in common: the score they are judged by, the pool, the rate."""

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from helpers.classifiers.linear_head import label_numbers, linear_head
from helpers.data.pixels import to_float
from helpers.measures.distances import kernel_distance

CLASS_LOST = 400  # what losing every class costs, in units of the kernel distance x1000


def architecture(settings, domains, to: list[str]) -> dict:
    """What rebuilds the ``Translator`` of ``settings``, and what it was shown."""
    s = settings
    arguments = {"kind": s.network, "to": to, "size": s.size, "width": s.width}
    if s.network != "column":
        arguments["positions"] = s.positions
    if s.network == "resnet":
        arguments["blocks"] = s.blocks
    if s.network == "unet":
        arguments["skips"] = s.skips
    return {"network": "translator", "arguments": arguments, "dfe_framing": s.dfe_framing,
            "oriented": domains.oriented}  # fmt: skip


def translate(network: nn.Module, images: torch.Tensor, to="oct") -> torch.Tensor:
    """Images (N, C, S, S) in [-1, 1] through a ``Translator``, 16 at a time; on the CPU."""
    device = next(network.parameters()).device
    with torch.no_grad():
        drawn = [network(part.to(device), to).float().cpu() for part in images.split(16)]
    return torch.cat(drawn).clamp(-1, 1)


class Judge:
    """Scores translated photographs of validation patients: are they OCT, and of the same class?

    Realism is the kernel distance (x1000) to real scans of validation patients. The class is read
    by logistic regression on the same features, fitted to the real scans of *training* patients;
    what survived is its AUROC, mean over classes. ``score`` (smaller is better) is
    distance + 400 (1 - AUROC): losing every class (0.5) costs as much as a strong blur.
    Translators are not trained against it; notebook 03 measures with another judge again.
    """

    def __init__(self, domains, features, size):
        self.features, self.classes, self.size = features, domains.classes, size
        validation = domains.dfe.validation
        self.photographs = to_float(validation.images)
        self.labels = domains.numbers(validation)
        self.real = features(np.asarray(domains.oct.validation.images))
        self.measured: dict[str, float] = {}
        self.head = None
        if len(set(self.labels)) > 1:
            taught = features(np.asarray(domains.oct.train.images))
            numbers = label_numbers(domains.numbers(domains.oct.train), range(len(self.classes)))
            self.head = linear_head(taught, numbers, domains.oct.train.patients)

    def __call__(self, network: nn.Module) -> float:
        self.features.to(next(network.parameters()).device)
        drawn = self.features(translate(network, self.photographs))
        distance = float(kernel_distance(drawn, self.real))
        self.measured = {"kernel_distance": distance}
        if self.head is None:
            return distance
        logits = torch.from_numpy(drawn @ self.head[0].T + self.head[1])
        areas = [roc_auc_score(self.labels == k, logits.softmax(1)[:, k])
                 for k in sorted(set(self.labels))]  # fmt: skip
        self.measured["class_auroc"] = float(np.mean(areas))
        return distance + CLASS_LOST * (1 - self.measured["class_auroc"])

    def preview(self, network: nn.Module) -> torch.Tensor:
        """Eight photographs, as grey images, above what became of them: (16, 1, S, S)."""
        chosen = np.linspace(0, len(self.photographs) - 1, 8).round().astype(int)
        shown = self.photographs[chosen]
        return torch.cat([shown.mean(1, keepdim=True), translate(network, shown)])


class Pool:
    """Up to ``size`` images drawn before; half of those asked for are exchanged for older ones
    (Shrivastava et al., CVPR 2017, section 2.3), so that a discriminator does not forget."""

    def __init__(self, size=50):
        self.size, self.images = size, []

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        given = []
        if not self.size:
            return images.detach()
        for image in images.detach():
            if len(self.images) < self.size:
                self.images.append(image.clone())
                given.append(image)
            elif torch.rand(()) < 0.5:
                at = int(torch.randint(self.size, ()))
                given.append(self.images[at].to(image.device))  # a checkpoint's lie on the CPU
                self.images[at] = image.clone()
            else:
                given.append(image)
        return torch.stack(given)

    def state_dict(self) -> dict:
        return {"images": [image.cpu() for image in self.images]}

    def load_state_dict(self, state: dict) -> None:
        self.images = list(state["images"])


def set_rate(optimizers: dict, settings, step: int) -> None:
    """Constant, then linear to zero in the last ``settings.decay`` of ``settings.steps`` (CycleGAN:
    the second half). With a budget in hours alone it stays constant; the average helps there."""
    left = 1.0
    if settings.steps and settings.decay:
        left = min(1.0, (settings.steps - step) / (settings.decay * settings.steps))
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * left * group.get("slowed", 1)

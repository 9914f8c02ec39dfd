"""What translators have in common: the score they are judged by, the pool, the rate."""

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from helpers.classifiers.linear_head import label_numbers, linear_head
from helpers.data.cache import simulated_eye
from helpers.data.pixels import to_float
from helpers.data.two_modalities import Domains, all_simulated, as_taken, truths_of
from helpers.measures.distances import kernel_distance
from helpers.measures.layers import read_all
from helpers.translation.lesions import elevation, rise, rises_in_place, true_drusen

CLASS_LOST = 400  # of 1 - AUROC, in units of the kernel distance x1000: chance costs 200
PLACE_LOST = 400  # of 1 - concordance: the true scans have 0.9, those of other eyes 0.05
MOST_EYES = 60  # in which the ruler looks at each validation: 2 seconds
READ_RIGHT = 0.7  # concordance of an eye's own scan with its truth


def architecture(settings, domains, to: list[str]) -> dict:
    """What rebuilds the ``Translator`` of ``settings``, and what it was shown.

    ValueError that names the setting if the notebook has no such network.
    """
    s = settings
    asks = {"column": "width", "resnet": "blocks", "unet": "skips"}  # notebook 03 has no skips
    known = [name for name, setting in asks.items() if hasattr(s, setting)]
    if s.network not in known:
        raise ValueError(f"network={s.network!r}: choose one of {', '.join(known)}.")
    arguments = {"kind": s.network, "to": to, "size": s.size, "width": s.width}
    if s.network != "column":
        arguments["positions"] = s.positions
    if s.network == "resnet":
        arguments["blocks"] = s.blocks
    if s.network == "unet":
        arguments["skips"] = s.skips
    return {"network": "translator", "arguments": arguments, "dfe_framing": s.dfe_framing,
            "framing": s.framing, "oriented": domains.oriented}  # fmt: skip


def translate(network: nn.Module, images: torch.Tensor, to="oct") -> torch.Tensor:
    """Images (N, C, S, S) in [-1, 1] through a ``Translator``, 16 at a time; on the CPU."""
    device = next(network.parameters()).device
    with torch.no_grad():
        drawn = [network(part.to(device), to).float().cpu() for part in images.split(16)]
    return torch.cat(drawn).clamp(-1, 1)


def evenly(count: int, most: int) -> np.ndarray:
    """``most`` places out of ``count``, or all, at equal distances."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def true_rises(domains: Domains, eyes, size: int, framing: str):
    """Of validation patients' simulated eyes, places (N,): those that have drusen and whose own
    scan the ruler reads right, (K,); how far the RPE rises in truth, um (K, size); um per row (K,).

    At 64 px the ruler loses half of the drusen above 60 um, and what it cannot see on a true scan
    it may see on one that draws the druse lower: with all eyes the true scans would lose.
    """
    photographs, scans = domains.dfe.validation, domains.oct.validation
    sick = [i for i in eyes
            if len(true_drusen(simulated_eye(photographs.scans[i], size, ()).truth))]  # fmt: skip
    if not sick:
        return np.array([], int), np.zeros((0, size)), np.zeros(0)
    known = [photographs.scans[i] for i in sick]
    own = {scan.path: k for k, scan in enumerate(scans.scans)}
    true = to_float(scans.images[[own[eye.path] for eye in known]])
    truths, units = truths_of(known, size, framing)
    rises = np.stack([elevation(truth) for truth in truths])
    found = rises_in_place(as_taken(true, known, domains), rises, units)["concordance"]
    right = found > READ_RIGHT
    return np.array(sick)[right], rises[right], units[right]


def read_rises(domains: Domains, eyes):
    """The same of pairs whose truth nobody knows, as the ruler reads it off the eyes' own scans, in
    their rows: a concordance asks for one unit, not for which. Those count in which it sees a druse
    (2 px of 256 high, or more)."""
    scans = domains.oct.validation
    true = as_taken(to_float(scans.images[eyes]), [scans.scans[i] for i in eyes], domains)
    found = {i: rise(reading.elevation) for i, reading in zip(eyes, read_all(true))
             if reading.drusen}  # fmt: skip
    return np.array([*found], int), np.array([*found.values()]), np.ones(len(found))


def known_rises(domains: Domains, size: int, framing: str) -> dict | None:
    """What is known of where the RPE of validation patients' eyes rises; None if nothing is.

    "eyes" (K,): places in ``domains.dfe.validation``, at most MOST_EYES; "rises" (K, size): how far
    the RPE rises, as the eye lies in its file; "units" (K,): per row of a scan; "um": whether they
    are um. Eyes without drusen do not count: in them there is no place to be right about.
    """
    photographs, scans = domains.dfe.validation, domains.oct.validation
    eyes = evenly(len(photographs), 4 * MOST_EYES)
    simulated = all_simulated([*photographs.scans, *scans.scans])
    if not (simulated or domains.paired):
        return None
    found = true_rises(domains, eyes, size, framing) if simulated else read_rises(domains, eyes)
    some = evenly(len(found[0]), MOST_EYES)
    known = dict(zip(("eyes", "rises", "units"), (values[some] for values in found)))
    return known | {"um": simulated} if len(some) else None


class Judge:
    """Scores translated photographs of validation patients: are they OCT, of the same class, and
    does the RPE rise where it does in the eye?

    Realism is the kernel distance (x1000) to real scans of validation patients. The class is read
    by logistic regression on the same features, fitted to the real scans of *training* patients;
    what survived is its AUROC, mean over classes. Where it is known (``known_rises``: simulated
    eyes, real pairs) the place is the concordance of the height of the RPE, as the ruler reads it
    off the drawn scan, mean over eyes (``lesions.concordance``). ``score`` (smaller is better) is

    distance + 400 (1 - AUROC) + 400 (1 - concordance)

    in which each of the three, lost, costs as much as a strong blur. Real photographs without a
    pair are judged by the first two. Of simulated eyes the truth of validation patients chooses a
    checkpoint, of unpaired methods too, and never trains. Translators are not trained against the
    score; notebook 03 measures with another judge again.
    """

    def __init__(self, domains, features, size, framing):
        self.features, self.classes, self.size = features, domains.classes, size
        self.domains, self.known = domains, known_rises(domains, size, framing)
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
        scans = translate(network, self.photographs)
        drawn = self.features(scans)
        self.measured = {"kernel_distance": float(kernel_distance(drawn, self.real))}
        if self.head is not None:
            logits = torch.from_numpy(drawn @ self.head[0].T + self.head[1])
            areas = [roc_auc_score(self.labels == k, logits.softmax(1)[:, k])
                     for k in sorted(set(self.labels))]  # fmt: skip
            self.measured["class_auroc"] = float(np.mean(areas))
        if self.known is not None:
            self.measured |= self._places(scans)
        return score(self.measured)

    def _places(self, scans: torch.Tensor) -> dict[str, float]:
        """Concordance of the height of the RPE, and its mean absolute error where um are known."""
        eyes, known = self.known["eyes"], self.known
        shown = [self.domains.dfe.validation.scans[i] for i in eyes]
        drawn = as_taken(scans[eyes], shown, self.domains)
        found = rises_in_place(drawn, known["rises"], known["units"])
        found = {name: float(values.mean()) for name, values in found.items()}
        measured = {"rpe_concordance": found["concordance"]}
        return measured | ({"rpe_um": found["error"]} if known["um"] else {})

    def preview(self, network: nn.Module) -> torch.Tensor:
        """Eight photographs, as grey images, above what became of them: (16, 1, S, S)."""
        chosen = np.linspace(0, len(self.photographs) - 1, 8).round().astype(int)
        shown = self.photographs[chosen]
        return torch.cat([shown.mean(1, keepdim=True), translate(network, shown)])


def score(measured: dict, place_lost=PLACE_LOST) -> float:
    """What ``Judge`` measured, in one number, smaller is better; what is not known is left out."""
    return (
        measured["kernel_distance"]
        + CLASS_LOST * (1 - measured.get("class_auroc", 1))
        + place_lost * (1 - measured.get("rpe_concordance", 1))
    )


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

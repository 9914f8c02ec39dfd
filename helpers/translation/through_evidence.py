"""From DFE to OCT through what both say of each place for each class: unpaired, without a cycle."""

import torch
import torch.nn.functional as F

from helpers.data.augment import mirror
from helpers.translation.evidence import SIDE, Evidence
from helpers.translation.pix2pix import Pix2pix

NOISE = 0.15  # on the evidence while drawing is learned; a druse's stands out by 1


class ThroughEvidence(Pix2pix):
    """Trains ``settings`` (a ``config.TrainCyclegan``) on batches of ((photographs, labels),
    (scans, labels)), the scans alone; judged on the validation patients of ``domains``.

    Not published; of the kind of Semantic Bottleneck GAN (Azadi et al. 2019, arXiv 1911.11357),
    with a layout that nobody had to annotate. pix2pix learns to draw a scan from the ``Evidence``
    in that same scan: a pair that every scan has. What it is shown afterwards is the evidence in a
    photograph, which was brought to the same distribution. So an eye's drusen are drawn where its
    photograph speaks for DRUSEN, and of what else is in the photograph nothing can pass. Noise on
    the evidence sees to it that a scan's grain cannot be read off its own: that is what no
    photograph tells.

    ValueError that names the setting: fewer than two classes, or a photograph whose columns are no
    places of a scan.
    """

    def __init__(self, settings, domains, features):
        classes = len(domains.classes)
        if classes < 2:
            raise ValueError("OCT_CLASSES: model=evidence learns from what parts classes: name two "
                             "or more, as NORMAL,DRUSEN.")  # fmt: skip
        if settings.dfe_framing == "full":
            raise ValueError("dfe_framing=full: model=evidence compares columns, which are places "
                             "of a scan in macula and strip only.")  # fmt: skip
        super().__init__(settings, domains, features, evidence=classes)
        self.networks["generator"].evidence.learn(domains, settings.evidence_steps, settings.seed)

    def pairs(self, batch):
        """The evidence in scans, noisy, as pictures (B, K, S, S), and the scans (B, 1, S, S)."""
        _, (scans, _) = batch
        scans = mirror(scans) if self.mirrors else scans
        evidence: Evidence = self.networks["generator"].evidence
        picture = evidence.picture(scans, "oct")
        noise = torch.randn(*picture.shape[:2], SIDE, device=scans.device)
        noise = F.interpolate(noise, picture.shape[-1], mode="linear")
        return picture + NOISE * noise[:, :, None], scans

    def error(self, drawn: torch.Tensor, scans: torch.Tensor) -> torch.Tensor:
        """As in pix2pix, of both at 64 px, as fine as evidence is: no grain can be the right one,
        and at every pixel the least error would be none at all."""
        cell = drawn.shape[-1] // SIDE
        return F.l1_loss(F.avg_pool2d(drawn, cell), F.avg_pool2d(scans, cell))

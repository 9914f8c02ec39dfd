"""How much alike two scans are in pixels, whatever their shift, mirroring, brightness and blur."""

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from helpers.data.pixels import at_size

SIZE = 64  # px to which pictures are reduced before they are aligned
FINEST = 0.2  # cycles per such px: the finest detail compared, which a 64 px generator still draws
REACH = (1 / 8, 1 / 6)  # of height and width: how far a copy may be shifted and still be found
FAINT = 8  # grey levels: detail fainter than this is not raised to the contrast of the rest
STEP = 4 / 3  # of such px: shifts are tried at this distance


def _smooth(pictures, sigma):
    """Gaussian blur of (N, H, W), the border repeated."""
    reach = int(3 * sigma)
    x = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    padded = F.pad(pictures[:, None], (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[..., None]), kernel[:, :, None])[:, 0]


def _small(images):
    """Images as for `at_size`: grey levels, float (N, 64, 64)."""
    return torch.from_numpy(at_size(images, SIZE)).float().mean(1)


def _spectra(pictures):
    """Fourier coefficients (N, 64, 33) after local contrast is made equal everywhere.

    Brightness, contrast and shadows of whole regions drop out; the taper keeps the borders, which
    a shift would compare with the other side, out of it.
    """
    detail = pictures - _smooth(pictures, SIZE / 16)
    detail = detail / (_smooth(detail**2, SIZE / 16).sqrt() + FAINT)
    taper = torch.ones(SIZE)
    edge = torch.sin(torch.linspace(0, torch.pi / 2, SIZE // 8 + 2)[1:-1]) ** 2
    taper[: SIZE // 8], taper[-(SIZE // 8) :] = edge, edge.flip(0)
    detail = (detail - detail.mean((1, 2), keepdim=True)) * taper[:, None] * taper
    return torch.fft.rfft2(detail)


def _frequencies():
    """Cycles per px (64, 33), down and across."""
    down, across = torch.fft.fftfreq(SIZE), torch.fft.rfftfreq(SIZE)
    return down[:, None].expand(-1, len(across)), across[None].expand(len(down), -1)


def _whitening(spectra):
    """Filter (64, 33) that makes the mean spectrum of these scans flat up to FINEST.

    What all retinas share, bright bands from left to right, is strong in every spectrum and says
    nothing of who is who; after whitening it weighs no more than what only one eye has.
    """
    power = spectra.abs() ** 2
    power = (power / power.sum((1, 2), keepdim=True).clamp(min=1e-9)).mean(0)
    power = (power + power.flip(0).roll(1, 0)) / 2  # an eye and its mirror image count alike
    down, across = _frequencies()
    fine = torch.hypot(down, across) / FINEST
    weight = torch.exp(-(fine**4)) / (power + 0.01 * power.mean()).sqrt()
    weight[0, 0] = 0
    return weight


def _codes(pictures, weight):
    """Unit vectors, complex (N, K), and their frequencies (K,), up to 1.3 FINEST."""
    down, across = _frequencies()
    kept = (torch.hypot(down, across) < 1.3 * FINEST) & (weight > 0)
    twice = torch.where(across > 0, 2**0.5, 1.0)  # a real picture's other half is the conjugate
    codes = (_spectra(pictures) * weight * twice)[:, kept]
    length = codes.abs().square().sum(1, keepdim=True).sqrt()
    return codes / length.clamp(min=1e-9), down[kept], across[kept]


def _real(codes):
    """Complex rows as real ones twice as long, whose product is the real part of theirs."""
    return torch.cat([codes.real, codes.imag], 1)


class Alignment:
    """Similarity of scans whatever their shift, mirroring, brightness and blur, in pixels.

    Made for one set of scans (M, C, H, W), the training ones; `similarity(images)` compares N
    others with each of them. Pictures are reduced to 64 px, made equal in local contrast, and
    whitened by the mean spectrum of the training scans, so that the bands which all retinas share
    do not count (the matched filter in coloured noise: Turin, IRE Trans. Inf. Theory 1960).
    `weight`: the whitening filter of another Alignment, to compare on one scale.
    """

    def __init__(self, scans, weight=None):
        pictures = _small(scans)
        self.weight = _whitening(_spectra(pictures)) if weight is None else weight
        self.rows = _real(_codes(pictures, self.weight)[0])
        down, across = (int(reach * SIZE / STEP) for reach in REACH)
        self.shifts = [
            (mirrored, row * STEP / SIZE, column * STEP / SIZE)
            for mirrored in (False, True)
            for row in range(-down, down + 1)
            for column in range(-across, across + 1)
        ]

    def similarity(self, images, *, alignments=False, progress=False):
        """Largest normalised correlation over shifts and mirroring: (N, M), 1 for a copy.

        alignments=True returns also, (N, M), the index in `shifts` where it was found: (mirrored,
        rows, columns), that is: the scan, mirrored first and then moved down and to the right by
        these shares of its height and width, lies on the image.
        """
        pictures = _small(images)
        best = torch.full((len(pictures), len(self.rows)), -2.0)
        which = torch.zeros(best.shape if alignments else (0, 0), dtype=torch.int16)
        chunks = range(0, len(pictures), 256)  # a chunk's results stay in the processor's cache
        for start in tqdm(chunks, desc="aligned pixels", disable=not progress):
            chunk = slice(start, start + 256)
            straight, down, across = _codes(pictures[chunk], self.weight)
            turned = _codes(pictures[chunk].flip(2), self.weight)[0]
            for index, (mirrored, row, column) in enumerate(self.shifts):
                # the mirrored image is compared, so that what lay to its right lies to its left
                phase = (
                    2 * torch.pi * SIZE * (down * row + across * (-column if mirrored else column))
                )
                moved = (turned if mirrored else straight) * torch.polar(
                    torch.ones_like(phase), phase
                )
                found = _real(moved) @ self.rows.T
                if alignments:
                    which[chunk].masked_fill_(found > best[chunk], index)
                torch.maximum(best[chunk], found, out=best[chunk])
        return (best.numpy(), which.numpy()) if alignments else best.numpy()

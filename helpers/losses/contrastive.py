"""Contrast between places of one image (CUT; Park et al., ECCV 2020): pure functions."""

import torch
import torch.nn.functional as F


def patch_nce(queries: torch.Tensor, keys: torch.Tensor, temperature=0.07) -> torch.Tensor:
    """-log exp(q_i k_i / t) / sum_j exp(q_i k_j / t), mean over places (Park et al. 2020, eq. 3).

    ``queries`` (B, P, C) are features of P places of the translated images, ``keys`` those of the
    same places of the originals, both of length 1; the other places of the same image are the
    negatives. Keys pass no gradient.
    """
    likeness = queries @ keys.detach().transpose(1, 2) / temperature
    places = torch.arange(queries.shape[1], device=queries.device)
    return F.cross_entropy(likeness.flatten(0, 1), places.repeat(len(queries)))


def pixel_places(features: torch.Tensor, count: int, chosen=None):
    """``count`` random pixels of a map (B, C, H, W) as (B, P, C), and which: the published form."""
    places = features.flatten(2).transpose(1, 2)
    if chosen is None:
        chosen = torch.randperm(places.shape[1], device=features.device)[:count]
    return places[:, chosen], chosen


def column_places(features: torch.Tensor, count: int, chosen=None):
    """``count`` random columns of a map (B, C, H, W) as (B, P, 2C), and which.

    A column of a DFE that is cropped along the scan line and a column of its OCT are one place on
    the retina, a row of the one and a row of the other are not. So a place is a whole column, the
    mean and the largest value of each channel over its rows.
    """
    places = torch.cat([features.mean(2), features.amax(2)], 1).transpose(1, 2)
    if chosen is None:
        chosen = torch.randperm(places.shape[1], device=features.device)[:count]
    return places[:, chosen], chosen


PLACES = {"pixel": pixel_places, "column": column_places}

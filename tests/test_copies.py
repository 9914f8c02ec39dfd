"""Copies by what is on the picture."""

import io

import numpy as np
import pytest
from PIL import Image

from helpers.data.copies import BYTES, alike, find_copies, fingerprint
from helpers.data.simulated.simulate import make_eye


def scan(seed, label="DRUSEN"):
    return make_eye(seed, label, size=256, pictures=("oct",)).oct


def as_jpeg(image, quality=60):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def half(image):
    height, width = image.shape[:2]
    return np.array(Image.fromarray(image).resize((width // 2, height // 2), 3))


COPIES = {
    "encoded anew": as_jpeg,
    "half": half,
    "mirrored": lambda image: image[:, ::-1],
    "in three channels": lambda image: np.repeat(image[..., None], 3, 2),
    "mirrored, half, encoded": lambda image: as_jpeg(half(image[:, ::-1].copy())),
}


@pytest.mark.parametrize("how", list(COPIES))
def test_copies_are_found(how):
    scans = [scan(seed) for seed in range(6)]
    pictures = [*scans, *(COPIES[how](image) for image in scans)]
    prints = np.stack([fingerprint(picture) for picture in pictures])
    found = find_copies(prints)
    assert [pair[:2] for pair in found] == [(k, k + 6) for k in range(6)]
    assert all(0 <= distance <= 0.06 for *_, distance in found)
    assert [pair[:2] for pair in find_copies(prints[[0, 1, 6]])] == [(0, 2)]


def test_trimmed_copies_are_found_where_the_pictures_can_be_read():
    pictures = [scan(seed) for seed in range(4)]
    pictures += [np.ascontiguousarray(picture[2:-2, 2:-2]) for picture in pictures]
    prints = np.stack([fingerprint(picture) for picture in pictures])
    found = find_copies(prints, lambda k: pictures[k])
    assert [pair[:2] for pair in found] == [(k, k + 4) for k in range(4)]


def test_the_same_layers_with_other_speckle_are_no_copy():
    """What neighbours in a volume are: the anatomy is one, the measurement is not."""
    image = scan(3).astype(float)
    rng = np.random.default_rng(0)
    clean = np.asarray(Image.fromarray(image.astype(np.uint8)).resize((40, 256)).resize((256, 256)))
    one, other = (
        np.clip(clean * rng.gamma(6, 1 / 6, clean.shape), 0, 255).astype(np.uint8) for _ in "12"
    )
    assert alike(one, other) < 0.3 < 0.9 < alike(one, as_jpeg(one, 90))
    pictures = [one, other]
    prints = np.stack([fingerprint(picture) for picture in pictures])
    assert find_copies(prints, lambda k: pictures[k]) == []


def test_blocks_give_what_one_block_gives_and_equals_pair_with_the_first():
    rng = np.random.default_rng(1)
    prints = rng.integers(0, 256, (50, sum(BYTES)), dtype=np.uint8)
    prints[[7, 40, 49]] = prints[3]
    prints[30] = prints[20]
    prints[30, 0] ^= 0b1000_0000
    found = find_copies(prints)
    assert [pair[:2] for pair in found] == [(3, 7), (3, 40), (3, 49), (20, 30)]
    assert found == find_copies(prints, block=7)
    assert 0 < found[-1][2] < 0.01


def test_no_pictures_no_copies():
    assert find_copies(np.zeros((0, sum(BYTES)), np.uint8)) == []
    with pytest.raises(ValueError, match="fingerprints are"):
        find_copies(np.zeros((3, 5), np.uint8))

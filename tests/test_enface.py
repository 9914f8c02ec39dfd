"""Strips of an en-face picture along the lines of B-scans: real pairs, by geometry."""

from types import SimpleNamespace

import numpy as np
import pytest

from helpers.data.enface import evened, strips


def volume(lines, **changes):
    y, x = np.mgrid[:200, :300]
    about = dict(volume="eye1", enface=(x % 250).astype(np.uint8), enface_um_per_px=10.0,
                 lines=lines, numbers=list(range(len(lines))))  # fmt: skip
    return SimpleNamespace(**about | changes)


def test_a_column_is_a_place_on_the_line_and_a_row_one_beside_it():
    (strip,) = strips(volume([(50, 100, 150, 100)]), 4, 100, height_um=40, even=False)
    assert strip.shape == (4, 100)
    assert np.abs(strip[0].astype(int) - np.arange(50, 150)).max() <= 1  # x grows along the line
    rows = np.tile(np.arange(200, dtype=np.uint8)[:, None], (1, 300))
    (strip,) = strips(volume([(50, 100.5, 150, 100.5)], enface=rows), 4, 10, 40, False)
    assert np.array_equal(strip[:, 0], [99, 100, 101, 102])  # 10 um a px: from -1.5 px to 1.5


@pytest.mark.parametrize("angle", [0, 30, 90, 200])
def test_lines_of_any_angle_and_length(angle):
    """A picture that grows along the line's direction, whichever that is, grows from left to right
    in the strip and hardly from top to bottom."""
    towards = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    y, x = np.mgrid[:200, :300]
    ramp = 128 + (x - 150) * towards[0] + (y - 100) * towards[1]
    start, end = (np.array([150, 100]) + side * 40 * towards for side in (-1, 1))
    (strip,) = strips(volume([(*start, *end)], enface=ramp.clip(0, 255).astype(np.uint8)),
                      8, 80, 80, even=False)  # fmt: skip
    strip = strip.astype(int)
    assert np.abs(strip.mean(0) - (128 + np.arange(80) - 39.5)).max() < 1.5
    assert np.abs(strip - strip.mean(0)).max() <= 1.5


def test_colour_pictures_and_light_from_one_side():
    y, x = np.mgrid[:200, :300]
    texture = 20 * ((x // 6 + y // 6) % 2)
    lit = (40 + 0.5 * x + texture).clip(0, 255).astype(np.uint8)
    colour = volume([(80, 100, 220, 100)], enface=np.stack([lit] * 3, 2), enface_um_per_px=35.0)
    (strip,) = strips(colour, 32, 256)
    assert abs(int(strip[:, :64].mean()) - int(strip[:, -64:].mean())) < 12
    assert strip.std() > 25  # the texture is still there
    flat = evened(np.full((50, 50), 90, np.uint8), 10)
    assert np.all(flat == 128)


@pytest.mark.parametrize(("changes", "lines", "why"), [
    ({"enface": None}, [(0, 0, 9, 9)], "no en-face picture"),
    ({"enface_um_per_px": None}, [(0, 0, 9, 9)], "micrometres"),
    ({}, [(0, 0, 9, 9), None], "B-scan 1 has no place"),
    ({}, [(5, 5, 5, 5)], "no length"),
    ({}, [(200, 100, 400, 100)], "50% of the line of B-scan 0.*another visit"),
])  # fmt: skip
def test_what_cannot_be_paired_is_named(changes, lines, why):
    with pytest.raises(ValueError, match=f"eye1.*{why}"):
        strips(volume(lines, **changes), 8, 16)


def turned(angle, scale, shift):
    c, s = scale * np.cos(np.radians(angle)), scale * np.sin(np.radians(angle))
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


@pytest.mark.parametrize("homography", [False, True])
def test_a_registered_photograph_shows_what_the_en_face_picture_does(homography):
    """The photograph is the picture turned, enlarged and moved: the strips are alike."""
    y, x = np.mgrid[:200, :300]
    smooth = 120 + 60 * np.sin(x / 23) * np.cos(y / 17)
    one = volume([(80, 60, 210, 130)], enface=smooth.round().astype(np.uint8))
    onto = turned(30, 1.7, (150, 40))
    back = np.linalg.inv(np.vstack([onto, [0, 0, 1]]))
    tall, wide = np.mgrid[:600, :700]
    x, y, _ = np.tensordot(back, np.stack([wide, tall, np.ones_like(wide)]), 1)
    grey = (120 + 60 * np.sin(x / 23) * np.cos(y / 17)).round().astype(np.uint8)
    photograph = np.stack([grey, 255 - grey, grey // 2], 2)
    if homography:
        onto = 2 * np.vstack([onto, [0, 0, 1]])  # the same, to a factor
        onto[2, 2] = 2
    (found,) = strips(one, 16, 64, 400, even=False, photograph=photograph, transform=onto)
    (own,) = strips(one, 16, 64, 400, even=False)
    assert found.shape == (16, 64, 3)
    assert np.abs(found[..., 0].astype(int) - own).max() <= 3
    assert np.abs(found[..., 1].astype(int) - (255 - own.astype(int))).max() <= 3
    (lit,) = strips(one, 16, 64, 400, photograph=photograph, transform=onto)
    (light,) = strips(one, 16, 64, 400)
    assert np.abs(lit[..., 0].astype(int) - light).mean() < 8  # evened about as far, in um


@pytest.mark.parametrize(("transform", "why"), [
    (None, "eye1: a photograph needs its transform"),
    (np.eye(4), "needs its transform"),
    (np.diag([1, 1, 0]), "needs its transform"),
    ([[1, 0, np.nan], [0, 1, 0]], "needs its transform"),
    ([[-1, 0, 300], [0, 1, 0]], "left for right"),
    ([[1, 0, 250], [0, 1, 0]], "B-scan 0 lie outside of the photograph.*another visit"),
])  # fmt: skip
def test_what_is_no_registration_is_named(transform, why):
    photograph = np.zeros((200, 300, 3), np.uint8)
    with pytest.raises(ValueError, match=why):
        strips(volume([(80, 60, 210, 130)]), 8, 64, photograph=photograph, transform=transform)

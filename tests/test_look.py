"""What is on a picture: what is no scan, and what can be mended."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from helpers.data.look import KINDS, examine
from helpers.data.pixels import resize, to_grey
from helpers.data.simulated.simulate import make_eye

SIZE = 256


def scan(seed=1, label="DRUSEN"):
    return make_eye(seed, label, size=SIZE, pictures=("oct",)).oct


def photograph(seed=1, size=SIZE):
    return make_eye(seed, "NORMAL", size=size, pictures=("dfe",)).dfe


def as_jpeg(image, quality=85):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def coloured(image, name="jet"):
    import matplotlib

    return np.round(255 * matplotlib.colormaps[name](image)[..., :3]).astype(np.uint8)


def kinds(found):
    return [finding.kind for finding in found]


def likeness(one, other):
    return np.corrcoef(resize(one, 96, 96).ravel(), resize(other, 96, 96).ravel())[0, 1]


@pytest.mark.parametrize("label", ["NORMAL", "DRUSEN", "DME", "CNV"])
def test_a_scan_is_a_scan(label):
    for seed in range(4):
        eye = make_eye(seed, label, size=SIZE, wedge=seed % 2 == 1, pictures=("oct",))
        assert examine(eye.oct) == []
        assert examine(np.repeat(as_jpeg(eye.oct)[..., None], 3, 2)) == []


def test_a_photograph_is_a_photograph():
    for seed in range(3):
        assert examine(photograph(seed), "dfe") == []


def mendings():
    image = scan()
    return {
        "inverted": (255 - image, "inverted", 1),
        "inverted jpeg": (as_jpeg(255 - image), "inverted", 1),
        "jet": (coloured(image), "false colour", 1),
        "viridis": (coloured(image, "viridis"), "false colour", 1),
        "jet jpeg": (as_jpeg(coloured(image)), "false colour", 1),
        "green": (np.stack([image // 4, image, image // 4], 2), "false colour", 1),
        "left": (np.rot90(image).copy(), "rotated", 1),
        "right": (np.rot90(image, 3).copy(), "rotated", 1),
        "turned": (image[::-1, ::-1].copy(), "upside down", 1),
    }


@pytest.mark.parametrize("name", list(mendings()))
def test_what_is_wrong_is_mended(name):
    image, kind, _ = mendings()[name]
    found = examine(image)
    assert kinds(found) == [kind] and kind in KINDS
    mended = found[-1].mended
    assert mended.dtype == np.uint8 and likeness(mended, scan()) > 0.97
    assert examine(mended) == []  # once is enough
    assert found[-1].words


def test_two_faults_are_both_mended():
    found = examine(np.rot90(255 - scan()).copy())
    assert kinds(found) == ["inverted", "rotated"]
    assert likeness(found[-1].mended, scan()) > 0.99


def with_infrared(image, left=True):
    infrared = to_grey(photograph(size=len(image)))
    infrared = np.clip(infrared * 0.7 + 40, 0, 255).astype(np.uint8)
    return np.concatenate([infrared, image] if left else [image, infrared], 1)


@pytest.mark.parametrize("left", [True, False])
def test_an_infrared_panel_is_cut_off(left):
    image = resize(scan(), SIZE, SIZE * 3 // 2)
    found = examine(with_infrared(image, left))
    assert kinds(found)[0] == "panel"
    mended = found[-1].mended
    assert mended.shape[0] == SIZE and abs(mended.shape[1] - image.shape[1]) <= 4
    assert likeness(mended, image) > 0.95


def test_several_scans_are_left_out():
    one, other = scan(1), scan(8, "CNV")
    line = np.full((SIZE, 4), 255, np.uint8)
    for picture in (
        np.concatenate([one, line, other], 1),
        np.concatenate([one, line // 2, scan(3)], 1),
        np.concatenate([scan(2), line.T, scan(3)], 0),
    ):
        found = examine(picture)
        assert kinds(found) == ["several scans"] and found[0].mended is None


def burnt_in(image):
    """The picture with a scale bar and letters beside the retina, and where they are."""
    picture = Image.fromarray(image)
    draw, height = ImageDraw.Draw(picture), image.shape[0]
    draw.line([(8, height - 40), (8, height - 10), (60, height - 10)], fill=255)
    draw.text((14, height - 30), "200 um", fill=255, font=ImageFont.load_default(12))
    picture = np.array(picture)
    return picture, picture != image


def test_text_beside_the_retina_is_filled_with_background():
    image = scan(4)
    picture, where = burnt_in(image)
    found = examine(picture)
    assert kinds(found) == ["burnt in"]
    mended = found[0].mended
    assert mended[where].max() < 110 and abs(mended[where].mean() - image[where].mean()) < 15
    far = np.ones(image.shape, bool)
    far[-60:, :90] = False
    assert np.array_equal(mended[far], image[far])


def test_coloured_lines_on_the_retina_are_left_out_and_beside_it_are_filled():
    image = np.repeat(scan()[..., None], 3, 2)
    truth = make_eye(1, "DRUSEN", size=SIZE, pictures=()).truth
    upon, beside = Image.fromarray(image), Image.fromarray(image)
    line = list(zip(range(SIZE), truth.rows["ILM"].tolist()))
    ImageDraw.Draw(upon).line(line, fill=(255, 0, 0), width=2)
    ImageDraw.Draw(beside).text((10, 5), "OD 24", fill=(0, 255, 0), font=ImageFont.load_default(14))
    found = examine(np.array(upon))
    assert kinds(found) == ["coloured marks"] and found[0].mended is None
    found = examine(np.array(beside))
    assert kinds(found) == ["coloured marks"]
    assert found[0].mended.ndim == 2 and found[0].mended[:22, :60].max() < 130


def other_pictures():
    random = np.random.default_rng(0)
    page = Image.new("L", (300, 400), 255)
    for row in range(20, 380, 18):
        ImageDraw.Draw(page).text((20, row), "Report of an examination of the eye", fill=0)
    mask = np.zeros((200, 300), np.uint8)
    for k in range(5):
        mask[80 + 12 * k : 92 + 12 * k] = 40 * (k + 1)
    return {
        "fundus, grey": to_grey(photograph()),
        "noise": random.integers(0, 255, (300, 400)).astype(np.uint8),
        "page": np.array(page),
        "mask": mask,
        "blank": np.full((200, 300), 255, np.uint8),
        "ramp": np.tile(np.linspace(0, 255, 400).astype(np.uint8), (300, 1)),
    }


@pytest.mark.parametrize("name", list(other_pictures()))
def test_what_is_no_scan_is_left_out(name):
    found = examine(other_pictures()[name])
    assert kinds(found)[-1] == "no scan" and found[-1].mended is None


def test_photographs_among_scans_and_scans_among_photographs_are_left_out():
    for seed in range(4):
        found = examine(photograph(seed))
        assert kinds(found) == ["photograph"] and found[0].mended is None
        found = examine(scan(seed), "dfe")
        assert kinds(found) == ["scan"] and found[0].mended is None


def test_what_is_no_picture_raises():
    with pytest.raises(ValueError, match="modality='mri'"):
        examine(scan(), "mri")
    with pytest.raises(ValueError, match="uint8"):
        examine(scan() / 255)

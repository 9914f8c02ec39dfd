"""Image files as data sets bring them: JPEGs of simulated eyes in class folders, made once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from helpers.data.simulated.simulate import make_eye

EXPORT = (768, 496)  # px, of a Kermany scan
PHOTOGRAPH = 768  # px a side
SMALL = (192, 124)  # px, a quarter of it
EYES = 150  # that are drawn; more files are these, bent and with new speckle
CLASSES = ("DRUSEN", "NORMAL")


def files(place: Path, number: int, modality="oct", classes=CLASSES, eyes=0, size=None) -> Path:
    """A folder CLASS/PATIENT/N.jpeg of ``number`` different images, twenty of a patient.

    The pixels are those of ``eyes`` simulated eyes (0: EYES), each file another stretch of one,
    bent anew and with speckle of its own: none is a copy of another. ``size``: px, width and
    height.
    """
    eyes = eyes or EYES
    size = size or (EXPORT if modality == "oct" else (PHOTOGRAPH, PHOTOGRAPH))
    folder = place / "-".join([modality, *classes, str(number), str(eyes), str(size[0])])
    if (folder / "whole").exists():
        return folder

    def draw(k):
        made = make_eye(k, classes[k % len(classes)], size=512, pictures=[modality])
        picture = Image.fromarray(getattr(made, modality))
        return np.asarray(picture.resize(size, Image.Resampling.BICUBIC))

    with ThreadPoolExecutor() as pool:
        drawn = list(pool.map(draw, range(min(eyes, number))))

        def write(k):
            path = folder / classes[k % len(classes)] / f"patient{k // 20}" / f"{k}.jpeg"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = drawn[k % len(drawn)]
            if k >= len(drawn):
                picture = _another(picture, np.random.default_rng(k))
            Image.fromarray(picture).save(path, quality=90)

        list(pool.map(write, range(number)))
    (folder / "whole").touch()
    return folder


def _another(picture, rng) -> np.ndarray:
    """A stretch of 70 to 95 % of a picture's columns, bent, with other speckle."""
    height, width = picture.shape[:2]
    share = rng.uniform(0.7, 0.95)
    first = rng.uniform(0, 1 - share) * width
    columns = (first + np.arange(width) * share).astype(int)[:: rng.choice([-1, 1])]
    x = np.linspace(-1, 1, width)
    bent = height * (rng.uniform(-0.1, 0.1) * x + rng.uniform(-0.08, 0.08) * x**2)
    rows = np.clip(np.arange(height)[:, None] + bent, 0, height - 1).astype(int)
    speckle = rng.standard_normal((height, width), np.float32)
    speckle = speckle if picture.ndim == 2 else speckle[..., None]
    smooth = Image.fromarray(picture).filter(ImageFilter.BoxBlur(1.5))
    return (np.asarray(smooth)[rows, columns] * (1 + 0.3 * speckle)).clip(0, 255).astype(np.uint8)


def arrays(number: int, size: int, modality="oct", first=0, label="DRUSEN") -> np.ndarray:
    """uint8 (number, C, size, size) of different simulated eyes of one class."""

    def draw(k):
        picture = getattr(make_eye(k, label, size=size, pictures=[modality]), modality)
        return picture[None] if modality == "oct" else picture.transpose(2, 0, 1)

    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(draw, range(first, first + number))))

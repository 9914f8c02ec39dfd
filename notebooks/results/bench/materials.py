"""Image files as data sets bring them: JPEGs of simulated eyes in class folders, made once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from helpers.data.simulated.simulate import make_eye

EXPORT = (768, 496)  # px, of a Kermany scan
PHOTOGRAPH = 768  # px a side
EYES = 150  # that are drawn; more files are these, shifted
CLASSES = ("DRUSEN", "NORMAL")


def files(place: Path, number: int, modality="oct", classes=CLASSES, eyes=EYES) -> Path:
    """A folder CLASS/PATIENT/N.jpeg of ``number`` different images, twenty of a patient.

    The pixels are those of ``eyes`` simulated eyes, rolled sideways by ever more: where decoding
    and resizing are timed, it does not matter what is in them.
    """
    folder = place / "-".join([modality, *classes, str(number), str(eyes)])
    if (folder / "whole").exists():
        return folder

    def draw(k):
        made = make_eye(k, classes[k % len(classes)], size=512, pictures=[modality])
        picture = Image.fromarray(getattr(made, modality))
        size = EXPORT if modality == "oct" else (PHOTOGRAPH, PHOTOGRAPH)
        return np.asarray(picture.resize(size, Image.Resampling.BICUBIC))

    with ThreadPoolExecutor() as pool:
        drawn = list(pool.map(draw, range(min(eyes, number))))

        def write(k):
            path = folder / classes[k % len(classes)] / f"patient{k // 20}" / f"{k}.jpeg"
            path.parent.mkdir(parents=True, exist_ok=True)
            rolled = np.roll(drawn[k % len(drawn)], 3 * (k // len(drawn)), axis=1)
            Image.fromarray(rolled).save(path, quality=90)

        list(pool.map(write, range(number)))
    (folder / "whole").touch()
    return folder


def arrays(number: int, size: int, modality="oct", first=0, label="DRUSEN") -> np.ndarray:
    """uint8 (number, C, size, size) of different simulated eyes of one class."""

    def draw(k):
        picture = getattr(make_eye(k, label, size=size, pictures=[modality]), modality)
        return picture[None] if modality == "oct" else picture.transpose(2, 0, 1)

    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(draw, range(first, first + number))))

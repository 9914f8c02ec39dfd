"""Images as arrays: read from any file, grey, resized; uint8 in and out."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError

VERSION = (
    4  # of what cleaning (here, in bscan and photograph) makes of a file: new ones, new caches
)
SMALLEST = 16  # pixels: no retina can be seen in less
MOST_PIXELS = 64_000_000  # of one picture, and eight times of a volume: more is a montage or a bomb


def at_size(images, size):
    """Images as for `Features`, as uint8 (N, C, size, size): stretched, antialiased bicubic.

    Real and synthetic scans go the same way into 8 bits, so that rounding does not tell them
    apart either; what has that size already is only rounded.
    """
    if isinstance(images, (list, tuple)):
        return np.concatenate([at_size(np.asarray(image)[None], size) for image in images])
    pixels = torch.as_tensor(images if torch.is_tensor(images) else np.array(images)).cpu()
    parts = []
    for part in pixels.split(256):
        levels = part.float() if part.dtype == torch.uint8 else (part.float() + 1) * 127.5
        if levels.shape[-2:] != (size, size):
            levels = F.interpolate(levels, (size, size), mode="bicubic", antialias=True)
        parts.append(levels.round().clamp(0, 255).byte())
    return torch.cat(parts).numpy()


def to_float(images) -> torch.Tensor:
    """Grey levels, uint8, as float32 in [-1, 1]; what is float already only as float32."""
    images = torch.as_tensor(images if torch.is_tensor(images) else np.array(images))
    return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images.float()


def to_levels(images) -> np.ndarray:
    """Floats in [-1, 1], of any shape, as uint8; what is uint8 already as it is."""
    images = images.detach().cpu().numpy() if torch.is_tensor(images) else np.asarray(images)
    if images.dtype == np.uint8:
        return images
    return ((images.astype(np.float32) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)


def read_image(path) -> np.ndarray:
    """Read one image file as uint8, (H, W) or (H, W, 3).

    16-bit and float pixels are scaled from their own 0.1 to 99.9 percentile, where there are no
    data (not finite, or a stand-in far from all other values) they are black; palettes and CMYK
    become RGB, transparent pixels are laid over black, and of several frames the first counts.
    Raises ValueError that names the file if it is empty, truncated, unreadable (a disk's error
    too), no image, larger than MOST_PIXELS, of one grey value only, or smaller than 16 x 16 pixels;
    FileNotFoundError if it is missing.
    """
    image, count = _decode(path)
    if count > 1:
        warnings.warn(f"{path}: {count} frames, the first is used", stacklevel=2)
    if image.min() == image.max():
        raise ValueError(f"{path}: every pixel has the value {image.min()}")
    return image


def _decode(path) -> tuple[np.ndarray, int]:
    """The first frame of a file as uint8, and how many there are."""
    path = Path(path)
    try:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such image file")
        if path.stat().st_size == 0:
            # what has no size may still be no empty file: a device, a link into /proc
            with path.open("rb") as file:
                file.read(1)
            raise ValueError(f"{path}: the file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of odd metadata; of bombs it is said below
            try:
                values, count = _by_pillow(path)
            except UnidentifiedImageError:
                values, count = _by_tifffile(path)
    except FileNotFoundError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: cannot be read as an image (of no known format)") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: more than {MOST_PIXELS:,} pixels, no single scan") from error
    except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, struct.error...
        if str(error).startswith(f"{path}: "):
            raise  # said already
        raise ValueError(f"{path}: cannot be read as an image ({error})") from error
    height, width = values.shape[:2]
    if min(height, width) < SMALLEST:
        raise ValueError(
            f"{path}: {width} x {height} pixels, at least {SMALLEST} x {SMALLEST} needed"
        )
    return values if values.dtype == np.uint8 else _scaled(values), count


def _by_pillow(path) -> tuple[np.ndarray, int]:
    with Image.open(path) as file:
        count = getattr(file, "n_frames", 1)
        if file.format == "TIFF" and count == 1 and _is_imagej(file):
            return _by_tifffile(path)  # one header before all frames
        if file.format not in ("TIFF", "GIF"):
            count = 1  # a JPEG's further pictures are previews
        _refuse_if_large(path, file.size[0] * file.size[1])
        return _values(ImageOps.exif_transpose(file)), count


def _is_imagej(file) -> bool:
    about = file.tag_v2.get(270, "")
    return isinstance(about, str) and about.startswith("ImageJ=") and "images=" in about


def _by_tifffile(path) -> tuple[np.ndarray, int]:
    """TIFFs that Pillow does not know: 16-bit colours, 64-bit numbers, stacks of ImageJ.

    Raises UnidentifiedImageError for what is no TIFF."""
    import tifffile  # scikit-image brings it

    try:
        file = tifffile.TiffFile(path)
    except tifffile.TiffFileError as error:
        raise UnidentifiedImageError(str(error)) from error
    with file:
        series = file.series[0]
        shape = series.shape
        colours = "S" in series.axes and shape[series.axes.index("S")] in (3, 4)
        _refuse_if_large(path, int(np.prod(shape[-3:-1] if colours else shape[-2:])))
        _refuse_if_large(path, int(np.prod(shape)), most=MOST_PIXELS * 8)
        pixels = series.asarray()
        if colours:
            pixels = np.moveaxis(pixels, series.axes.index("S"), -1)[..., :3]
    pixels = pixels.reshape(-1, *pixels.shape[-3 if colours else -2 :])
    first = pixels[0]
    return first if first.dtype == np.uint8 else first.astype(np.float64), len(pixels)


def _refuse_if_large(path, pixels, most=MOST_PIXELS) -> None:
    """A montage of a volume or a decompression bomb, before any of it is decoded."""
    if pixels > most:
        raise ValueError(f"{path}: {pixels:,} pixels, more than {MOST_PIXELS:,} is no single scan")


def to_uint8(image: Image.Image) -> np.ndarray:
    """Turn a PIL image of any mode into uint8 (H, W) or (H, W, 3)."""
    values = _values(image)
    return values if values.dtype == np.uint8 else _scaled(values)


def _values(image: Image.Image) -> np.ndarray:
    """uint8 (H, W) or (H, W, 3), or of modes with more than 8 bits float64 (H, W), unscaled."""
    if image.mode.startswith(("I", "F")):
        return np.asarray(image, dtype=np.float64)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.array(image.convert("L" if image.mode in ("L", "1", "LA") else "RGB"))


def _scaled(values) -> np.ndarray:
    """Floats of any range as uint8: where there are no data, black."""
    some = values.ravel()[:: max(1, values.size // 4_000_000)]  # enough for percentiles
    least, most = _range_of_data(some)
    known = some[(some >= least) & (some <= most)]  # NaN is neither
    low, high = np.percentile(known, (0.1, 99.9)) if known.size else (0.0, 1.0)
    if low == high and known.size:
        low, high = known.min(), known.max()
    values = np.where((values >= least) & (values <= most), values, low)
    share = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return np.round(255 * share).astype(np.uint8)


def _range_of_data(values) -> tuple[float, float]:
    """The least and the largest value that is a measurement.

    Stand-ins for none, besides NaN and infinity, are -3.4e38, -9999, 65535...: one value, taken
    many times, further from all others than those are from each other.
    """
    data = values[np.isfinite(values) & (np.abs(values) < 1e30)]
    if not data.size:
        return 0.0, 0.0
    least, most = data.min(), data.max()
    above, below = data[data > least], data[data < most]
    if len(above) > 1 and above.min() - least > np.ptp(above) and len(data) - len(above) > 1:
        least = above.min()
    if len(below) > 1 and most - below.max() > np.ptp(below) and len(data) - len(below) > 1:
        most = below.max()
    return float(least), float(most)


def to_grey(image) -> np.ndarray:
    """uint8 (H, W) or (H, W, 3) to uint8 (H, W)."""
    return image if image.ndim == 2 else np.array(Image.fromarray(image).convert("L"))


def resize(image, height, width) -> np.ndarray:
    """Antialiased bicubic resize of a uint8 image."""
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))

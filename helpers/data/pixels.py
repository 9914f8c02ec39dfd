"""Images as arrays: read from any file, grey, resized; uint8 in and out."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError

VERSION = (
    1  # of what cleaning (here, in bscan and photograph) makes of a file: new ones, new caches
)
SMALLEST = 16  # pixels: no retina can be seen in less


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

    16-bit and float pixels are scaled from their own 0.1 to 99.9 percentile, palettes and CMYK
    become RGB, transparent pixels are laid over black, and of several frames the first counts.
    Raises ValueError that names the file if it is empty, truncated, no image, of one grey value
    only, or smaller than 16 x 16 pixels; FileNotFoundError if it is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    try:
        with Image.open(path) as file:
            if getattr(file, "n_frames", 1) > 1:
                warnings.warn(f"{path}: {file.n_frames} frames, the first is used", stacklevel=2)
            image = to_uint8(ImageOps.exif_transpose(file))
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: cannot be read as an image (of no known format)") from error
    except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, struct.error...
        raise ValueError(f"{path}: cannot be read as an image ({error})") from error
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST:
        raise ValueError(
            f"{path}: {width} x {height} pixels, at least {SMALLEST} x {SMALLEST} needed"
        )
    if image.min() == image.max():
        raise ValueError(f"{path}: every pixel has the value {image.min()}")
    return image


def to_uint8(image: Image.Image) -> np.ndarray:
    """Turn a PIL image of any mode into uint8 (H, W) or (H, W, 3)."""
    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        low, high = np.percentile(values, (0.1, 99.9))
        return np.round(255 * np.clip((values - low) / max(high - low, 1e-9), 0, 1)).astype("uint8")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.array(image.convert("L" if image.mode in ("L", "1", "LA") else "RGB"))


def to_grey(image) -> np.ndarray:
    """uint8 (H, W) or (H, W, 3) to uint8 (H, W)."""
    return image if image.ndim == 2 else np.array(Image.fromarray(image).convert("L"))


def resize(image, height, width) -> np.ndarray:
    """Antialiased bicubic resize of a uint8 image."""
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))

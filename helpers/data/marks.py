"""What a PNG says of itself: that it is synthetic, and what made it."""

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from helpers import __version__


def describe_png(likeness=None, **about):
    """Text chunks that say of a PNG that it is synthetic, whose `likeness` it is if it is that of a
    patient, and what else is given."""
    text = PngInfo()
    text.add_text("Synthetic", f"true: made by a neural network; {likeness or 'shows no patient'}")
    text.add_text("Software", f"synthetic-retinal-oct {__version__}")
    for name, value in about.items():
        text.add_text(name, str(value))
    return text


def write_png(levels, path, text):
    """uint8 (H, W, 1) or (H, W, 3) and its text chunks to a file."""
    picture = Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
    picture.save(path, pnginfo=text, compress_level=1)

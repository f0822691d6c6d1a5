"""Pictures that people give: read as 8-bit RGB, or refused where that would change what they show."""

from __future__ import annotations

import hashlib
from pathlib import Path

from PIL import Image, ImageOps


def open_picture(path: Path) -> Image.Image:
    """The picture in a file, as RGB, see `rgb_picture`.

    Raises:
        FileNotFoundError: it is not there. ValueError: it is no picture that can be read, or none that is
            shown as RGB just as it is.
    """
    if not path.exists():
        raise FileNotFoundError(f"the picture {path} does not exist")
    try:
        with Image.open(path) as image:
            image.load()
            image.getexif()  # of some formats it can only be read while the file is open
    except (PermissionError, IsADirectoryError):
        raise
    # What Pillow raises for damaged files: UnidentifiedImageError and truncation are OSErrors.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a picture ({error}); use PNG, JPEG or WebP") from error
    return rgb_picture(image, str(path))


def picture_digest(image: Image.Image) -> str:
    """SHA-256 (hex) of a picture's size and pixels, whatever file it came from."""
    return hashlib.sha256(f"{image.width}x{image.height} RGB\n".encode() + image.tobytes()).hexdigest()


def rgb_picture(image: Image.Image, name: str = "image") -> Image.Image:
    """A picture as 8-bit RGB, turned as its EXIF orientation says.

    Args:
        image: in any mode of Pillow.
        name: what to call it in messages.

    Raises:
        ValueError: its pixels have more than 8 bits, or some of them are transparent.
    """
    # Pillow's convert cuts such values off at 255, so that most of the picture would be white.
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"{name} has pixels of more than 8 bits (Pillow's mode {image.mode}); save it as 8-bit RGB first"
        )
    # Pillow's convert shows the colour that is hidden behind transparent pixels.
    if image.has_transparency_data:
        counts = image.convert("RGBA").getchannel("A").histogram()
        lowest = next((alpha for alpha, count in enumerate(counts) if count), 255)
        if lowest < 255:
            raise ValueError(
                f"{name} has transparent pixels (the lowest alpha is {lowest}, it must be 255); put it on a "
                "background first"
            )
    return ImageOps.exif_transpose(image).convert("RGB")

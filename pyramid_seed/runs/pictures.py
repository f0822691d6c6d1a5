"""Pictures that people give: read as RGB, and known by their pixels."""

from __future__ import annotations

import hashlib
from pathlib import Path

from PIL import Image


def open_picture(path: Path) -> Image.Image:
    """The picture in a file, as RGB.

    Raises:
        FileNotFoundError: it is not there. ValueError: it is no picture that can be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"the picture {path} does not exist")
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (PermissionError, IsADirectoryError):
        raise
    # What Pillow raises for damaged files: UnidentifiedImageError and truncation are OSErrors.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a picture ({error}); use PNG, JPEG or WebP") from error


def picture_digest(image: Image.Image) -> str:
    """SHA-256 (hex) of a picture's size and pixels, whatever file it came from."""
    return hashlib.sha256(f"{image.width}x{image.height} RGB\n".encode() + image.tobytes()).hexdigest()

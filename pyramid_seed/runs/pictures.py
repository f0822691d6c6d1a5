"""Pictures that people give: read as RGB, and known by their pixels."""

from __future__ import annotations

import hashlib
from pathlib import Path

from PIL import Image

from ..rgb import rgb_picture


def open_picture(path: Path) -> Image.Image:
    """The picture in a file, as RGB, see `rgb.rgb_picture`.

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

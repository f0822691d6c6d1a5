"""Images given as files: read as 8-bit RGB, or refused where that would change what they show."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, ImageSequence

from ..files import check_readable
from .frames import Frames


def open_image(path: Path) -> Image.Image:
    """The image in a file, as RGB, see `to_rgb8`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image that can be read, or none that RGB shows just as it is.
    """
    with _opened(path) as image:
        image.load()
        image.getexif()  # of some formats it can only be read while the file is open
    return to_rgb8(image, str(path))


def read_image(path: Path) -> Frames:
    """The pixels (H, W, 3) of `open_image`; raises the same."""
    return np.asarray(open_image(path))


def read_image_folder(folder: Path) -> Frames:
    """The .png images of a folder in the order of their names, (T, H, W, 3).

    Raises:
        ValueError: there are none, they differ in size, or one of them cannot be read, see `open_image`.
    """
    paths = sorted(folder.glob("*.png"))
    if not paths:
        raise ValueError(f"{folder} holds no .png images")
    images = [read_image(path) for path in paths]
    first = images[0]
    for path, image in zip(paths, images, strict=True):
        if image.shape != first.shape:
            sizes = [f"{height}x{width}" for height, width, _ in (first.shape, image.shape)]
            raise ValueError(f"{folder}: {paths[0].name} is {sizes[0]}, {path.name} is {sizes[1]}")
    return np.stack(images)


def read_animation(path: Path, fps: float | None) -> Frames:
    """The images of a .gif or .webp, (T, H, W, 3).

    Args:
        path: the file.
        fps: each image is repeated as often as frames of this rate fit into the time it is shown for; None:
            each is there once.

    Raises:
        FileNotFoundError, ValueError: see `open_image`.
    """
    with _opened(path) as animation:
        copies = [image.copy() for image in ImageSequence.Iterator(animation)]
    images = np.stack([np.asarray(to_rgb8(image, str(path))) for image in copies])
    if fps is None or len(images) == 1:
        return images
    ends = np.cumsum([image.info.get("duration") or 0 for image in copies])  # milliseconds
    middles = (np.arange(round(ends[-1] * fps / 1000)) + 0.5) * 1000 / fps
    return images[np.searchsorted(ends, middles).clip(max=len(images) - 1)]


def to_rgb8(image: Image.Image, name: str = "image") -> Image.Image:
    """An image as 8-bit RGB, turned as its EXIF orientation says.

    Args:
        image: in any mode of Pillow.
        name: what to call it in messages.

    Raises:
        ValueError: its pixels have more than 8 bits, or some of them are transparent.
    """
    # Pillow's convert cuts such values off at 255, so that most of the image would be white.
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


def pixels_digest(image: Image.Image) -> str:
    """SHA-256 (hex) of the size and the pixels of an RGB image, whatever file it came from."""
    return hashlib.sha256(f"{image.width}x{image.height} RGB\n".encode() + image.tobytes()).hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image file; whatever Pillow raises for a damaged one becomes a ValueError that names it."""
    if not path.exists():
        raise FileNotFoundError(f"the image {path} does not exist")
    check_readable(path)
    try:
        with Image.open(path) as image:
            yield image
    except (PermissionError, IsADirectoryError):
        raise
    # What Pillow raises for damaged files: UnidentifiedImageError and truncation are OSErrors.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}); use PNG, JPEG or WebP") from error

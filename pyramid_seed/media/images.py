"""Image files: read as 8-bit sRGB, or refused if that would change what they show."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, ImageSequence

from ..choices import Fit
from ..files import check_readable
from .frames import Frames, enlarge

MAX_PIXELS = 2**26
"""Most pixels of an image in a file: 8192 x 8192."""
_MAX_CLIP_PIXELS = 2**30  # all images together, 3 GiB


def open_image(path: Path) -> Image.Image:
    """Open the image in a file, as RGB, see `to_rgb8`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not a readable image, holds several, or RGB cannot show it unchanged.
    """
    with _opened(path) as image:
        # A phone's photograph (MPO) holds others: at another exposure, or for the other eye.
        if getattr(image, "is_animated", False) and image.format != "MPO":
            raise ValueError("it holds several images; save one of them")
        image.load()
        image.getexif()  # some formats allow this only while the file is open
    return to_rgb8(image, str(path))


def read_image(path: Path) -> Frames:
    """Read the pixels (H, W, 3) of `open_image`; raises the same."""
    return np.asarray(open_image(path))


def read_image_folder(folder: Path) -> Frames:
    """Read the .png images in a folder in the order of their names, (T, H, W, 3).

    Raises:
        ValueError: there are none, they differ in size, or one cannot be read, see `open_image`.
    """
    paths = sorted(folder.glob("*.png"))
    if not paths:
        raise ValueError(f"{folder} holds no .png images")
    images: list[Frames] = []
    for path in paths:
        images.append(image := read_image(path))
        first = images[0]
        check_total(folder, len(paths) * first[..., 0].size)
        if image.shape != first.shape:
            sizes = [f"{height}x{width}" for height, width, _ in (first.shape, image.shape)]
            raise ValueError(f"{folder}: {paths[0].name} is {sizes[0]}, {path.name} is {sizes[1]}")
    return np.stack(images)


def read_animation(path: Path, fps: float | None) -> Frames:
    """Read the images of a .gif or .webp, (T, H, W, 3).

    Args:
        path: the file.
        fps: each image is repeated for as many frames at this rate as fit into its duration; None: each
            occurs once.

    Raises:
        FileNotFoundError, ValueError: see `open_image`.
    """
    with _opened(path) as animation:
        copies = []
        for image in ImageSequence.Iterator(animation):
            copies.append(image.copy())
            check_total(path, len(copies) * image.width * image.height)
    images = np.stack([np.asarray(to_rgb8(image, str(path))) for image in copies])
    if fps is None or len(images) == 1:
        return images
    ends = np.cumsum([image.info.get("duration") or 0 for image in copies])  # milliseconds
    count = round(ends[-1] * fps / 1000)
    check_total(path, count * images[0, ..., 0].size)
    middles = (np.arange(count) + 0.5) * 1000 / fps
    return images[np.searchsorted(ends, middles).clip(max=len(images) - 1)]


def to_rgb8(image: Image.Image, name: str = "image") -> Image.Image:
    """An image as 8-bit sRGB, rotated according to its EXIF orientation.

    Args:
        image: in any mode of Pillow, with its colour profile, if any.
        name: its name in messages.

    Raises:
        ValueError: its pixels have more than 8 bits, some of them are transparent, or its colour
            profile cannot be read.
    """
    # Pillow's convert clips such values at 255, so that most of the image would be white.
    if image.mode.startswith(("I", "F")):
        raise _TooDeepError(name, image.mode)
    # Pillow's convert shows the colour hidden behind transparent pixels.
    if image.has_transparency_data:
        counts = image.convert("RGBA").getchannel("A").histogram()
        lowest = next((alpha for alpha, count in enumerate(counts) if count), 255)
        if lowest < 255:
            raise ValueError(
                f"{name} has transparent pixels (the lowest alpha is {lowest}, it must be 255); put it on a "
                "background first"
            )
    turned = ImageOps.exif_transpose(image)
    profile = turned.info.get("icc_profile")
    rgb = turned.convert("RGB") if not profile else _in_srgb(turned, profile, name)
    rgb.info.pop("icc_profile", None)  # it must not be applied twice
    return rgb


def fitted(image: Image.Image, height: int, width: int, fit: Fit | None) -> Image.Image:
    """An image in the size of a clip that begins with it.

    Args:
        image: RGB.
        height, width: of the clip, in pixels.
        fit: what to do with an image of another size; None: nothing, unless each of its pixels is shown as
            n x n pixels at n times the clip's size, as in our own files: then the small image is used.
    """
    if image.size == (width, height):
        return image
    scale, rest = divmod(image.width, width)
    if not rest and image.size == (scale * width, scale * height) and is_enlarged(image, scale):
        return image.resize((width, height), Image.Resampling.NEAREST)
    if fit == "crop":
        return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    if fit == "pad":
        return ImageOps.pad(image, (width, height), Image.Resampling.LANCZOS)
    if fit == "stretch":
        return image.resize((width, height), Image.Resampling.LANCZOS)
    return image


def is_enlarged(image: Image.Image, scale: int) -> bool:
    """Whether each pixel of an RGB image is shown as scale x scale pixels, see `frames.enlarge`."""
    if scale == 1 or image.width % scale or image.height % scale:
        return False
    pixels = np.asarray(image)
    return np.array_equal(enlarge(pixels[::scale, ::scale], scale), pixels)


def _in_srgb(image: Image.Image, profile: bytes, name: str) -> Image.Image:
    """An image with a colour profile, in sRGB; unchanged if it is sRGB already, up to rounding."""
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
    try:
        there = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        transform = ImageCms.buildTransform(there, ImageCms.createProfile("sRGB"), image.mode, "RGB", intent)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"{name} has a colour profile that cannot be used ({error}); save it as sRGB"
        ) from error
    if image.mode != "CMYK":
        grey = np.linspace(0, 255, 16, dtype=np.uint8)
        cube = np.stack(np.meshgrid(grey, grey, grey), axis=-1).reshape(64, 64, 3)
        probe = Image.fromarray(cube[..., 0] if image.mode == "L" else cube)
        probed = np.asarray(ImageCms.applyTransform(probe, transform), np.int16)
        if abs(probed - np.asarray(probe.convert("RGB"), np.int16)).max() <= 2:
            return image.convert("RGB")
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # only with inPlace
    return converted


class _TooDeepError(ValueError):
    def __init__(self, name: str, mode: str) -> None:
        super().__init__(
            f"{name} has pixels of more than 8 bits (Pillow's mode {mode}); save it as 8-bit RGB first"
        )


def check_total(path: str | os.PathLike[str], pixels: int) -> None:
    """Refuse images that would not fit into memory as frames."""
    if pixels > _MAX_CLIP_PIXELS:
        raise ValueError(f"{path} has {pixels:,} pixels in all, at most {_MAX_CLIP_PIXELS:,} are read")


def pixels_digest(image: Image.Image) -> str:
    """SHA-256 (hex) of the size and pixels of an RGB image, whatever file it came from."""
    return hashlib.sha256(f"{image.width}x{image.height} RGB\n".encode() + image.tobytes()).hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file; any error of Pillow for a damaged one becomes a ValueError that names it."""
    check_readable(path)
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"it has {image.width} x {image.height} pixels, at most 8192 x 8192 are read"
                )
            # Pillow silently cuts 16-bit colours to 8 bits; only the decoder's settings show it.
            if deep := re.search(r"\w+;16[BLN]", str([tile[3] for tile in image.tile])):
                raise _TooDeepError(str(path), deep[0])
            yield image
    except (PermissionError, IsADirectoryError, _TooDeepError):
        raise
    # Pillow's errors for damaged files: UnidentifiedImageError and truncation are OSErrors.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}); use PNG, JPEG or WebP") from error

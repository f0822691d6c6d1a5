"""The image that a clip begins with: it is brought to the clip's size, or gives the clip its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from PIL.Image import Image

from .media.images import fitted, is_enlarged, to_rgb8
from .presets import Preset


def in_its_own_size(image: Image, settings: Preset) -> Preset:
    """The settings with the size of an image that gives it to its clip.

    Where every pixel is shown as N x N pixels, as files are written with this `scale`, that of the small one.
    """
    scale = settings.scale if is_enlarged(to_rgb8(image), settings.scale) else 1
    return replace(settings, height=image.height // scale, width=image.width // scale)


def in_clip_size(image: Any, settings: Preset) -> Any:
    """An image in its clip's size, see `media.images.fitted`; what is no PIL image is left as it is.

    Raises:
        TypeError: `fit` is set, and the image is an array or a tensor.
    """
    if isinstance(image, Image):
        return fitted(to_rgb8(image), settings.height, settings.width, settings.fit)
    if image is not None and settings.fit is not None:
        raise TypeError(f"fit is for a file or a PIL image, got {type(image).__name__}; resize it yourself")
    return image

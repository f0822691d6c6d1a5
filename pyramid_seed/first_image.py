"""The image or video that a clip begins with: it is fitted to the clip's size, or gives the clip its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from PIL.Image import Image

from .media.given_video import GivenVideo
from .media.images import fitted, is_enlarged, to_rgb8
from .presets import Preset, Settings, gives_size, with_size


def sized_by_image(
    image: Any,
    size: tuple[int, int],
    settings: Settings,
    preset: Preset | None,
    choose: Callable[[Settings], Preset],
) -> Preset:
    """The settings of a clip that begins with an image or a video: it sets the size unless others do.

    Args:
        image: as `given_of` returns it.
        size: its height and width, rotated according to its EXIF orientation.
        settings: values that replace the preset's; with height, width or fit, the image sets no size.
        preset: None if none was named.
        choose: makes the clip's settings from such values.
    """
    if not gives_size(settings, preset):
        return choose(settings)
    chosen = choose(with_size(settings, *size))
    return in_its_own_size(image, chosen) if isinstance(image, Image) else chosen


def in_its_own_size(image: Image, settings: Preset) -> Preset:
    """The settings with the size of an image that sets its clip's size.

    If every pixel is shown as N x N pixels, as in files written with this `scale`, the small image's size.
    """
    rgb = to_rgb8(image)  # rotated according to its EXIF orientation
    scale = settings.scale if is_enlarged(rgb, settings.scale) else 1
    return replace(settings, height=rgb.height // scale, width=rgb.width // scale)


def in_clip_size(image: Any, settings: Preset) -> Any:
    """An image or a video in its clip's size, see `media.images.fitted`; arrays and tensors are unchanged.

    Raises:
        TypeError: `fit` is set, and the image is an array or a tensor.
    """
    if isinstance(image, Image):
        return fitted(to_rgb8(image), settings.height, settings.width, settings.fit)
    if isinstance(image, GivenVideo):
        return image.in_size(settings.height, settings.width, settings.fit)
    if image is not None and settings.fit is not None:
        raise TypeError(f"fit is for a file or a PIL image, got {type(image).__name__}; resize it yourself")
    return image

"""Images and videos that clips begin with, and the size that they give a clip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from diffusers.image_processor import PipelineImageInput, VaeImageProcessor
from PIL import Image

from ..checks import check_int
from ..geometry import LatentShape, PyramidGeometry
from ..media.given_video import GivenVideo, opened_video
from ..media.images import open_image, to_rgb8
from ..noise import noise_digest
from ..presets import MAX_FRAMES
from .memory import contiguous_copy

DEFAULT_SIZE = (384, 640)
"""(height, width) of a clip when neither a size nor an image is given."""
ARRAYS = (np.ndarray, torch.Tensor)
Given: TypeAlias = torch.Tensor | GivenVideo
"""What a clip begins with: an image (1, 3, H, W) in [-1, 1], or a video."""


def first_frames(image: PipelineImageInput | GivenVideo, num_prompts: int) -> tuple[Given, ...]:
    """Images (1, 3, H, W) in [-1, 1], one per prompt, each in its own size; or a video for all of them.

    Args:
        image: a file's path, or what diffusers takes: PIL images, arrays (H, W, 3), tensors (3, H, W) or
            batches of them, in [0, 1]; a single one serves all prompts. PIL images are read as
            `media.images.to_rgb8` does. Or a `GivenVideo`.
        num_prompts: how many images are needed.

    Raises:
        TypeError: `image` has another type. FileNotFoundError: the file does not exist.
        ValueError: the number of images or of channels is wrong, or values are out of range.
    """
    if isinstance(image, GivenVideo):
        return (image,) * num_prompts
    values = opened(image if isinstance(image, list) else [image])
    if not values:
        raise ValueError("image must be an image or a non-empty list of images, got an empty list")
    for value in values:
        if isinstance(value, ARRAYS):
            _check_values(torch.as_tensor(value))
        elif not isinstance(value, Image.Image):
            raise TypeError(
                "image must be a file's path, a PIL image, or an array or tensor in [0, 1], got "
                f"{type(value).__name__}"
            )
    in_rgb = [to_rgb8(value) if isinstance(value, Image.Image) else value for value in values]
    batch = VaeImageProcessor(do_resize=False).preprocess(in_rgb if isinstance(image, list) else in_rgb[0])
    images = tuple(contiguous_copy(row) for row in batch.split(1))
    if len(images) not in (1, num_prompts):
        raise ValueError(
            f"image must be one image or one for each of the {num_prompts} prompts, got {len(images)}"
        )
    if batch.shape[1] != 3:
        raise ValueError(f"image must have 3 channels, got {batch.shape[1]}")
    return images * num_prompts if len(images) == 1 else images


def opened(image: Any) -> Any:
    """The image or list of images, with every path replaced by the image in its file."""
    if isinstance(image, list):
        return [opened(value) for value in image]
    return open_image(Path(image)) if isinstance(image, str | Path) else image


def given_of(image: Any, video: Any) -> Any:
    """What a clip begins with, its files read: an image, a `GivenVideo`, or None.

    Raises:
        ValueError: both are given. TypeError, ValueError, OSError: see `opened_video` and `open_image`.
    """
    if video is None:
        return opened(image)
    if image is not None:
        raise ValueError("a clip goes on from an image or from a video, got both; leave one of them out")
    return opened_video(video)


def given_digest(given: Given) -> str:
    """SHA-256 of an image's pixels, see `noise_digest`, or of a video's frames, see `frames_digest`."""
    return given.digest if isinstance(given, GivenVideo) else noise_digest(given)


def units_of_video(geometry: PyramidGeometry, given: Any) -> int:
    """Units that the frames of a video would make; 0 if no video is given.

    Raises:
        ValueError: clips of such a model cannot go on from a video, or not from one of its length.
    """
    if not isinstance(given, GivenVideo):
        return 0
    if geometry.image_role == "unit":
        raise ValueError(
            "video must be None for this model: its clips can begin with an image, only those of Helios can "
            "go on from a video; use image, or extend for a clip that this model made"
        )
    check_int("num_frames of a video", given.num_frames, maximum=MAX_FRAMES)
    try:
        return geometry.num_units(given.num_frames)
    except ValueError as error:
        raise ValueError(f"a video is encoded in whole units, so its {error} of them") from None


def _check_values(values: torch.Tensor) -> None:
    """Refuse values outside [0, 1]: diffusers takes an image with values below 0 to be in [-1, 1]."""
    if not values.is_floating_point():
        raise ValueError(
            f"image must be a PIL image or floating point in [0, 1], got {values.dtype}; divide by 255"
        )
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"image must be in [0, 1], got values from {values.min().item():g} to "
            f"{values.max().item():g}; scale it, and clamp what is a little outside: image.clip(0, 1)"
        )


def clip_size(height: int | None, width: int | None, images: Sequence[Given]) -> tuple[int, int]:
    """Height and width of the clip: those given, else those of image or video, else the default.

    An image of another size is refused: whether to crop or to stretch it is the caller's choice.
    """
    own = tuple(images[0].shape[-2:]) if images else DEFAULT_SIZE
    size = (own[0] if height is None else height, own[1] if width is None else width)
    for image in images:
        if tuple(image.shape[-2:]) != size:
            name = _name(image)
            call = f", e.g. image.resize(({size[1]}, {size[0]}))" if name == "image" else ""
            raise ValueError(
                f"{name} must have the clip's height and width {size[0]} x {size[1]}, got "
                f"{image.shape[-2]} x {image.shape[-1]}; resize it first{call}, or let generate "
                "fit it: crop, pad or stretch"
            )
    return size


def latent_shape(
    geometry: PyramidGeometry,
    channels: int,
    height: int | None,
    width: int | None,
    images: Sequence[Given],
) -> LatentShape:
    """Shape of a unit's latents; if their size comes from an image or a video, errors say so."""
    size = clip_size(height, width, images)
    try:
        return geometry.latent_shape(channels, *size)
    except ValueError as error:
        if images and (height is None or width is None):
            raise ValueError(
                f"{_name(images[0])} gives the clip its size of {size[0]} x {size[1]}, but {error}; resize "
                "it first, or let generate fit it: crop, pad or stretch"
            ) from None
        raise


def _name(given: Given) -> str:
    return "video" if isinstance(given, GivenVideo) else "image"

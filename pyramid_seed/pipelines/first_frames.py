"""Images that clips begin with, and the size that they give a clip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import PipelineImageInput, VaeImageProcessor
from PIL import Image

from ..geometry import LatentShape, PyramidGeometry
from ..media.images import open_image, to_rgb8
from .memory import contiguous_copy

DEFAULT_SIZE = (384, 640)
"""(height, width) of a clip when neither a size nor an image is given."""
ARRAYS = (np.ndarray, torch.Tensor)


def first_frames(image: PipelineImageInput, num_prompts: int) -> tuple[torch.Tensor, ...]:
    """Images (1, 3, H, W) in [-1, 1], one per prompt, each in its own size.

    Args:
        image: a file's path, or what diffusers takes: PIL images, arrays (H, W, 3), tensors (3, H, W) or
            batches of them, in [0, 1]; a single one serves all prompts. PIL images are read as
            `media.images.to_rgb8` does.
        num_prompts: how many images are needed.

    Raises:
        TypeError: `image` has another type. FileNotFoundError: the file does not exist.
        ValueError: the number of images or of channels is wrong, or values are out of range.
    """
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


def clip_size(height: int | None, width: int | None, images: Sequence[torch.Tensor]) -> tuple[int, int]:
    """Height and width of the clip: those given, else the image's, else the default.

    An image of another size is refused: whether to crop or to stretch it is the caller's choice.
    """
    own = tuple(images[0].shape[-2:]) if images else DEFAULT_SIZE
    size = (own[0] if height is None else height, own[1] if width is None else width)
    for image in images:
        if tuple(image.shape[-2:]) != size:
            raise ValueError(
                f"image must have the clip's height and width {size[0]} x {size[1]}, got "
                f"{image.shape[-2]} x {image.shape[-1]}; resize it first, e.g. "
                f"image.resize(({size[1]}, {size[0]})), or let generate fit it: crop, pad or stretch"
            )
    return size


def latent_shape(
    geometry: PyramidGeometry,
    channels: int,
    height: int | None,
    width: int | None,
    images: Sequence[torch.Tensor],
) -> LatentShape:
    """Shape of a unit's latents; if their size comes from an image, errors say so."""
    size = clip_size(height, width, images)
    try:
        return geometry.latent_shape(channels, *size)
    except ValueError as error:
        if images and (height is None or width is None):
            raise ValueError(
                f"image gives the clip its size of {size[0]} x {size[1]}, but {error}; resize it first, "
                "or let generate fit it: crop, pad or stretch"
            ) from None
        raise

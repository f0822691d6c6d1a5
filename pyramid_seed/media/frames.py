"""The frames of a clip as an array: its required form, and its digest."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Frames = NDArray[np.uint8]
"""RGB, 0..255: a clip (T, H, W, 3), or one image (H, W, 3)."""


def check_frames(frames: Frames, name: str = "frames", shape: str = "(T, H, W, 3)") -> None:
    """Refuse anything but uint8 RGB of this shape.

    Args:
        frames: the array to check.
        name: its name in messages.
        shape: "(T, H, W, 3)" or "(H, W, 3)".

    Raises:
        ValueError: the type or the number of axes is wrong, or there are no frames at all.
    """
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        got = frames.dtype if isinstance(frames, np.ndarray) else type(frames).__name__
        raise ValueError(f"{name} must be a numpy array of uint8, got {got}")
    if frames.ndim != shape.count(",") + 1 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"{name} must have shape {shape} none of it 0, got {frames.shape}")


def frames_digest(frames: Frames) -> str:
    """SHA-256 (hex) of the bytes of `frames` in (T, H, W, C) order: `hashlib.sha256(frames.tobytes())`.

    The shape is not part of the hash, so that anyone can recompute it with any tool.

    Raises:
        ValueError: see `check_frames`.
    """
    check_frames(frames)
    return hashlib.sha256(np.ascontiguousarray(frames).data).hexdigest()


def enlarge(image: Frames, scale: int, *, smooth: bool = False) -> Frames:
    """An image (H, W, 3), scale times as high and wide.

    Args:
        image: uint8.
        scale: a whole number.
        smooth: interpolate between pixels (bicubic); otherwise each becomes scale x scale pixels.
    """
    if not smooth or scale == 1:
        return image.repeat(scale, axis=0).repeat(scale, axis=1)
    size = scale * image.shape[1], scale * image.shape[0]
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def absolute_difference(a: Frames, b: Frames) -> Frames:
    """|a - b|, uint8."""
    return np.maximum(a, b) - np.minimum(a, b)


def gain_for(largest: int) -> int:
    """The whole factor that makes the largest difference as bright as possible without clipping it."""
    return 255 // max(1, largest)


def amplified(a: Frames, b: Frames, gain: int) -> Frames:
    """min(255, gain |a - b|), uint8."""
    return np.minimum(absolute_difference(a, b).astype(np.int64) * gain, 255).astype(np.uint8)

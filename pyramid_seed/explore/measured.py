"""A saved clip and its measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..media.contact_sheet import evenly_spaced
from ..media.frames import Frames
from ..media.video import read_video
from ..provenance.manifest import geometry_of
from .measures import Values, measure_clip
from .prompts import Prompt

SAMPLE_FRAMES, SAMPLE_SIDE = 8, 256
"""The basis for comparing clips: this many frames, evenly spaced, no side longer than this many pixels."""


@dataclass(frozen=True, eq=False)
class MeasuredClip:
    """One clip of a sweep.

    Attributes:
        prompt: what it shows.
        seed: its root seed.
        path: its file.
        is_lossless: whether the file keeps every bit; the measures are then those of the frames themselves.
        digest: SHA-256 of its frames.
        num_frames: how many frames it has.
        values: its measures.
        sample: (t, h, w, 3) uint8, a few small frames, evenly spaced in time.
    """

    prompt: Prompt
    seed: int
    path: Path
    is_lossless: bool
    digest: str
    num_frames: int
    values: Values
    sample: Frames


def measured_clip(prompt: Prompt, seed: int, *, path: Path, manifest: Mapping[str, Any]) -> MeasuredClip:
    """Measure the clip in an .mp4 file, at its size before it was enlarged.

    Args:
        prompt, seed: what it was made from.
        path: the file.
        manifest: its manifest.
    """
    frames = shrink(read_video(path)[0], manifest["file"]["scale"])
    return MeasuredClip(
        prompt=prompt,
        seed=seed,
        path=path,
        is_lossless=manifest["file"]["lossless"],
        digest=manifest["digests"]["frames"],
        num_frames=len(frames),
        values=measure_clip(frames, geometry_of(manifest)),
        sample=sample(frames),
    )


def shrink(frames: Frames, scale: int) -> Frames:
    """The mean of each block of scale x scale pixels: undoes the enlargement with which a file was saved.

    It also removes most of the codec's error.

    Args:
        frames: (T, scale * H, scale * W, 3) uint8.
        scale: the one in the manifest's `file`.
    """
    if scale == 1:
        return frames
    height, width = (side // scale for side in frames.shape[1:3])
    blocks = (frame.reshape(height, scale, width, scale, 3) for frame in frames)
    return np.stack([block.mean(axis=(1, 3)).round().astype(np.uint8) for block in blocks])


def sample(frames: Frames) -> Frames:
    """A few small frames, see `SAMPLE_FRAMES`: (t, h, w, 3) uint8."""
    import cv2

    chosen = frames[sample_times(len(frames))]
    height, width = frames.shape[1:3]
    if max(height, width) <= SAMPLE_SIDE:
        return chosen
    factor = SAMPLE_SIDE / max(height, width)
    size = (round(width * factor), round(height * factor))
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in chosen])


def sample_times(num_frames: int) -> list[int]:
    """The frames of a sample: the first, the last, and evenly spaced ones in between."""
    return evenly_spaced(num_frames, min(SAMPLE_FRAMES, num_frames))

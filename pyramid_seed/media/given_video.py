"""The video that a clip goes on from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..choices import Fit
from .frames import Frames, check_frames, frames_digest
from .images import fitted, read_image_folder, to_rgb8
from .video import read_video


@dataclass(frozen=True, eq=False)
class GivenVideo:
    """A video that a clip goes on from.

    Args:
        frames: (T, H, W, 3), uint8 RGB.

    Raises:
        ValueError: they are something else.
    """

    frames: Frames

    def __post_init__(self) -> None:
        check_frames(self.frames, "video")

    @property
    def num_frames(self) -> int:
        """T."""
        return len(self.frames)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.height, self.width

    @property
    def height(self) -> int:
        """H."""
        return self.frames.shape[1]

    @property
    def width(self) -> int:
        """W."""
        return self.frames.shape[2]

    @property
    def digest(self) -> str:
        """SHA-256 of the frames, see `frames_digest`: of a clip's frames, that in its manifest."""
        return frames_digest(self.frames)

    def images(self) -> list[Image.Image]:
        """Every frame as an image, W x H pixels."""
        return [Image.fromarray(frame) for frame in self.frames]

    def in_size(self, height: int, width: int, fit: Fit | None) -> GivenVideo:
        """The video in its clip's size, every frame as `fitted`; itself unless that gives them one size."""
        if self.shape == (height, width):
            return self
        images = [fitted(image, height, width, fit) for image in self.images()]
        if len({image.size for image in images}) > 1:  # a frame of one colour looks enlarged by any number
            return self
        return GivenVideo(np.stack([np.asarray(image) for image in images]))


def opened_video(video: Any) -> GivenVideo:
    """A video from what a caller gives.

    Args:
        video: a video file or a folder of .png images; frames (T, H, W, 3) as uint8; a list of PIL images; or
            a `GivenVideo`.

    Raises:
        TypeError: it is something else. FileNotFoundError: the file does not exist.
        ValueError: it cannot be read, or its images differ in size.
    """
    if isinstance(video, GivenVideo):
        return video
    if isinstance(video, str | Path):
        path = Path(video)
        return GivenVideo(read_image_folder(path) if path.is_dir() else read_video(path)[0])
    if isinstance(video, list) and video and all(isinstance(image, Image.Image) for image in video):
        if len(sizes := {image.size for image in video}) > 1:
            raise ValueError(
                f"the images of a video must have one size, got {sorted(sizes)}; resize them first"
            )
        return GivenVideo(np.stack([np.asarray(to_rgb8(image)) for image in video]))
    if isinstance(video, np.ndarray):
        return GivenVideo(video)
    raise TypeError(
        "video must be a file's path, frames (T, H, W, 3) as a numpy array of uint8, or a list of PIL "
        f"images, got {type(video).__name__}"
    )

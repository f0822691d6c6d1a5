"""Clips as files: written and read back.

The ending of a path chooses the format (see `write_video`). An mp4 is a pure function of frames, rate,
comment and options, see `mp4`; another version of PyAV may include another x264, and then writes other bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import imageio.v3 as iio
import numpy as np

from ..files import check_no_folder, check_readable, real_path, replacing
from .frames import Frames, check_frames, enlarge
from .images import MAX_PIXELS, check_total
from .labels import AIGC_TAG, DrawnLabel, aigc_text
from .mp4 import Mp4Settings, encode_mp4, mux_mp4

VIDEO_ENDINGS = (".mp4", ".gif", ".webp", ".png")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")

_MIN_FPS, _MAX_FPS, _MAX_GIF_FPS = 0.1, 1000, 50  # viewers slow a .gif down whose frames last under 20 ms


def write_video(
    path: str | os.PathLike[str],
    frames: Frames,
    fps: float,
    *,
    comment: str | None = None,
    aigc: Mapping[str, str] | None = None,
    label: DrawnLabel | None = None,
    scale: int = 1,
    lossless: bool = False,
    overwrite: bool = False,
) -> None:
    """Write a clip; the ending of `path` chooses the format.

    - `.mp4`: h264, yuv420p, BT.709, plays in browsers. `lossless=True` stores the RGB values themselves
      (x264's RGB mode): the frames come back bit for bit, but few browsers play it.
    - `.gif`: 256 colours per frame, never lossless; at most 50 frames per second. It counts hundredths of a
      second, so single frames may last a hundredth longer than others; the whole clip has the right length.
    - `.webp`: animated; `lossless=True` keeps every bit.
    - `.png`: always lossless. A clip of one frame is an image, a longer one a folder of that name with
      `0000.png`, `0001.png`, ... A path without an ending is such a folder for any number of frames.

    Equal frames in a row become one longer frame in `.gif` and `.webp`. The file or folder appears whole or
    not at all; missing parent folders are created.

    Args:
        path: Where to write.
        frames: (T, H, W, 3), uint8, T >= 1. A lossy `.mp4` needs even height and width (after `scale`).
        fps: Frames per second, > 0. Ignored for PNG.
        comment: Text for the comment tag of an `.mp4`, as long as you like.
        aigc: Fields of the AIGC tag of an `.mp4`, see `labels.aigc_fields`.
        label: Drawn over the first frames of an `.mp4`.
        scale: Every pixel becomes scale x scale pixels (nearest neighbour).
        lossless: Keep every bit.
        overwrite: Replace an existing file, or an existing folder that holds nothing but numbered PNGs.

    Raises:
        ValueError: a value is wrong, the ending unknown, or the format cannot honour an option.
        FileExistsError: `path` exists and `overwrite` is false, or is a folder with other things in it.
    """
    path = real_path(path)
    ending = check_format(path, fps, lossless=lossless)
    check_frames(frames)
    check_scale(scale)
    check_labels(ending, aigc, label)
    if comment is not None:
        check_comment(comment, ending)
    if ending == ".mp4":
        mp4 = Mp4Settings.of(frames[0], fps, scale=scale, lossless=lossless)
    if overwrite:
        check_replaceable(path, len(frames))

    with replacing(path, overwrite=overwrite) as temporary:
        if _is_folder(ending, len(frames)):
            _write_png_folder(temporary, frames, scale)
        elif ending == ".mp4":
            images = (labelled(enlarge(frame, scale), index, label) for index, frame in enumerate(frames))
            mux_mp4(temporary, mp4, encode_mp4(mp4, images), mp4_tags(comment, aigc))
        elif ending == ".png":
            _write_whole(temporary, enlarge(frames[0], scale))
        else:
            _write_animation(temporary, frames, fps, scale, lossless)


def check_format(path: Path, fps: float, *, lossless: bool) -> str:
    """The ending of `path`, in lower case; no ending means a folder of images.

    Raises:
        ValueError: no format has it, or its format cannot have that rate, or is never lossless.
    """
    ending = path.suffix.lower()
    if ending and ending not in VIDEO_ENDINGS:
        raise ValueError(f"cannot write a video as {path.name!r}; known endings: {', '.join(VIDEO_ENDINGS)}")
    check_fps(fps, ending)
    if ending == ".gif" and lossless:
        raise ValueError("a .gif has 256 colours and cannot be lossless; use .mp4, .webp or .png")
    return ending


def read_video(path: str | os.PathLike[str]) -> tuple[Frames, float]:
    """Decode a video file: frames (T, H, W, 3) as uint8 RGB, and frames per second.

    A lossless `.mp4` from `write_video` returns the same frames (enlarged, if they were written so).

    Raises:
        ValueError: the file has no video frames, is not a media file, or would not fit into memory.
        OSError: it is missing, or not a file.
    """
    with _opened(path) as container:
        stream = _video_stream(container, path)
        rate = stream.average_rate or stream.guessed_rate
        frames = []
        for frame in _decoded(container, path):
            frames.append(frame)
            check_total(path, len(frames) * frame[..., 0].size)
    if not frames or not rate:
        raise ValueError(f"{path} holds no video frames")
    return np.stack(frames), float(rate)


def video_frames(path: str | os.PathLike[str]) -> Iterator[Frames]:
    """The frames (H, W, 3) of a video file, one after another; raises as `read_video`."""
    with _opened(path) as container:
        yield from _decoded(container, path)


def read_comment(path: str | os.PathLike[str]) -> str | None:
    """The comment tag of a media file of any kind, or None if it has none; raises as `read_tag`."""
    return read_tag(path, "comment")


def read_tag(path: str | os.PathLike[str], tag: str) -> str | None:
    """A tag of a media file of any kind, or None if it has none.

    Raises:
        ValueError: it is not a media file. OSError: it is missing, or not a file.
    """
    with _opened(path) as container:
        tags = {name.lower(): text for name, text in container.metadata.items()}  # Matroska's are in capitals
    return tags.get(tag.lower())


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[av.container.InputContainer]:
    """Open a media file; a damaged or other file is a ValueError that names it, even while being read."""
    check_readable(Path(path))
    try:
        # A path with a colon before any slash would be a URL.
        with av.open(Path(path).absolute().as_posix()) as container:
            yield container
    except (av.FFmpegError, UnicodeDecodeError) as error:  # tags need not be text
        if isinstance(error, OSError) and error.filename:  # of the system's, about the file itself
            raise
        reason = error.reason if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ValueError(f"{path} is not a video, or a damaged one ({reason})") from error


def _video_stream(container: av.container.InputContainer, path: str | os.PathLike[str]) -> av.VideoStream:
    if not container.streams.video:
        raise ValueError(f"{path} holds no video stream")
    return container.streams.video[0]


def _decoded(container: av.container.InputContainer, path: str | os.PathLike[str]) -> Iterator[Frames]:
    for frame in container.decode(_video_stream(container, path)):
        if frame.width * frame.height > MAX_PIXELS:
            size = f"{frame.width} x {frame.height}"
            raise ValueError(f"{path} has {size} pixels, at most 8192 x 8192 are read")
        yield frame.to_ndarray(format="rgb24")


def write_image(path: str | os.PathLike[str], image: Frames, *, overwrite: bool = False) -> None:
    """Write one image (H, W, 3), uint8 RGB; `.png`, `.jpg`, `.jpeg` or `.webp`. Whole or not at all.

    Raises:
        ValueError: the array is wrong, or the ending unknown.
        FileExistsError: `path` exists and `overwrite` is false.
    """
    path = Path(path)
    if path.suffix.lower() not in IMAGE_ENDINGS:
        raise ValueError(f"cannot write an image as {path.name!r}; known endings: {', '.join(IMAGE_ENDINGS)}")
    check_frames(image, name="image", shape="(H, W, 3)")
    with replacing(path, overwrite=overwrite) as temporary:
        _write_whole(temporary, image)


def check_scale(scale: int) -> None:
    if isinstance(scale, bool) or not isinstance(scale, int) or scale < 1:
        raise ValueError(f"scale must be a whole number of at least 1, got {scale!r}")


def check_fps(fps: float, ending: str) -> None:
    highest = _MAX_GIF_FPS if ending == ".gif" else _MAX_FPS
    if not _MIN_FPS <= fps <= highest:
        raise ValueError(f"fps must be between {_MIN_FPS} and {highest} for {ending or 'PNGs'}, got {fps}")


def check_comment(comment: str, ending: str) -> None:
    if ending != ".mp4":
        raise ValueError(f"only .mp4 has a comment tag, got ending {ending!r}; leave comment out or use .mp4")
    if "\0" in comment:
        raise ValueError("comment must not contain a NUL character: the tag would end there")
    comment.encode("utf-8")


def check_labels(ending: str, *labels: object) -> None:
    """Raise ValueError if a file with this ending is to be labelled and cannot be."""
    if ending != ".mp4" and any(label is not None for label in labels):
        raise ValueError(f"only an .mp4 can be labelled, got {ending or 'a folder'}; use .mp4, or no label")


def labelled(image: Frames, index: int, label: DrawnLabel | None) -> Frames:
    """Frame `index` of a file, (H, W, 3), with its label, if it has one."""
    return image if label is None else label.on(image, index)


def mp4_tags(comment: str | None, aigc: Mapping[str, str] | None) -> dict[str, str]:
    """The tags of an .mp4, by name."""
    tags = {} if comment is None else {"comment": comment}
    return tags if aigc is None else tags | {AIGC_TAG: aigc_text(aigc)}


def check_replaceable(path: Path, num_frames: int) -> None:
    """Refuse to replace a folder that we cannot have written, or a file by a folder.

    Raises:
        FileExistsError: there is such a file or folder.
    """
    if not _is_folder(path.suffix.lower(), num_frames):
        check_no_folder(path)
    elif path.exists() and not (
        path.is_dir() and all(file.suffix == ".png" and file.stem.isdigit() for file in path.iterdir())
    ):
        raise FileExistsError(f"{path} exists and is not a folder of numbered PNGs; choose another name")


def _is_folder(ending: str, num_frames: int) -> bool:
    return not ending or (ending == ".png" and num_frames > 1)


def _write_png_folder(folder: Path, frames: Frames, scale: int) -> None:
    folder.mkdir()
    for index, frame in enumerate(frames):
        _write_whole(folder / f"{index:04d}.png", enlarge(frame, scale))


def _write_animation(path: Path, frames: Frames, fps: float, scale: int, lossless: bool) -> None:
    is_gif = path.suffix.lower() == ".gif"
    tick = 10 if is_gif else 1  # milliseconds
    clock = [round(1000 * index / (fps * tick)) * tick for index in range(len(frames) + 1)]
    options: dict[str, Any] = {} if is_gif else {"lossless": lossless, "quality": 95}
    if len(frames) > 1:
        options |= {"duration": [later - earlier for earlier, later in pairwise(clock)], "loop": 0}
    _write_whole(path, np.stack([enlarge(frame, scale) for frame in frames]), **options)


def _write_whole(path: Path, images: Frames, **options: Any) -> None:
    """Encode in memory, then write: on a full disk imageio would try again, and show a traceback."""
    path.write_bytes(iio.imwrite("<bytes>", images, extension=path.suffix, **options))

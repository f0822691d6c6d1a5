"""The folder of a comparison: videos, curves and numbers, written whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..files import check_free, replacing
from ..media.frame_file import FrameFile
from ..media.frames import Frames
from .compare import ComparedClips, FrameDifference
from .compare_images import amplified_frames, side_by_side, write_curve
from .stored import StoredClip

SIDE_BY_SIDE = "side_by_side.mp4"
DIFFERENCE = "difference.mp4"
CURVE = "curve.png"
NUMBERS = "comparison.json"
FILES = (SIDE_BY_SIDE, DIFFERENCE, CURVE, NUMBERS)


def check_folder(folder: Path, *, overwrite: bool = False) -> None:
    """Refuse a folder that cannot be written, or that holds anything but a comparison.

    Raises:
        FileExistsError: the folder exists and `overwrite` is false, or it holds something else.
    """
    check_free(folder, overwrite=overwrite)
    if folder.exists() and not (folder.is_dir() and {file.name for file in folder.iterdir()} <= set(FILES)):
        raise FileExistsError(f"{folder} exists and is not a folder of a comparison; choose another name")


def write_report(
    folder: Path, clips: ComparedClips, *, gain: int, fps: float, overwrite: bool = False
) -> None:
    """Write the files in `FILES`.

    Args:
        folder: the folder to write.
        clips: the clips and how they differ.
        gain: factor that amplifies the difference in the videos.
        fps: frames per second of the videos.
        overwrite: replace the folder of an earlier comparison.

    Raises:
        FileExistsError: see `check_folder`. ValueError: matplotlib is missing.
    """
    check_folder(folder, overwrite=overwrite)
    with replacing(folder, overwrite=overwrite) as temporary:
        temporary.mkdir()
        _write_images(temporary / SIDE_BY_SIDE, side_by_side(clips, gain), fps)
        _write_images(temporary / DIFFERENCE, amplified_frames(clips, gain), fps)
        write_curve(temporary / CURVE, clips)
        numbers = json.dumps(_numbers(clips, gain), indent=2, allow_nan=False)
        (temporary / NUMBERS).write_text(numbers + "\n", encoding="utf-8")


def _write_images(path: Path, images: Iterator[Frames], fps: float) -> None:
    """Write a video of many large images, encoding each as it comes and keeping none."""
    with FrameFile(path) as file:
        file.start(fps, 1)
        for image in images:
            file.write(image[None])
        file.save(path, comment=None)


def _numbers(clips: ComparedClips, gain: int) -> dict[str, Any]:
    pixels, manifests = clips.pixels, clips.manifests
    return {
        "a": _clip(clips.a),
        "b": _clip(clips.b),
        "is_equal": pixels.is_equal,
        "first_differing_frame": None if pixels.first is None else pixels.first.frame,
        "first_unit_made_otherwise": clips.first_unit_made_otherwise,
        "farthest_frame": pixels.farthest.frame,
        "gain": gain,
        "frames": [_row(frame, clips.unit_of(frame.frame)) for frame in pixels.frames],
        "manifests": manifests and {"is_same_clip": manifests.is_same_clip, **asdict(manifests)},
    }


def _clip(clip: StoredClip) -> dict[str, Any]:
    count, height, width, _ = clip.frames.shape
    return {
        "path": str(clip.path),
        "num_frames": count,
        "height": height,
        "width": width,
        "fps": clip.fps,
        "no_manifest": clip.no_manifest,
    }


def _row(frame: FrameDifference, unit: int | None) -> dict[str, Any]:
    psnr = frame.psnr if math.isfinite(frame.psnr) else None
    return asdict(frame) | {"unit": unit, "psnr": psnr}

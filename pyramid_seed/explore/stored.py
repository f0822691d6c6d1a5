"""Clips as files show them, with the manifest where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from ..media.video import Frames, frames_digest, read_video
from ..provenance.manifest import find_manifest, geometry_of


@dataclass(frozen=True, eq=False)
class StoredClip:
    """A clip that was read from a file.

    Attributes:
        path: the file or folder.
        frames: (T, H, W, 3) uint8, the pixels that the file shows.
        fps: frames a second; None where neither file nor manifest says.
        manifest: None without one.
        no_manifest: why there is none; empty if there is one.
    """

    path: Path
    frames: Frames
    fps: float | None
    manifest: Mapping[str, Any] | None
    no_manifest: str


def unit_of(frame: int, *clips: StoredClip) -> int | None:
    """The unit that made a frame, by the first manifest there is; None without any."""
    for clip in clips:
        if clip.manifest is not None:
            return geometry_of(clip.manifest).unit_of_frame(frame)
    return None


def shows_its_frames(clip: StoredClip) -> bool:
    """Whether the file shows the very frames that its manifest describes, enlarged or not."""
    if clip.manifest is None:
        return False
    scale = clip.manifest.get("file", {}).get("scale", 1)
    return frames_digest(clip.frames[:, ::scale, ::scale]) == clip.manifest["digests"]["frames"]


def first_unit_made_otherwise(a: StoredClip, b: StoredClip) -> int | None:
    """The first unit whose frames differed when they were made, before any codec, by the manifests' digests.

    None if there is none as far as the shorter clip goes, or not enough is known: a manifest is missing, or
    units have other lengths.
    """
    if a.manifest is None or b.manifest is None:
        return None
    if a.manifest["geometry"]["temporal_factor"] != b.manifest["geometry"]["temporal_factor"]:
        return None
    chunks = zip(a.manifest["digests"]["chunks"], b.manifest["digests"]["chunks"], strict=False)
    return next((unit for unit, (left, right) in enumerate(chunks) if left != right), None)


def read_clip(path: str | Path) -> StoredClip:
    """Read an .mp4 or another video file, a .gif or .webp, a picture, or a folder of .png pictures.

    Equal frames in a row are one longer picture in .gif and .webp. With a manifest they are told apart by
    the time they are shown; without one, every picture counts as one frame.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no pictures, or pictures of several sizes.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    ending = path.suffix.lower()
    if ending == ".json":
        raise ValueError(f"{path} holds no pictures; to compare manifests alone use `pyramid-seed diff`")
    try:
        manifest, no_manifest = find_manifest(path), ""
    except ValueError as error:
        manifest, no_manifest = None, str(error)
    settings = {} if manifest is None else manifest["settings"]
    fps = settings.get("fps")
    if path.is_dir():
        frames = _read_folder(path)
    elif ending in (".gif", ".webp"):
        frames = _read_animation(path, fps)
    elif ending in (".png", ".jpg", ".jpeg"):
        frames = _read_picture(path)[None]
    else:
        frames, fps = read_video(path)
    return StoredClip(path, frames, fps, manifest, no_manifest)


def _read_picture(path: Path) -> Frames:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _read_folder(folder: Path) -> Frames:
    files = sorted(folder.glob("*.png"))
    if not files:
        raise ValueError(f"{folder} holds no .png pictures")
    pictures = [_read_picture(file) for file in files]
    for file, picture in zip(files, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            sizes = [f"{each.shape[0]}x{each.shape[1]}" for each in (pictures[0], picture)]
            raise ValueError(f"{folder}: {files[0].name} is {sizes[0]}, {file.name} is {sizes[1]}")
    return np.stack(pictures)


def _read_animation(path: Path, fps: float | None) -> Frames:
    """Pictures, each as often as frames fit into the time it is shown; each once if `fps` is None."""
    with Image.open(path) as image:
        shown = [
            (np.asarray(picture.convert("RGB")), picture.info.get("duration") or 0)  # converted, then known
            for picture in ImageSequence.Iterator(image)
        ]
    pictures, durations = np.stack([picture for picture, _ in shown]), [each for _, each in shown]
    if fps is None or len(pictures) == 1:
        return pictures
    ends = np.cumsum(durations)
    middles = (np.arange(round(ends[-1] * fps / 1000)) + 0.5) * 1000 / fps
    return pictures[np.searchsorted(ends, middles).clip(max=len(pictures) - 1)]

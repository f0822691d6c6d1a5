"""Clips as files show them, with their manifest if there is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..media.frames import Frames, frames_digest
from ..media.images import read_animation, read_image, read_image_folder
from ..media.video import read_video
from ..provenance.manifest import read_manifest


@dataclass(frozen=True, eq=False)
class StoredClip:
    """A clip read from a file.

    Attributes:
        path: the file or folder.
        frames: (T, H, W, 3) uint8, the pixels that the file shows.
        fps: frames per second; None if neither file nor manifest says.
        manifest: the clip's manifest; None if there is none.
        no_manifest: why there is no manifest; empty if there is one.
    """

    path: Path
    frames: Frames
    fps: float | None
    manifest: Mapping[str, Any] | None
    no_manifest: str


def shows_its_frames(clip: StoredClip) -> bool:
    """Whether the file shows exactly the frames that its manifest describes, enlarged or not."""
    if clip.manifest is None:
        return False
    scale = (clip.manifest.get("file") or {}).get("scale", 1)
    return frames_digest(clip.frames[:, ::scale, ::scale]) == clip.manifest["digests"]["frames"]


def read_clip(path: str | Path) -> StoredClip:
    """Read an .mp4 or another video file, a .gif or .webp, an image, or a folder of .png images.

    In .gif and .webp, a run of equal frames is stored as one longer image. With a manifest they are separated
    by display time; without one, every image counts as one frame.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no images, images of several sizes, or images that RGB cannot represent exactly.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    ending = path.suffix.lower()
    if ending == ".json":
        raise ValueError(f"{path} holds no images; to compare manifests alone use `pyramid-seed diff`")
    try:
        manifest, no_manifest = read_manifest(path), ""
    except ValueError as error:
        manifest, no_manifest = None, str(error)
    settings = {} if manifest is None else manifest["settings"]
    fps = settings.get("fps")
    if path.is_dir():
        frames = read_image_folder(path)
    elif ending in (".gif", ".webp"):
        frames = read_animation(path, fps)
    elif ending in (".png", ".jpg", ".jpeg"):
        frames = read_image(path)[None]
    else:
        frames, fps = read_video(path)
    return StoredClip(path, frames, fps, manifest, no_manifest)

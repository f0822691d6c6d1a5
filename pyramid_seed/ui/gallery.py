"""The clips in the output folder: which exist, and how a new one is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from ..files import latents_path, sidecar_path
from ..provenance.manifest import read_manifest

GALLERY_SIZE = 24
_SHOWN = 300  # characters of a prompt


@dataclass(frozen=True)
class Entry:
    """A clip in the gallery.

    Attributes:
        name: the file name.
        prompt: the beginning of the prompt, from the manifest.
        seed: the seed, from the manifest.
        num_frames: the number of frames.
        num_branches: how often the seed changes within the clip.
    """

    name: str
    prompt: str
    seed: str
    num_frames: int
    num_branches: int


def find_clip(folder: Path, name: str) -> Path:
    """The path of a clip in the folder.

    Raises:
        ValueError: the name is not a clip's, or leads out of the folder.
        FileNotFoundError: the clip does not exist.
    """
    if name.startswith(".") or Path(name).name != name or "\\" in name or not name.endswith(".mp4"):
        raise ValueError(f"{name[:80]!r} is not the name of a clip in the output folder")
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"there is no clip {name!r} in the output folder")
    if path.resolve().parent != folder.resolve():
        raise ValueError(f"{name!r} leads out of the output folder")
    return path


def list_clips(folder: Path, limit: int) -> tuple[Entry, ...]:
    """The newest clips with a manifest, newest first."""
    files = []
    for path in folder.glob("*.mp4"):
        try:
            status = find_clip(folder, path.name).stat()
        except (ValueError, FileNotFoundError):  # a name or link that leads elsewhere, or just removed
            continue
        files.append((status.st_mtime_ns, status.st_size, path))
    entries = (_entry(path, time, size) for time, size, path in sorted(files, reverse=True))
    return tuple(islice(filter(None, entries), limit))


def clip_manifest(path: Path) -> dict[str, Any]:
    """`read_manifest` for an untrusted file.

    Raises:
        ValueError: as in `read_manifest`, or for any other error of its readers.
        OSError: the file cannot be read.
    """
    try:
        return read_manifest(path)
    except (ValueError, OSError):
        raise
    except Exception as error:
        raise ValueError(f"{path.name} holds no manifest that can be read: {error!r:.200}") from error


@lru_cache(maxsize=4096)
def _entry(path: Path, time: int, size: int) -> Entry | None:  # noqa: ARG001 - part of the cache's key
    """The manifest's content, None without one; time and size tell whether the file is unchanged."""
    try:
        manifest = clip_manifest(path)
    except (ValueError, OSError):  # another program's video is not an error: it is left out
        return None
    return entry_of(path.name, manifest)


def entry_of(name: str, manifest: Mapping[str, Any]) -> Entry:
    """The gallery entry for a manifest."""
    return Entry(
        name=name,
        prompt=manifest["prompt"][:_SHOWN],
        seed=manifest["seed"],
        num_frames=manifest["settings"]["num_frames"],
        num_branches=len(manifest["branches"]),
    )


def image_path(clip: Path) -> Path:
    """Where a clip's given first frame is stored beside it: for `clip.mp4`, `clip.image.png`."""
    return clip.with_suffix(".image.png")


def clip_files(clip: Path) -> tuple[Path, ...]:
    """A clip and the files beside it that may belong to it: latents, manifest, first frame."""
    return clip, latents_path(clip), sidecar_path(clip), image_path(clip)


def free_path(folder: Path, stem: str) -> Path:
    """`stem.mp4`, or the first of `stem_2.mp4`, `stem_3.mp4`, ... that has no file yet."""
    for end in chain([""], (f"_{number}" for number in count(2))):
        path = folder / f"{stem}{end}.mp4"
        if not any(file.exists() for file in clip_files(path)):
            break
    return path

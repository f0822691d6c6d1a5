"""The files of one clip, checked before anything is made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .files import check_free, check_no_folder, check_reachable, slug
from .media.labels import VisibleLabel
from .media.video import check_format, check_labels, check_replaceable
from .provenance.latents import latents_path
from .provenance.manifest import sidecar_path


def check_outputs(
    path: Path,
    *,
    lossless: bool = False,
    overwrite: bool = False,
    sidecar: bool = False,
    metadata: bool = True,
    keep_latents: bool = False,
    aigc: Mapping[str, str] | None = None,
    visible_label: VisibleLabel | None = None,
    fps: float,
    num_frames: int,
) -> None:
    """Refuse what saving a clip with this many frames, at that rate, would refuse; see `Clip.save`.

    Raises:
        ValueError: an unknown extension, a rate that the format cannot have, or contradictory options.
        FileExistsError: one of the files exists, or something that a clip does not replace.
        OSError: the folder cannot be written to.
    """
    check_labels(check_format(path, fps, lossless=lossless), aigc, visible_label)
    if sidecar and not metadata:
        raise ValueError(
            "a sidecar is metadata: leave out either the sidecar or metadata=False (--no-metadata)"
        )
    check_reachable(path)
    check_free(path, overwrite=overwrite)
    check_replaceable(path, num_frames)
    if sidecar:
        _check_file(sidecar_path(path), overwrite)
    if keep_latents:
        _check_file(latents_path(path), overwrite)


def _check_file(path: Path, overwrite: bool) -> None:
    check_free(path, overwrite=overwrite)
    check_no_folder(path)


def clip_stem(prompt: str, seed: int) -> str:
    """A file name, without extension, made from prompt and seed; safe on every system."""
    return f"{slug(prompt, 60)}_seed{seed}"


def continued_stem(stem: str, num_frames: int, branch_seed: int | None) -> str:
    """File name, without extension, of a clip that continues the one named `stem`."""
    branch = "" if branch_seed is None else f"_seed{branch_seed}"
    return f"{stem}_{num_frames}frames{branch}"

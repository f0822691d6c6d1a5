"""The known beginning of a clip: its first units, and how they were made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ..checks import check_int
from ..geometry import ImageRole, LatentShape
from ..noise import noise_digest
from ..texts import counted

TEXT_NAMES = ("prompt", "negative_prompt")


@dataclass(frozen=True, eq=False)
class Beginning:
    """The first k units of a clip that continues from them.

    A clip continued from its beginning equals the clip made in one go, with its ledger and all its digests,
    as far as the digests of the beginning are known.

    Args:
        latents: (1, C, k n, H/s, W/s) float32, normalised; finite, k at least 1.
        stage_digests: for each unit, the SHA-256 of its latents after each stage, coarsest first; () for an
            encoded image, None where unknown. None: unknown for every unit.
        text_digests: SHA-256 of the embeddings that made the units, by "prompt" and "negative_prompt", where
            known.
        image_digest: SHA-256 of the image or video that the clip begins with, see `given_digest`; else None.
        frames_per_unit: n, latent frames of a unit, see `PyramidGeometry.frames_per_unit`.

    Raises:
        ValueError, TypeError: a value is invalid, or two contradict each other.
    """

    latents: torch.Tensor
    stage_digests: tuple[tuple[str, ...] | None, ...] | None = None
    text_digests: Mapping[str, str] = field(default_factory=dict)
    image_digest: str | None = None
    frames_per_unit: int = 1

    def __post_init__(self) -> None:
        _check_latents(self.latents)
        check_int("frames_per_unit", self.frames_per_unit, 1, self.latents.shape[2])
        if unknown := sorted(set(self.text_digests) - set(TEXT_NAMES)):
            raise ValueError(
                f"text_digests of a beginning may hold {' and '.join(TEXT_NAMES)}, got {', '.join(unknown)}"
            )
        if self.stage_digests is not None and len(self.stage_digests) != self.num_units:
            raise ValueError(
                "stage_digests of a beginning must have one entry for each of its "
                f"{counted(self.num_units, 'unit')}, got {len(self.stage_digests)}; use None where they are "
                "not known"
            )

    @property
    def num_units(self) -> int:
        """k, the number of known units."""
        return self.latents.shape[2] // self.frames_per_unit


def check_beginnings(
    beginning: Beginning | list[Beginning | None] | None,
    num_clips: int,
    shape: LatentShape,
    max_units: int,
    image_role: ImageRole,
) -> tuple[Beginning, ...]:
    """The beginning of every clip in a call, or () without any.

    Args:
        beginning: that of the only clip, or a list with one entry per clip.
        num_clips: the number of clips.
        shape: of one unit's latents.
        max_units: the most units that a beginning may have.
        image_role: what an image is to such clips.

    Raises:
        ValueError, TypeError: the beginnings do not fit such clips, or differ in their number of units.
    """
    if beginning is None:
        return ()
    entries = beginning if isinstance(beginning, list) else [beginning]
    if len(entries) != num_clips:
        raise ValueError(
            f"beginning must be a list with one entry for each of the {num_clips} clips, got {len(entries)}"
        )
    for entry in entries:
        if not isinstance(entry, Beginning | None):
            raise TypeError(f"beginning must be a Beginning, a list of them, or None, got {entry!r}")
    counts = [0 if entry is None else entry.num_units for entry in entries]
    if len(set(counts)) > 1:
        raise ValueError(
            f"the beginnings of the clips of one call must have equally many units, got {counts}; "
            "use a call for each number"
        )
    beginnings = tuple(entry for entry in entries if entry is not None)
    for entry in beginnings:
        _check_shape(entry, shape, max_units)
        _check_stage_digests(entry, shape.num_stages, image_role)
    return beginnings


def _check_shape(beginning: Beginning, shape: LatentShape, max_units: int) -> None:
    latents, frames = beginning.latents, shape.frames
    if beginning.frames_per_unit != frames:
        raise ValueError(
            f"frames_per_unit of a beginning must be the model's {frames}, got {beginning.frames_per_unit}"
        )
    good = [frames * count for count in range(1, max_units + 1)]
    if latents[:, :, :frames].shape != shape.as_tuple() or latents.shape[2] not in good:
        number = f"1 .. {max_units}" if frames == 1 else " or ".join(map(str, good))
        raise ValueError(
            f"latents of a beginning must have shape (1, {shape.channels}, {number}, {shape.height}, "
            f"{shape.width}), got {tuple(latents.shape)}"
        )


def _check_stage_digests(beginning: Beginning, num_stages: int, image_role: ImageRole) -> None:
    first = None if beginning.stage_digests is None else beginning.stage_digests[0]
    is_image = image_role == "unit" and beginning.image_digest is not None
    if first is not None and (len(first) == 0) != is_image:
        raise ValueError(
            "an image is no unit of this model, so unit 0 of a beginning has stage digests, got ()"
            if image_role == "history"
            else "unit 0 of a beginning is an encoded image, with image_digest and stage_digests (), or has "
            f"neither; got image_digest {beginning.image_digest!r} and {len(first)} stage digests"
        )
    units = beginning.latents.split(beginning.frames_per_unit, dim=2)
    for unit, (latents, digests) in enumerate(zip(units, beginning.stage_digests or (), strict=False)):
        # Only the first unit may be an encoded image.
        if digests is None or (not digests and unit == 0):
            continue
        if len(digests) != num_stages or digests[-1] != noise_digest(latents):
            raise ValueError(
                f"stage_digests of unit {unit} of a beginning must be {num_stages}, the last one that of its "
                f"latents, got {len(digests)} that do not fit; use None where they are not known"
            )


def _check_latents(latents: torch.Tensor) -> None:
    if not isinstance(latents, torch.Tensor):
        raise TypeError(f"latents of a beginning must be a torch.Tensor, got {type(latents).__name__}")
    if latents.ndim != 5 or latents.shape[0] != 1 or latents.shape[2] < 1:
        raise ValueError(
            "latents of a beginning must have shape (1, C, k, h, w), one clip and at least one unit, got "
            f"{tuple(latents.shape)}"
        )
    if not latents.is_floating_point() or not torch.isfinite(latents).all():
        raise ValueError("latents of a beginning must be floating point and finite")

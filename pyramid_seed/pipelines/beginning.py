"""What is known of a clip before it is made: its first units, and how they came to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

TEXT_NAMES = ("prompt", "negative_prompt")


@dataclass(frozen=True, eq=False)
class Beginning:
    """The first k units of one clip, from which it goes on.

    A clip that goes on from its beginning is, with all its digests and its ledger, the clip that is made in
    one go, as far as the digests of the beginning are known.

    Args:
        latents: (1, C, k, H/s, W/s) float32, normalised; finite, k at least 1.
        stage_digests: of each unit the SHA-256 of its latents after each stage, coarsest first; () for an
            encoded image, None where they are not known. None: not known of any unit.
        text_digests: SHA-256 of the embeddings that made the units, by "prompt" and "negative_prompt", as far
            as known.
        image_digest: SHA-256 of the first frame's pixels if unit 0 is an encoded image, else None.

    Raises:
        ValueError, TypeError: a value does not fit, or one contradicts another.
    """

    latents: torch.Tensor
    stage_digests: tuple[tuple[str, ...] | None, ...] | None = None
    text_digests: Mapping[str, str] = field(default_factory=dict)
    image_digest: str | None = None

    def __post_init__(self) -> None:
        _check_latents(self.latents)
        if unknown := sorted(set(self.text_digests) - set(TEXT_NAMES)):
            raise ValueError(
                f"text_digests of a beginning may hold {' and '.join(TEXT_NAMES)}, got {', '.join(unknown)}"
            )
        if self.stage_digests is None:
            return
        if len(self.stage_digests) != self.num_units:
            raise ValueError(
                f"stage_digests of a beginning must have one entry for each of its {self.num_units} units, "
                f"got {len(self.stage_digests)}; use None where they are not known"
            )
        first = self.stage_digests[0]
        if first is not None and (len(first) == 0) != (self.image_digest is not None):
            raise ValueError(
                "unit 0 of a beginning is an encoded image, with image_digest and stage_digests (), or has "
                f"neither; got image_digest {self.image_digest!r} and {len(first)} stage digests"
            )

    @property
    def num_units(self) -> int:
        """k, the units that are known."""
        return self.latents.shape[2]


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

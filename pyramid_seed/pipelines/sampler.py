"""What makes the units of a clip: the one part of a call in which families differ wholly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from .denoise import OnStep, UnitSettings


@dataclass(frozen=True)
class KnownLatents:
    """Latents of a clip that are known before any is generated, float32, normalised.

    Attributes:
        units: (1, C, k n, H, W), its first k units; None without.
        image: (1, C, m, H, W), what an image or video that is no unit stands for in the conditions of the
            units, see `ClipPipeline.encode_image`; None without one.
    """

    units: torch.Tensor | None = None
    image: torch.Tensor | None = None


class Sampler(Protocol):
    """Makes the units of one clip, one after the other."""

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of the unit in progress."""
        ...

    def set_guidance_scale(self, guidance_scale: float) -> None:
        """Use another one for the rest of the unit; ValueError if that is not possible."""
        ...

    def units(
        self, known: KnownLatents, settings: Sequence[UnitSettings], on_step: OnStep
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """Generate a clip unit by unit.

        Args:
            known: what is known of the clip.
            settings: one entry per unit of the whole clip, including the first ones.
            on_step: see `OnStep`.

        Yields:
            For each new unit its latents (1, C, n, h, w) at the end of each stage, float32, coarsest first;
            ends early when stopped.

        Raises:
            FloatingPointError: latents are not finite.
        """
        ...

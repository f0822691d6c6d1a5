"""Digests of the latents at the end of each stage: they show in which stage of a unit two runs part."""

from __future__ import annotations

import torch

from ..noise import noise_digest
from .denoise import OnStep, Place
from .inputs import Request

StageDigests = tuple[str, ...]
"""SHA-256 (see `noise_digest`) of one unit's latents after each stage, coarsest first: the last is that of
the unit. An encoded image has no stages and none of them."""


class StageRecorder:
    """Watches the steps of one clip and keeps the digests of the unit being made.

    Args:
        request: says where stages end.
        on_step: what happens at each step; the latents that it returns are the ones recorded.
    """

    def __init__(self, request: Request, on_step: OnStep) -> None:
        self._request = request
        self._on_step = on_step
        self._digests: list[str] = []

    def __call__(self, place: Place, timestep: torch.Tensor, latents: torch.Tensor) -> torch.Tensor | None:
        """See `OnStep`."""
        kept = self._on_step(place, timestep, latents)
        if kept is not None and self._request.ends_stage(place):
            self._digests.append(noise_digest(kept))
        return kept

    def take(self) -> StageDigests:
        """The digests of the unit that has just been finished."""
        taken, self._digests = tuple(self._digests), []
        return taken

"""Digests of the latents at the end of each stage: they tell in which stage of a unit two runs part."""

from __future__ import annotations

import torch

from ..noise import noise_digest
from .beginning import Beginning
from .denoise import OnStep, Place
from .inputs import Request

StageDigests = tuple[str, ...]
"""SHA-256 (see `noise_digest`) of one unit's latents after each stage, coarsest first: the last is that of
the unit. An encoded picture has no stages and none of them."""


class StageRecorder:
    """Looks on at the steps of one clip and keeps the digests of the unit being made.

    Args:
        request: tells where stages end.
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


def known_stage_digests(request: Request, num_stages: int) -> list[list[StageDigests | None]]:
    """Stage digests of the units with which each clip begins; None for those of which they are not known.

    Args:
        request: the checked call.
        num_stages: of the model.

    Raises:
        ValueError: a beginning has such as are not those of its latents.
    """
    if not request.beginnings:
        return [[()] * request.num_known_units for _ in range(request.num_clips)]
    return [_stage_digests_of(beginning, num_stages) for beginning in request.beginnings]


def _stage_digests_of(beginning: Beginning, num_stages: int) -> list[StageDigests | None]:
    if beginning.stage_digests is None:
        return [None] * beginning.num_units
    units = beginning.latents.split(1, dim=2)
    for unit, (latents, digests) in enumerate(zip(units, beginning.stage_digests, strict=True)):
        # Only a first unit may be an encoded image.
        if digests is None or (not digests and unit == 0):
            continue
        if len(digests) != num_stages or digests[-1] != noise_digest(latents):
            raise ValueError(
                f"stage_digests of unit {unit} of a beginning must be {num_stages}, the last one that of its "
                f"latents, got {len(digests)} that do not fit; use None where they are not known"
            )
    return [None if digests is None else tuple(digests) for digests in beginning.stage_digests]

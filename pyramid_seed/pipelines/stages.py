"""Digests of the latents at the end of each stage: they tell in which stage of a unit two runs part."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..noise import noise_digest
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


def known_stage_digests(
    request: Request, given: Sequence[Sequence[Sequence[str] | None]] | None, num_stages: int
) -> list[list[StageDigests | None]]:
    """Stage digests of the units with which each clip begins; None for those of which they are not known.

    Args:
        request: the checked call.
        given: of each unit of `prefix_latents` of each clip, or None.
        num_stages: of the model.

    Raises:
        ValueError: given without `prefix_latents`, or not those of its units.
    """
    prefix = request.prefix_latents
    if prefix is None:
        if given is not None:
            raise ValueError("prefix_stage_digests are those of prefix_latents; give both or neither")
        return [[()] * request.num_known_units for _ in range(request.num_clips)]
    if given is None:
        return [[None] * request.num_known_units for _ in range(request.num_clips)]
    counts = [len(units) for units in given]
    if counts != [request.num_known_units] * request.num_clips:
        raise ValueError(
            f"prefix_stage_digests must hold {request.num_known_units} units of each of {request.num_clips} "
            f"clips, as prefix_latents does, got {counts}"
        )
    known = [[None if each is None else tuple(each) for each in units] for units in given]
    for latents, units in zip(prefix.split(1), known, strict=True):
        for unit, digests in enumerate(units):
            _check_unit(unit, latents[:, :, unit : unit + 1], digests, num_stages)
    return known


def _check_unit(unit: int, latents: torch.Tensor, digests: StageDigests | None, num_stages: int) -> None:
    # Only a first unit may be an encoded picture.
    if digests is None or (digests == () and unit == 0):
        return
    if len(digests) != num_stages or digests[-1] != noise_digest(latents):
        raise ValueError(
            f"prefix_stage_digests of unit {unit} must be {num_stages}, the last one that of its "
            f"prefix_latents, got {len(digests)} that do not fit; use None where they are not known"
        )

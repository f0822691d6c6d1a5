"""The transformer of a pipeline's call: before each step it says which step is in progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .guided import GuidedTransformer


@dataclass(frozen=True)
class CurrentPlace:
    """Where in a call a step is; every index counts from 0.

    Attributes:
        clip: index in the call.
        unit: index in the clip, known units included.
        stage: index in the unit; 0 is the coarsest.
        step: index in the stage.
    """

    clip: int
    unit: int
    stage: int
    step: int


class TrackedTransformer(GuidedTransformer):
    """A `GuidedTransformer` that says which step is in progress before the transformer runs.

    Args:
        args: those of a `GuidedTransformer`.
        clip: index in the call of the clip that it makes.
        first_unit: index of the first unit that it makes.
        on_begin: called with the place and the timestep before each step.
    """

    def __init__(
        self,
        *args: Any,
        clip: int,
        first_unit: int,
        on_begin: Callable[[CurrentPlace, torch.Tensor], None],
    ) -> None:
        super().__init__(*args)
        self._clip = clip
        self._unit, self._stage, self._step = first_unit - 1, -1, -1
        self._on_begin = on_begin

    def start_unit(self, guidance_scale: float) -> None:
        """See `GuidedTransformer`."""
        self._unit, self._stage = self._unit + 1, -1
        super().start_unit(guidance_scale)

    def start_stage(self, num_steps: int) -> None:
        """See `GuidedTransformer`."""
        self._stage, self._step = self._stage + 1, -1
        super().start_stage(num_steps)

    def __call__(
        self, latents: torch.Tensor, history: list[torch.Tensor], timestep: torch.Tensor
    ) -> torch.Tensor:
        """See `GuidedTransformer`."""
        self._step += 1
        self._on_begin(CurrentPlace(self._clip, self._unit, self._stage, self._step), timestep)
        return super().__call__(latents, history, timestep)

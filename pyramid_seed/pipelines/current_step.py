"""The transformer as a pipeline asks it: before each step the pipeline says which one is in work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .guided import GuidedTransformer


class TrackedTransformer(GuidedTransformer):
    """A `GuidedTransformer` that calls `on_begin` with the timestep before each step.

    Step caches of diffusers ask the pipeline for it while the transformer runs.
    """

    def __init__(self, *args: Any, on_begin: Callable[[torch.Tensor], None]) -> None:
        super().__init__(*args)
        self._on_begin = on_begin

    def __call__(
        self, latents: torch.Tensor, history: list[torch.Tensor], timestep: torch.Tensor
    ) -> torch.Tensor:
        """See `GuidedTransformer`."""
        self._on_begin(timestep)
        return super().__call__(latents, history, timestep)

"""Transformer steps as CUDA graphs: the same kernels, all launched by the CPU at once.

In small stages a GPU finishes a kernel before the CPU has launched the next one (docs/performance.md). A step
reads nothing back from the device and sends nothing to it, so it can be recorded once per stage.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..models.transformer_pyramid_base import PyramidTransformer3DModel
from .hooks import has_hooks

FEWEST_STEPS = 4
"""Steps in a stage from which it pays to record one, which takes about as long as a step."""
MOST_TOKENS = 8192
"""Tokens of all samples up to which launching a step is too slow to keep a large GPU busy."""


class StepGraph:
    """A recorded step of one stage.

    Args:
        step: maps latents (1, C, 1, H, W) and a timestep of shape () to the velocity of all samples. It has
            run before, and depends on nothing else that changes within the stage.
        latents, timestep: those of the next step.
    """

    def __init__(
        self,
        step: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        latents: torch.Tensor,
        timestep: torch.Tensor,
    ) -> None:
        self._latents, self._timestep = latents.clone(), timestep.clone()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._velocity = step(self._latents, self._timestep)

    def __call__(self, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """The velocity, in memory that the next call overwrites."""
        self._latents.copy_(latents)
        self._timestep.copy_(timestep)
        self._graph.replay()
        return self._velocity


def check_graphs(
    transformer: PyramidTransformer3DModel, device: torch.device, shards: int | None = None
) -> None:
    """Refuse to record steps that would not be the same each time.

    Raises:
        ValueError: the device is not CUDA; hooks move weights; a step cache acts; blocks are compiled; a
            sequence is in pieces; or attention takes the reference path, which builds everything anew.
    """
    reasons = {
        f"the transformer computes on {device}, where there are none": device.type != "cuda",
        "a step cache leaves out work of some steps": transformer.cache_in_use is not None,
        "hooks move the transformer's weights": has_hooks(transformer),
        "the transformer is compiled": transformer.is_compiled,
        f"the pieces of {shards} shards wait for each other": (shards or 1) > 1,
        "attention 'reference' builds everything anew at each step": transformer.attention_path
        == "reference",
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(f"CUDA graphs cannot be used: {reason}; call pipeline.disable_cuda_graphs()")

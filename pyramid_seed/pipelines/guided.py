"""The transformer with the text of one clip, as the sampler asks for velocities."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers.hooks import HookRegistry

from ..models.stage_context import StageMemory
from ..models.transformer_pyramid_base import PyramidTransformer3DModel
from .denoise import guide
from .memory import trim_heap
from .step_graph import FEWEST_STEPS, MOST_TOKENS, StepGraph
from .text import TextEmbeddings, guidance_pair


class GuidedTransformer:
    """The transformer with the text of one clip: asks for negative and positive velocity in one batch.

    With `use_graphs` the steps of small stages are recorded, see `step_graph`.
    """

    def __init__(
        self,
        transformer: PyramidTransformer3DModel,
        positive: TextEmbeddings,
        negative: TextEmbeddings | None,
        attention_kwargs: dict[str, Any] | None,
        device: torch.device,
        use_graphs: bool = False,
    ) -> None:
        self.transformer = transformer
        self.attention_kwargs = attention_kwargs
        self.guidance_scale = 1.0
        self.positive = positive.to(device, transformer.dtype)
        self.pair = None
        if negative is not None:
            self.pair = guidance_pair(negative, positive).to(device, transformer.dtype)
        self._use_graphs = use_graphs
        self._is_long_stage = False
        self._memories: dict[int, StageMemory] = {}
        self._graphs: dict[int, StepGraph] = {}

    def __call__(
        self, latents: torch.Tensor, history: list[torch.Tensor], timestep: torch.Tensor
    ) -> torch.Tensor:
        """Velocity (1, C, 1, H, W), float32, guided when `guidance_scale` is above 1.

        Raises:
            ValueError: guidance is wanted and there is no negative prompt.
        """
        text = self.pair if self.guidance_scale > 1 else self.positive
        if text is None:
            raise ValueError(
                "a callback cannot turn guidance on in a call that began without it, got guidance_scale "
                f"{self.guidance_scale}; give the call a guidance_scale above 1"
            )
        batch = text.prompt_embeds.shape[0]
        if batch in self._graphs or self._can_be_recorded(batch):
            if batch not in self._graphs:
                step = partial(self._velocity, text, history)
                self._graphs[batch] = StepGraph(step, latents, timestep)
            velocity = self._graphs[batch](latents, timestep)
        else:
            velocity = self._velocity(text, history, latents, timestep)
        velocity = velocity.float()
        if batch == 1:
            return velocity
        negative, positive = velocity.chunk(2)
        return guide(negative, positive, self.guidance_scale)

    def _velocity(
        self, text: TextEmbeddings, history: list[torch.Tensor], latents: torch.Tensor, timestep: torch.Tensor
    ) -> torch.Tensor:
        """Velocity (B, C, 1, H, W) for each of the texts."""
        batch, dtype = text.prompt_embeds.shape[0], self.transformer.dtype
        # The reference path builds everything again at every step.
        memory = StageMemory()
        if self.transformer.attention_path != "reference":
            memory = self._memories.setdefault(batch, memory)
        if memory.context is None:
            history = [clip.to(dtype).expand(batch, -1, -1, -1, -1) for clip in history]
        with self.transformer.cache_context("pyramid"):
            (velocity,) = self.transformer(
                latents.to(dtype).expand(batch, -1, -1, -1, -1),
                history,
                timestep.expand(batch),
                text.prompt_embeds,
                text.prompt_attention_mask,
                text.pooled_prompt_embeds,
                attention_kwargs=self.attention_kwargs,
                return_dict=False,
                memory=memory,
            )
        return velocity

    def _can_be_recorded(self, batch: int) -> bool:
        """Whether a step has run in this stage, and recording the next one pays."""
        context = self._memories.get(batch, StageMemory()).context
        is_small = context is not None and batch * context.rotary.cos.shape[0] <= MOST_TOKENS
        return self._use_graphs and self._is_long_stage and is_small

    def start_unit(self, guidance_scale: float) -> None:
        """Guide with this scale until somebody sets another one."""
        self.guidance_scale = guidance_scale

    def start_stage(self, num_steps: int) -> None:
        """Forget what holds for one stage: memories, recorded steps, and what diffusers' step caches hold.

        Those have activations of the last stage, or of the last clip.
        """
        self._memories.clear()
        self._graphs.clear()
        self._is_long_stage = num_steps >= FEWEST_STEPS
        trim_heap(self.positive.prompt_embeds.device)
        if self.transformer.is_cache_enabled:
            HookRegistry.check_if_exists_or_initialize(self.transformer).reset_stateful_hooks()

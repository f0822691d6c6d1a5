"""The transformer with the text of one clip, as the sampler asks for velocities."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.hooks import HookRegistry

from ..models.stage_context import StageMemory
from ..models.transformer_pyramid_base import PyramidTransformer3DModel
from .denoise import guide
from .text import TextEmbeddings, guidance_pair


class GuidedTransformer:
    """The transformer with the text of one clip: asks for negative and positive velocity in one batch."""

    def __init__(
        self,
        transformer: PyramidTransformer3DModel,
        positive: TextEmbeddings,
        negative: TextEmbeddings | None,
        attention_kwargs: dict[str, Any] | None,
        device: torch.device,
    ) -> None:
        self.transformer = transformer
        self.attention_kwargs = attention_kwargs
        self.guidance_scale = 1.0
        self.positive = positive.to(device, transformer.dtype)
        self.pair = None
        if negative is not None:
            self.pair = guidance_pair(negative, positive).to(device, transformer.dtype)
        self._memories: dict[int, StageMemory] = {}

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
        dtype = self.transformer.dtype
        # The reference path builds everything again at every step.
        is_reference = self.transformer.attention_path == "reference"
        with self.transformer.cache_context("pyramid"):
            (velocity,) = self.transformer(
                latents.to(dtype).expand(batch, -1, -1, -1, -1),
                [clip.to(dtype).expand(batch, -1, -1, -1, -1) for clip in history],
                timestep.to(latents.device).expand(batch),
                text.prompt_embeds,
                text.prompt_attention_mask,
                text.pooled_prompt_embeds,
                attention_kwargs=self.attention_kwargs,
                return_dict=False,
                memory=None if is_reference else self._memories.setdefault(batch, StageMemory()),
            )
        velocity = velocity.float()
        if batch == 1:
            return velocity
        negative, positive = velocity.chunk(2)
        return guide(negative, positive, self.guidance_scale)

    def start_unit(self, guidance_scale: float) -> None:
        """Guide with this scale until somebody sets another one."""
        self.guidance_scale = guidance_scale

    def start_stage(self) -> None:
        """Forget what holds for one stage: memories, and what diffusers' step caches hold.

        Those have activations of the last stage, or of the last clip.
        """
        self._memories.clear()
        if self.transformer.is_cache_enabled:
            HookRegistry.check_if_exists_or_initialize(self.transformer).reset_stateful_hooks()

"""The transformer with the text of one clip, which the sampler asks for velocities."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from diffusers.hooks import HookRegistry
from diffusers.utils import scale_lora_layers, unscale_lora_layers

from ..models.shards import Shard
from ..models.stage_context import StageMemory
from ..models.transformer_pyramid_base import PyramidTransformer3DModel
from .denoise import guide
from .memory import trim_heap
from .shared_step import velocities_in_pieces
from .sharing import Sharing
from .step_graph import FEWEST_STEPS, MOST_TOKENS, StepGraph
from .text import TextEmbeddings, guidance_pair


class GuidedTransformer:
    """The transformer with the text of one clip: computes the negative and the positive velocity.

    They run as one batch, or as separate calls if the clip has shards. With `use_graphs` the steps of small
    stages are recorded, see `step_graph`.
    """

    def __init__(
        self,
        transformer: PyramidTransformer3DModel,
        positive: TextEmbeddings,
        negative: TextEmbeddings | None,
        attention_kwargs: dict[str, Any] | None,
        device: torch.device,
        use_graphs: bool = False,
        sharing: Sharing | None = None,
    ) -> None:
        self.transformer = transformer
        self.attention_kwargs = attention_kwargs
        self.guidance_scale = 1.0
        self._sharing = sharing
        self._texts = {"positive": positive.to(device, transformer.dtype)}
        if negative is not None:
            if sharing is None or sharing.shards is None:
                self._texts["pair"] = guidance_pair(negative, positive).to(device, transformer.dtype)
            else:
                self._texts["negative"] = negative.to(device, transformer.dtype)
        self._use_graphs = use_graphs
        self._is_long_stage = False
        self._memories: dict[str, StageMemory] = {}
        self._graphs: dict[str, StepGraph] = {}

    def __call__(
        self, latents: torch.Tensor, history: list[torch.Tensor], timestep: torch.Tensor
    ) -> torch.Tensor:
        """Velocity (1, C, 1, H, W), float32, guided when `guidance_scale` is above 1.

        Raises:
            ValueError: guidance is requested without a negative prompt.
        """
        is_guided = self.guidance_scale > 1
        if is_guided and len(self._texts) == 1:
            raise ValueError(
                "a callback cannot turn guidance on in a call that began without it, got guidance_scale "
                f"{self.guidance_scale}; give the call a guidance_scale above 1"
            )
        if not is_guided:
            (positive,) = self._velocities(["positive"], latents, history, timestep)
            return positive
        if "pair" in self._texts:
            (pair,) = self._velocities(["pair"], latents, history, timestep)
            negative, positive = pair.chunk(2)
        else:
            negative, positive = self._velocities(["negative", "positive"], latents, history, timestep)
        return guide(negative, positive, self.guidance_scale)

    def _velocities(
        self,
        texts: list[str],
        latents: torch.Tensor,
        history: list[torch.Tensor],
        timestep: torch.Tensor,
    ) -> list[torch.Tensor]:
        """Velocities (B, C, 1, H, W), float32, for each of the texts."""
        halves = [partial(self._half, text, latents, history, timestep) for text in texts]
        sharing = self._sharing
        if sharing is None or sharing.shards is None:
            return [half(None).float() for half in halves]
        with self._lora_scaled():
            velocities = velocities_in_pieces(halves, self.transformer, history, latents, sharing)
        return [velocity.float() for velocity in velocities]

    def _half(
        self,
        text: str,
        latents: torch.Tensor,
        history: list[torch.Tensor],
        timestep: torch.Tensor,
        shard: Shard | None,
    ) -> torch.Tensor:
        """The transformer's output for one of the texts, possibly from a recorded step."""
        if text not in self._graphs and self._can_be_recorded(text):
            step = partial(self._velocity, text, history, shard)
            self._graphs[text] = StepGraph(step, latents, timestep)
        if text in self._graphs:
            return self._graphs[text](latents, timestep)
        return self._velocity(text, history, shard, latents, timestep)

    def _velocity(
        self,
        text: str,
        history: list[torch.Tensor],
        shard: Shard | None,
        latents: torch.Tensor,
        timestep: torch.Tensor,
    ) -> torch.Tensor:
        """Velocity (B, C, 1, H, W) for one of the texts, or the tokens of one shard of it."""
        embeddings = self._texts[text]
        batch, dtype = embeddings.prompt_embeds.shape[0], embeddings.prompt_embeds.dtype
        # The reference path builds everything anew at every step.
        memory = StageMemory()
        if self.transformer.attention_path != "reference":
            memory = self._memories.setdefault(text, memory)
        if memory.context is None:
            history = [clip.to(dtype).expand(batch, -1, -1, -1, -1) for clip in history]
        is_cached = self.transformer.is_cache_enabled
        with self.transformer.cache_context(text) if is_cached else nullcontext():
            (velocity,) = self.transformer(
                latents.to(dtype).expand(batch, -1, -1, -1, -1),
                history,
                timestep.expand(batch),
                embeddings.prompt_embeds,
                embeddings.prompt_attention_mask,
                embeddings.pooled_prompt_embeds,
                attention_kwargs=self.attention_kwargs if shard is None else None,
                return_dict=False,
                memory=memory,
                shard=shard,
            )
        return velocity

    @contextmanager
    def _lora_scaled(self) -> Iterator[None]:
        """Apply the scale of `attention_kwargs` to the LoRA layers, once for all pieces of a step."""
        scale = (self.attention_kwargs or {}).get("scale", 1.0)
        if scale != 1:
            scale_lora_layers(self.transformer, scale)
        try:
            yield
        finally:
            if scale != 1:
                unscale_lora_layers(self.transformer, scale)

    def _can_be_recorded(self, text: str) -> bool:
        """Whether a step has run in this stage, and recording the next one is worthwhile."""
        context = self._memories.get(text, StageMemory()).context
        if context is None or not (self._use_graphs and self._is_long_stage):
            return False
        return context.text.shape[0] * context.rotary.cos.shape[0] <= MOST_TOKENS

    def start_unit(self, guidance_scale: float) -> None:
        """Use this guidance scale until another one is set."""
        self.guidance_scale = guidance_scale

    def start_stage(self, num_steps: int) -> None:
        """Drop what holds for one stage: memories, recorded steps, and the content of diffusers' step caches.

        Those caches still hold activations of the last stage, or of the last clip.
        """
        self._memories.clear()
        self._graphs.clear()
        self._is_long_stage = num_steps >= FEWEST_STEPS
        trim_heap(self._texts["positive"].prompt_embeds.device)
        if self.transformer.is_cache_enabled:
            HookRegistry.check_if_exists_or_initialize(self.transformer).reset_stateful_hooks()

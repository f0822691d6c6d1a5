"""The forward pass that the transformers of both Pyramid Flow families share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.embeddings import CombinedTimestepTextProjEmbeddings
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import AdaLayerNormContinuous
from diffusers.utils import apply_lora_scale
from torch import nn

from .lora import LoraMixin
from .token_geometry import causal_attention_mask, check_clips, unpack_latents, video_positions


class PyramidTransformer3DModel(ModelMixin, ConfigMixin, LoraMixin, CacheMixin, AttentionMixin):
    """Velocity model of Pyramid Flow (arXiv 2410.05954): one sequence of text, history and current tokens.

    A family makes the modules named below and says how latents become tokens (`_embed_clips`), what its
    blocks are (`_blocks`) and how they take positions and mask (`_block_arguments`).
    """

    _supports_gradient_checkpointing = True
    _skip_layerwise_casting_patterns = ["pos_embed", "norm", "time_text_embed"]  # noqa: RUF012
    # A bfloat16 timestep has 8 bits: 971.6 and 974 are the same time to it.
    _keep_in_fp32_modules = ["time_text_embed"]  # noqa: RUF012

    family: str
    time_text_embed: CombinedTimestepTextProjEmbeddings
    context_embedder: nn.Linear
    norm_out: AdaLayerNormContinuous
    proj_out: nn.Linear
    gradient_checkpointing = False

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: torch.Tensor,
        history: Sequence[torch.Tensor],
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor,
        pooled_projections: torch.Tensor,
        attention_kwargs: dict[str, Any] | None = None,  # noqa: ARG002 - read by the decorator
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """Predict the velocity of the current latents.

        Args:
            hidden_states: current latents (B, C, T, H, W); H and W multiples of `patch_size`.
            history: clean past latents, oldest first, each (B, C, t, H_k, W_k) at the resolution of its
                stage; empty for the first unit.
            timestep: (B,) in [0, 1000].
            encoder_hidden_states: T5 embeddings (B, L, joint_attention_dim).
            encoder_attention_mask: (B, L), 1 for text and 0 for padding.
            pooled_projections: CLIP embedding (B, pooled_projection_dim).
            attention_kwargs: `scale` scales the loaded LoRA layers.
            return_dict: return a `Transformer2DModelOutput` instead of a tuple.

        Returns:
            The velocity, same shape as `hidden_states`.

        Raises:
            ValueError: if a height or width does not fit the patches.
        """
        dtype = hidden_states.dtype
        patch_size = self.config.patch_size
        clips = [*history, hidden_states]
        check_clips(clips, patch_size)
        video_ids = video_positions(clips, patch_size).to(hidden_states.device)
        text_ids = video_ids.new_zeros(encoder_hidden_states.shape[1], video_ids.shape[1])
        mask = causal_attention_mask(encoder_attention_mask, video_ids[:, 0])
        block_arguments = self._block_arguments(torch.cat([text_ids, video_ids]), mask)

        embed_dtype = self.time_text_embed.timestep_embedder.linear_1.weight.dtype
        temb = self.time_text_embed(timestep, pooled_projections.to(embed_dtype)).to(dtype)
        text = self.context_embedder(encoder_hidden_states)
        video = self._embed_clips(clips)

        for block in self._blocks():
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                text, video = self._gradient_checkpointing_func(block, video, text, temb, *block_arguments)
            else:
                text, video = block(video, text, temb, *block_arguments)

        frames, height, width = hidden_states.shape[2:]
        current = video[:, -frames * (height // patch_size) * (width // patch_size) :]
        tokens = self.proj_out(self.norm_out(current, temb))
        velocity = unpack_latents(tokens, patch_size, frames, height, width)
        if not return_dict:
            return (velocity,)
        return Transformer2DModelOutput(sample=velocity)

    def _embed_clips(self, clips: Sequence[torch.Tensor]) -> torch.Tensor:
        """Tokens (B, N, inner_dim) of latents (B, C, T, H, W), history first and the current ones last."""
        raise NotImplementedError

    def _blocks(self) -> Iterable[nn.Module]:
        """Blocks in their order: (video, text, temb, *block arguments) to (text, video)."""
        raise NotImplementedError

    def _block_arguments(self, positions: torch.Tensor, mask: torch.Tensor) -> tuple[Any, ...]:
        """What a block takes after its first three arguments.

        `positions` are (time, row, column) of every token, float32 (S, 3), zero for text; `mask` is boolean,
        (B, 1, S, S).
        """
        raise NotImplementedError

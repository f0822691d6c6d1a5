"""The miniFLUX transformer of Pyramid Flow, assembled from diffusers' Flux blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.embeddings import CombinedTimestepTextProjEmbeddings
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import AdaLayerNormContinuous
from diffusers.models.transformers.transformer_flux import (
    FluxPosEmbed,
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from diffusers.utils import apply_lora_scale
from torch import nn

from .token_geometry import causal_attention_mask, pack_latents, unpack_latents, video_positions


class PyramidFluxTransformer3DModel(
    ModelMixin, ConfigMixin, PeftAdapterMixin, CacheMixin, AttentionMixin
):
    """Velocity model of Pyramid Flow's miniFLUX family (arXiv 2410.05954).

    Every parameter has the name and shape of the published checkpoints. `in_channels` counts latent
    channels; a token holds a `patch_size` x `patch_size` patch of them.

    Args:
        patch_size: edge of the latent patch that becomes one token.
        in_channels: latent channels C.
        num_layers: dual-stream blocks (text and video with their own weights).
        num_single_layers: single-stream blocks.
        attention_head_dim: width of one head; the sum of `axes_dims_rope`.
        num_attention_heads: heads; the model's width is heads x head width.
        joint_attention_dim: width of the T5 embeddings.
        pooled_projection_dim: width of the pooled CLIP embedding.
        axes_dims_rope: rotary dimensions given to time, rows and columns.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["FluxTransformerBlock", "FluxSingleTransformerBlock"]  # noqa: RUF012
    _repeated_blocks = ["FluxTransformerBlock", "FluxSingleTransformerBlock"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = ["pos_embed", "norm", "time_text_embed"]  # noqa: RUF012
    # A bfloat16 timestep has 8 bits: 971.6 and 974 are the same time to it.
    _keep_in_fp32_modules = ["time_text_embed"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        patch_size: int = 2,
        in_channels: int = 16,
        num_layers: int = 8,
        num_single_layers: int = 16,
        attention_head_dim: int = 64,
        num_attention_heads: int = 30,
        joint_attention_dim: int = 4096,
        pooled_projection_dim: int = 768,
        axes_dims_rope: tuple[int, int, int] = (16, 24, 24),
    ) -> None:
        super().__init__()
        if sum(axes_dims_rope) != attention_head_dim:
            raise ValueError(
                f"axes_dims_rope must add up to attention_head_dim {attention_head_dim}, "
                f"got {tuple(axes_dims_rope)} = {sum(axes_dims_rope)}"
            )
        inner_dim = num_attention_heads * attention_head_dim
        token_channels = in_channels * patch_size**2

        self.pos_embed = FluxPosEmbed(theta=10000, axes_dim=list(axes_dims_rope))
        self.time_text_embed = CombinedTimestepTextProjEmbeddings(
            embedding_dim=inner_dim, pooled_projection_dim=pooled_projection_dim
        )
        self.context_embedder = nn.Linear(joint_attention_dim, inner_dim)
        self.x_embedder = nn.Linear(token_channels, inner_dim)
        self.transformer_blocks = nn.ModuleList(
            FluxTransformerBlock(inner_dim, num_attention_heads, attention_head_dim)
            for _ in range(num_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            FluxSingleTransformerBlock(inner_dim, num_attention_heads, attention_head_dim)
            for _ in range(num_single_layers)
        )
        self.norm_out = AdaLayerNormContinuous(inner_dim, inner_dim, elementwise_affine=False, eps=1e-6)
        self.proj_out = nn.Linear(inner_dim, token_channels)
        self.gradient_checkpointing = False

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: torch.Tensor,
        history: Sequence[torch.Tensor],
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor,
        pooled_projections: torch.Tensor,
        attention_kwargs: dict[str, Any] | None = None,
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
        """
        dtype = hidden_states.dtype
        patch_size = self.config.patch_size
        clips = [*history, hidden_states]
        positions = video_positions(clips, patch_size).to(hidden_states.device)
        text_length = encoder_hidden_states.shape[1]
        image_rotary_emb = self.pos_embed(
            torch.cat([positions.new_zeros(text_length, positions.shape[1]), positions])
        )
        mask = causal_attention_mask(encoder_attention_mask, positions[:, 0])

        embed_dtype = self.time_text_embed.timestep_embedder.linear_1.weight.dtype
        temb = self.time_text_embed(timestep, pooled_projections.to(embed_dtype)).to(dtype)
        text = self.context_embedder(encoder_hidden_states)
        video = self.x_embedder(torch.cat([pack_latents(clip, patch_size) for clip in clips], dim=1))

        for block in (*self.transformer_blocks, *self.single_transformer_blocks):
            arguments = (video, text, temb, image_rotary_emb, {"attention_mask": mask})
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                text, video = self._gradient_checkpointing_func(block, *arguments)
            else:
                text, video = block(*arguments)

        frames, height, width = hidden_states.shape[2:]
        current = video[:, -frames * (height // patch_size) * (width // patch_size) :]
        tokens = self.proj_out(self.norm_out(current, temb))
        velocity = unpack_latents(tokens, patch_size, frames, height, width)
        if not return_dict:
            return (velocity,)
        return Transformer2DModelOutput(sample=velocity)

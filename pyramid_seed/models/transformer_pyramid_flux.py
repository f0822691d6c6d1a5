"""The miniFLUX transformer of Pyramid Flow, assembled from diffusers' Flux blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import CombinedTimestepTextProjEmbeddings
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401 - from_pretrained looks for it here
from diffusers.models.normalization import AdaLayerNormContinuous
from diffusers.models.transformers.transformer_flux import (
    FluxPosEmbed,
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from torch import nn

from .token_geometry import pack_latents
from .transformer_pyramid_base import PyramidTransformer3DModel


class PyramidFluxTransformer3DModel(PyramidTransformer3DModel):
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

    Raises:
        ValueError: if `axes_dims_rope` does not add up to `attention_head_dim`.
    """

    family = "miniflux"
    _no_split_modules = ["FluxTransformerBlock", "FluxSingleTransformerBlock"]  # noqa: RUF012
    _repeated_blocks = ["FluxTransformerBlock", "FluxSingleTransformerBlock"]  # noqa: RUF012

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

    def _embed_clips(self, clips: Sequence[torch.Tensor]) -> torch.Tensor:
        packed = torch.cat([pack_latents(clip, self.config.patch_size) for clip in clips], dim=1)
        return self.x_embedder(packed)

    def _blocks(self) -> Iterable[nn.Module]:
        return (*self.transformer_blocks, *self.single_transformer_blocks)

    def _block_arguments(self, positions: torch.Tensor, mask: torch.Tensor) -> tuple[Any, ...]:
        return self.pos_embed(positions), {"attention_mask": mask}

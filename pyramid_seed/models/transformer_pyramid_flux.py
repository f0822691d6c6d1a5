"""The miniFLUX transformer of Pyramid Flow, assembled from diffusers' Flux blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import CombinedTimestepTextProjEmbeddings
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401 - from_pretrained looks for it here
from diffusers.models.normalization import AdaLayerNormContinuous
from diffusers.models.transformers.transformer_flux import (
    FluxAttention,
    FluxPosEmbed,
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from torch import nn

from ..private_apis import register_transformer_block
from .attention import PyramidAttnProcessor, Rotary, add_to_last
from .attention_plan import AttentionPlan
from .onednn_linear import use_onednn
from .stage_context import StageContext
from .token_geometry import pack_latents
from .transformer_pyramid_base import PyramidTransformer3DModel


class PyramidFluxAttnProcessor(PyramidAttnProcessor):
    """Attention of diffusers' Flux blocks."""

    text_norms = ("norm_added_q", "norm_added_k")


class PyramidFluxSingleTransformerBlock(FluxSingleTransformerBlock):
    """diffusers' single-sequence block, with less work where an `AttentionPlan` says who attends to whom.

    As the last block it computes only keys and values for text and history, and returns both unchanged.
    """

    def __init__(
        self, dim: int, num_attention_heads: int, attention_head_dim: int, is_last: bool = False
    ) -> None:
        super().__init__(dim, num_attention_heads, attention_head_dim)
        self.is_last = is_last

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        image_rotary_emb: Rotary,
        joint_attention_kwargs: dict[str, Any],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Video (B, N, D), text (B, L, D) and `temb` (B, D) to text and video."""
        plan = joint_attention_kwargs["attention_mask"]
        if not isinstance(plan, AttentionPlan):
            return super().forward(
                hidden_states, encoder_hidden_states, temb, image_rotary_emb, joint_attention_kwargs
            )
        tokens = joined_tokens(encoder_hidden_states, hidden_states)
        normed, gate = self.norm(tokens, emb=temb)
        asking = normed[:, -plan.num_current :].contiguous() if self.is_last else normed
        joined = None
        if not (torch.is_grad_enabled() or torch.compiler.is_compiling()):
            joined = normed.new_empty(*asking.shape[:2], asking.shape[2] + self.mlp_hidden_dim)
        attended = self.attn(
            hidden_states=normed,
            image_rotary_emb=image_rotary_emb,
            num_queries=plan.num_current if self.is_last else None,
            out=None if joined is None else joined[..., : asking.shape[2]],
            **joint_attention_kwargs,
        )
        joined = _joined_with_gelu(attended, self.proj_mlp(asking), joined)
        change = gate.unsqueeze(1) * self.proj_out(joined)
        if self.is_last:
            return encoder_hidden_states, add_to_last(hidden_states, change)
        tokens = tokens + change
        if tokens.dtype == torch.float16:
            tokens = tokens.clip(-65504, 65504)
        text, video = tokens.split([encoder_hidden_states.shape[1], hidden_states.shape[1]], dim=1)
        return text, video


def joined_tokens(text: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
    """Text (B, L, D) and video (B, N, D) as one sequence (B, L + N, D).

    Parts that the previous block has split lie side by side and need no copy, except under autograd and in
    compiled code.
    """
    length, num_tokens = text.shape[1], text.shape[1] + video.shape[1]
    lie_side_by_side = (
        not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        and text.stride() == video.stride()
        and text.untyped_storage().data_ptr() == video.untyped_storage().data_ptr()
        and text.storage_offset() + length * text.stride(1) == video.storage_offset()
        and text.stride(0) == num_tokens * text.stride(1)
    )
    if not lie_side_by_side:
        return torch.cat([text, video], dim=1)
    return text.as_strided((text.shape[0], num_tokens, text.shape[2]), text.stride())


def _joined_with_gelu(
    attended: torch.Tensor, hidden: torch.Tensor, joined: torch.Tensor | None
) -> torch.Tensor:
    """`attended` (B, N, D) and the tanh GELU of `hidden` (B, N, M), side by side: (B, N, D + M).

    Both are written straight to their places in `joined` if given, where autograd and compiled code would
    copy them.
    """
    if joined is None:
        return torch.cat([attended, F.gelu(hidden, approximate="tanh")], dim=2)
    width = attended.shape[2]
    if attended.data_ptr() != joined.data_ptr():  # an attention processor without `out`
        joined[..., :width] = attended
    torch.ops.aten.gelu.out(hidden, approximate="tanh", out=joined[..., width:])
    return joined


register_transformer_block(PyramidFluxSingleTransformerBlock)


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
    _no_split_modules = ["FluxTransformerBlock", "PyramidFluxSingleTransformerBlock"]  # noqa: RUF012
    _repeated_blocks = _no_split_modules

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
            PyramidFluxSingleTransformerBlock(
                inner_dim, num_attention_heads, attention_head_dim, is_last=layer == num_single_layers - 1
            )
            for layer in range(num_single_layers)
        )
        for module in self.modules():
            if isinstance(module, FluxAttention):
                module.set_processor(PyramidFluxAttnProcessor())
        self.norm_out = AdaLayerNormContinuous(inner_dim, inner_dim, elementwise_affine=False, eps=1e-6)
        self.proj_out = nn.Linear(inner_dim, token_channels)
        use_onednn(self)

    def _embed_clips(
        self,
        clips: Sequence[torch.Tensor],
        size: Sequence[int],  # noqa: ARG002 - positions enter by rotation only
    ) -> torch.Tensor:
        packed = torch.cat([pack_latents(clip, self.config.patch_size) for clip in clips], dim=1)
        return self.x_embedder(packed)

    def _rotary(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pos_embed(positions)

    def _blocks(self) -> Iterable[nn.Module]:
        return (*self.transformer_blocks, *self.single_transformer_blocks)

    def _block_arguments(self, context: StageContext) -> tuple[Any, ...]:
        return context.rotary, {"attention_mask": context.attention}

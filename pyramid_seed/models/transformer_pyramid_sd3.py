"""The SD3 transformer of Pyramid Flow, assembled from diffusers' SD3 blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import JointTransformerBlock
from diffusers.models.embeddings import CombinedTimestepTextProjEmbeddings, PatchEmbed
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401 - from_pretrained looks for it here
from diffusers.models.normalization import AdaLayerNormContinuous, RMSNorm
from diffusers.models.transformers.transformer_flux import FluxPosEmbed
from torch import nn

from ..private_apis import register_transformer_block
from .attention import PyramidAttnProcessor, add_to_last
from .attention_plan import AttentionPlan
from .onednn_linear import use_onednn
from .stage_context import StageContext
from .transformer_pyramid_base import PyramidTransformer3DModel


class PyramidPatchEmbed(PatchEmbed):
    """SD3's patches and sin-cos positions, for clips of a pyramid.

    The positions of the current latents are cropped from the middle of a square grid. A history clip covers
    the same image with fewer tokens, so it gets that crop interpolated to its size.
    """

    def forward(self, clips: Sequence[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        """Latents (B, C, T, H, W) to tokens (B, N, embed_dim), where the current ones have `size`.

        Raises:
            ValueError: if the current latents are larger than the grid.
        """
        crop = self._cropped_grid(*size)
        return torch.cat([self._embed_clip(clip, crop) for clip in clips], dim=1)

    def _cropped_grid(self, height: int, width: int) -> torch.Tensor:
        """Positions of current latents of that size, (1, embed_dim, height / p, width / p)."""
        grid_size = self.pos_embed_max_size
        largest = grid_size * self.patch_size
        if height > largest or width > largest:
            raise ValueError(
                f"latent height and width must be at most {largest} (pos_embed_max_size * patch_size), "
                f"got {height} x {width}; use {min(height, largest)} x {min(width, largest)}"
            )
        crop = self.cropped_pos_embed(height, width)
        rows, columns = height // self.patch_size, width // self.patch_size
        return crop.unflatten(1, (rows, columns)).permute(0, 3, 1, 2)

    def _embed_clip(self, clip: torch.Tensor, crop: torch.Tensor) -> torch.Tensor:
        patches = self.proj(clip.transpose(1, 2).flatten(0, 1))  # (B * T, embed_dim, h, w)
        size = patches.shape[-2:]
        positions = crop if crop.shape[-2:] == size else F.interpolate(crop, size, mode="bilinear")
        tokens = (patches + positions).to(patches.dtype).flatten(2).transpose(1, 2)
        return tokens.unflatten(0, (clip.shape[0], -1)).flatten(1, 2)


class PyramidJointAttnProcessor(PyramidAttnProcessor):
    """Attention of diffusers' SD3 blocks; in the last block the text has no queries."""

    text_norms = ("norm_add_q", "norm_add_k")


class LastJointTransformerBlock(JointTransformerBlock):
    """The last block: only the current tokens are queries, the others only keys and values."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        joint_attention_kwargs: dict[str, Any],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As diffusers' block, but the text is returned unchanged; with a plan, so is the history."""
        plan = joint_attention_kwargs["attention_mask"]
        if not isinstance(plan, AttentionPlan):
            _, video = super().forward(hidden_states, encoder_hidden_states, temb, joint_attention_kwargs)
            return encoder_hidden_states, video
        tokens, gate_attention, shift, scale, gate_mlp = self.norm1(hidden_states, emb=temb)
        attended, _ = self.attn(
            hidden_states=tokens,
            encoder_hidden_states=self.norm1_context(encoder_hidden_states, temb),
            num_queries=plan.num_current,
            **joint_attention_kwargs,
        )
        change = gate_attention.unsqueeze(1) * attended
        current = hidden_states[:, -plan.num_current :] + change
        tokens = self.norm2(current) * (1 + scale[:, None]) + shift[:, None]
        change = change + gate_mlp.unsqueeze(1) * self.ff(tokens)
        return encoder_hidden_states, add_to_last(hidden_states, change)


register_transformer_block(LastJointTransformerBlock)


def joint_block(
    inner_dim: int, num_attention_heads: int, attention_head_dim: int, is_last: bool
) -> JointTransformerBlock:
    """diffusers' SD3 block with Pyramid Flow's attention; the last one updates only the video tokens.

    The query and key norms are set here because in the published checkpoints they have another epsilon and,
    for text, another name.
    """
    block_class = LastJointTransformerBlock if is_last else JointTransformerBlock
    block = block_class(inner_dim, num_attention_heads, attention_head_dim, context_pre_only=is_last)
    for name in ("norm_q", "norm_k", "norm_add_q", "norm_add_k"):
        setattr(block.attn, name, RMSNorm(attention_head_dim, eps=1e-5))
    block.attn.set_processor(PyramidJointAttnProcessor())
    return block


class PyramidSD3Transformer3DModel(PyramidTransformer3DModel):
    """Velocity model of Pyramid Flow's SD3 family (arXiv 2410.05954).

    Every parameter has the name and shape of the published checkpoints. Rows and columns reach the
    tokens by sin-cos embeddings, time by rotation of the queries and keys.

    Args:
        sample_size: the grid of positions counts from 0 to sample_size / patch_size in even steps; the
            resulting embeddings are stored with the weights.
        patch_size: edge of the latent patch that becomes one token.
        in_channels: latent channels C.
        num_layers: joint blocks; the last one updates only the video tokens.
        attention_head_dim: width of one head, even.
        num_attention_heads: heads; the model's width is heads x head width.
        joint_attention_dim: width of the T5 embeddings.
        pooled_projection_dim: width of the pooled CLIP embeddings, both together.
        pos_embed_max_size: edge of the grid of positions, in tokens: the largest image.

    Raises:
        ValueError: if `attention_head_dim` is odd.
    """

    family = "sd3"
    _no_split_modules = ["JointTransformerBlock", "LastJointTransformerBlock"]  # noqa: RUF012
    _repeated_blocks = _no_split_modules

    @register_to_config
    def __init__(
        self,
        sample_size: int = 128,
        patch_size: int = 2,
        in_channels: int = 16,
        num_layers: int = 24,
        attention_head_dim: int = 64,
        num_attention_heads: int = 24,
        joint_attention_dim: int = 4096,
        pooled_projection_dim: int = 2048,
        pos_embed_max_size: int = 192,
    ) -> None:
        super().__init__()
        if attention_head_dim % 2:
            raise ValueError(
                f"attention_head_dim must be even, got {attention_head_dim}; "
                f"use {attention_head_dim - 1} or {attention_head_dim + 1}"
            )
        inner_dim = num_attention_heads * attention_head_dim

        self.pos_embed = PyramidPatchEmbed(
            height=sample_size,
            width=sample_size,
            patch_size=patch_size,
            in_channels=in_channels,
            embed_dim=inner_dim,
            pos_embed_max_size=pos_embed_max_size,
        )
        self.time_rope = FluxPosEmbed(theta=10000, axes_dim=[attention_head_dim])
        self.time_text_embed = CombinedTimestepTextProjEmbeddings(
            embedding_dim=inner_dim, pooled_projection_dim=pooled_projection_dim
        )
        self.context_embedder = nn.Linear(joint_attention_dim, inner_dim)
        self.transformer_blocks = nn.ModuleList(
            joint_block(inner_dim, num_attention_heads, attention_head_dim, layer == num_layers - 1)
            for layer in range(num_layers)
        )
        self.norm_out = AdaLayerNormContinuous(inner_dim, inner_dim, elementwise_affine=False, eps=1e-6)
        self.proj_out = nn.Linear(inner_dim, in_channels * patch_size**2)
        use_onednn(self)

    def fuse_qkv_projections(self) -> None:
        """Refused: diffusers' fused projections are for the attention of its Flux, not of its SD3.

        Raises:
            NotImplementedError: always; diffusers' own method would silently leave everything as it is.
        """
        raise NotImplementedError(
            "fuse_qkv_projections is not supported by the SD3 family: its attention keeps query, key and "
            "value apart; leave it out"
        )

    def _embed_clips(self, clips: Sequence[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        return self.pos_embed(clips, size)

    def _rotary(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.time_rope(positions[:, :1])

    def _blocks(self) -> Iterable[nn.Module]:
        return self.transformer_blocks

    def _block_arguments(self, context: StageContext) -> tuple[Any, ...]:
        return ({"attention_mask": context.attention, "image_rotary_emb": context.rotary},)

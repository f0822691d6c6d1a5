"""The forward pass shared by the transformers of both Pyramid Flow families."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from math import isfinite
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

from ..choices import ATTENTION_PATHS, DEFAULT_PATH, AttentionPath
from ..private_apis import active_attention_backend, is_compiled
from .attention import MASKED_BACKENDS, rotary_tables
from .attention_plan import AttentionPlan, attention_plan
from .lora import LoraMixin
from .onednn_linear import fast_linears, use_onednn
from .rounding import RoundingMixin
from .shards import Shard, ShardedSequence, share_of
from .stage_context import StageContext, StageMemory
from .token_geometry import (
    causal_attention_mask,
    check_clips,
    frame_stops,
    text_without_padding,
    unpack_latents,
    video_positions,
)

COMPILED_AS_A_WHOLE = (
    "the transformer cannot be compiled as a whole: torch compiles it anew for every number of clips in the "
    "history, in another way for lengths that it has met, and after 8 times not at all, so that a clip would "
    "depend on those made before it; use pipeline.transformer.compile_repeated_blocks()"
)

REFUSED_CACHES = {
    "FasterCacheConfig": "it leaves out half of the pair that guidance needs",
    "SeaCacheConfig": "it needs one schedule of steps for the whole clip, here each stage has its own",
    "TextKVCacheConfig": "it knows only attention to text alone, here text and video are one sequence",
}
"""diffusers' step caches that would crash or do nothing here, with the reason."""


class PyramidTransformer3DModel(
    RoundingMixin, ModelMixin, ConfigMixin, LoraMixin, CacheMixin, AttentionMixin
):
    """Velocity model of Pyramid Flow (arXiv 2410.05954): one sequence of text, history and current tokens.

    A family makes the modules named below and says how latents become tokens (`_embed_clips`), how positions
    become rotations (`_rotary`), what its blocks are (`_blocks`) and how they take both (`_block_arguments`).
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
    _attention_path: AttentionPath = DEFAULT_PATH

    @property
    def attention_path(self) -> AttentionPath:
        """How attention is computed, see `AttentionPath`.

        With "grouped" chosen, it is "prefix" for an attention backend that takes no mask.
        """
        backend = self.attention_backend or active_attention_backend()
        if self._attention_path == "grouped" and backend not in MASKED_BACKENDS:
            return "prefix"
        return self._attention_path

    @property
    def attention_backend(self) -> str | None:
        """diffusers' name of the backend chosen by `set_attention_backend`; None follows the active one."""
        first_block: Any = next(iter(self._blocks()))
        backend = first_block.attn.processor._attention_backend
        return None if backend is None else backend.value

    def set_attention_path(self, path: AttentionPath) -> None:
        """Choose how attention is computed; `set_attention_backend` chooses the kernels.

        Raises:
            ValueError: the path does not exist.
        """
        if path not in ATTENTION_PATHS:
            raise ValueError(f"attention must be {' or '.join(ATTENTION_PATHS)}, got {path!r}; use 'grouped'")
        self._attention_path = path

    @contextmanager
    def attention_path_set(self, path: AttentionPath | None) -> Iterator[None]:
        """Compute attention this way inside a `with`, and as before after it; None changes nothing.

        Raises:
            ValueError: the path does not exist.
        """
        before = self._attention_path
        self.set_attention_path(path or before)
        try:
            yield
        finally:
            self._attention_path = before

    @property
    def is_compiled(self) -> bool:
        """Whether the blocks, or the whole model, run through `torch.compile`."""
        return any(map(is_compiled, self.modules()))

    def compile_repeated_blocks(self, *args: Any, **kwargs: Any) -> None:
        """Compile the blocks with `torch.compile`, to which the arguments are passed.

        Unless told otherwise lengths are dynamic, so that a longer history does not compile them again. The
        compiled blocks are not for training: their attention has no gradient.
        """
        super().compile_repeated_blocks(*args, **{"dynamic": True, **kwargs})

    def compile(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002 - torch's signature
        """Refused: a clip would depend on those made before it; use `compile_repeated_blocks`.

        Raises:
            ValueError: always.
        """
        raise ValueError(COMPILED_AS_A_WHOLE)

    def enable_cache(self, config: Any) -> None:
        """Skip work in steps as diffusers' config says; caches that cannot work here are refused.

        Raises:
            ValueError: this kind of cache is refused, with the reason; or another cache is active.
        """
        name = type(config).__name__
        if name in REFUSED_CACHES:
            raise ValueError(
                f"{name} cannot be used with this transformer: {REFUSED_CACHES[name]}; "
                "use FirstBlockCacheConfig, MagCacheConfig, PyramidAttentionBroadcastConfig or "
                "TaylorSeerCacheConfig"
            )
        super().enable_cache(config)

    @property
    def cache_in_use(self) -> dict[str, Any] | None:
        """Class and values of the active step cache's config, as plain values; None without one."""
        if self._cache_config is None:
            return None
        values = {name: _plain(value) for name, value in vars(self._cache_config).items()}
        return {"config": type(self._cache_config).__name__, "values": values}

    def enable_parallelism(self, **_: Any) -> None:
        """Refused: diffusers has no plan for this transformer, and marks its processors before saying so.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "enable_parallelism is not supported by this transformer: it would make another clip for another "
            "number of devices; use shards= and processes=processes_of_launch(), which make the same one"
        )

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
        memory: StageMemory | None = None,
        shard: Shard | None = None,
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
            return_dict: return a `Transformer2DModelOutput` instead of a tuple of its field.
            memory: what the steps of one stage share. The first step stores whatever depends only on history,
                text and the size of the latents; later steps use that, and do not read these again.
            shard: compute only this piece of the sequence, beside calls for all the others; a single piece
                only provides `give_way`.

        Returns:
            The velocity, with the shape of `hidden_states`; with several shards, its current tokens
            (B, n, C p^2), see `velocity_of`.

        Raises:
            ValueError: a height or width does not fit the patches, or the path is "reference" and the
                sequence is in pieces.
        """
        check_clips([*history, hidden_states], self.config.patch_size)
        memory = StageMemory() if memory is None else memory
        with memory.lock:
            if memory.context is None:
                memory.context = self._stage_context(
                    hidden_states, history, encoder_hidden_states, encoder_attention_mask, pooled_projections
                )
            context = memory.context
        temb = self._time_embedding(timestep, context.pooled).to(hidden_states.dtype)
        current = self._embed_clips([hidden_states], hidden_states.shape[-2:])
        if shard is not None and shard.count > 1:
            context, current = _piece_of(context, current, shard)
        text, video = context.text, torch.cat([context.history, current], dim=1)
        block_arguments = self._block_arguments(context)

        # The reference path and compiled code multiply matrices as torch does.
        is_plain = self._attention_path == "reference" or torch.compiler.is_compiling() or self.is_compiled
        with nullcontext() if is_plain else fast_linears(hidden_states):
            for block in self._blocks():
                if shard is not None:
                    shard.exchange.give_way()
                if torch.is_grad_enabled() and self.gradient_checkpointing:
                    text, video = self._gradient_checkpointing_func(
                        block, video, text, temb, *block_arguments
                    )
                else:
                    text, video = block(video, text, temb, *block_arguments)

        current = video[:, context.history.shape[1] :]
        tokens = self.proj_out(self.norm_out(current, temb))
        is_whole = shard is None or shard.count == 1
        velocity = self.velocity_of(tokens, hidden_states) if is_whole else tokens
        if not return_dict:
            return (velocity,)
        return Transformer2DModelOutput(sample=velocity)

    def velocity_of(self, tokens: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """The velocity of latents (B, C, T, H, W) from tokens (B, N, C p^2) that `forward` gave in pieces."""
        return unpack_latents(tokens, self.config.patch_size, *latents.shape[2:])

    def _stage_context(
        self,
        latents: torch.Tensor,
        history: Sequence[torch.Tensor],
        text: torch.Tensor,
        text_mask: torch.Tensor,
        pooled: torch.Tensor,
    ) -> StageContext:
        """What the steps on latents of this size share; arguments as in `forward`."""
        use_onednn(self)  # adapters add linear layers
        patch_size = self.config.patch_size
        clips = [*history, latents]
        video_ids = video_positions(clips, patch_size).to(latents.device)
        attention: AttentionPlan | torch.Tensor
        if self._attention_path == "reference":
            attention = causal_attention_mask(text_mask.to(latents.device), video_ids[:, 0])
        else:
            text, padding = text_without_padding(text, text_mask)
            stops = (text.shape[1] + stop for stop in frame_stops(clips, patch_size))
            attention = attention_plan(
                [*stops],
                padding,
                frame_stops([latents], patch_size)[-1],
                latents,
                grouped=self.attention_path == "grouped",
            )
        text_ids = video_ids.new_zeros(text.shape[1], video_ids.shape[1])
        embedder = self.time_text_embed.text_embedder
        projected_text = self.context_embedder(text)
        return StageContext(
            text=projected_text,
            history=self._embed_clips(history, latents.shape[-2:])
            if history
            else projected_text.new_empty(latents.shape[0], 0, projected_text.shape[2]),
            pooled=embedder(pooled.to(embedder.linear_1.weight.dtype)),
            rotary=rotary_tables(*self._rotary(torch.cat([text_ids, video_ids]))),
            attention=attention,
        )

    def _time_embedding(self, timestep: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """`CombinedTimestepTextProjEmbeddings` for a text that is already embedded; (B, inner_dim)."""
        embed = self.time_text_embed
        return embed.timestep_embedder(embed.time_proj(timestep).to(pooled.dtype)) + pooled

    def _embed_clips(self, clips: Sequence[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        """Tokens (B, N, inner_dim) of latents (B, C, T, H, W); `size` is that of the current ones."""
        raise NotImplementedError

    def _rotary(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of (time, row, column) of every token, float32 (S, 3), zero for text."""
        raise NotImplementedError

    def _blocks(self) -> Iterable[nn.Module]:
        """Blocks in order, each from (video, text, temb, *block arguments) to (text, video)."""
        raise NotImplementedError

    def _block_arguments(self, context: StageContext) -> tuple[Any, ...]:
        """What a block takes after its first three arguments."""
        raise NotImplementedError


def _piece_of(
    context: StageContext, current: torch.Tensor, shard: Shard
) -> tuple[StageContext, torch.Tensor]:
    """Context and current tokens (B, N, inner_dim) of one piece."""
    plan = context.attention
    if not isinstance(plan, AttentionPlan):
        raise ValueError("a sequence in pieces needs attention grouped or prefix, got reference; use grouped")
    lengths = context.text.shape[1], context.history.shape[1], current.shape[1]
    own = share_of(current, shard)
    piece = replace(
        context,
        text=share_of(context.text, shard),
        history=share_of(context.history, shard),
        attention=replace(plan, num_current=own.shape[1], sharded=ShardedSequence(shard, lengths)),
    )
    return piece, own


def _plain(value: Any) -> Any:
    """A value as JSON can hold it: numbers and lists, functions by their name, the rest as text."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    is_plain = (
        value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and isfinite(value))
    )
    return value if is_plain else getattr(value, "__qualname__", str(value))

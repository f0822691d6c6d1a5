"""What a clip at the published sizes needs on a GPU, by arithmetic, beside the out-of-memory advice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from pyramid_seed import PyramidFlowMatchEulerDiscreteScheduler, PyramidFlowPipeline
from pyramid_seed.checkpoints.source import ModelSource
from pyramid_seed.families.pyramid_flow import MINIFLUX, VAE_PART
from pyramid_seed.models.chunked import TileGrid
from pyramid_seed.models.transformer_pyramid_base import PyramidTransformer3DModel
from pyramid_seed.pipelines.memory_modes import gib, memory_modes
from pyramid_seed.pipelines.out_of_memory import memory_need, num_bytes
from pyramid_seed.pipelines.working_memory import decode_bytes

from .sequence import frame_tokens, published_geometry
from .sizes import NUM_TEXT

DTYPE = torch.bfloat16
META = torch.device("meta")
MLP_RATIO = 4
"""Width of a transformer block's hidden layer relative to the block's own."""


@dataclass(frozen=True)
class ClipNeeds:
    """Bytes that a clip needs, in bfloat16, and tokens of the history of its last unit.

    On a GPU a unit is decoded beside the steps of the next one, so that both count.
    """

    weights: Mapping[str, int]
    history_tokens: int
    latents: int
    step: int
    decode: int
    decode_in_tiles: int

    @property
    def total(self) -> int:
        """With whole pictures decoded."""
        return sum(self.weights.values()) + self.latents + self.step + self.decode

    @property
    def total_in_tiles(self) -> int:
        """The same with tiles."""
        return self.total - self.decode + self.decode_in_tiles


def empty_parts(source: ModelSource) -> dict[str, nn.Module]:
    """All models of a checkpoint without their weights, by the names that a pipeline has for them."""
    parts = {"vae": VAE_PART, "transformer": source.transformer}
    parts |= {name: name for name in source.original_family.text_encoders}
    return {name: source.empty(part).to(DTYPE) for name, part in parts.items()}


def clip_needs(parts: Mapping[str, Any], height: int, width: int, units: int) -> ClipNeeds:
    """What a clip of `units` latent frames of height x width pixels needs of a model of these parts."""
    vae, tokens = parts["vae"], frame_tokens(published_geometry(), height, width, units - 1, 2)
    grid: TileGrid = vae.tile_grid
    rows, columns = published_geometry().latent_size(height, width)

    def decode(tiles: TileGrid | None) -> int:
        return decode_bytes(vae.config, height, width, DTYPE.itemsize, tiles=tiles, kernel_copies=True)

    return ClipNeeds(
        weights={name: num_bytes(part) for name, part in parts.items()},
        history_tokens=sum(tokens[:-1]),
        latents=2 * units * vae.config.latent_channels * rows * columns * torch.float32.itemsize,
        step=step_bytes(parts["transformer"], sum(tokens[:-1]), tokens[-1], DTYPE.itemsize),
        decode=decode(None),
        decode_in_tiles=decode(grid),
    )


def step_bytes(transformer: PyramidTransformer3DModel, history: int, current: int, itemsize: int) -> int:
    """Peak of a guided step with so many tokens of history and of the current latents."""
    config = transformer.config
    count = miniflux_step_bytes if transformer.family == MINIFLUX.name else sd3_step_bytes
    width = config.num_attention_heads * config.attention_head_dim
    return count(width, config.attention_head_dim, NUM_TEXT, history, current, itemsize)


def miniflux_step_bytes(
    width: int, head_dim: int, num_text: int, num_history: int, num_current: int, itemsize: int
) -> int:
    """Peak of a transformer step of miniFLUX for a guidance pair, in its first single-stream block.

    Args:
        width: of the model, heads x head width.
        head_dim: width of a head.
        num_text, num_history, num_current: tokens.
        itemsize: bytes of a value, 2 for bfloat16.
    """
    num_tokens = num_text + num_history + num_current
    # Text and video as they come, joined, normalised; attended values beside the hidden layer.
    held = 3 + 1 + MLP_RATIO
    # With two-byte values, keys are rotated and normalised as float32.
    norm = 4 + (3 * 2 if itemsize == 2 else 2)  # query, key, value and normalised queries beside it
    attention = 3 + 2 + 1  # query, key, value, both rotated, attended values
    block = (held + max(norm, attention)) * num_tokens
    return _pair(block * width, width, head_dim, num_tokens, itemsize)


def sd3_step_bytes(
    width: int, head_dim: int, num_text: int, num_history: int, num_current: int, itemsize: int
) -> int:
    """Peak of a transformer step of SD3 for a guidance pair, in one of its joint blocks.

    Arguments as in `miniflux_step_bytes`.
    """
    num_video = num_history + num_current
    num_tokens = num_text + num_video
    rotation = 1 + (2 * 2 + 1 if itemsize == 2 else 1)  # rotated queries, then keys as float32
    attention = (2 + 3 + max(rotation, 3)) * num_tokens + 3 * num_text
    mlp = (2 * MLP_RATIO + 3) * num_video + num_tokens + 2 * num_text
    return _pair(max(attention, mlp) * width, width, head_dim, num_tokens, itemsize)


def _pair(block: int, width: int, head_dim: int, num_tokens: int, itemsize: int) -> int:
    """Bytes of a block's values for both halves of guidance, with what the steps of a stage keep."""
    rotary = num_tokens * head_dim * 3 * 4  # cosines, sines, and the same as complex numbers
    return 2 * (block + num_tokens * width) * itemsize + rotary


def needs_table(parts: Mapping[str, Any], height: int, width: int, units: int) -> list[tuple[str, str]]:
    """For people: what a clip needs, then what the out-of-memory advice says of the same model and work."""
    needs = clip_needs(parts, height, width, units)
    work = needs.latents + needs.step + needs.decode
    tokenizers: dict[str, Any] = {
        name.replace("text_encoder", "tokenizer"): None for name in parts if name.startswith("text")
    }
    scheduler = PyramidFlowMatchEulerDiscreteScheduler()
    pipeline = PyramidFlowPipeline(scheduler=scheduler, **parts, **tokenizers)
    advised = memory_need(pipeline, META, work, (height, width), at_work="vae")
    advised = replace(advised, tile_share=(work - needs.decode + needs.decode_in_tiles) / work)
    return [
        (f"{height}x{width}, {units} units, on a GPU, by arithmetic", "needs"),
        *((f"weights, {name}", gib(count)) for name, count in needs.weights.items()),
        ("history of the last unit", f"{needs.history_tokens} tokens"),
        ("latents and their pyramids", gib(needs.latents)),
        ("a step of the last unit", gib(needs.step)),
        ("decoding, a whole picture", gib(needs.decode)),
        ("decoding, in tiles", gib(needs.decode_in_tiles)),
        ("in all, a whole picture", gib(needs.total)),
        ("in all, in tiles", gib(needs.total_in_tiles)),
        *((f"advice: `{mode.call}`", gib(mode.peak)) for mode in memory_modes(advised)),
    ]

"""The stated baselines: how the original computes what the product computes otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch.distributions import MultivariateNormal

from pyramid_seed import AutoencoderKLCausalVideo, PyramidFlowPipeline
from pyramid_seed.models import causal_video_blocks, transformer_pyramid_base
from pyramid_seed.pipelines import denoise


def block_root(gamma: float) -> torch.Tensor:
    """(4, 4) symmetric root of the covariance of a 2x2 block; there is no Cholesky one at gamma = 1/3."""
    mean = torch.full((4, 4), 0.25)
    return math.sqrt(1 + gamma) * (torch.eye(4) - mean) + math.sqrt(max(0.0, 1 - 3 * gamma)) * mean


def block_gaussian(gamma: float) -> MultivariateNormal:
    """The Gaussian of one 2x2 block; torch multiplies by the root it is given, triangular or not."""
    return MultivariateNormal(torch.zeros(4), scale_tril=block_root(gamma), validate_args=False)


def block_noise_loop(sample: Callable[[], torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
    """Block noise of a shape (..., H, W) from one sample (4,) a block, one after another."""
    *front, height, width = shape
    count = math.prod(front) * (height // 2) * (width // 2)
    blocks = torch.stack([sample() for _ in range(count)])
    blocks = blocks.reshape(*front, height // 2, width // 2, 2, 2)
    return blocks.transpose(-3, -2).reshape(shape)


def block_noise_loop_of(white: torch.Tensor, gamma: float) -> torch.Tensor:
    """The same loop over given white noise, in place of `pyramid_seed.noise.block_noise`.

    A block is what a sample of `block_gaussian` computes once its white noise is drawn.
    """
    blocks = white.cpu().unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).transpose(-3, -2).reshape(-1, 4)
    mean, root, rows = torch.zeros(4), block_root(gamma), iter(blocks)

    def sample() -> torch.Tensor:
        return mean + torch.matmul(root, next(rows).unsqueeze(-1)).squeeze(-1)

    return block_noise_loop(sample, tuple(white.shape)).to(white.device)


@contextmanager
def reference_path(pipeline: PyramidFlowPipeline) -> Iterator[None]:
    """Generate with dense masks, everything built anew at each step, and block noise from a Python loop."""
    found = pipeline.transformer.attention_path
    pipeline.transformer.set_attention_path("reference")
    try:
        with patch.object(denoise, "block_noise", block_noise_loop_of):
            yield
    finally:
        pipeline.transformer.set_attention_path(found)


@contextmanager
def linears_by_torch() -> Iterator[None]:
    """Leave the transformer's linear layers to torch on both paths."""
    with patch.object(transformer_pyramid_base, "fast_linears", lambda _: nullcontext()):
        yield


def decode_in_overlapping_tiles(
    vae: AutoencoderKLCausalVideo, latents: torch.Tensor, tile: int = 256, stride: int = 192
) -> torch.Tensor:
    """Frames (T, H, W, 3) uint8 of normalised latents (1, C, t, h, w), the whole clip in memory.

    Convolutions are those of `plain_convolutions`. A tile of `tile` pixels starts every `stride` pixels, in
    rows and columns; each is decoded over the whole clip, one latent frame at a time, blended line by line
    with the one above and the one on the left, and cut to `stride` pixels.
    """
    with plain_convolutions():
        return _decode_in_tiles(vae, latents, tile, stride)


@contextmanager
def plain_convolutions() -> Iterator[None]:
    """Run the autoencoder as the original does: 3-D convolutions, channels before time and space."""

    def forward(layer: torch.nn.Conv3d, x: torch.Tensor, num_empty: int = 0) -> torch.Tensor:
        return torch.nn.Conv3d.forward(layer, F.pad(x, (0, 0, 0, 0, num_empty, 0)))

    blocks = causal_video_blocks
    with (
        patch.object(blocks.TimeConv3d, "forward", forward),
        patch.object(blocks, "has_fast_channels_last", lambda _: False),
    ):
        yield


def _decode_in_tiles(
    vae: AutoencoderKLCausalVideo, latents: torch.Tensor, tile: int, stride: int
) -> torch.Tensor:
    ratio = vae.spatial_compression_ratio
    raw = vae.denormalize_latents(latents).to(vae.dtype)
    size, step, overlap = tile // ratio, stride // ratio, tile - stride
    rows = [
        [
            torch.cat(list(vae.decode_chunks(raw[..., top : top + size, left : left + size], 1)), dim=2)
            for left in range(0, raw.shape[-1], step)
        ]
        for top in range(0, raw.shape[-2], step)
    ]
    bands = []
    for index, row in enumerate(rows):
        for column, part in enumerate(row):
            if index:
                _fade(rows[index - 1][column], part, overlap, dim=-2)
            if column:
                _fade(row[column - 1], part, overlap, dim=-1)
        bands.append(torch.cat([part[..., :stride, :stride] for part in row], dim=-1))
    pixels = torch.cat(bands, dim=-2).float().clamp(-1, 1)
    levels = (pixels * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels[0].permute(1, 2, 3, 0).cpu().contiguous()


def _fade(before: torch.Tensor, after: torch.Tensor, overlap: int, dim: int) -> None:
    extent = min(before.shape[dim], after.shape[dim], overlap)
    for line in range(extent):
        old, new = before.select(dim, before.shape[dim] - extent + line), after.select(dim, line)
        new.copy_(old * (1 - line / extent) + new * (line / extent))

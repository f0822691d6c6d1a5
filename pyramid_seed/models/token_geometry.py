"""Where the tokens of a pyramid sequence stand: packing, positions and who may attend to whom.

A transformer step sees one sequence: the text tokens, then the history clips (oldest first, at the
resolution of their stage), then the current latents. These functions hold the geometry of that sequence
and nothing else; both transformer families share them.

Shape suffixes: B batch, C channels, T latent frames, H/W latent rows/columns, p patch size,
h/w token rows/columns (H / p, W / p), L text tokens, N video tokens (history and current), S = L + N.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F


def check_clips(clips: Sequence[torch.Tensor], patch_size: int) -> None:
    """Raise ValueError unless latents (B, C, T, H, W) can be cut into patches without a rest."""
    for clip in clips:
        height, width = clip.shape[-2:]
        if height % patch_size or width % patch_size:
            good = [-(-size // patch_size) * patch_size for size in (height, width)]
            raise ValueError(
                f"latent height and width must be multiples of patch_size {patch_size}, "
                f"got {height} x {width}; use {good[0]} x {good[1]}"
            )


def pack_latents(latents: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Cut latents (B, C, T, H, W) into tokens (B, T*h*w, p*p*C), channel last within a token."""
    batch, channels, frames, height, width = latents.shape
    patches = latents.reshape(
        batch, channels, frames, height // patch_size, patch_size, width // patch_size, patch_size
    )
    return patches.permute(0, 2, 3, 5, 4, 6, 1).reshape(batch, -1, patch_size * patch_size * channels)


def unpack_latents(
    tokens: torch.Tensor, patch_size: int, num_frames: int, height: int, width: int
) -> torch.Tensor:
    """Inverse of `pack_latents`: tokens (B, T*h*w, p*p*C) to latents (B, C, T, height, width)."""
    batch = tokens.shape[0]
    patches = tokens.reshape(
        batch, num_frames, height // patch_size, width // patch_size, patch_size, patch_size, -1
    )
    return patches.permute(0, 6, 1, 2, 4, 3, 5).reshape(batch, -1, num_frames, height, width)


def interpolated_positions(length: int, full_length: int) -> torch.Tensor:
    """Positions of `length` tokens laid over a grid of `full_length`, float32, shape (length,).

    A coarser history clip covers the same picture as the current latents, so its rows and columns stand
    at the linear interpolation of the current grid (Pyramid Flow, arXiv 2410.05954, section 3.4).
    """
    grid = torch.arange(full_length, dtype=torch.float32)
    if length == full_length:
        return grid
    return F.interpolate(grid[None, None], length, mode="linear")[0, 0]


def video_positions(clips: Sequence[torch.Tensor], patch_size: int) -> torch.Tensor:
    """(time, row, column) of every video token, float32 of shape (N, 3).

    `clips` are latents (B, C, T, H, W), history first and the current latents last. Time counts latent
    frames from 0 over all clips; rows and columns refer to the grid of the last clip.
    """
    full_height, full_width = (size // patch_size for size in clips[-1].shape[-2:])
    positions: list[torch.Tensor] = []
    start = 0
    for clip in clips:
        frames, height, width = clip.shape[2], clip.shape[3] // patch_size, clip.shape[4] // patch_size
        time = torch.arange(start, start + frames, dtype=torch.float32)
        rows = interpolated_positions(height, full_height)
        columns = interpolated_positions(width, full_width)
        positions.append(torch.cartesian_prod(time, rows, columns))
        start += frames
    return torch.cat(positions)


def causal_attention_mask(text_mask: torch.Tensor, video_times: torch.Tensor) -> torch.Tensor:
    """Boolean mask (B, 1, S, S), True where a query (row) may attend to a key (column).

    Args:
        text_mask: (B, L), non-zero for real text tokens, 0 for padding.
        video_times: (N,) latent-frame index of every video token.

    A token attends to tokens of its own and of earlier times; text has time 0. Padding attends to padding
    only and nothing else attends to it.
    """
    batch, text_length = text_mask.shape
    real = F.pad(text_mask.bool(), (0, video_times.shape[0]), value=True)
    times = torch.cat([video_times.new_zeros(text_length), video_times])
    same_kind = real[:, :, None] == real[:, None, :]
    in_the_past = times[:, None] >= times[None, :]
    return (same_kind & in_the_past)[:, None].expand(batch, 1, -1, -1)


def frame_stops(clips: Sequence[torch.Tensor], patch_size: int) -> list[int]:
    """How many video tokens there are up to the end of each latent frame, oldest first."""
    sizes = (
        (clip.shape[3] // patch_size) * (clip.shape[4] // patch_size)
        for clip in clips
        for _ in range(clip.shape[2])
    )
    return list(accumulate(sizes))


def text_without_padding(text: torch.Tensor, text_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut text (B, L, D) to the longest real text of the batch, real tokens last.

    Returns:
        The text (B, longest, D), and how many tokens of padding each sample has in front: int64 (B,) on the
        CPU.
    """
    real = text_mask.bool()
    lengths = real.sum(dim=1).cpu()
    longest = int(lengths.max())
    last = real.int().argsort(dim=1, stable=True)[:, real.shape[1] - longest :]
    return text.gather(1, last[..., None].expand(-1, -1, text.shape[2])), longest - lengths

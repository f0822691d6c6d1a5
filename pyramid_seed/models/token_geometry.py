"""Geometry of the tokens in a pyramid sequence: packing, positions and who may attend to whom.

A transformer step sees one sequence: the text tokens, then the history clips (oldest first, at the
resolution of their stage), then the current latents. These functions hold the geometry of that sequence
and nothing else; both transformer families share them.

Shape suffixes: B batch, C channels, T latent frames, H/W latent rows/columns, p patch size, h/w token
rows/columns (H / p, W / p), N video tokens (history and current), K values of a token, L text tokens,
M those of the longest real text, S = L + N all tokens, D width of the text. A size of 1 is written 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F


def check_clips(clips: Sequence[torch.Tensor], patch_size: int) -> None:
    """Raise ValueError unless patches divide latents (B, C, T, H, W) evenly."""
    for clip in clips:
        height, width = clip.shape[-2:]
        if height % patch_size or width % patch_size:
            good = [-(-size // patch_size) * patch_size for size in (height, width)]
            raise ValueError(
                f"latent height and width must be multiples of patch_size {patch_size}, "
                f"got {height} x {width}; use {good[0]} x {good[1]}"
            )


def pack_latents(latents_BCTHW: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Cut latents (B, C, T, H, W) into tokens (B, N, K), K = p*p*C with the channel last."""
    batch, channels, frames, height, width = latents_BCTHW.shape
    latents_BCThpwp = latents_BCTHW.reshape(
        batch, channels, frames, height // patch_size, patch_size, width // patch_size, patch_size
    )
    patches_BThwppC = latents_BCThpwp.permute(0, 2, 3, 5, 4, 6, 1)
    return patches_BThwppC.reshape(batch, -1, patch_size * patch_size * channels)


def unpack_latents(
    tokens_BNK: torch.Tensor, patch_size: int, num_frames: int, height: int, width: int
) -> torch.Tensor:
    """Inverse of `pack_latents`: tokens (B, N, K) to latents (B, C, T, height, width)."""
    batch = tokens_BNK.shape[0]
    patches_BThwppC = tokens_BNK.reshape(
        batch, num_frames, height // patch_size, width // patch_size, patch_size, patch_size, -1
    )
    latents_BCThpwp = patches_BThwppC.permute(0, 6, 1, 2, 4, 3, 5)
    return latents_BCThpwp.reshape(batch, -1, num_frames, height, width)


def interpolated_positions(length: int, full_length: int) -> torch.Tensor:
    """Positions of `length` tokens spread over a grid of `full_length`, float32, shape (length,).

    A coarser history clip covers the same image as the current latents, so its rows and columns are linearly
    interpolated on the current grid (Pyramid Flow, arXiv 2410.05954, section 3.4).
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
    positions_N3: list[torch.Tensor] = []
    start = 0
    for clip in clips:
        frames, height, width = clip.shape[2], clip.shape[3] // patch_size, clip.shape[4] // patch_size
        time_T = torch.arange(start, start + frames, dtype=torch.float32)
        rows_h = interpolated_positions(height, full_height)
        columns_w = interpolated_positions(width, full_width)
        positions_N3.append(torch.cartesian_prod(time_T, rows_h, columns_w))
        start += frames
    return torch.cat(positions_N3)


def causal_attention_mask(text_mask_BL: torch.Tensor, video_times_N: torch.Tensor) -> torch.Tensor:
    """Boolean mask (B, 1, S, S), True where a query (row) may attend to a key (column).

    Args:
        text_mask_BL: non-zero for real text tokens, 0 for padding.
        video_times_N: latent-frame index of every video token.

    A token attends to tokens of its own and of earlier times; text has time 0. Padding attends only to
    padding, and nothing else attends to it.
    """
    batch, text_length = text_mask_BL.shape
    real_BS = F.pad(text_mask_BL.bool(), (0, video_times_N.shape[0]), value=True)
    times_S = torch.cat([video_times_N.new_zeros(text_length), video_times_N])
    same_kind_BSS = real_BS[:, :, None] == real_BS[:, None, :]
    in_the_past_SS = times_S[:, None] >= times_S[None, :]
    return (same_kind_BSS & in_the_past_SS)[:, None].expand(batch, 1, -1, -1)


def frame_stops(clips: Sequence[torch.Tensor], patch_size: int) -> list[int]:
    """The number of video tokens up to the end of each latent frame, oldest first."""
    sizes = (
        (clip.shape[3] // patch_size) * (clip.shape[4] // patch_size)
        for clip in clips
        for _ in range(clip.shape[2])
    )
    return list(accumulate(sizes))


def text_without_padding(
    text_BLD: torch.Tensor, text_mask_BL: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut text (B, L, D) to the longest real text in the batch, real tokens last.

    Returns:
        The text (B, M, D), and the number of padding tokens in front of each sample: int64 (B,) on the CPU.
    """
    real_BL = text_mask_BL.bool().cpu()
    lengths_B = real_BL.sum(dim=1)
    longest = int(lengths_B.max())
    last_BM = real_BL.int().argsort(dim=1, stable=True)[:, real_BL.shape[1] - longest :].to(text_BLD.device)
    text_BMD = text_BLD.gather(1, last_BM[..., None].expand(-1, -1, text_BLD.shape[2]))
    return text_BMD, longest - lengths_B

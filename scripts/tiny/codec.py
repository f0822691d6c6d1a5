"""A linear codec of clips: the teacher that gives the embedded VAE its latent space.

A clip is cut into blocks, 4x4 pixels for the first frame and 4 frames x 4x4 pixels after it, and each
block is projected on its 16 principal components. The transformer can be trained on these latents at
once, while the VAE's encoder learns to produce them and its decoder to turn them into pixels, better
than any linear map can, since it sees the neighbours of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

CODEC_FILE = Path(__file__).with_name("codec.safetensors")
"""The embedded model's codec. Transformer, encoder and decoder are trained apart from each other and meet in
its latents, so it is kept instead of fitted anew.

It cannot be made with the files that are here: it was fitted to 2000 clips of 17 frames of an earlier world,
with one size, one speed and no star. `fit_codec` of the commit before a0086ca, on TRAIN_SEEDS[:2000] of that
commit's world, gives these numbers to float32's rounding (largest difference 3e-8). A row is a principal
component of the blocks (of the second moment about zero, so mid grey is latent zero), divided by the root of
its standard deviation; the first frame's are turned to agree with those of a still clip later on (orthogonal
Procrustes); then both kinds of latents are scaled to unit size."""

FACTOR = 4
"""Pixels per latent pixel and, after the first frame, frames per latent frame."""

LATENT_CHANNELS = 16


@dataclass(frozen=True)
class LinearCodec:
    """Projections of blocks on latent channels.

    Attributes:
        first, later: (LATENT_CHANNELS, 3*4*4) and (LATENT_CHANNELS, 3*4*4*4), rows over block values.
    """

    first: torch.Tensor
    later: torch.Tensor

    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, 4k + 1, H, W) in [-1, 1] to latents (B, 16, k + 1, H/4, W/4), about unit size."""
        first = torch.einsum("kd,bdthw->bkthw", self.first, cut(clip[:, :, :1], frames=1))
        if clip.shape[2] == 1:
            return first
        later = torch.einsum("kd,bdthw->bkthw", self.later, cut(clip[:, :, 1:], frames=FACTOR))
        return torch.cat([first, later], dim=2)


def load_codec(device: torch.device | None = None) -> LinearCodec:
    """The codec in CODEC_FILE."""
    tensors = load_file(CODEC_FILE)
    return LinearCodec(tensors["first"].to(device), tensors["later"].to(device))


def cut(clip: torch.Tensor, frames: int) -> torch.Tensor:
    """(B, 3, T, H, W) to blocks (B, 3*frames*4*4, T/frames, H/4, W/4)."""
    batch, channels, length, height, width = clip.shape
    blocks = clip.reshape(
        batch, channels, length // frames, frames, height // FACTOR, FACTOR, width // FACTOR, FACTOR
    )
    return blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)

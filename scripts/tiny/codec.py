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
its latents, so it is kept instead of fitted anew: `fit_codec` made it of 2000 clips of an earlier world with
one size, one speed and no star."""

FACTOR = 4
"""Pixels per latent pixel and, after the first frame, frames per latent frame."""

LATENT_CHANNELS = 16

WHITENING = 0.5
"""Components are divided by their standard deviation to this power: 0 keeps the pixels' metric, where
the ground's brightness is nearly everything; 1 makes the faintest component as large as the strongest."""


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

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """The least-squares inverse of `encode`."""
        first = torch.einsum("dk,bkthw->bdthw", torch.linalg.pinv(self.first), latents[:, :, :1])
        later = torch.einsum("dk,bkthw->bdthw", torch.linalg.pinv(self.later), latents[:, :, 1:])
        return torch.cat([join(first, frames=1), join(later, frames=FACTOR)], dim=2)


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


def join(blocks: torch.Tensor, frames: int) -> torch.Tensor:
    """Inverse of `cut`."""
    batch, _, length, height, width = blocks.shape
    parts = blocks.reshape(batch, -1, frames, FACTOR, FACTOR, length, height, width)
    return parts.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(
        batch, -1, length * frames, height * FACTOR, width * FACTOR
    )


def principal_components(blocks: torch.Tensor) -> torch.Tensor:
    """Partly whitened principal components of blocks (B, D, t, h, w), as rows (LATENT_CHANNELS, D).

    The second moment about zero is used: zero pixels, mid grey, are latent zero for both kinds of blocks.
    """
    rows = blocks.movedim(1, -1).flatten(0, -2).double()
    values, vectors = torch.linalg.eigh(rows.T @ rows / rows.shape[0])
    strongest = values.argsort(descending=True)[:LATENT_CHANNELS]
    return (vectors[:, strongest] * values[strongest] ** (-WHITENING / 2)).T


def fit_codec(clips: torch.Tensor) -> LinearCodec:
    """Fit the projections to clips (N, 3, T, H, W) in [-1, 1].

    The channels of the first frame are rotated to agree, as far as they can, with those that a still clip
    has later (orthogonal Procrustes), so that a channel means the same at all times.
    """
    first = principal_components(cut(clips[:, :, :1], frames=1))
    later = principal_components(cut(clips[:, :, 1:], frames=FACTOR))
    stills = clips[:, :, :1].expand(-1, -1, FACTOR, -1, -1)
    now = torch.einsum("kd,bdthw->kbthw", first, cut(clips[:, :, :1], frames=1).double()).flatten(1)
    then = torch.einsum("kd,bdthw->kbthw", later, cut(stills, frames=FACTOR).double()).flatten(1)
    left, _, right = torch.linalg.svd(then @ now.T)
    first = (left @ right) @ first
    later_latents = torch.einsum("kd,bdthw->kbthw", later, cut(clips[:, :, 1:], frames=FACTOR).double())
    first_latents = torch.einsum("kd,bdthw->kbthw", first, cut(clips[:, :, :1], frames=1).double())
    return LinearCodec((first / first_latents.std()).float(), (later / later_latents.std()).float())

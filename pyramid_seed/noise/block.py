"""Block noise: hides the 2x2 blocks that nearest-neighbour enlarging leaves in a latent's noise."""

from __future__ import annotations

import math

import torch


def block_noise(white: torch.Tensor, gamma: float) -> torch.Tensor:
    """Turn white noise into noise of variance 1 and covariance -gamma inside each 2x2 block.

    That covariance (arXiv 2410.05954, section 3.2) is C = (1 + gamma) I - gamma 11^T. It has the eigenvalue
    1 - 3 gamma along the block's mean and 1 + gamma across it, so that its symmetric root, applied to a block
    z, is sqrt(1 + gamma) * (z - mean z) + sqrt(1 - 3 gamma) * mean z. At gamma = 1/3 C is singular: each
    block sums to 0, up to rounding. The sums have a fixed order, so the bits do not depend on the device's
    kernels.

    Args:
        white: white noise, shape (..., H, W) with even H and W.
        gamma: minus the correlation inside a block, in [0, 1/3]; 0 changes nothing.

    Raises:
        ValueError: if a size is odd or gamma is out of range.
    """
    if not 0 <= gamma <= 1 / 3:
        raise ValueError(f"gamma must be in [0, 1/3], got {gamma}; use {1 / 3}")
    if white.ndim < 2 or white.shape[-2] % 2 or white.shape[-1] % 2:
        raise ValueError(f"block noise must have even height and width, got shape {tuple(white.shape)}")
    blocks = white.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))  # (..., H/2, 2, W/2, 2)
    upper = blocks[..., 0, :, 0] + blocks[..., 0, :, 1]
    lower = blocks[..., 1, :, 0] + blocks[..., 1, :, 1]
    mean = ((upper + lower) * 0.25)[..., :, None, :, None]
    coloured = math.sqrt(1 + gamma) * (blocks - mean) + math.sqrt(1 - 3 * gamma) * mean
    return coloured.reshape(white.shape)

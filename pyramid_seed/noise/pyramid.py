"""Initial noise at every stage of the pyramid."""

from __future__ import annotations

import torch


def initial_pyramid(noise: torch.Tensor, num_stages: int) -> tuple[torch.Tensor, ...]:
    """Carry initial noise of full latent size down to the coarsest stage.

    Each level is the finer one halved by bilinear interpolation, which is the mean of each 2x2 block, times
    2: half the sum of four independent values, so that white noise keeps its variance of 1. The sums
    have a fixed order, so the bits do not depend on the device's kernels.

    Args:
        noise: white noise, shape (..., H, W), H and W multiples of 2 ** (num_stages - 1).
        num_stages: levels of the pyramid, at least 1.

    Returns:
        The noise of each stage, the coarsest first; the last one is `noise` itself.

    Raises:
        ValueError: if num_stages or a size does not fit.
    """
    if num_stages < 1:
        raise ValueError(f"num_stages must be at least 1, got {num_stages}; use 1")
    multiple = 2 ** (num_stages - 1)
    if noise.ndim < 2 or noise.shape[-2] % multiple or noise.shape[-1] % multiple:
        raise ValueError(f"height and width must be multiples of {multiple}, got shape {tuple(noise.shape)}")
    finest_first = [noise]
    for _ in range(num_stages - 1):
        finest_first.append(_halve(finest_first[-1]))
    return tuple(reversed(finest_first))


def _halve(noise: torch.Tensor) -> torch.Tensor:
    upper = noise[..., 0::2, 0::2] + noise[..., 0::2, 1::2]
    lower = noise[..., 1::2, 0::2] + noise[..., 1::2, 1::2]
    return (upper + lower) * 0.5

"""Uniform draws from white noise, so that a noise source has one kind of draw."""

from __future__ import annotations

import math

import torch

_LARGEST = 1 - 2**-53
"""The largest float64 below 1."""


def uniform(white: torch.Tensor) -> torch.Tensor:
    """Turn white noise into values uniform in [0, 1): u = erfc(-z / sqrt(2)) / 2, its distribution function.

    It is computed in float64, value by value. Where libraries for mathematics differ, it is in the last
    bits, which rounding to float32 almost always drops.

    Args:
        white: standard normal values.

    Returns:
        float64 on the CPU, in the same shape.
    """
    values = [min(math.erfc(-z / math.sqrt(2)) / 2, _LARGEST) for z in white.flatten().tolist()]
    return torch.tensor(values, dtype=torch.float64).reshape(white.shape)

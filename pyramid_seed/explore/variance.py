"""How much of a measure's variance comes from the prompt, and how much from the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PARTS = ("prompt", "seed", "interaction")
"""The names of the shares, in order."""


@dataclass(frozen=True)
class VarianceShares:
    """Shares of a measure's total sum of squares; they sum to 1.

    Attributes:
        prompt: the differences between the prompts' means.
        seed: the effect of a seed on all prompts alike.
        interaction: the rest: the effect of a seed on one prompt but not on another.
    """

    prompt: float
    seed: float
    interaction: float


def variance_shares(table: Sequence[Sequence[float]]) -> VarianceShares | None:
    """Shares of the variance in a two-way table without replication (analysis of variance).

    With x[p, s] for P prompts and S seeds; an omitted index means the mean over it:

        SS_total       = sum over p, s of (x[p, s] - x)^2
        SS_prompt      = S * sum over p of (x[p] - x)^2
        SS_seed        = P * sum over s of (x[s] - x)^2
        SS_interaction = sum over p, s of (x[p, s] - x[p] - x[s] + x)^2
        SS_total       = SS_prompt + SS_seed + SS_interaction

    and each share is its sum over SS_total. A clip is a function of prompt and seed, so there are no
    repetitions and no measurement noise: all that remains after prompt and seed is their interaction.

    Args:
        table: one row per prompt, one column per seed; at least 2 x 2.

    Returns:
        None if all values are equal: there is no variance to share.

    Raises:
        ValueError: the table is smaller or has gaps.
    """
    x = np.array(table, dtype=np.float64)
    if x.ndim != 2 or min(x.shape) < 2 or not np.isfinite(x).all():
        raise ValueError(f"needs a number for each of 2 prompts x 2 seeds or more, got a table {x.shape}")
    if x.min() == x.max():
        return None
    x = (x - x.mean()) / np.abs(x - x.mean()).max()  # so that squares neither overflow nor vanish
    prompt = x.mean(axis=1, keepdims=True)
    seed = x.mean(axis=0, keepdims=True)
    squares = np.array(
        [np.square(part + np.zeros_like(x)).sum() for part in (prompt, seed, x - prompt - seed + x.mean())]
    )
    return VarianceShares(*(squares / squares.sum()).tolist())


def chance_shares(num_prompts: int, num_seeds: int) -> VarianceShares:
    """The shares to expect if neither prompt nor seed had any effect: degrees of freedom over their sum."""
    prompt, seed = num_prompts - 1, num_seeds - 1
    total = num_prompts * num_seeds - 1
    return VarianceShares(prompt / total, seed / total, prompt * seed / total)

"""How many seeds are needed before a difference between two settings is meaningful."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIGNIFICANCE, POWER = 0.05, 0.80
"""Chances: of detecting a difference that does not exist, and of detecting one that does."""

SHARE = 0.10
"""The difference for which reports state the number of seeds, as a share of the mean."""

MIN_SEEDS, _MAX_SEEDS = 2, 2**60
"""With a single seed per setting there is no deviation, and so no test."""


def seeds_needed(std: float, difference: float, *, is_paired: bool) -> int:
    """Seeds per setting needed to detect a difference of their means.

    The smallest number, from 2 to 2**60, with which Student's t-test reaches `POWER`, see `t_test_power`.

    Args:
        std: standard deviation over the seeds; if paired, of the differences at equal seeds.
        difference: the difference to detect, in the same unit.
        is_paired: whether both settings use the same seeds and are compared seed by seed.

    Raises:
        ValueError: the deviation is below 0, or the difference is 0.
    """
    if std < 0 or difference == 0:
        raise ValueError(f"std must be at least 0 and difference not 0, got {std} and {difference}")
    if std < abs(difference) / 1000:  # its square might overflow; two seeds see far smaller differences
        return MIN_SEEDS
    effect = difference / std
    return MIN_SEEDS + bisect_left(
        range(MIN_SEEDS, _MAX_SEEDS), POWER, key=lambda number: t_test_power(number, effect, is_paired)
    )


def t_test_power(number: int, effect: float, is_paired: bool) -> float:
    """The chance that a two-sided t-test at `SIGNIFICANCE` detects a difference.

    With n seeds per setting and d = difference / std, t^2 has a noncentral F distribution with 1 and df
    degrees of freedom and noncentrality nc (Cohen 1988, "Statistical power analysis", chapter 2):

        unpaired: df = 2 (n - 1), nc = n d^2 / 2
        paired:   df = n - 1,     nc = n d^2

    and the chance is that of t^2 > t[1 - a/2, df]^2, where a is `SIGNIFICANCE`.

    Args:
        number: n, at least 2.
        effect: d.
        is_paired: which of the two tests.
    """
    from scipy.special import ncfdtr, stdtrit

    samples = 1 if is_paired else 2
    freedom = samples * (number - 1)
    critical = stdtrit(freedom, 1 - SIGNIFICANCE / 2)
    return float(1 - ncfdtr(1, freedom, number / samples * effect**2, critical**2))


@dataclass(frozen=True)
class PairedDifference:
    """A measure under setting B minus that under setting A, at equal prompts and seeds.

    Deviations are taken within prompts: differences between prompts are left out.

    Attributes:
        mean_a, mean_b: means over all pairs.
        difference: mean_b - mean_a.
        low, high: 95 % confidence interval of the difference, for these prompts (Student's t).
        std: standard deviation over the seeds of one setting (root mean square of both).
        std_paired: standard deviation of the differences.
        correlation: between A and B over the seeds; None if one of them does not vary.
    """

    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    std: float
    std_paired: float
    correlation: float | None


def seeds_for_share(paired: PairedDifference, share: float = SHARE) -> tuple[int, int] | None:
    """Seeds to detect a difference of a share of A's mean, unpaired and paired; None if the mean is 0."""
    if paired.mean_a == 0:
        return None
    wanted = share * paired.mean_a
    return (
        seeds_needed(paired.std, wanted, is_paired=False),
        seeds_needed(paired.std_paired, wanted, is_paired=True),
    )


def paired_difference(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> PairedDifference:
    """Compare two settings.

    Args:
        a, b: a measure under each setting: one row per prompt, one column per seed; equal prompts and seeds.

    Raises:
        ValueError: the tables differ in size, or there are fewer than two seeds.
    """
    x, y = np.array(a, dtype=np.float64), np.array(b, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 2 or x.shape[1] < 2:
        raise ValueError(f"needs two tables of one size with 2 seeds or more, got {x.shape} and {y.shape}")
    from scipy.special import stdtrit

    freedom = x.shape[0] * (x.shape[1] - 1)

    def within(values: np.ndarray) -> np.ndarray:
        return values - values.mean(axis=1, keepdims=True)

    def deviation(values: np.ndarray) -> float:
        return math.sqrt(np.square(within(values)).sum() / freedom)

    std_a, std_b, std_paired = deviation(x), deviation(y), deviation(y - x)
    difference = float((y - x).mean())
    half = float(stdtrit(freedom, 1 - SIGNIFICANCE / 2)) * std_paired / math.sqrt(x.size)
    covariance = float((within(x) * within(y)).sum() / freedom)
    return PairedDifference(
        mean_a=float(x.mean()),
        mean_b=float(y.mean()),
        difference=difference,
        low=difference - half,
        high=difference + half,
        std=math.sqrt((std_a**2 + std_b**2) / 2),
        std_paired=std_paired,
        correlation=covariance / (std_a * std_b) if std_a and std_b else None,
    )

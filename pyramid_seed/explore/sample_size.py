"""How many seeds it takes before a difference between two settings means something."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

SIGNIFICANCE, POWER = 0.05, 0.80
"""Chances: to see a difference that is not there, and to see one that is."""

SHARE = 0.10
"""The difference that reports tell the number of seeds for: a share of the mean."""


def seeds_needed(std: float, difference: float, *, is_paired: bool) -> int:
    """Seeds for each of two settings, so that a difference of their means is seen.

    With z for the quantiles of the normal distribution, a for `SIGNIFICANCE` (two-sided), b for 1 - `POWER`:

        unpaired: n = 2 (z[1 - a/2] + z[1 - b])^2 std^2 / difference^2
        paired:   n =   (z[1 - a/2] + z[1 - b])^2 std^2 / difference^2

    plus z[1 - a/2]^2 / 4 unpaired, / 2 paired, because the same few seeds have to tell the deviation as well
    (Guenther 1981, "Sample size formulas for normal theory t tests"); rounded up.

    Args:
        std: standard deviation over the seeds; if paired, that of the differences at equal seeds.
        difference: what is to be seen, in the same unit.
        is_paired: whether both settings take the same seeds, and differences are looked at seed by seed.

    Raises:
        ValueError: a deviation below 0, or no difference.
    """
    if std < 0 or difference == 0:
        raise ValueError(f"std must be at least 0 and difference not 0, got {std} and {difference}")
    normal = NormalDist()
    z_significance, z_power = normal.inv_cdf(1 - SIGNIFICANCE / 2), normal.inv_cdf(POWER)
    factor = 1 if is_paired else 2
    number = factor * ((z_significance + z_power) * std / difference) ** 2 + z_significance**2 / (2 * factor)
    return math.ceil(number)


@dataclass(frozen=True)
class PairedDifference:
    """A measure under setting B minus the same under setting A, at equal prompts and seeds.

    Deviations are those within the prompts: what prompts differ by is left out.

    Attributes:
        mean_a, mean_b: means over all pairs.
        difference: mean_b - mean_a.
        low, high: 95 % confidence interval of the difference, for these prompts (Student's t).
        std: standard deviation over the seeds of one setting (root mean square of both).
        std_paired: that of the differences.
        correlation: of A and B over the seeds; None if one of them does not vary.
    """

    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    std: float
    std_paired: float
    correlation: float | None


def seeds_for_share(found: PairedDifference, share: float = SHARE) -> tuple[int, int] | None:
    """Seeds to see a difference of a share of A's mean, unpaired and paired; None if the mean is 0."""
    if found.mean_a == 0:
        return None
    wanted = share * found.mean_a
    return (
        seeds_needed(found.std, wanted, is_paired=False),
        seeds_needed(found.std_paired, wanted, is_paired=True),
    )


def paired_difference(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> PairedDifference:
    """Compare two settings.

    Args:
        a, b: a measure under each setting: a row a prompt, a column a seed; the same prompts and seeds.

    Raises:
        ValueError: tables of unequal sizes, or fewer than two seeds.
    """
    x, y = np.array(a, dtype=np.float64), np.array(b, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 2 or x.shape[1] < 2:
        raise ValueError(f"needs two tables of one size with 2 seeds or more, got {x.shape} and {y.shape}")
    from scipy.stats import t

    freedom = x.shape[0] * (x.shape[1] - 1)

    def within(values: np.ndarray) -> np.ndarray:
        return values - values.mean(axis=1, keepdims=True)

    def deviation(values: np.ndarray) -> float:
        return math.sqrt(np.square(within(values)).sum() / freedom)

    std_a, std_b, std_paired = deviation(x), deviation(y), deviation(y - x)
    difference = float((y - x).mean())
    half = float(t.ppf(1 - SIGNIFICANCE / 2, freedom)) * std_paired / math.sqrt(x.size)
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

"""The bands that the measures of the next checkpoint are expected in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .measures import MEASURES, Values

FALSE_ALARMS = 0.01
"""The chance, at most, that any measure of a checkpoint leaves its band although nothing has changed."""

WINDOW, MIN_EARLIER = 20, 5
"""A band is made from this many checkpoints at most, the latest ones; with fewer than the second number,
nothing is judged."""


@dataclass(frozen=True)
class Band:
    """Where a measure is expected: from `low` to `high`, both included."""

    low: float
    high: float


def prediction_band(
    earlier: NDArray[np.float64], chance: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The interval that one more value leaves with a given chance (Student's t).

    For n independent values of one normal distribution and one more, x,

        (x - mean) / (s sqrt(1 + 1/n))   has Student's t distribution with n - 1 degrees of freedom,

    where s^2 divides by n - 1 (Hahn & Meeker 1991, "Statistical intervals", chapter 4).

    Args:
        earlier: (n, ...), n at least 2.
        chance: that x lies outside.

    Returns:
        The low and the high limit, each (...).
    """
    from scipy.special import stdtrit

    n = len(earlier)
    shifted = earlier - earlier[0]  # so that equal values have exactly themselves as limits
    mean, deviation = earlier[0] + shifted.mean(axis=0), shifted.std(axis=0, ddof=1)
    half = stdtrit(n - 1, 1 - chance / 2) * deviation * np.sqrt(1 + 1 / n)
    return mean - half, mean + half


def bands(earlier: Sequence[Values]) -> dict[str, Band]:
    """The band of each measure with enough earlier values; together they hold `FALSE_ALARMS` (Bonferroni).

    Args:
        earlier: the measures of earlier checkpoints, in order.
    """
    latest = {
        measure.name: [value for each in earlier if (value := each[measure.name]) is not None][-WINDOW:]
        for measure in MEASURES
    }
    judged = {name: np.array(values) for name, values in latest.items() if len(values) >= MIN_EARLIER}
    limits = {name: prediction_band(x, FALSE_ALARMS / len(judged)) for name, x in judged.items()}
    return {name: Band(float(low), float(high)) for name, (low, high) in limits.items()}


def departures(values: Values, expected: Mapping[str, Band]) -> dict[str, float]:
    """The measures that left their bands, with their values; undefined ones are not judged."""
    return {
        name: value
        for name, band in expected.items()
        if (value := values[name]) is not None and not band.low <= value <= band.high
    }

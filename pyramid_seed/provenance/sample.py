"""Which units of a clip are made again to check it, and what that tells of the others."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from random import SystemRandom

from ..texts import counted

_random = SystemRandom()
"""The operating system's: who forges a clip must not know which units will be looked at."""


@dataclass(frozen=True)
class UnitSample:
    """Units that are made again from the latents before them.

    Attributes:
        units: which, ascending.
        num_units: of the clip.
    """

    units: tuple[int, ...]
    num_units: int

    def chance(self, num_forged: int = 1) -> float:
        """The chance that such a sample holds one of `num_forged` forged units at least.

        Hypergeometric: of the C(n, k) samples of k of n units, C(n - f, k) miss all f.
        """
        size = len(self.units)
        return 1 - comb(self.num_units - num_forged, size) / comb(self.num_units, size)

    def __str__(self) -> str:
        """Which units, and with which chances forged ones are among them, for people."""
        which = f"{counted(len(self.units), 'unit')} of {self.num_units}: {', '.join(map(str, self.units))}"
        numbers = sorted({1, 2, -(-self.num_units // 2)} & set(range(1, self.num_units + 1)))
        chances = ", ".join(f"{self.chance(number):.1%} for {number}" for number in numbers)
        return f"{which}; chance of catching forged units: {chances}"


def sample_units(num_units: int, size: int) -> UnitSample:
    """`size` of the units of a clip, each choice equally likely, drawn from the operating system."""
    return UnitSample(tuple(sorted(_random.sample(range(num_units), size))), num_units)

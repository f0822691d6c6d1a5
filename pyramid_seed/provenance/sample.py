"""Which units of a clip are made again to check it, and what that says about the others."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from random import SystemRandom

from ..texts import counted

_random = SystemRandom()
"""The operating system's generator: a forger must not know which units will be checked."""


@dataclass(frozen=True)
class UnitSample:
    """Units that are made again from the latents before them.

    Attributes:
        units: their indices, ascending.
        num_units: how many units the clip has.
    """

    units: tuple[int, ...]
    num_units: int

    def chance(self, num_forged: int = 1) -> float:
        """The chance that the sample contains at least one of `num_forged` forged units.

        Hypergeometric: of the C(n, k) samples of k of n units, C(n - f, k) miss all f.
        """
        size = len(self.units)
        return 1 - comb(self.num_units - num_forged, size) / comb(self.num_units, size)

    def __str__(self) -> str:
        """Which units, and the chance that forged ones are among them, in words."""
        which = f"{counted(len(self.units), 'unit')} of {self.num_units}: {', '.join(map(str, self.units))}"
        numbers = sorted({1, 2, -(-self.num_units // 2)} & set(range(1, self.num_units + 1)))
        chances = ", ".join(f"{self.chance(number):.1%} for {number}" for number in numbers)
        return f"{which}; chance of catching forged units: {chances}"


def sample_units(num_units: int, size: int) -> UnitSample:
    """Draw `size` units of a clip from the operating system's generator, each choice equally likely."""
    return UnitSample(tuple(sorted(_random.sample(range(num_units), size))), num_units)

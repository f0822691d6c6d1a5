"""Lists of seeds as users write them."""

from __future__ import annotations

import re

from ..seeds import parse_root

MAX_SEEDS = 10_000

_SEED_OR_RANGE = re.compile(r"\s*([0-9]+)\s*(?:-\s*([0-9]+)\s*)?")


def parse_seeds(text: str) -> tuple[int, ...]:
    """The root seeds in a text such as "0-15" or "3,7,100-103", in the given order.

    Raises:
        ValueError: the text has another form, a number is not a root seed, a range descends, a seed is
            repeated, or there are more than `MAX_SEEDS`.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        match = _SEED_OR_RANGE.fullmatch(part)
        if match is None:
            raise ValueError(f"seeds must be numbers and ranges, such as 0-15 or 3,7,100-103, got {text!r}")
        first, last = parse_root(match[1]), parse_root(match[2] or match[1])
        if last < first:
            raise ValueError(f"a range of seeds must be increasing, got {part.strip()}; use {last}-{first}")
        if len(seeds) + last - first + 1 > MAX_SEEDS:
            raise ValueError(f"seeds must be at most {MAX_SEEDS}, got more in {text!r}")
        for seed in range(first, last + 1):
            if seed in seeds:
                raise ValueError(f"seed {seed} is given twice in {text!r}")
            seeds[seed] = None
    return tuple(seeds)

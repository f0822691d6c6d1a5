"""Lists of seeds as people write them."""

from __future__ import annotations

import re

MAX_SEEDS = 10_000
SEED_LIMIT = 2**64


def parse_seeds(text: str) -> tuple[int, ...]:
    """The root seeds of a text such as "0-15" or "3,7,100-103", in the order given.

    Raises:
        ValueError: another form, a number that is no root seed, a range that falls, a seed given twice, or
            more than `MAX_SEEDS`.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9]+)\s*(?:-\s*([0-9]+)\s*)?", part)
        if found is None:
            raise ValueError(f"seeds must be numbers and ranges, such as 0-15 or 3,7,100-103, got {text!r}")
        first = int(found[1])
        last = first if found[2] is None else int(found[2])
        if last < first:
            raise ValueError(f"a range of seeds must rise, got {part.strip()}; use {last}-{first}")
        if last >= SEED_LIMIT:
            raise ValueError(f"seed must be a whole number in 0 .. 2^64 - 1, got {last}")
        if len(seeds) + last - first + 1 > MAX_SEEDS:
            raise ValueError(f"seeds must be at most {MAX_SEEDS}, got more in {text!r}")
        for seed in range(first, last + 1):
            if seed in seeds:
                raise ValueError(f"seed {seed} is given twice in {text!r}")
            seeds[seed] = None
    return tuple(seeds)

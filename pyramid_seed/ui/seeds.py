"""Root seeds as text: JavaScript's numbers lose the low bits of a 64-bit seed, so a page never holds one."""

from __future__ import annotations

from ..noise import root_from_entropy

SEED_LIMIT = 2**64


def parse_seed(text: str) -> int:
    """The root seed that a person typed; spaces around it do not matter.

    Raises:
        ValueError: it is no whole number in 0 .. 2^64 - 1.
    """
    digits = text.strip()
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > 20 or int(digits) >= SEED_LIMIT:
        raise ValueError(f"seed must be a whole number in 0 .. 2^64 - 1, got {text[:40]!r}")
    return int(digits)


def roll() -> str:
    """A new root seed from the operating system's entropy."""
    return str(root_from_entropy())


def seed_for_run(text: str, locked: bool) -> int:
    """The seed of the next run: the one in the box if it is locked, else a new one.

    Raises:
        ValueError: it is locked and no seed, see `parse_seed`.
    """
    return parse_seed(text) if locked else root_from_entropy()

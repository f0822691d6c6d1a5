"""Root seeds as text: JavaScript's numbers lose the low bits of a 64-bit seed, so a page never holds one."""

from __future__ import annotations

from ..seeds import parse_root, root_from_entropy


def parse_seed(text: str) -> int:
    """The root seed that a user typed; surrounding spaces do not matter. ValueError as in `parse_root`."""
    return parse_root(text.strip())


def random_seed_text() -> str:
    """A new root seed from the operating system's entropy."""
    return str(root_from_entropy())


def seed_for_run(text: str, locked: bool) -> int:
    """The seed of the next run: the one in the box if locked, else a new one.

    Raises:
        ValueError: it is locked and not a seed, see `parse_seed`.
    """
    return parse_seed(text) if locked else root_from_entropy()

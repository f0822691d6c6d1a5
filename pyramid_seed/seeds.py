"""Root seeds: whole numbers in 0 .. 2**64 - 1, and how people write them."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from .checks import check_int

ROOT_LIMIT = 2**64
"""Root seeds are below this."""


EFFECTIVE_SEEDS = 2**32
"""torch's CPU generator keeps the low 32 bits of its seed. Other devices keep more, but a seed refused on one
device is refused on all."""


def check_root(root: int) -> None:
    """Refuse anything but a root seed: TypeError if not an int, ValueError outside [0, 2**64)."""
    check_int("seed", root)
    if not 0 <= root < ROOT_LIMIT:
        nearest = min(max(root, 0), ROOT_LIMIT - 1)
        raise ValueError(f"seed must be in 0 .. 2**64 - 1, got {root}; use {nearest}")


def plain_root(root: Any) -> int:
    """A root seed of any library's integer type, such as NumPy's, as an int; raises as `check_root`."""
    plain: Any = root if isinstance(root, bool) or not isinstance(root, Integral) else int(root)
    check_root(plain)
    return int(plain)


def parse_root(text: str) -> int:
    """The root seed in a text of ASCII digits, as on a command line, in a list or in a manifest.

    Raises:
        ValueError: the text is not a root seed.
    """
    # Much longer numbers are refused by length: parsing a million digits takes minutes.
    if not (text.isascii() and text.isdecimal()) or len(text) > 40 or int(text) >= ROOT_LIMIT:
        raise ValueError(f"seed must be a whole number in 0 .. 2**64 - 1, got {text[:60]!r}")
    return int(text)


def root_from_entropy() -> int:
    """A root seed from the operating system's entropy; for all practical purposes never the same twice."""
    return secrets.randbelow(ROOT_LIMIT)


def hashed_seed(address: str) -> int:
    """The first 8 bytes, little-endian, of BLAKE2b (64-byte digest, no key) over ASCII text.

    It is part of the noise schemes, which never change.
    """
    return int.from_bytes(hashlib.blake2b(address.encode("ascii")).digest()[:8], "little")


def roots_of_clips(seed: int | Sequence[int] | None, num_clips: int, num_videos_per_prompt: int) -> list[int]:
    """The root seed of each clip of a call.

    - an int is the root of every prompt's first video, and the following ones count up from it, so that a
      prompt's clips do not depend on the other prompts;
    - a list has one root per clip;
    - None draws each root from the operating system.

    Raises:
        TypeError, ValueError: an entry is not a root seed, see `check_root`; or the list has another length.
    """
    if isinstance(seed, Sequence):
        if len(seed) != num_clips:
            raise ValueError(
                f"a list for seed must have one entry for each of the {num_clips} clips, got {len(seed)}"
            )
        roots = list(seed)
    elif seed is None:
        roots = [root_from_entropy() for _ in range(num_clips)]
    else:
        check_root(seed)
        roots = [seed + clip % num_videos_per_prompt for clip in range(num_clips)]
    for root in roots:
        check_root(root)
    return roots

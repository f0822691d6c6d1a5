"""Addresses of random draws, and the seed of each (scheme v1).

The scheme is a promise: nothing here ever changes. A new idea is a new scheme with a new name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..checks import check_int
from ..seeds import check_root, hashed_seed

SCHEME = "pyramid-seed/v1"
"""Name of the scheme, recorded with every clip."""

Stream = Literal["initial", "renoise", "posterior"]


@dataclass(frozen=True)
class NoiseKey:
    """The address of one draw inside a clip.

    Args:
        stream: what the draw is for: "initial" noise of a unit, at full latent size; "renoise" before a
            stage of a unit; the VAE's "posterior" for the first image.
        unit: index of the unit, from 0; always 0 for "posterior".
        stage: stage of the pyramid, from 1 for "renoise" and always 0 for the others.

    Raises:
        TypeError: if unit or stage is not an int. ValueError: if a value is out of range.
    """

    stream: Stream
    unit: int
    stage: int

    def __post_init__(self) -> None:
        if self.stream not in get_args(Stream):
            raise ValueError(f"stream must be one of {', '.join(get_args(Stream))}, got {self.stream!r}")
        for name in ("unit", "stage"):
            check_int(name, getattr(self, name), minimum=0)
        if self.stream == "renoise" and self.stage == 0:
            raise ValueError("stage must be at least 1 in stream renoise, got 0; use 1")
        if self.stream != "renoise" and self.stage != 0:
            raise ValueError(f"stage must be 0 in stream {self.stream}, got {self.stage}; use 0")
        if self.stream == "posterior" and self.unit != 0:
            raise ValueError(f"unit must be 0 in stream posterior, got {self.unit}; use 0")

    def __str__(self) -> str:
        return f"{self.stream}/{self.unit}/{self.stage}"


def derive_seed(root: int, key: NoiseKey) -> int:
    """Seed of one draw: a 64-bit hash of the clip's root seed and the draw's key.

    The first 8 bytes, little-endian, of BLAKE2b (64-byte digest, no key) over the ASCII text
    `pyramid-seed/v1/<root>/<stream>/<unit>/<stage>`. Neighbouring roots and keys thus share nothing, even for
    generators that use only a part of their seed.

    Raises:
        TypeError, ValueError: see `check_root`.
    """
    check_root(root)
    return hashed_seed(f"{SCHEME}/{root}/{key}")

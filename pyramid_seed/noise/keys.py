"""Addresses of random draws, and the seed of each (schemes v1 and v2).

A scheme is a promise: nothing of it ever changes. A new idea is a new scheme with a new name: v2 adds streams
to v1, and leaves all addresses of v1 as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..checks import check_int
from ..seeds import check_root, hashed_seed

SCHEME = "pyramid-seed/v1"
"""Name of the first scheme."""
SCHEMES = (SCHEME, "pyramid-seed/v2")
"""The names of all schemes, oldest first; a clip's manifest has that of the newest of its draws."""

Stream = Literal[
    "initial",
    "renoise",
    "posterior",
    # Since v2.
    "image_sigma",
    "image_noise",
    "history_posterior",
    "history_sigma",
    "history_noise",
]
_OF_V1 = ("initial", "renoise", "posterior")
_WITH_STAGES = ("renoise", "history_posterior", "history_sigma", "history_noise")


@dataclass(frozen=True)
class NoiseKey:
    """The address of one draw inside a clip.

    Args:
        stream: what the draw is for: "initial" noise of a unit, at full latent size; "renoise" before a
            stage of a unit; the VAE's "posterior" for the first image; since v2, how much noise is added to
            that image's latents, or to those of a video's first frame ("image_sigma"), and the noise
            ("image_noise"), and the same for what the first unit has as its history ("history_posterior",
            "history_sigma", "history_noise"). A sigma is uniform, see `uniform`.
        unit: index of the unit, from 0; always 0 but for "initial" and "renoise", so that a branch never
            changes what a clip begins with.
        stage: stage of the pyramid, from 1, for "renoise"; for the history the index of its part, from 0
            (that of an image has one, that of a video one for each of its chunks); always 0 for the others.

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
        if self.stream not in _WITH_STAGES and self.stage != 0:
            raise ValueError(f"stage must be 0 in stream {self.stream}, got {self.stage}; use 0")
        if self.stream not in ("initial", "renoise") and self.unit != 0:
            raise ValueError(f"unit must be 0 in stream {self.stream}, got {self.unit}; use 0")

    @property
    def scheme(self) -> str:
        """The scheme that has its stream."""
        return SCHEMES[0 if self.stream in _OF_V1 else 1]

    def __str__(self) -> str:
        return f"{self.stream}/{self.unit}/{self.stage}"


IMAGE_KEYS = (NoiseKey("posterior", 0, 0), NoiseKey("image_sigma", 0, 0), NoiseKey("image_noise", 0, 0))
"""Draws for an image that units are conditioned on: its posterior, how much noise is added, that noise."""


def history_keys(part: int) -> tuple[NoiseKey, NoiseKey, NoiseKey]:
    """The same for a part of the history: the frame that an image puts before unit 0, a chunk of a video."""
    return (
        NoiseKey("history_posterior", 0, part),
        NoiseKey("history_sigma", 0, part),
        NoiseKey("history_noise", 0, part),
    )


def derive_seed(root: int, key: NoiseKey) -> int:
    """Seed of one draw: a 64-bit hash of the clip's root seed and the draw's key.

    The first 8 bytes, little-endian, of BLAKE2b (64-byte digest, no key) over the ASCII text
    `<scheme>/<root>/<stream>/<unit>/<stage>`, where the scheme is the one that has the stream, such as
    `pyramid-seed/v1`. Neighbouring roots and keys thus share nothing, even for generators that use only a
    part of their seed.

    Raises:
        TypeError, ValueError: see `check_root`.
    """
    check_root(root)
    return hashed_seed(f"{key.scheme}/{root}/{key}")

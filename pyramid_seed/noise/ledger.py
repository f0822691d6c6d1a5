"""The ledger: the draws that a clip was made from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, overload

import torch

from ..geometry import ImageRole, LatentShape
from ..seeds import EFFECTIVE_SEEDS
from .keys import IMAGE_KEYS, SCHEMES, NoiseKey, derive_seed, history_keys
from .streams import NoiseSource, NoiseStreams


@dataclass(frozen=True)
class LedgerEntry:
    """One draw: its key, its shape, and the SHA-256 (hexadecimal) of its values, see `noise_digest`."""

    key: NoiseKey
    shape: tuple[int, ...]
    sha256: str


class NoiseLedger:
    """The draws of one clip, in order. Two ledgers with equal draws are equal."""

    def __init__(self, entries: Iterable[LedgerEntry] = ()) -> None:
        """Start with `entries`, e.g. those of a clip to be continued; ValueError if a key occurs twice."""
        self._entries: dict[NoiseKey, LedgerEntry] = {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: LedgerEntry) -> None:
        """Append a draw; ValueError if the clip already has one with that key."""
        if entry.key in self:
            raise ValueError(
                f"the draw {entry.key} was made twice in one clip; use a new ledger for each clip"
            )
        self._entries[entry.key] = entry

    def __contains__(self, key: NoiseKey) -> bool:
        return key in self._entries

    @overload
    def __getitem__(self, index: int) -> LedgerEntry: ...

    @overload
    def __getitem__(self, index: slice) -> list[LedgerEntry]: ...

    def __getitem__(self, index: int | slice) -> LedgerEntry | list[LedgerEntry]:
        """A draw by its place in the order, or several."""
        return list(self)[index]

    def __iter__(self) -> Iterator[LedgerEntry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NoiseLedger):
            return NotImplemented
        return list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # a ledger grows

    def __repr__(self) -> str:
        units = len({entry.key.unit for entry in self})
        return f"NoiseLedger(draws={len(self)}, units={units})"

    @property
    def scheme(self) -> str:
        """The newest scheme among the draws."""
        return max((entry.key.scheme for entry in self), key=SCHEMES.index, default=SCHEMES[0])

    def first_units(self, num_units: int) -> NoiseLedger:
        """The draws of a clip's first units only."""
        return NoiseLedger(entry for entry in self if entry.key.unit < num_units)

    def to_list(self) -> list[dict[str, Any]]:
        """The draws as plain values for JSON: stream, unit, stage, shape and sha256 of each."""
        return [{**asdict(entry.key), "shape": list(entry.shape), "sha256": entry.sha256} for entry in self]

    @classmethod
    def from_list(cls, rows: Iterable[Mapping[str, Any]]) -> NoiseLedger:
        """The ledger that `to_list` wrote; ValueError if a row has missing or unknown fields."""
        return cls(_entry_from_row(row) for row in rows)


def draws_of_clip(
    num_units: int, shape: LatentShape, *, image: ImageRole | None = None, video_units: int = 0
) -> list[tuple[NoiseKey, LatentShape]]:
    """Every draw that a clip makes, with its shape, in order, known before anything runs.

    Args:
        num_units: units of the clip.
        shape: of one unit's latents.
        image: what the image or video is that the clip begins with; None without one.
        video_units: units that the frames of a video would make; 0 without one.
    """
    draws: list[tuple[NoiseKey, LatentShape]] = []
    frame = replace(shape, frames=1)
    if image == "unit":
        draws.append((NoiseKey("posterior", 0, 0), frame))
    elif image == "history":
        part = shape if video_units else frame
        parts = [(IMAGE_KEYS, frame), *((history_keys(k), part) for k in range(max(video_units, 1)))]
        for (posterior, sigma, noise), size in parts:
            draws += [(posterior, size), (sigma, LatentShape(1, 1, 1, 1, size.frames)), (noise, size)]
    for unit in range(1 if image == "unit" else 0, num_units):
        draws.append((NoiseKey("initial", unit, 0), shape))
        draws += [
            (NoiseKey("renoise", unit, stage), shape.stage(stage)) for stage in range(1, shape.num_stages)
        ]
    return draws


class LedgeredNoise:
    """A noise source that records each draw of another one in a ledger.

    Args:
        source: where the noise comes from.
        ledger: the ledger of the clip being made.
    """

    def __init__(self, source: NoiseSource, ledger: NoiseLedger) -> None:
        self.source = source
        self.ledger = ledger
        self._keys: dict[int, NoiseKey] = {}
        """The keys in the ledger, by the seed that a generator makes of theirs."""
        for entry in ledger:
            _claim_seed(source, entry.key, self._keys)

    def draw(self, key: NoiseKey, shape: tuple[int, ...]) -> torch.Tensor:
        """The source's draw, recorded.

        Raises:
            ValueError: if the clip already has a draw with that key; if two of its draws would come from
                equal seeds and so be equal noise; if the source returns another shape or dtype than float32.
        """
        _claim_seed(self.source, key, self._keys)
        values = self.source.draw(key, shape)
        if tuple(values.shape) != tuple(shape) or values.dtype != torch.float32:
            raise ValueError(
                f"the noise source must give float32 values of shape {tuple(shape)} for {key}, "
                f"got {values.dtype} of shape {tuple(values.shape)}"
            )
        self.ledger.add(LedgerEntry(key, tuple(shape), noise_digest(values)))
        return values


def noise_digest(values: torch.Tensor) -> str:
    """SHA-256, hexadecimal, of a draw's values as little-endian float32 in C order; the shape is left out."""
    data = values.detach().to("cpu", torch.float32).contiguous().numpy()
    return hashlib.sha256(data.astype("<f4", copy=False).tobytes()).hexdigest()


def check_distinct(source: NoiseSource, keys: Iterable[NoiseKey]) -> None:
    """Refuse a root seed that would make two of the draws to come equal noise.

    A `LedgeredNoise` refuses the second of them, but only when it is drawn, in the middle of a run.

    Raises:
        ValueError: two would be. Only sources that derive their seeds are checked.
    """
    claimed: dict[int, NoiseKey] = {}
    for key in keys:
        _claim_seed(source, key, claimed)


def _claim_seed(source: NoiseSource, key: NoiseKey, claimed: dict[int, NoiseKey]) -> None:
    """Note the seed that a generator makes of a key's; ValueError if another key already has it."""
    if isinstance(source, NoiseStreams):
        seed = derive_seed(source.root_of(key), key) % EFFECTIVE_SEEDS
        if (first := claimed.setdefault(seed, key)) != key:
            root = source.root_of(key)
            raise ValueError(
                f"seed {root} gives the draws {first} and {key} the same noise; use another seed"
            )


def _entry_from_row(row: Mapping[str, Any]) -> LedgerEntry:
    names = {"stream", "unit", "stage", "shape", "sha256"}
    if set(row) != names:
        raise ValueError(f"a ledger row must have the fields {sorted(names)}, got {sorted(row)}")
    shape, digest = row["shape"], row["sha256"]
    if not isinstance(shape, list | tuple) or not all(type(size) is int for size in shape):
        raise ValueError(f"shape of a ledger row must be a list of whole numbers, got {shape!r:.60}")
    if not isinstance(digest, str):
        raise ValueError(f"sha256 of a ledger row must be text, got {digest!r:.60}")
    return LedgerEntry(NoiseKey(row["stream"], row["unit"], row["stage"]), tuple(shape), digest)

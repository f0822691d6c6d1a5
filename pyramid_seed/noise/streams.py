"""Where white noise comes from: drawn by key from a root seed, or replayed from a recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch

from ..checks import check_int
from ..seeds import check_root
from .keys import NoiseKey, derive_seed


class NoiseSource(Protocol):
    """Anything that supplies a clip's white noise."""

    def draw(self, key: NoiseKey, shape: tuple[int, ...]) -> torch.Tensor:
        """Standard normal values for `key`, float32, in `shape`, which starts with 1: one clip at a time."""
        ...


@dataclass(frozen=True)
class Branch:
    """A change of root seed: from unit `from_unit` on, a clip takes its noise from `seed`.

    Raises:
        TypeError: from_unit or seed is not an int. ValueError: seed is not a root seed, see `check_root`.
    """

    from_unit: int
    seed: int

    def __post_init__(self) -> None:
        # 1.0 would draw the same noise as 1, but its manifest could not be read back.
        check_int("from_unit", self.from_unit)
        check_root(self.seed)


class NoiseStreams:
    """White noise as a pure function of root seed and key; no draw depends on another.

    Args:
        root: the clip's root seed, in [0, 2**64).
        device: the noise device. The CPU's noise is the same on every machine; other devices have their own.
        branches: changes of the root seed along the clip, in rising order of units.

    Raises:
        TypeError: if the root is not an int, or a branch is not a `Branch`.
        ValueError: if the root is out of range, the device has no float64, or the units of the branches do
            not rise from 1.
    """

    def __init__(
        self, root: int, device: str | torch.device = "cpu", branches: Sequence[Branch] = ()
    ) -> None:
        check_root(root)
        for branch in branches:
            if not isinstance(branch, Branch):
                raise TypeError(f"branches must be a list of Branch, got {branch!r:.60} in it")
        starts = [branch.from_unit for branch in branches]
        if any(later <= earlier for earlier, later in pairwise([0, *starts])):
            raise ValueError(f"branches must start at increasing units of at least 1, got {starts}")
        self.root = root
        self.branches = tuple(branches)
        self.device = torch.device(device)
        if self.device.type == "mps":
            raise ValueError(
                "noise is drawn in float64, which MPS does not have; use noise_device='cpu' "
                "(the model can stay on MPS)"
            )

    def root_of(self, key: NoiseKey) -> int:
        """The root seed behind a draw: that of the last branch begun."""
        begun = [branch.seed for branch in self.branches if branch.from_unit <= key.unit]
        return begun[-1] if begun else self.root

    def generator(self, key: NoiseKey) -> torch.Generator:
        """A fresh generator for `key` on the noise device, for sampling something of your own."""
        return torch.Generator(self.device).manual_seed(derive_seed(self.root_of(key), key))

    def draw(self, key: NoiseKey, shape: tuple[int, ...]) -> torch.Tensor:
        """Standard normal values for `key`, float32, on the noise device.

        They are drawn in float64 and rounded: in float32, the CPU's values differ between instruction sets.

        Raises:
            ValueError: if `shape` does not start with 1.
        """
        _check_shape(shape)
        values = torch.randn(shape, generator=self.generator(key), dtype=torch.float64, device=self.device)
        return values.to(torch.float32)


class RecordedNoise:
    """Replays given draws.

    Args:
        draws: white noise by key: float32 tensors whose shape starts with 1, e.g. (1, C, T, H, W).

    Raises:
        ValueError: if a tensor has another dtype or shape.
    """

    def __init__(self, draws: Mapping[NoiseKey, torch.Tensor]) -> None:
        for key, values in draws.items():
            _check_shape(tuple(values.shape))
            if values.dtype != torch.float32:
                raise ValueError(f"recorded draw {key} must be float32, got {values.dtype}")
        self._draws = dict(draws)
        self._unused = set(self._draws)

    def draw(self, key: NoiseKey, shape: tuple[int, ...]) -> torch.Tensor:
        """A copy of the draw recorded for `key`.

        Raises:
            ValueError: if there is no such draw, or it has another shape.
        """
        if key not in self._draws:
            recorded = ", ".join(map(str, self._draws)) or "nothing"
            raise ValueError(f"no draw recorded for {key}; recorded is {recorded}")
        values = self._draws[key]
        if tuple(values.shape) != tuple(shape):
            raise ValueError(f"draw {key} is recorded as {tuple(values.shape)}, asked for {tuple(shape)}")
        self._unused.discard(key)
        return values.clone()

    def close(self) -> None:
        """Say that no more draws follow.

        Raises:
            ValueError: if recorded draws were never asked for.
        """
        if self._unused:
            unused = ", ".join(str(key) for key in self._draws if key in self._unused)
            raise ValueError(f"{len(self._unused)} recorded draws were not used: {unused}")


def root_from_generator(generator: torch.Generator) -> int:
    """A root seed drawn from a generator, whose state moves on by one draw."""
    return int(torch.randint(0, 2**63 - 1, (), generator=generator, device=generator.device))


def _check_shape(shape: tuple[int, ...]) -> None:
    if not shape or shape[0] != 1:
        raise ValueError(
            f"noise is drawn for one clip at a time: shape must start with 1, got {tuple(shape)}"
        )

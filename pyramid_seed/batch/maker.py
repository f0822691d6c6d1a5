"""What a batch needs of whoever makes its clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from ..media.frame_file import FrameFile
from ..pipelines.beginning import Beginning
from .identity import Job
from .items import BatchItem


class MadeClip(Protocol):
    """A finished clip, such as `pyramid_seed.Clip`."""

    @property
    def digest(self) -> str:
        """SHA-256 of the frames."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What people should know of it, see `pyramid_seed.Clip`."""
        ...

    def save(self, path: Path, *, lossless: bool, overwrite: bool) -> Path:
        """Write it, whole or not at all."""
        ...


class Maker(Protocol):
    """Makes clips; the only part of a batch that knows models."""

    def image_digest(self, item: BatchItem) -> str | None:
        """Digest of an item's first frame, see `Beginning`; None without one."""
        ...

    def origins(self, item: BatchItem) -> Sequence[Mapping[str, Any]]:
        """What the units of an item are made by here: machine, versions, settings of the process.

        The first is that of new clips. Units of any other can be gone on from in the same way.
        """
        ...

    def make(
        self,
        job: Job,
        origin: Mapping[str, Any],
        known: Beginning | None,
        on_step: Callable[[], None],
        on_unit: Callable[[int, torch.Tensor, Sequence[str]], None],
        sink: FrameFile,
    ) -> MadeClip:
        """Make a job's item by one of its origins, and put its frames into `sink`.

        It goes on from `known`, first units of that origin, where there are any.

        `on_step` is called after each step and `on_unit` with each new unit, its latents (1, C, 1, h, w) and
        its stage digests; what they raise is passed on.
        """
        ...

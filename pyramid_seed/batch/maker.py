"""What a batch needs from the object that makes its clips."""

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
        """What the user should know about it, see `pyramid_seed.Clip`."""
        ...

    @property
    def seconds(self) -> float:
        """The time to generate it, without loading the model."""
        ...

    def save(self, path: Path, *, lossless: bool, overwrite: bool) -> Path:
        """Write it, whole or not at all; returns its path."""
        ...


class Maker(Protocol):
    """Makes clips; the only part of a batch that knows about models."""

    def image_digest(self, item: BatchItem) -> str | None:
        """Digest of an item's first frame, see `Beginning`; None if it has none."""
        ...

    def origins(self, job: Job) -> Sequence[Mapping[str, Any]]:
        """What the units of a job are made by here: machine, versions, settings of the process.

        New clips have the first. The units of any of them can be continued from in the same way.
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
        """Make a job's item by one of its origins, and write its frames to `sink`.

        It continues from `known`, the first units of that origin, if there are any.

        `on_step` is called after each step and `on_unit` with each new unit, its latents (1, C, 1, h, w) and
        its stage digests; their errors are passed on.
        """
        ...

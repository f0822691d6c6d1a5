"""What a batch needs from the object that makes its clips."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from ..media.frame_file import FrameFile
from ..pipelines.beginning import Beginning
from .identity import Job, jobs_from_json, jobs_to_json
from .items import BatchItem


@dataclass(frozen=True)
class Order:
    """A job, by which of its origins it is to be made, and how much of it is already done.

    Attributes:
        job: what to make.
        origin: see `maker.Maker`.
        known: its first units, if some are already made.
    """

    job: Job
    origin: dict[str, Any]
    known: Beginning | None = None

    def to_json(self) -> str:
        """The order as text, without the latents."""
        known = None
        if self.known is not None:
            known = {name: value for name, value in vars(self.known).items() if name != "latents"}
            known["shape"] = list(self.known.latents.shape)
        return json.dumps({"job": jobs_to_json([self.job]), "origin": self.origin, "known": known})

    @classmethod
    def from_json(cls, text: str, latents: Callable[[None, torch.Size], torch.Tensor]) -> Order:
        """The order that `to_json` wrote; `latents` supplies its latents, given a shape."""
        values = json.loads(text)
        (job,), known = jobs_from_json(values["job"]), values["known"]
        beginning = None
        if known is not None:
            shape = torch.Size(known.pop("shape"))
            stages = known.pop("stage_digests")
            beginning = Beginning(
                latents=latents(None, shape),
                stage_digests=None
                if stages is None
                else tuple(None if each is None else tuple(each) for each in stages),
                **known,
            )
        return cls(job, values["origin"], beginning)


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
        """Digest of an item's image, see `Beginning`; None if it has none."""
        ...

    def origins(self, job: Job) -> Sequence[Mapping[str, Any]]:
        """What the units of a job are made by here: machine, versions, settings of the process.

        New clips have the first. The units of any of them can be continued from in the same way.
        """
        ...

    def make(
        self,
        order: Order,
        on_step: Callable[[], None],
        on_unit: Callable[[int, torch.Tensor, Sequence[str]], None],
        sink: FrameFile,
    ) -> MadeClip:
        """Make what is ordered, and write its frames to `sink`.

        `on_step` is called after each step and `on_unit` with each new unit, its latents (1, C, n, h, w) and
        its stage digests; their errors are passed on.
        """
        ...

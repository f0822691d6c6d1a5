"""How much is measured: at full size on a GPU, at tiny size anywhere, so that the program cannot rot."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from benchmarks.measure import Result
from benchmarks.sizes import FULL, SIZES, TINY, Size


@dataclass(frozen=True)
class Plan:
    """What the sections measure.

    Attributes:
        device: where.
        size: of the timed models; its clip is short, so that it fits into the budget.
        long_clip: of the same models, the whole clip that is timed if there is time.
        models: (name in `tests.invariance.clips.MODELS`, dtype) whose invariances are tried.
        steps: (height, width, unit) whose transformer steps are timed, by value.
        repeats: of a transformer step.
        clip_repeats: of everything that takes longer.
    """

    device: torch.device
    size: Size
    long_clip: Size
    models: tuple[tuple[str, torch.dtype], ...]
    steps: tuple[tuple[int, int, int], ...]
    repeats: int
    clip_repeats: int

    def benchmark(self, measure: Callable[[Namespace], Result], **options: Any) -> Result:
        """What a subcommand of `scripts/benchmark.py` measures of this size."""
        given = {"size": self.size.name, "device": str(self.device), "repeats": self.clip_repeats}
        with patch.dict(SIZES, {self.size.name: self.size}):
            return measure(Namespace(**given | options))


def plan_of(size: str, device: torch.device) -> Plan:
    """The plan of a size, "tiny" or "full"."""
    if size == "tiny":
        short = replace(TINY, num_units=2, num_steps=(1, 1, 1))
        models = tuple((name, torch.float32) for name in ("miniflux", "helios"))
        return Plan(device, short, replace(short, num_units=3), models, ((64, 64, 3),), 1, 1)
    pictures = ((768, 1280), (384, 640))
    return Plan(
        device,
        size=replace(FULL, num_units=3, num_steps=(4, 4, 4)),
        long_clip=replace(FULL, height=384, width=640),
        models=tuple(
            (name, dtype)
            for dtype in (torch.bfloat16, torch.float32)
            for name in ("miniflux", "sd3", "helios", "tiny")
        ),
        steps=tuple((*picture, unit) for unit in (15, 1, 30) for picture in pictures),
        repeats=3,
        clip_repeats=2,
    )

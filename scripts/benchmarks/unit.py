"""Units of a checkpoint in the original's layout, phase by phase: what each takes in time and memory."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch import nn

from pyramid_seed import PyramidFlowPipeline, load_pipeline
from pyramid_seed.families.pyramid_flow import PyramidFlowFamily
from pyramid_seed.pipelines.out_of_memory import num_bytes

from .checkpoint import REFERENCE, VARIANT, family_named
from .fresh import peak_memory, reset_peak_memory
from .sizes import FULL, Size, call_settings

CPU = torch.device("cpu")


class Phases:
    """What each phase takes: seconds, and the peak of resident memory above what was there before all."""

    def __init__(self) -> None:
        reset_peak_memory()
        self._before = psutil.Process().memory_info().rss
        self._started = time.perf_counter()
        self.rows: dict[str, dict[str, float]] = {}

    def end(self, name: str) -> None:
        """A phase ends, and the next one begins; one that comes again counts with the earlier ones."""
        row = self.rows.setdefault(name, {"seconds": 0.0, "peak": 0.0})
        row["seconds"] += time.perf_counter() - self._started
        row["peak"] = max(row["peak"], float(peak_memory() - self._before))
        reset_peak_memory()
        self._started = time.perf_counter()


def load_only(folder: str, family_name: str, with_text: bool) -> dict[str, Any]:
    """What a fresh process does: load in bfloat16.

    Returns:
        "phases" as `Phases` has them, "weights" in bytes by part.
    """
    return _loaded(Path(folder), family_named(family_name), with_text)[2]


@torch.no_grad()
def make_units(
    folder: str, family_name: str, with_text: bool, size_of_clip: tuple[int, int, int], frames: str
) -> dict[str, Any]:
    """The same, and make (height, width, units) with one step per stage, and save the frames.

    Returns:
        The same, and "frames": how many were saved.
    """
    height, width, units = size_of_clip
    size = replace(FULL, height=height, width=width, num_units=units, num_steps=(1, 1, 1))
    pipeline, phases, told = _loaded(Path(folder), family_named(family_name), with_text, size)
    return told | {"frames": _make(pipeline, size, phases, Path(frames))}


def _loaded(
    folder: Path, family: PyramidFlowFamily, with_text: bool, size: Size | None = None
) -> tuple[PyramidFlowPipeline, Phases, dict[str, Any]]:
    """The reference checkpoint first: what libraries load at their first use is no weights."""
    warm_up = _load(REFERENCE / f"{family.name}-tiny", family, with_text)
    if size is not None:
        _make(warm_up, replace(size, height=64, width=64))
    phases = Phases()
    pipeline = _load(folder, family, with_text)
    phases.end("load")
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
    weights = {name: num_bytes(part) for name, part in parts.items()}
    return pipeline, phases, {"weights": weights, "phases": phases.rows}


def _load(folder: Path, family: PyramidFlowFamily, with_text: bool) -> PyramidFlowPipeline:
    without: dict[str, Any] = {} if with_text else dict.fromkeys(family.text_encoders)
    pipeline = load_pipeline(folder, variant=VARIANT, dtype=torch.bfloat16, device=CPU, **without)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _make(
    pipeline: PyramidFlowPipeline, size: Size, phases: Phases | None = None, folder: Path | None = None
) -> int:
    """Make the units of a size; how many frames were written to the folder."""
    count = 0

    def save(clip: int, chunk: int, frames: np.ndarray[Any, Any]) -> None:  # noqa: ARG001 - a callback
        nonlocal count
        if phases is not None:
            phases.end("decode")
        if folder is not None:
            for frame in frames:
                Image.fromarray(frame).save(folder / f"frame-{count:04d}.png")
                count += 1
        if phases is not None:
            phases.end("save")

    pipeline(
        **call_settings(pipeline, size),
        output_type="latent",
        # All cores in every kernel, and one thing after the other, so that phases can be told apart.
        determinism="relaxed",
        workers=1,
        callback_on_unit_end=None if phases is None else lambda *_: phases.end("steps"),
        callback_on_chunk_end=save,
    )
    return count

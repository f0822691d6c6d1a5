"""`steps`: transformer steps of each stage, by attention path, and whether they wait for the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from benchmarks.ceilings import attention_operations, ceilings, counted_linears
from benchmarks.measure import Result, Row, Work, in_turn, summary, synchronize
from benchmarks.report import draw
from benchmarks.sequence import frame_tokens
from benchmarks.sizes import NUM_REAL_TEXT, NUM_TEXT, Size, make_pipeline, text_inputs
from benchmarks.transformer import latents_and_history
from torch.profiler import ProfilerActivity, profile

from pyramid_seed import PyramidFlowPipeline
from pyramid_seed.choices import ATTENTION_PATHS, AttentionPath, DeterminismLevel
from pyramid_seed.determinism import determinism_level
from pyramid_seed.models.stage_context import StageMemory

from .plan import Plan
from .report import Section

REFERENCE = "reference"
KERNELS = ("step, ms", "queued in, ms", "kernels", "busy, ms", "busy / step")


@torch.no_grad()
def measure(section: Section, plan: Plan) -> None:
    """Random weights, a guidance pair; all steps but those of `reference` take what the first remembers."""
    section.how = (
        f"{plan.size.description}, {plan.size.dtype}; a guidance pair, {NUM_REAL_TEXT} of {NUM_TEXT} text "
        f"tokens real. Times are medians of {plan.repeats}, after a warm-up, with the device waited for, the "
        "paths in turn. `reference` is the stated baseline: a dense mask, and everything built anew. *Queued "
        "in* is the time until the call returns; a full queue of kernels makes it wait as well. *Busy* is "
        "for how long any kernel ran, by torch.profiler, and its part of the median time, which was taken "
        "without the profiler: where it is small, the device waits for the CPU."
    )
    pipeline = section.run(
        "make the transformer", lambda: make_pipeline(plan.size, plan.device, with_text=False)
    )
    limits = section.run("ceilings", lambda: ceilings(plan.device, plan.size.dtype)) or {}
    section.facts |= limits
    if pipeline is None:
        return
    default = pipeline.transformer.attention_path
    rows: list[Row] = []
    cases: list[tuple[DeterminismLevel, int, int, int]] = [("strict", *step) for step in plan.steps]
    cases.insert(2, ("relaxed", *plan.steps[0]))
    for level, height, width, unit in cases:
        size = replace(plan.size, height=height, width=width)
        for stage in reversed(range(pipeline.geometry.num_stages)):
            steps = _Steps(section, plan, pipeline, default, size, level, unit, stage)
            with determinism_level(level):
                row = section.run(steps.name, partial(steps.measure, limits))
                rows += [] if row is None else [row]
                if row is not None and unit == plan.steps[0][-1]:
                    section.run(f"{steps.name}: kernels", partial(steps.measure_kernels, row))
    if rows:
        result = Result("transformer", plan.size.description, rows=rows, device=plan.device)
        section.run("draw", lambda: draw(result, section.folder / "steps.png"))
        section.facts["picture of the times"] = "steps.png"


class _Steps:
    """The steps of one unit and stage, by every path that works."""

    def __init__(
        self,
        section: Section,
        plan: Plan,
        pipeline: PyramidFlowPipeline,
        default: AttentionPath,
        size: Size,
        level: DeterminismLevel,
        unit: int,
        stage: int,
    ) -> None:
        self.section, self.plan, self.pipeline, self.default = section, plan, pipeline, default
        self.transformer, self.size = pipeline.transformer, size
        self.unit, self.stage = unit, stage
        picture = f"{size.height}x{size.width}"
        self.place = {"picture": picture, "unit": unit, "stage": stage, "level": level}
        self.name = f"{picture}, unit {unit}, stage {stage}, {level}"
        self.frames = frame_tokens(pipeline.geometry, size.height, size.width, unit, stage)
        self.velocities: dict[str, torch.Tensor] = {}
        self.works: dict[str, Work] = {}
        self.operations = 0

    def measure(self, limits: dict[str, float]) -> Row:
        """Times of all paths in turn, as a row of the table as well."""
        device = self.plan.device
        latents, history = latents_and_history(self.pipeline, self.size, device, self.unit, self.stage)
        timestep = torch.full((2,), 500.0, device=device)
        text = text_inputs(self.transformer, device)

        def step(path: AttentionPath, memory: StageMemory | None = None) -> torch.Tensor:
            self.transformer.set_attention_path(path)
            return self.transformer(latents, history, timestep, **text, return_dict=False, memory=memory)[0]

        for path in ATTENTION_PATHS:
            work = self.section.run(f"{self.name}: {path}", partial(self._first, path, step))
            if work is not None:
                self.works[path] = work
        if not self.works:
            raise RuntimeError("no path of attention can be timed")
        times = in_turn(list(self.works.values()), self.plan.repeats, device)
        row = Row(self.name, dict(zip(self.works, times, strict=True)), ratio=None)
        self._tell({path: summary(own)["median"] for path, own in row.values.items()}, limits)
        return row

    def _first(self, path: AttentionPath, step: Callable[..., torch.Tensor]) -> Work:
        """The first step of a path, not timed; what makes its later ones."""
        memory = None if path == REFERENCE else StageMemory()
        velocity = step(path, memory)
        if path == self.default:
            with counted_linears(self.transformer) as count:
                step(path, memory)
                config = self.transformer.config
                width = config.num_attention_heads * config.attention_head_dim
                layers = config.num_layers + config.num_single_layers
                of_attention = attention_operations(self.frames, NUM_REAL_TEXT, width, layers)
                self.operations = count() + 2 * of_attention
        self.velocities[path] = velocity.float()
        synchronize(self.plan.device)
        return lambda: step(path, memory)

    def _tell(self, medians: dict[str, float], limits: dict[str, float]) -> None:
        """A row of the table, with a place for every path, as some may have failed."""
        row: dict[str, Any] = {**self.place, "video tokens": sum(self.frames)}
        row |= {
            f"{path}, ms": medians[path] * 1e3 if path in medians else "failed" for path in ATTENTION_PATHS
        }
        wanted = self.velocities.get(REFERENCE)
        for path in (path for path in ATTENTION_PATHS if path != REFERENCE):
            row |= {f"reference / {path}": "", f"{path}: difference / largest": ""}
            if path in medians and wanted is not None:
                row[f"reference / {path}"] = medians[REFERENCE] / medians[path]
                difference = (self.velocities[path] - wanted).abs().max() / wanted.abs().max()
                row[f"{path}: difference / largest"] = difference.item()
        ceiling, median = limits.get("matrix product, operations a second"), medians.get(self.default)
        reached = self.operations / median / ceiling if ceiling and median else ""
        self.section.add_row("Steps by attention path", row | {f"{self.default}: of the ceiling": reached})

    def measure_kernels(self, row: Row) -> None:
        """How many kernels each path queues, in what time, and how long they keep the device busy."""
        device = self.plan.device
        for path, work in self.works.items():
            median = summary(row.values[path])["median"]
            queued = min(_queued_in(work, device) for _ in range(self.plan.repeats))
            told: dict[str, Any] = {"step, ms": median * 1e3, "queued in, ms": queued * 1e3}
            seen = self.section.run(f"{self.name}: {path}, profiler", partial(_kernels, work, device))
            if seen is not None:
                told |= {"kernels": seen[0], "busy, ms": seen[1] * 1e3, "busy / step": seen[1] / median}
            kind = "Kernels of a step" if device.type != "cpu" else "Operators of a step (no GPU)"
            self.section.add_row(kind, {**self.place, "path": path, **dict.fromkeys(KERNELS, ""), **told})


def _queued_in(work: Work, device: torch.device) -> float:
    """Seconds until a call returns, whose work may still be queued on the device."""
    synchronize(device)
    started = time.perf_counter()
    work()
    queued = time.perf_counter() - started
    synchronize(device)
    return queued


def _kernels(work: Work, device: torch.device) -> tuple[int, float]:
    """How many kernels (on a CPU: operators) a call runs, and the seconds in which at least one does."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        work()
        synchronize(device)
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events() or ()
        if event.device_type.name == device.type.upper() and not getattr(event, "is_user_annotation", False)
    )
    if not spans:
        raise RuntimeError(f"torch.profiler saw nothing that ran on {device}")
    busy, until = 0.0, float("-inf")
    for start, end in spans:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return len(spans), busy / 1e6

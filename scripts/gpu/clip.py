"""`clip`: whole clips end to end at full size, their peak memory, and what is promised of them there."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from benchmarks import clip as benchmark
from benchmarks.measure import seconds_of
from benchmarks.sizes import Size, call_settings, make_pipeline

from pyramid_seed.choices import DeterminismLevel
from pyramid_seed.pipelines import PyramidFlowPipelineOutput

from .plan import Plan
from .report import Section


def measure(section: Section, plan: Plan) -> None:
    """From embeddings to frames of 8 bits, guided throughout."""
    section.how = (
        f"{plan.size.description}. From embeddings to frames of 8 bits, guided throughout; one run each, "
        "after a clip of one frame as a warm-up. Level strict, unless it cannot be had."
    )
    section.run("clips of the product", lambda: _product(section, plan))
    against = partial(plan.benchmark, benchmark.measure, determinism="strict", repeats=1)
    section.add_result(section.run("against the baseline", against))
    section.run("a whole clip", lambda: _whole(section, plan))


def _product(section: Section, plan: Plan) -> None:
    """A short clip, what is promised of it, and the memory that it takes."""
    clips, size = _Clips(section, plan), plan.size
    section.facts |= {
        f"weights, bytes, {name}": sum(weight.nbytes for weight in part.state_dict().values())
        for name, part in clips.pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }
    first = section.run("clip", lambda: clips.make("clip", size))
    shorter = replace(size, num_units=size.num_units - 1)
    for name, of in (("the same again", size), ("one unit less", shorter)):
        other = section.run(name, partial(clips.make, name, of))
        if first is not None and other is not None:
            same = torch.equal(other.latents, first.latents[:, :, : other.latents.shape[2]])
            section.facts[f"latents equal those of the clip, bit for bit: {name}"] = same
            if not same:
                section.fail(name, "promised: the latents of the clip, bit for bit", "see the figures")
    if plan.device.type == "cuda":
        peaks = partial(benchmark.peaks_by_stage, clips.pipeline, clips.settings(size), size)
        section.facts |= section.run("peak memory", peaks) or {}
    else:
        section.skip("peak memory by stage", "needs CUDA")


def _whole(section: Section, plan: Plan) -> None:
    """The long clip, if the time that is left is enough for its steps at the speed of a short one."""
    clips, long = _Clips(section, plan), plan.long_clip
    short = replace(long, num_units=plan.size.num_units, num_steps=plan.size.num_steps)
    seconds = seconds_of(lambda: clips.make("short", short), plan.device)
    growth = (long.num_units * sum(long.num_steps)) / (short.num_units * sum(short.num_steps))
    first = section.run("long", lambda: clips.make("long", long), needs=1.2 * growth * seconds)
    if plan.device.type != "cuda":
        section.skip("long, CUDA graphs", "needs CUDA")
        return
    clips.pipeline.enable_cuda_graphs()
    try:
        graphs = section.run(
            "long, graphs", lambda: clips.make("long, CUDA graphs", long), needs=0.5 * growth * seconds
        )
    finally:
        clips.pipeline.disable_cuda_graphs()
    if first is not None and graphs is not None and not torch.equal(first.latents, graphs.latents):
        section.fail("long, CUDA graphs", "promised: the latents of the clip, bit for bit", "see the figures")


class _Clips:
    """Makes clips with one pipeline, and tells their times."""

    def __init__(self, section: Section, plan: Plan) -> None:
        self.section, self.plan = section, plan
        self.pipeline = make_pipeline(plan.size, plan.device, with_text=plan.size.name == "tiny")
        self.level: DeterminismLevel = "strict"
        if section.run("warm-up, strict", lambda: self._call(replace(plan.size, num_units=1))) is None:
            self.level = "relaxed"

    def settings(self, size: Size) -> dict[str, Any]:
        """Arguments of the pipeline's call."""
        return call_settings(self.pipeline, size) | {"determinism": self.level}

    def make(self, name: str, size: Size) -> PyramidFlowPipelineOutput:
        """A clip, and its row of the table."""
        made: list[PyramidFlowPipelineOutput] = []
        seconds = seconds_of(lambda: made.append(self._call(size)), self.plan.device)
        video = self.pipeline.geometry.num_frames(size.num_units) / benchmark.FRAMES_PER_SECOND
        row = {"clip": name, "picture": f"{size.height}x{size.width}", "units": size.num_units}
        row |= {"steps a stage": size.num_steps[0], "level": self.level, "seconds": seconds}
        self.section.add_row("Clips", row | {"seconds a second of video": seconds / video})
        return made[0]

    def _call(self, size: Size) -> PyramidFlowPipelineOutput:
        return self.pipeline(**self.settings(size), output_type="uint8")

"""`memory`: peak memory and time by memory mode, in one process, as building the models takes longest."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from benchmarks.fresh import peak_memory, reset_peak_memory
from benchmarks.measure import seconds_of, synchronize
from benchmarks.memory import MODES
from benchmarks.sizes import Size, call_settings, make_pipeline

from pyramid_seed import PyramidFlowPipeline
from pyramid_seed.pipelines.memory_modes import memory_modes
from pyramid_seed.pipelines.out_of_memory import memory_need

from .plan import Plan
from .report import Section, free_memory

NAMES = (
    "none",
    "tiling",
    "model offload",
    "model offload and tiling",
    "sequential offload",
    "group offload",
    "text freed",
)
"""In this order: what cannot be undone comes last."""


def measure(section: Section, plan: Plan) -> None:
    """Three units, so that one is decoded with others before and behind it, one step a stage."""
    size = replace(plan.size, num_units=3, num_steps=(1, 1, 1))
    kind = "allocated by torch on the GPU" if plan.device.type == "cuda" else "resident, of the whole process"
    section.how = (
        f"{size.description}. Three units, one step a stage, from a prompt to frames, all in one process "
        f"on the same weights, one run each. The peak is what was {kind}."
    )
    pipeline = section.run("make the pipeline", lambda: make_pipeline(size, plan.device))
    if pipeline is None:
        return
    section.facts |= _estimates(pipeline, plan, size)
    for name in NAMES:
        if MODES[name].needs_gpu and plan.device.type == "cpu":
            section.skip(name, "needs a GPU")
        else:
            section.run(name, partial(_measure_mode, section, plan, size, pipeline, name))


def _estimates(pipeline: PyramidFlowPipeline, plan: Plan, size: Size) -> dict[str, float]:
    """What the advice would say if decoding ran out of memory, to be held against the peaks."""
    need = memory_need(pipeline, plan.device, 0, (size.height, size.width), at_work="vae")
    return {f"estimate, MiB: {mode.call}": mode.peak / 2**20 for mode in memory_modes(need)}


def _measure_mode(section: Section, plan: Plan, size: Size, shared: PyramidFlowPipeline, name: str) -> None:
    mode = MODES[name]
    # What is to be freed must not be held by another pipeline.
    pipeline = shared if mode.frees_text else PyramidFlowPipeline(**shared.components)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to("cpu" if mode.needs_gpu else plan.device)
    free_memory()
    mode.switch_on(pipeline, plan.device)
    settings = call_settings(pipeline, size) | {"output_type": "uint8"}
    synchronize(plan.device)
    reset_peak_memory()
    before = torch.cuda.memory_allocated() if plan.device.type == "cuda" else None
    try:
        after_use = "free" if mode.frees_text else "keep"
        seconds = seconds_of(lambda: pipeline(**settings, text_encoders=after_use), plan.device)
        row = {"mode": name, "peak, MiB": peak_memory() / 2**20}
        row |= {"before, MiB": "" if before is None else before / 2**20, "seconds": seconds, "how": mode.call}
        section.add_row("Peak memory by mode", row)
    finally:
        pipeline.vae.disable_tiling()
        pipeline.remove_all_hooks()
        if name == "group offload":
            remove_group_offload(pipeline)


def remove_group_offload(pipeline: PyramidFlowPipeline) -> None:
    """Take diffusers' group offloading off again."""
    from diffusers.hooks import HookRegistry

    for part in pipeline.components.values():
        for module in part.modules() if isinstance(part, torch.nn.Module) else ():
            registry = getattr(module, "_diffusers_hook", None)
            if isinstance(registry, HookRegistry):
                for hook in list(registry.hooks):
                    registry.remove_hook(hook, recurse=False)

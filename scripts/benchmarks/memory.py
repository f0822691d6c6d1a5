"""`memory`: peak memory of a generation by memory mode, each in a fresh process."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch

from pyramid_seed import PyramidFlowPipeline

from .fresh import reset_peak_memory, run_fresh
from .measure import Result
from .sizes import SIZES, Size, call_settings, device_for, make_pipeline


@dataclass(frozen=True)
class Mode:
    """A memory mode: how to ask for it, and what it needs."""

    call: str
    switch_on: Callable[[PyramidFlowPipeline, torch.device], object] = lambda *_: None
    needs_gpu: bool = False
    package: str | None = None
    dtype: torch.dtype | None = None
    frees_text: bool = False


def _tile(pipeline: PyramidFlowPipeline, _: torch.device) -> None:
    pipeline.vae.enable_tiling(128, 128, 96, 96)


def _offload_and_tile(pipeline: PyramidFlowPipeline, device: torch.device) -> None:
    pipeline.enable_model_cpu_offload()
    _tile(pipeline, device)


def _group_offload(pipeline: PyramidFlowPipeline, device: torch.device) -> None:
    pipeline.enable_group_offload(device, offload_type="block_level", num_blocks_per_group=1)


def _quantise(pipeline: PyramidFlowPipeline, _: torch.device) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(pipeline.transformer, Int8WeightOnlyConfig())


MODES: Mapping[str, Mode] = {
    "none": Mode("load_pipeline(...)"),
    "text freed": Mode('pipeline(..., text_encoders="free")', frees_text=True),
    "tiling": Mode("pipeline.vae.enable_tiling(128, 128, 96, 96)", _tile),
    "bfloat16": Mode("load_pipeline(..., dtype=torch.bfloat16)", dtype=torch.bfloat16),
    "quantised": Mode(
        "quantize_(pipeline.transformer, Int8WeightOnlyConfig())", _quantise, package="torchao"
    ),
    "model offload": Mode(
        "pipeline.enable_model_cpu_offload()", lambda p, _: p.enable_model_cpu_offload(), needs_gpu=True
    ),
    "model offload and tiling": Mode(
        "pipeline.enable_model_cpu_offload(); pipeline.vae.enable_tiling(128, 128, 96, 96)",
        _offload_and_tile,
        needs_gpu=True,
    ),
    "group offload": Mode(
        'pipeline.enable_group_offload(device, offload_type="block_level", num_blocks_per_group=1)',
        _group_offload,
        needs_gpu=True,
    ),
    "sequential offload": Mode(
        "pipeline.enable_sequential_cpu_offload()",
        lambda p, _: p.enable_sequential_cpu_offload(),
        needs_gpu=True,
    ),
}


def measure(options: argparse.Namespace) -> Result:
    """Two units of one step a stage, from a prompt to frames."""
    size = SIZES[options.size]
    device = device_for(size, options.device)
    table, peaks = [("mode", "peak", "how")], {}
    names = options.modes or list(MODES)
    if unknown := [name for name in names if name not in MODES]:
        raise ValueError(f"--modes must be of {', '.join(map(repr, MODES))}, got {unknown[0]!r}")
    for name in names:
        mode = MODES[name]
        if mode.needs_gpu and device.type == "cpu":
            table.append((name, "needs a GPU, not measured", mode.call))
        elif mode.package is not None and find_spec(mode.package) is None:
            table.append((name, f"not measured: {mode.package} is not installed", mode.call))
        else:
            done = run_fresh("benchmarks.memory", "generate_in_mode", [size.name, name, options.device])
            peaks[f"peak bytes, {name}"] = done["peak"]
            table.append((name, f"{done['peak'] / 2**20:.0f} MiB", mode.call))
    kind = "allocated on the GPU" if device.type != "cpu" else "resident"
    return Result(
        command="memory",
        what=f"peak memory ({kind}) of a generation of two units: {size.description}",
        facts=peaks,
        table=table,
        device=device,
    )


def generate_in_mode(size_name: str, mode_name: str, device: str | None) -> None:
    """What a fresh process does whose peak is taken, from after the weights are there."""
    size, mode = SIZES[size_name], MODES[mode_name]
    chosen = device_for(size, device)
    size = replace(size, num_units=2, num_steps=(1, 1, 1), dtype=mode.dtype or size.dtype)
    pipeline = _pipeline(size, chosen, mode)
    reset_peak_memory()
    settings = call_settings(pipeline, size) | {"workers": 1}
    pipeline(**settings, output_type="uint8", text_encoders="free" if mode.frees_text else "keep")


def _pipeline(size: Size, device: torch.device, mode: Mode) -> PyramidFlowPipeline:
    # What is offloaded starts on the CPU, or else it would have to fit on the GPU first.
    pipeline = make_pipeline(size, torch.device("cpu") if mode.needs_gpu else device)
    if mode.dtype is not None:
        pipeline.to(mode.dtype)
    mode.switch_on(pipeline, device)
    return pipeline

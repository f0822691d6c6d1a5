"""`transformer`: a step of each stage with the longest history, against the reference path."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from pyramid_seed import PyramidFlowPipeline
from pyramid_seed.choices import DEFAULT_PATH
from pyramid_seed.models.onednn_linear import fast_linears
from pyramid_seed.models.stage_context import StageMemory
from pyramid_seed.pipelines.history import history_clips, latent_pyramid

from .baseline import linears_by_torch
from .ceilings import attention_operations, ceilings, counted_linears
from .measure import BASELINE, PRODUCT, Bar, Result, Row, compared, summary
from .sequence import frame_tokens
from .sizes import NUM_REAL_TEXT, NUM_TEXT, SIZES, Size, device_for, make_pipeline, text_inputs


@dataclass(frozen=True)
class Steps:
    """What was measured of the steps of one stage: operations are the product's."""

    row: Row
    operations: int
    difference: float


@torch.no_grad()
def measure(options: argparse.Namespace) -> Result:
    """A step of each stage, as a clip has equally many of each; a guidance pair, 24 of 128 tokens real."""
    size = SIZES[options.size]
    device = device_for(size, options.device)
    pipeline = make_pipeline(size, device, with_text=False)
    unit = size.num_units - 1 if options.unit is None else options.unit
    with linears_by_torch() if options.torch_linears else nullcontext():
        stages = [
            _stage(pipeline, size, device, unit, stage, options.repeats)
            for stage in range(pipeline.geometry.num_stages)
        ]
    rows = [steps.row for steps in stages]
    together = Row(
        "one step of each stage",
        {
            label: [sum(times) for times in zip(*(row.values[label] for row in rows), strict=True)]
            for label in (PRODUCT, BASELINE)
        },
    )
    if device.type == "cpu":
        rows.append(_linear(pipeline, size, unit, options.repeats))
    limits = ceilings(device, size.dtype)
    reached = stages[-1].operations / summary(stages[-1].row.values[PRODUCT])["median"]
    fraction = reached / limits["matrix product, operations a second"]
    bars = []
    if size.name == "mid":
        bars.append(Bar(f"transformer steps of unit {unit}", together.median_ratio, 1.5))
    if device.type != "cpu":
        bars.append(Bar("last stage, fraction of the matrix-product ceiling", fraction, 0.5))
    return Result(
        command="transformer",
        what=f"{size.description}; unit {unit}, a guidance pair"
        + (", linear layers by torch" if options.torch_linears else ""),
        baseline="dense mask over the padded sequence; masks, positions, text and history built anew",
        rows=[*rows, together],
        bars=bars,
        facts={
            "largest difference / largest value": max(steps.difference for steps in stages),
            "last stage, operations of a step": stages[-1].operations,
            **limits,
            "last stage, fraction of the matrix-product ceiling": fraction,
        },
        device=device,
    )


def _stage(
    pipeline: PyramidFlowPipeline, size: Size, device: torch.device, unit: int, stage: int, repeats: int
) -> Steps:
    transformer = pipeline.transformer
    latents, history = latents_and_history(pipeline, size, device, unit, stage)
    text = text_inputs(transformer, device)
    timestep = torch.full((2,), 500.0, device=device)

    def step(path: str, memory: StageMemory | None = None) -> torch.Tensor:
        transformer.set_attention_path(path)
        return transformer(latents, history, timestep, **text, return_dict=False, memory=memory)[0]

    wanted, memory = step("reference"), StageMemory()
    step(DEFAULT_PATH, memory)  # the first step of a stage fills it, the others take it
    with counted_linears(transformer) as count:
        got = step(DEFAULT_PATH, memory)
        operations = count()
    frames = frame_tokens(pipeline.geometry, size.height, size.width, unit, stage)
    config = transformer.config
    width = config.num_attention_heads * config.attention_head_dim
    num_layers = config.num_layers + config.num_single_layers
    row = compared(
        f"stage {stage}: {sum(frames)} video and {NUM_TEXT} text tokens",
        lambda: step(DEFAULT_PATH, memory),
        lambda: step("reference"),
        repeats,
        device,
    )
    return Steps(
        row,
        operations + 2 * attention_operations(frames, NUM_REAL_TEXT, width, num_layers),
        ((got - wanted).abs().max() / wanted.abs().max()).item(),
    )


def _linear(pipeline: PyramidFlowPipeline, size: Size, unit: int, repeats: int) -> Row:
    """A linear layer of the last stage's steps, by the kernels of either way."""
    layer = pipeline.transformer.single_transformer_blocks[0].proj_mlp
    last_stage = pipeline.geometry.num_stages - 1
    frames = frame_tokens(pipeline.geometry, size.height, size.width, unit, last_stage)
    tokens = torch.randn(2, NUM_REAL_TEXT + sum(frames), layer.in_features, dtype=size.dtype)

    def fast() -> torch.Tensor:
        with fast_linears(tokens):
            return layer(tokens)  # an `OneDnnLinear`

    name = f"linear layer, {tokens.shape[:2].numel()} rows, {layer.in_features} to {layer.out_features}"
    return compared(name, fast, lambda: layer(tokens), repeats, tokens.device)


def latents_and_history(
    pipeline: PyramidFlowPipeline, size: Size, device: torch.device, unit: int, stage: int
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Random current latents and history of a guidance pair."""
    height, width = pipeline.geometry.latent_size(size.height, size.width)
    generator = torch.Generator().manual_seed(0)
    shape = (1, pipeline.transformer.config.in_channels, 1, height, width)
    num_stages = pipeline.geometry.num_stages
    pyramids = [
        latent_pyramid(torch.randn(shape, generator=generator).to(device, size.dtype), num_stages)
        for _ in range(unit + 1)
    ]
    clips = [pyramids[-1][stage], *history_clips(pyramids[:-1], stage)]
    current, *history = (each.expand(2, -1, -1, -1, -1) for each in clips)
    return current, history

"""`transformer`: one step of the transformer with the longest history, against the reference path."""

from __future__ import annotations

import argparse

import torch

from pyramid_seed import PyramidFlowPipeline
from pyramid_seed.pipelines.history import history_clips, latent_pyramid

from .ceilings import attention_operations, ceilings, counted_linears
from .measure import PRODUCT, Bar, Result, compared, summary
from .sequence import frame_tokens
from .sizes import MID, NUM_REAL_TEXT, NUM_TEXT, SIZES, Size, device_for, make_pipeline, text_inputs


@torch.no_grad()
def measure(options: argparse.Namespace) -> Result:
    """A step of the last stage, of a guidance pair; 24 of 128 text tokens are real."""
    size = SIZES[options.size]
    device = device_for(size, options.device)
    pipeline = make_pipeline(size, device, with_text=False)
    transformer, unit = pipeline.transformer, size.longest_history
    latents, history = _latents(pipeline, size, device)
    text = text_inputs(transformer, device)
    timestep = torch.full((2,), 500.0, device=device)

    def step(context: object = None) -> tuple[torch.Tensor, object]:
        return transformer(latents, history, timestep, **text, return_dict=False, context=context)

    transformer.set_attention_path("reference")
    wanted = step()[0]
    transformer.set_attention_path("prefix")
    _, context = step()  # the first step of a stage builds it, the others take it
    with counted_linears(transformer) as count:
        got = step(context)[0]
        operations = count()

    def product() -> torch.Tensor:
        transformer.set_attention_path("prefix")
        return step(context)[0]

    def baseline() -> torch.Tensor:
        transformer.set_attention_path("reference")
        return step()[0]

    row = compared(f"step of unit {unit}, last stage", product, baseline, options.repeats, device)
    frames = frame_tokens(pipeline.geometry, size.height, size.width, unit, stage=2)
    config = transformer.config
    operations += 2 * attention_operations(
        frames,
        NUM_REAL_TEXT,
        config.num_attention_heads * config.attention_head_dim,
        config.num_layers + config.num_single_layers,
    )
    limits = ceilings(device, size.dtype)
    reached = operations / summary(row.values[PRODUCT])["median"]
    fraction = reached / limits["matrix product, operations a second"]
    bars = []
    if size is MID:
        bars.append(Bar("transformer step, longest history", row.median_ratio, 1.5))
    if device.type != "cpu":
        bars.append(Bar("fraction of the matrix-product ceiling", fraction, 0.5))
    return Result(
        command="transformer",
        what=f"{size.description}; a guidance pair, {sum(frames)} video and {NUM_TEXT} text tokens",
        baseline="dense mask over the padded sequence; masks, positions, text and history built anew",
        rows=[row],
        bars=bars,
        facts={
            "largest difference / largest value": ((got - wanted).abs().max() / wanted.abs().max()).item(),
            "operations of a step": operations,
            **limits,
            "fraction of the matrix-product ceiling": fraction,
        },
        device=device,
    )


def _latents(
    pipeline: PyramidFlowPipeline, size: Size, device: torch.device
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Random current latents and history of a guidance pair."""
    height, width = pipeline.geometry.latent_size(size.height, size.width)
    generator = torch.Generator().manual_seed(0)
    shape = (1, pipeline.transformer.config.in_channels, 1, height, width)
    frames = [
        torch.randn(shape, generator=generator).to(device, size.dtype)
        for _ in range(size.longest_history + 1)
    ]
    past = [latent_pyramid(frame, pipeline.geometry.num_stages) for frame in frames[:-1]]
    history = history_clips(past, pipeline.geometry.num_stages - 1)
    current, *clips = (each.expand(2, -1, -1, -1, -1) for each in (frames[-1], *history))
    return current, clips

"""`clip`: a whole clip from embeddings to frames of 8 bits, against the reference path."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch

from pyramid_seed import PyramidFlowPipeline
from pyramid_seed.determinism import determinism_level

from .baseline import decode_in_overlapping_tiles, reference_path
from .measure import PRODUCT, Bar, Result, compared, summary
from .sizes import SIZES, Size, call_settings, device_for, make_pipeline
from .vae import TILES

FRAMES_PER_SECOND = 24


@torch.no_grad()
def measure(options: argparse.Namespace) -> Result:
    """The same seed on both ways, so that what they make can be compared as well."""
    size = SIZES[options.size]
    device = device_for(size, options.device)
    pipeline = make_pipeline(size, device, with_text=size.name == "tiny")
    settings = call_settings(pipeline, size) | {"determinism": options.determinism, "workers": 1}
    short = settings | {"num_frames": 1}
    latents: dict[str, torch.Tensor] = {}

    def product(settings: dict[str, Any]) -> None:
        latents["product"] = pipeline(**settings, output_type="uint8").latents

    def baseline(settings: dict[str, Any]) -> None:
        with reference_path(pipeline):
            latents["baseline"] = pipeline(**settings, output_type="latent").latents
        # The level sets the number of threads, which must be the same on both sides, as is one worker.
        with determinism_level(options.determinism):
            decode_in_overlapping_tiles(
                pipeline.vae, latents["baseline"].to(device), *TILES.get(size.name, ())
            )

    row = compared(
        f"{size.num_units} units, steps {size.num_steps} a stage",
        partial(product, settings),
        partial(baseline, settings),
        options.repeats,
        device,
        warm_ups=[partial(product, short), partial(baseline, short)],
    )
    difference = (latents["product"] - latents["baseline"]).abs().max().item()
    seconds = summary(row.values[PRODUCT])["median"] / (settings["num_frames"] / FRAMES_PER_SECOND)
    bars = []
    if size.name == "mid":
        bars.append(Bar("whole clip", row.median_ratio, 1.6))
    if size.name == "full":
        bars.append(Bar("whole clip on a GPU", row.median_ratio, 2.5))
    return Result(
        command="clip",
        what=f"{size.description}; guided, determinism {options.determinism}",
        baseline="dense mask, everything built anew at each step, block-noise loop, overlapping tiles",
        rows=[row],
        bars=bars,
        facts={
            "largest difference of latents": difference,
            "largest latent": latents["product"].abs().max().item(),
            f"seconds per second of video ({FRAMES_PER_SECOND} frames)": seconds,
            **(peaks_by_stage(pipeline, settings, size) if device.type == "cuda" else {}),
        },
        device=device,
    )


def peaks_by_stage(pipeline: PyramidFlowPipeline, settings: dict[str, Any], size: Size) -> dict[str, int]:
    """Peak bytes that torch allocated on the CUDA device in each stage of the last unit, and in decoding."""
    peaks: dict[str, int] = {}

    def on_step(pipeline: PyramidFlowPipeline, *_: object) -> dict[str, Any]:
        place = pipeline.current_place
        assert place is not None  # within a call
        if place.unit == size.num_units - 1:
            peaks[f"peak bytes, stage {place.stage}"] = torch.cuda.max_memory_allocated()
        if place.step == size.num_steps[place.stage] - 1:
            torch.cuda.reset_peak_memory_stats()
        return {}

    pipeline(**settings, output_type="uint8", callback_on_step_end=on_step)
    return {**peaks, "peak bytes, after the last step": torch.cuda.max_memory_allocated()}

"""The two functions that most people need: `generate` and `load_pipeline`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Unpack

import torch
from diffusers.image_processor import PipelineImageInput

from .clip import Clip
from .models.checkpoints import check_dtype, fetch_checkpoint, find_layout, load_components
from .pipelines import PyramidFlowPipeline
from .presets import Preset, Settings, load_preset, with_settings
from .resources import resolve_model

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_pipeline(
    path_or_hub_id: str | Path,
    *,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    **hub_options: Any,
) -> PyramidFlowPipeline:
    """Load a model, ready to be called.

    Args:
        path_or_hub_id: a folder in the layout of the published checkpoints, a folder that `save_pretrained`
            wrote, a hub id of either, or `embedded:tiny`.
        variant: "384p", "768p" or "image": which transformer of a published checkpoint; None if there is one.
        dtype: torch.float32 or torch.bfloat16; fp16 overflows in these models.
        device: where to put it; default: the accelerator if there is one, else the CPU.
        hub_options: revision, cache_dir, token, local_files_only.

    Raises:
        ValueError: the dtype or variant does not exist, or a file is wrong; file and layout are named.
        FileNotFoundError: a file is missing; file and layout are named.
    """
    check_dtype(dtype)
    source = resolve_model(str(path_or_hub_id))
    folder = fetch_checkpoint(source, variant=variant, **hub_options)
    if find_layout(folder) == "diffusers":
        pipeline = PyramidFlowPipeline.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True)
    else:
        components = load_components(folder, variant=variant, dtype=dtype)
        pipeline = PyramidFlowPipeline(**components.modules())
    return pipeline.to(device or default_device())


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


@lru_cache(maxsize=1)
def shared_pipeline(model: str, variant: str | None, dtype: str, device: str | None) -> PyramidFlowPipeline:
    """The pipeline of these settings, loaded once a process; asking for another one lets the last one go."""
    return load_pipeline(model, variant=variant, dtype=_DTYPES[dtype], device=device)


def generate(
    prompt: str,
    *,
    seed: int | None = None,
    preset: str | Path | Preset = "tiny",
    image: PipelineImageInput | None = None,
    device: str | None = None,
    noise_device: str = "cpu",
    pipeline: PyramidFlowPipeline | None = None,
    progress: bool = True,
    on_step: Callable[..., dict[str, Any] | None] | None = None,
    **settings: Unpack[Settings],
) -> Clip:
    """Make one clip. The same prompt, seed and settings always make the same clip.

    Args:
        prompt: what to show.
        seed: root seed in [0, 2**64); without one a seed is drawn from the operating system, see `Clip.seed`.
        preset: a preset's name, a YAML file, or a `Preset`.
        image: the first frame, in the clip's size; without `height` and `width` its size is the clip's.
        device: where the model runs; default: the accelerator if there is one, else the CPU.
        noise_device: where noise is drawn; the CPU's is the same on all machines.
        pipeline: use this one instead of loading the preset's model.
        progress: show a progress bar on standard error.
        on_step: `callback_on_step_end` of the pipeline.
        settings: values that replace the preset's, such as num_frames=33 or guidance_scale=4.0.

    Raises:
        ValueError, TypeError: an argument does not fit; nothing has been computed then.
    """
    if not isinstance(prompt, str):
        raise TypeError(f"prompt must be one str, got {type(prompt).__name__}; call generate once for each")
    chosen = preset if isinstance(preset, Preset) else load_preset(preset)
    chosen = with_settings(chosen, settings)
    started = time.perf_counter()
    if pipeline is None:
        pipeline = shared_pipeline(chosen.model, chosen.variant, chosen.dtype, device)
    loaded = time.perf_counter()
    pipeline.set_progress_bar_config(disable=not progress)
    sized = image is None or "height" in settings or "width" in settings
    output = pipeline(
        prompt,
        negative_prompt=chosen.negative_prompt,
        image=image,
        height=chosen.height if sized else None,
        width=chosen.width if sized else None,
        num_frames=chosen.num_frames,
        num_inference_steps=list(chosen.num_inference_steps),
        video_num_inference_steps=_as_list(chosen.video_num_inference_steps),
        guidance_scale=chosen.guidance_scale,
        video_guidance_scale=chosen.video_guidance_scale,
        guidance_decay=chosen.guidance_decay,
        min_guidance_scale=chosen.min_guidance_scale,
        prompt_suffix=chosen.prompt_suffix,
        max_sequence_length=chosen.max_sequence_length,
        seed=seed,
        noise_device=noise_device,
        output_type="uint8",
        callback_on_step_end=on_step,
    )
    frames = output.frames[0]
    return Clip(
        frames=frames,
        fps=chosen.fps,
        seed=output.seeds[0],
        prompt=prompt,
        settings=replace(
            chosen, height=frames.shape[1], width=frames.shape[2], num_frames=frames.shape[0]
        ),
        ledger=output.ledgers[0],
        latents=output.latents,
        text_digests=output.text_digests[0],
        load_seconds=loaded - started,
        seconds=time.perf_counter() - loaded,
    )


def _as_list(steps: tuple[int, ...] | None) -> list[int] | None:
    return None if steps is None else list(steps)

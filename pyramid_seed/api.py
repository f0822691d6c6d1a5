"""What most people need: `generate` and `load_pipeline`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Unpack

import torch
from diffusers.image_processor import PipelineImageInput

from .checkpoints.digests import is_folder_of
from .checkpoints.load import (
    default_dtype_kept,
    fetch_checkpoint,
    find_layout,
    load_components,
    load_saved_text_encoders,
)
from .checkpoints.source import changed_files, stamps_of, weights_of
from .checks import check_choice
from .choices import AFTER_USE, ATTENTION_PATHS, DETERMINISM_LEVELS, AfterUse, AttentionPath, DeterminismLevel
from .clip import Clip
from .determinism import ask_for_cublas_workspace, attention_backend_at
from .devices import usable_device
from .dtypes import check_dtype
from .environment import environment_fingerprint
from .media.frame_facts import FrameCounter
from .media.frame_file import FrameFile
from .media.video import Frames
from .noise import (
    Branch,
    NoiseStreams,
    noise_digest,
    root_from_entropy,
)
from .pipelines import Beginning, PyramidFlowPipeline
from .pipelines.first_frames import first_frames
from .pipelines.frame_collector import OnFrames
from .pipelines.memory import unmap_weights
from .pipelines.out_of_memory import out_of_memory_advice
from .pipelines.stages import StageDigests
from .presets import Preset, Settings, load_preset, with_settings
from .resources import resolve_model

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_pipeline(
    path_or_hub_id: str | Path,
    *,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    compile: bool = False,
    **hub_options: Any,
) -> PyramidFlowPipeline:
    """Load a model, ready to be called. Its family is recognised; `pipeline.found` says what was found.

    Args:
        path_or_hub_id: a folder in the layout of the published checkpoints, a folder that `save_pretrained`
            wrote, a hub id of either, or `embedded:tiny`.
        variant: "384p", "768p" or "image": which transformer of a published checkpoint; None if there is one.
        dtype: torch.float32 or torch.bfloat16; fp16 overflows in these models.
        device: where to put it; default: the accelerator if there is one, else the CPU.
        compile: run the transformer's blocks through `torch.compile`: faster after a first call that takes
            minutes, with other last bits. `pipeline.transformer.compile_repeated_blocks` has more options.
        hub_options: revision, cache_dir, token, local_files_only.

    Raises:
        ValueError: the dtype, variant or device does not exist, or a file is missing or wrong; file and
            layout are named.
        FileNotFoundError: there is no such folder.
        OSError: the hub cannot be asked.
        GenerationOutOfMemoryError: the weights do not fit on the device; what would fit is named.
    """
    check_dtype(dtype)
    ask_for_cublas_workspace()
    chosen_device = default_device() if device is None else usable_device(device)
    source = resolve_model(str(path_or_hub_id))
    folder = fetch_checkpoint(source, variant=variant, **hub_options)
    if find_layout(folder) == "diffusers":
        if variant is not None:
            raise ValueError(
                f"{folder} was written by save_pretrained and has one transformer; leave variant out"
            )
        stamps = stamps_of(folder, None)
        pipeline = _load_saved(folder, dtype)
        pipeline.found = f"{pipeline.transformer.family}, in the layout of diffusers at {folder}"
    else:
        stamps = stamps_of(folder, variant)
        components = load_components(folder, variant=variant, dtype=dtype)
        pipeline = PyramidFlowPipeline(**components.modules())
        pipeline.found = components.found
    pipeline.source_folder = folder
    pipeline.source_variant = variant
    pipeline.source_stamps = stamps
    with out_of_memory_advice(pipeline, first="load with device='cpu', then what "):
        pipeline.to(chosen_device)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            unmap_weights(part)
    if compile:
        pipeline.transformer.compile_repeated_blocks()
    return pipeline


def _load_saved(folder: Path, dtype: torch.dtype) -> PyramidFlowPipeline:
    """What `save_pretrained` wrote, all weights of which must be there."""
    encoders = load_saved_text_encoders(folder, dtype)
    with default_dtype_kept():
        pipeline = PyramidFlowPipeline.from_pretrained(folder, dtype=dtype, use_safetensors=True, **encoders)
    for part in ("transformer", "vae"):
        missing = [name for name, value in getattr(pipeline, part).state_dict().items() if value.is_meta]
        if missing:
            raise ValueError(f"{folder / part} must hold all weights, missing: {', '.join(sorted(missing))}")
    return pipeline


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


@lru_cache(maxsize=1)
def shared_pipeline(
    model: str, variant: str | None, dtype: str, device: str | None, compile: bool
) -> PyramidFlowPipeline:
    """The pipeline of these settings, loaded once a process; asking for another one lets the last one go."""
    return load_pipeline(model, variant=variant, dtype=_DTYPES[dtype], device=device, compile=compile)


def current_pipeline(
    model: str, variant: str | None, dtype: str, device: str | None, compile: bool
) -> PyramidFlowPipeline:
    """The same, loaded again if its files have changed."""
    pipeline = shared_pipeline(model, variant, dtype, device, compile)
    if changed_files(pipeline):
        shared_pipeline.cache_clear()
        pipeline = shared_pipeline(model, variant, dtype, device, compile)
    return pipeline


def generate(
    prompt: str,
    *,
    seed: int | None = None,
    branches: Sequence[Branch] = (),
    preset: str | Path | Preset = "tiny",
    image: PipelineImageInput | None = None,
    beginning: Beginning | None = None,
    device: str | None = None,
    noise_device: str = "cpu",
    determinism: DeterminismLevel = "strict",
    text_encoders: AfterUse = "keep",
    attention: AttentionPath | None = None,
    compile: bool = False,
    pipeline: PyramidFlowPipeline | None = None,
    progress: bool = True,
    on_step: Callable[..., dict[str, Any] | None] | None = None,
    on_unit: Callable[[int, int, torch.Tensor, StageDigests], None] | None = None,
    on_chunk: OnFrames | None = None,
    sink: FrameFile | None = None,
    **settings: Unpack[Settings],
) -> Clip:
    """Make one clip. The same prompt, seed and settings always make the same clip.

    Args:
        prompt: what to show.
        seed: root seed in [0, 2**64); without one a seed is drawn from the operating system, see `Clip.seed`.
        branches: units from which on another seed is used.
        preset: a preset's name, a YAML file, or a `Preset`.
        image: the first frame, in the clip's size; without `height` and `width` its size is the clip's.
        beginning: the clip's first units, from an earlier run of the same clip: they are not computed again,
            and the clip is the same. Its manifest is too, but for what the beginning does not know.
        device: where the model runs; default: the accelerator if there is one, else the CPU.
        noise_device: where noise is drawn; the CPU's is the same on all machines.
        determinism: "strict" or "relaxed".
        text_encoders: once the text is encoded, "keep" the encoders, "offload" them to the CPU, or "free"
            their memory for the rest; a pipeline that was given can then encode no other text.
        attention: "prefix" or "reference", see `AttentionPath`; default: as the pipeline has it, "prefix" if
            nobody set another. They differ in the last bits.
        compile: see `load_pipeline`.
        pipeline: use this one instead of loading the preset's model; compiled or not, as it is.
        progress: show a progress bar on standard error.
        on_step: `callback_on_step_end` of the pipeline.
        on_unit: `callback_on_unit_end` of the pipeline.
        on_chunk: `callback_on_chunk_end` of the pipeline.
        sink: encode the frames as they come and hold none, so that memory does not grow with the clip; see
            `media.frame_file.FrameFile`. The clip can be saved as long as it is open.
        settings: values that replace the preset's, such as num_frames=33 or guidance_scale=4.0.

    Raises:
        ValueError, TypeError: an argument does not fit; nothing has been computed then.
    """
    if not isinstance(prompt, str):
        raise TypeError(f"prompt must be one str, got {type(prompt).__name__}; call generate once for each")
    chosen = with_settings(preset if isinstance(preset, Preset) else load_preset(preset), settings)
    usable_device(noise_device, "noise_device")
    check_choice("determinism", determinism, DETERMINISM_LEVELS)
    if attention is not None:
        check_choice("attention", attention, ATTENTION_PATHS)
    check_choice("text_encoders", text_encoders, AFTER_USE)
    root = root_from_entropy() if seed is None else seed
    noise = NoiseStreams(root, noise_device, branches)
    if sink is not None:
        sink.start(chosen.fps, chosen.scale)
    started = time.perf_counter()
    if pipeline is None:
        pipeline = current_pipeline(chosen.model, chosen.variant, chosen.dtype, device, compile)
        if text_encoders == "free":
            shared_pipeline.cache_clear()  # nobody else is to be given what is left of it
    else:
        if compile:
            raise ValueError(
                "compile is for a pipeline that generate loads; call "
                "pipeline.transformer.compile_repeated_blocks() on your own"
            )
        chosen = _with_model_of(pipeline, chosen)
    weights = weights_of(pipeline)
    loras = lora_rows(pipeline)
    loaded = time.perf_counter()
    pipeline.set_progress_bar_config(disable=not progress)
    sized = image is None or "height" in settings or "width" in settings
    counter = FrameCounter()

    def on_frames(clip: int, chunk: int, frames: Frames) -> None:
        counter.add(frames)
        if sink is not None:
            sink.write(frames)
        if on_chunk is not None:
            on_chunk(clip, chunk, frames)

    with pipeline.transformer.attention_path_set(attention):
        path = pipeline.transformer.attention_path
        output = pipeline(
            prompt,
            negative_prompt=chosen.negative_prompt,
            image=image,
            beginning=beginning,
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
            text_encoders=text_encoders,
            noise=noise,
            output_type="uint8" if sink is None else "latent",
            determinism=determinism,
            callback_on_step_end=on_step,
            callback_on_unit_end=on_unit,
            callback_on_chunk_end=on_frames,
        )
    facts = counter.facts()
    done = replace(chosen, height=facts.height, width=facts.width, num_frames=facts.num_frames)
    return Clip(
        frame_facts=facts,
        prompt=prompt,
        seed=root,
        branches=tuple(branches),
        settings=done,
        noise_device=str(noise_device),
        determinism=determinism,
        attention=path,
        compiled=pipeline.transformer.is_compiled,
        image_digest=_image_digest_of(image, beginning),
        ledger=output.ledgers[0],
        latents=output.latents,
        text_digests=output.text_digests[0],
        stage_digests=tuple(output.stage_digests[0]),
        geometry=pipeline.geometry,
        source_folder=pipeline.source_folder,
        weights=weights,
        environment=environment_fingerprint(
            pipeline._execution_device,
            pipeline.transformer.dtype,
            attention_backend_at(determinism),
            determinism,
        ),
        load_seconds=loaded - started,
        seconds=time.perf_counter() - loaded,
        loras=loras,
        found=pipeline.found,
        held_frames=None if sink is not None else output.frames[0],
        frame_file=sink,
    )


def lora_rows(pipeline: PyramidFlowPipeline) -> tuple[dict[str, Any], ...] | None:
    """The LoRAs that act in a pipeline, as a manifest tells them; None if that cannot be told."""
    loras = pipeline.loras_in_use()
    return None if loras is None else tuple(asdict(lora) for lora in loras)


def _image_digest_of(image: PipelineImageInput | None, beginning: Beginning | None) -> str | None:
    if beginning is not None:
        return beginning.image_digest
    return None if image is None else image_digest(image)


def image_digest(image: PipelineImageInput) -> str:
    """SHA-256 of the first frame's pixels as float32 in [-1, 1], (1, 3, H, W), little endian."""
    return noise_digest(first_frames(image, 1)[0])


def _with_model_of(pipeline: PyramidFlowPipeline, settings: Preset) -> Preset:
    """The settings with what the given pipeline really is, in place of the preset's model."""
    settings = replace(settings, dtype=str(pipeline.transformer.dtype).removeprefix("torch."))
    folder = pipeline.source_folder
    if folder is None:
        return settings
    model = settings.model if is_folder_of(settings.model, folder) else str(folder)
    return replace(settings, model=model, variant=pipeline.source_variant)


def _as_list(steps: tuple[int, ...] | None) -> list[int] | None:
    return None if steps is None else list(steps)

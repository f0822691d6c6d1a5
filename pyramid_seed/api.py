"""What most people need: `generate`, and `encode_prompts` for machines that cannot hold a whole model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch
from diffusers.image_processor import PipelineImageInput
from PIL import Image

from .checkpoints.source import RecognisedModel
from .checks import check_kinds, check_list
from .choices import AfterUse, AttentionPath, DeterminismLevel
from .clip import Clip
from .determinism import attention_backend_at
from .dtypes import dtype_name
from .environment import environment_fingerprint
from .first_image import in_clip_size, sized_by_image
from .geometry import PyramidGeometry
from .loading import LoraToLoad, loras_to_load
from .media.frame_facts import FrameCounter, FrameFacts
from .media.frame_file import FrameFile
from .media.frames import Frames
from .media.given_video import GivenVideo
from .model_presets import chosen_settings, misfit
from .noise import Branch, NoiseStreams, root_from_entropy
from .pieces.processes import Processes, has_frames
from .pipelines.beginning import Beginning
from .pipelines.clip_pipeline import ClipPipeline
from .pipelines.encoded_texts import ENCODER_PARTS, PARTS_WITHOUT_TEXT, EncodedTexts, read_encoded_texts
from .pipelines.first_frames import first_frames, given_digest, given_of
from .pipelines.frame_collector import OnFrames
from .pipelines.inputs import Request, check_call, check_image_of_beginning
from .pipelines.stages import StageDigests
from .pipelines.text_inputs import EMBEDDINGS
from .presets import (
    Preset,
    Settings,
    load_preset,
    pipeline_arguments,
    settings_listed,
    settings_of_model,
    untrained,
)
from .recipe import Recipe
from .run_options import RunOptions
from .seeds import plain_root
from .shared_pipeline import checked_source, shared_pipeline
from .texts import check_prompt

logger = logging.getLogger(__name__)


@settings_listed
def generate(
    prompt: str,
    *,
    seed: int | None = None,
    branches: Sequence[Branch] = (),
    preset: str | Path | Preset | None = None,
    image: PipelineImageInput | str | Path | None = None,
    video: str | Path | Frames | Sequence[Image.Image] | None = None,
    beginning: Beginning | None = None,
    device: str | None = None,
    noise_device: str = "cpu",
    determinism: DeterminismLevel = "strict",
    text_encoders: AfterUse = "keep",
    prompt_embeds: str | Path | EncodedTexts | None = None,
    attention: AttentionPath | None = None,
    compile: bool = False,
    workers: int | None = None,
    processes: Processes | None = None,
    loras: Mapping[str | Path, float] | None = None,
    pipeline: ClipPipeline | None = None,
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
        branches: units from which another seed is used.
        preset: a preset's name, a YAML file, or a `Preset`; default: the settings that the model is made for,
            see `model_presets.preset_of_model`, and without a model those of "tiny".
        image: the first frame, or, with Helios, what the clip goes on from; an image or its file. Without
            `height`, `width` and `fit`, the clip takes its size, or, if every pixel of it is shown as
            `scale` x `scale`, the small image's.
        video: what the clip goes on from (Helios): a video file or a folder of .png images, frames
            (T, H, W, 3) as uint8, or a list of PIL images. T is a number of frames that a clip can have. The
            clip has only new frames, and takes the video's size as it would an image's.
        beginning: the clip's first units, from an earlier run of the same clip: they are not computed again,
            and the clip is the same. Of a clip that began with an image, only Helios needs the image, too.
        device: where the model runs; default: the accelerator if there is one, else the CPU.
        noise_device: where noise is drawn; noise from the CPU is the same on all machines.
        determinism: "strict" or "relaxed".
        text_encoders: once the text is encoded, "keep" the encoders, "offload" them to the CPU, or "free"
            their memory. "free" loads them first and alone, and the rest of the model when they are gone; for
            a recently encoded text they are not loaded at all. A pipeline passed in can encode no other texts
            afterwards.
        prompt_embeds: texts from `encode_prompts` or `pyramid-seed encode`, or their file; the text encoders
            are then neither loaded nor downloaded.
        attention: "grouped", "prefix" or "reference", see `AttentionPath`; default: the pipeline's own,
            "grouped" unless another was set. They differ in the last bits.
        compile: see `load_pipeline`.
        workers: threads that compute at a time at level strict on a CPU; the clip is the same with any
            number. Default: all cores that this process may use.
        processes: those that make this clip together, see `processes_of_launch`; each makes the same call,
            and the setting `shards` says how the work is cut. All get the clip, but only the first one gets
            its frames, and only its sink is written to.
        loras: files of LoRAs, each with its scale, such as {"style.safetensors": 0.7}, in the order in which
            they are added. Needs peft.
        pipeline: use this one, compiled or not, instead of loading the preset's model.
        progress: show a progress bar on standard error, as configured in the pipeline.
        on_step: `callback_on_step_end` of the pipeline.
        on_unit: `callback_on_unit_end` of the pipeline.
        on_chunk: `callback_on_chunk_end` of the pipeline.
        sink: encode the frames as they come and keep none, so that memory does not grow with the clip; see
            `media.frame_file.FrameFile`. The clip can be saved while the sink is open.
        settings: values that replace the preset's, such as num_frames=33 or guidance_scale=4.0, see below.

    Raises:
        ValueError, TypeError: an argument does not fit; nothing has been computed yet.
    """
    check_prompt(prompt)
    check_watchers(sink, on_step=on_step, on_unit=on_unit, on_chunk=on_chunk)
    check_kinds(loras=(loras, Mapping), beginning=(beginning, Beginning), processes=(processes, Processes))
    options = RunOptions(device, noise_device, determinism, attention, compile, workers, text_encoders)
    _check_options(options, pipeline, loras)
    noise = _noise(seed, noise_device, branches, processes)
    preset = preset if preset is None or isinstance(preset, Preset) else load_preset(preset)
    embeds = opened_texts(prompt_embeds)
    without = parts_left_out(text_encoders, embeds)
    wanted, image, source = wanted_settings(preset, settings, given_of(image, video), pipeline, without)
    sink = started_sink(sink, wanted, processes)
    started = time.perf_counter()
    check = partial(check_request, prompt=prompt, settings=wanted, image=image, embeds=embeds, kept=beginning)
    if pipeline is None:
        pipeline, embeds = load_for_clip(prompt, wanted, options, embeds, loras_to_load(loras), source, check)
    recipe = _recipe(prompt, noise, wanted, options, pipeline, image, beginning)
    tell_unfit(recipe.settings, pipeline, preset)
    return make_clip(
        recipe,
        pipeline,
        image=image,
        beginning=beginning,
        text_encoders=text_encoders,
        workers=workers,
        processes=processes,
        started=started,
        progress=progress,
        on_step=on_step,
        on_unit=on_unit,
        on_chunk=on_chunk,
        sink=sink,
        prompt_embeds=embeds,
    )


@settings_listed
def encode_prompts(
    prompts: Sequence[str],
    *,
    preset: str | Path | Preset | None = None,
    device: str | None = None,
    determinism: DeterminismLevel = "strict",
    progress: bool = True,
    **settings: Unpack[Settings],
) -> EncodedTexts:
    """Encode prompts for clips that are made later without text encoders: `generate(prompt_embeds=...)`.

    Only the text encoders are loaded. Every prompt is encoded with its suffix from the settings, and their
    negative prompt as well, each text alone; the clips equal those that `generate` makes without this.

    Args:
        prompts: the clips' prompts.
        preset: see `generate`.
        device: where they are encoded; default: the accelerator if there is one, else the CPU.
        determinism: "strict" or "relaxed".
        progress: show a progress bar on standard error.
        settings: values that replace the preset's; for encoding, model, variant, dtype, max_sequence_length,
            prompt_suffix and negative_prompt matter. See below.

    Raises:
        ValueError, TypeError: an argument does not fit; nothing has been computed yet.
    """
    check_list("prompts", prompts, "at least one str")
    if not prompts:
        raise TypeError("prompts must be a list of at least one str, got none")
    for prompt in prompts:
        check_prompt(prompt)
    RunOptions(device, determinism=determinism).check()
    preset = preset if preset is None or isinstance(preset, Preset) else load_preset(preset)
    wanted, _, _ = wanted_settings(preset, settings, None, None, PARTS_WITHOUT_TEXT)
    texts = [prompt + wanted.prompt_suffix for prompt in prompts]
    return shared_pipeline.encoded([*texts, wanted.negative_prompt], wanted, device, determinism, progress)


def _noise(
    seed: int | None, device: str, branches: Sequence[Branch], processes: Processes | None
) -> NoiseStreams:
    """The noise of a clip; without a seed, from a root of the operating system, one for all processes.

    Raises:
        ValueError, TypeError: the seed is not one, or the branches do not rise.
    """
    check_list("branches", branches, "Branch")
    root = root_from_entropy() if seed is None else plain_root(seed)
    if seed is None and processes is not None:
        root = processes.from_first(root)
    return NoiseStreams(root, device, branches)


def started_sink(
    sink: FrameFile | None, settings: Preset, processes: Processes | None = None
) -> FrameFile | None:
    """The sink, ready for frames of a clip with these settings; None if other processes have the frames."""
    if sink is None or not has_frames(processes):
        return None
    sink.start(settings.fps, settings.scale, (settings.height, settings.width))
    return sink


def wanted_settings(
    preset: Preset | None,
    settings: Settings,
    image: Any,
    pipeline: ClipPipeline | None,
    without: Sequence[str],
) -> tuple[Preset, Any, RecognisedModel | None]:
    """The settings of a clip, its image or video in their size; if files were read, which model it is."""
    sources: list[RecognisedModel] = []

    def source_of(model: str, variant: str | None) -> RecognisedModel:
        sources.append(shared_pipeline.source(model, variant, without))
        return sources[0]

    def choose(values: Settings) -> Preset:
        if preset is not None or pipeline is None:
            return chosen_settings(preset, values, source_of)
        model = "the pipeline's model" if pipeline.source is None else pipeline.source.description
        return settings_of_model(model, pipeline.preset, values, pipeline.geometry.num_stages)

    if image is None:
        wanted = choose(settings)
    else:
        height, width = first_frames(image, 1)[0].shape[-2:]
        wanted = sized_by_image(image, (height, width), settings, preset, choose)
    return wanted, in_clip_size(image, wanted), next(iter(sources), None)


def _recipe(
    prompt: str,
    noise: NoiseStreams,
    settings: Preset,
    options: RunOptions,
    pipeline: ClipPipeline,
    image: Any,
    beginning: Beginning | None,
) -> Recipe:
    """How a clip is to be made, with the pipeline's actual model in place of the settings' model."""
    settings = replace(settings, dtype=dtype_name(pipeline.transformer.dtype))
    if (source := pipeline.source) is not None:
        settings = replace(settings, model=source.name, variant=source.variant)
    return Recipe(
        prompt=prompt,
        seed=noise.root,
        branches=noise.branches,
        settings=settings,
        noise_device=options.noise_device,
        determinism=options.determinism,
        attention=options.attention,
        compiled=pipeline.is_compiled,
        image_digest=image_digest(image) if beginning is None else beginning.image_digest,
        video_frames=image.num_frames if isinstance(image, GivenVideo) else None,
        vae_tiling=pipeline.vae_tiling,
    )


def make_clip(
    recipe: Recipe,
    pipeline: ClipPipeline,
    *,
    image: PipelineImageInput | None = None,
    beginning: Beginning | None = None,
    text_encoders: AfterUse = "keep",
    workers: int | None = None,
    processes: Processes | None = None,
    started: float | None = None,
    progress: bool = True,
    on_step: Callable[..., dict[str, Any] | None] | None = None,
    on_unit: Callable[[int, int, torch.Tensor, StageDigests], None] | None = None,
    on_chunk: OnFrames | None = None,
    sink: FrameFile | None = None,
    prompt_embeds: str | Path | EncodedTexts | None = None,
) -> Clip:
    """Make the clip of a recipe with the model given, see `generate`.

    Args:
        recipe: how to make it; a size that it shares with the image is the image's.
        pipeline: the model.
        started: when loading it began, in seconds of `time.perf_counter`; None if it was loaded already.
        image: or a `GivenVideo`, see `given_of`.
        beginning, text_encoders, workers, processes, progress, on_step, on_unit, on_chunk, sink: see
            `generate`.
        prompt_embeds: its texts, encoded in advance; None: encode them.
    """
    started = time.perf_counter() if started is None else started
    embeds = opened_texts(prompt_embeds)
    (weights, weights_note), loras = weights_of(pipeline, embeds), lora_rows(pipeline)
    arguments = call_arguments(recipe, pipeline, image=image, beginning=beginning, embeds=embeds)
    loaded = time.perf_counter()
    environment = environment_fingerprint(
        pipeline._execution_device,
        pipeline.transformer.dtype,
        pipeline.attention_backend or attention_backend_at(recipe.determinism),
        recipe.determinism,
    )
    if processes is not None:  # a clip from two kinds of kernels is not repeatable
        processes.check_same("machine, packages and weights", (environment, weights, loras))
    counter = FrameCounter()

    def on_frames(clip: int, chunk: int, frames: Frames) -> None:
        counter.add(frames)
        if sink is not None:
            sink.write(frames)
        if on_chunk is not None:
            on_chunk(clip, chunk, frames)

    with pipeline.vae_tiling_set(recipe.vae_tiling):
        output = pipeline(
            text_encoders=text_encoders,
            workers=workers,
            processes=processes,
            output_type="uint8" if sink is None and has_frames(processes) else "latent",
            show_progress=progress,
            callback_on_step_end=on_step,
            callback_on_unit_end=on_unit,
            callback_on_chunk_end=on_frames,
            **arguments,
        )
    facts = counter.facts()
    if processes is not None:
        facts = FrameFacts.from_json(processes.text_of_first(facts.to_json()))
    length = recipe.settings.max_sequence_length
    encoded = {"the prompt": recipe.prompt + recipe.settings.prompt_suffix}
    if "negative_prompt" in output.text_digests[0]:
        encoded["the negative prompt"] = recipe.settings.negative_prompt
    cuts = [cut for name, text in encoded.items() for cut in pipeline.text_cuts(text, length, name)]
    settings = replace(recipe.settings, height=facts.height, width=facts.width, num_frames=facts.num_frames)
    return Clip(
        recipe=replace(
            recipe,
            settings=settings,
            attention=output.attention,
            compiled=pipeline.is_compiled,
            cache=pipeline.cache_in_use,
            quantization=pipeline.quantization,
        ),
        source=pipeline.source,
        weights=weights,
        weights_note=weights_note,
        loras=loras,
        geometry=pipeline.geometry,
        frame_facts=facts,
        latents=output.latents,
        ledger=output.ledgers[0],
        text_digests=output.text_digests[0],
        stage_digests=tuple(output.stage_digests[0]),
        environment=environment,
        text_environment=None if embeds is None or embeds.environment == environment else embeds.environment,
        load_seconds=loaded - started,
        seconds=time.perf_counter() - loaded,
        notes=(*cuts, *untrained(settings, pipeline.preset)),
        held_frames=output.frames[0] if sink is None and has_frames(processes) else None,
        frame_file=sink,
    )


def call_arguments(
    recipe: Recipe,
    pipeline: ClipPipeline,
    *,
    image: PipelineImageInput | None,
    beginning: Beginning | None,
    embeds: EncodedTexts | None,
) -> dict[str, Any]:
    """Arguments of a pipeline's call that determine a recipe's clip; raises as `check_request`.

    Args:
        recipe, pipeline, image, beginning: see `make_clip`.
        embeds: its texts, encoded in advance; None: encode them.
    """
    arguments = _arguments(recipe.settings, image)
    if embeds is None:
        arguments["prompt"] = recipe.prompt
    else:
        request = check_request(pipeline.geometry, recipe.prompt, recipe.settings, image, embeds)
        texts = texts_of(recipe.prompt, recipe.settings, request)
        embeds.check_beginning({} if beginning is None else beginning.text_digests, *texts)
        del arguments["negative_prompt"]
        arguments |= embeds.arguments(*texts)
    return arguments | {
        "beginning": beginning,
        "noise": NoiseStreams(recipe.seed, recipe.noise_device, recipe.branches),
        "determinism": recipe.determinism,
        "attention": recipe.attention,
    }


def _arguments(settings: Preset, image: PipelineImageInput | None) -> dict[str, Any]:
    """The pipeline's arguments from settings and image or video; a size that comes from it is left out."""
    name = "video" if isinstance(image, GivenVideo) else "image"
    arguments = pipeline_arguments(settings) | {name: image}
    if image is not None and (settings.height, settings.width) == first_frames(image, 1)[0].shape[-2:]:
        arguments |= {"height": None, "width": None}
    return arguments


def opened_texts(prompt_embeds: str | Path | EncodedTexts | None) -> EncodedTexts | None:
    """Texts that were encoded in advance, read if they are in a file; raises as `read_encoded_texts`."""
    if prompt_embeds is None or isinstance(prompt_embeds, EncodedTexts):
        return prompt_embeds
    if not isinstance(prompt_embeds, str | Path):
        raise TypeError(
            "prompt_embeds must be what encode_prompts returned, or the path of the file it was saved to, "
            f"got {type(prompt_embeds).__name__}; to pass tensors, call the pipeline itself"
        )
    return read_encoded_texts(prompt_embeds)


def parts_left_out(text_encoders: AfterUse, embeds: EncodedTexts | None) -> tuple[str, ...]:
    """The parts that a pipeline is loaded without, since its clips' texts are encoded beforehand."""
    return ENCODER_PARTS if text_encoders == "free" or embeds is not None else ()


def load_for_clip(
    prompt: str,
    settings: Preset,
    options: RunOptions,
    embeds: EncodedTexts | None,
    loras: Sequence[LoraToLoad],
    source: RecognisedModel | None = None,
    check: Callable[[PyramidGeometry], object] = lambda _: None,
) -> tuple[ClipPipeline, EncodedTexts | None]:
    """The shared pipeline for a clip, and its texts if that pipeline has no text encoders.

    Args:
        prompt, settings: the clip's.
        options: their device, compile, determinism and text_encoders are used.
        embeds: texts that were encoded in advance; None: encode them.
        loras, source, check: see `SharedPipeline.get`.
    """
    without = parts_left_out(options.text_encoders, embeds)
    if without and embeds is None:
        source = checked_source(settings, check, source, loras, without)
        request = check_request(source.geometry, prompt, settings)
        texts = [text for text in texts_of(prompt, settings, request) if text is not None]
        embeds = shared_pipeline.encoded(texts, settings, options.device, options.determinism)
    pipeline = shared_pipeline.get(
        settings, options.device, options.compile, check, source, loras, without, embeds
    )
    return pipeline, embeds


def texts_of(prompt: str, settings: Preset, request: Request) -> tuple[str, str | None]:
    """The texts to encode for a clip: its prompt with the suffix, and its negative prompt if it is guided."""
    return prompt + settings.prompt_suffix, settings.negative_prompt if request.needs_negative else None


def check_request(
    geometry: PyramidGeometry,
    prompt: str,
    settings: Preset,
    image: PipelineImageInput | None = None,
    embeds: EncodedTexts | None = None,
    kept: Beginning | None = None,
) -> Request:
    """What a model of this geometry is to make of a prompt, settings and image.

    Args:
        geometry: the model's.
        prompt, settings, image: the clip's.
        embeds: texts that were encoded in advance, which must be the clip's.
        kept: the clip's beginning, of which only the image is checked: the rest needs the model's channels.

    Raises:
        ValueError, TypeError: as the pipeline would raise, but before it is loaded.
    """
    arguments = _arguments(settings, image)
    del arguments["prompt_suffix"], arguments["shards"]  # any suffix will do, and shards need the transformer
    request = check_call(
        geometry,
        1,
        (1, 1),
        prompt=prompt,
        embeddings=dict.fromkeys(EMBEDDINGS),
        **arguments,
    )
    if embeds is not None:
        texts = texts_of(prompt, settings, request)
        embeds.check(*texts, settings.max_sequence_length, settings.dtype)
    if kept is not None:
        check_image_of_beginning(kept, request.image(0), request.image_role)
    return request


def tell_unfit(settings: Preset, pipeline: ClipPipeline, preset: Preset | None = None) -> None:
    """Warn if a preset is for another model, or settings go beyond what the model was trained for."""
    source = pipeline.source
    if preset is not None and source is not None and (what := misfit(preset, settings, lambda *_: source)):
        logger.warning(what)
    for note in untrained(settings, pipeline.preset):
        logger.warning(note)


def check_watchers(sink: FrameFile | None, **callbacks: object) -> None:
    """Refuse callbacks that cannot be called, and a sink of another type: TypeError."""
    check_kinds(sink=(sink, FrameFile))
    for name, callback in callbacks.items():
        if callback is not None and not callable(callback):
            raise TypeError(f"{name} must be a function, got {type(callback).__name__}")


def weights_of(
    pipeline: ClipPipeline, embeds: EncodedTexts | None = None
) -> tuple[tuple[dict[str, Any], ...] | None, str | None]:
    """Name, size and SHA-256 of the files that hold a pipeline's weights.

    Args:
        pipeline: the model.
        embeds: texts that were encoded in advance; the files that encoded them are then included.

    Returns:
        None if no files hold them, and then the reason.

    Raises:
        ValueError, OSError: see `ModelSource.weights` and `EncodedTexts.with_rows`.
    """
    if pipeline.source is None or pipeline.loaded_weights is None:
        return None, "the pipeline was not loaded by load_pipeline"
    is_fused = any(lora.fused for lora in pipeline.loras_in_use() or ())
    if change := pipeline.loaded_weights.change(pipeline.components, is_fused=is_fused):
        return None, change
    rows = pipeline.source.weights
    return rows if embeds is None else embeds.with_rows(rows), None


def lora_rows(pipeline: ClipPipeline) -> tuple[dict[str, Any], ...] | None:
    """The active LoRAs of a pipeline, as a manifest names them; None if they cannot be known."""
    loras = pipeline.loras_in_use()
    return None if loras is None else tuple(lora.row() for lora in loras)


def image_digest(image: Any) -> str | None:
    """SHA-256 of an image's pixels as float32 in [-1, 1], (1, 3, H, W), little endian; None if none.

    Of a `GivenVideo`, its digest.
    """
    return None if image is None else given_digest(first_frames(image, 1)[0])


def _check_options(
    options: RunOptions, pipeline: ClipPipeline | None, loras: Mapping[str | Path, float] | None
) -> None:
    """Refuse options that cannot work here, and, for a pipeline passed in, those that act on loading.

    Raises:
        ValueError, TypeError: an option is refused, or the pipeline is not complete.
    """
    options.check()
    check_kinds(pipeline=(pipeline, ClipPipeline))
    if pipeline is None:
        return
    if loras:
        raise ValueError(
            "loras are for a pipeline that generate loads; on your own, call pipeline.load_lora_weights()"
        )
    if options.compile:
        raise ValueError(
            "compile is for a pipeline that generate loads; on "
            "your own, call pipeline.transformer.compile_repeated_blocks()"
        )
    checked_pipeline(pipeline)


def checked_pipeline(pipeline: ClipPipeline) -> ClipPipeline:
    """The pipeline, if it is complete and its files have not changed since loading; else ValueError."""
    pipeline.check_parts()
    if pipeline.source is not None:
        pipeline.source.check_unchanged()
    return pipeline

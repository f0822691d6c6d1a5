"""What most people need: `generate` and `load_pipeline`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Unpack

import torch
from diffusers import PipelineQuantizationConfig
from diffusers.image_processor import PipelineImageInput

from .checkpoints.load import default_dtype_kept, load_components, load_saved_models
from .checkpoints.loaded_weights import LoadedWeights
from .checkpoints.source import (
    PUBLISHED_GEOMETRY,
    PUBLISHED_MODELS,
    ModelSource,
    RecognisedModel,
    read_source,
    recognise_model,
)
from .checks import check_finite
from .choices import AfterUse, AttentionPath, DeterminismLevel
from .clip import Clip
from .determinism import ask_for_cublas_workspace, attention_backend_at
from .devices import usable_device
from .dtypes import check_dtype, dtype_name, torch_dtype
from .environment import environment_fingerprint
from .extras import check_extra
from .first_image import in_clip_size, sized_by_image
from .geometry import PyramidGeometry
from .media.frame_facts import FrameCounter, FrameFacts
from .media.frame_file import FrameFile
from .media.frames import Frames
from .model_presets import chosen_settings, misfit, preset_of_model
from .models.lora import check_lora, check_lora_fits, lora_of_file
from .models.transformer_pyramid_base import PyramidTransformer3DModel
from .noise import Branch, NoiseStreams, noise_digest, root_from_entropy
from .pieces.processes import Processes, has_frames
from .pipelines import PyramidFlowPipeline
from .pipelines.beginning import Beginning
from .pipelines.first_frames import first_frames, opened
from .pipelines.frame_collector import OnFrames
from .pipelines.inputs import Request, check_call
from .pipelines.memory import unmap_weights
from .pipelines.out_of_memory import out_of_memory_advice
from .pipelines.sharing import check_shards
from .pipelines.stages import StageDigests
from .pipelines.text_inputs import EMBEDDINGS
from .presets import (
    Preset,
    Settings,
    load_preset,
    pipeline_arguments,
    preset_config,
    settings_listed,
    settings_of_model,
    untrained,
)
from .recipe import Recipe
from .run_options import RunOptions
from .seeds import plain_root
from .texts import check_prompt

logger = logging.getLogger(__name__)

_LOADING = threading.Lock()
"""Held while weights are read: torch's modules are empty for the whole process meanwhile."""


def load_pipeline(
    path_or_hub_id: str | Path,
    *,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    compile: bool = False,
    device_map: str | None = None,
    quantization_config: PipelineQuantizationConfig | None = None,
    **options: Any,
) -> PyramidFlowPipeline:
    """Load a model, ready to be called. Its family is recognised; `pipeline.source` says which model it is.

    Args:
        path_or_hub_id: a folder in the layout of the published checkpoints, a folder that `save_pretrained`
            wrote, a hub id of either, or `embedded:tiny`.
        variant: "384p", "768p" or "image": which transformer of a published checkpoint; None if there is one.
            Of what `save_pretrained(variant=...)` wrote, that variant.
        dtype: torch.float32 or torch.bfloat16; fp16 overflows in these models.
        device: where to put it; default: the accelerator if there is one, else the CPU.
        compile: run the transformer's blocks through `torch.compile`: the first call takes minutes, later
            ones are faster, and results differ in the last bits.
            `pipeline.transformer.compile_repeated_blocks` has more options.
        device_map: a device, as diffusers has it; the same as `device`. Others are refused: a clip is made on
            one device.
        quantization_config: quantise the transformer while it is read, of a folder that `save_pretrained`
            wrote; a manifest tells it. One that was saved quantised is read as it is, without this.
        options: revision, cache_dir, token, local_files_only, of a hub id; and parts that are left out, as
            `vae=None` for a pipeline that gives latents, `transformer=None` for one that encodes texts,
            `text_encoder=None, text_encoder_2=None` ... for one that is given embeddings.

    Raises:
        ValueError: the dtype, variant or device does not exist, a part cannot be left out, or a file is
            missing or wrong; file and layout are named.
        TypeError: an option does not exist, or a part was given in place of None.
        FileNotFoundError: there is no such folder.
        OSError: the hub cannot be asked.
        GenerationOutOfMemoryError: the weights do not fit on the device; what would fit is named.
    """
    check_dtype(dtype)
    if device_map is not None:
        device = _device_of_map(device_map, device)
    target = default_device() if device is None else usable_device(device)
    without = _left_out(options, compile=compile)
    if quantization_config is not None:
        _check_quantised(quantization_config)
    source = read_source(path_or_hub_id, variant=variant, **options)
    if quantization_config is not None and source.layout != "diffusers":
        raise ValueError(
            f"quantization_config is for what save_pretrained wrote, {source.folder} is in the original's "
            "layout; load it without, call pipeline.save_pretrained(folder), and load that folder"
        )
    return _load(source, dtype, target, compile, without=without, quantization_config=quantization_config)


def _check_quantised(config: PipelineQuantizationConfig) -> None:
    """Refuse to quantise parts of which no manifest would tell: ValueError; TypeError for other configs."""
    check_kinds(quantization_config=(config, PipelineQuantizationConfig))
    parts = list(config.quant_mapping or config.components_to_quantize or ["every part"])
    if parts != ["transformer"]:
        raise ValueError(
            f"quantization_config must name the transformer alone, got {', '.join(parts)}; use "
            'quant_mapping={"transformer": ...} or components_to_quantize="transformer"'
        )


def _device_of_map(device_map: str, device: str | torch.device | None) -> str:
    """The device that a `device_map` names; ValueError if it spreads the parts, or another one is named."""
    if not isinstance(device_map, str) or device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        raise ValueError(
            f"device_map must name one device, such as 'cuda', got {device_map!r}, as a clip is made on one; "
            "where the model does not fit, use pipeline.enable_model_cpu_offload() or enable_group_offload()"
        )
    if device is not None:
        raise ValueError(f"give either device or device_map, got {device!r} and {device_map!r}")
    return device_map


def _left_out(options: dict[str, Any], *, compile: bool) -> tuple[str, ...]:
    """Names of the parts that `load_pipeline` is to leave out; they go out of its options."""
    parts = [name for name in signature(PyramidFlowPipeline).parameters if name in options]
    parts = [name for name in parts if name != "preset"]
    for name in parts:
        if options.pop(name) is not None:
            raise TypeError(f"{name} can only be left out ({name}=None); set pipeline.{name} after loading")
    if "scheduler" in parts:
        raise ValueError("scheduler cannot be left out: it is made of its config alone, and is always there")
    if compile and "transformer" in parts:
        raise ValueError("compile is for the transformer, which is left out; leave out one of the two")
    return tuple(parts)


def _load(
    source: ModelSource,
    dtype: torch.dtype,
    target: torch.device,
    compile: bool,
    loras: Sequence[LoraToLoad] = (),
    *,
    without: Sequence[str] = (),
    quantization_config: PipelineQuantizationConfig | None = None,
) -> PyramidFlowPipeline:
    """The pipeline of a model whose files have been read, with LoRAs; see `load_pipeline`."""
    preset = preset_of_model(source)
    ask_for_cublas_workspace()
    with _LOADING:
        if source.layout == "diffusers":
            pipeline = _load_saved(source, dtype, without, quantization_config)
        else:
            pipeline = PyramidFlowPipeline(**load_components(source, dtype, without))
    pipeline.source = source
    if preset is not None:
        pipeline.register_to_config(preset=preset_config(preset))
    with out_of_memory_advice(pipeline, first="load with device='cpu', then what "):
        pipeline.to(target)
    pipeline.loaded_weights = LoadedWeights.of(pipeline.components)
    if loras:
        _load_loras(pipeline, loras)
    if compile:
        pipeline.transformer.compile_repeated_blocks()
    return pipeline


def _load_saved(
    source: ModelSource,
    dtype: torch.dtype,
    without: Sequence[str],
    quantization_config: PipelineQuantizationConfig | None,
) -> PyramidFlowPipeline:
    """What `save_pretrained` wrote, all weights of which must be there, but for parts that are left out."""
    folder = source.folder
    # A quantised transformer is read by diffusers, which maps it.
    is_quantised = quantization_config is not None or source.quantization is not None
    models = load_saved_models(source, dtype, {*without, "transformer"} if is_quantised else without)
    try:
        with default_dtype_kept():
            pipeline = PyramidFlowPipeline.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                variant=source.variant,
                quantization_config=quantization_config,
                **models,
                **dict.fromkeys(without),
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # broken files raise anything here
        raise ValueError(f"{folder} cannot be loaded: {error}") from error
    if is_quantised and (transformer := pipeline.transformer) is not None:
        missing = sorted(name for name, value in transformer.state_dict().items() if value.is_meta)
        if missing:
            raise ValueError(f"{folder}/transformer must hold all weights, missing: {', '.join(missing)}")
        unmap_weights(transformer)
    return pipeline


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


@dataclass(frozen=True)
class LoraToLoad:
    """A LoRA that a model is to be loaded with.

    Attributes:
        adapter: its name in the pipeline.
        file: the .safetensors.
        scale: factor on what it adds.
        sha256: of the file.
        fused: whether it is added to the weights.
        padded_rank: the rank to which its matrices are filled up with zeros, see `LoraInUse`.
    """

    adapter: str
    file: Path
    scale: float
    sha256: str
    fused: bool = False
    padded_rank: int | None = None


def loras_to_load(loras: Mapping[str | Path, float] | None) -> tuple[LoraToLoad, ...]:
    """LoRAs as `generate` takes them, found and looked at.

    Raises:
        ValueError: peft is not installed, a file is no LoRA, or a scale is no finite number.
        TypeError: a scale is no number. FileNotFoundError, OSError: a file is not there.
    """
    if not loras:
        return ()
    check_extra("lora", "peft")
    found = []
    for index, (source, scale) in enumerate(loras.items()):
        check_finite(f"the scale of the LoRA {source}", scale)
        file = check_lora(source)
        found.append(LoraToLoad(f"lora_{index}", file, float(scale), lora_of_file("", file).sha256))
    return tuple(found)


def check_loras_fit(loras: Sequence[LoraToLoad], source: RecognisedModel) -> None:
    """Refuse LoRAs of another model, from configs alone: ValueError; it names what the model lacks."""
    if loras:
        transformer = source.empty_transformer()
        for lora in loras:
            check_lora_fits(lora.file, transformer)


def check_shards_fit(shards: int | None, source: RecognisedModel) -> None:
    """Refuse shards into which a model cannot be cut, from its config alone; raises as `check_shards`."""
    if shards is not None:
        transformer = source.empty_transformer()
        assert isinstance(transformer, PyramidTransformer3DModel)  # of both families
        check_shards(shards, transformer)


def _load_loras(pipeline: PyramidFlowPipeline, loras: Sequence[LoraToLoad]) -> None:
    """Put LoRAs into a pipeline that has none."""
    if ranks := [lora.padded_rank for lora in loras if lora.padded_rank is not None]:
        pipeline.enable_lora_hotswap(target_rank=max(ranks))
    names = [lora.adapter for lora in loras]
    for lora in loras:
        pipeline.load_lora_weights(lora.file, adapter_name=lora.adapter)
    pipeline.set_adapters(names, [lora.scale for lora in loras])
    if loras[0].fused:
        pipeline.fuse_lora(adapter_names=names)


class SharedPipeline:
    """The pipeline of this process: loaded once, also if several threads ask; asking for another drops it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: tuple[object, ...] | None = None
        self._pipeline: PyramidFlowPipeline | None = None
        self._read: dict[tuple[str, str | None], RecognisedModel] = {}  # the last one, by model and variant
        self.num_loads = 0

    def get(
        self,
        settings: Preset,
        device: str | None = None,
        compile: bool = False,
        check: Callable[[PyramidGeometry], object] = lambda _: None,
        source: RecognisedModel | None = None,
        loras: Sequence[LoraToLoad] = (),
    ) -> PyramidFlowPipeline:
        """The pipeline of these settings and LoRAs, loaded again if its files have changed.

        Args:
            settings: name the model, its variant and dtype.
            device, compile: see `load_pipeline`.
            source: the same model, if its files have just been read.
            check: called with the model's geometry before its weights are downloaded or loaded; what it
                raises is passed on.
            loras: as `loras_to_load` gives them. With others it is another pipeline: nobody's are exchanged
                while a clip is made.
        """
        if settings.model in PUBLISHED_MODELS:
            check(PUBLISHED_GEOMETRY)
        key = (settings.model, settings.variant, settings.dtype, device, compile, tuple(loras))
        with self._lock:
            if self._pipeline is not None and self._key == key:
                held = self._pipeline.source
                if held is None or held is source or not held.changed_files():
                    return self._pipeline
            self._key = self._pipeline = None  # so that its memory is free while the next one is loaded
            target = default_device() if device is None else usable_device(device)
            read = self._read.pop((settings.model, settings.variant), None)
            if source is None and read is not None and not read.changed_files():
                source = read
            source = source or recognise_model(settings.model, variant=settings.variant)
            check(source.geometry)
            check_loras_fit(loras, source)
            check_shards_fit(settings.shards, source)
            self._pipeline = _load(source.fetched(), torch_dtype(settings.dtype), target, compile, loras)
            self._key = key
            self.num_loads += 1
            return self._pipeline

    def source(self, model: str, variant: str | None) -> RecognisedModel:
        """Which model that is: as the pipeline here has it, unless its files have changed, or read now."""
        with self._lock:
            held = None if self._pipeline is None else self._pipeline.source
            if held is None or self._key is None or self._key[:2] != (model, variant) or held.changed_files():
                read = recognise_model(model, variant=variant)
                self._read = {(model, variant): read}
                return read
            return held

    def clear(self) -> None:
        """Let the pipeline go."""
        with self._lock:
            self._key = self._pipeline = None


shared_pipeline = SharedPipeline()


@settings_listed
def generate(
    prompt: str,
    *,
    seed: int | None = None,
    branches: Sequence[Branch] = (),
    preset: str | Path | Preset | None = None,
    image: PipelineImageInput | str | Path | None = None,
    beginning: Beginning | None = None,
    device: str | None = None,
    noise_device: str = "cpu",
    determinism: DeterminismLevel = "strict",
    text_encoders: AfterUse = "keep",
    attention: AttentionPath | None = None,
    compile: bool = False,
    workers: int | None = None,
    processes: Processes | None = None,
    loras: Mapping[str | Path, float] | None = None,
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
        preset: a preset's name, a YAML file, or a `Preset`; default: the settings that the model is made
            for, see `model_presets.preset_of_model`, and without a model those of "tiny".
        image: the first frame, or its file. Without `height`, `width` and `fit` its size is the clip's, or
            that of the small image, where every pixel is shown `scale` x `scale`.
        beginning: the clip's first units, from an earlier run of the same clip: they are not computed again,
            and the clip is the same. Not together with an image.
        device: where the model runs; default: the accelerator if there is one, else the CPU.
        noise_device: where noise is drawn; the CPU's is the same on all machines.
        determinism: "strict" or "relaxed".
        text_encoders: once the text is encoded, "keep" the encoders, "offload" them to the CPU, or "free"
            their memory for the rest; a pipeline that was given can then encode no other text.
        attention: "grouped", "prefix" or "reference", see `AttentionPath`; default: as the pipeline has it,
            "grouped" if nobody set another. They differ in the last bits.
        compile: see `load_pipeline`.
        workers: threads that compute at a time at level strict on a CPU; the clip is the same with any
            number. Default: all cores that this process may use.
        processes: those that make this clip together, see `processes_of_launch`; each makes the same call,
            and the setting `shards` says into which pieces the work is cut. All get the clip, but only the
            first one its frames, and only its sink is written to.
        loras: files of LoRAs, each with its scale, such as {"style.safetensors": 0.7}, in the order in which
            they are added. Needs peft.
        pipeline: use this one instead of loading the preset's model; compiled or not, as it is.
        progress: show a progress bar on standard error, as the pipeline has it configured.
        on_step: `callback_on_step_end` of the pipeline.
        on_unit: `callback_on_unit_end` of the pipeline.
        on_chunk: `callback_on_chunk_end` of the pipeline.
        sink: encode the frames as they come and hold none, so that memory does not grow with the clip; see
            `media.frame_file.FrameFile`. The clip can be saved as long as it is open.
        settings: values that replace the preset's, such as num_frames=33 or guidance_scale=4.0, see below.

    Raises:
        ValueError, TypeError: an argument does not fit; nothing has been computed then.
    """
    check_prompt(prompt)
    check_watchers(sink, on_step=on_step, on_unit=on_unit, on_chunk=on_chunk)
    check_kinds(branches=(branches, Sequence), loras=(loras, Mapping), beginning=(beginning, Beginning))
    check_kinds(pipeline=(pipeline, PyramidFlowPipeline))
    for branch in branches:
        check_kinds(branches=(branch, Branch))
    options = RunOptions(device, noise_device, determinism, attention, compile, workers, text_encoders)
    options.check()
    # Refuses what is no seed, and branches that do not rise.
    root = root_from_entropy() if seed is None else plain_root(seed)
    if processes is not None:
        check_kinds(processes=(processes, Processes))
        root = processes.from_first(root) if seed is None else root
    noise = NoiseStreams(root, noise_device, branches)
    if pipeline is not None:
        checked_pipeline(pipeline)
    preset = preset if preset is None or isinstance(preset, Preset) else load_preset(preset)
    wanted, image, source = _wanted(preset, settings, opened(image), pipeline)
    frame = None if image is None else first_frames(image, 1)[0]
    sink = started_sink(sink, wanted, processes)
    started = time.perf_counter()
    check = partial(check_request, prompt=prompt, settings=wanted, image=image)
    pipeline = _pipeline_for(wanted, options, loras, pipeline, check, source)
    digest = frame_digest(frame) if beginning is None else beginning.image_digest
    recipe = _recipe(prompt, noise.root, branches, wanted, options, pipeline, digest)
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
    )


def started_sink(
    sink: FrameFile | None, settings: Preset, processes: Processes | None = None
) -> FrameFile | None:
    """The sink, ready for frames of a clip of these settings; None where other processes have the frames."""
    if sink is None or not has_frames(processes):
        return None
    sink.start(settings.fps, settings.scale)
    return sink


def _wanted(
    preset: Preset | None, settings: Settings, image: Any, pipeline: PyramidFlowPipeline | None
) -> tuple[Preset, Any, RecognisedModel | None]:
    """The settings of a clip, its image in their size, and which model it is, where its files were read."""
    sources: list[RecognisedModel] = []

    def source_of(model: str, variant: str | None) -> RecognisedModel:
        sources.append(shared_pipeline.source(model, variant))
        return sources[0]

    def choose(values: Settings) -> Preset:
        if preset is not None or pipeline is None:
            return chosen_settings(preset, values, source_of)
        model = "the pipeline's model" if pipeline.source is None else pipeline.source.description
        return settings_of_model(model, pipeline.preset, values)

    if image is None:
        wanted = choose(settings)
    else:
        height, width = first_frames(image, 1)[0].shape[2:]
        wanted = sized_by_image(image, (height, width), settings, preset, choose)
    return wanted, in_clip_size(image, wanted), next(iter(sources), None)


def _recipe(
    prompt: str,
    root: int,
    branches: Sequence[Branch],
    settings: Preset,
    options: RunOptions,
    pipeline: PyramidFlowPipeline,
    image_digest: str | None,
) -> Recipe:
    """How a clip is to be made, with what the pipeline really is in place of the settings' model."""
    settings = replace(settings, dtype=dtype_name(pipeline.transformer.dtype))
    if (source := pipeline.source) is not None:
        settings = replace(settings, model=source.name, variant=source.variant)
    return Recipe(
        prompt=prompt,
        seed=root,
        branches=tuple(branches),
        settings=settings,
        noise_device=options.noise_device,
        determinism=options.determinism,
        attention=options.attention,
        compiled=pipeline.is_compiled,
        image_digest=image_digest,
        vae_tiling=pipeline.vae.tiling,
    )


def make_clip(
    recipe: Recipe,
    pipeline: PyramidFlowPipeline,
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
) -> Clip:
    """Make the clip of a recipe with the model that it names, see `generate`.

    Args:
        recipe: how it is to be made; a size that it shares with the image is the image's.
        pipeline: the model.
        started: when loading it began, in seconds of `time.perf_counter`; None if it was there already.
        image, beginning, text_encoders, workers, processes, progress, on_step, on_unit, on_chunk, sink: see
            `generate`.
    """
    started = time.perf_counter() if started is None else started
    (weights, weights_note), loras = weights_of(pipeline), lora_rows(pipeline)
    loaded = time.perf_counter()
    environment = environment_fingerprint(
        pipeline._execution_device,
        pipeline.transformer.dtype,
        pipeline.transformer.attention_backend or attention_backend_at(recipe.determinism),
        recipe.determinism,
    )
    if processes is not None:  # a clip of two kinds of kernels could not be made again
        processes.check_same("machine, packages and weights", (environment, weights, loras))
    counter = FrameCounter()

    def on_frames(clip: int, chunk: int, frames: Frames) -> None:
        counter.add(frames)
        if sink is not None:
            sink.write(frames)
        if on_chunk is not None:
            on_chunk(clip, chunk, frames)

    with pipeline.vae.tiling_set(recipe.vae_tiling):
        output = pipeline(
            recipe.prompt,
            beginning=beginning,
            noise=NoiseStreams(recipe.seed, recipe.noise_device, recipe.branches),
            text_encoders=text_encoders,
            workers=workers,
            processes=processes,
            output_type="uint8" if sink is None and has_frames(processes) else "latent",
            determinism=recipe.determinism,
            attention=recipe.attention,
            show_progress=progress,
            callback_on_step_end=on_step,
            callback_on_unit_end=on_unit,
            callback_on_chunk_end=on_frames,
            **_arguments(recipe.settings, image),
        )
    facts = counter.facts()
    if processes is not None:
        facts = FrameFacts.from_json(processes.text_of_first(facts.to_json()))
    length = recipe.settings.max_sequence_length
    texts = {"the prompt": recipe.prompt + recipe.settings.prompt_suffix}
    if "negative_prompt" in output.text_digests[0]:
        texts["the negative prompt"] = recipe.settings.negative_prompt
    cuts = [cut for name, text in texts.items() for cut in pipeline.text_cuts(text, length, name)]
    settings = replace(recipe.settings, height=facts.height, width=facts.width, num_frames=facts.num_frames)
    return Clip(
        recipe=replace(
            recipe,
            settings=settings,
            attention=output.attention,
            compiled=pipeline.is_compiled,
            cache=pipeline.transformer.cache_in_use,
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
        load_seconds=loaded - started,
        seconds=time.perf_counter() - loaded,
        notes=(*cuts, *untrained(settings, pipeline.preset)),
        held_frames=output.frames[0] if sink is None and has_frames(processes) else None,
        frame_file=sink,
    )


def _arguments(settings: Preset, image: PipelineImageInput | None) -> dict[str, Any]:
    """What the pipeline takes of settings and image; a size that is the image's is not asked for as well."""
    arguments = pipeline_arguments(settings) | {"image": image}
    if image is not None and (settings.height, settings.width) == first_frames(image, 1)[0].shape[2:]:
        arguments |= {"height": None, "width": None}
    return arguments


def check_request(
    geometry: PyramidGeometry, prompt: str, settings: Preset, image: PipelineImageInput | None = None
) -> Request:
    """What is to be made of a prompt, settings and first frame by a model of this geometry.

    Raises:
        ValueError, TypeError: what the pipeline would refuse, before it is loaded.
    """
    arguments = _arguments(settings, image)
    del arguments["prompt_suffix"], arguments["shards"]  # any text will do, and the transformer knows
    return check_call(
        geometry,
        1,
        (1, 1),
        prompt=prompt,
        embeddings=dict.fromkeys(EMBEDDINGS),
        **arguments,
    )


def tell_unfit(settings: Preset, pipeline: PyramidFlowPipeline, preset: Preset | None = None) -> None:
    """Warn of a preset that is for another model, and of what settings ask of a model beyond its training."""
    source = pipeline.source
    if preset is not None and source is not None and (what := misfit(preset, settings, lambda *_: source)):
        logger.warning(what)
    for note in untrained(settings, pipeline.preset):
        logger.warning(note)


def check_watchers(sink: FrameFile | None, **callbacks: object) -> None:
    """Refuse callbacks that cannot be called, and a sink that is none: TypeError."""
    check_kinds(sink=(sink, FrameFile))
    for name, callback in callbacks.items():
        if callback is not None and not callable(callback):
            raise TypeError(f"{name} must be a function, got {type(callback).__name__}")


def check_kinds(**arguments: tuple[object, type]) -> None:
    """Refuse arguments of another type, by name; None is none: TypeError."""
    for name, (value, kind) in arguments.items():
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")


def weights_of(pipeline: PyramidFlowPipeline) -> tuple[tuple[dict[str, Any], ...] | None, str | None]:
    """Name, size and SHA-256 of the files that a pipeline's weights are those of.

    Returns:
        None if no files hold them, and then why.

    Raises:
        ValueError, OSError: see `ModelSource.weights`.
    """
    if pipeline.source is None or pipeline.loaded_weights is None:
        return None, "the pipeline was not loaded by load_pipeline"
    is_fused = any(lora.fused for lora in pipeline.loras_in_use() or ())
    if change := pipeline.loaded_weights.change(pipeline.components, is_fused=is_fused):
        return None, change
    return pipeline.source.weights, None


def lora_rows(pipeline: PyramidFlowPipeline) -> tuple[dict[str, Any], ...] | None:
    """The LoRAs that act in a pipeline, as a manifest names them; None if that cannot be told."""
    loras = pipeline.loras_in_use()
    return None if loras is None else tuple(lora.row() for lora in loras)


def frame_digest(frame: torch.Tensor | None) -> str | None:
    """SHA-256 of a first frame's pixels as float32 in [-1, 1], (1, 3, H, W), little endian; None of none."""
    return None if frame is None else noise_digest(frame)


def _pipeline_for(
    settings: Preset,
    options: RunOptions,
    loras: Mapping[str | Path, float] | None,
    given: PyramidFlowPipeline | None,
    check: Callable[[PyramidGeometry], object],
    source: RecognisedModel | None = None,
) -> PyramidFlowPipeline:
    """The pipeline that the caller gave, or else the shared one of these settings and LoRAs."""
    if given is not None:
        if loras:
            raise ValueError(
                "loras are for a pipeline that generate loads; call pipeline.load_lora_weights() on your own"
            )
        if options.compile:
            raise ValueError(
                "compile is for a pipeline that generate loads; call "
                "pipeline.transformer.compile_repeated_blocks() on your own"
            )
        return given
    to_load = loras_to_load(loras)
    pipeline = shared_pipeline.get(settings, options.device, options.compile, check, source, to_load)
    if options.text_encoders == "free":
        shared_pipeline.clear()  # nobody else is to get what is left of it
    return pipeline


def checked_pipeline(pipeline: PyramidFlowPipeline) -> PyramidFlowPipeline:
    """The pipeline, if it is whole and its files are still those that were loaded; else ValueError."""
    pipeline.check_parts()
    if pipeline.source is not None:
        pipeline.source.check_unchanged()
    return pipeline

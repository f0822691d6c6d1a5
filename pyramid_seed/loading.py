"""Loads models from their files, with LoRAs."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from diffusers import PipelineQuantizationConfig

from . import pipelines
from .checkpoints.load import (
    default_dtype_kept,
    load_components,
    load_saved_models,
    loading_bars_hidden,
)
from .checkpoints.loaded_weights import LoadedWeights
from .checkpoints.source import ModelSource, RecognisedModel, read_source
from .checks import check_finite, check_kinds
from .determinism import ask_for_cublas_workspace
from .devices import usable_device
from .dtypes import check_dtype
from .extras import check_extra
from .families.family import Family
from .model_presets import preset_of_model
from .models.lora import check_lora, check_lora_fits, lora_of_file
from .pipelines import PyramidFlowPipeline
from .pipelines.clip_pipeline import ClipPipeline
from .pipelines.encoded_texts import EncodedTexts
from .pipelines.memory import unmap_weights
from .pipelines.out_of_memory import out_of_memory_advice
from .pipelines.text_inputs import EMBEDDINGS, check_embeddings
from .presets import preset_config

_LOADING = threading.Lock()
"""Held while weights are read, since torch's modules are then empty for the whole process."""


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
) -> ClipPipeline:
    """Load a model, ready to be called, and recognise its family; `pipeline.source` says which model it is.

    Args:
        path_or_hub_id: a folder in the layout of the published checkpoints, a folder that `save_pretrained`
            wrote, a hub id of either, or `embedded:tiny`.
        variant: "384p", "768p" or "image": which transformer of a published checkpoint; None for the only
            one. For a folder from `save_pretrained(variant=...)`, that variant.
        dtype: torch.float32 or torch.bfloat16; fp16 overflows in these models.
        device: where to put it; default: the accelerator if there is one, else the CPU.
        compile: run the transformer's blocks through `torch.compile`: the first call takes minutes, later
            ones are faster, and results differ in the last bits.
            `pipeline.transformer.compile_repeated_blocks` has more options.
        device_map: a device, as in diffusers; the same as `device`. Others are refused: a clip is made on one
            device.
        quantization_config: quantise the transformer while reading it from a folder that `save_pretrained`
            wrote; the manifest records it. A transformer saved quantised is read as it is, without this.
        options: for a hub id, revision, cache_dir, token, local_files_only; and parts to leave out, such as
            `vae=None` for a pipeline that returns latents, `transformer=None` for one that encodes texts,
            `text_encoder=None, text_encoder_2=None` ... for one that is given embeddings: their files are
            neither read nor downloaded.

    Raises:
        ValueError: the dtype, variant or device does not exist, a part cannot be left out, or a file is
            missing or wrong; the message names file and layout.
        TypeError: an option does not exist, or a part was given instead of None.
        FileNotFoundError: the folder does not exist.
        OSError: the hub cannot be reached.
        GenerationOutOfMemoryError: the weights do not fit on the device; the message names what would.
    """
    check_dtype(dtype)
    if device_map is not None:
        device = _device_of_map(device_map, device)
    target = default_device() if device is None else usable_device(device)
    without = _left_out(options, compile=compile)
    if quantization_config is not None:
        _check_quantised(quantization_config)
    source = read_source(path_or_hub_id, variant=variant, without=without, **options)
    if quantization_config is not None and source.layout != "diffusers":
        raise ValueError(
            f"quantization_config needs a folder that save_pretrained wrote, {source.folder} is in the "
            "original layout; load it without, call pipeline.save_pretrained(folder), and load that folder"
        )
    return load_source(source, dtype, target, compile, quantization_config=quantization_config)


def _check_quantised(config: PipelineQuantizationConfig) -> None:
    """Refuse to quantise parts that no manifest would record: ValueError; TypeError for other configs."""
    check_kinds(quantization_config=(config, PipelineQuantizationConfig))
    parts = list(config.quant_mapping or config.components_to_quantize or ["every part"])
    if parts != ["transformer"]:
        raise ValueError(
            f"quantization_config must name the transformer alone, got {', '.join(parts)}; use "
            'quant_mapping={"transformer": ...} or components_to_quantize="transformer"'
        )


def _device_of_map(device_map: str, device: str | torch.device | None) -> str:
    """The device that a `device_map` names; ValueError if it spreads the parts, or `device` differs."""
    if not isinstance(device_map, str) or device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        raise ValueError(
            f"device_map must name one device, such as 'cuda', got {device_map!r}, as a clip is made on one; "
            "where the model does not fit, use pipeline.enable_model_cpu_offload() or enable_group_offload()"
        )
    if device is not None:
        raise ValueError(f"give either device or device_map, got {device!r} and {device_map!r}")
    return device_map


def _left_out(options: dict[str, Any], *, compile: bool) -> tuple[str, ...]:
    """Names of the parts that `load_pipeline` is to leave out; they are removed from its options."""
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


def load_source(
    source: ModelSource,
    dtype: torch.dtype,
    target: torch.device,
    compile: bool,
    loras: Sequence[LoraToLoad] = (),
    *,
    quantization_config: PipelineQuantizationConfig | None = None,
) -> ClipPipeline:
    """The pipeline of a model whose files are already here, with LoRAs; see `load_pipeline`."""
    preset = preset_of_model(source)
    ask_for_cublas_workspace()
    with _LOADING, loading_bars_hidden():
        if source.layout == "diffusers":
            pipeline = _load_saved(source, dtype, quantization_config)
        else:
            pipeline = PyramidFlowPipeline(**load_components(source, dtype))
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


def pipeline_class(family: Family) -> type[ClipPipeline]:
    """The pipeline that makes clips with models of a family."""
    return getattr(pipelines, family.pipeline)


def _load_saved(
    source: ModelSource,
    dtype: torch.dtype,
    quantization_config: PipelineQuantizationConfig | None,
) -> ClipPipeline:
    """A pipeline that `save_pretrained` wrote; all its weights must be there, except left-out parts."""
    folder, made = source.folder, pipeline_class(source.family)
    # diffusers reads a quantised transformer, and maps it.
    is_quantised = quantization_config is not None or source.quantization is not None
    models = load_saved_models(source, dtype, left_to_others={"transformer"} if is_quantised else ())
    try:
        with default_dtype_kept():
            pipeline = made.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                variant=source.variant,
                quantization_config=quantization_config,
                **models,
                **{name: None for name in signature(made).parameters if name in source.without},
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # broken files can raise anything here
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
    """A LoRA to load into a model.

    Attributes:
        adapter: its name in the pipeline.
        file: the .safetensors file.
        scale: factor on what it adds.
        sha256: the file's digest.
        fused: whether to add it to the weights.
        padded_rank: the rank to which its matrices are padded with zeros, see `LoraInUse`.
    """

    adapter: str
    file: Path
    scale: float
    sha256: str
    fused: bool = False
    padded_rank: int | None = None


def loras_to_load(loras: Mapping[str | Path, float] | None) -> tuple[LoraToLoad, ...]:
    """LoRAs as passed to `generate`, located and checked.

    Raises:
        ValueError: peft is not installed, a file is not a LoRA, or a scale is not finite.
        TypeError: a scale is not a number. FileNotFoundError, OSError: a file is missing.
    """
    if not loras:
        return ()
    check_extra("lora", "peft")
    to_load = []
    for index, (source, scale) in enumerate(loras.items()):
        check_finite(f"the scale of the LoRA {source}", scale)
        file = check_lora(source)
        to_load.append(LoraToLoad(f"lora_{index}", file, float(scale), lora_of_file("", file).sha256))
    return tuple(to_load)


def check_loras_fit(loras: Sequence[LoraToLoad], source: RecognisedModel) -> None:
    """Refuse another model's LoRAs, from configs alone: ValueError, which names what the model lacks."""
    if loras:
        transformer = source.empty_transformer()
        for lora in loras:
            check_lora_fits(lora.file, transformer)


def check_shards_fit(shards: int | None, source: RecognisedModel) -> None:
    """Refuse shards into which a model cannot be cut, from its config alone: ValueError, TypeError."""
    if shards is not None:
        pipeline_class(source.family).check_shards_of(shards, source.empty_transformer())


def check_texts_fit(embeds: EncodedTexts | None, source: RecognisedModel) -> None:
    """Refuse texts that another model encoded, judging by config and file sizes alone: ValueError."""
    if embeds is not None:
        embeds.check_files({name: state.size for name, state in source.states.items()}, "size")
        config: Any = source.empty_transformer().config
        widths = source.family.text_widths(config)
        first = embeds.arguments(next(iter(embeds.texts)), None)
        check_embeddings(dict.fromkeys(EMBEDDINGS) | first, widths, embeds.max_sequence_length)


def _load_loras(pipeline: ClipPipeline, loras: Sequence[LoraToLoad]) -> None:
    """Add LoRAs to a pipeline without any."""
    if ranks := [lora.padded_rank for lora in loras if lora.padded_rank is not None]:
        pipeline.enable_lora_hotswap(target_rank=max(ranks))
    names = [lora.adapter for lora in loras]
    for lora in loras:
        pipeline.load_lora_weights(lora.file, adapter_name=lora.adapter)
    pipeline.set_adapters(names, [lora.scale for lora in loras])
    if loras[0].fused:
        pipeline.fuse_lora(adapter_names=names)

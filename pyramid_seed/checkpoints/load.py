"""The components of a model, read from its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers.utils import logging
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..dtypes import check_dtype
from ..schedulers import PyramidFlowMatchEulerDiscreteScheduler
from .layout import VAE_PART, weight_files
from .original import load_model
from .source import ModelSource

# Below diffusers' own logger, so that its verbosity holds here too.
logger = logging.get_logger(f"diffusers.{__name__}")


@contextmanager
def default_dtype_kept() -> Iterator[None]:
    """Put torch's default dtype back: a from_pretrained of diffusers that fails leaves the one it set."""
    before = torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def load_components(source: ModelSource, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """The components of a checkpoint in the original's layout, by the names that a pipeline takes them under.

    They are on the CPU and in evaluation mode; those that the source leaves out are None.

    Args:
        source: which model it is, see `read_source`.
        dtype: of the models, float32 or bfloat16; modules that need float32 keep it.

    Raises:
        ValueError: a dtype that overflows; weights that do not fit; a config that our models do not
            implement. The message names the file.
    """
    check_dtype(dtype)
    if source.layout != "original":
        raise ValueError(
            f"{source.folder} was written by save_pretrained, not in the original's layout; "
            "use PyramidFlowPipeline.from_pretrained"
        )
    logger.info(f"Loading {source.description}")
    folder, family, without = source.folder, source.family, source.without
    models = {"vae": VAE_PART, "transformer": source.transformer}
    with default_dtype_kept():
        return {
            "scheduler": PyramidFlowMatchEulerDiscreteScheduler(),
            **{
                name: load_model(*source.model_of(part), folder / part, source.weight_paths(part), dtype)
                for name, part in models.items()
                if name not in without
            },
            **_load_text_encoders(source, family.text_encoders, dtype),
            **{
                part: _load_tokenizer(folder / part, getattr(transformers, class_name))
                for part, class_name in family.tokenizers.items()
                if part not in without
            },
            **dict.fromkeys(without),
        }


def load_saved_text_encoders(source: ModelSource, dtype: torch.dtype) -> dict[str, PreTrainedModel]:
    """The text encoders in a folder that `save_pretrained` wrote, by the names of their parts.

    Args:
        source, dtype: see `load_components`.

    Raises:
        ValueError: weights are missing or do not fit.
    """
    classes = {
        part: entry[1]
        for part, entry in source.configs["model_index.json"].items()
        if part.startswith("text_encoder") and isinstance(entry, list) and entry[1] is not None
    }
    return _load_text_encoders(source, classes, dtype)


def _load_text_encoders(
    source: ModelSource, classes: Mapping[str, str], dtype: torch.dtype
) -> dict[str, PreTrainedModel]:
    return {
        part: _load_text_encoder(source, part, getattr(transformers, class_name), dtype)
        for part, class_name in classes.items()
        if part not in source.without
    }


def _load_text_encoder(
    source: ModelSource, part: str, model_class: type[PreTrainedModel], dtype: torch.dtype
) -> PreTrainedModel:
    """Raises a ValueError where transformers would fill missing weights with random numbers."""
    folder, weights = source.folder / part, source.converted_weights(part)
    arguments: dict[str, Any] = {"pretrained_model_name_or_path": folder, "use_safetensors": True}
    if source.layout == "diffusers" and weight_files(source.files, part, source.variant):
        arguments["variant"] = source.variant
    if weights is not None:
        config = model_class.config_class.from_pretrained(folder, local_files_only=True)
        arguments = {
            "pretrained_model_name_or_path": None,
            "config": config,
            "state_dict": load_file(weights),
        }
    try:
        model, report = model_class.from_pretrained(
            **arguments, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # broken files raise anything here, a bare Exception among it
        raise ValueError(f"{folder} cannot be loaded as {model_class.__name__}: {error}") from error
    if report["missing_keys"]:
        raise ValueError(
            f"{folder} must hold all weights of {model_class.__name__}, "
            f"missing: {', '.join(sorted(report['missing_keys']))}"
        )
    return model


def _load_tokenizer(folder: Path, tokenizer_class: type[PreTrainedTokenizerBase]) -> PreTrainedTokenizerBase:
    try:
        return tokenizer_class.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # as above
        raise ValueError(f"{folder} cannot be loaded as {tokenizer_class.__name__}: {error}") from error

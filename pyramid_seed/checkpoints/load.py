"""Loads the components of a model from its files."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import logging
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ..dtypes import check_dtype
from ..families.pyramid_flow import VAE_PART

# diffusers finds the classes of a saved model only among modules that were imported.
from ..models import (  # noqa: F401
    autoencoder_kl_causal_video,
    transformer_pyramid_flux,
    transformer_pyramid_sd3,
)
from ..schedulers import PyramidFlowMatchEulerDiscreteScheduler
from .original import load_model, open_weights
from .source import ModelSource

# Below diffusers' own logger, so that its verbosity holds here too.
logger = logging.get_logger(f"diffusers.{__name__}")


@contextmanager
def default_dtype_kept() -> Iterator[None]:
    """Restore torch's default dtype: a `from_pretrained` of diffusers that fails leaves its own behind."""
    before = torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def loading_bars_hidden() -> Iterator[None]:
    """Hide the bars of diffusers and transformers while weights are read: a second, not worth two lines.

    What shows bars otherwise, such as the hub's downloads, does so again afterwards.
    """
    shown = [each for each in (logging, transformers_logging) if each.is_progress_bar_enabled()]
    hub_is_quiet = are_progress_bars_disabled()  # transformers switches the hub's bars as well
    for each in shown:
        each.disable_progress_bar()
    try:
        yield
    finally:
        for each in shown:
            each.enable_progress_bar()
        if hub_is_quiet:
            disable_progress_bars()


def load_components(source: ModelSource, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """The components of a checkpoint in the original's layout, under the names that a pipeline uses.

    They are on the CPU and in evaluation mode; those that the source leaves out are None.

    Args:
        source: the model, see `read_source`.
        dtype: float32 or bfloat16, for the models; modules that need float32 keep it.

    Raises:
        ValueError: the dtype overflows, the weights do not fit, or our models do not implement the config;
            the message names the file.
    """
    check_dtype(dtype)
    if source.layout != "original":
        raise ValueError(
            f"{source.folder} was written by save_pretrained, not in the original's layout; "
            "use PyramidFlowPipeline.from_pretrained"
        )
    logger.info(f"Loading {source.description}")
    folder, family, without = source.folder, source.original_family, source.without
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


def load_saved_models(
    source: ModelSource, dtype: torch.dtype, left_to_others: Collection[str] = ()
) -> dict[str, torch.nn.Module]:
    """The models in a folder that `save_pretrained` wrote, by the names of their parts.

    Args:
        source, dtype: see `load_components`.
        left_to_others: names of parts that are loaded elsewhere.

    Raises:
        ValueError: weights are missing or do not fit.
    """
    classes = {
        part: entry[1]
        for part, entry in source.configs["model_index.json"].items()
        if part.startswith("text_encoder") and isinstance(entry, list) and entry[1] is not None
    }
    ours: dict[str, type[ModelMixin]] = {
        "vae": source.family.vae_class,
        "transformer": source.family.transformer_class,
    }
    dtypes = dict.fromkeys(source.family.float32_parts, torch.float32)
    return {
        **_load_text_encoders(source, classes, dtype),
        **{
            part: _load_saved_model(source, part, model_class, dtypes.get(part, dtype))
            for part, model_class in ours.items()
            if part not in {*source.without, *left_to_others}
        },
    }


def _load_saved_model(
    source: ModelSource, part: str, model_class: type[ModelMixin], dtype: torch.dtype
) -> ModelMixin:
    folder = source.folder / part
    config, *_ = model_class.extract_init_dict(model_class.load_config(folder, local_files_only=True))
    return load_model(model_class, config, folder, source.weight_paths(part), dtype)


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
    """Load a text encoder; ValueError where transformers would fill missing weights with random numbers.

    transformers maps a folder's files, see `open_weights`; tensors passed to it are read one by one.
    """
    folder = source.folder / part
    try:
        with ExitStack() as files:
            weights: dict[str, Any] = {}
            for path in source.weight_paths(part):
                file = files.enter_context(open_weights(path))
                weights |= {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            model, report = model_class.from_pretrained(
                None,
                config=model_class.config_class.from_pretrained(folder, local_files_only=True),
                state_dict=weights,
                dtype=dtype,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # broken files can raise anything here, even a bare Exception
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

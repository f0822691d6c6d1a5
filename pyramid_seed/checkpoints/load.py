"""Load the components of a published checkpoint: a local folder or a hub id, in the original's layout."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import logging
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..dtypes import check_dtype
from ..models.autoencoder_kl_causal_video import AutoencoderKLCausalVideo
from ..schedulers import PyramidFlowMatchEulerDiscreteScheduler
from .layout import (
    Family,
    choose_variant,
    find_family,
    find_layout,
    layout_of,
    list_files,
    original_files,
    refuse_pickles,
    transformer_part,
)
from .original import load_transformer, load_vae, read_config

__all__ = [
    "Components",
    "default_dtype_kept",
    "fetch_checkpoint",
    "find_layout",
    "load_components",
]

# Below diffusers' own logger, so that its verbosity holds here too.
logger = logging.get_logger(f"diffusers.{__name__}")

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# What a folder written by save_pretrained consists of; never a pickle.
_DIFFUSERS_FILES = ("model_index.json", "*/*.json", "*/*.safetensors", "*/*.txt", "*/*.model")


@dataclass(frozen=True)
class Components:
    """What a pipeline is made of, and what it was made from.

    Attributes:
        family: "miniflux" or "sd3".
        variant: "384p", "768p" or "image".
        found: a sentence for people that says what was found where.
        text_encoder_3, tokenizer_3: None for miniflux.
    """

    family: str
    variant: str
    found: str
    scheduler: PyramidFlowMatchEulerDiscreteScheduler
    vae: AutoencoderKLCausalVideo
    transformer: ModelMixin
    text_encoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    text_encoder_2: PreTrainedModel
    tokenizer_2: PreTrainedTokenizerBase
    text_encoder_3: PreTrainedModel | None = None
    tokenizer_3: PreTrainedTokenizerBase | None = None

    def modules(self) -> dict[str, Any]:
        """The components by name, as a pipeline takes them."""
        facts = {"family", "variant", "found"}
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in facts}


@contextmanager
def default_dtype_kept() -> Iterator[None]:
    """Put torch's default dtype back: a from_pretrained of diffusers that fails leaves the one it set."""
    before = torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def fetch_checkpoint(
    path_or_hub_id: str | Path,
    *,
    variant: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """The local folder of a checkpoint; of a hub id, only the files that loading it needs are downloaded.

    Args:
        path_or_hub_id: a folder here, or `owner/name` on the hub; both layouts will do, see `find_layout`.
        variant: for the original layout, as in `load_components`.
        revision, cache_dir, token, local_files_only: as in huggingface_hub; `local_files_only` uses what was
            downloaded before.

    Raises:
        FileNotFoundError: a path that is not there.
        OSError: the hub cannot be asked, or has no such repository.
        ValueError: neither layout, a variant that is not there, a missing file, or weights that are a pickle.
    """
    folder = Path(path_or_hub_id).expanduser()
    if folder.is_dir():
        files = list_files(folder)
        if layout_of(files, str(folder)) == "diffusers":
            refuse_pickles(files, str(folder))
        return folder

    repository = str(path_or_hub_id)
    if isinstance(path_or_hub_id, Path) or not _HUB_ID.fullmatch(repository):
        raise FileNotFoundError(f"{repository} is neither a folder nor a hub id such as owner/name")
    patterns = None
    local_files_only = local_files_only or huggingface_hub.constants.HF_HUB_OFFLINE
    if not local_files_only:
        try:
            files = frozenset(huggingface_hub.list_repo_files(repository, revision=revision, token=token))
        except (OSError, HTTPError) as error:
            raise OSError(
                f"{repository} is not a folder here, and the hub did not list its files: {error}; "
                "HF_HUB_OFFLINE=1 in the environment (local_files_only=True) uses what was downloaded"
            ) from error
        if layout_of(files, repository) == "diffusers":
            refuse_pickles(files, repository)
            patterns = list(_DIFFUSERS_FILES)
        else:
            chosen = choose_variant(files, repository, variant)
            family = find_family(files, repository, chosen, configs={})
            patterns = original_files(files, repository, family, chosen)
    return Path(
        huggingface_hub.snapshot_download(
            repository,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            allow_patterns=patterns,
        )
    )


@dataclass(frozen=True)
class OriginalCheckpoint:
    """What a folder in the original's layout holds.

    Attributes:
        family: told from its files and configs.
        variant: the one chosen.
        files: names of the files that loading it needs.
    """

    family: Family
    variant: str
    files: tuple[str, ...]

    @property
    def transformer(self) -> str:
        """The folder of the variant's transformer."""
        return transformer_part(self.variant)


def read_original(folder: Path, variant: str | None) -> OriginalCheckpoint:
    """Judge a folder in the original's layout by its names and two configs; no weights are read.

    Raises:
        ValueError: a variant that is not there, parts of no family or of both, a missing file, or weights
            that are a pickle.
    """
    files = list_files(folder)
    variant = choose_variant(files, str(folder), variant)
    configs = {
        part: read_config(folder / part / "config.json")
        for part in (transformer_part(variant), "text_encoder_2")
        if f"{part}/config.json" in files
    }
    family = find_family(files, str(folder), variant, configs)
    return OriginalCheckpoint(
        family, variant, tuple(sorted(original_files(files, str(folder), family, variant)))
    )


def load_components(
    path_or_hub_id: str | Path,
    *,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Components:
    """The components of a checkpoint in the original's layout, on the CPU, in evaluation mode.

    The family is recognised from the folder. Only safetensors is read.

    Args:
        path_or_hub_id: a folder here, or `owner/name` on the hub.
        variant: "384p", "768p" or "image"; None takes the only one there.
        dtype: of the models, float32 or bfloat16; modules that need float32 keep it.
        revision, cache_dir, token, local_files_only: as in huggingface_hub.

    Raises:
        FileNotFoundError: a path that is not there.
        OSError: the hub cannot be asked, or has no such repository.
        ValueError: a dtype that overflows; a variant that is unknown, not there, or not named among several;
            a folder of neither layout, of parts of both families, or lacking something; weights that are a
            pickle or do not fit; a config that our models do not implement. The message names the file and
            the expected layout.
    """
    check_dtype(dtype)
    folder = fetch_checkpoint(
        path_or_hub_id,
        variant=variant,
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
    )
    if find_layout(folder) == "diffusers":
        raise ValueError(
            f"{folder} was written by save_pretrained, not in the original's layout; "
            "use PyramidFlowPipeline.from_pretrained"
        )
    checkpoint = read_original(folder, variant)
    family = checkpoint.family

    found = f"{family.name}, variant {checkpoint.variant}, in the original's layout at {folder}"
    logger.info(f"Loading {found}")
    with default_dtype_kept():
        return Components(
            family=family.name,
            variant=checkpoint.variant,
            found=found,
            scheduler=PyramidFlowMatchEulerDiscreteScheduler(),
            vae=load_vae(folder / "causal_video_vae", family, dtype),
            transformer=load_transformer(folder / checkpoint.transformer, family, dtype),
            **_text_parts(folder, family, dtype),
        )


def _text_parts(folder: Path, family: Family, dtype: torch.dtype) -> dict[str, Any]:
    encoders = _load_text_encoders(folder, family.text_encoders, dtype)
    tokenizers = {
        part: _load_tokenizer(folder / part, getattr(transformers, class_name))
        for part, class_name in family.tokenizers.items()
    }
    return {**encoders, **tokenizers}


def load_saved_text_encoders(folder: Path, dtype: torch.dtype) -> dict[str, PreTrainedModel]:
    """The text encoders in a folder that `save_pretrained` wrote, by the names of their parts.

    Raises:
        ValueError: weights are missing or do not fit.
    """
    index = read_config(folder / "model_index.json")
    classes = {
        part: entry[1]
        for part, entry in index.items()
        if part.startswith("text_encoder") and isinstance(entry, list) and entry[1] is not None
    }
    return _load_text_encoders(folder, classes, dtype)


def _load_text_encoders(
    folder: Path, classes: Mapping[str, str], dtype: torch.dtype
) -> dict[str, PreTrainedModel]:
    return {
        part: _load_text_encoder(folder / part, getattr(transformers, class_name), dtype)
        for part, class_name in classes.items()
    }


def _load_text_encoder(
    folder: Path, model_class: type[PreTrainedModel], dtype: torch.dtype
) -> PreTrainedModel:
    """Raises a ValueError where transformers would fill missing weights with random numbers."""
    try:
        model, report = model_class.from_pretrained(
            folder, use_safetensors=True, dtype=dtype, local_files_only=True, output_loading_info=True
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

"""The original's transformer and autoencoder folders as our models: configs mapped, weights strict."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError, safe_open

from ..models.autoencoder_kl_causal_video import AutoencoderKLCausalVideo
from ..models.transformer_pyramid_flux import PyramidFluxTransformer3DModel
from ..models.transformer_pyramid_sd3 import PyramidSD3Transformer3DModel
from .layout import MINIFLUX, Family, list_files, weight_files
from .original_configs import transformer_config_from_original, vae_config_from_original

Model = TypeVar("Model", bound=ModelMixin)


def load_transformer(folder: Path, family: Family, dtype: torch.dtype) -> ModelMixin:
    """The transformer of an original diffusion_transformer folder.

    Raises:
        ValueError: the config or the weights do not fit; the message names the file.
    """
    config = _mapped(folder, lambda original: transformer_config_from_original(family, original))
    model_class = PyramidFluxTransformer3DModel if family is MINIFLUX else PyramidSD3Transformer3DModel
    return load_model(model_class, config, folder, dtype)


def load_vae(folder: Path, family: Family, dtype: torch.dtype) -> AutoencoderKLCausalVideo:
    """The autoencoder of an original causal_video_vae folder, with the family's latent statistics.

    Raises:
        ValueError: the config or the weights do not fit; the message names the file.
    """
    config = _mapped(folder, vae_config_from_original)
    config |= {"shift_factor": family.shift_factor, "scaling_factor": family.scaling_factor}
    return load_model(AutoencoderKLCausalVideo, config, folder, dtype)


def load_model(
    model_class: type[Model], config: Mapping[str, Any], folder: Path, dtype: torch.dtype
) -> Model:
    """A model of `config` with the safetensors of `folder`, on the CPU, in evaluation mode.

    Memory is taken once: the model is built without weights and takes the tensors that were read.
    Floating-point tensors become `dtype`, those of `_keep_in_fp32_modules` float32.

    Raises:
        ValueError: a name is missing, unexpected or has another shape; the message names tensors and file.
    """
    try:
        with init_empty_weights(include_buffers=False):
            model = model_class(**config)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error
    paths = _weight_paths(folder)
    _check_tensors(model, paths)

    keep_in_fp32 = set(model._keep_in_fp32_modules or ())
    state: dict[str, torch.Tensor] = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - a safetensors file is not a mapping
                tensor = file.get_tensor(name)
                target = torch.float32 if keep_in_fp32.intersection(name.split(".")) else dtype
                # Always a copy: the tensors of a mapped file lie at any address, kernels may sum in another
                # order at another alignment, and the file may be replaced while the model lives.
                state[name] = tensor.to(target if tensor.is_floating_point() else tensor.dtype, copy=True)
    model.load_state_dict(state, assign=True)
    return model.eval()


def read_config(path: Path) -> dict[str, Any]:
    """A config.json.

    Raises:
        ValueError: it cannot be read as a JSON object; the message names the file.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(config).__name__}")
    return config


def _mapped(folder: Path, convert: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """The config of `folder`, converted; errors name the file."""
    path = folder / "config.json"
    original = read_config(path)
    try:
        return convert(original)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _weight_paths(folder: Path) -> list[Path]:
    """The safetensors of a folder: one file, or the shards that its index names."""
    files = frozenset(f"{folder.name}/{name}" for name in list_files(folder))
    paths = [folder.parent / name for name in weight_files(files, folder.name)]
    if not paths:
        raise ValueError(f"{folder} has no safetensors weights")
    if len(paths) == 1 and paths[0].suffix == ".safetensors":
        return paths
    index, *shards = paths
    weight_map = read_config(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{index} must hold a weight_map, the file of each tensor")
    if missing := sorted(set(weight_map.values()) - {shard.name for shard in shards}):
        raise ValueError(f"{folder} lacks {', '.join(missing)}, which {index.name} names")
    return shards


def _check_tensors(model: ModelMixin, paths: Sequence[Path]) -> None:
    """Refuse files whose tensors are not exactly those of the model."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found: dict[str, tuple[int, ...]] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
    wrong = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another shape": [
            f"{name} {found[name]} instead of {shape}"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ],
    }
    problems = [f"{len(names)} {what}: {_some(names)}" for what, names in wrong.items() if names]
    if problems:
        raise ValueError(
            f"{', '.join(map(str, paths))} must hold exactly the {len(expected)} tensors that "
            f"{type(model).__name__} has with the config.json beside it; {'; '.join(problems)}"
        )


def _some(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{', '.join(names[:limit])}{more}"

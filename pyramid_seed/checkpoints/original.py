"""The original's configs and weights as our models: configs mapped, weights strict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError, safe_open

from .layout import MINIFLUX, Family

Model = TypeVar("Model", bound=ModelMixin)

# Values that the original's loader sets, whatever the file says, or that only concern its training.
_SET_BY_LOADER = {
    "use_flash_attn",
    "use_t5_mask",
    "use_temporal_causal",
    "add_temp_pos_embed",
    "temp_pos_embed_type",
    "interp_condition_pos",
    "use_gradient_checkpointing",
    "gradient_checkpointing_ratio",
}
_COMMON = (
    "num_layers",
    "attention_head_dim",
    "num_attention_heads",
    "joint_attention_dim",
    "pooled_projection_dim",
)
_MINIFLUX_PATCH_SIZE = 2


def transformer_config_from_original(family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the family's transformer from the config.json of an original diffusion_transformer folder.

    The original miniFLUX counts the channels of 2 x 2 patches that its pipeline made (patch_size 1); ours
    counts latent channels and makes the patches itself.

    Raises:
        ValueError: a key is missing or unknown, or a value is one that our model does not implement.
    """
    if family is MINIFLUX:
        copied: tuple[str, ...] = (*_COMMON, "num_single_layers", "axes_dims_rope")
        required: dict[str, Any] = {"patch_size": 1}
        converted = {"in_channels"}
        ignored: set[str] = set()
    else:
        copied = (*_COMMON, "in_channels", "patch_size", "sample_size", "pos_embed_max_size")
        required = {"pos_embed_type": "sincos", "qk_norm": "rms_norm"}
        required |= {"caption_projection_dim": _width(config)}
        converted = set()
        # It belongs to sin-cos time positions, and the loader sets rotary ones.
        ignored = {"max_num_frames"}

    title = f"the original {family.name} transformer config"
    if missing := sorted({*copied, *required, *converted} - set(config)):
        raise ValueError(f"{title} must have {', '.join(missing)}")
    for key, value in config.items():
        if key in required and value != required[key]:
            raise ValueError(f"{key} must be {required[key]!r} in {title}, got {value!r}")
        if not (
            key in copied or key in required or key in converted or key in ignored or key in _SET_BY_LOADER
        ) and not key.startswith("_"):
            raise ValueError(f"unknown key {key!r} in {title}, with value {value!r}")

    ours = {key: config[key] for key in copied}
    if family is MINIFLUX:
        channels, rest = divmod(config["in_channels"], _MINIFLUX_PATCH_SIZE**2)
        if rest:
            raise ValueError(
                f"in_channels must be a multiple of {_MINIFLUX_PATCH_SIZE**2} in {title}, "
                f"got {config['in_channels']}"
            )
        ours |= {"in_channels": channels, "patch_size": _MINIFLUX_PATCH_SIZE}
    return ours


def load_model(
    model_class: type[Model],
    config: Mapping[str, Any],
    folder: Path,
    paths: Sequence[Path],
    dtype: torch.dtype,
) -> Model:
    """A model of `config` with the safetensors `paths` of `folder`, on the CPU, in evaluation mode.

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


def _width(config: Mapping[str, Any]) -> Any:
    """Width of the transformer, None where the config lacks what says it."""
    heads, head_dim = config.get("num_attention_heads"), config.get("attention_head_dim")
    return heads * head_dim if heads and head_dim else None


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

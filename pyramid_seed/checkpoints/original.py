"""The original's configs and weights as our models: configs mapped, weights strict."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError, safe_open
from torch import nn

Model = TypeVar("Model", bound=ModelMixin)
Built = TypeVar("Built", bound=nn.Module)


def empty_model(model_class: type[nn.Module], config: Mapping[str, Any], folder: Path) -> nn.Module:
    """A model of `config` without weights, for comparing names and shapes; raises as `load_model`."""
    with torch.device("meta"):  # affects only this thread, unlike `init_empty_weights`
        return _build(model_class, config, folder)


def load_model(
    model_class: type[Model],
    config: Mapping[str, Any],
    folder: Path,
    paths: Sequence[Path],
    dtype: torch.dtype,
) -> Model:
    """A model of `config` with the safetensors `paths` in `folder`, on the CPU, in evaluation mode.

    Memory is allocated once: the model is built without weights, and then one tensor at a time is read.
    Floating-point tensors become `dtype`, those in `_keep_in_fp32_modules` float32.

    Raises:
        ValueError: a name is missing, unexpected or has another shape; the message names tensors and file.
    """
    with init_empty_weights(include_buffers=False):
        model = _build(model_class, config, folder)
    check_files(model, paths)

    keep_in_fp32 = set(model._keep_in_fp32_modules or ())
    # All of it before anything is read, so that temporary reads leave no holes between the weights.
    state = {
        name: torch.empty(
            value.shape,
            dtype=torch.float32
            if keep_in_fp32.intersection(name.split("."))
            else dtype
            if value.is_floating_point()
            else value.dtype,
        )
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(state, assign=True)
    for path in paths:
        with open_weights(path) as file:
            for name in file.keys():  # noqa: SIM118 - a safetensors file is not a mapping
                if name in state:
                    state[name].copy_(file.get_tensor(name))
    return model.eval()


def open_weights(path: Path) -> Any:
    """Open a safetensors file to read it tensor by tensor without mapping it: `safetensors.safe_open`.

    If a file is mapped, what was read stays in memory beside the weights until the last tensor has been read;
    its tensors lie at any address, where kernels may sum in another order; and it may be replaced while the
    model lives.
    """
    return safe_open(path, framework="pt", backend="pread")


def _build(model_class: type[Built], config: Mapping[str, Any], folder: Path) -> Built:
    try:
        return model_class(**config)
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:  # values of odd types
        raise ValueError(f"{folder / 'config.json'}: {error}") from error


def check_files(model: nn.Module, paths: Sequence[Path]) -> None:
    """Refuse safetensors files that do not hold exactly a model's tensors, see `check_tensors`.

    Those of which diffusers says that its model does not use them are left aside.
    """
    unused = re.compile("|".join(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ["(?!)"]))
    found = {name: shape for name, shape in _shapes(paths).items() if not unused.search(name)}
    check_tensors(model, found, ", ".join(map(str, paths)))


def check_tensors(model: nn.Module, found: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Refuse tensors that are not exactly those of a model; one of several tied ones is enough.

    Args:
        model: with or without its weights.
        found: the shape of each tensor, by name.
        where: the files that hold them, for the message.

    Raises:
        ValueError: a name is missing, unexpected or has another shape.
    """
    state = model.state_dict(keep_vars=True)
    expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
    there = {id(state[name]) for name in found if name in state}
    wrong = {
        "missing": sorted(name for name, tensor in state.items() if id(tensor) not in there),
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
            f"{where} must hold exactly the {len(expected)} tensors that "
            f"{type(model).__name__} has with the config.json beside it; {'; '.join(problems)}"
        )


def _shapes(paths: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
    return found


def _some(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{', '.join(names[:limit])}{more}"

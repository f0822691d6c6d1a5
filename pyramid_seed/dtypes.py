"""The number formats that the models can run in, by name; naming them does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .choices import DTYPES

if TYPE_CHECKING:
    import torch


def torch_dtype(name: str) -> torch.dtype:
    """The dtype for a name in `choices.DTYPES`."""
    import torch

    return getattr(torch, name)


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype, as in presets and manifests: "float32"."""
    return str(dtype).removeprefix("torch.")


def check_dtype(dtype: torch.dtype) -> None:
    """Refuse a dtype that the models cannot run in.

    Raises:
        ValueError: it is not one of `choices.DTYPES`.
    """
    if dtype_name(dtype) == "float16":
        raise ValueError(
            "dtype must be bfloat16 or float32, got float16: fp16 overflows in this family's activations; "
            "use torch.bfloat16"
        )
    if dtype_name(dtype) not in DTYPES:
        raise ValueError(f"dtype must be torch.bfloat16 or torch.float32, got {dtype!r}; use torch.float32")

"""Linear layers in float32 on a CPU, through oneDNN.

torch gives them to MKL, which on an AMD EPYC reached half of what oneDNN did (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from ..private_apis import onednn_linear

FEWEST_ROWS = 16
"""Rows below which oneDNN's overhead outweighs its speed: the modulations of single samples."""


class OneDnnLinear(TorchFunctionMode):
    """Inside this `with`, `torch.nn.functional.linear` runs through oneDNN where it can.

    It can for float32 on the CPU without gradients; quantised and other special weights are left alone.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.linear and not types and not kwargs and _suits(*args):
            x, weight, bias = (*args, None)[:3]
            return onednn_linear(x, weight, bias)
        return func(*args, **(kwargs or {}))


def fast_linears(latents: torch.Tensor) -> AbstractContextManager[object]:
    """The `with` for a transformer's step on these latents; it does nothing where nothing is gained."""
    is_meant = latents.device.type == "cpu" and latents.dtype == torch.float32
    if is_meant and not torch.is_grad_enabled() and torch.backends.mkldnn.is_available():
        return OneDnnLinear()
    return nullcontext()


def _suits(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> bool:
    parts = (x, weight) if bias is None else (x, weight, bias)
    return (
        all(part.device.type == "cpu" and part.dtype == torch.float32 for part in parts)
        and x.shape[:-1].numel() >= FEWEST_ROWS
    )

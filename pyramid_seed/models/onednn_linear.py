"""Linear layers in float32 on a CPU, through oneDNN.

torch gives them to MKL, which on an AMD EPYC reached half of what oneDNN did (docs/performance.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from ..private_apis import onednn_linear

FEWEST_ROWS = 16
"""Rows below which oneDNN's overhead outweighs its speed: the modulations of single samples."""
ROWS = (16, 17, 100, 333)
"""Numbers of rows of the products by which oneDNN is judged."""


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
    """The `with` for a transformer's step on these latents.

    It does nothing where nothing is gained, or where the rows of a product would depend on one another.
    """
    is_meant = latents.device.type == "cpu" and latents.dtype == torch.float32
    if not is_meant or torch.is_grad_enabled() or not torch.backends.mkldnn.is_available():
        return nullcontext()
    return OneDnnLinear() if rows_are_independent(onednn_linear, torch.get_num_threads()) else nullcontext()


@cache
def rows_are_independent(linear: Callable[..., torch.Tensor], num_threads: int) -> bool:  # noqa: ARG001 - a key
    """Whether each row of small float32 products has the same bits beside other rows, or fewer.

    Looked at once in a process for a number of threads: oneDNN as of torch 2.10.0 chooses its kernel by the
    number of rows.
    """
    return all(
        _rows_hold(linear, *shape, rows) for shape in ((160, 640), (800, 160), (33, 7)) for rows in ROWS
    )


def _rows_hold(linear: Callable[..., torch.Tensor], width: int, out: int, rows: int) -> bool:
    """The same for one shape of weights, and one number of rows."""
    x, weight, bias = (
        torch.arange(math.prod(shape), dtype=torch.float32).sin().reshape(shape)
        for shape in ((rows, width), (out, width), (out,))
    )
    alone, pair = linear(x, weight, bias), linear(torch.stack([x, x.flip(0)]), weight, bias)
    fewer = linear(x[:FEWEST_ROWS], weight, bias)
    return (
        torch.equal(pair[0], alone)
        and torch.equal(pair[1].flip(0), alone)
        and torch.equal(fewer, alone[:FEWEST_ROWS])
    )


def _suits(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> bool:
    parts = (x, weight) if bias is None else (x, weight, bias)
    return (
        all(part.device.type == "cpu" and part.dtype == torch.float32 for part in parts)
        and x.shape[:-1].numel() >= FEWEST_ROWS
    )

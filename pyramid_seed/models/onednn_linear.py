"""float32 linear layers on a CPU through oneDNN; also bfloat16 ones, if the CPU has no bfloat16.

torch gives them to MKL, which on an AMD EPYC reached half of oneDNN's speed (docs/performance.md).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import MethodType

import torch
from torch import nn

from ..private_apis import onednn_linear
from .rounding import needs_float32

FEWEST_ROWS = 16
"""Rows below which oneDNN's overhead outweighs its speed, as in the modulations of single samples."""
ROWS = (16, 17, 100, 333)
"""Numbers of rows in the products by which oneDNN is judged."""


KERNELS_KEPT = 128
"""Kernels of oneDNN that a process keeps: more than a unit needs, so that none is made twice in a unit. The
default of 1,024 fills half a gigabyte in a long clip, whose sequences keep growing."""


def bound_kernel_caches() -> None:
    """Keep `KERNELS_KEPT` kernels in this process, unless its environment says how many.

    Two caches hold them, oneDNN's and that of torch's bindings; both read their size on first use.
    """
    if "DNNL_PRIMITIVE_CACHE_CAPACITY" not in os.environ:
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS_KEPT))
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(KERNELS_KEPT))


bound_kernel_caches()

_wanted: ContextVar[torch.dtype | None] = ContextVar("_wanted", default=None)
"""The dtype of the layers that are to run through oneDNN; None: none of them."""


class OneDnnLinear(nn.Linear):
    """A linear layer that runs through oneDNN inside `fast_linears`, where it can.

    It can with plain float32 weights on the CPU, and with bfloat16 ones that need float32; quantised and
    other special weights are left to torch.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in_features) to (..., out_features)."""
        if torch.compiler.is_compiling() or not self._suits(input, _wanted.get()):
            return super().forward(input)
        if input.dtype == torch.float32:
            return onednn_linear(input, self.weight, self.bias)
        bias = None if self.bias is None else self.bias.float()
        return onednn_linear(input.float(), self.weight.float(), bias).to(input.dtype)

    def _suits(self, x: torch.Tensor, dtype: torch.dtype | None) -> bool:
        is_plain = type(x) is torch.Tensor and type(self.weight) is nn.Parameter
        parts = (x, self.weight) if self.bias is None else (x, self.weight, self.bias)
        return (
            is_plain
            and x.shape[:-1].numel() >= FEWEST_ROWS
            and all(part.device.type == "cpu" and part.dtype == dtype for part in parts)
        )


def use_onednn(model: nn.Module) -> None:
    """Make every plain linear layer in a model a `OneDnnLinear`; weights and hooks stay as they are."""
    for module in model.modules():
        if type(module) is nn.Linear:
            if vars(module).get("forward") == MethodType(nn.Linear.forward, module):  # hooks left it behind
                del module.forward
            module.__class__ = OneDnnLinear


@contextmanager
def fast_linears(latents: torch.Tensor) -> Iterator[None]:
    """The `with` for a transformer's step on these latents.

    It does nothing where nothing is gained, or where the rows of a product would affect each other.
    """
    is_meant = latents.device.type == "cpu" and (latents.dtype == torch.float32 or needs_float32(latents))
    is_wanted = (
        is_meant
        and not torch.is_grad_enabled()
        and torch.backends.mkldnn.is_available()
        and rows_are_independent(onednn_linear, torch.get_num_threads())
    )
    token = _wanted.set(latents.dtype if is_wanted else None)
    try:
        yield
    finally:
        _wanted.reset(token)


@cache
def rows_are_independent(linear: Callable[..., torch.Tensor], num_threads: int) -> bool:  # noqa: ARG001 - a key
    """Whether each row of small float32 products has the same bits beside more rows or fewer.

    Checked once per process and number of threads: oneDNN as of torch 2.10.0 chooses its kernel by the
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

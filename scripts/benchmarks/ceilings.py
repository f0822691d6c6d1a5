"""What a device can do at best, measured: matrix products and copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pyramid_seed.models.onednn_linear import OneDnnLinear, fast_linears

from .measure import in_turn, summary
from .sequence import attended_pairs

REPEATS = 5


def ceilings(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Floating-point operations a second of square matrix products, by the kernels of transformer steps, and
    bytes a second of a copy (read and written bytes both count)."""
    edge = 1024 if device.type == "cpu" else 8192
    a = torch.randn(edge, edge, device=device, dtype=dtype)
    layer = OneDnnLinear(edge, edge, bias=False, device=device, dtype=dtype).requires_grad_(False)
    source = torch.zeros(2**26 if device.type == "cpu" else 2**31, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def product() -> torch.Tensor:
        with fast_linears(a):
            return layer(a)

    def copy() -> torch.Tensor:
        return target.copy_(source)

    matmul, copying = (summary(times)["median"] for times in in_turn([product, copy], REPEATS, device))
    return {
        "matrix product, operations a second": 2 * edge**3 / matmul,
        "copy, bytes a second": 2 * source.nbytes / copying,
    }


@contextmanager
def counted_linears(module: nn.Module) -> Iterator[Callable[[], int]]:
    """Counts the operations of the linear layers that run in the body."""
    total = 0

    def count(layer: nn.Linear, given: tuple[Any, ...], _: torch.Tensor) -> None:
        nonlocal total
        total += 2 * given[0].numel() * layer.out_features

    linears = [each for each in module.modules() if isinstance(each, nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in linears]
    try:
        yield lambda: total
    finally:
        for handle in handles:
            handle.remove()


def attention_operations(frames: tuple[int, ...], num_text: int, width: int, num_layers: int) -> int:
    """Operations of attention without a mask in all layers: two products a (query, key) pair.

    In the last layer only the tokens of the current frame, the last one, ask.
    """
    last_pairs = frames[-1] * (num_text + sum(frames))
    return 4 * width * (attended_pairs(frames, num_text) * (num_layers - 1) + last_pairs)

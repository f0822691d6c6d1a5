"""The meaning of dtypes: `.to(dtype)` for a model's weights, and bfloat16 for layers on a CPU without it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, Self

import torch

from ..private_apis import has_bfloat16_kernels


def needs_float32(x: torch.Tensor) -> bool:
    """Whether layers should compute bfloat16 inputs in float32, and round once.

    They should on a CPU without bfloat16 instructions: measured on an AMD EPYC with AVX2, linear layers are
    5 times as fast, and a decoder 60 times.
    """
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and not has_bfloat16_kernels()


class RoundingMixin:
    """For diffusers models, whose `_keep_in_fp32_modules` only `from_pretrained` heeds.

    Attributes:
        was_rounded: whether some weights were converted to a dtype with fewer bits since they were read.
    """

    was_rounded = False

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """What `.to()`, `.half()` and the like all come down to."""
        kept_modules = set(self._keep_in_fp32_modules or ())  # type: ignore[attr-defined]  # of ModelMixin
        tensors = self._named_tensors()
        dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
        kept = {name: tensor.data for name, tensor in tensors.items() if kept_modules & set(name.split("."))}
        del tensors
        super()._apply(fn, recurse)  # type: ignore[misc]  # of nn.Module
        for name, tensor in self._named_tensors().items():
            if name in kept and tensor.dtype != dtypes[name]:
                tensor.data = kept[name].to(tensor.device)
            self.was_rounded |= tensor.dtype.itemsize < dtypes.get(name, tensor.dtype).itemsize
        return self

    def _named_tensors(self) -> dict[str, torch.Tensor]:
        model: Any = self
        return dict(chain(model.named_parameters(), model.named_buffers()))

"""Whether a pipeline's weights are still those that were read from its files."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ..private_apis import num_writes


@dataclass(frozen=True, eq=False)
class LoadedWeights:
    """The parameters of a pipeline's parts as they were when they were loaded.

    Moving them to another device, offloading them and adding adapters change nothing; writing to them does. A
    write through `.data` goes unnoticed.

    Attributes:
        versions: each parameter by its id, with the number of writes to it so far.
        narrow: names of the parts that had parameters with fewer bits than float32.
    """

    versions: Mapping[int, tuple[weakref.ref[torch.Tensor], int]]
    narrow: frozenset[str]

    @classmethod
    def of(cls, parts: Mapping[str, object]) -> LoadedWeights:
        """The parameters of a pipeline's parts, given by name, as they are now."""
        modules = _modules(parts)
        versions: dict[int, tuple[weakref.ref[torch.Tensor], int]] = {
            id(weight): (weakref.ref(weight), num_writes(weight))
            for module in modules.values()
            for weight in module.parameters()
        }
        return cls(versions, frozenset(name for name, module in modules.items() if _is_narrow(module)))

    def change(self, parts: Mapping[str, object], *, is_fused: bool = False) -> str | None:
        """What has happened to the weights since, as a message; None if the files still describe them.

        Args:
            parts: the pipeline's parts now.
            is_fused: whether known LoRAs were added to the weights.
        """
        for name, module in _modules(parts).items():
            was_rounded = name in self.narrow or getattr(module, "was_rounded", False)
            if was_rounded and not _is_narrow(module):
                return f"{name} is in float32 again after a dtype of fewer bits"
            for key, weight in module.named_parameters():
                if weight.device.type == "meta" or "lora_" in key:  # offloaded; an adapter
                    continue
                loaded, version = self.versions.get(id(weight), (lambda: None, 0))
                if loaded() is not weight:
                    return f"{name}.{key} was replaced since it was loaded"
                if num_writes(weight) != version and not is_fused:
                    return f"{name}.{key} was written to since it was loaded"
        return None


def _modules(parts: Mapping[str, object]) -> dict[str, nn.Module]:
    return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}


def _is_narrow(module: nn.Module) -> bool:
    return any(weight.is_floating_point() and weight.dtype.itemsize < 4 for weight in module.parameters())

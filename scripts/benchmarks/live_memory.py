"""Bytes of tensors that are alive while something runs, and the most there were."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Counts the storages that are made inside this `with`, on any device; those from before do not count.

    What a kernel takes for itself while it runs is not seen.

    Attributes:
        live, peak: bytes, now and at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and count what came of it."""
        result = func(*args, **(kwargs or {}))
        given = {id(storage) for storage in _storages((args, kwargs))}
        for storage in _storages(result):
            key, size = id(storage), storage.nbytes()
            if key not in given and key not in self._alive:
                self._alive[key] = weakref.ref(storage, partial(self._free, key, size))
                self.live += size
                self.peak = max(self.peak, self.live)
        return result

    def _free(self, key: int, size: int, _: object) -> None:
        del self._alive[key]
        self.live -= size


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]

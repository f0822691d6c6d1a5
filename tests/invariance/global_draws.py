"""A guard under which every draw from a global generator, and from the system's entropy, raises."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode


class GlobalDrawError(AssertionError):
    """Somebody drew from what is not theirs."""


class _TorchDrawsRaise(TorchDispatchMode):
    """Operators that torch itself marks as random raise unless they are given a generator of their own.

    Attention has the mark for its dropout alone: with none it draws nothing.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags:
            names = [argument.name for argument in func._schema.arguments]
            given = dict(zip(names, args, strict=False)) | kwargs
            has_own_generator = isinstance(given.get("generator"), torch.Generator)
            is_attention = "scaled_dot_product" in str(func) and not given.get("dropout_p")
            if not has_own_generator and not is_attention:
                raise GlobalDrawError(f"{func} drew from torch's global generator")
        return func(*args, **kwargs)


def _raises(name: str) -> Callable[..., None]:
    def draw(*args: Any, **kwargs: Any) -> None:
        raise GlobalDrawError(f"{name} was called")

    return draw


def _bound_to(module: Any, owner: object) -> list[str]:
    return [name for name in dir(module) if getattr(getattr(module, name), "__self__", None) is owner]


@contextmanager
def global_draws_raise() -> Iterator[None]:
    """Raise `GlobalDrawError` at every use of the generators of torch, NumPy and Python, and of entropy."""
    targets = [(random, name) for name in _bound_to(random, random._inst)]
    targets += [(np.random, name) for name in _bound_to(np.random, np.random.mtrand._rand)]
    targets += [(torch, name) for name in ("manual_seed", "seed", "get_rng_state", "set_rng_state")]
    targets += [(np.random, "seed"), (os, "urandom")]
    with pytest.MonkeyPatch.context() as patch, _TorchDrawsRaise():
        for module, name in targets:
            patch.setattr(module, name, _raises(f"{module.__name__}.{name}"))
        yield


def global_states() -> tuple[Any, ...]:
    """The states of the global generators, as plain values."""
    kind, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), (kind, keys.tolist(), *rest), random.getstate()

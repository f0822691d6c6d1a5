"""What surrounds a pipeline's call: a level of determinism, and a guard against a second call."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from ..determinism import determinism as determinism_level


def at_determinism_level(call: Callable[..., Any]) -> Callable[..., Any]:
    """Run a call under the level that its `determinism` argument names; flags are as before after it."""

    signature = inspect.signature(call)

    @wraps(call)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        with determinism_level(bound.arguments["determinism"]):
            return call(*args, **kwargs)

    return wrapped


def one_at_a_time(call: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a call of a pipeline that is at work: two would share its scheduler, and spoil each other."""

    @wraps(call)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self._is_at_work:
            raise RuntimeError(
                "this pipeline is making a clip, in another thread or around this callback; wait for it, or "
                "use a process for each"
            )
        self._is_at_work = True
        try:
            return call(self, *args, **kwargs)
        finally:
            self._is_at_work = False

    return wrapped

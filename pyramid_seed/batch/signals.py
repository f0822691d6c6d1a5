"""SIGINT, SIGTERM and SIGHUP as requests to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Self


class StopSignals(ExitStack):
    """While active, notes a signal to stop; the worker checks `received` and stops when it can."""

    received: signal.Signals | None = None

    def is_stopped(self) -> bool:
        """Whether a stop was requested."""
        return self.received is not None

    def __enter__(self) -> Self:
        self.enter_context(handled_by(self._note, "SIGINT", "SIGTERM", "SIGHUP"))
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - Python's signature
        self.received = self.received or signal.Signals(number)


@contextmanager
def handled_by(handler: Callable[[int, FrameType | None], None], *names: str) -> Iterator[None]:
    """Handle signals differently in the body, except those that are ignored, as nohup sets them.

    Outside the main thread, where Python allows no handlers, they keep their effect.
    """
    is_main = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in names if is_main and hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)

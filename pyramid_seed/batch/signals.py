"""SIGINT, SIGTERM and SIGHUP as a wish to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Self


class StopSignals(ExitStack):
    """While in use, a signal to stop is noted; whoever works looks at `received` and stops when it can."""

    received: signal.Signals | None = None

    def is_stopped(self) -> bool:
        """Whether somebody wants us to stop."""
        return self.received is not None

    def __enter__(self) -> Self:
        self.enter_context(handled_by(self._note, "SIGINT", "SIGTERM", "SIGHUP"))
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - Python's signature
        self.received = self.received or signal.Signals(number)


@contextmanager
def handled_by(handler: Callable[[int, FrameType | None], None], *names: str) -> Iterator[None]:
    """Let signals be handled in another way in the body, but for those that are ignored, as nohup sets them.

    Outside of the main thread, where Python allows no handlers, they do what they did before.
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

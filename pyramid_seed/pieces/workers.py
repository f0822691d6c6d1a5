"""Threads that share pieces of work out: at most so many of them compute at a time.

A piece is made by the same calls of kernels on the same shapes whichever thread makes it, and each thread
computes with one thread of its own. So no bit depends on how many workers there are, nor on who comes first.
"""

from __future__ import annotations

import heapq
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import torch

T = TypeVar("T")

MOST_PIECES = 128
MOST_BESIDE = 4
"""Pieces that are made beside what goes on, such as chunks being decoded: each holds memory of its own."""
FIRST = 0
"""Urgency of what all else waits for; a larger number is less urgent."""


class AbandonedError(Exception):
    """Another piece has failed, or the caller was interrupted: this one is not needed any more."""


class Workers:
    """Those who compute in one call: the thread that makes it, and threads of ours.

    Whoever computes holds one of `count` places, and gives it up to wait; of those who want one, the most
    urgent gets it first. To be used in a `with`, after which no thread is left.

    Args:
        count: how many may compute at a time.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._changed = threading.Condition()
        self._num_free = count
        self._queue: list[tuple[int, int]] = []  # (urgency, ticket) of those who want a place
        self._is_stopped = False
        self._urgency = threading.local()
        # Pieces that run together may wait for each other, so each has a thread.
        self._pieces = ThreadPoolExecutor(MOST_PIECES, "pyramid-seed piece")
        self._beside = ThreadPoolExecutor(min(count, MOST_BESIDE), "pyramid-seed beside")

    def __enter__(self) -> Self:
        with self._changed:
            self._take(FIRST)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._num_free += 1
            self._is_stopped = True
            self._changed.notify_all()
        self._pieces.shutdown(cancel_futures=True)
        self._beside.shutdown(cancel_futures=True)

    def run(self, pieces: Sequence[Callable[[], T]], *, are_linked: bool = False) -> list[T]:
        """Make pieces, and wait until all are made.

        Args:
            pieces: each is called once; at most `MOST_PIECES`.
            are_linked: whether they wait for each other.

        Raises:
            Exception: what the first one raised that failed; the others are abandoned.
        """
        if not are_linked and (self.count == 1 or len(pieces) == 1):
            return [piece() for piece in pieces]
        made = [self._submit(self._pieces, piece, FIRST) for piece in pieces]
        self.wait_until(lambda: all(each.done() for each in made) or any(map(_has_failed, made)))
        if any(map(_has_failed, made)):
            self._stop()
            wait(made)
            causes = [error for each in made if (error := each.exception()) is not None]
            raise next((error for error in causes if not isinstance(error, AbandonedError)), causes[0])
        return [each.result() for each in made]

    def submit(self, piece: Callable[[], T], urgency: int) -> Future[T]:
        """Make a piece beside what goes on; of such pieces at most `MOST_BESIDE` are under way."""
        return self._submit(self._beside, piece, urgency)

    def result(self, future: Future[T]) -> T:
        """What a piece gave, once it is made; raises what it raised."""
        self.wait_until(lambda: future.done() or self._is_stopped)
        return future.result()

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Let others compute until something holds; whoever makes it so calls `tell`.

        Raises:
            AbandonedError: nobody needs it any more.
        """
        with self._changed:
            self._check()
            if holds():
                return
            self._give()
            try:
                self._changed.wait_for(lambda: self._is_stopped or holds())
            finally:
                self._take(self._own_urgency())
            self._check(unless=holds)

    def tell(self) -> None:
        """Something has changed that others may wait for."""
        with self._changed:
            self._changed.notify_all()

    def give_way(self) -> None:
        """Let whoever is more urgent go first; raises AbandonedError if nobody needs this work any more."""
        urgency = self._own_urgency()
        with self._changed:
            self._check()
            if self._queue and self._queue[0][0] < urgency:
                self._give()
                self._take(urgency)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Let others compute while the caller waits for something outside, such as another process."""
        with self._changed:
            self._give()
        try:
            yield
        finally:
            with self._changed:
                self._take(self._own_urgency())

    def _submit(self, pool: ThreadPoolExecutor, piece: Callable[[], T], urgency: int) -> Future[T]:
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_num_threads()
        context = copy_context()
        future = pool.submit(context.run, self._make, piece, urgency, modes)
        future.add_done_callback(lambda _: self.tell())
        return future

    def _make(self, piece: Callable[[], T], urgency: int, modes: tuple[bool, bool, int]) -> T:
        """Make a piece in this thread, in which torch is as where it was asked for."""
        with_grad, is_inference, num_threads = modes
        self._urgency.value = urgency
        if torch.get_num_threads() != num_threads:
            torch.set_num_threads(num_threads)  # of this thread
        with self._changed:
            self._take(urgency)
        try:
            with torch.inference_mode(is_inference), torch.set_grad_enabled(with_grad):
                self.give_way()
                return piece()
        finally:
            with self._changed:
                self._give()

    def _stop(self) -> None:
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def _check(self, unless: Callable[[], bool] = lambda: False) -> None:
        if self._is_stopped and not unless():
            raise AbandonedError

    def _own_urgency(self) -> int:
        return getattr(self._urgency, "value", FIRST)

    def _take(self, urgency: int) -> None:
        """Wait for a place; with the lock held."""
        ticket = (urgency, next(_tickets))
        heapq.heappush(self._queue, ticket)
        try:
            self._changed.wait_for(
                lambda: self._is_stopped or (self._num_free > 0 and self._queue[0] == ticket)
            )
        finally:
            self._queue.remove(ticket)
            heapq.heapify(self._queue)
            self._num_free -= 1
        if self._num_free > 0:
            self._changed.notify_all()

    def _give(self) -> None:
        """Give the place up; with the lock held."""
        self._num_free += 1
        self._changed.notify_all()


_tickets = count()


def _has_failed(made: Future[T]) -> bool:
    return made.done() and made.exception() is not None


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use: its affinity, and what its control group (version 2) grants it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return cores

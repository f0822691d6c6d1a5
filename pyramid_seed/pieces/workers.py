"""Threads that share pieces of work: a limited number of them compute at a time.

A piece is made by the same kernel calls on the same shapes whichever thread makes it, and each kernel
uses that thread alone. So no bit depends on the number of workers, nor on which comes first.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import torch

from ..choices import MAX_WORKERS

T = TypeVar("T")

MOST_BESIDE = 4
"""Most pieces made in the background, such as chunks being decoded: each holds its own memory."""
FIRST = 0
"""Urgency of what everything else waits for; a larger number is less urgent."""


class AbandonedError(Exception):
    """Another piece has failed, or the caller was interrupted: this one is no longer needed."""


@dataclass(eq=False)
class _Waiting:
    """A thread that wants a place, once a condition holds.

    Attributes:
        order: (urgency, ticket), the smallest first.
        holds: the condition.
        woken: notified when there is a place.
        has_place: whether there is.
    """

    order: tuple[int, int]
    holds: Callable[[], bool]
    woken: threading.Condition
    has_place: bool = False


class Workers:
    """The threads that compute in one call: the one that makes it, and our own.

    A thread that computes holds one of `count` places, and gives it up to wait; the most urgent of those that
    want one gets it first. To be used in a `with`, after which no thread is left.

    Args:
        count: how many threads may compute at a time.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._lock = threading.Lock()
        self._num_free = count
        self._waiting: list[_Waiting] = []
        self._is_stopped = False
        self._urgency = threading.local()
        # Pieces that run together may wait for each other, so each needs a thread.
        self._pieces = ThreadPoolExecutor(MAX_WORKERS, "pyramid-seed piece")
        self._beside = ThreadPoolExecutor(min(count, MOST_BESIDE), "pyramid-seed beside")

    def __enter__(self) -> Self:
        with self._lock:
            self._num_free -= 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        self._pieces.shutdown(cancel_futures=True)
        self._beside.shutdown(cancel_futures=True)

    def run(self, pieces: Sequence[Callable[[], T]], *, are_linked: bool = False) -> list[T]:
        """Make pieces, and wait until all are finished.

        Args:
            pieces: each is called once; at most `MAX_WORKERS`.
            are_linked: whether they wait for each other.

        Raises:
            Exception: the error of the first piece that failed; the others are abandoned.
        """
        if len(pieces) <= 1 or (self.count == 1 and not are_linked):
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
        """Make a piece in the background; at most `MOST_BESIDE` such pieces are in progress."""
        return self._submit(self._beside, piece, urgency)

    def result(self, future: Future[T]) -> T:
        """The result of a piece, once it is made; raises what the piece raised."""
        self.wait_until(future.done)
        return future.result()

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Let others compute until a condition holds; whoever makes it hold calls `tell`, which checks it.

        Raises:
            AbandonedError: the work is no longer needed.
        """
        with self._lock:
            self._check()
            if not holds():
                self._give()
                self._take(holds)
                if not holds():
                    self._check()

    def tell(self) -> None:
        """Say that something has changed that others may wait for."""
        with self._lock:
            self._give_out()

    def give_way(self) -> None:
        """Let more urgent work go first; raises AbandonedError if this work is no longer needed."""
        own = self._own_urgency()
        with self._lock:
            self._check()
            if any(each.order[0] < own and each.holds() for each in self._waiting):
                self._give()
                self._take()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Let others compute while the caller waits for something outside, such as another process."""
        with self._lock:
            self._give()
        try:
            yield
        finally:
            with self._lock:
                self._take()

    def _submit(self, pool: ThreadPoolExecutor, piece: Callable[[], T], urgency: int) -> Future[T]:
        future = pool.submit(copy_context().run, self._make, piece, urgency, _ThreadState.here())
        future.add_done_callback(lambda _: self.tell())
        return future

    def _make(self, piece: Callable[[], T], urgency: int, state: _ThreadState) -> T:
        """Make a piece in this thread, with torch's state from where it was requested."""
        self._urgency.value = urgency
        with self._lock:
            self._take()
        try:
            with state.set():
                self.give_way()
                return piece()
        finally:
            with self._lock:
                self._give()

    def _stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            self._give_out()

    def _check(self) -> None:
        if self._is_stopped:
            raise AbandonedError

    def _own_urgency(self) -> int:
        return getattr(self._urgency, "value", FIRST)

    # With the lock held:

    def _take(self, holds: Callable[[], bool] = lambda: True) -> None:
        """Wait for a place, once a condition holds."""
        own = _Waiting((self._own_urgency(), next(_tickets)), holds, threading.Condition(self._lock))
        self._waiting.append(own)
        self._give_out()
        try:
            own.woken.wait_for(lambda: own.has_place)
        except BaseException:  # an interrupt: the caller will give a place back
            if not own.has_place:
                self._waiting.remove(own)
                self._num_free -= 1
            raise

    def _give(self) -> None:
        """Give up this thread's place."""
        self._num_free += 1
        self._give_out()

    def _give_out(self) -> None:
        """Give free places to those that can go on; those to be abandoned need none."""
        for each in sorted(self._waiting, key=lambda waiting: waiting.order):
            if self._is_stopped or (self._num_free > 0 and each.holds()):
                self._waiting.remove(each)
                self._num_free -= 1
                each.has_place = True
                each.woken.notify()


@dataclass(frozen=True)
class _ThreadState:
    """The part of torch's state that belongs to a thread."""

    with_grad: bool
    is_inference: bool
    num_threads: int
    stream: torch.cuda.Stream | None

    @classmethod
    def here(cls) -> _ThreadState:
        stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None
        return cls(
            torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_num_threads(), stream
        )

    @contextmanager
    def set(self) -> Iterator[None]:
        if torch.get_num_threads() != self.num_threads:
            torch.set_num_threads(self.num_threads)
        with (
            torch.inference_mode(self.is_inference),
            torch.set_grad_enabled(self.with_grad),
            torch.cuda.stream(self.stream),
        ):
            yield


_tickets = count()


def _has_failed(made: Future[T]) -> bool:
    return made.done() and made.exception() is not None


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores for this process, by its affinity, its control group (version 2) and its launch.

    The processes of a launch share their machine's cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        cores = cores if quota == "max" else min(cores, int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):
        pass  # there is no such group
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))

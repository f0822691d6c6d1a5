"""The surroundings of a command: its standard output, and the signals that stop it."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from ..batch.signals import handled_by

if TYPE_CHECKING:
    from ..pieces.processes import Processes


class Output:
    """Standard output that may fail, as on a full disk, without affecting the work it reports on.

    Attributes:
        error: the first failure; None if everything was written.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write text, unless an earlier write has failed; still raises if the reader has gone (`| head`)."""
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        """See `write`."""
        self._try("flush")

    def _try(self, method: str, *arguments: str) -> None:
        if self.error is None:
            try:
                getattr(self.stream, method)(*arguments)
            except BrokenPipeError:
                raise
            except OSError as error:
                self.error = error
                discard_output()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def standard_output() -> Iterator[Output]:
    """`sys.stdout` as an `Output` that writes every character, escaped if the terminal lacks it."""
    for descriptor in range(3):  # a file would take the number of a closed one, and get the output
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout
    output = Output(before or open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    if hasattr(output.stream, "reconfigure"):
        output.stream.reconfigure(errors="backslashreplace")
    sys.stdout = output
    try:
        yield output
    finally:
        sys.stdout = before


def reader_has_gone() -> bool:
    """Whether the reader of standard output has gone (`| head`); nothing is written to it from then on."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    has_gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if has_gone:
        discard_output()
    return has_gone


def discard_output() -> None:
    """Discard pending output: Python flushes once more when it ends, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def made_together(
    command: Callable[[argparse.Namespace, Processes | None], int],
) -> Callable[[argparse.Namespace], int]:
    """Give a command the processes of a launch, which make one clip together; None if it runs alone.

    All except the first are quiet: they report only errors.
    """

    @wraps(command)
    def run(options: argparse.Namespace) -> int:
        from ..pieces.launched import is_launched, leave_launch, processes_of_launch

        processes = processes_of_launch(options.device) if is_launched() else None
        if processes is None:
            return command(options, None)
        if not processes.is_first:
            options.quiet = True
            discard_output()
        try:
            return command(options, processes)
        finally:
            leave_launch()

    return run


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP end a command as Ctrl+C does, with its cleaning up; yields those received."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - Python's signature
        received.append(number)
        raise KeyboardInterrupt

    with handled_by(stop, "SIGTERM", "SIGHUP"):
        yield received

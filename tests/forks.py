"""Processes that need not import torch and diffusers, which takes seconds: copies of the test's own.

They share the locks of this process that are made for several processes, such as that of tqdm's bars. So a
copy that shows a bar must not be stopped in the middle: it would leave the lock taken.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO, NoReturn


@dataclass
class Fork:
    """A running copy of this process.

    Attributes:
        pid: its number.
        errors: what it writes to standard error, and to standard output unless that leads elsewhere.
    """

    pid: int
    errors: BinaryIO

    def wait(self) -> tuple[int, str]:
        """Wait for its end: the exit status, negative for a signal, and what was still to be read."""
        with self.errors:
            rest = self.errors.read().decode()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), rest


def fork(
    call: Callable[[], int], *, stdout: int | None = None, environment: Mapping[str, str] | None = None
) -> Fork:
    """Call a function in a copy of this process, which ends with what it returns.

    Args:
        call: the function.
        stdout: the file descriptor of its standard output, -1 for a closed one; default: as standard error.
        environment: variables that it has besides this process's.
    """
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        _be_another(call, write if stdout is None else stdout, write, environment or {})
    os.close(write)
    return Fork(pid, os.fdopen(read, "rb"))


def _be_another(
    call: Callable[[], int], stdout: int, stderr: int, environment: Mapping[str, str]
) -> NoReturn:
    """What Python does around a program, with nothing of the test's process left behind it."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(environment)
        os.dup2(stderr, 2)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        if stdout == -1:
            os.close(1)
            sys.stdout = None
        else:
            os.dup2(stdout, 1)
            sys.stdout = os.fdopen(1, "w")
        status = call()
        if sys.stdout is not None:
            sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)

"""Runs that end at an exact event: before the n-th change of a file, or at the n-th byte of one."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

_CHANGES = frozenset(
    f"os.{name}" for name in ("mkdir", "rename", "remove", "rmdir", "link", "symlink", "truncate", "utime")
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def before_each_change(folder: Path, call: Callable[[int], None]) -> None:
    """Call with 1, 2, ... before Python changes a file or folder in `folder`, for the rest of this process.

    Files that libraries in C open are not seen: for these there is `kill_at_byte`.
    """
    inside = f"{folder.resolve()}/"
    number, is_counting = 0, False

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal number, is_counting
        if is_counting or not _is_change(event, arguments, inside):
            return
        number, is_counting = number + 1, True
        try:
            call(number)
        finally:
            is_counting = False

    sys.addaudithook(hook)


def kill_at_byte(number: int) -> None:
    """End this process, as SIGKILL does, when any of its files would become longer than so many bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, resource.RLIM_INFINITY))


def _is_change(event: str, arguments: tuple[object, ...], inside: str) -> bool:
    if event == "ctypes.dlsym":  # two folders change names, see `files.replacing`
        return arguments[1] == "renameat2"
    if event == "open":
        path, _, flags = arguments
        return isinstance(flags, int) and flags & _WRITING != 0 and _path(path).startswith(inside)
    return event in _CHANGES and any(_path(each, arguments[-1]).startswith(inside) for each in arguments)


def _path(argument: object, folder: object = -1) -> str:
    """A path of an event, with a slash behind it; `folder` is the descriptor of its folder, -1 of none."""
    if not isinstance(argument, str | bytes | os.PathLike):
        return ""
    own = Path(f"/proc/self/fd/{folder}")
    return f"{(own.readlink() if own.exists() else Path.cwd()) / os.fsdecode(argument)}/"

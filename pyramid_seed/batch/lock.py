"""Either one batch at a time writes in a folder, or many parts of one batch do."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from .errors import OutputError, writing

try:
    import fcntl
except ImportError:  # not POSIX
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

# Error codes of file systems without locks.
_NO_LOCKS = {
    *(errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP),
    *(errno.EINVAL, errno.ENOTTY, errno.EBADF, errno.EPERM),
}
# A marker left half-written by a crash is dropped after it has stayed the same for two seconds.
_MARKER_SECONDS = 5.0
_POLL_SECONDS = 0.1


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Keep other launches out of a folder.

    The lock is the operating system's, which is released when the process ends, for whatever reason. Where
    files cannot be locked (some network file systems), a file that names process and machine replaces it. It
    is removed at the end, or, if its process was killed, by the next launch on the same machine. Another
    machine cannot tell a crashed machine's file from a running batch's, so it leaves the file; the error
    names it.

    Raises:
        OutputError: another batch is using the folder, or the folder cannot be written to.
    """
    work = folder / ".work"
    with writing(folder):
        work.mkdir(parents=True, exist_ok=True)
        lock = _system_lock(folder, work / "lock") or _marker(folder, work / "lock.owner")
    try:
        yield
    finally:
        with writing(folder):
            lock.release()


@contextmanager
def part_lock(folder: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Keep out launches that need a folder for themselves, and admit other parts of a batch.

    Where files cannot be locked, nothing keeps out a launch that begins later.

    Args:
        folder: the output folder.
        patience: seconds to wait for exclusive use to end, such as that of a brief `gather_parts`.

    Raises:
        OutputError: a launch has exclusive use of the folder, or it cannot be written to.
    """
    work = folder / ".work"
    with writing(folder):
        work.mkdir(parents=True, exist_ok=True)
        file = (work / "lock").open("a+b")  # network file systems require read access to share its lock
    with file:
        marker = work / "lock.owner"
        if marker.exists():
            raise OutputError(_marked(folder, marker))
        until = time.monotonic() + patience
        with writing(folder):
            while not _is_shared(file, folder):
                if time.monotonic() >= until:
                    raise OutputError(_in_use(folder))
                time.sleep(_POLL_SECONDS)
        yield


def _is_shared(file: BinaryIO, folder: Path) -> bool:
    """Whether a shared lock on the file was obtained; True if locks are not supported."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    logger.warning(
        "files cannot be locked in %s: do not start another batch or --gather there while parts are running",
        folder,
    )
    return True


def _system_lock(folder: Path, path: Path) -> BaseFileLock | None:
    """The operating system's lock on a file, held; None if locks are not supported."""
    if FileLock is SoftFileLock:  # a Python without fcntl
        return None
    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputError(_in_use(folder)) from error
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return lock


def _marker(folder: Path, path: Path) -> BaseFileLock:
    """A marker file, held, in place of the lock; not the lock's own file, which exists and is empty."""
    lock = SoftFileLock(path, timeout=_MARKER_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputError(f"{_marked(folder, path)} ({error})") from error
    logger.warning("files cannot be locked in %s: %s serves as the lock", folder, path)
    return lock


def _marked(folder: Path, path: Path) -> str:
    return (
        f"{_in_use(folder)}. Files cannot be locked there, so {path} serves as the lock: if no batch "
        "is running any more, remove it"
    )


def _in_use(folder: Path) -> str:
    return f"{folder} is in use by another batch; wait for it, or choose another folder"

"""What ends a batch, or one clip of it, from outside."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)


class OutputError(OSError):
    """The output folder cannot be written to."""


class ModelError(ValueError):
    """A model cannot be loaded, or has changed: every clip that needs it would fail in the same way."""


class Stopped(Exception):  # noqa: N818 - not an error
    """The batch was asked to stop."""


def refuse_too_many_files(error: BaseException) -> None:
    """Raise OSError if the error is that this process, or the system, has too many open files.

    The file that was being read or written is not at fault then.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _TOO_MANY_FILES:
            raise OSError(
                "too many files are open; finished work is kept. Raise the limit (`ulimit -n`) and run "
                "the batch again"
            ) from error
        cause = cause.__cause__ or cause.__context__


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Report what is wrong with the output folder if it cannot be written to.

    Raises:
        OutputError: in place of any other OSError, except too many open files.
    """
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        refuse_too_many_files(error)
        if error.errno in _FULL:
            reason = "no space is left; finished work is kept. Free some space and run the batch again"
        else:
            reason = f"cannot be written to: {error}"
        raise OutputError(f"{folder}: {reason}") from error

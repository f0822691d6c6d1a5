"""What ends a batch, or one clip of it, from outside."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)


class OutputError(OSError):
    """The output folder cannot be written to."""


class Stopped(Exception):  # noqa: N818 - not an error
    """Somebody wants the batch to stop."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say what is wrong with the output folder when it cannot be written to.

    Raises:
        OutputError: in place of any other OSError.
    """
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            reason = "no space is left; what is finished is kept. Free some space and run the batch again"
        else:
            reason = f"cannot be written to: {error}"
        raise OutputError(f"{folder}: {reason}") from error

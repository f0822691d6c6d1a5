"""What each process of a batch did, as a file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import writing

logger = logging.getLogger(__name__)

_TOLD = ("pyramid_seed.batch.rows", "pyramid_seed.pipelines.text")
"""Whose warnings are shown on the terminal too: of what is left out of a list, and of a prompt."""


@contextmanager
def log_file(folder: Path, rank: int) -> Iterator[None]:
    """Write what this process does to `logs/process-<rank>.log`, after what earlier launches wrote there.

    Raises:
        OutputError: it cannot be written to.
    """
    path = folder / "logs" / f"process-{rank}.log"
    with writing(folder):
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(message)s"))
    package = logging.getLogger("pyramid_seed")
    level = package.level
    package.addHandler(handler)
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.WARNING)
    terminal.addFilter(lambda record: record.name in _TOLD)
    package.addHandler(terminal)
    package.setLevel(logging.INFO)
    try:
        yield
    except Exception:
        logger.exception("ended by an error")
        raise
    finally:
        package.setLevel(level)
        package.removeHandler(handler)
        package.removeHandler(terminal)
        with writing(folder):
            handler.close()


class _LogHandler(logging.FileHandler):
    """The work itself fails on a full disk, with a message; the log must not end it in another way."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

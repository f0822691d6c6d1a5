"""What each process of a batch did, as a file; its warnings also on the terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from .errors import writing

logger = logging.getLogger(__name__)

_ON_TERMINAL = ("pyramid_seed.batch", "pyramid_seed.pipelines.text", "pyramid_seed.api")
"""Whose warnings are shown on the terminal, too, each once: of a batch's files, of prompts that are cut, and
of clips that a model was not trained for."""


@contextmanager
def log_file(folder: Path, name: str) -> Iterator[None]:
    """Write what this process does to `logs/<name>.log`, after what earlier ones of that name wrote there.

    Raises:
        OutputError: it cannot be written to.
    """
    path = folder / "logs" / f"{name}.log"
    with writing(folder):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_fifo():
            raise OSError(f"{path} is a FIFO, which would wait for a reader; remove it")
        handler = _LogHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(message)s"))
    package = logging.getLogger("pyramid_seed")
    level = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    terminal = _TerminalHandler()
    told = [logging.getLogger(name) for name in _ON_TERMINAL]
    for source in told:
        source.addHandler(terminal)
    try:
        yield
    except Exception:
        logger.exception("ended by an error")
        raise
    finally:
        for source in told:
            source.removeHandler(terminal)
        package.setLevel(level)
        package.removeHandler(handler)
        with writing(folder):
            handler.close()


class _TerminalHandler(logging.Handler):
    """Warnings above the progress line, each once; what has failed is told in the end."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.levelno == logging.WARNING and message not in self._told:
            self._told.add(message)
            with suppress(OSError, ValueError):  # output never decides about the work
                tqdm.write(f"warning: {message}", file=sys.stderr)


class _LogHandler(logging.FileHandler):
    """The work itself fails on a full disk, with a message; the log must not end it in another way."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

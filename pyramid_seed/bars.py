"""Progress bars on standard error: a line on a terminal, plain lines elsewhere, widgets in a notebook."""

from __future__ import annotations

import sys
from typing import Any

from tqdm.auto import tqdm

TERMINAL_SECONDS = 0.2
"""How often a line on a terminal is written again."""
OTHER_SECONDS = 30.0
"""How often a line is written where none can be written over."""


class SeparateLines:
    """Standard error where no line can be overwritten: tqdm's carriage returns become line ends."""

    def write(self, text: str) -> None:
        """Write a line, unless there is only white space."""
        if line := text.strip():
            sys.stderr.write(f"{line}\n")

    def flush(self) -> None:
        """As of any stream."""
        sys.stderr.flush()


def bar_options() -> dict[str, Any]:
    """Options of tqdm; where no line can be written over, work of less than `OTHER_SECONDS` shows none."""
    options: dict[str, Any] = {"smoothing": 0}  # the time left follows from the mean over all
    if any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__):
        return options
    if sys.stderr is not None and sys.stderr.isatty():
        line = "{l_bar}{bar}| {remaining} left{postfix}"
        return options | {"bar_format": line, "mininterval": TERMINAL_SECONDS}
    line = "{desc}: {percentage:.0f} %, {remaining} left{postfix}"
    every = {"mininterval": OTHER_SECONDS, "delay": OTHER_SECONDS}
    return options | {"bar_format": line, "file": SeparateLines(), **every}

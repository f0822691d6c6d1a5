"""One line that says how far a batch is."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

_TERMINAL_SECONDS = 0.2
_OTHER_SECONDS = 30.0


@dataclass(frozen=True)
class Counts:
    """How far a batch is, over all its processes.

    Attributes:
        clips, steps: in all.
        clips_done, clips_failed: finished ones.
        steps_done: made by this launch. steps_known: found from an earlier one.
    """

    clips: int
    clips_done: int
    clips_failed: int
    steps: int
    steps_done: int
    steps_known: int


class ProgressLine:
    """Writes a `Counts` to standard error now and then: over itself on a terminal, else as a new line."""

    def __init__(self) -> None:
        self._stream = sys.stderr
        self._over = self._stream.isatty()
        self._started = time.monotonic()
        self._shown_at = float("-inf")
        self._shown: tuple[int, int] | None = None
        self._width = 0

    def show(self, counts: Counts) -> None:
        """Write the line if a clip was finished, or if the last one is old."""
        now = time.monotonic()
        finished = (counts.clips_done, counts.clips_failed)
        age = now - self._shown_at
        if finished == self._shown and age < (_TERMINAL_SECONDS if self._over else _OTHER_SECONDS):
            return
        self._shown_at, self._shown = now, finished
        line = describe(counts, now - self._started)
        self._stream.write(f"\r{line:<{self._width}}" if self._over else f"{line}\n")
        self._stream.flush()
        self._width = len(line)

    def close(self) -> None:
        """End the line."""
        if self._over and self._width:
            self._stream.write("\n")
            self._stream.flush()


def describe(counts: Counts, seconds: float) -> str:
    """The line: clips, steps, seconds a clip, time left."""
    finished = counts.clips_done + counts.clips_failed
    steps = counts.steps_done + counts.steps_known
    parts = [f"{finished}/{counts.clips} clips", f"{steps}/{counts.steps} steps"]
    if finished:
        parts.append(f"{seconds / finished:.1f} s a clip")
    if counts.steps_done and finished < counts.clips:
        parts.append(f"{_duration(seconds / counts.steps_done * (counts.steps - steps))} left")
    if counts.clips_failed:
        parts.append(f"{counts.clips_failed} failed")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"

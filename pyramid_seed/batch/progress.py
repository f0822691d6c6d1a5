"""One line that shows the progress of a batch."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from tqdm import tqdm

from ..bars import OTHER_SECONDS, TERMINAL_SECONDS, SeparateLines


@dataclass(frozen=True)
class Counts:
    """The progress of a batch, over all its processes.

    Attributes:
        clips, steps: totals.
        clips_done, clips_failed: clips finished so far.
        steps_done: steps made by this launch.
        steps_known: steps made by an earlier one.
    """

    clips: int
    clips_done: int
    clips_failed: int
    steps: int
    steps_done: int
    steps_known: int


class ProgressLine:
    """Shows `Counts` on standard error: one line on a terminal, elsewhere a new line now and then.

    Args:
        counts: the progress at the start.
    """

    def __init__(self, counts: Counts) -> None:
        is_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            desc=_clips(counts),
            total=counts.steps,
            file=sys.stderr if is_terminal else SeparateLines(),
            bar_format="{desc}, {n_fmt}/{total_fmt} steps, {remaining} left{postfix}",
            mininterval=TERMINAL_SECONDS if is_terminal else OTHER_SECONDS,
            miniters=0,  # a failed clip changes the line without a step
            smoothing=0,  # the time left follows from the mean over all steps
        )

    def show(self, counts: Counts) -> None:
        """Write the line if the last one is old enough."""
        self._set(counts)
        self._bar.update(0)

    def close(self, counts: Counts) -> None:
        """Write the line for the last time."""
        self._set(counts)
        self._bar.close()

    def _set(self, counts: Counts) -> None:
        bar = self._bar
        bar.initial = counts.steps_known  # these took no time
        bar.n = counts.steps_known + counts.steps_done
        bar.set_description_str(_clips(counts), refresh=False)
        facts = []
        if finished := counts.clips_done + counts.clips_failed:
            facts.append(f"{bar.format_dict['elapsed'] / finished:.1f} s per clip")
        if counts.clips_failed:
            facts.append(f"{counts.clips_failed} failed")
        bar.set_postfix_str(", ".join(facts), refresh=False)


def _clips(counts: Counts) -> str:
    return f"{counts.clips_done + counts.clips_failed}/{counts.clips} clips"

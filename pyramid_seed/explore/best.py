"""The best seed of each prompt, by one measure."""

from __future__ import annotations

from ..checks import check_choice
from .findings import Findings
from .measured import MeasuredClip
from .measures import MEASURES


def check_order(order: str) -> None:
    """Refuse anything but a measure's name, or one behind a minus sign: ValueError."""
    check_choice("best", order.removeprefix("-"), [measure.name for measure in MEASURES])


def best_clips(findings: Findings, order: str) -> list[MeasuredClip]:
    """The clip of each prompt with the largest measure; of equal ones, the first.

    Args:
        findings: the findings of a sweep.
        order: a measure's name; with a minus sign in front, the smallest is best.

    Raises:
        ValueError: there is no such measure, or it is not defined for any clip of a prompt.
    """
    check_order(order)
    name, sign = order.removeprefix("-"), -1 if order.startswith("-") else 1
    best = []
    for prompt in findings.prompts:
        ranked = [(sign * value, clip) for clip in prompt.clips if (value := clip.values[name]) is not None]
        if not ranked:
            raise ValueError(f"{name} is not defined for any clip of {str(prompt.prompt)!r}; use another one")
        best.append(max(ranked, key=lambda pair: pair[0])[1])
    return best

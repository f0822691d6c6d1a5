"""What a function refuses, for tests of a rule over many arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

Argument = TypeVar("Argument")


def not_refused(
    call: Callable[[Argument], object], words: Mapping[Argument, str], error: type[Exception] = ValueError
) -> dict[Argument, str]:
    """The arguments that are not refused with these words in the error, and what came instead."""
    offenders = {}
    for argument, expected in words.items():
        try:
            offenders[argument] = f"accepted: {call(argument)!r}"
        except error as refusal:
            if expected not in str(refusal):
                offenders[argument] = str(refusal)
    return offenders

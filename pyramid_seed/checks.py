"""Checks that many modules share: errors name the rule, the value given and the nearest good one."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from numbers import Integral, Real
from os import PathLike


def check_int(name: str, value: object, minimum: int | None = None, maximum: int | None = None) -> None:
    """Refuse anything but a whole number between a minimum and a maximum.

    Raises:
        TypeError: it is neither an int nor another library's, such as NumPy's; True and False are not ints.
        ValueError: it is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}")
    number = int(value)
    if minimum is not None and number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}; use {minimum}")
    if maximum is not None and number > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {value}; use {maximum}")


def check_finite(name: str, value: object) -> None:
    """Refuse anything but a finite number: TypeError if it is not a number at all, else ValueError."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r:.60} of type {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse anything but one of the choices; the error names the one spelled most like it."""
    if not isinstance(value, str) or value not in choices:
        nearest = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.0)[0]
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}; use {nearest}")


def check_kinds(**arguments: tuple[object, type]) -> None:
    """Refuse arguments of another type, by name; None means not given: TypeError."""
    for name, (value, kind) in arguments.items():
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")


def check_path(name: str, value: object) -> None:
    """Refuse anything but a path; bytes are not one: TypeError."""
    if not isinstance(value, str | PathLike):
        raise TypeError(f"{name} must be a path, as str or Path, got {type(value).__name__}")


def check_list(name: str, value: object, of: str) -> None:
    """Refuse anything but a list or a tuple; a str or bytes is neither: TypeError."""
    if isinstance(value, str | bytes | bytearray) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a list of {of}, got {value!r:.60}")


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown word: the known one spelled most like it."""
    matches = difflib.get_close_matches(word, known, n=1, cutoff=0.0)
    return f"; did you mean {matches[0]!r}?" if matches else ""

"""One test per rule: all of its cases in one go, every offender named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest


def check_cases(cases: Mapping[str, Any] | Iterable[Any], rule: Callable[..., object]) -> None:
    """Call `rule` for every case; those in which it fails are named in one AssertionError.

    A tuple is the rule's arguments, anything else its only one. Cases of a mapping go by their keys, others
    by their values. The first failure is the error's cause, so that its traceback is shown.
    """
    __tracebackhide__ = True
    named = list(cases.items()) if isinstance(cases, Mapping) else [(_name(case), case) for case in cases]
    assert named, "a rule without a case holds of nothing"
    failures: list[tuple[str, BaseException]] = []
    for name, case in named:
        try:
            rule(*_arguments(case))
        except (Exception, pytest.fail.Exception) as error:
            failures.append((name, error))
    if failures:
        lines = [f"{name}: {_short(f'{type(error).__name__} {error}')}" for name, error in failures]
        summary = f"{len(failures)} of {len(named)} cases break the rule:"
        raise AssertionError("\n  ".join([summary, *lines])) from failures[0][1]


def _arguments(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)


def _name(case: Any) -> str:
    return _short(", ".join(getattr(value, "__name__", repr(value)) for value in _arguments(case)))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:200]}..."

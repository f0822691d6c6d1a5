"""One test per rule: all of its cases in one go, every offender named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest


def check_cases(
    cases: Mapping[str, tuple[Any, ...]] | Iterable[tuple[Any, ...]], rule: Callable[..., object]
) -> None:
    """Call `rule(*case)` for every case; those in which it fails are named in one AssertionError.

    Cases of a mapping go by their keys, others by their values. The first failure is the error's cause, so
    that its traceback is shown.
    """
    __tracebackhide__ = True
    named = cases.items() if isinstance(cases, Mapping) else [(repr(case), case) for case in cases]
    assert named, "a rule without a case holds of nothing"
    failures: dict[str, BaseException] = {}
    for name, case in named:
        try:
            rule(*case)
        except (Exception, pytest.fail.Exception) as error:
            failures[name] = error
    if failures:
        lines = [f"{name}: {_first_line(error)}" for name, error in failures.items()]
        summary = f"{len(failures)} of {len(named)} cases break the rule:"
        raise AssertionError("\n  ".join([summary, *lines])) from next(iter(failures.values()))


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

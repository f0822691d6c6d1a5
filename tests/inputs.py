"""Inputs at random for tests of readers and arguments, and what a good end is."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import pyramid_seed

Value = TypeVar("Value")

OURS = (ValueError, TypeError, OSError, FloatingPointError)
_PACKAGE = str(Path(pyramid_seed.__file__).parent)


class Given:
    """What a fixture gives, which hypothesis would print in full."""

    def __init__(self, value: Any) -> None:
        self.value = value


def bounded(share: int = 1) -> settings:
    """Settings of a test: the profile's number of examples, or its n-th part where one takes long.

    A second is much for any of them; the limit is larger, so that a busy machine is not a failure.
    """
    return settings(
        max_examples=max(settings().max_examples // share, 1),
        deadline=timedelta(seconds=10),
        suppress_health_check=list(HealthCheck),
    )


def ends(call: Callable[[], Value]) -> Value | None:
    """What a call gives, or None where it ends in an error of our own."""
    try:
        return call()
    except OURS as error:
        check_ours(error)
        return None


def check_ours(error: BaseException | None) -> None:
    """Fail unless an error was raised by this package, for a reason that it gives."""
    assert isinstance(error, OURS), f"unforeseen: {error!r}"
    assert str(error).strip(), f"no reason: {error!r}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    is_raised = last.filename.startswith(_PACKAGE) and (last.line or "").startswith("raise")
    is_named = isinstance(error, OSError) and error.filename is not None
    is_of_python = "unexpected keyword argument" in str(error)
    if not (is_raised or is_named or is_of_python):
        pytest.fail(f"raw, in {last.filename}, line {last.lineno}: {error!r}")


@contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """Fail if there is something else in a folder afterwards."""
    before = sorted(folder.rglob("*"))
    yield
    assert sorted(folder.rglob("*")) == before


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested values, as the keys that lead there."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def changed(values: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of nested values with another one in a place."""
    if not path:
        return value
    copy = json.loads(json.dumps(values))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return copy


def changes_of(values: Any) -> st.SearchStrategy[Any]:
    """Copies of nested values with a change in one place."""
    return st.builds(
        lambda path, value: changed(values, path, value), st.sampled_from(list(places(values))), plain
    )


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """Copies of a file that are cut off, or have other bytes in a place; mostly near its beginning."""
    place = st.integers(0, min(len(data), 400) - 1) | st.integers(0, len(data) - 1)
    return st.builds(
        lambda place, new, removed: data[:place] + new + data[place + removed :],
        place,
        st.binary(max_size=8),
        st.sampled_from([0, 1, 4, 8, len(data)]),
    )


odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.binary(max_size=9),
    st.sampled_from([
        10**400, 2**64, -1, 0, 1, 1e308, float("nan"), np.float32("nan"), np.int64(-1), np.zeros(3),
        Path("a\0b"), Path(), object(), [[[]]], {}, (), {"a": 1}, set(), print, "cpu", "cuda", "tiny",
        "\udc80", "x" * 5000, "a\0b", "/", "~", b"tiny", b"", range(3), 1j,
    ]),
    st.lists(st.integers() | st.text(max_size=3) | st.none(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers() | st.none(), max_size=2),
)  # fmt: skip
"""Values of any type, for arguments."""

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
    | st.sampled_from([2**64, -1, 0, 1, 10**30, 1e300, "../x", "/", "tiny", "a\0b", "\ud800", [], {}]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
"""Values that JSON knows."""

WORDS = [
    "prompt", "seed", "image", "preset", "fps", "height", "tiny", "a boat", "1", "-1", "010", "1_000",
    "1e999", ": ", "- ", "\n", "\r", "\n  ", ",", ";", "\t", '"', "'", "{", "}", "[", "]", "&a", "*a", "<<",
    "!!int ''", "!!python/name:os", "|", ">", "#", "%YAML", "---", "\0", "\x1b", "\ufeff", "\u202e",
    "\\ud800", "null", "NaN",
]  # fmt: skip
written = st.lists(st.sampled_from(WORDS) | st.text(max_size=4), max_size=25).map("".join)
contents = written.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=40)
"""Bytes that nearly are a list, a preset or JSON."""

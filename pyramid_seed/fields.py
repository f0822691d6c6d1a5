"""Fields described once: decoding, messages, options and help all come from that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from inspect import cleandoc
from numbers import Integral, Real
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from .checks import check_choice

_Described = TypeVar("_Described", bound=Callable[..., Any])


@dataclass(frozen=True)
class Field:
    """A field of a dataclass, described by `about`.

    Attributes:
        name: the field's name.
        type: its type with the limits, in msgspec's form; the `title` of a limit is the rule in words.
        default: its default value; `dataclasses.MISSING` if it has none.
        help, reader, metavar, choices: see `about`.
    """

    name: str
    type: Any
    default: Any
    help: str
    reader: str
    metavar: str
    choices: tuple[str, ...]

    @property
    def option(self) -> str:
        """Its name on the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def is_several(self) -> bool:
        """Whether it takes several values."""
        return any(get_origin(part) is tuple for part in _parts(self.type))

    def decode(self, value: object) -> Any:
        """A value from anywhere in the field's own form; a single value becomes a tuple if it takes several.

        Raises:
            ValueError: it breaks the rule; the message names field, rule, value and the nearest good value.
        """
        value = _plain(value)
        if self.choices and (value is not None or self.default is not None):
            check_choice(self.name, value, self.choices)
            return value
        is_one_of_several = self.is_several and not isinstance(value, list | None)
        try:
            return msgspec.convert([value] if is_one_of_several else value, self.type)
        except (msgspec.ValidationError, UnicodeEncodeError):  # half a surrogate pair has no UTF-8
            rule = self.rule + self._limit(value)
            raise ValueError(
                f"{self.name} must be {rule}, got {_short(value)}{self._advice(value)}"
            ) from None

    def parse(self, text: str) -> Any:
        """The value of a text from a command line or .csv, unchecked; spaces separate several values."""
        if str in _parts(self.type):
            return text
        values = [_number(word) for word in text.split()]
        return values[0] if len(values) == 1 else values or text

    @property
    def rule(self) -> str:
        """What a value must be, in words, apart from `highest`."""
        if self.choices:
            return " or ".join(self.choices)
        return [limit.title for limit in _limits(self.type) if limit.title][-1]  # the outermost

    @property
    def highest(self) -> list[int | float]:
        """The upper limit, if any; one that only excludes numbers too large for a float does not count."""
        return [part.le for part in _limits(self.type) if part.le is not None and part.le < 2**53]

    def _limit(self, value: object) -> str:
        """The upper limit in words, if a value breaks it."""
        numbers = value if isinstance(value, list) else [value]
        for highest in self.highest:
            if any(isinstance(number, int | float) and number > highest for number in numbers):
                return f" and at most {highest}"
        return ""

    def _advice(self, value: object) -> str:
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 2**53:
            return ""  # nor has NaN a nearest value
        lowest = [part.ge for part in _limits(self.type) if part.ge is not None and part.ge > value]
        for nearest in (round(value), *lowest, *self.highest):
            try:
                return f"; use {msgspec.convert(nearest, self.type)}"
            except msgspec.ValidationError:
                continue
        return ""


def about(
    help: str, reader: str = "", metavar: str = "N", *, choices: Sequence[str] = (), default: Any = MISSING
) -> Any:
    """A field of a dataclass, with what people are told about it.

    Args:
        help: one sentence, without a capital or a full stop.
        reader: who reads it.
        metavar: the placeholder for its value on the command line.
        choices: the words that it can be.
        default: its default value.
    """
    metadata = {"help": help, "reader": reader, "metavar": metavar, "choices": tuple(choices)}
    return field(default=default, metadata=metadata)


def described_fields(cls: type) -> dict[str, Field]:
    """The fields of a dataclass that `about` describes, by name."""
    hints = get_type_hints(cls, include_extras=True)
    described = [part for part in fields(cls) if part.metadata]
    return {
        part.name: Field(part.name, hints[part.name], part.default, **part.metadata) for part in described
    }


def with_fields_listed(title: str, described: Mapping[str, Field]) -> Callable[[_Described], _Described]:
    """A decorator that appends the fields, each with its sentence, to a docstring."""

    def add(documented: _Described) -> _Described:
        lines = [f"    {name}: {described[name].help}." for name in described]
        if documented.__doc__ is not None:  # python -OO drops it
            documented.__doc__ = "\n".join([cleandoc(documented.__doc__), "", f"{title}:", *lines, ""])
        return documented

    return add


def _plain(value: object) -> object:
    """Numbers of any library, such as NumPy's, as Python numbers; sequences as lists."""
    if isinstance(value, bool | str | bytes | bytearray | memoryview | range):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    return [_plain(item) for item in value] if isinstance(value, Sequence) else value


def _short(value: object) -> str:
    """A value for messages; numbers with thousands of digits have no repr, and nested lists no end."""
    try:
        return f"{value!r:.200}"
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} that is too long to show"


def _number(text: str) -> int | float | str:
    """The number that a text represents; otherwise the text itself."""
    try:
        return msgspec.convert(text, int | float, strict=False)
    except msgspec.ValidationError:
        return text


def _parts(hint: Any) -> Iterator[Any]:
    """A type, its arguments, and the metadata that `Annotated` adds to it."""
    yield hint
    for part in get_args(hint):
        yield from _parts(part)


def _limits(hint: Any) -> list[msgspec.Meta]:
    return [part for part in _parts(hint) if isinstance(part, msgspec.Meta)]

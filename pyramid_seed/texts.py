"""Text from other people: read up to a size, parsed up to a depth, shown on one line."""

from __future__ import annotations

import json
import re
import stat
import unicodedata
from pathlib import Path
from typing import Any, BinaryIO

MAX_PROMPT_LENGTH = 10_000
"""Characters; of longer texts, the text encoders read about 500 at most."""
_MAX_DEPTH = 64  # of JSON; a manifest has 5

# Half surrogates, control characters except tab and line ends, byte order marks, and characters that reverse
# the direction of writing: nobody types them, and nobody sees what they do.
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_STEERS = re.compile("[\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def check_prompt(prompt: object, name: str = "prompt") -> None:
    """Refuse anything but a text that people could have typed.

    Raises:
        TypeError: it is not a str.
        ValueError: it is longer than `MAX_PROMPT_LENGTH`, or holds an invisible character.
    """
    if not isinstance(prompt, str):
        raise TypeError(f"{name} must be one str, got {type(prompt).__name__}; call generate once for each")
    if len(prompt) > MAX_PROMPT_LENGTH:
        raise ValueError(
            f"{name} must be at most {MAX_PROMPT_LENGTH:,} characters, got {len(prompt):,}; the model reads "
            "only the first few hundred words"
        )
    if unseen := _UNSEEN.search(prompt):
        raise ValueError(
            f"{name} must be plain text, got the character U+{ord(unseen[0]):04X} at {unseen.start() + 1}; "
            "leave it out"
        )


def printable(text: str) -> str:
    """The text on one line, with characters that control a terminal escaped: anyone may have written it."""
    return "".join(
        char.encode("unicode_escape").decode("ascii")
        if unicodedata.category(char) in ("Cc", "Cs") or _STEERS.match(char)
        else char
        for char in text
    )


def printable_lines(text: str) -> str:
    """Each line of a text as `printable` returns it."""
    return "\n".join(map(printable, text.split("\n")))


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as "1 frame" and "2 frames"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def size_text(size: int) -> str:
    """A number of bytes for people, such as "1.3 GB"."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1e3:.1f} kB"


def read_bounded(path: Path, limit: int, what: str) -> bytes:
    """Read the bytes of a file.

    Args:
        path: a regular file.
        limit: the most bytes to read.
        what: its name in messages, such as "the preset".

    Raises:
        FileNotFoundError: it is missing. OSError: it cannot be read.
        ValueError: it is larger than the limit, or a device or a pipe.
    """
    with open_file(path, what) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{what} {path} must be at most {limit // 2**10} KiB, and is larger")
    return data


def open_file(path: Path, what: str) -> BinaryIO:
    """Open a regular file for reading; raises as `read_bounded`."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{what} {path} does not exist") from error
    except ValueError as error:  # NUL, or half a surrogate pair
        raise ValueError(f"{what} {str(path)!r:.80} has a name that no file can have") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # others could go on for ever, or never begin
        raise ValueError(f"{what} {path} must be a file, not a device or a pipe")
    return path.open("rb")


def parse_json(text: str, **hooks: Any) -> Any:
    """The value of a JSON text; `hooks` are those of `json.loads`.

    Raises:
        ValueError: it is not JSON, or is nested deeper than any of our files.
    """
    too_deep = f"it is nested more than {_MAX_DEPTH} deep"
    try:
        value = json.loads(text, **hooks)
    except RecursionError:
        raise ValueError(too_deep) from None
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return value
    raise ValueError(too_deep)

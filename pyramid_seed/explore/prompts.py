"""The prompts of a sweep, from the command line or from lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ..batch.rows import BadRow, BatchInputError, Row, read_rows
from ..checks import check_list, check_path
from ..choices import LIST_FORMATS
from ..files import real_path
from ..texts import check_prompt

_FIELDS = ("prompt", "image")


@dataclass(frozen=True)
class Prompt:
    """What every seed is tried on.

    Attributes:
        text: the prompt.
        image: its image's file, an absolute path; None if there is none.
    """

    text: str
    image: str | None = None

    @property
    def key(self) -> str:
        """8 hexadecimal digits that tell prompts apart in file names."""
        return sha256(f"{self.text}\0{self.image or ''}".encode(errors="surrogatepass")).hexdigest()[:8]

    def __str__(self) -> str:
        return self.text if self.image is None else f"{self.text} [{Path(self.image).name}]"


def is_list(text: str) -> bool:
    """Whether an argument names a list of prompts: it has the extension of a `pyramid-seed batch` list."""
    return Path(text).suffix.lower().removeprefix(".") in (*LIST_FORMATS, "yml")


def read_prompts(sources: Sequence[str | Path]) -> tuple[Prompt, ...]:
    """The prompts of a sweep, in the given order.

    Args:
        sources: prompts as text, lists of prompts as paths.

    Raises:
        BatchInputError: rows of a list are broken, or hold more than a prompt and an image: all prompts of a
            sweep share seeds and settings.
        ValueError: there is no prompt, or one is empty or repeated.
        OSError: a list cannot be read.
    """
    prompts: list[Prompt] = []
    bad: list[BadRow] = []
    check_list("prompts", sources, "prompts as str and lists as Path")
    for source in sources:
        if isinstance(source, str):
            prompts.append(Prompt(source))
            continue
        check_path("prompts", source)
        rows, unread = read_rows(source)
        bad += unread
        for row in rows:
            if (reason := _refusal(row)) is not None:
                bad.append(BadRow(f"{source}, line {row.line}", reason))
                continue
            image = row.values.get("image")
            path = None if image is None else str(real_path(source.parent / image))
            prompts.append(Prompt(row.values["prompt"], path))
    if bad:
        raise BatchInputError(bad)
    if not prompts:
        raise ValueError("there is no prompt")
    seen: set[Prompt] = set()
    for prompt in prompts:
        check_prompt(prompt.text)
        if not prompt.text.strip():
            raise ValueError("a prompt must not be empty")
        if prompt in seen:
            raise ValueError(f"{str(prompt)!r} is given twice; a sweep compares different prompts")
        seen.add(prompt)
    return tuple(prompts)


def _refusal(row: Row) -> str | None:
    """Why a row cannot be used in a sweep; None if it can."""
    if more := [str(name) for name in row.values if name not in _FIELDS]:
        names = ", ".join(map(repr, more))
        return f"rows of a sweep hold prompt and image, got {names}; give --seeds and settings as options"
    for name in _FIELDS:
        if not isinstance(row.values.get(name, ""), str):
            return f"{name} must be text, got {row.values[name]!r}"
    return None if "prompt" in row.values else "there is no prompt"

"""The rows of a list of clips, read from .txt, .jsonl, .csv or .yaml: values by name, and line numbers."""

from __future__ import annotations

import csv
import io
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..checks import did_you_mean
from ..choices import LIST_FORMATS
from ..presets import SETTINGS
from ..texts import check_prompt, parse_json, read_bounded, read_stream
from ..unique_keys import YAML_ERRORS, UniqueKeyLoader

logger = logging.getLogger(__name__)

STANDARD_INPUT = "-"
NAMES = ("prompt", "seed", "image", "lora", "preset", *SETTINGS)
"""What a row may hold: values of its own, and every setting."""
MAX_BYTES = 64 * 2**20
"""Of a list: some 500,000 prompts."""
MAX_YAML_BYTES = 256 * 2**10
"""Of a list in YAML: it takes a hundred times as long to read as other formats, see also `unique_keys`."""


@dataclass(frozen=True)
class Row:
    """One entry of a list: the line it begins at, and its values. From .csv, all values are text."""

    line: int
    values: dict[str, Any]


@dataclass(frozen=True)
class BadRow:
    """Why an entry cannot be made; `where` names file and line."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


class BatchInputError(ValueError):
    """Entries of a list that cannot be made, all of them."""

    def __init__(self, rows: Sequence[BadRow]) -> None:
        self.rows = tuple(rows)
        count = "1 bad row" if len(rows) == 1 else f"{len(rows)} bad rows"
        super().__init__("\n".join([f"{count}, nothing was made:", *(f"  {row}" for row in rows)]))


def read_rows(source: str | Path, file_format: str | None = None) -> tuple[list[Row], list[BadRow]]:
    """Read a list: the rows that can be read, and those that cannot.

    Args:
        source: a file, or "-" for standard input.
        file_format: one of `LIST_FORMATS`; default: the file's ending, for standard input "txt".

    Raises:
        ValueError: an unknown format, text that is not UTF-8, a list that is too large, or a .yaml or .csv
            that is broken as a whole.
        OSError: the file cannot be read.
    """
    where, is_standard_input = name_of(source), str(source) == STANDARD_INPUT
    ending = "txt" if is_standard_input else Path(source).suffix.lower().removeprefix(".")
    file_format = file_format or ("yaml" if ending == "yml" else ending)
    if file_format not in LIST_FORMATS:
        raise ValueError(f"a list must be one of {', '.join(LIST_FORMATS)}, got {file_format!r}")
    if is_standard_input:
        data = read_stream(sys.stdin.buffer, MAX_BYTES, where)
    else:
        data = read_bounded(Path(source), MAX_BYTES, "the list")
    if file_format == "yaml" and len(data) > MAX_YAML_BYTES:
        raise ValueError(
            f"{where} must be at most {MAX_YAML_BYTES // 2**10} KiB in YAML, got {len(data) // 2**10}; "
            "use .jsonl for long lists"
        )
    text = _decoded(data, where)
    reader = {"txt": _read_txt, "jsonl": _read_jsonl, "csv": _read_csv, "yaml": _read_yaml}[file_format]
    good: list[Row] = []
    bad: list[BadRow] = []
    for line, values_or_reason in reader(text, where):
        try:
            if isinstance(values_or_reason, str):
                raise ValueError(values_or_reason)
            if isinstance(prompt := values_or_reason.get("prompt"), str):
                check_prompt(prompt)
            good.append(Row(line, values_or_reason))
        except ValueError as error:
            bad.append(BadRow(f"{where}, line {line}", str(error)))
    return good, bad


def _decoded(data: bytes, where: str) -> str:
    """The text of a list, its line ends as they are on Linux."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len((data[: error.start] + b"?").splitlines())
        raise ValueError(f"{where}, line {line}: the text must be UTF-8") from error
    if "\0" in text:  # of UTF-16, every other character
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"{where}, line {line}: the text must be UTF-8, got a NUL character")
    return re.sub("\r\n?", "\n", text)


def check_names(names: Iterable[Any], where: str = "") -> None:
    """Refuse names that no row may hold: ValueError, with the known one spelled most like it."""
    for name in names:
        if name not in NAMES:
            raise ValueError(f"{where}unknown name {name!r}{did_you_mean(str(name), NAMES)}")


def name_of(source: str | Path) -> str:
    """What to call a list in messages."""
    return "standard input" if str(source) == STANDARD_INPUT else str(source)


_Lines = Iterator[tuple[int, dict[str, Any] | str]]
"""Line and values of each row, or line and reason."""


def _read_txt(text: str, where: str) -> _Lines:
    """A prompt per line; empty lines and those that begin with # are ignored, and the latter are told."""
    prompts = [(line, prompt.strip()) for line, prompt in enumerate(text.split("\n"), start=1)]
    remarks = [line for line, prompt in prompts if prompt.startswith("#")]
    if remarks:
        told = "%s: lines that begin with # are no prompts: %d, the first is line %d"
        logger.warning(told, where, len(remarks), remarks[0])
    yield from (
        (line, {"prompt": prompt}) for line, prompt in prompts if prompt and not prompt.startswith("#")
    )


def _read_jsonl(text: str, where: str) -> _Lines:  # noqa: ARG001
    for line, row in enumerate(text.split("\n"), start=1):
        if not row.strip():
            continue
        try:
            value = parse_json(row, object_pairs_hook=_unique, parse_constant=_no_constant)
        except ValueError as error:
            yield line, f"not a JSON object: {error}"
            continue
        yield line, value if isinstance(value, dict) else f"must be a JSON object, got {row.strip():.60}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{name!r} is given twice")
        values[name] = value
    return values


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _read_csv(text: str, where: str) -> _Lines:
    """The first line names the columns; empty cells are ignored."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = [column.strip() for column in next(reader, [])]
        for mark, called in ((";", "semicolons"), ("\t", "tabs")):
            if len(columns) == 1 and mark in columns[0]:
                raise ValueError(
                    f"{where}, line 1: columns must be parted by commas, got {called}: {columns}"
                )
        has_index = len(columns) > 1 and not columns[0]  # pandas numbers the rows in a column without a name
        columns = columns[has_index:]
        if len(set(columns)) < len(columns) or "prompt" not in columns:
            raise ValueError(f"{where}, line 1: must name each column once, `prompt` among them: {columns}")
        check_names(columns, f"{where}, line 1: ")
        line = reader.line_num + 1
        for cells in reader:
            cells = cells[has_index:]
            if len(cells) > len(columns):
                yield line, f"has {len(cells)} cells for {len(columns)} columns; quote cells with commas"
            elif any(cell.strip() for cell in cells):
                yield line, {name: cell for name, cell in zip(columns, cells, strict=False) if cell.strip()}
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{where}, line {reader.line_num}: {error}") from error


def _read_yaml(text: str, where: str) -> _Lines:
    """A list of mappings; a plain text in it is a prompt."""
    try:
        loader = UniqueKeyLoader(text)
        node = loader.get_single_node()
    except YAML_ERRORS as error:
        raise ValueError(f"{where} is not valid YAML: {error}") from error
    if not isinstance(node, yaml.SequenceNode):
        raise ValueError(f"{where} must be a list: `- prompt: ...` lines")
    for entry in node.value:
        line = entry.start_mark.line + 1
        try:
            value = loader.construct_object(entry, deep=True)
        except YAML_ERRORS as error:
            yield line, f"not a valid entry: {error}"
            continue
        if isinstance(value, str):
            value = {"prompt": value}
        yield line, value if isinstance(value, dict) else f"must be `name: value`, got {value!r:.60}"

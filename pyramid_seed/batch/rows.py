"""The rows of a list of clips, read from .txt, .jsonl, .csv or .yaml: values by name, and line numbers."""

from __future__ import annotations

import csv
import io
import logging
import re
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from ..checks import did_you_mean
from ..choices import LIST_FORMATS
from ..presets import SETTINGS
from ..texts import check_prompt, open_file, parse_json
from ..unique_keys import YAML_ERRORS, UniqueKeyLoader

logger = logging.getLogger(__name__)

STANDARD_INPUT = "-"
NAMES = ("prompt", "seed", "branches", "image", "lora", "preset", *SETTINGS)
"""What a row may hold: these values, and every setting."""
MAX_LINE = 2**20
"""Characters per line; a list may have any number of lines."""
MAX_YAML_BYTES = 256 * 2**10
"""Size of a list in YAML, which takes a hundred times as long to read as other formats; see `unique_keys`."""
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # bytes that could not be decoded


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of a list: the line on which it begins, and its values. From .csv, all values are text."""

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
    """Entries of a list that cannot be made, all reported together."""

    def __init__(self, rows: Sequence[BadRow]) -> None:
        self.rows = tuple(rows)
        count = "1 bad row" if len(rows) == 1 else f"{len(rows)} bad rows"
        super().__init__("\n".join([f"{count}, nothing was made:", *(f"  {row}" for row in rows)]))


def read_rows(source: str | Path, file_format: str | None = None) -> tuple[list[Row], list[BadRow]]:
    """All rows of a list that can be read, and all that cannot; see `stream_rows`."""
    good: list[Row] = []
    bad: list[BadRow] = []
    for row in stream_rows(source, file_format):
        if isinstance(row, Row):
            good.append(row)
        else:
            bad.append(row)
    return good, bad


def stream_rows(source: str | Path, file_format: str | None = None) -> Iterator[Row | BadRow]:
    """The rows of a list, one by one; a list in YAML is read as a whole first.

    Args:
        source: a file, or "-" for standard input.
        file_format: one of `LIST_FORMATS`; default: the file's extension, or "txt" for standard input.

    Raises:
        ValueError: the format is unknown, the text is not UTF-8, a line or a .yaml is too long, or a .yaml or
            .csv is broken as a whole.
        OSError: the file cannot be read.
    """
    where, is_standard_input = name_of(source), str(source) == STANDARD_INPUT
    ending = "txt" if is_standard_input else Path(source).suffix.lower().removeprefix(".")
    file_format = file_format or ("yaml" if ending == "yml" else ending)
    if file_format not in LIST_FORMATS:
        raise ValueError(f"a list must be one of {', '.join(LIST_FORMATS)}, got {file_format!r}")
    reader = {"txt": _read_txt, "jsonl": _read_jsonl, "csv": _read_csv, "yaml": _read_yaml}[file_format]
    source_file = nullcontext(sys.stdin.buffer) if is_standard_input else open_file(Path(source), "the list")
    with source_file as file, closing(_lines(file, where)) as lines:
        for line, values_or_reason in reader(lines, where):
            try:
                if isinstance(values_or_reason, str):
                    raise ValueError(values_or_reason)
                if isinstance(prompt := values_or_reason.get("prompt"), str):
                    check_prompt(prompt)
            except ValueError as error:
                yield BadRow(f"{where}, line {line}", str(error))
            else:
                yield Row(line, values_or_reason)


def _lines(file: BinaryIO, where: str) -> Generator[str, None, None]:
    """The lines of a list, with Linux line ends; refuses those that are not UTF-8 or not text."""
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape")
    try:
        for number in count(1):
            line = text.readline(MAX_LINE + 1)
            if not line:
                return
            if not line.isascii() and _NOT_UTF8.search(line):
                raise ValueError(f"{where}, line {number}: the text must be UTF-8")
            if "\0" in line:  # in UTF-16, every other character
                raise ValueError(f"{where}, line {number}: the text must be UTF-8, got a NUL character")
            if len(line) > MAX_LINE:
                raise ValueError(f"{where}, line {number}: must be at most {MAX_LINE:,} characters")
            yield line
    finally:
        text.detach()  # otherwise it would close the file


def check_names(names: Iterable[Any], where: str = "") -> None:
    """Refuse names that no row may hold: ValueError, suggesting the most similar known name."""
    for name in names:
        if name == "video":
            raise ValueError(
                f"{where}a batch makes no clips from videos, since it reads all inputs before it begins; "
                "make them one by one: generate --video"
            )
        if name not in NAMES:
            raise ValueError(f"{where}unknown name {name!r}{did_you_mean(str(name), NAMES)}")


def name_of(source: str | Path) -> str:
    """What messages call the list."""
    return "standard input" if str(source) == STANDARD_INPUT else str(source)


_Lines = Iterator[tuple[int, dict[str, Any] | str]]
"""Line and values of each row, or line and reason."""


def _read_txt(lines: Iterator[str], where: str) -> _Lines:
    """A prompt per line; empty lines and lines that begin with # are ignored, the latter with a notice."""
    num_remarks, first_remark = 0, 0
    for line, text in enumerate(lines, start=1):
        prompt = text.strip()
        if prompt.startswith("#"):
            num_remarks, first_remark = num_remarks + 1, first_remark or line
        elif prompt:
            yield line, {"prompt": prompt}
    if num_remarks:
        told = "%s: lines that begin with # are no prompts: %d, the first is line %d"
        logger.warning(told, where, num_remarks, first_remark)


def _read_jsonl(lines: Iterator[str], where: str) -> _Lines:  # noqa: ARG001
    for line, row in enumerate(lines, start=1):
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


def _read_csv(lines: Iterator[str], where: str) -> _Lines:
    """The first line names the columns; empty cells are ignored."""
    reader = csv.reader(lines, strict=True)
    try:
        columns = [column.strip() for column in next(reader, [])]
        for mark, called in ((";", "semicolons"), ("\t", "tabs")):
            if len(columns) == 1 and mark in columns[0]:
                raise ValueError(
                    f"{where}, line 1: columns must be separated by commas, got {called}: {columns}"
                )
        has_index = len(columns) > 1 and not columns[0]  # pandas numbers rows in an unnamed column
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


def _read_yaml(lines: Iterator[str], where: str) -> _Lines:
    """A list of mappings; a plain text in it is a prompt."""
    text, size = "", 0
    for line in lines:
        if (size := size + len(line.encode())) > MAX_YAML_BYTES:
            raise ValueError(
                f"{where} must be at most {MAX_YAML_BYTES // 2**10} KiB in YAML, but is larger; "
                "use .jsonl for long lists"
            )
        text += line
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

"""`index.jsonl`: entries are appended, an item's latest entry counts, and a finished run sorts them.

A log and not a database: sqlite3 needs locks between machines, which shared file systems often lack or
pretend to have. Here only the main process writes, and a crash loses at most the line being written.
"""

from __future__ import annotations

import io
import logging
import os
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..files import replacing
from .entries import CheckedEntry, Entry, checked, decoded, entry_line, read_entry

logger = logging.getLogger(__name__)

_MAX_LINE = 2**20  # bytes, far more than an entry takes


class Index:
    """The index of a folder.

    Args:
        path: the index file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._told: set[bytes] = set()

    def append(self, lines: Iterable[bytes]) -> int:
        """Append lines; returns the offset at which they begin."""
        with self.path.open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a crash has cut it off
                    file.write(b"\n")
            begin = file.tell()
            file.writelines(lines)
            return begin

    def entries(self) -> IndexEntries:
        """The entries of the index; other lines are skipped with a warning."""
        file: BinaryIO = self.path.open("rb") if self.path.exists() else io.BytesIO()
        places: dict[str, int] = {}
        entries = IndexEntries(self, file, places)
        place = 0
        for number, line in enumerate(read_lines(file), start=1):
            try:
                entry = decoded(line)
            except ValueError as error:
                if line.strip() and line not in self._told:
                    logger.warning("%s, line %d: %s; it is left out", self.path, number, error)
                    self._told.add(line)
            else:
                if entry.id is not None and entries.is_succeeded_by(entry.id, entry.status):
                    places[entry.id] = place
                if entry.status != "done":  # reading an earlier line moves the file
                    file.seek(place + len(line))
            place += len(line)
        return entries


class Entries(Mapping[str, Entry]):
    """One entry per item, by its id, kept as a line."""

    @abstractmethod
    def line(self, key: str) -> bytes:
        """The line of an item; KeyError if it has none."""

    @abstractmethod
    def replace(self, entry: Entry) -> None:
        """Replace an item's entry by a later one."""

    def item(self, key: str) -> CheckedEntry | None:
        """What an item's entry says about its file; None if there is no entry."""
        try:
            return checked(self.line(key))
        except KeyError:
            return None

    def is_succeeded_by(self, key: str, status: str) -> bool:
        """Whether a later entry counts: a process may fail at a clip that another has made."""
        return status == "done" or (earlier := self.item(key)) is None or earlier.status != "done"

    def __getitem__(self, key: str) -> Entry:
        return read_entry(self.line(key))


class HeldEntries(Entries):
    """The latest entry of each item, held in memory."""

    def __init__(self) -> None:
        self._lines: dict[str, bytes] = {}

    def add(self, lines: Iterable[bytes], is_wanted: Callable[[str], bool]) -> None:
        """Add the lines of items whose ids are wanted; lines that are not entries are skipped."""
        for line in lines:
            try:
                entry = decoded(line)
            except ValueError:  # reported when the index is put in order
                continue
            if entry.id is not None and is_wanted(entry.id) and self.is_succeeded_by(entry.id, entry.status):
                self._lines[entry.id] = line

    def forget(self, keys: Iterable[str]) -> None:
        """Remove the entries of items, if they have any."""
        for key in keys:
            self._lines.pop(key, None)

    def line(self, key: str) -> bytes:
        """See `Entries`."""
        return self._lines[key]

    def replace(self, entry: Entry) -> None:
        """See `Entries`."""
        self._lines[entry["id"]] = entry_line(entry)

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)


class IndexEntries(Entries):
    """The entries of an index; only the offsets of their lines are in memory.

    Args:
        index: holds the entries.
        file: the index file, open for reading.
        places: the offset of each entry's line.
    """

    def __init__(self, index: Index, file: BinaryIO, places: dict[str, int]) -> None:
        self._index = index
        self._file = file
        self._places = places

    def line(self, key: str) -> bytes:
        """See `Entries`."""
        self._file.seek(self._places[key])
        return self._file.readline(_MAX_LINE)

    def replace(self, entry: Entry) -> None:
        """See `Entries`; the entry is appended to the index."""
        self._places[entry["id"]] = self._index.append([entry_line(entry)])

    def put_in_order(
        self, others: Iterable[Mapping[str, Any]] = (), *, without: Collection[str] = ()
    ) -> None:
        """Rewrite the index, sorted by file name.

        Args:
            others: entries of rows without an identity, which come last.
            without: ids whose entries are dropped.
        """
        places: dict[str, int] = {}
        with replacing(self._index.path, overwrite=True) as temporary:
            with temporary.open("wb") as file:
                for key in sorted(
                    self._places.keys() - without, key=lambda key: checked(self.line(key)).file
                ):
                    line = self.line(key)
                    places[key] = file.tell()
                    file.write(line if line.isascii() else entry_line(read_entry(line)))
                file.writelines(map(entry_line, others))
                file.flush()
                os.fsync(file.fileno())
            self._file.close()  # or Windows would not replace it
        self._places = places
        self._file = self._index.path.open("rb")

    def close(self) -> None:
        """Close the file; no entries can be read afterwards."""
        self._file.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file from its current position, with line ends; overlong lines come in pieces."""
    return iter(lambda: file.readline(_MAX_LINE), b"")

"""`index.jsonl`: entries are appended, the latest of an item counts, and in the end they are put in order.

A log and no database: sqlite3 needs locks between machines, which shared file systems often lack or feign.
Here only the main process writes, and of whatever a crash cuts off nothing is lost but that line.
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

_MAX_LINE = 2**20  # bytes, far more than an entry has


class Index:
    """The index of a folder.

    Args:
        path: of the file; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._told: set[bytes] = set()

    def append(self, lines: Iterable[bytes]) -> int:
        """Write lines behind those that are there: where they begin."""
        with self.path.open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a crash has cut it off
                    file.write(b"\n")
            begin = file.tell()
            file.writelines(lines)
            return begin

    def entries(self) -> IndexEntries:
        """What is in it; lines that are none of a batch are told and left out."""
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
                if entry.status != "done":  # an earlier line may have been read
                    file.seek(place + len(line))
            place += len(line)
        return entries


class Entries(Mapping[str, Entry]):
    """An entry of every item, by its id, kept as its line."""

    @abstractmethod
    def line(self, key: str) -> bytes:
        """The line of an item; KeyError if there is none."""

    @abstractmethod
    def replace(self, entry: Entry) -> None:
        """Put a later entry in the place of an item's."""

    def item(self, key: str) -> CheckedEntry | None:
        """What an entry says of its file; None if there is none."""
        try:
            return checked(self.line(key))
        except KeyError:
            return None

    def is_succeeded_by(self, key: str, status: str) -> bool:
        """Whether a later entry counts: a process may fail at a clip that another one has made."""
        return status == "done" or (earlier := self.item(key)) is None or earlier.status != "done"

    def __getitem__(self, key: str) -> Entry:
        return read_entry(self.line(key))


class HeldEntries(Entries):
    """Entries in memory, the latest of each item."""

    def __init__(self) -> None:
        self._lines: dict[str, bytes] = {}

    def add(self, lines: Iterable[bytes], is_wanted: Callable[[str], bool]) -> None:
        """Take in lines of items whose ids are wanted; those that are none of a batch are left out."""
        for line in lines:
            try:
                entry = decoded(line)
            except ValueError:  # who puts the index in order tells them
                continue
            if entry.id is not None and is_wanted(entry.id) and self.is_succeeded_by(entry.id, entry.status):
                self._lines[entry.id] = line

    def forget(self, keys: Iterable[str]) -> None:
        """Leave out entries of items, where there are any."""
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
    """The entries of an index; in memory are only the places of their lines.

    Args:
        index: where they are.
        file: the same, to be read.
        places: where the line of each begins.
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
        """See `Entries`; it is appended to the index."""
        self._places[entry["id"]] = self._index.append([entry_line(entry)])

    def put_in_order(
        self, others: Iterable[Mapping[str, Any]] = (), *, without: Collection[str] = ()
    ) -> None:
        """Write the index anew, sorted by file name.

        Args:
            others: entries of rows that have no identity, which come last.
            without: ids whose entries are forgotten.
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
            self._file.close()  # or else Windows would not replace it
        self._places = places
        self._file = self._index.path.open("rb")

    def close(self) -> None:
        """No entry will be asked for any more."""
        self._file.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file from where it is read, with their ends; one longer than any of ours in parts."""
    return iter(lambda: file.readline(_MAX_LINE), b"")

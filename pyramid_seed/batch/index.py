"""`index.jsonl`: entries are appended, the latest of an item counts, and in the end they are put in order.

A log and no database: sqlite3 needs locks between machines, which shared file systems often lack or feign.
Here only the main process writes, and of whatever a crash cuts off nothing is lost but that line.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
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

    def append(self, lines: Iterable[bytes]) -> tuple[int, int]:
        """Write lines behind those that are there: where they begin and end."""
        with self.path.open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a crash has cut it off
                    file.write(b"\n")
            begin = file.tell()
            file.writelines(lines)
            return begin, file.tell()

    def entries(self) -> Entries:
        """What is in it; lines that are none of a batch are told and left out."""
        file: BinaryIO = self.path.open("rb") if self.path.exists() else io.BytesIO()
        places: dict[str, int] = {}
        place = 0
        for number, line in enumerate(read_lines(file), start=1):
            try:
                key = decoded(line).id
            except ValueError as error:
                if line.strip() and line not in self._told:
                    logger.warning("%s, line %d: %s; it is left out", self.path, number, error)
                    self._told.add(line)
            else:
                if key is not None:
                    places[key] = place
            place += len(line)
        return Entries(self, file, places)


class Entries(Mapping[str, Entry]):
    """The latest entry of every item in an index, by its id; in memory are only the places of their lines.

    Args:
        index: where they are.
        file: the same, to be read.
        places: where the line of each begins.
    """

    def __init__(self, index: Index, file: BinaryIO, places: dict[str, int]) -> None:
        self._index = index
        self._file = file
        self._places = places

    def item(self, key: str) -> CheckedEntry | None:
        """What an entry says of its file; None if there is none."""
        return checked(self._line(key)) if key in self._places else None

    def replace(self, entry: Entry) -> None:
        """Write a later entry of an item."""
        self._places[entry["id"]], _ = self._index.append([entry_line(entry)])

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
                    self._places.keys() - without, key=lambda key: checked(self._line(key)).file
                ):
                    line = self._line(key)
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

    def _line(self, key: str) -> bytes:
        self._file.seek(self._places[key])
        return self._file.readline(_MAX_LINE)

    def __getitem__(self, key: str) -> Entry:
        return read_entry(self._line(key))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file from where it is read, with their ends; one longer than any of ours in parts."""
    return iter(lambda: file.readline(_MAX_LINE), b"")

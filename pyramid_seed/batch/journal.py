"""The record of a batch: the outcome of every item, in `index.jsonl`.

Each process writes the outcome of an item as a file of its own, whole or not at all; the main process gathers
these in the index. So whatever is killed, no line is lost or half-written.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..files import clear_leftovers, file_digest, replacing

logger = logging.getLogger(__name__)

Entry = dict[str, Any]


class Journal:
    """The record in a batch's output folder.

    Args:
        folder: the output folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = folder / "index.jsonl"

    def work_folder(self, key: str) -> Path:
        """Where the unfinished work on an item lies."""
        return self.folder / ".work" / key

    def record(self, entry: Mapping[str, Any]) -> None:
        """Write the outcome of one item; `entry["id"]` names it."""
        _write_whole(self._record_path(entry["id"]), _line(entry))

    def entries(self) -> dict[str, Entry]:
        """The latest entry of every item, by its id: those of the index, and what was recorded since."""
        entries = {entry["id"]: entry for entry in self._indexed()}
        for path in self._record_paths():
            entry = json.loads(path.read_text(encoding="utf-8"))
            entries[entry["id"]] = entry
        return entries

    def merge(self, others: Iterable[Mapping[str, Any]] = (), *, without: Collection[str] = ()) -> None:
        """Write the index anew, sorted by file name; only for the main process.

        Args:
            others: entries of rows that have no identity; those of the last launch are forgotten.
            without: ids whose entries are forgotten.
        """
        records = self._record_paths()
        kept = [entry for entry in self.entries().values() if entry["id"] not in without]
        kept.sort(key=lambda entry: entry["file"])
        _write_whole(self.index, "".join(_line(entry) for entry in (*kept, *others)))
        for path in records:
            path.unlink()

    def is_done(self, entry: Mapping[str, Any] | None) -> bool:
        """Whether an item was made and its file is there."""
        return entry is not None and entry["status"] == "done" and (self.folder / entry["file"]).is_file()

    def is_whole(self, entry: Mapping[str, Any] | None) -> bool:
        """Whether an item was made and its file is bit for bit the one that was written."""
        return (
            entry is not None
            and self.is_done(entry)
            and file_digest(self.folder / entry["file"]) == entry["file_sha256"]
        )

    def clean(self) -> None:
        """Remove what killed processes left half-written; no process of a batch may be writing.

        Only batches write in `.work`. In the folder itself others may be writing right now (the page,
        `generate`).
        """
        clear_leftovers(self.folder)
        for path in (self.folder / ".work").rglob(".*.tmp*"):
            if path.is_file():
                path.unlink()

    def finish(self, key: str) -> None:
        """Remove the unfinished work on an item."""
        shutil.rmtree(self.work_folder(key), ignore_errors=True)

    def strip_path(self, key: str) -> Path:
        """Where an item's row of the contact sheet lies."""
        return self.folder / ".work" / "strips" / f"{key}.png"

    def _record_path(self, key: str) -> Path:
        return self.folder / ".work" / "records" / f"{key}.json"

    def _record_paths(self) -> list[Path]:
        # A name that begins with a dot is a file in the making.
        return sorted(p for p in self._record_path("").parent.glob("*.json") if not p.name.startswith("."))

    def _indexed(self) -> list[Entry]:
        if not self.index.is_file():
            return []
        entries = []
        for number, line in enumerate(self.index.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            if not isinstance(entry, dict) or not isinstance(entry.get("status"), str):
                logger.warning("%s, line %d is damaged: its clip is made again", self.index, number)
            elif "id" in entry:
                entries.append(entry)
        return entries


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=True, allow_nan=False) + "\n"


def _write_whole(path: Path, text: str) -> None:
    with replacing(path, overwrite=True) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())

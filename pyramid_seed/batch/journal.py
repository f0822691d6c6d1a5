"""The record of a batch: the outcome of every item, in `index.jsonl`.

Each process appends the outcomes of its items to its own log, one whole line at a time; the main process
gathers the logs into the index. So whichever process is killed, no line is lost, and no file has two writers.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from stat import S_ISREG
from typing import Any

from ..files import check_readable, clear_leftovers, file_digest
from .entries import entry_line
from .errors import refuse_too_many_files
from .index import Entries, Index, IndexEntries, read_lines
from .part import Part

logger = logging.getLogger(__name__)


class Journal:
    """The record in a batch's output folder.

    Anything read back may be damaged or foreign: it is skipped or set aside with a warning, and its clip is
    made again.

    Args:
        folder: the output folder.
        part: the part whose items this process makes, if its processes share nothing but the folder.
    """

    def __init__(self, folder: Path, part: Part | None = None) -> None:
        self.folder = folder
        self.index = folder / "index.jsonl"
        self._index = Index(self.index)
        self._token = secrets.token_hex(8)
        self._log = self._records / (f"{self._token}.jsonl" if part is None else part.log_name(self._token))
        self._gathered: dict[Path, int] = {}

    def work_folder(self, key: str) -> Path:
        """Where the unfinished work on an item is kept."""
        return self.folder / ".work" / key

    def unfinished_path(self, key: str) -> Path:
        """Where this process writes an item's clip until it is whole; another may be making it, too."""
        return self.work_folder(key) / f"{self._token}.mp4"

    def record(self, entry: Mapping[str, Any]) -> None:
        """Record the outcome of one item; `entry["id"]` names it."""
        self._records.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab", buffering=0) as log:
            line = entry_line(entry)
            while line := line[log.write(line) :]:  # a full disk takes part of it, then raises
                pass
            os.fsync(log.fileno())

    def gather(self, *, is_over: bool = False) -> None:
        """Append to the index what was recorded since the last call; only for the main process.

        Args:
            is_over: whether no process records any more, so that a partial line will not be completed.
        """
        for path in self._record_paths():
            if self._has_grown(path):
                self._index.append(self._new_lines(path, is_over=is_over))

    def index_lines(self) -> Iterator[bytes]:
        """The lines of the index."""
        if self._is_readable(self.index):
            with self.index.open("rb") as index:
                yield from read_lines(index)

    def lines_of(self, part: Part) -> Iterator[bytes]:
        """Lines recorded since the last call by processes that may make items of a part, this one too."""
        for path in self._record_paths(part):
            if self._has_grown(path):
                yield from self._new_lines(path, is_over=False)

    def entries(self) -> IndexEntries:
        """The latest entry of every item in the index, by its id."""
        self._is_readable(self.index)
        return self._index.entries()

    def forget_gathered(self) -> None:
        """Remove the gathered logs, once the index is on the disk and no process records any more."""
        for path in self._gathered:
            path.unlink(missing_ok=True)
        self._gathered.clear()

    def clip_path(self, file: str) -> Path:
        """Where a clip is to be written; anything in the way of its folder is set aside."""
        path = self.folder / file
        if path.parent != self.folder:
            self._clear_place(path.parent)
        return path

    def is_done(self, entry: Mapping[str, Any]) -> bool:
        """Whether an item was made and its file exists."""
        return entry["status"] == "done" and (self.folder / entry["file"]).is_file()

    def is_whole(self, entries: Entries, key: str, *, check_file: bool = False) -> bool:
        """Whether an item was made and its file is the one that was written.

        The file's size and modification time decide; if they differ from the record, its whole content does.

        Args:
            entries: those of the index; a whole file's new size and modification time are recorded there.
            key: the item's id.
            check_file: read the file in any case.
        """
        entry = entries.item(key)
        if entry is None or entry.status != "done":
            return False
        path = f"{self.folder}/{entry.file}"
        try:
            state = os.stat(path)  # noqa: PTH116 - one of a million files
            if not S_ISREG(state.st_mode):
                return False
            is_known = (entry.size, entry.mtime_ns) == (state.st_size, state.st_mtime_ns)
            if is_known and not check_file:
                return True
            if file_digest(Path(path)) != entry.file_sha256:
                return False
        except OSError as error:
            refuse_too_many_files(error)
            return False
        if not is_known:
            entries.replace(entries[key] | file_state(state))
        return True

    def set_aside(self, path: Path) -> None:
        """Move something unusable to `.work/damaged`, and log a warning."""
        folder = self.folder / ".work" / "damaged"
        folder.mkdir(parents=True, exist_ok=True)
        name = path.name[:40]
        path.rename(next(f for n in count(1) if not os.path.lexists(f := folder / f"{n}-{name}")))
        logger.warning("%r cannot be used and was moved to %s", path.name, folder)

    def open_work_folder(self, key: str) -> Path:
        """`work_folder`, after anything in the way of the files to be written is set aside."""
        folder = self.work_folder(key)
        self._clear_way(folder)
        return folder

    def clean(self) -> None:
        """Remove the half-written files of killed processes; no process of a batch may be writing.

        Only batches write in `.work`. In the folder itself others may be writing now (the page, `generate`).
        """
        clear_leftovers(self.folder)
        for name in ("records", "strips"):
            self._clear_way(self.folder / ".work" / name)
        for path in (self.folder / ".work").rglob(".*.tmp*"):
            if path.is_file():
                path.unlink()

    def finish(self, key: str) -> None:
        """Remove the unfinished work on an item."""
        shutil.rmtree(self.work_folder(key), ignore_errors=True)

    def finish_recorded(self, entries: Entries) -> None:
        """Remove leftover work on items that are done: their process was killed before it could."""
        for path in self.work_folder("").iterdir():
            if (entry := entries.item(path.name)) is not None and entry.status == "done":
                self.finish(path.name)

    def strip_path(self, key: str) -> Path:
        """Where an item's row of the contact sheet is kept."""
        return self.folder / ".work" / "strips" / f"{key}.png"

    def strips_path(self, sheet: int = 1) -> Path:
        """Where the strips on a contact sheet are listed; earlier versions had several sheets."""
        return self.folder / ".work" / "strips" / f"sheet-{sheet}.txt"

    @property
    def _records(self) -> Path:
        return self.folder / ".work" / "records"

    def _record_paths(self, part: Part | None = None) -> list[Path]:
        """Logs, and records of earlier versions, which had a file per item; the oldest first.

        Args:
            part: leave out logs of parts that share no item with this one.
        """
        # A name that begins with a dot is a file still being written.
        paths = (path for path in self._records.glob("*.json*") if not path.name.startswith("."))
        if part is not None:
            paths = (path for path in paths if part.may_share_items_of(path.name))
        return sorted(paths, key=lambda path: (path.lstat().st_mtime_ns, path.name))

    def _has_grown(self, path: Path) -> bool:
        return self._is_readable(path) and path.stat().st_size > self._gathered.get(path, 0)

    def _new_lines(self, path: Path, *, is_over: bool) -> Iterator[bytes]:
        """The lines of a log since the last call, see `gather`."""
        end = self._gathered.get(path, 0)
        with path.open("rb") as log:
            log.seek(end)
            for line in read_lines(log):
                if not (is_over or line.endswith(b"\n")):
                    break
                end += len(line)
                yield line
        self._gathered[path] = end

    def _is_readable(self, path: Path) -> bool:
        """Whether a file can be read; one that exists but cannot be read is set aside."""
        if not os.path.lexists(path):
            return False
        try:
            check_readable(path)
            path.open("rb").close()
        except OSError as error:
            refuse_too_many_files(error)
            self.set_aside(path)
            return False
        return True

    def _clear_place(self, folder: Path) -> None:
        """Set aside anything in the way of one of our folders; a link there could lead anywhere."""
        if folder.is_symlink() or (os.path.lexists(folder) and not folder.is_dir()):
            self.set_aside(folder)

    def _clear_way(self, folder: Path) -> None:
        """Set aside anything in the way of one of our folders and its files."""
        self._clear_place(folder)
        if folder.is_dir():
            for path in folder.iterdir():
                if path.is_symlink() or path.is_dir():
                    self.set_aside(path)


def file_state(state: os.stat_result) -> dict[str, int]:
    """The fields of an entry that tell, without reading a file, whether it has changed."""
    return {"size": state.st_size, "mtime_ns": state.st_mtime_ns}

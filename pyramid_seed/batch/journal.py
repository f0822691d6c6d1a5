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
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from ..files import check_readable, clear_leftovers, file_digest, replacing
from .errors import refuse_too_many_files

logger = logging.getLogger(__name__)

Entry = dict[str, Any]


_Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class _Item(msgspec.Struct, frozen=True, kw_only=True):
    """An item's entry as it is read back, by whatever it was written: it names nothing outside the folder."""

    file: Annotated[str, msgspec.Meta(pattern=r"\A[^/\\:\x00-\x1f\x7f-\x9f]+\.mp4\Z")]
    status: Literal["done", "failed"]
    id: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{16}\Z")]
    key: str | UnsetType = UNSET
    prompt: str | UnsetType = UNSET
    seed: str | UnsetType = UNSET
    preset: str | UnsetType = UNSET
    height: int | UnsetType = UNSET
    width: int | UnsetType = UNSET
    image: str | UnsetType | None = UNSET
    loras: list[str] | UnsetType = UNSET
    process: int | UnsetType = UNSET
    digest: _Digest | UnsetType = UNSET
    file_sha256: _Digest | UnsetType = UNSET
    num_frames: Annotated[int, msgspec.Meta(ge=1)] | UnsetType = UNSET
    seconds: float | UnsetType = UNSET
    resumed_units: int | UnsetType = UNSET
    notes: list[str] | UnsetType = UNSET
    reason: str | UnsetType = UNSET

    def __post_init__(self) -> None:
        if not self.file.endswith(f"{self.id}.mp4") or len(self.file.encode()) > 255:
            raise ValueError("file is not that of id")
        done = (self.digest, self.file_sha256, self.num_frames)
        if UNSET in (done if self.status == "done" else (self.reason,)):
            raise ValueError(f"what a clip that is {self.status} has is missing")


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    """The entry of a row of which nothing can be made."""

    status: Literal["failed"]
    row: str
    reason: str


def read_entry(data: bytes) -> Entry:
    """The entry in a line of JSON, with the fields that this version knows; that of a row has no "id".

    Raises:
        ValueError: it is damaged, or none of a batch.
    """
    try:
        value = msgspec.json.decode(data)
        is_row = isinstance(value, dict) and "id" not in value
        entry: Entry = msgspec.to_builtins(msgspec.convert(value, _Row if is_row else _Item))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ValueError(f"it is no entry of a batch ({type(error).__name__})") from error
    return entry


class Journal:
    """The record in a batch's output folder.

    What is read back may be damaged, or somebody's own: it is set aside with a warning, and its clip is made
    again.

    Args:
        folder: the output folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = folder / "index.jsonl"
        self._told: set[bytes] = set()

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
            data = self._read(path)
            try:
                entry = {} if data is None else read_entry(data)
            except ValueError:
                entry = {}
            if entry.get("id") == path.stem:
                entries[path.stem] = entry
            elif data is not None:
                self.set_aside(path)
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
            path.unlink(missing_ok=True)

    def is_done(self, entry: Mapping[str, Any] | None) -> bool:
        """Whether an item was made and its file is there."""
        return entry is not None and entry["status"] == "done" and (self.folder / entry["file"]).is_file()

    def is_whole(self, entry: Mapping[str, Any] | None) -> bool:
        """Whether an item was made and its file is bit for bit the one that was written."""
        if entry is None or not self.is_done(entry):
            return False
        try:
            return file_digest(self.folder / entry["file"]) == entry["file_sha256"]
        except OSError as error:
            refuse_too_many_files(error)
            return False

    def set_aside(self, path: Path) -> None:
        """Move something that cannot be used to `.work/damaged`, and say so."""
        folder = self.folder / ".work" / "damaged"
        folder.mkdir(parents=True, exist_ok=True)
        name = path.name[:40]
        path.rename(next(f for n in count(1) if not os.path.lexists(f := folder / f"{n}-{name}")))
        logger.warning("%r cannot be used and is set aside in %s", path.name, folder)

    def open_work_folder(self, key: str) -> Path:
        """`work_folder`, from which everything is set aside that is in the way of files to be written."""
        folder = self.work_folder(key)
        self._clear_way(folder)
        return folder

    def clean(self) -> None:
        """Remove what killed processes left half-written; no process of a batch may be writing.

        Only batches write in `.work`. In the folder itself others may be writing right now (the page,
        `generate`).
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

    def strip_path(self, key: str) -> Path:
        """Where an item's row of the contact sheet lies."""
        return self.folder / ".work" / "strips" / f"{key}.png"

    def strips_path(self, sheet: int) -> Path:
        """Where it is noted which strips a contact sheet was written of."""
        return self.folder / ".work" / "strips" / f"sheet-{sheet}.txt"

    def _record_path(self, key: str) -> Path:
        return self.folder / ".work" / "records" / f"{key}.json"

    def _record_paths(self) -> list[Path]:
        # A name that begins with a dot is a file in the making.
        return sorted(p for p in self._record_path("").parent.glob("*.json") if not p.name.startswith("."))

    def _indexed(self) -> list[Entry]:
        entries = []
        for number, line in enumerate((self._read(self.index) or b"").splitlines(), start=1):
            try:
                entry = read_entry(line)
            except ValueError as error:
                if line not in self._told:
                    logger.warning("%s, line %d: %s; its clip is made again", self.index, number, error)
                self._told.add(line)
            else:
                entries += [entry] if "id" in entry else []
        return entries

    def _read(self, path: Path) -> bytes | None:
        """What a file holds; None if there is none, or what was there is set aside."""
        if not os.path.lexists(path):
            return None
        try:
            check_readable(path)
            return path.read_bytes()
        except OSError as error:
            refuse_too_many_files(error)
            self.set_aside(path)
            return None

    def _clear_way(self, folder: Path) -> None:
        """Set aside what is in the way of a folder of ours and its files; links may lead anywhere."""
        if folder.is_symlink() or (os.path.lexists(folder) and not folder.is_dir()):
            self.set_aside(folder)
        if folder.is_dir():
            for path in folder.iterdir():
                if path.is_symlink() or path.is_dir():
                    self.set_aside(path)


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=True, allow_nan=False) + "\n"


def _write_whole(path: Path, text: str) -> None:
    with replacing(path, overwrite=True) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())

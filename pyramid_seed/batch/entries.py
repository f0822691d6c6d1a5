"""Entries of a batch: the outcome of an item, or of a row that cannot be made, as a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

Entry = dict[str, Any]

_Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class ItemEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An item's entry as read back, whoever wrote it: the paths in it stay inside the folder."""

    file: Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{2}/)?[^/\\:\x00-\x1f\x7f-\x9f]+\.mp4\Z")]
    status: Literal["done", "failed"]
    id: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{16}\Z")]
    key: str | UnsetType = UNSET
    prompt: str | UnsetType = UNSET
    seed: str | UnsetType = UNSET
    branches: list[str] | UnsetType = UNSET
    preset: str | UnsetType = UNSET
    height: int | UnsetType = UNSET
    width: int | UnsetType = UNSET
    image: str | UnsetType | None = UNSET
    loras: list[str] | UnsetType = UNSET
    process: int | UnsetType = UNSET
    digest: _Digest | UnsetType = UNSET
    file_sha256: _Digest | UnsetType = UNSET
    size: int | UnsetType = UNSET
    mtime_ns: int | UnsetType = UNSET
    num_frames: Annotated[int, msgspec.Meta(ge=1)] | UnsetType = UNSET
    seconds: float | UnsetType = UNSET
    resumed_units: int | UnsetType = UNSET
    notes: list[str] | UnsetType = UNSET
    reason: str | UnsetType = UNSET

    def __post_init__(self) -> None:
        if not self.file.endswith(f"{self.id}.mp4") or len(self.file.encode()) > 255:
            raise ValueError("file does not belong to id")
        done = (self.digest, self.file_sha256, self.num_frames)
        if UNSET in (done if self.status == "done" else (self.reason,)):
            raise ValueError(f"a clip that is {self.status} must have more fields")


class RowEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The entry of a row that cannot be made."""

    status: Literal["failed"]
    row: str
    reason: str

    @property
    def id(self) -> None:
        """Rows have no id."""


class CheckedEntry(msgspec.Struct, frozen=True):
    """What an item's line says about its file, read at a third of the cost if the line was checked before."""

    file: str
    status: str
    file_sha256: str | UnsetType = UNSET
    size: int | UnsetType = UNSET
    mtime_ns: int | UnsetType = UNSET


_items = msgspec.json.Decoder(ItemEntry)
checked = msgspec.json.Decoder(CheckedEntry).decode


def read_entry(data: bytes) -> Entry:
    """The entry in a line of JSON, with the fields that this version knows; a row's entry has no "id".

    Raises:
        ValueError: the line is damaged, or is not an entry of a batch.
    """
    entry: Entry = msgspec.to_builtins(decoded(data))
    return entry


def entry_line(entry: Mapping[str, Any]) -> bytes:
    """An entry as a line of JSON."""
    return json.dumps(entry, ensure_ascii=True, allow_nan=False).encode("ascii") + b"\n"


def decoded(data: bytes) -> ItemEntry | RowEntry:
    """The entry in a line of JSON, checked; raises as `read_entry` does."""
    try:
        return _items.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        try:
            value = msgspec.json.decode(data)
            if isinstance(value, dict) and "id" not in value:
                return msgspec.convert(value, RowEntry)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            pass
        raise ValueError(f"it is not an entry of a batch ({type(error).__name__})") from error

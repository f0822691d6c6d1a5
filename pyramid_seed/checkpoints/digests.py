"""Which weights a clip was made from: the model's name without private paths, and a SHA-256 of every file."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import replacing
from ..resources import embedded_model_path

# A file can change twice within one tick of its clock: digests of files this young are not kept.
_SETTLED_NS = 2_000_000_000
_CACHE_VERSION = 1


def weight_digests(folder: Path, files: Iterable[str], *, fresh: bool = False) -> list[dict[str, Any]]:
    """Name, size and SHA-256 of files in a model's folder, sorted by name.

    Digests are kept in `cache_path()` and found again by path, size and modification time.

    Args:
        folder: the model's folder.
        files: names relative to it, such as "vae/config.json".
        fresh: read every file, whatever is known about it.

    Raises:
        OSError: a file cannot be read.
    """
    known = {} if fresh else _read_cache()
    found: dict[str, dict[str, Any]] = {}
    rows = []
    for name in sorted(files):
        path = (folder / name).resolve()
        status = path.stat()
        entry = known.get(str(path), {})
        if (entry.get("size"), entry.get("mtime_ns")) != (status.st_size, status.st_mtime_ns):
            entry = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": _sha256(path)}
            if time.time_ns() - status.st_mtime_ns > _SETTLED_NS:
                found[str(path)] = entry
        rows.append({"file": name, "size": entry["size"], "sha256": entry["sha256"]})
    if found:
        _write_cache(_read_cache() | found)
    return rows


def weights_key(files: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 (hex) of the names and digests of a model's files, see `weight_digests`."""
    rows = [[row["file"], row["sha256"]] for row in files]
    text = json.dumps(rows, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def model_reference(model: str, folder: Path | None) -> dict[str, str | None]:
    """How a manifest names a model: kind, name and revision. Of a folder, only its last name is told.

    Args:
        model: as in the settings.
        folder: where the weights were read; None if that is not known.

    Returns:
        kind "embedded" (`embedded:NAME`), "hub" (owner/name, with the commit as revision), "folder" (whoever
        runs it again must say where it is) or "unknown" (a pipeline that `load_pipeline` did not load).
    """
    if folder is None:
        return {"kind": "unknown", "name": None, "revision": None}
    if model.startswith("embedded:") and is_folder_of(model, folder):
        return {"kind": "embedded", "name": model, "revision": None}
    if (hub_id := _hub_id(folder)) is not None:
        return {"kind": "hub", "name": hub_id, "revision": folder.name}
    return {"kind": "folder", "name": folder.resolve().name, "revision": None}


def is_folder_of(model: str, folder: Path) -> bool:
    """Whether weights in `folder` are those that the setting `model` asks for."""
    embedded = model.removeprefix("embedded:")
    if embedded != model:
        try:
            return embedded_model_path(embedded).resolve() == folder.resolve()
        except FileNotFoundError:
            return False
    return _hub_id(folder) == model or Path(model).expanduser().resolve() == folder.resolve()


def cache_path() -> Path:
    """Where digests are kept: `pyramid_seed/weights.json` in $XDG_CACHE_HOME, or else in ~/.cache.

    Raises:
        OSError: there is neither, as for a user without a home in a container.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        cache = Path(base) if base else Path.home() / ".cache"
    except RuntimeError as error:
        raise OSError(f"this user has no home folder ({error}); set XDG_CACHE_HOME") from error
    return cache / "pyramid_seed" / "weights.json"


def _hub_id(folder: Path) -> str | None:
    """owner/name of a snapshot in the hub's cache: .../models--owner--name/snapshots/<commit>."""
    parts = folder.parent.parent.name.split("--")
    is_snapshot = folder.parent.name == "snapshots" and len(parts) == 3 and parts[0] == "models"
    return f"{parts[1]}/{parts[2]}" if is_snapshot else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cache_path_here() -> Path | None:
    """`cache_path`, or None with a warning: a finished clip must not be lost for want of a cache."""
    try:
        return cache_path()
    except OSError as error:
        warnings.warn(f"the cache of weight digests is ignored: {error}", stacklevel=4)
        return None


def _read_cache() -> dict[str, dict[str, Any]]:
    path = _cache_path_here()
    if path is None:
        return {}
    try:
        cache = json.loads(path.read_text(encoding="utf-8"))
        if cache["version"] != _CACHE_VERSION:
            raise ValueError(f"unknown version {cache['version']!r}")
        files = {str(name): dict(entry) for name, entry in cache["files"].items()}
        if not all(_is_entry(entry) for entry in files.values()):
            raise ValueError("an entry is not one of ours")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        warnings.warn(f"the cache of weight digests {path} is ignored: {error!r}", stacklevel=3)
        return {}
    return files


def _is_entry(entry: dict[str, Any]) -> bool:
    kinds = {name: type(value) for name, value in entry.items()}
    return kinds == {"size": int, "mtime_ns": int, "sha256": str} and len(entry["sha256"]) == 64


def _write_cache(files: dict[str, dict[str, Any]]) -> None:
    path = _cache_path_here()
    if path is None:
        return
    try:
        with replacing(path, overwrite=True) as temporary:
            temporary.write_text(
                json.dumps({"version": _CACHE_VERSION, "files": files}, sort_keys=True), encoding="utf-8"
            )
    except OSError as error:
        warnings.warn(f"the cache of weight digests {path} was not written: {error}", stacklevel=3)

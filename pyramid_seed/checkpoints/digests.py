"""Which weights a clip was made from: a SHA-256 for every file of a model."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ..files import file_digest, write_file

logger = logging.getLogger(__name__)

# A file can change twice within one tick of its clock: digests of files this young are not stored.
_SETTLED_NS = 2_000_000_000
_CACHE_VERSION = 1


def weight_digests(folder: Path, files: Iterable[str], *, fresh: bool = False) -> list[dict[str, Any]]:
    """Name, size and SHA-256 of files in a model's folder, sorted by name.

    Digests are stored in `cache_path()` and looked up by path, size and modification time.

    Args:
        folder: the model's folder.
        files: names relative to it, such as "vae/config.json".
        fresh: read every file, whatever the cache says about it.

    Raises:
        OSError: a file cannot be read.
    """
    cached = {} if fresh else _read_cache()
    found: dict[str, dict[str, Any]] = {}
    rows = []
    for name in sorted(files):
        path = (folder / name).resolve()
        status = path.stat()
        entry = cached.get(str(path), {})
        if (entry.get("size"), entry.get("mtime_ns")) != (status.st_size, status.st_mtime_ns):
            entry = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": file_digest(path)}
            if time.time_ns() - status.st_mtime_ns > _SETTLED_NS:
                found[str(path)] = entry
        rows.append({"file": name, "size": entry["size"], "sha256": entry["sha256"]})
    if found:
        _write_cache(_read_cache() | found)
    return rows


def weights_key(files: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 (hex) over the names and digests of a model's files, see `weight_digests`."""
    rows = [[row["file"], row["sha256"]] for row in files]
    text = json.dumps(rows, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def cache_path() -> Path:
    """Where digests are stored: `pyramid_seed/weights.json` in $XDG_CACHE_HOME, or else in ~/.cache.

    Raises:
        OSError: neither exists, as for a user without a home in a container.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(base) if base else Path.home() / ".cache"
    except RuntimeError as error:
        raise OSError(f"this user has no home folder ({error}); set XDG_CACHE_HOME") from error
    return folder / "pyramid_seed" / "weights.json"


def _cache_path_here() -> Path | None:
    """`cache_path`, or None with a warning: a missing cache must not lose a finished clip."""
    try:
        return cache_path()
    except OSError as error:
        _warn(f"the cache of weight digests is ignored: {error}")
        return None


def _read_cache() -> dict[str, dict[str, Any]]:
    path = _cache_path_here()
    if path is None:
        return {}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["version"] != _CACHE_VERSION:
            raise ValueError(f"unknown version {kept['version']!r}")
        files = {str(name): dict(entry) for name, entry in kept["files"].items()}
        if not all(_is_entry(entry) for entry in files.values()):
            raise ValueError("an entry is malformed")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        _warn(f"the cache of weight digests {path} is ignored: {error!r}")
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
        kept = json.dumps({"version": _CACHE_VERSION, "files": files}, sort_keys=True)
        write_file(path, kept, overwrite=True)
    except OSError as error:
        _warn(f"the cache of weight digests was not written: {error}")


@cache
def _warn(text: str) -> None:
    """Warn once: a missing cache stops nothing."""
    logger.warning(text)

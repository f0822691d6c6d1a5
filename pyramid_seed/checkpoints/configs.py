"""Reading the config files of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LFS_POINTER_SIZE = 1024  # bytes; a pointer has some 130


def read_config(path: Path) -> dict[str, Any]:
    """Read a config.json.

    Raises:
        ValueError: it cannot be read as a JSON object; the message names the file.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(config).__name__}")
    return config


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name in front of an error about its content; odd types can raise anything."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        if str(error).startswith(str(path)):  # it names a file already
            raise
        raise ValueError(f"{path}: {error}") from error


def refuse_lfs_pointer(path: Path) -> None:
    """Refuse the pointer that Git leaves in place of a large file that was not downloaded."""
    if path.stat().st_size > _LFS_POINTER_SIZE:
        return
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise ValueError(
                f"{path} is a pointer of Git LFS, not the file itself; download it, e.g. with `git lfs pull`"
            )

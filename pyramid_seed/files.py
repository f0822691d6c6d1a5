"""Files: written whole or not at all, their digests, and names made of text."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`; what was made there takes the name `path` when the block ends.

    The block may make a file or a folder. Missing parent folders are created. If the block raises, what it
    made is removed and `path` is as it was. The temporary path has the ending of `path`.

    Raises:
        FileExistsError: `path` exists and `overwrite` is false.
    """
    path = Path(path).resolve()  # so that making the parents cannot change what a path with ".." means
    check_free(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name does not contain path.name, which may already be as long as the file system allows.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp{path.suffix}")
    try:
        yield temporary
        check_free(path, overwrite=overwrite)  # somebody else may have been faster
        if temporary.is_dir() and path.exists():
            _swap_folder(temporary, path)
        else:
            temporary.replace(path)
    finally:
        _remove(temporary)


def check_free(path: Path, *, overwrite: bool = False) -> None:
    """Raise FileExistsError if `path` exists and may not be replaced."""
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} exists already; choose another name, or say --overwrite (overwrite=True)"
        )


def check_no_folder(path: Path) -> None:
    """Raise FileExistsError if `path`, where a file is to be, is a folder: it is never replaced by one."""
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder, and a file is to have that name; choose another name")


def check_reachable(path: Path) -> None:
    """Raise OSError unless `path`, and the folders above it that are missing, can be made."""
    folder = path.resolve().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"{path} cannot be written: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written: no permission to write into {folder}")


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes; OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def slug(text: str, length: int) -> str:
    """The letters a-z and digits of a text, the rest as hyphens: part of a file name, safe on every system.

    Args:
        text: of any kind, such as a prompt.
        length: of the name at most, in characters.

    Returns:
        "clip" if there are no such letters.
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:length].strip("-") or "clip"


def _swap_folder(new: Path, old: Path) -> None:
    """Folders cannot be replaced in one step: put the old one aside, and back if the new one cannot come."""
    aside = new.with_name(f"{new.name}.old")
    old.replace(aside)
    try:
        new.replace(old)
    except OSError:
        aside.replace(old)
        raise
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

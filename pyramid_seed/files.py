"""Files: written whole or not at all, their digests, and names made from text."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
import unicodedata
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import msgspec

# Temporary names: `.`, 28 hexadecimal digits (6 for the machine, 6 for the process, 16 random; once 4, which
# made the two names of one save equal in one of 65,536), `.tmp` and the ending, or `-tmp` without one. The
# file's own name is left out: it may be as long as a name can be.
_TEMPORARY = re.compile(r"\.([0-9a-f]{6})([0-9a-f]{6})[0-9a-f]{4,16}[.-]tmp(\.[^.]+)?")
_LEFT_BEHIND_SECONDS = 6 * 3600.0  # no file waits that long between its last byte and its name
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100  # of Linux, see renameat2(2)


class FileRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A model's file as manifests and embeddings name it, see `checkpoints.digests.weight_digests`."""

    file: str
    size: int
    sha256: str
    converted_sha256: str | None = None


@contextmanager
def replacing(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`; whatever is made there is renamed to `path` when the block ends.

    The block may make a file or a folder. Missing parent folders are created. If the block raises, what was
    made is removed, and `path` is as it was. The temporary path has the ending of `path`. Half-written files
    that killed processes left in the folder are removed, see `clear_leftovers`.

    Raises:
        FileExistsError: `path` exists and `overwrite` is false.
        OSError: `path` cannot be made, see `check_reachable`; no space is left.
    """
    path = real_path(path)  # making the parents could change the meaning of ".."
    check_free(path, overwrite=overwrite)
    check_reachable(path)
    owner = f"{_machine()}{os.getpid() % 16**6:06x}"
    ending = f".tmp{path.suffix}" if path.suffix else "-tmp"
    temporary = path.with_name(f".{owner}{secrets.token_hex(8)}{ending}")
    with without_new_folders(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_once(path.parent)
        try:
            yield temporary
            check_free(path, overwrite=overwrite)  # another process may have been faster
            if temporary.is_dir() and path.exists():
                _swap_folder(temporary, path)
            else:
                temporary.replace(path)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(error.errno, "No space left, nothing was written", str(path)) from error
            raise
        finally:
            _remove(temporary)


def write_file(path: Path, data: str | bytes, *, overwrite: bool = False) -> None:
    """Write a file, whole or not at all; raises as `replacing` does.

    A lone surrogate in a text, from an undecodable command-line argument, has no UTF-8 form: it is escaped.
    """
    with replacing(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "backslashreplace"))


@contextmanager
def without_new_folders(folder: Path) -> Iterator[None]:
    """If the block raises, remove `folder` and its parents, as far as they were missing and are empty."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for each in missing:
                each.rmdir()
        raise


def check_name(path: str | os.PathLike[str]) -> None:
    """Refuse a name that no file can have: ValueError."""
    try:
        is_name = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        is_name = False
    if not is_name:
        raise ValueError(f"no file can be named {os.fspath(path)!r:.80}; use letters, digits, - and _")


def real_path(path: str | os.PathLike[str]) -> Path:
    """The absolute path without links; if these form a loop, `Path.resolve` raises a RuntimeError."""
    check_name(path)
    return Path(os.path.realpath(path))


def check_free(path: Path, *, overwrite: bool = False) -> None:
    """Raise FileExistsError if `path` exists and may not be replaced."""
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} already exists; choose another name, or use --overwrite (overwrite=True)"
        )


def check_no_folder(path: Path) -> None:
    """Raise FileExistsError if `path` is a folder: a file never replaces one."""
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder, but the output is a file; choose another name")


def check_reachable(path: Path) -> None:
    """Raise OSError unless `path` and the missing folders above it can be made."""
    folder = real_path(path).parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"{path} cannot be written: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written: no permission to write into {folder}")


def check_space(path: Path, size: int, what: str, advice: str) -> None:
    """Raise OSError unless `size` bytes are free where `path` is or will be, for `what`."""
    folder = real_path(path)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(
            f"{what} needs {size / 1e6:,.0f} MB in {folder}, where {free / 1e6:,.0f} MB are free; make room "
            f"there, or {advice}"
        )


def check_readable(path: Path) -> None:
    """Raise OSError that names `path` unless it is a file that can be read at once: a FIFO would wait."""
    check_name(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    except OSError as error:
        raise OSError(error.errno, f"cannot be read: {error.strerror}", str(path)) from error
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a folder, but a file is needed")
    if not stat.S_ISREG(mode):
        raise OSError(f"{path} is not a file but a FIFO, a socket or a device; copy its content into a file")


def sidecar_path(clip: Path) -> Path:
    """Where the manifest beside a clip is stored: for `clip.mp4`, `clip.json`."""
    clip = clip if clip.name else clip.absolute()  # "." has no name of its own
    return clip.parent / f"{clip.stem}.json"


def latents_path(clip: Path) -> Path:
    """Where a clip's latents are stored: for `clip.mp4`, `clip.latents.safetensors`."""
    return clip.with_suffix(".latents.safetensors")


def check_clip(path: Path) -> None:
    """Raise OSError that names `path` unless it is a file that can be read at once, or a folder."""
    if not path.is_dir():
        check_readable(path)


def check_temporary_folder() -> None:
    """Raise OSError if there is no folder for temporary files: without one, torch cannot even be imported."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise OSError(
            "no folder for temporary files can be written to, and torch needs one; set TMPDIR to one that can"
        ) from error


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes; OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def slug(text: str, length: int) -> str:
    """The letters and digits of a text in lower case, the rest as hyphens, for the start of a file name.

    Letters of every script are kept, with their marks. Followed by something, such as a seed, the slug is
    safe on every system: on its own it may be a name that Windows reserves, such as "con".

    Args:
        text: any text, such as a prompt.
        length: the most bytes of UTF-8 in the slug.

    Returns:
        "clip" if there are no letters or digits.
    """
    folded = unicodedata.normalize("NFC", text.casefold())
    kept = [" "]
    for char in folded:
        is_mark = kept[-1] != " " and unicodedata.category(char).startswith("M")  # as in most Indian vowels
        kept.append(char if is_mark or char.isalnum() else " ")
    name = "-".join("".join(kept).split()).encode()[:length].decode(errors="ignore")
    return name.strip("-") or "clip"


def clear_leftovers(folder: Path) -> None:
    """Remove temporary files and folders of `replacing` that no living process owns.

    Those of other machines, whose processes cannot be checked from here, are removed once they are hours old.
    """
    with os.scandir(folder) as files:  # not listed at once: there may be a million
        for file in files:
            owner = _TEMPORARY.fullmatch(file.name) if file.name.startswith(".") else None
            if owner is not None and _is_abandoned(Path(file), owner[1], int(owner[2], 16)):
                _remove(Path(file))


_clear_once = cache(clear_leftovers)


def _is_abandoned(path: Path, machine: str, process: int) -> bool:
    if machine == _machine():
        import psutil  # takes time that `--help` does not have

        return not psutil.pid_exists(process)
    try:
        return path.stat().st_mtime < time.time() - _LEFT_BEHIND_SECONDS
    except FileNotFoundError:  # it was renamed just now
        return False


@cache
def _machine() -> str:
    """6 hexadecimal digits for this machine since its start, and for the processes that are visible here."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        processes = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:  # not Linux
        import psutil

        boot, processes = str(psutil.boot_time()), uuid.getnode()
    return hashlib.sha256(f"{boot} {processes}".encode()).hexdigest()[:6]


def _swap_folder(new: Path, old: Path) -> None:
    """Put a folder in the place of another: in one step, if the system can.

    Otherwise the old one is moved aside first, and back if the new one cannot take its place.
    """
    if _exchange(new, old):
        _remove(new)
        return
    aside = new.with_name(f".old{new.name}")  # not a temporary name, so nothing removes it
    old.replace(aside)
    try:
        new.replace(old)
    except OSError:
        aside.replace(old)
        raise
    _remove(aside)


def _exchange(a: Path, b: Path) -> bool:
    """Swap the names of two files or folders in one step; False if the system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if rename is None:
        return False
    return rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

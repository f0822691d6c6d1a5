"""All contact with the hub: the files of a repository at one commit, and one sentence for each failure.

Listing, access, addresses, offline mode and the cache's layout are huggingface_hub's. Files are received
here: its client (2.4) discards a partly received file when a connection breaks, compares no digests, and
can wait for minutes before it gives up.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
from filelock import FileLock
from huggingface_hub import constants, get_session, hf_hub_url
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, tqdm  # type: ignore[attr-defined]

from ..files import check_space, write_file
from .digests import weight_digests
from .layout import list_files

logger = logging.getLogger(__name__)

_PAUSE = 1.0  # seconds before another try, after one that brought nothing
_SHA256_LENGTH = 64
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_PLAIN_NAME = re.compile(r"(?!\.)[^/\\]+(/(?!\.)[^/\\]+)?")  # part/name, as `list_files` gives them
_AGAIN = "what has arrived is kept: run the same command again"
_ELSEWHERE = "a folder on another disk (HF_HOME, or -o of `pyramid-seed fetch`)"


class HubError(OSError):
    """The hub did not deliver what was requested; the message says what to do."""


class HubDownError(HubError):
    """The hub did not answer, or reported that it cannot: files that are already here may do."""


class HubFile(NamedTuple):
    """A file as the hub lists it: its size in bytes, and its SHA-256 or, for a small file, Git's SHA-1."""

    size: int
    digest: str | None


@dataclass(frozen=True)
class Repository:
    """A repository at one commit.

    Attributes:
        name: owner/name.
        cache: the repository's part of the hub's cache.
        local_dir: the folder for the files; None: a snapshot in the cache.
        token: as in huggingface_hub.
        commit: its SHA-1.
        files: all its files, by name.
        offline: the message for a file that is not here, if the hub is not asked; None if it is.
        warning: the message if all files are here, but the hub was asked and did not answer.
    """

    name: str
    cache: Path
    local_dir: Path | None
    token: str | bool | None
    commit: str = ""
    files: Mapping[str, HubFile] = field(default_factory=dict)
    offline: str | None = None
    warning: str | None = None

    @property
    def folder(self) -> Path:
        """The folder in which files have their names."""
        return self.local_dir or self.cache / "snapshots" / self.commit

    def fetch(self, names: Collection[str]) -> Path:
        """The folder, with files of these names in it; missing ones are downloaded.

        Raises:
            HubError: the hub did not deliver a file. OSError: there is no room for the files.
        """
        missing = [name for name in names if not self._is_here(name)]
        missing.sort(key=lambda name: self.files[name].size)
        if missing and self.offline is not None:
            raise self.incomplete(f"{len(missing)} of {len(names)} files, {missing[-1]} among them")
        total = sum(self.files[name].size for name in missing)
        here = sum(_size(self._partial(name)) for name in missing)
        check_space(self.folder, total - here, self.name, f"choose {_ELSEWHERE}")
        bar = tqdm(
            total=total, initial=here, desc=self.name, unit="B", unit_scale=True, disable=None, leave=False
        )
        with _told(self.name, self.commit), bar:
            for name in missing:  # the largest last: once its weights are here, all is
                self._receive(name, bar)
                self._place(name)
        return self.folder

    def incomplete(self, missing: str) -> HubError:
        """The error to raise if files are missing and the hub cannot be asked."""
        return HubError(f"{self.offline} (not here yet: {missing})" if self.warning is None else self.offline)

    def _is_here(self, name: str) -> bool:
        path = self.folder / name
        if self.local_dir is not None:
            return self._is_right(name, path)
        return path.is_file() and _size(path) == self.files[name].size

    def _is_right(self, name: str, path: Path) -> bool:
        """Whether a file has the listed content; or, if no digest is listed, the listed size."""
        size, digest = self.files[name]
        if not path.is_file() or _size(path) != size or digest is None:
            return path.is_file() and _size(path) == size
        if len(digest) == _SHA256_LENGTH:
            return bool(weight_digests(path.parent, [path.name])[0]["sha256"] == digest)
        git_blob = b"blob %d\0" % size + path.read_bytes()
        return hashlib.sha1(git_blob, usedforsecurity=False).hexdigest() == digest

    def _blob(self, name: str) -> Path:
        """The path of content until it has its name (in the cache, for good): named by its digest."""
        store = self.cache if self.local_dir is None else self.local_dir / ".cache" / "huggingface"
        digest = self.files[name].digest or hashlib.sha1(f"{self.commit}/{name}".encode()).hexdigest()
        return store / "blobs" / digest

    def _partial(self, name: str) -> Path:
        """The path of a partly received file, which older clients of the hub use too."""
        return self._blob(name).with_suffix(".incomplete")

    def _receive(self, name: str, bar: Any) -> None:
        """Download the content of a file to its blob, continuing a partly received one."""
        file, blob, partial = self.files[name], self._blob(name), self._partial(name)
        locks = blob.parents[2] / ".locks" / blob.parents[1].name  # as in the hub's cache
        for folder in (blob.parent, locks):
            folder.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{blob.name}.lock"):
            if self._is_here(name) or self._is_right(name, blob):
                return
            cached = self.cache / "blobs" / blob.name
            if cached != blob and self._is_right(name, cached):
                shutil.copyfile(cached, partial)
            if _size(partial) > file.size:
                partial.unlink()
            url = hf_hub_url(self.name, name, revision=self.commit)
            _receive(url, build_hf_headers(token=self.token), partial, file.size, bar)
            if not self._is_right(name, partial):
                partial.unlink()
                raise _other_file(url, "its digest differs")
            partial.replace(blob)

    def _place(self, name: str) -> None:
        """Give content its name, in one step: by a link in the cache, by moving it elsewhere."""
        if self._is_here(name):
            return
        blob, path = self._blob(name), self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.local_dir is None:
            link = path.with_name(f".{secrets.token_hex(4)}")
            try:
                link.symlink_to(os.path.relpath(blob, path.parent))
                link.replace(path)
                return
            except OSError:  # as on Windows, for users without the right
                link.unlink(missing_ok=True)
        blob.replace(path)


def open_repository(
    name: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Repository:
    """List a repository at a revision, with one request, or with none offline.

    If the hub is down and the revision was fetched before, the repository is as it was then.

    Args:
        name: owner/name.
        revision, cache_dir, local_dir, token, local_files_only: as in huggingface_hub.

    Raises:
        HubError: the repository cannot be listed.
    """
    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser() / f"models--{name.replace('/', '--')}"
    target = None if local_dir is None else Path(local_dir).expanduser().absolute()
    repository = Repository(name, cache, target, token)
    if local_files_only or constants.HF_HUB_OFFLINE:
        setting = "local_files_only" if local_files_only else "HF_HUB_OFFLINE"
        which = name if revision is None else f"{name} at {revision}"
        lacking = f"{which} is missing here, or incomplete, and {setting} is set: run this once without it"
        if (kept := _kept(repository, revision, lacking)) is None:
            raise HubError(lacking)
        return kept
    try:
        with _told(name, revision):
            commit, files = _listed(name, revision, token)
    except HubDownError as error:
        if (kept := _kept(repository, revision, str(error))) is None:
            raise
        reason = str(error).partition(";")[0]
        return replace(kept, warning=f"{reason}; using commit {kept.commit[:12]} of {name}, which is here")
    if revision != commit:
        _keep_reference(cache / "refs" / (revision or constants.DEFAULT_REVISION), commit)
    return replace(repository, commit=commit, files=files)


def _listed(name: str, revision: str | None, token: str | bool | None) -> tuple[str, dict[str, HubFile]]:
    """The commit of a revision, and the files in it."""
    api = huggingface_hub.HfApi(token=token)
    try:
        info = api.model_info(
            name, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    except (HTTPError, OSError, HFValidationError):
        raise
    except Exception as error:  # an answer from anything but a hub can raise anything
        reason = str(error).split("\n")[0][:80]
        raise HubError(
            f"{constants.ENDPOINT} does not answer as a hub does ({type(error).__name__}: {reason}); check "
            "HF_ENDPOINT, and whether the network wants a login"
        ) from error
    rows: list[Any] = [(file.rfilename, file) for file in info.siblings or ()]
    if any(file.size is None for _, file in rows):  # a mirror without support for files_metadata
        tree = api.list_repo_tree(name, recursive=True, revision=info.sha)
        rows = [(file.path, file) for file in tree if isinstance(file, huggingface_hub.RepoFile)]
    files = {
        path: HubFile(file.lfs.size, file.lfs.sha256) if file.lfs else HubFile(file.size, file.blob_id)
        for path, file in rows
        if _PLAIN_NAME.fullmatch(path)
    }
    # Both become names of files here, so they must not be anything else.
    digests = [str(info.sha), *(file.digest for file in files.values() if file.digest)]
    if odd := [digest for digest in digests if not _DIGEST.fullmatch(digest)]:
        raise HubError(f"{constants.ENDPOINT} does not answer as a hub does: {odd[0]!r:.80} is not a digest")
    return digests[0], files


def _kept(repository: Repository, revision: str | None, offline: str) -> Repository | None:
    """The repository as it was fetched earlier; None if it never was."""
    name, cache = repository.name, repository.cache.parent
    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, cache_dir=cache, local_files_only=True, allow_patterns=[]
        )
    except LocalEntryNotFoundError:
        return None
    snapshot = Path(folder)
    try:
        tree = huggingface_hub.get_cached_repo_tree(name, revision=snapshot.name, cache_dir=cache)
        files = {file.path: HubFile(file.size, None) for file in tree}
    except CachedRepoTreeNotFoundError:
        files = {file: HubFile(_size(snapshot / file), None) for file in list_files(snapshot)}
    return replace(repository, commit=snapshot.name, files=files, offline=offline)


def _keep_reference(path: Path, commit: str) -> None:
    """Store a branch's commit for offline use; a cache that cannot be written may still be enough."""
    try:
        if not path.is_file() or path.read_text() != commit:
            write_file(path, commit, overwrite=True)
    except OSError as error:
        logger.info("%s was not written: %s", path, error)


def _receive(url: str, headers: Mapping[str, str], partial: Path, size: int, bar: Any) -> None:
    """Append the missing part of `size` bytes to a file; retry after a break while more keeps coming."""
    partial.touch()
    has_rested = False
    while (start := _size(partial)) < size:
        ranged = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        try:
            with get_session().stream("GET", url, headers={**headers, **ranged}, timeout=timeout) as response:
                hf_raise_for_status(response)
                is_rest = response.status_code == 206
                length = response.headers.get("Content-Range" if is_rest else "Content-Length", "")
                whole = length.rpartition("/")[2]
                # A page sent in place of the file must not replace what has already arrived.
                if whole.isdigit() and int(whole) != size:
                    raise _other_file(url, f"{whole} bytes instead of {size}")
                with partial.open("ab" if is_rest else "wb") as file:
                    for chunk in response.iter_bytes():
                        file.write(chunk)
                        bar.update(len(chunk))
                        if file.tell() > size:
                            return
            ending: Exception = HubError(f"{url} ended too early; {_AGAIN}")
        except HfHubHTTPError:
            raise
        except HTTPError as error:
            ending = error
        if _size(partial) > start:
            has_rested = False
        elif has_rested:
            raise ending
        else:
            has_rested = True
            time.sleep(_PAUSE)


def _other_file(url: str, why: str) -> HubError:
    return HubError(f"{url} is not the file that was listed ({why}); run the same command again")


@contextmanager
def _told(name: str, revision: str | None) -> Iterator[None]:
    """Turn errors between here and the hub into one sentence."""
    try:
        yield
    except HubError:
        raise
    except HfHubHTTPError as error:
        raise _refusal(error, name, revision) from error
    except HTTPError as error:
        raise _silence(error) from error
    except OSError as error:
        reason = f"{error.strerror or error}".split("\n")[0] + (
            f": {error.filename}" if error.filename else ""
        )
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = f"make room; {_AGAIN}" if is_full else f"choose {_ELSEWHERE}"
        raise HubError(f"files of {name} cannot be written ({reason}); {advice}") from error


def _refusal(error: HfHubHTTPError, name: str, revision: str | None) -> HubError:
    """The message for the hub's refusal."""
    hub, status, headers = constants.ENDPOINT, error.response.status_code, error.response.headers
    login = "log in with `hf auth login`, or set HF_TOKEN"
    # Those who are not logged in get 401 for missing repositories, too.
    is_hidden = status == 401 and "credentials" not in headers.get("X-Error-Message", "")
    is_hidden |= status == 404 and "/api/models/" in str(error.response.url)
    if isinstance(error, GatedRepoError):
        return HubError(f"access to {name} is restricted: request it at {hub}/{name}, then {login}")
    if isinstance(error, RevisionNotFoundError):
        return HubError(f"{name} has no revision {revision or 'main'} on {hub}; check its spelling")
    if isinstance(error, RepositoryNotFoundError) or is_hidden:
        return HubError(
            f"{hub} has no model {name}, or hides it: check the spelling; if it is private, {login}"
        )
    if status in (401, 403):
        return HubError(f"{hub} refuses access to {name} ({status}): {login}, with a token that may read it")
    if status == 429:
        wait = headers.get("Retry-After", "")
        when = f"in {wait} seconds" if wait.isdigit() else "in a few minutes"
        return HubDownError(f"{hub} has had too many requests from here (429); {_AGAIN} {when}")
    if status >= 500:
        return HubDownError(f"{hub} is failing at the moment ({status}); {_AGAIN} later")
    return HubError(f"{hub} did not deliver a file of {name} ({status}); {_AGAIN}")


def _silence(error: Exception) -> HubError:
    """The message for a hub that fell silent. The HTTP client's classes are known by name: it changes."""
    hub, kinds = constants.ENDPOINT, {kind.__name__ for kind in type(error).__mro__}
    if "TimeoutException" in kinds:
        return HubDownError(
            f"{hub} did not answer in time; {_AGAIN}, or set HF_HUB_DOWNLOAD_TIMEOUT (seconds)"
        )
    if kinds & {"ConnectError", "ProxyError", "UnsupportedProtocol"}:
        return HubDownError(
            f"{hub} cannot be reached ({error}); check the network, and HF_ENDPOINT if it is set"
        )
    return HubDownError(f"the connection to {hub} broke off; {_AGAIN}")


def _size(path: Path) -> int:
    """Size of a file in bytes; 0 if it does not exist."""
    return path.stat().st_size if path.is_file() else 0

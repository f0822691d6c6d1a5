"""Whose signature (C2PA) a file carries, and whether it holds; `signing` makes one."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..checks import check_path
from ..extras import check_extra
from ..files import check_readable
from ..media.video import read_comment
from ..texts import printable, read_bounded
from .diff import Step

ASSERTION = "org.pyramid-seed.manifest"
"""The C2PA assertion with the SHA-256 of a clip's manifest, as it stands in the comment tag."""

_C2PA_BOX = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")  # the UUID of C2PA's box in an .mp4
# C2PA leaves out `ftyp`, padding in the signature, and the labels of boxes. A signed file ends in a box that
# readers skip, with the SHA-256 of all that precedes it, which shows a changed bit in these, too.
_SEAL = struct.pack(">I4s16s", 8 + 16 + 32, b"free", b"pyramid-seed/1\0\0")
_SEAL_SIZE = len(_SEAL) + 32
_CHUNK = 2**20
_MAX_TRUST = 16 * 2**20  # bytes; a list of all public authorities has less than 1 MB


def is_signed(path: Path) -> bool:
    """Whether a file carries a signature, whether it holds or not; OSError if it cannot be read."""
    check_readable(path)
    with path.open("rb") as file:
        return _seal_of(file) is not None or any(
            kind == b"uuid" and file.read(len(_C2PA_BOX)) == _C2PA_BOX for kind in _boxes(file)
        )


def add_seal(file: BinaryIO) -> None:
    """End a signed file, open for reading and writing, with the digest of its bytes."""
    file.write(_SEAL + _digest(file, file.seek(0, 2)))


def signature_step(path: Path, trust: str | Path | None = None) -> Step | None:
    """Check the signature of a file.

    Args:
        path: the file.
        trust: a file with the certificates (PEM) of the authorities whose word counts. If one is given, the
            signature must be there, and one of them must vouch for the signer.

    Returns:
        Who signed it, and whether the signature holds; None if there is none and none is asked for. Without
        the extra `sign`, a signature is "not compared".

    Raises:
        ValueError: `trust` holds no certificates, or the extra is missing and `trust` is given.
        OSError: a file cannot be read.
    """
    anchors = None if trust is None else _authorities(trust)
    if not is_signed(path):
        return None if trust is None else Step("signature", "differs", "the file is not signed")
    try:
        check_extra("sign", "c2pa")
    except ValueError as error:
        if trust is not None:
            raise
        return Step("signature", "not compared", f"signed, but not checked: {error}")
    signer, problem, is_trusted = _checked(path, anchors)
    if problem is not None:
        return Step("signature", "differs", f"it does not hold: {problem}")
    if trust is None:
        return Step("signature", "equal", f"holds, {signer}; not trusted: --trust FILE names authorities")
    if not is_trusted:
        return Step("signature", "differs", f"holds, {signer}; not trusted: no authority in {trust} vouches")
    return Step("signature", "equal", f"holds, {signer}; trusted")


def _authorities(trust: str | Path) -> str:
    """The text of a file with certificates; whether they are sound is seen when they are used."""
    check_path("trust", trust)
    text = read_bounded(Path(trust), _MAX_TRUST, "the list of authorities").decode("ascii", "replace")
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise ValueError(f"trust must name a file with certificates in PEM form, {trust} has none")
    return text


def _checked(path: Path, anchors: str | None) -> tuple[str, str | None, bool]:
    """Who signed, why the signature does not hold (None: it holds), and whether the signer is trusted."""
    import c2pa

    # A file must not choose an address that is read.
    settings: dict[str, Any] = {"verify": {"remote_manifest_fetch": False}}
    if anchors is not None:
        settings["trust"] = {"trust_anchors": anchors}
    try:
        context = c2pa.Context.from_dict(settings)
    except c2pa.C2paError as error:
        raise ValueError(f"trust must name certificates in PEM form: {error}") from error
    try:
        with path.open("rb") as file, c2pa.Reader("video/mp4", file, None, context) as reader:
            manifest = reader.get_active_manifest() or {}
            state = reader.get_validation_state()
            failures = (reader.get_validation_results() or {}).get("activeManifest", {}).get("failure", [])
    except (c2pa.C2paError, KeyError, ValueError) as error:  # it expects a sound box, and sound JSON in it
        return "", printable(str(error)), False
    broken = [row for row in failures if row["code"] != "signingCredential.untrusted"]
    if broken or state not in ("Valid", "Trusted"):
        reasons = [str(row.get("explanation", row["code"])) for row in broken] or [str(state)]
        return "", printable("; ".join(reasons)), False
    signer = _told_signer(manifest.get("signature_info") or {})
    return signer, _own_problem(path, manifest), state == "Trusted"


def _own_problem(path: Path, manifest: dict[str, Any]) -> str | None:
    """What C2PA does not look at: the bytes that it leaves out, and whether it is this clip's manifest."""
    data = [row["data"] for row in manifest.get("assertions", ()) if row["label"] == ASSERTION]
    if not data:
        return None  # another tool signed it: only C2PA's rules hold
    with path.open("rb") as file:
        if _seal_of(file) != _digest(file, file.seek(0, 2) - _SEAL_SIZE):
            return "a byte outside the signed part has changed since"
    if data[0] != assertion_data(read_comment(path) or ""):
        return "it was made for another manifest"
    return None


def assertion_data(comment: str) -> dict[str, str]:
    """What the assertion says about the clip whose comment tag holds this manifest."""
    return {"sha256": hashlib.sha256(comment.encode()).hexdigest()}


def _told_signer(info: dict[str, Any]) -> str:
    """A certificate may hold any text, and the line must stay one."""
    names = [name for name in (info.get("common_name"), info.get("issuer")) if name]
    time = [f"time stamp {info['time']}"] if info.get("time") else []
    return printable(f"by {', '.join(names + time)}")


def _boxes(file: BinaryIO) -> Iterator[bytes]:
    """The kinds of an .mp4's top boxes (ISO/IEC 14496-12, 4.2); `file` is then at what follows the header."""
    size = file.seek(0, 2)
    start = 0
    while start + 8 <= size:
        file.seek(start)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8).rjust(8, b"\0"))
        yield kind
        if length < 8:  # 0: up to the end of the file
            return
        start += length


def _seal_of(file: BinaryIO) -> bytes | None:
    """The digest that a file ends in, None if it has no seal."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _SEAL_SIZE))
    end = file.read()
    return end.removeprefix(_SEAL) if end.startswith(_SEAL) else None


def _digest(file: BinaryIO, size: int) -> bytes:
    """SHA-256 of the first bytes of a file; it is then at the next one."""
    file.seek(0)
    digest = hashlib.sha256()
    for start in range(0, size, _CHUNK):
        digest.update(file.read(min(_CHUNK, size - start)))
    return digest.digest()

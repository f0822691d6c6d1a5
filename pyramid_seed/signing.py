"""Sign a saved clip with C2PA: who vouches for it, and that it was generated."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .checks import check_path
from .extras import check_extra
from .files import check_free, check_reachable, check_readable, replacing
from .keying.manifest import read_any_manifest
from .media.video import read_comment
from .provenance.signature import ASSERTION, add_seal, assertion_data, is_signed, signature_step
from .texts import read_bounded
from .version import __version__

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

Key: TypeAlias = str | Path | Callable[[bytes], bytes]
"""A file with a private key (PEM), or a function that signs bytes, such as a call of a key service."""

_GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_MIN_RSA = 2048  # bits
_MAX_PEM = 2**20  # bytes


def sign(
    clip: str | Path,
    *,
    cert: str | Path,
    key: Key,
    output: str | Path | None = None,
    overwrite: bool = False,
    time_stamp: str | None = None,
) -> Path:
    """Add a C2PA manifest to a clip's .mp4: created by a trained model, and the SHA-256 of our manifest.

    Args:
        clip: an .mp4 with its manifest inside, of `generate` or `keyed`.
        cert: PEM file of the signer's certificate, followed by those that vouch for it.
        key: the certificate's key. A function gets the bytes to sign, and returns the signature in the form
            that COSE asks for: r and s at full length for elliptic curves, PSS with SHA-256 for RSA.
        output: the signed file; default: it takes the place of the clip.
        overwrite: replace an existing `output`.
        time_stamp: address of a time stamp service (RFC 3161). Without one, the signature holds only as long
            as the certificate.

    Returns:
        The path of the signed file.

    Raises:
        ValueError: the extra `sign` is missing, the file is no clip of ours or signed already, the
            certificate is not valid now or of an unsuitable kind, the key does not fit it, or the service
            gives no time stamp.
        FileExistsError: `output` exists. OSError: a file cannot be read or written.
    """
    check_extra("sign", "c2pa", "cryptography")
    for name, file in {"clip": clip, "cert": cert, "key": key}.items():
        if not (name == "key" and callable(file)):
            check_path(name, file)
    clip = Path(clip)
    path = clip if output is None else Path(output)
    comment = _comment_to_sign(clip)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"a signed clip is an .mp4, got {path.name!r}")
    check_reachable(path)
    check_free(path, overwrite=overwrite or output is None)
    failures: list[Exception] = []
    signer = _signer(cert, key, time_stamp, failures)
    with replacing(path, overwrite=overwrite or output is None) as temporary:
        _write_signed(clip, temporary, signer, comment, failures)
        step = signature_step(temporary)
        if step is None or step.status != "equal":
            raise ValueError(
                f"{clip} could not be signed: {step.note if step else 'no signature was written'}"
            )
    return path


def _comment_to_sign(clip: Path) -> str:
    check_readable(clip)
    if clip.suffix.lower() != ".mp4":
        raise ValueError(f"a clip to sign is an .mp4, got {clip.name!r}")
    comment = read_comment(clip)
    if comment is None:
        raise ValueError(f"{clip} has no manifest inside; sign a clip that was saved with its metadata")
    read_any_manifest(clip)
    if is_signed(clip):
        raise ValueError(f"{clip} is signed already; sign the file that was made first")
    return comment


def _certificate(chain: bytes, where: str | Path) -> Certificate:
    """The signer's certificate, the first of the chain; ValueError if it is none, or not valid now."""
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificates(chain)[0]
    except ValueError as error:
        raise ValueError(f"{where} must hold certificates in PEM form: {error}") from error
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= datetime.datetime.now(datetime.UTC) <= end:
        raise ValueError(
            f"the certificate in {where} is valid from {begin:%Y-%m-%d} to {end:%Y-%m-%d}, not now"
        )
    return certificate


def _algorithm(certificate: Certificate, where: str | Path) -> str:
    """C2PA's name of the algorithm that a certificate's key signs with; ValueError if C2PA has none."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    public = certificate.public_key()
    if isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name in _CURVES:
        return _CURVES[public.curve.name]
    if isinstance(public, rsa.RSAPublicKey) and public.key_size >= _MIN_RSA:
        return "PS256"
    if isinstance(public, ed25519.Ed25519PublicKey):
        return "ED25519"
    raise ValueError(
        f"the key of the certificate in {where} must be P-256, P-384, P-521, Ed25519 or RSA of at least "
        f"{_MIN_RSA} bits, got {type(public).__name__}; P-256 is the usual one"
    )


def _signer(cert: str | Path, key: Key, time_stamp: str | None, failures: list[Exception]) -> Any:
    """The library's signer; what a function as key raises goes to `failures`, since the library drops it."""
    import c2pa

    chain = read_bounded(Path(cert), _MAX_PEM, "the certificate")
    certificate = _certificate(chain, cert)
    kind = c2pa.C2paSigningAlg[_algorithm(certificate, cert)]

    def call(data: bytes) -> bytes:
        try:
            return key(data)  # type: ignore[operator]
        except Exception as error:
            failures.append(error)
            raise

    try:
        if callable(key):
            return c2pa.Signer.from_callback(call, kind, chain.decode("utf-8", "replace"), time_stamp)
        pem = _private_key(certificate, key)
        return c2pa.Signer.from_info(c2pa.C2paSignerInfo(kind, chain, pem, time_stamp))
    except c2pa.C2paError as error:
        raise ValueError(f"the certificate cannot be used to sign: {error}") from error


def _private_key(certificate: Certificate, path: str | Path) -> bytes:
    """A private key as PKCS 8; ValueError if it is none, encrypted, or not the certificate's."""
    from cryptography.hazmat.primitives import serialization

    data = read_bounded(Path(path), _MAX_PEM, "the key")
    try:
        key: PrivateKeyTypes = serialization.load_pem_private_key(data, password=None)
    except TypeError as error:
        raise ValueError(f"{path} is encrypted; decrypt it, or sign with a function (key=)") from error
    except ValueError as error:
        raise ValueError(f"{path} must hold a private key in PEM form: {error}") from error
    if key.public_key() != certificate.public_key():
        raise ValueError(
            f"the key in {path} is not that of the certificate; give the key that it was issued for"
        )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_signed(clip: Path, path: Path, signer: Any, comment: str, failures: list[Exception]) -> None:
    """Write the signed copy of a clip."""
    import c2pa

    created = {"action": "c2pa.created", "digitalSourceType": _GENERATED}
    builder = c2pa.Builder(
        {
            "claim_generator_info": [{"name": "pyramid-seed", "version": __version__}],
            "assertions": [
                {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
                {"label": ASSERTION, "data": assertion_data(comment)},
            ],
        }
    )
    with clip.open("rb") as source, path.open("w+b") as target:
        try:
            builder.sign(signer, "video/mp4", source, target)
        except c2pa.C2paError as error:
            if failures:
                raise failures[0] from error
            raise ValueError(f"{clip} could not be signed: {error}") from error
        add_seal(target)

"""Certificates for tests, made when they are needed: an authority, and a signer that it vouches for."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_KEYS = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "rsa1024": lambda: rsa.generate_private_key(65537, 1024),
}


@dataclass(frozen=True)
class Identity:
    """Files: the signer's certificate and the authority's, its key, the authority's certificate alone."""

    cert: Path
    key: Path
    authority: Path


def make_identity(folder: Path, kind: str = "p256", days: tuple[int, int] = (-1, 30)) -> Identity:
    """A signer whose certificate is valid from `days[0]` to `days[1]` after now."""
    folder.mkdir()
    root, key = _KEYS["p256"](), _KEYS[kind]()
    name = _name("Test Authority")
    authority = (
        _unsigned(name, name, root, (-100, 100))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(root, hashes.SHA256())
    )
    certificate = (
        _unsigned(_name("Test Signer"), name, key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), critical=False)
        .sign(root, hashes.SHA256())
    )
    identity = Identity(folder / "cert.pem", folder / "key.pem", folder / "authority.pem")
    identity.cert.write_bytes(_pem(certificate) + _pem(authority))
    identity.authority.write_bytes(_pem(authority))
    identity.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return identity


def _pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


def _name(common_name):
    names = {NameOID.COMMON_NAME: common_name, NameOID.ORGANIZATION_NAME: "Test Studio"}
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in names.items()])


def _unsigned(subject, issuer, key, days):
    now = datetime.datetime.now(datetime.UTC)
    begin, end = (now + datetime.timedelta(days=number) for number in days)
    return x509.CertificateBuilder(
        issuer, subject, key.public_key(), x509.random_serial_number(), begin, end
    ).add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _usage(*, signs_certificates):
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )

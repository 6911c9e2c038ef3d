"""The hub's own certificate authority and server certificate, for who has no other.

Nodes and researchers get the authority's certificate when they join, authenticated by the
invitation's secret; so nobody has to install it, and no other authority is believed.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cohortium.store.files import write_private

AUTHORITY_YEARS = 20
SERVER_DAYS = 90
RENEWED_DAYS = 30
"""A server certificate with fewer days left is replaced."""


@dataclass(frozen=True)
class Tls:
    """A server certificate and its key, as files.

    Attributes:
        certificate: PEM, with the chain where there is one.
        key: PEM.
        authority: PEM of our own authority; empty where another one has signed.
    """

    certificate: Path
    key: Path
    authority: str = ""


def own_tls(folder: Path, hosts: Sequence[str], *, name: str, now: float | None = None) -> Tls:
    """Return the folder's own certificate; made if it is missing, for other hosts, or near its end.

    Args:
        folder: where its files are: `ca.pem`, `ca.key`, `server.pem`, `server.key`.
        hosts: names and addresses under which the hub is reached.
        name: the hub's, for people who look at the authority.
        now: seconds since 1970; by default this machine's clock.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    at = datetime.fromtimestamp(time.time() if now is None else now, UTC)
    if not (folder / "ca.pem").exists():
        _make_authority(folder, name, at)
    tls = Tls(folder / "server.pem", folder / "server.key", (folder / "ca.pem").read_text("ascii"))
    if _is_due(tls.certificate, hosts, at):
        _make_server(folder, hosts, at)
    return tls


def _is_due(path: Path, hosts: Sequence[str], at: datetime) -> bool:
    if not path.exists():
        return True
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    left = certificate.not_valid_after_utc - at
    return left < timedelta(days=RENEWED_DAYS) or set(named) != set(_names(hosts))


def _make_authority(folder: Path, name: str, at: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(f"Cohortium hub {name}")
    certificate = (
        _builder(subject, subject, key.public_key(), at, days=365 * AUTHORITY_YEARS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(folder / "ca.key", key)
    write_private(folder / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM))


def _make_server(folder: Path, hosts: Sequence[str], at: datetime) -> None:
    authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    signer = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    certificate = (
        _builder(_subject("Cohortium hub"), authority.subject, key.public_key(), at, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_names(hosts)), critical=False)
        .add_extension(issuer, critical=False)
        .sign(signer, hashes.SHA256())
    )
    _write(folder / "server.key", key)
    write_private(folder / "server.pem", certificate.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    at: datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - timedelta(days=1))  # for clocks that are behind
        .not_valid_after(at + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
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


def _names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    return [_name(host) for host in dict.fromkeys((*hosts, "localhost", "127.0.0.1"))]


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return x509.DNSName(host.encode("idna").decode("ascii"))


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _write(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    write_private(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )

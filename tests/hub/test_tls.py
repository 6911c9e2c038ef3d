"""The hub's own certificate authority."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
import time
from pathlib import Path

import pytest
from cryptography import x509
from tests.hub.running import Hub, new_folder, running

from cohortium.hub.tls import Tls, own_tls

DAY = 86_400.0


def served(tls: Tls, name: str, *, authority: str) -> None:
    """Connect to a server with this certificate under a name, believing an authority."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tls.certificate, tls.key)
    client = ssl.create_default_context(cadata=authority)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    near, far = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(far, server_side=True).close()
        except ssl.SSLError:
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client.wrap_socket(near, server_hostname=name).close()
    finally:
        near.close()
        thread.join()


@pytest.mark.parametrize("name", ["hub.example.org", "localhost", "127.0.0.1"])
def test_who_knows_the_authority_believes_the_server(tmp_path: Path, name: str) -> None:
    tls = own_tls(tmp_path, ["hub.example.org"], name="Test")

    served(tls, name, authority=tls.authority)


def test_nobody_believes_another_name_or_authority(tmp_path: Path) -> None:
    tls = own_tls(tmp_path / "one", ["hub.example.org"], name="Test")
    other = own_tls(tmp_path / "two", ["hub.example.org"], name="Test")

    with pytest.raises(ssl.SSLCertVerificationError):
        served(tls, "elsewhere.example.org", authority=tls.authority)
    with pytest.raises(ssl.SSLCertVerificationError):
        served(tls, "hub.example.org", authority=other.authority)


def test_an_address_may_be_the_name(tmp_path: Path) -> None:
    tls = own_tls(tmp_path, ["10.1.2.3", "::1"], name="Test")

    served(tls, "10.1.2.3", authority=tls.authority)
    served(tls, "::1", authority=tls.authority)


def test_a_certificate_is_renewed_before_its_end_by_the_same_authority(tmp_path: Path) -> None:
    now = time.time()
    first = own_tls(tmp_path, ["a"], name="Test", now=now)
    before = first.certificate.read_bytes()

    own_tls(tmp_path, ["a"], name="Test", now=now + 50 * DAY)
    assert first.certificate.read_bytes() == before
    renewed = own_tls(tmp_path, ["a"], name="Test", now=now + 61 * DAY)

    assert renewed.authority == first.authority
    later = x509.load_pem_x509_certificate(renewed.certificate.read_bytes())
    assert later.not_valid_after_utc.timestamp() > now + 150 * DAY
    later.verify_directly_issued_by(x509.load_pem_x509_certificate(first.authority.encode()))


def test_another_name_makes_another_certificate(tmp_path: Path) -> None:
    first = own_tls(tmp_path, ["a"], name="Test")

    second = own_tls(tmp_path, ["b"], name="Test")

    served(second, "b", authority=first.authority)


def test_a_running_hub_takes_up_its_new_certificate(tmp_path: Path) -> None:
    """Nobody restarts it every two months; connections that are open go on."""
    with running(new_folder(tmp_path / "hub")) as hub:
        client = hub.client(None)
        client.call("GET", "/v1/hub")
        before = shown(hub)
        (hub.folder.tls / "server.pem").unlink()
        assert hub.server is not None

        hub.server.renew()

        client.call("GET", "/v1/hub")
        assert shown(hub) != before
        served_by = x509.load_der_x509_certificate(shown(hub))
        served_by.verify_directly_issued_by(
            x509.load_pem_x509_certificate(hub.trust.ca_pem.encode())
        )


def shown(hub: Hub) -> bytes:
    """Return the certificate that a new connection sees."""
    context = ssl.create_default_context(cadata=hub.trust.ca_pem)
    plain = socket.create_connection(("127.0.0.1", hub.port))
    with context.wrap_socket(plain, server_hostname="localhost") as secure:
        return secure.getpeercert(binary_form=True) or b""


def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    own_tls(tmp_path / "tls", ["a"], name="Test")

    for name in ("ca.key", "server.key"):
        assert stat.S_IMODE((tmp_path / "tls" / name).stat().st_mode) == 0o600

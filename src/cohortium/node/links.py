"""Direct links: frames straight from node to node, where a hospital chose to listen.

Nothing needs them; what cannot go directly goes through the hub. A link carries the same sealed
frames, in requests and answers that are signed as the hub's are, by keys that the run's roster
pins. Its TLS hides them from who only listens; whom one speaks to, the signatures show. Behind an
honest broker there are none: an address would be a name.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy.exc import SQLAlchemyError

from cohortium.errors import CohortiumError, InvalidInputError, RefusedError
from cohortium.host.courier import Closed
from cohortium.identity import Certificate, Identity, key_id
from cohortium.node.settings import address_of
from cohortium.store.files import write_private
from cohortium.transport.blobs import FolderBlobs
from cohortium.transport.client import PIECE, HubClient
from cohortium.transport.envelope import Data, Frame
from cohortium.transport.errors import (
    ConflictError,
    RequestError,
    TooLargeError,
    UnavailableError,
    UnknownError,
    refusal_body,
)
from cohortium.transport.nonces import Nonces
from cohortium.transport.signing import Request, check_request, key_name, key_parts, sign_response
from cohortium.transport.trust import HubTrust

PATIENCE, TIMEOUT = 3.0, 10.0
"""Seconds for which a peer is tried, and of silence after which a link counts as lost."""

SHUNNED = 60.0
"""Seconds for which a peer that did not answer is not tried again."""

REQUEST_LIMIT = 8 << 20
YEARS = 10
FILE = "link.pem"

Lookup = Callable[[str, int | None, str], Certificate]
"""Returns the certificate of a host, of a serial or the newest, in a run, under the key that the
run pins. Raises RefusedError."""


# --- sending ---


class Links:
    """The ways to peers that listen.

    Args:
        identity: who sends.
        lookup: the hosts' certificates.

    Attributes:
        addresses: each host's; empty or missing: it does not listen.
    """

    def __init__(self, identity: Identity, lookup: Lookup) -> None:
        self._identity, self._lookup = identity, lookup
        self.addresses: Mapping[str, str] = {}
        self._lock = threading.Lock()
        self._shunned: dict[str, float] = {}
        self._clients: dict[str, HubClient] = {}
        self._closed = False
        self._log = structlog.get_logger()

    def post(self, frame: Frame, ciphertext: Data) -> bool:
        """Hand a frame to all its readers; return whether all of them have it."""
        hosts = list(frame.keys)
        addresses = self.addresses
        if self._closed or not all(self._is_open(host, addresses) for host in hosts):
            return False
        return all(self._send(host, addresses[host], frame, ciphertext) for host in hosts)

    def close(self) -> None:
        """End what is under way."""
        with self._lock:
            self._closed = True
            for client in self._clients.values():
                client.close()

    def _is_open(self, host: str, addresses: Mapping[str, str]) -> bool:
        return bool(addresses.get(host)) and time.monotonic() >= self._shunned.get(host, 0.0)

    def _send(self, host: str, address: str, frame: Frame, ciphertext: Data) -> bool:
        try:
            client = self._client(host, address, frame.run)
            if frame.blob:
                client.upload(frame.blob, ciphertext)
            client.call("POST", "/v1/frames", frame.to_json())
        except (CohortiumError, OSError) as error:
            self._log.info("no direct link; through the hub", peer=host, reason=str(error))
            self._shunned[host] = time.monotonic() + SHUNNED
            self._forget(host)
            return False
        return True

    def _client(self, host: str, address: str, run: str) -> HubClient:
        with self._lock:
            if host in self._clients:
                return self._clients[host]
        certificate = self._lookup(host, None, run)
        parts = urlsplit(address)
        pem = ssl.get_server_certificate((parts.hostname or "", parts.port or 443), timeout=TIMEOUT)
        client = HubClient(
            address,
            self._identity,
            PeerTrust(certificate, pem),
            proxy="",
            timeout=TIMEOUT,
            patience=PATIENCE,
        )
        with self._lock:
            self._clients[host] = client
            if self._closed:
                client.close()
        return client

    def _forget(self, host: str) -> None:
        with self._lock:
            client = self._clients.pop(host, None)
        if client is not None:
            client.close()


@dataclass(frozen=True)
class PeerTrust(HubTrust):
    """What a node knows of a peer: the certificate of its working keys, and the TLS that it showed.

    Anybody can show that; whoever answers has to sign with the peer's key.
    """

    def key(self, keyid: str) -> str | None:
        """Return the peer's public key (hex) of that name."""
        name = key_name(self.certificate.name, self.certificate.serial)
        return self.certificate.signing if keyid == name else None


# --- listening ---


@dataclass(frozen=True)
class Desk:
    """What a listener takes in.

    Attributes:
        identity: who listens.
        blobs: where payloads wait until their frame comes.
        nonces: requests that came in the last minutes.
        runs: the runs that go on here.
        lookup: the hosts' certificates.
        deliver: hands a frame to its readers here; durable when it returns.
    """

    identity: Identity
    blobs: FolderBlobs
    nonces: Nonces
    runs: Callable[[], list[str]]
    lookup: Lookup
    deliver: Callable[[Frame], object]

    def handle(self, request: Request, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        """Return the answer to a request: status, body and header fields."""
        try:
            caller = self._caller(request, body)
            return self._route(request, body, caller)
        except (RequestError, InvalidInputError) as error:
            status, told = refusal_body(error)
        except RefusedError as error:
            status, told = refusal_body(RequestError(str(error), "what the protocol says"))
        except ValueError:
            status, told = refusal_body(RequestError("a body that is no JSON", "a frame"))
        except (OSError, SQLAlchemyError, Closed):
            status, told = refusal_body(
                UnavailableError("a node that cannot keep it", "one that can")
            )
        return status, json.dumps(told).encode(), {"Content-Type": "application/json"}

    def _caller(self, request: Request, body: bytes) -> str:
        """Return the host that signed a request: one of a run that goes on here."""
        keyid = check_request(
            request.method,
            request.target,
            request.headers,
            body,
            keys=self._key,
            hub=key_id(self.identity.root.public),
            now=time.time(),
            nonces=self.nonces,
        )
        return key_parts(keyid)[0]

    def _key(self, keyid: str) -> str | None:
        name, serial = key_parts(keyid)
        for run in self.runs():
            try:
                return self.lookup(name, serial, run).signing
            except RefusedError:
                continue
        return None

    def _route(
        self, request: Request, body: bytes, caller: str
    ) -> tuple[int, bytes, dict[str, str]]:
        parts = urlsplit(request.target).path.split("/")
        match [request.method, *parts]:
            case ["POST", "", "v1", "frames"]:
                frame = Frame.from_json(json.loads(body))
                if frame.host != caller:
                    raise RequestError(f"a frame of {frame.host} by {caller}", "its sender's")
                if frame.blob and self.blobs.size(frame.blob) != frame.payload_size:
                    raise ConflictError("a frame whose blob is not here", "the blob first")
                self.deliver(frame)
                return 200, b'{"new": true}', {"Content-Type": "application/json"}
            case ["HEAD", "", "v1", "blobs", digest]:
                return self._progress(digest)
            case ["PATCH", "", "v1", "blobs", digest]:
                return self._append(digest, body, dict(request.headers.items()))
        raise UnknownError(request.target[:100], "/v1/frames or /v1/blobs/DIGEST")

    def _progress(self, digest: str) -> tuple[int, bytes, dict[str, str]]:
        _check_digest(digest)
        size = self.blobs.size(digest)
        received = self.blobs.received(digest) if size is None else size
        if size is None and not received:
            raise UnknownError(f"blob {digest[:8]}", "one that is here")
        complete = "?0" if size is None else "?1"
        return 200, b"", {"Upload-Offset": str(received), "Upload-Complete": complete}

    def _append(
        self, digest: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, bytes, dict[str, str]]:
        _check_digest(digest)
        if len(body) > PIECE:
            raise TooLargeError(f"{len(body)} bytes", f"at most {PIECE}")
        fields = {name.lower(): value for name, value in headers.items()}
        offset, total = (_number(fields.get(f"upload-{name}")) for name in ("offset", "length"))
        received = self.blobs.append(digest, offset, body, total=total)
        complete = "?1" if received == total else "?0"
        return 200, b"", {"Upload-Offset": str(received), "Upload-Complete": complete}


@contextmanager
def listening(listen: str, address: str, desk: Desk, folder: Path) -> Iterator[int]:
    """Serve peers at an address until the end of the block; yields the port.

    Args:
        listen: "host:port".
        address: where peers reach it; its name is in the certificate.
        desk: takes in what comes.
        folder: where the certificate is kept.

    Raises:
        OSError: the address cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(folder / FILE, urlsplit(address).hostname or "localhost"))
    with ThreadingHTTPServer(address_of(listen), _handler(desk)) as server:
        server.daemon_threads = True
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        thread = Thread(target=server.serve_forever, name="links", daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def _handler(desk: Desk) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 2 * TIMEOUT

        def _answer(self) -> None:
            size = _number(self.headers.get("Content-Length", "0"))
            if size > REQUEST_LIMIT:
                self.close_connection = True
                self.send_error(413)
                return
            body = self.rfile.read(size)
            request = Request(self.command, self.path, self.headers)
            status, said, headers = desk.handle(request, body)
            sent = b"" if self.command == "HEAD" else said
            signed = sign_response(
                status,
                sent,
                request=request,
                signer=desk.identity,
                now=time.time(),
                headers=headers,
            )
            self.send_response(status)
            for name, value in signed.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_HEAD = do_PATCH = do_POST = do_GET = _answer  # noqa: N815 - names of http.server

        def log_message(self, *_: Any) -> None:
            """Say nothing: what matters is logged where it is handled."""

    return Handler


def _check_digest(digest: str) -> None:
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise UnknownError("something that is no digest", "64 hex digits")


def _number(text: str | None) -> int:
    if text is None or not (text.isascii() and text.isdecimal()):
        raise RequestError("no number where one belongs", "Upload-Offset and Upload-Length")
    return int(text)


def _certificate(path: Path, host: str) -> Path:
    """Return a file with a self-signed certificate for a name and its key; made when missing."""
    if path.exists():
        named = x509.load_pem_x509_certificate(path.read_bytes()).extensions
        names = named.get_extension_for_class(x509.SubjectAlternativeName).value
        if list(names) == [_alternative(host)]:
            return path
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Cohortium node")])
    serial = x509.random_serial_number()
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), serial)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365 * YEARS))
        .add_extension(x509.SubjectAlternativeName([_alternative(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_private(path, made.public_bytes(serialization.Encoding.PEM) + secret)
    return path


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)

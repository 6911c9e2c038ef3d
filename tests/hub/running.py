"""A hub that runs: real HTTPS on a free port, in a thread of the test's process."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import structlog

from cohortium.hub import admin
from cohortium.hub.folder import HubFolder
from cohortium.hub.logs import configure_logs
from cohortium.hub.server import HubServer
from cohortium.hub.tls import own_tls
from cohortium.identity import Document, Identity, Invitation, canonical
from cohortium.transport.client import HubClient
from cohortium.transport.trust import HubTrust

PATIENCE = 20.0


@dataclass
class Hub:
    """A hub's folder, and where it answers.

    Attributes:
        folder: the hub's.
        port: where it listens, on the loopback address.
        server: the hub itself, where it runs in this process.
        clients: closed at the end.
    """

    folder: HubFolder
    port: int = 0
    server: HubServer | None = None
    clients: list[HubClient] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def trust(self) -> HubTrust:
        ca = (self.folder.tls / "ca.pem").read_text("ascii")
        return HubTrust(self.folder.identity.certificate, ca)

    def client(self, identity: Identity | None, *, patience: float = PATIENCE) -> HubClient:
        """Return a member's way to the hub."""
        client = HubClient(self.url, identity, self.trust, patience=patience)
        self.clients.append(client)
        return client

    @property
    def coordinator(self) -> HubClient:
        return self.client(self.folder.coordinator)

    def member(self, name: str, role: str = "site") -> Identity:
        """Invite and let join."""
        said = self.coordinator.call("POST", "/v1/invitations", {"name": name, "role": role})
        identity = Identity.create(name, role=role, now=time.time())
        self.join(said["code"], identity)
        return identity

    def join(self, code: str, identity: Identity) -> Mapping[str, Any]:
        """Join with a code."""
        answer: Mapping[str, Any] = self.client(None).call(
            "POST", "/v1/join", joining(code, identity)
        )
        return answer


def joining(code: str, identity: Identity, **changes: Any) -> dict[str, Any]:
    """Return what is posted to join."""
    body = {
        "name": identity.name,
        "role": identity.role,
        "root": identity.root.public,
        "certificate": identity.certificate.to_json(),
        "time": time.time(),
        **changes,
    }
    document = Document.of("join", body, identity.root).to_json()
    return {"document": document, "mac": Invitation.parse(code).mac(canonical(document))}


def new_folder(folder: Path, **settings: Any) -> HubFolder:
    """Make a hub's folder that listens on a free loopback port and has short leases."""
    hub = admin.init(folder, name="Test", url="https://localhost", broker=False)
    changed = {"listen": "127.0.0.1:0", "lease": 1.0, **settings}
    hub.save_settings(hub.settings.model_copy(update=changed))
    return HubFolder.at(folder)


@contextmanager
def running(folder: HubFolder) -> Iterator[Hub]:
    """Run a hub until the end of the block; unless a test catches its log, nobody sees it."""
    with _quiet(), _running(folder) as hub:
        yield hub


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the log of a hub in this process out of what a command in it says."""
    if structlog.is_configured():
        yield
        return
    configure_logs(StringIO())
    try:
        yield
    finally:
        structlog.reset_defaults()


@contextmanager
def _running(folder: HubFolder) -> Iterator[Hub]:
    own_tls(folder.tls, ["localhost"], name="Test")
    ports: SimpleQueue[int | BaseException] = SimpleQueue()
    server = HubServer(folder, ready=ports.put)

    def run() -> None:
        try:
            server.run()
        except BaseException as error:
            ports.put(error)
            raise

    thread = threading.Thread(target=run, name="hub")
    thread.start()
    port = ports.get()
    if isinstance(port, BaseException):
        thread.join()
        raise port
    hub = Hub(folder, port, server)
    try:
        yield hub
    finally:
        for client in hub.clients:
            client.close()
        server.stop()
        thread.join()


def upload(client: HubClient, content: bytes) -> str:
    """Bring a blob to the hub; return its digest."""
    digest = hashlib.sha256(content).hexdigest()
    client.upload(digest, content)
    return digest


# --- long polls ---

FOREVER = 55.0
"""Seconds: the longest poll. No test waits for one to end by itself."""


def poll(client: HubClient, instance: str = "one", *, after: int = 0, wait: float = FOREVER) -> Any:
    body = {"instance": instance, "after": after, "wait": wait, "receipts": []}
    return client.call("POST", "/v1/inbox", body, wait=wait)


def lease(client: HubClient, instance: str, predecessor: str = "") -> Any:
    return client.call("POST", "/v1/lease", {"instance": instance, "predecessor": predecessor})


class Waiting:
    """A poll under way in a thread of its own."""

    def __init__(self, hub: Hub, identity: Identity, instance: str = "one") -> None:
        self.client = hub.client(identity, patience=0.0)
        self._pool = ThreadPoolExecutor(1)
        self.answer: Future[Any] = self._pool.submit(poll, self.client, instance)

    def cut(self) -> None:
        self.client.close()
        self._pool.shutdown()


def until(hub: Hub, name: str, *, online: bool) -> None:
    """Wait until the hub takes a member for alive, or for dead."""
    client = hub.coordinator
    for _ in range(200):
        sites = {site["name"]: site["online"] for site in client.call("GET", "/v1/sites")}
        if sites[name] is online:
            return
        threading.Event().wait(0.02)
    raise AssertionError(f"{name} is not {'online' if online else 'offline'}")

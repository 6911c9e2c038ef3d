"""The hub as a process: one port, TLS, until somebody stops it."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cohortium.errors import RunFailedError
from cohortium.hub.api import make_app
from cohortium.hub.folder import HubFolder, host_of
from cohortium.hub.parties import Parties
from cohortium.hub.service import HubService
from cohortium.hub.tls import Tls, own_tls
from cohortium.transport.nonces import Nonces

HOUR = 3600.0
GRACE = 10
"""Seconds that requests under way have when the hub stops."""

LAST_WORDS = 0.2
"""Seconds that a connection has to end in the regular way when the hub stops."""

HEAD = 20.0
HEAD_SIZE = 64 * 1024
"""Seconds in which a request's head has to be here, and its most bytes."""

CONNECTIONS = 2000
"""The most connections at once; more are told to come again."""

KEPT_ALIVE = 75
"""Seconds that an idle connection is kept: longer than clients keep theirs."""


class HubServer:
    """A hub that can be run and stopped.

    Args:
        folder: the hub's; nobody else may run it.
        ready: is told the port when requests are answered.
    """

    def __init__(self, folder: HubFolder, *, ready: Callable[[int], None] = lambda _: None) -> None:
        self._folder, self._ready = folder, ready
        self._stopping = threading.Event()
        self._shown = b""
        self._server: _Server | None = None

    def run(self) -> None:
        """Serve until `stop`, or until SIGINT or SIGTERM.

        Raises:
            RunFailedError: another hub runs in the folder, or the port is taken.
            DatabaseError: the database does not open.
            ArgumentError: the folder's settings or keys are damaged.
        """
        folder, log = self._folder, structlog.get_logger()
        with ExitStack() as stack:
            stack.enter_context(self._signals())
            stack.callback(folder.lock(serves=True).close)
            listening = stack.enter_context(_listen(folder.settings.listen))
            tls = tls_of(folder)
            service = stack.enter_context(HubService(folder, ca=tls.authority))
            nonces = Nonces(folder.nonces)
            stack.callback(nonces.close)
            parties = Parties(service)
            parties.start()
            stack.callback(parties.close)
            self._server = _Server(
                self._config(service, nonces, parties, tls), service, self._ready
            )
            housekeeping = threading.Thread(target=self._keep_house, args=(service,), daemon=True)
            housekeeping.start()
            stack.callback(housekeeping.join)
            stack.callback(self._stopping.set)
            port = listening.getsockname()[1]
            log.info("hub up", url=folder.settings.url, port=port, id=service.id)
            if not self._stopping.is_set():
                self._server.run(sockets=[listening])
            log.info("hub down")

    def stop(self) -> None:
        """Let `run` return, after what is under way; from any thread."""
        self._stopping.set()
        if self._server is not None:
            self._server.should_exit = True

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM stop the hub as `stop` does, also before and after it serves."""
        if threading.current_thread() is not threading.main_thread():
            yield  # who runs the hub in another thread calls `stop`
            return
        kinds = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(kind, lambda *_: self.stop()) for kind in kinds]
        try:
            yield
        finally:
            for kind, handler in zip(kinds, before, strict=True):
                signal.signal(kind, handler)

    def _config(
        self, service: HubService, nonces: Nonces, parties: Parties, tls: Tls
    ) -> uvicorn.Config:
        config = uvicorn.Config(
            make_app(service, nonces=nonces, works=parties.are_carried),
            ssl_certfile=str(tls.certificate),
            ssl_keyfile=str(tls.key),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            http=_Http,
            ws="none",
            timeout_keep_alive=KEPT_ALIVE,
            timeout_graceful_shutdown=GRACE,
            limit_concurrency=CONNECTIONS,
        )
        config.load()
        self._shown = tls.certificate.read_bytes()
        return config

    def _keep_house(self, service: HubService) -> None:
        """Every hour, drop what is not needed any more, and renew the certificate if it is due."""
        while not self._stopping.is_set():
            try:
                service.sweep()
                self.renew()
            except Exception as error:  # noqa: BLE001 - housekeeping must outlive a full disk
                structlog.get_logger().error("housekeeping", exc_info=error)
            self._stopping.wait(HOUR)

    def renew(self) -> None:
        """Renew the hub's own certificate, or take up another that somebody has put there."""
        tls = tls_of(self._folder)
        if self._server is not None and tls.certificate.read_bytes() != self._shown:
            self._shown = tls.certificate.read_bytes()
            self._server.show(tls)


def tls_of(folder: HubFolder) -> Tls:
    """Return the hub's TLS certificate: that of the settings, else its own."""
    settings = folder.settings
    if settings.tls_certificate:
        base = folder.folder
        return Tls(base / Path(settings.tls_certificate), base / Path(settings.tls_key))
    hosts = [host_of(settings.url)]
    return own_tls(folder.tls, hosts, name=settings.name)


class _Http(HttpToolsProtocol):
    """Ends a connection on which no request's head comes to its end."""

    _due: asyncio.TimerHandle | None = None
    _size = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self._due is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()
        self._size += len(data)
        super().data_received(data)
        if self._due is not None and self._size > HEAD_SIZE:
            self.transport.abort()

    def on_headers_complete(self) -> None:
        self._cancel()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._size, self._due = 0, self.loop.call_later(HEAD, self.transport.abort)

    def _cancel(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None


class _Server(uvicorn.Server):
    """Ends long polls before it waits for requests to end; tells when it answers."""

    def __init__(
        self, config: uvicorn.Config, service: HubService, ready: Callable[[int], None]
    ) -> None:
        super().__init__(config)
        self._service, self._ready = service, ready

    def show(self, tls: Tls) -> None:
        """Let new connections see another certificate.

        In the loop's own thread, as all handshakes are: OpenSSL bears nothing else.
        """
        context, loaded = self.config.ssl, Future[None]()
        assert context is not None  # the hub speaks TLS only

        def load() -> None:
            try:
                context.load_cert_chain(tls.certificate, tls.key)
                loaded.set_result(None)
            except OSError as error:  # among them ssl.SSLError: a file that is no certificate
                loaded.set_exception(error)

        self._loop.call_soon_threadsafe(load)
        loaded.result(GRACE)  # no longer, where the hub stops in this moment

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if sockets and self.started:
            self._ready(sockets[0].getsockname()[1])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.bells.close()
        leaving = asyncio.ensure_future(self._leave())
        await super().shutdown(sockets)
        leaving.cancel()

    async def _leave(self) -> None:
        """Close connections once their answers are out, without waiting for TLS's last words.

        Members keep connections open that are idle; they would let the hub wait in vain.
        """
        while self.server_state.connections:
            await asyncio.sleep(LAST_WORDS)
            for connection in list(self.server_state.connections):
                transport = connection.transport
                if transport.is_closing() and not transport.get_write_buffer_size():
                    transport.abort()


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, int(port)), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        advice = "Choose another one: cohortium hub up --listen HOST:PORT"
        raise RunFailedError(f"cannot listen on {address}: {error}", advice) from error

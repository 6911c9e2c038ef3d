"""HTTP over a route: one exchange after another, none of it believed yet."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import httpx

from cohortium.errors import RefusedError
from cohortium.transport.errors import UnreachableError
from cohortium.transport.route import Route
from cohortium.transport.signing import Keys, Request, check_response

Data = bytes | bytearray | memoryview

LARGEST = 64 << 20
"""Bytes of an answer that is no piece of a blob, at most."""

_WRITTEN = 1 << 16


@dataclass(frozen=True)
class Answer:
    """An answer to a request.

    Attributes:
        request: what it answers.
        status: HTTP's.
        headers: of the answer.
        body: of the answer; a view of the caller's buffer if there was one.
    """

    request: Request
    status: int
    headers: httpx.Headers
    body: Data

    def check(self, keys: Keys, *, now: float) -> None:
        """Check that one of `keys` gave this answer to this request. Raises UnauthorisedError."""
        body = memoryview(self.body)
        check_response(self.status, self.headers, body, request=self.request, keys=keys, now=now)


class Wire:
    """Connections to a hub. Any number of threads may send at once."""

    def __init__(self, way: Route, trusted: ssl.SSLContext, *, timeout: float) -> None:
        self.closed = threading.Event()
        self._way, self._timeout = way, timeout
        self._http = way.client(trusted, timeout=timeout)
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._lock = threading.Lock()
        self._under_way = 0

    def target(self, path: str) -> str:
        """Return a path and its query as they will be sent."""
        return httpx.URL(self._way.url + path).raw_path.decode("ascii")

    def send(
        self,
        request: Request,
        body: Data = b"",
        *,
        wait: float = 0.0,
        into: memoryview | None = None,
    ) -> Answer:
        """Send a request and return the answer, whoever gave it; but it is signed.

        Args:
            request: with the headers to send.
            body: its body.
            wait: seconds, besides the time-out, for which the answer may take.
            into: where the content of a 206 goes.

        Raises:
            UnreachableError: no answer came, or one that the hub cannot have given.
                RefusedError: more came than fits into `into`, or than any answer has.
        """
        sent = self._http.build_request(
            request.method,
            self._way.url + request.target,
            headers={**dict(request.headers.items()), **_length(body)},
            content=_written(body),
            timeout=httpx.Timeout(self._timeout, read=self._timeout + wait, pool=None),
            extensions={"trace": self._trace},
        )
        try:
            with self._using(), closing(self._http.send(sent, stream=True)) as response:
                content = _content(response, into)
        except (httpx.TransportError, RuntimeError) as error:  # httpx says RuntimeError if closed
            if self.closed.is_set():
                raise _closed() from error
            if isinstance(error, RuntimeError):
                raise
            raise self._way.explain(error) from error
        if "signature" not in response.headers:
            raise self._way.stranger(response.status_code, response.reason_phrase)
        return Answer(request, response.status_code, response.headers, content)

    def close(self) -> None:
        """End what is under way, in any thread."""
        with self._lock:
            self.closed.set()
            for each in list(self._sockets):
                _shut_down(each)
            idle = not self._under_way
        if idle:
            self._http.close()

    @contextmanager
    def _using(self) -> Iterator[None]:
        """Let the last one out close the connections: a descriptor that another thread still reads
        from would be given to the next socket of this process, whose bytes it would take.
        """
        with self._lock:
            if self.closed.is_set():
                raise _closed()
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1
                last = self.closed.is_set() and not self._under_way
            if last:
                self._http.close()

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Remember open sockets: closing one does not wake a thread that waits for it."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            opened = info["return_value"].get_extra_info("socket")
            with self._lock:
                self._sockets.add(opened)
                if self.closed.is_set():
                    _shut_down(opened)


def _shut_down(opened: socket.socket) -> None:
    """Wake who waits for a socket; TLS's own shutdown would leave it to read what is no TLS."""
    with suppress(OSError):  # it has ended already
        socket.socket.shutdown(opened, socket.SHUT_RDWR)


def _length(body: Data) -> dict[str, str]:
    return {"Content-Length": str(len(body))} if body else {}


def _written(body: Data) -> bytes | Iterator[bytes]:
    """Return a body as it is written: in small parts, of which httpcore copies each rest again."""
    if len(body) <= _WRITTEN:
        return bytes(body)
    view = memoryview(body)
    return (bytes(view[at : at + _WRITTEN]) for at in range(0, len(view), _WRITTEN))


def _content(response: httpx.Response, into: memoryview | None) -> Data:
    if into is None or response.status_code != httpx.codes.PARTIAL_CONTENT:
        whole = bytearray()
        for chunk in response.iter_raw():
            whole += chunk
            if len(whole) > LARGEST:
                raise RefusedError(f"an answer of more than {LARGEST:,} bytes came")
        return whole
    at = 0
    for chunk in response.iter_raw():
        if len(chunk) > len(into) - at:
            raise RefusedError(f"more than the {len(into)} bytes that were asked for came")
        into[at : at + len(chunk)] = chunk
        at += len(chunk)
    return into[:at]


def _closed() -> UnreachableError:
    return UnreachableError("closed", "the connection to the hub was closed here")

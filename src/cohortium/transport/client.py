"""The hub as its members call it: signed requests, checked answers, patience, resumable blobs."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from cohortium.errors import CohortiumError, RefusedError
from cohortium.identity import Identity
from cohortium.transport.errors import (
    ConflictError,
    UnauthorisedError,
    UnavailableError,
    UnknownError,
    UnreachableError,
    refusal,
)
from cohortium.transport.route import route
from cohortium.transport.signing import Request, sign_request
from cohortium.transport.trust import HubTrust, introduced, json_of, with_nonce
from cohortium.transport.wire import Answer, Data, Wire

PIECE = 4 << 20
"""Bytes of a blob that travel in one request."""

SLOWEST = 64 << 10
"""Bytes per second of the slowest link: who scans a piece as a whole is silent for as long."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 15.0

Waiting = Callable[[CohortiumError, float], None]
"""Told why a call has to be made again, and after how many seconds it will be."""


class HubClient:
    """A hub at the other end of a route; any number of threads may call it at once.

    Each call has a connection of its own as long as it lasts, so that a long poll keeps nobody
    waiting. What cannot be delivered is tried again, signed anew, with growing pauses: every call
    must do no harm when it comes twice.

    Args:
        url: of the hub.
        identity: who calls; None: nobody yet, requests go unsigned.
        hub: what is known of the hub.
        proxy: see `route`.
        ca: see `route`.
        timeout: seconds of silence after which a connection counts as lost.
        patience: seconds for which a call is tried again; None: for ever.
        waiting: told before each pause.
        renewed: told when the hub has new working keys, to be kept.

    Raises:
        ArgumentError: `url`, `proxy` or `ca` cannot be used.
    """

    def __init__(
        self,
        url: str,
        identity: Identity | None,
        hub: HubTrust,
        *,
        proxy: str | None = None,
        ca: Path | None = None,
        timeout: float = 30.0,
        patience: float | None = 30.0,
        waiting: Waiting | None = None,
        renewed: Callable[[HubTrust], None] | None = None,
    ) -> None:
        self.identity, self.hub = identity, hub
        self._patience, self._waiting, self._renewed = patience, waiting, renewed
        way = route(url, proxy=proxy, ca=ca)
        self._wire = Wire(way, way.trust(hub.ca_pem), timeout=timeout)

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        wait: float = 0.0,
    ) -> Any:
        """Send JSON and return the JSON that comes back, or None.

        Args:
            method: in capitals.
            path: with the query; names in it percent-encoded.
            body: an object, or None for no body.
            wait: seconds for which the hub may think before it answers (a long poll).

        Raises:
            RequestError: the hub refused the call; its subclass says why.
            InvalidInputError: something in the call is malformed.
            UnreachableError: the hub did not answer within the client's patience.
        """
        sent = b"" if body is None else json.dumps(body, allow_nan=False).encode()
        headers = {"Content-Type": "application/json"} if sent else {}
        return json_of(self._ask(method, path, sent, headers=headers, wait=wait))

    def upload(self, digest: str, data: Data | Path) -> None:
        """Bring a blob to the hub; what it has of it already is not sent again.

        Args:
            digest: SHA-256 of the whole, hex.
            data: the bytes, or a file with them.

        Raises:
            RequestError: the hub refused it.
            InvalidInputError: it has another digest.
            UnreachableError: the hub did not answer within the client's patience.
        """
        with _viewed(data) as view:
            at = self._uploaded(digest) if len(view) > PIECE else 0  # one piece goes unasked
            while at is not None:
                at = self._append(digest, at, view)

    def download(self, digest: str, size: int, into: bytearray | memoryview | Path) -> None:
        """Fetch a blob, and check it, piece by piece and as a whole.

        Args:
            digest: SHA-256 of the whole, hex.
            size: bytes of the whole.
            into: a buffer of `size` bytes, or a file to be made. What came of a file is kept beside
                it, as `name.part`, and not fetched again, also by another process.

        Raises:
            RefusedError: the blob is not what its digest says.
            UnknownError: the hub does not have it.
            UnreachableError: the hub did not answer within the client's patience.
        """
        if isinstance(into, Path):
            self._download_file(digest, size, into)
        else:
            whole = hashlib.sha256()
            for start, piece in _pieces(memoryview(into).cast("B")):
                self._fetch(digest, start, piece, size=size)
                whole.update(piece)
            _check_whole(digest, whole.hexdigest())

    def size(self, digest: str) -> int:
        """Return how many bytes of a blob the hub has.

        Raises:
            UnknownError: none.
            UnreachableError: the hub did not answer within the client's patience.
        """
        return _offset(self._ask("HEAD", f"/v1/blobs/{digest}").headers)

    def close(self) -> None:
        """End every call that is under way, in any thread, with an `UnreachableError`."""
        self._wire.close()

    # --- blobs ---

    def _uploaded(self, digest: str) -> int | None:
        """Return how many bytes of a blob are at the hub; None: all."""
        try:
            headers = self._ask("HEAD", f"/v1/blobs/{digest}").headers
        except UnknownError:
            return 0
        return None if headers.get("upload-complete") == "?1" else _offset(headers)

    def _append(self, digest: str, at: int, view: memoryview) -> int | None:
        """Send the next piece; return how many bytes are at the hub then, None: all."""
        piece = view[at : at + PIECE]
        headers = {"Upload-Offset": str(at), "Upload-Length": str(len(view))}
        try:
            answer = self._ask("PATCH", f"/v1/blobs/{digest}", piece, headers=headers)
        except ConflictError:  # an answer was lost, or somebody else brings the same
            now = self._uploaded(digest)
            if now == at:
                raise
            return now
        offset = _offset(answer.headers)
        if offset != at + len(piece) and offset != len(view):
            raise RefusedError(f"the hub has {offset} bytes after {at} and {len(piece)} more")
        return None if offset == len(view) else offset

    def _fetch(self, digest: str, start: int, piece: memoryview, *, size: int) -> None:
        last = start + len(piece) - 1
        path, headers = f"/v1/blobs/{digest}", {"Range": f"bytes={start}-{last}"}
        answer = self._ask("GET", path, headers=headers, into=piece)
        expected = f"bytes {start}-{last}/{size}"
        if answer.headers.get("content-range") != expected or len(answer.body) != len(piece):
            got = answer.headers.get("content-range", f"{len(answer.body)} bytes")
            raise RefusedError(f"blob {digest[:8]}: the hub sent {got}, not {expected}")

    def _download_file(self, digest: str, size: int, path: Path) -> None:
        part, buffer = path.with_name(f"{path.name}.part"), bytearray(min(size, PIECE))
        part.touch(mode=0o600)
        with part.open("r+b") as file:
            file.truncate(min(size, part.stat().st_size))
            whole = hashlib.file_digest(file, "sha256")
            for start in range(file.tell(), size, PIECE):
                piece = memoryview(buffer)[: size - start]
                self._fetch(digest, start, piece, size=size)
                whole.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        try:
            _check_whole(digest, whole.hexdigest())
        except RefusedError:
            part.unlink()
            raise
        part.replace(path)

    # --- calls ---

    def _ask(
        self,
        method: str,
        path: str,
        body: Data = b"",
        *,
        headers: Mapping[str, str] | None = None,
        wait: float = 0.0,
        into: memoryview | None = None,
    ) -> Answer:
        """Send a request until it is answered, or patience ends."""
        began, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            try:
                return self._once(method, path, body, headers=headers, wait=wait, into=into)
            except (UnreachableError, UnavailableError) as error:
                seconds = pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads callers
                if not self._is_worth_waiting(error, time.monotonic() - began + seconds):
                    raise
                if self._waiting is not None:
                    self._waiting(error, seconds)
                self._wire.closed.wait(seconds)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _is_worth_waiting(self, error: CohortiumError, until: float) -> bool:
        if self._wire.closed.is_set():
            return False
        if self._patience is None:
            return True
        lasting = isinstance(error, UnreachableError) and error.lasting
        return not lasting and until < self._patience

    def _once(
        self,
        method: str,
        path: str,
        body: Data,
        *,
        headers: Mapping[str, str] | None,
        wait: float,
        into: memoryview | None,
    ) -> Answer:
        request = self._signed(method, path, body, headers or {})
        wait += (len(body) + len(into or b"")) / SLOWEST
        answer = self._wire.send(request, body, wait=wait, into=into)
        self._check(answer)
        if answer.status >= 400:
            raise refusal(f"{method} {path}", answer.status, json_of(answer))
        return answer

    def _signed(self, method: str, path: str, body: Data, headers: Mapping[str, str]) -> Request:
        if self.identity is None:
            return Request(method, self._wire.target(with_nonce(path)), headers)
        target = self._wire.target(path)
        fields = sign_request(
            method,
            target,
            memoryview(body),
            signer=self.identity,
            hub=self.hub.id,
            now=time.time(),
            nonce=secrets.token_urlsafe(16),
            headers=headers,
        )
        return Request(method, target, fields)

    def _check(self, answer: Answer) -> None:
        """Check that the hub gave this answer; learn its new keys if it has some."""
        now = time.time()
        try:
            answer.check(self.hub.key, now=now)
        except UnauthorisedError as error:
            if not self._learn(error):
                raise
            answer.check(self.hub.key, now=now)

    def _learn(self, unsigned: UnauthorisedError) -> bool:
        """Ask for the hub's certificate; tell whether it is newer than ours.

        A refusal here is `unsigned`, too: nobody signed it, whatever it says.
        """
        try:
            certificate = introduced(self._wire, self.hub.id).certificate
        except (UnauthorisedError, UnavailableError, UnreachableError):
            raise
        except CohortiumError as error:
            raise unsigned from error
        if certificate.serial <= self.hub.certificate.serial:
            return False
        self.hub = replace(self.hub, certificate=certificate)
        if self._renewed is not None:
            self._renewed(self.hub)
        return True


def _pieces(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    for start in range(0, len(view), PIECE):
        yield start, view[start : start + PIECE]


def _offset(headers: httpx.Headers) -> int:
    text = headers.get("upload-offset", "")
    if not (text.isascii() and text.isdecimal()):
        raise RefusedError(f"the hub sent {text[:20]!r} for an offset")
    return int(text)


def _check_whole(digest: str, got: str) -> None:
    if got != digest:
        raise RefusedError(f"blob {digest[:8]}: what the hub sent is {got[:8]}")


@contextmanager
def _viewed(data: Data | Path) -> Iterator[memoryview]:
    """Yield the bytes of a buffer or of a file, which is not read as a whole."""
    if not isinstance(data, Path):
        yield memoryview(data).cast("B")
    elif data.stat().st_size == 0:  # of which there is no map
        yield memoryview(b"")
    else:
        with data.open("rb") as file:
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        yield memoryview(whole)

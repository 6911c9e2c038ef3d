"""Around the API: reads a request's body within limits, checks who signed it, signs the answer.

Everything under /v1 passes here, refusals included: a member believes nothing that is not signed,
and a refusal that it cannot believe would leave it guessing.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cohortium.errors import CohortiumError
from cohortium.hub.answers import SlowError, answer, reason_of
from cohortium.hub.depot import PIECE
from cohortium.hub.metrics import Metrics
from cohortium.hub.registry import Member
from cohortium.hub.service import HubService
from cohortium.identity import Certificate
from cohortium.transport.errors import TooLargeError, UnauthorisedError
from cohortium.transport.nonces import Nonces
from cohortium.transport.signing import Request, check_request, key_parts, sign_response

PREFIX = "/v1/"
OPEN = frozenset({("GET", "/v1/hub"), ("POST", "/v1/join")})
"""What may be asked without a signature."""

OPEN_BODY = 64 * 1024
"""The largest body, in bytes, of a request that nobody signed."""

DRAINED = 64 << 20
"""Bytes of a body too large that are still read, so that the sender hears why it was refused."""

SILENCE = 60.0
"""Seconds after which a body of which nothing more comes is given up."""

ROTATION = "/v1/certificates"


class Headers:
    """The header fields of a request, as the signing module reads them."""

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._items = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in raw]

    def items(self) -> list[tuple[str, str]]:
        return self._items

    def __contains__(self, name: str) -> bool:
        return any(key.lower() == name for key, _ in self._items)


@dataclass
class _Answer:
    """What the application answers, held back until it is signed."""

    status: int = 500
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")  # one part as a rule, which is not copied


class Signed:
    """The application that members see.

    Args:
        app: the API.
        service: knows the members' keys, and has the hub's.
        nonces: requests that came before.
        metrics: counts.
    """

    def __init__(
        self, app: ASGIApp, service: HubService, *, nonces: Nonces, metrics: Metrics
    ) -> None:
        self._app, self._service, self._nonces, self._metrics = app, service, nonces, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI 3)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, held = _request(scope), _Answer()
        started = self._service.clock()
        try:
            body = await self._body(scope, receive)
            if scope["path"].startswith(PREFIX):
                member = self._authenticated(scope, request, body)
                scope.setdefault("state", {})["member"] = member
            await self._app(scope, _replayed(body, receive), held.send)
        except Exception as error:  # noqa: BLE001 - the boundary: whatever it is, it is answered
            body, held = b"", _Answer()
            await answer(error)(scope, receive, held.send)
        self._count(scope, held, received=len(body), seconds=self._service.clock() - started)
        await self._send(request, held, send)

    # -- the request -------------------------------------------------------------------------------

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Read a body within the limit of its address.

        Raises:
            TooLargeError: it is larger.
            SlowError: nothing more came of it.
        """
        limit = self._limit(scope)
        parts, size, more = list[bytes](), 0, True
        while more and size <= limit + DRAINED:
            try:
                message = await asyncio.wait_for(receive(), SILENCE)
            except TimeoutError:
                raise SlowError(f"nothing for {SILENCE:.0f} s", "the rest of a body") from None
            if message["type"] == "http.disconnect":
                break
            chunk = message.get("body", b"")
            size += len(chunk)
            if size <= limit:
                parts.append(chunk)
            more = message.get("more_body", False)
        if size > limit:
            raise TooLargeError(f"a body of {size} bytes or more", f"at most {limit}")
        return b"".join(parts)

    def _limit(self, scope: Scope) -> int:
        """Return how large a body may be: little of who does not even name a member's key."""
        fields = (value for key, value in scope["headers"] if key == b"signature-input")
        named = re.search(rb';keyid="([^"]+)"', b"".join(fields))
        if named is None or not self._service.registry.knows(named[1].decode("latin-1")):
            return OPEN_BODY
        return PIECE if scope["method"] == "PATCH" else self._service.settings.limits.request

    def _authenticated(self, scope: Scope, request: Request, body: bytes) -> Member | None:
        """Return the member that signed a request; None where nobody has to.

        Raises:
            UnauthorisedError: it is unsigned, or the signature does not hold.
            RevokedError: its signer was revoked.
        """
        if (scope["method"], scope["path"]) in OPEN:
            return None
        if "signature" not in request.headers:  # type: ignore[operator]
            raise UnauthorisedError("a request without a signature", "one of a member (RFC 9421)")
        keyid = check_request(
            request.method,
            request.target,
            request.headers,
            body,
            keys=lambda keyid: self._key(keyid, scope["path"], body),
            hub=self._service.id,
            now=self._service.clock(),
            nonces=self._nonces,
        )
        return self._service.registry.active(key_parts(keyid)[0])

    def _key(self, keyid: str, path: str, body: bytes) -> str | None:
        """Return the key of that name: a member's newest, or the one that it is about to bring."""
        known = self._service.registry.key(keyid)
        if known is not None or path != ROTATION:
            return known
        try:
            certificate = Certificate.from_json(json.loads(body)["certificate"])
            name, serial = key_parts(keyid)
            certificate.check(self._service.registry.get(name).root)
        except (CohortiumError, LookupError, TypeError, ValueError):
            return None
        is_it = (certificate.name, certificate.serial) == (name, serial)
        return certificate.signing if is_it else None

    # -- the answer --------------------------------------------------------------------------------

    def _count(self, scope: Scope, held: _Answer, *, received: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, str(held.status)).inc()
        self._metrics.received.inc(received)
        self._metrics.sent.inc(len(held.body))
        if route != "/v1/inbox":
            self._metrics.seconds.observe(seconds)
        if held.status >= 400:
            reason = reason_of(held.body) if held.body else str(held.status)
            self._metrics.refusals.labels(reason).inc()
            member = scope.get("state", {}).get("member")
            structlog.get_logger().info(
                "refused",
                route=route,
                status=held.status,
                reason=reason,
                site=member.name if member is not None else None,
            )

    async def _send(self, request: Request, held: _Answer, send: Send) -> None:
        body = b"" if request.method == "HEAD" else held.body
        plain = {k.decode("latin-1"): v.decode("latin-1") for k, v in held.headers}
        plain["content-length"] = str(len(body))
        fields = sign_response(
            held.status,
            body,
            request=request,
            signer=self._service.registry.identity,
            now=self._service.clock(),
            headers=plain,
        )
        raw = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in fields.items()]
        await send({"type": "http.response.start", "status": held.status, "headers": raw})
        await send({"type": "http.response.body", "body": body})


def _request(scope: MutableMapping[str, Any]) -> Request:
    """Return the request as its sender saw it: path and query as they were sent."""
    path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
    query = scope["query_string"].decode("latin-1")
    return Request(scope["method"], f"{path}?{query}" if query else path, Headers(scope["headers"]))


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a way to receive a body that was read already, and then whether the sender left."""
    first = True

    async def again() -> Message:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again

"""Around the API: reads a request's body within limits, checks who signed it, signs the answer.

Everything under /v1 passes here, refusals included: a member believes nothing that is not signed,
and a refusal that it cannot believe would leave it guessing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cohortium.errors import CohortiumError
from cohortium.hub.answers import SlowError, answer, reason_of
from cohortium.hub.depot import PIECE
from cohortium.hub.metrics import Metrics
from cohortium.hub.service import HubService
from cohortium.identity import Certificate
from cohortium.transport.errors import TooLargeError
from cohortium.transport.nonces import Nonces
from cohortium.transport.signing import Request, check_head, key_parts, sign_response

PREFIX = "/v1/"
OPEN = frozenset({("GET", "/v1/hub"), ("POST", "/v1/join")})
"""What may be asked without a signature."""

OPEN_BODY, SMALL, INBOX = 16 * 1024, 64 * 1024, 2 << 20
"""The largest bodies, in bytes, of a request that nobody signed, of most others, and of a poll with
its receipts."""

LARGE = ("/v1/frames", "/v1/studies")
"""Where a body may be as large as the hub's settings say."""

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
        started, size = self._service.clock(), 0
        try:
            body = await self._heard(scope, receive, request)
            size, again = len(body), _replayed(body, receive)
            del body  # nobody but `again` keeps it, until it is read: a poll may take long
            await self._app(scope, again, held.send)
        except Exception as error:  # noqa: BLE001 - the boundary: whatever it is, it is answered
            held = _Answer()
            await answer(error)(scope, receive, held.send)
        self._count(scope, held, received=size, seconds=self._service.clock() - started)
        await self._send(request, held, send)

    # -- the request -------------------------------------------------------------------------------

    async def _heard(self, scope: Scope, receive: Receive, request: Request) -> bytes:
        """Return a request's body; who signed it is in `scope`.

        Nothing is read of a body whose head no member has signed: only of one that everybody may
        send, or that brings the key with which it is signed.

        Raises:
            UnauthorisedError: it is unsigned, or the signature does not hold.
            RevokedError: its signer was revoked.
            TooLargeError, SlowError: as `_body`.
        """
        path = scope["path"]
        if not path.startswith(PREFIX) or (scope["method"], path) in OPEN:
            scope.setdefault("state", {})["member"] = None
            return await self._body(receive, OPEN_BODY)
        brought = await self._body(receive, OPEN_BODY) if path == ROTATION else None
        now = self._service.clock()
        head = check_head(
            request.method,
            request.target,
            request.headers,
            keys=lambda keyid: self._key(keyid, brought),
            hub=self._service.id,
            now=now,
        )
        member = self._service.registry.active(key_parts(head.keyid)[0])
        body = brought if brought is not None else await self._body(receive, self._limit(scope))
        head.take(body, self._nonces, now=now)
        scope.setdefault("state", {})["member"] = member
        return body

    async def _body(self, receive: Receive, limit: int) -> bytes:
        """Read a body.

        Raises:
            TooLargeError: it is larger than `limit` bytes.
            SlowError: nothing more came of it.
        """
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
        """Return how large the body of a member may be."""
        path = scope["path"]
        if scope["method"] == "PATCH":
            return PIECE
        if path.startswith(LARGE):
            return self._service.settings.limits.request
        return INBOX if path == "/v1/inbox" else SMALL

    def _key(self, keyid: str, body: bytes | None) -> str | None:
        """Return the key of that name: a member's newest, or the one that it is about to bring."""
        known = self._service.registry.key(keyid)
        if known is not None or body is None:
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
    left = [body]

    async def again() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return again

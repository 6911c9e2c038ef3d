"""The hub's API: what members may ask, over HTTPS, by signed requests.

An endpoint reads its body, asks the service, and returns; who asks was settled before, in
`signed.py`. Long polls are tasks of the event loop, everything else runs in threads.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Header, Path, Query, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp

import cohortium
from cohortium.errors import CohortiumError
from cohortium.hub import bodies
from cohortium.hub.answers import RangeError, on_error
from cohortium.hub.depot import PIECE
from cohortium.hub.leases import StillAliveError, bell
from cohortium.hub.mailbox import Message
from cohortium.hub.metrics import CONTENT_TYPE, Metrics
from cohortium.hub.registry import Member
from cohortium.hub.service import HubService, check_coordinator
from cohortium.hub.signed import Signed
from cohortium.store.database import reading
from cohortium.transport.errors import (
    RequestError,
    TooLargeError,
    UnavailableError,
    UnknownError,
)
from cohortium.transport.nonces import Nonces
from cohortium.transport.signing import SUPPORTED, unsigned

LONGEST_WAIT = 20.0
"""Seconds for which a new process may wait for its predecessor to be taken for dead."""


def make_app(
    service: HubService, *, nonces: Nonces, works: Callable[[], bool] = lambda: True
) -> ASGIApp:
    """Return the application that serves a hub; `works`: whether its own parties go on."""
    metrics = Metrics(service)
    return Signed(make_api(service, metrics, works), service, nonces=nonces, metrics=metrics)


def make_api(
    service: HubService, metrics: Metrics, works: Callable[[], bool] = lambda: True
) -> FastAPI:
    """Return the API without signatures; `openapi()` describes it."""
    api = FastAPI(
        title="Cohortium hub",
        version=cohortium.__version__,
        description="Requests and answers are signed (RFC 9421); see the documentation.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        responses=_REFUSALS,
    )
    for kind in (
        CohortiumError,
        RequestValidationError,
        HTTPException,
        OSError,
        SQLAlchemyError,
    ):
        api.add_exception_handler(kind, on_error)
    _add_open(api, service, metrics, works)
    _add_members(api, service)
    _add_mail(api, service)
    _add_blobs(api, service)
    _add_studies(api, service)
    _add_coordination(api, service)
    return api


_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": bodies.Problem, "description": why}
    for status, why in {
        400: "No JSON.",
        401: "Not signed, wrongly signed, replayed, or the clock is wrong.",
        403: "Not yours, or you were revoked.",
        404: "Not there.",
        409: "Does not fit what is there.",
        413: "Too large.",
        422: "Malformed.",
        426: "Another version of the protocol.",
        503: "Not now.",
        507: "The disk is full; nothing was lost.",
    }.items()
}


async def _member(request: Request) -> Member:
    member: Member | None = request.state.member
    if member is None:
        raise unsigned()
    return member


async def _coordinator(request: Request) -> Member:
    member = await _member(request)
    check_coordinator(member)
    return member


Caller = Annotated[Member, Depends(_member)]
Coordinator = Annotated[Member, Depends(_coordinator)]


# --- for everybody ---


def _add_open(
    api: FastAPI, service: HubService, metrics: Metrics, works: Callable[[], bool]
) -> None:
    @api.get("/healthz", response_model=bodies.Health)
    def healthz() -> dict[str, str]:
        """Tell whether the hub works: its database answers, and its parties are carried."""
        if not works():
            raise UnavailableError("runs that nobody carries", "a hub that works", _RESTART)
        with reading(service.engine) as connection:
            connection.execute(text("SELECT 1"))
        return {"status": "ok"}

    @api.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def show_metrics(request: Request, authorization: Annotated[str, Header()] = "") -> Response:
        """Return the counters, to this machine or to who has the token."""
        if not _may_read_metrics(request, authorization, service.settings.metrics_token):
            raise RequestError("a reader from elsewhere", "this machine, or the metrics token")
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @api.get("/v1/hub", response_model=bodies.About)
    def hub() -> dict[str, Any]:
        """Tell which hub this is. Believe it only if the key that you expect has signed it."""
        return {
            **service.about,
            "id": service.id,
            "certificate": service.registry.identity.certificate.to_json(),
            "protocol": sorted(SUPPORTED),
            "version": cohortium.__version__,
            "time": service.clock(),
        }

    @api.post("/v1/join", response_model=bodies.Joined)
    def join(body: bodies.Join) -> dict[str, Any]:
        """Become a member, with the secret of an invitation."""
        return service.registry.join(body.document, body.mac)


_RESTART = "Start the hub again; its log says why"


def _may_read_metrics(request: Request, authorization: str, token: str) -> bool:
    if token and hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
        return True
    if "x-forwarded-for" in request.headers or "forwarded" in request.headers:
        return False  # a proxy on this machine speaks for somebody elsewhere
    with suppress(ValueError):
        return request.client is not None and ip_address(request.client.host).is_loopback
    return False


# --- members ---


def _add_members(api: FastAPI, service: HubService) -> None:
    @api.post("/v1/certificates", response_model=bodies.Nothing)
    def rotate(member: Caller, body: bodies.NewCertificate) -> dict[str, Any]:
        """Bring the certificate of new working keys; signed with the old ones, or with these."""
        service.registry.rotate(member.name, body.certificate)
        return {}

    @api.get("/v1/certificates/{name}", response_model=bodies.Certified)
    def certificate(
        member: Caller,
        name: bodies.HostName,
        serial: Annotated[int, Query(ge=0, lt=2**53)] = 0,
        run: Annotated[str, Query(pattern=r"^([0-9a-f]{32})?$")] = "",
    ) -> dict[str, Any]:
        """Return the newest certificate of a host, or one by its serial; names may be a run's."""
        found = service.certificate(member, name, serial=serial, run=run)
        return {"certificate": found.to_json()}

    @api.get("/v1/directory", response_model=list[bodies.Member])
    def directory(member: Caller) -> list[dict[str, Any]]:
        """Return the members that you may know: those of common runs, and the hub."""
        return service.directory(member)

    @api.post("/v1/lease", response_model=bodies.Seconds)
    async def lease(request: Request, member: Caller, body: bodies.Lease) -> dict[str, float]:
        """Let this process act for the member; its predecessor must be gone."""
        if body.ended:
            await run_in_threadpool(service.leases.end, member.name, body.instance)
            return {"seconds": 0.0}
        seconds = await _take_lease(service, member, body, gone=_gone(request))
        if body.address and service.settings.broker:
            raise RequestError("an address", "none: an honest broker lets nobody link directly")
        await run_in_threadpool(service.registry.set_address, member.name, body.address)
        return {"seconds": seconds}


async def _take_lease(
    service: HubService, member: Member, body: bodies.Lease, *, gone: Callable[[], Awaitable[None]]
) -> float:
    """Take a lease; wait a little for a predecessor that was killed a moment ago."""
    loop, woken, leases = asyncio.get_running_loop(), asyncio.Event(), service.leases
    end = loop.time() + min(leases.seconds, LONGEST_WAIT)
    wake = _waker(loop, woken)
    with service.bells.listening(bell(member.name), wake):
        while True:
            woken.clear()
            try:
                return await run_in_threadpool(
                    leases.take, member.name, body.instance, body.predecessor
                )
            except StillAliveError:
                left = end - loop.time()
                if left <= 0 or service.bells.closed:
                    raise
            if await _first(woken, gone, timeout=min(left, leases.left(member.name) + 0.01)):
                return 0.0


# --- mail ---


def _add_mail(api: FastAPI, service: HubService) -> None:
    @api.post("/v1/inbox", response_model=bodies.Mail)
    async def inbox(request: Request, member: Caller, body: bodies.Poll) -> Response:
        """Acknowledge mail, and return what came since; waits if there is none."""
        messages = await _poll(service, member, body, gone=_gone(request))
        generation = service.mailbox.generation
        return JSONResponse({"generation": generation, "messages": messages})

    @api.post("/v1/frames", response_model=bodies.Posted)
    def post(member: Caller, frame: bodies.Sealed) -> dict[str, bool]:
        """Keep a frame for its readers."""
        return {"new": service.mailbox.post(member.name, frame)}

    @api.get("/v1/frames/{frame}", response_model=bodies.Nothing)
    def has(member: Caller, frame: bodies.FrameId) -> dict[str, Any]:
        """Tell whether a frame of a run that you are in was ever posted."""
        if not service.mailbox.has(member.name, frame):
            raise UnknownError(f"the frame {frame}", "one that was posted")
        return {}

    @api.get("/v1/runs/{run}/receipts", response_model=list[dict[str, Any]])
    def receipts(
        member: Caller, run: bodies.RunId, party: Annotated[str, Query(max_length=200)]
    ) -> list[dict[str, Any]]:
        """Return the newest receipt of each host for what a party has sent."""
        return [each.to_json() for each in service.mailbox.receipts(member.name, run, party)]


def _take_in(service: HubService, member: Member, body: bodies.Poll) -> list[Message]:
    """Keep receipts, forget what is acknowledged, and return what came since."""
    service.mailbox.acknowledge(member.name, body.after, body.receipts)
    return service.mailbox.waiting(member.name, body.after)


async def _poll(
    service: HubService, member: Member, body: bodies.Poll, *, gone: Callable[[], Awaitable[None]]
) -> list[Message]:
    """Return a member's mail as soon as there is some, or nothing when the time is over."""
    loop, woken, name = asyncio.get_running_loop(), asyncio.Event(), member.name
    end, broken = loop.time() + body.wait, False
    await run_in_threadpool(service.leases.poll_opened, name, body.instance)
    try:
        with service.bells.listening(name, _waker(loop, woken)):
            messages = await run_in_threadpool(_take_in, service, member, body)
            while not (messages or broken or service.bells.closed) and loop.time() < end:
                broken = await _first(woken, gone, timeout=end - loop.time())
                woken.clear()
                service.registry.active(name)
                service.leases.check(name, body.instance)
                messages = await run_in_threadpool(service.mailbox.waiting, name, body.after)
            return messages
    finally:
        service.leases.poll_closed(name, body.instance, broken=broken)


def _waker(loop: asyncio.AbstractEventLoop, woken: asyncio.Event) -> Callable[[], None]:
    def wake() -> None:
        loop.call_soon_threadsafe(woken.set)

    return wake


def _gone(request: Request) -> Callable[[], Awaitable[None]]:
    """Return what ends when the caller's connection does; the body has been read already."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return gone


async def _first(
    woken: asyncio.Event, gone: Callable[[], Awaitable[None]], *, timeout: float
) -> bool:
    """Wait until there is news, the caller has gone, or the time is over; tell if it has gone."""
    left = asyncio.ensure_future(gone())
    news = asyncio.ensure_future(woken.wait())
    try:
        await asyncio.wait({left, news}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        return left.done()
    finally:
        for task in (left, news):
            task.cancel()


# --- blobs ---


def _add_blobs(api: FastAPI, service: HubService) -> None:
    @api.head("/v1/blobs/{digest}", response_class=Response)
    def progress(member: Caller, digest: bodies.Digest) -> Response:
        """Tell how much of a blob is here: of your own upload, or of one that you may read."""
        depot, studies = service.depot, service.studies.visible(member)
        is_here = depot.is_at_hand(member.name, digest, studies)
        size = depot.blobs.size(digest) if is_here else None
        received = depot.received(member.name, digest) if size is None else size
        if size is None and not received:
            raise UnknownError(f"blob {digest[:8]}", "one that is here")
        complete = "?0" if size is None else "?1"
        return Response(headers={"Upload-Offset": str(received), "Upload-Complete": complete})

    @api.patch(
        "/v1/blobs/{digest}",
        response_class=Response,
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/octet-stream": {}}}
        },
    )
    async def append(
        request: Request,
        member: Caller,
        digest: bodies.Digest,
        upload_offset: Annotated[int, Header(ge=0, lt=2**53)],
        upload_length: Annotated[int, Header(ge=0, lt=2**53)],
    ) -> Response:
        """Bring the next piece of a blob, of at most 4 MiB; what is here is durable."""
        chunk = await request.body()
        received = await run_in_threadpool(
            service.depot.append,
            member.name,
            digest,
            upload_offset,
            chunk=chunk,
            total=upload_length,
        )
        complete = "?1" if received == upload_length else "?0"
        return Response(headers={"Upload-Offset": str(received), "Upload-Complete": complete})

    @api.get("/v1/blobs/{digest}", response_class=Response, responses=_PIECES)
    def read(
        member: Caller,
        digest: bodies.Digest,
        range_: Annotated[str, Header(alias="Range", max_length=100)] = "",
    ) -> Response:
        """Return a piece of a blob that is addressed to you; at most 4 MiB at once."""
        size = service.depot.blobs.size(digest)
        studies = service.studies.visible(member)
        if size is None or not service.depot.is_readable(member.name, digest, studies):
            raise UnknownError(f"blob {digest[:8]}", "one that is addressed to you")
        if not range_:
            if size > PIECE:
                expected = f"a range of at most {PIECE}"
                raise TooLargeError(f"a blob of {size} bytes in one answer", expected)
            return Response(service.depot.blobs.read(digest, 0, size), media_type=_BYTES)
        start, stop = _range(range_, size)
        piece = service.depot.blobs.read(digest, start, stop)
        headers = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}
        return Response(piece, 206, headers=headers, media_type=_BYTES)


_BYTES = "application/octet-stream"
_PIECES: dict[int | str, dict[str, Any]] = {
    200: {"content": {_BYTES: {}}},
    206: {"content": {_BYTES: {}}, "description": "A piece."},
    416: {"model": bodies.Problem, "description": "Not a range of this blob."},
}


def _range(text: str, size: int) -> tuple[int, int]:
    """Return the first byte and the end of one range, cut to 4 MiB (RFC 9110 §14.1.2)."""
    found = re.fullmatch(r"bytes=(\d{1,18})-(\d{0,18})", text, re.ASCII)
    if found is None:
        raise RangeError(f"the range {text!r}", "bytes=FIRST-LAST")
    start = int(found[1])
    stop = min(int(found[2]) + 1 if found[2] else size, size, start + PIECE)
    if start >= stop:
        raise RangeError(f"the range {text!r} of {size} bytes", "one inside the blob")
    return start, stop


# --- studies ---


def _add_studies(api: FastAPI, service: HubService) -> None:
    studies = service.studies

    @api.post("/v1/studies", response_model=bodies.Submitted)
    def submit(member: Caller, body: bodies.NewStudy) -> dict[str, str]:
        """Submit a study, whose files are here as blobs, for approval."""
        return {"digest": studies.submit(member, body.text, body.files)}

    @api.get("/v1/studies", response_model=list[bodies.Study])
    def shown(member: Caller) -> list[dict[str, Any]]:
        """Return the studies that you may see."""
        return studies.shown(member)

    @api.get("/v1/studies/{digest}", response_model=bodies.Study)
    def show(member: Caller, digest: bodies.Digest) -> dict[str, Any]:
        """Return a study."""
        return studies.show(member, digest)

    @api.post("/v1/studies/{digest}/grants", response_model=bodies.Nothing)
    def grant(member: Caller, digest: bodies.Digest, body: bodies.NewGrant) -> dict[str, Any]:
        """Consent to a study; the initial model must be here as a blob."""
        studies.grant(member, digest, body.grant)
        return {}

    @api.post("/v1/studies/{digest}/declines", response_model=bodies.Nothing)
    def decline(member: Caller, digest: bodies.Digest, body: bodies.Reason) -> dict[str, Any]:
        """Take no part in a study, or take a consent back before it starts."""
        studies.decline(member, digest, body.reason)
        return {}

    @api.post("/v1/studies/{digest}/start", response_model=bodies.Steered)
    def start(member: Caller, digest: bodies.Digest, body: bodies.Reason) -> dict[str, str]:
        """Start a study with the sites that have consented."""
        del body
        run = studies.start(member, digest)
        return {"status": run.status, "run": run.id}

    @api.post("/v1/studies/{digest}/{op}", response_model=bodies.Steered)
    def steer(
        member: Caller,
        digest: bodies.Digest,
        op: Annotated[Literal["pause", "resume", "stop"], Path()],
        body: bodies.Reason,
    ) -> dict[str, str]:
        """Pause, resume or stop a study."""
        status = studies.steer(member, digest, op, body.reason)
        return {"status": status, "run": studies.show(member, digest)["run"]}

    @api.get("/v1/runs/{run}", response_model=bodies.Run)
    def show_run(member: Caller, run: bodies.RunId) -> dict[str, Any]:
        """Return a run that you are in."""
        return service.run(member, run)

    @api.post("/v1/runs/{run}/end", response_model=bodies.Nothing)
    def end(member: Caller, run: bodies.RunId, body: bodies.End) -> dict[str, Any]:
        """Tell how a run ended; for the host of the party that closes its rounds."""
        service.end(member, run, body.status, body.reason)
        return {}


# --- coordination ---


def _add_coordination(api: FastAPI, service: HubService) -> None:
    @api.post("/v1/runs/{run}/controls", response_model=bodies.Nothing)
    def control(member: Coordinator, run: bodies.RunId, body: bodies.Control) -> dict[str, Any]:
        """Extend a run's deadlines, exclude a site, or let it take part again."""
        del member
        service.studies.control(
            run, body.op, site=body.site, seconds=body.seconds, reason=body.reason
        )
        return {}

    @api.post("/v1/invitations", response_model=bodies.Code)
    def invite(member: Coordinator, body: bodies.NewInvitation) -> dict[str, Any]:
        """Return a code with which one new member joins, once."""
        del member
        invitation, expires = service.registry.invite(body.name, body.role, hours=body.hours)
        return {"code": invitation.code, "expires": expires}

    @api.get("/v1/sites", response_model=list[bodies.Site])
    def sites(member: Coordinator) -> list[dict[str, Any]]:
        """Return everybody who joined or is invited."""
        return service.sites(member)

    @api.post("/v1/sites/{name}/revoke", response_model=bodies.Nothing)
    def revoke(member: Coordinator, name: bodies.Name, body: bodies.Reason) -> dict[str, Any]:
        """End a membership at once."""
        service.revoke(member, name, body.reason)
        return {}

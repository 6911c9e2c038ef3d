"""A hub that can do little: it signs, checks, waits, keeps blobs, and fails when it is told to."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn

from cohortium.errors import RefusedError
from cohortium.identity import Identity, key_id
from cohortium.transport.blobs import FolderBlobs
from cohortium.transport.errors import RequestError, StorageFullError, UnknownError, refusal_body
from cohortium.transport.nonces import Nonces
from cohortium.transport.signing import Request, check_request, sign_response
from cohortium.transport.trust import HubTrust

from .authority import Authority

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
Reply = tuple[int, dict[str, str], bytes]

OPEN = {"/v1/hub", "/v1/join"}


class _Server(uvicorn.Server):
    """Ends when it is told to, not at uvicorn's next look at the clock."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._loop: Future[asyncio.AbstractEventLoop] = Future()

    async def main_loop(self) -> None:
        self._ended = asyncio.Event()
        self._loop.set_result(asyncio.get_running_loop())
        await self._ended.wait()

    def end(self) -> None:
        self.force_exit = True
        self._loop.result().call_soon_threadsafe(lambda: self._ended.set())


class SmallHub:
    """Serves on `port` of the loopback address, as localhost or `hub.test`, from its own thread.

    Attributes:
        identity: its keys; new ones may be put here.
        members: public keys (hex) by "name:serial".
        skew: seconds by which its clock is ahead.
        faults: for the next requests: an answer to give instead, "lost" if the answer shall not
            arrive, "" for none.
        seen: method and path of each request that came whole.
        answers: as they were given.
        said_authority: what it says is behind its TLS certificate.
        on_request: called when a request has come whole.
        unavailable: how many requests find no room.
        received: bytes of request bodies that came.
    """

    def __init__(
        self,
        folder: Path,
        *,
        authority: Authority | None = None,
        hosts: Sequence[str] = ("localhost", "127.0.0.1", "hub.test"),
        until: timedelta = timedelta(days=1),
        plain: bool = False,
    ) -> None:
        self.identity = Identity.create("@hub", role="hub", now=time.time())
        self.folder = folder
        self.authority = authority or Authority(folder / "ca", "the hub's own authority")
        self.members: dict[str, str] = {}
        self.skew = 0.0
        self.faults: deque[Reply | str] = deque()
        self.seen: list[tuple[str, str]] = []
        self.answers: list[Reply] = []
        self.received = 0
        self.on_request: Callable[[], object] = list
        self.unavailable = 0
        self.blobs = FolderBlobs(folder / "blobs")
        self.nonces = Nonces(folder / "nonces")
        self.said_authority = self.authority.pem
        self.certificate, self.key = self.authority.issue(*hosts, until=until)
        self.plain = plain
        self.port = 0
        self.start()

    def start(self) -> None:
        """Listen, on the same port if there was one."""
        listening = socket.create_server(("127.0.0.1", self.port))
        self.port = listening.getsockname()[1]
        config = uvicorn.Config(
            self._answer,
            lifespan="off",
            log_config=None,
            interface="asgi3",
            proxy_headers=False,
            date_header=False,
            ssl_certfile=None if self.plain else self.certificate,
            ssl_keyfile=None if self.plain else self.key,
            timeout_graceful_shutdown=1,
        )
        config.load()  # here, where a failure is seen
        self._server = _Server(config)
        run = self._server.run
        self._thread = threading.Thread(target=lambda: run(sockets=[listening]), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Hang up."""
        self._server.end()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self.nonces.close()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def id(self) -> str:
        return key_id(self.identity.root.public)

    @property
    def trust(self) -> HubTrust:
        return HubTrust(self.identity.certificate, self.authority.pem)

    def now(self) -> float:
        return time.time() + self.skew

    def join(self, name: str) -> Identity:
        """Make a member."""
        member = Identity.create(name, role="site", now=time.time())
        self.members[f"{name}:1"] = member.signing.public
        return member

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body += event["body"]
            self.received += len(event["body"])
            if not event["more_body"]:
                break
        path, query = scope["raw_path"].decode(), scope["query_string"].decode()
        target = f"{path}?{query}" if query else path
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        request = Request(scope["method"], target, headers)
        self.seen.append((request.method, path))
        self.on_request()
        fault = self.faults.popleft() if self.faults else None
        if isinstance(fault, tuple):
            status, fields, content = fault
        else:
            status, fields, content = await self._reply(request, path, body)
            fields = sign_response(
                status,
                b"" if request.method == "HEAD" else content,
                request=request,
                signer=self.identity,
                now=self.now(),
                headers=fields,
            )
        self.answers.append((status, fields, content))
        if fault == "lost":
            fields, content = {}, b""
        raw = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
        raw += [(b"content-length", str(len(content) + (fault == "lost")).encode())]
        raw += [(b"date", formatdate(self.now(), usegmt=True).encode())]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        if fault == "lost":
            return  # a byte is owed: the connection ends
        await send({"type": "http.response.body", "body": content})

    async def _reply(self, request: Request, path: str, body: bytes) -> Reply:
        try:
            if path not in OPEN:
                self._check(request, body)
            if self.unavailable:
                self.unavailable -= 1
                raise StorageFullError("no room", "some")
            if path.startswith("/v1/blobs/"):
                return self._blob(request, path.rpartition("/")[2], body)
            return 200, {}, json.dumps(await self._call(path, body)).encode()
        except RequestError as error:
            status, told = refusal_body(error)
        except RefusedError as error:
            status, told = 403, {"error": "refused", "got": str(error), "expected": "another"}
        return status, {}, json.dumps(told).encode()

    def _check(self, request: Request, body: bytes) -> None:
        check_request(
            request.method,
            request.target,
            request.headers,
            body,
            keys=self.members.get,
            hub=self.id,
            now=self.now(),
            nonces=self.nonces,
        )

    async def _call(self, path: str, body: bytes) -> Any:
        said: Any = json.loads(body) if body else None
        if path == "/v1/hub":
            certificate = self.identity.certificate.to_json()
            return {"certificate": certificate, "ca": self.said_authority, "protocol": [1]}
        if path == "/v1/wait":
            await asyncio.sleep(said["seconds"])
            return {"waited": said["seconds"]}
        if path == "/v1/nothing":
            raise UnknownError("nothing", "something")
        return {"said": said}

    def _blob(self, request: Request, digest: str, body: bytes) -> Reply:
        fields = dict(request.headers.items())
        size = self.blobs.size(digest)
        if request.method == "HEAD":
            received = self.blobs.received(digest) if size is None else size
            done = "?0" if size is None else "?1"
            return 200, {"Upload-Offset": str(received), "Upload-Complete": done}, b""
        if request.method == "PATCH":
            offset, total = int(fields["upload-offset"]), int(fields["upload-length"])
            there = self.blobs.append(digest, offset, body, total=total)
            return 200, {"Upload-Offset": str(there)}, b""
        if size is None:
            raise UnknownError(f"blob {digest[:8]}", "one that is here")
        first, _, last = fields["range"].removeprefix("bytes=").partition("-")
        piece = self.blobs.read(digest, int(first), int(last) + 1)
        return 206, {"Content-Range": f"bytes {first}-{last}/{size}"}, piece

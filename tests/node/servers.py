"""A mail server and a web server on loopback that keep what they are sent."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseServer, StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any


@dataclass
class Mailbox:
    """What a mail server was told.

    Attributes:
        port: where it listens.
        letters: (envelope recipients, the message).
        logins: (user, password).
        refuse: answer every message with a failure.
        tls: what it offers after STARTTLS.
    """

    port: int = 0
    letters: list[tuple[list[str], str]] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    refuse: bool = False
    tls: ssl.SSLContext | None = None


class _Smtp(StreamRequestHandler):
    def handle(self) -> None:
        box: Mailbox = self.server.box  # type: ignore[attr-defined]
        to: list[str] = []
        encrypted = False
        self._say("220 ready")
        while line := self.rfile.readline():
            words = line.decode().split()
            verb = words[0].upper()
            if verb == "EHLO":
                offers = ["AUTH PLAIN"] if encrypted or not box.tls else ["STARTTLS"]
                self._say("250-here", *[f"250 {offer}" for offer in offers])
            elif verb == "STARTTLS" and box.tls:
                self._say("220 go")
                self.connection = box.tls.wrap_socket(self.connection, server_side=True)
                self.rfile = self.connection.makefile("rb")
                self.wfile = self.connection.makefile("wb", buffering=0)
                encrypted = True
            elif verb == "AUTH":
                _, user, password = base64.b64decode(words[2]).decode().split("\0")
                box.logins.append((user, password))
                self._say("235 in")
            elif verb == "RCPT":
                to.append(words[1].split("<")[1].rstrip(">"))
                self._say("250 ok")
            elif verb == "DATA" and box.refuse:
                self._say("554 no")
            elif verb == "DATA":
                self._say("354 go")
                lines = list(iter(self.rfile.readline, b".\r\n"))
                box.letters.append((to, b"".join(lines).decode()))
                self._say("250 kept")
            elif verb == "QUIT":
                self._say("221 bye")
                return
            else:
                self._say("250 ok")

    def _say(self, *lines: str) -> None:
        self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())


@contextmanager
def mail_server(*, tls: Path | None = None) -> Iterator[Mailbox]:
    """Run a mail server; `tls` is a file with its certificate and key."""
    context = None
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls)
    box = Mailbox(tls=context)
    with ThreadingTCPServer(("127.0.0.1", 0), _Smtp) as server:
        server.box, box.port = box, server.server_address[1]  # type: ignore[attr-defined]
        with _serving(server):
            yield box


@dataclass
class Posts:
    """What a web server was sent: its address, and the bodies. `status` is its answer."""

    url: str = ""
    bodies: list[Any] = field(default_factory=list)
    status: int = 204


@contextmanager
def web_server() -> Iterator[Posts]:
    """Run a web server that keeps what is posted."""
    posts = Posts()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posts.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(posts.status)
            self.end_headers()

        def log_message(self, *line: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        posts.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
        with _serving(server):
            yield posts


@contextmanager
def _serving(server: BaseServer) -> Iterator[None]:
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()

"""What a hospital's monitoring may read: counts, and no name of a site, a study or a record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from cohortium.node.settings import address_of


class Metrics:
    """The counters of one node.

    Attributes:
        reachable: whether the hub answered when it was last asked: 1 or 0.
        waiting: studies that wait for a decision.
        runs: runs that go on here.
        frames: frames taken in.
        rounds: rounds that closed.
        failures: steps that failed here.
        seconds: of computing.
        refused: runs and requests that were refused, by what.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        gauge, counter = self._gauge, self._counter
        self.reachable = gauge("hub_reachable", "Whether the hub answers: 1 or 0.")
        self.waiting = gauge("studies_waiting", "Studies that wait for a decision.")
        self.runs = gauge("runs", "Runs that go on here.")
        self.frames = counter("frames", "Frames taken in.")
        self.rounds = counter("rounds", "Rounds that closed.")
        self.failures = counter("step_failures", "Steps that failed here.")
        self.seconds = counter("computing_seconds", "Seconds of computing.")
        self.refused = Counter(
            "cohortium_node_refused",
            "What was refused: runs here, or this node by the hub.",
            ["what"],
            registry=self.registry,
        )

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"cohortium_node_{name}", text, registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"cohortium_node_{name}", text, registry=self.registry)


@contextmanager
def served(listen: str | None, metrics: Metrics, health: Callable[[], str]) -> Iterator[int | None]:
    """Serve /metrics and /healthz at an address; None serves nothing. Yields the port.

    Args:
        listen: "host:port".
        metrics: what is counted.
        health: one word on how the node is.

    Raises:
        OSError: the address cannot be used.
    """
    if listen is None:
        yield None
        return
    with ThreadingHTTPServer(address_of(listen), _handler(metrics, health)) as server:
        thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def _handler(metrics: Metrics, health: Callable[[], str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest(metrics.registry))
            elif self.path == "/healthz":
                body = json.dumps({"status": "ok", "hub": health()}).encode()
                self._answer(200, "application/json", body)
            else:
                self._answer(404, "text/plain", b"/metrics or /healthz\n")

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing: a scrape is no event."""

    return Handler

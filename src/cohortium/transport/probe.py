"""What stands between this machine and a hub: for who sets up, and for the IT department."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from cohortium.errors import CohortiumError
from cohortium.transport.route import Route, route
from cohortium.transport.trust import HubTrust, introduced
from cohortium.transport.wire import Wire

_PROBED = 3


@dataclass(frozen=True)
class Probe:
    """What was found.

    Attributes:
        url: of the hub.
        proxy: that is gone through, without its password; empty: none.
        problem: why calls fail, with what to do; None: they work.
        subject: of the TLS certificate that was shown; empty: nobody answered.
        issuer: who vouches for it.
        inspected: whether a proxy looks into TLS: the certificate is not by the hub's own
            authority. None: the hub has none of its own, or nobody answered: look at `issuer`.
        clock: seconds by which the hub's clock is ahead of this one, to about 1 s; None: not known.
        latency: seconds of a request on an open connection; None: not known.
        protocols: versions of the protocol that the hub speaks.
    """

    url: str
    proxy: str = ""
    problem: CohortiumError | None = None
    subject: str = ""
    issuer: str = ""
    inspected: bool | None = None
    clock: float | None = None
    latency: float | None = None
    protocols: tuple[int, ...] = ()


def probe(
    url: str,
    *,
    hub: HubTrust | None = None,
    proxy: str | None = None,
    ca: Path | None = None,
    timeout: float = 10.0,
) -> Probe:
    """Look at the way to a hub, and try it.

    Args:
        url: of the hub.
        hub: what is known of it; None before joining: then it is taken at its word.
        proxy: see `route`.
        ca: see `route`.
        timeout: seconds of silence after which a connection counts as lost.

    Raises:
        ArgumentError: `url`, `proxy` or `ca` cannot be used.
    """
    way = route(url, proxy=proxy, ca=ca)
    try:
        seen = _look(way, timeout)
    except httpx.TransportError as error:
        return Probe(way.url, way.shown_proxy, way.explain(error))
    authority = hub.ca_pem if hub else str(seen.said.get("ca") or "")
    return Probe(
        way.url,
        way.shown_proxy,
        _try(way, hub, authority, timeout),
        subject=seen.certificate.subject.rfc4514_string(),
        issuer=seen.certificate.issuer.rfc4514_string(),
        inspected=not _is_by(seen.certificate, authority) if authority else None,
        clock=seen.clock,
        latency=seen.latency,
        protocols=tuple(each for each in seen.said.get("protocol", ()) if isinstance(each, int)),
    )


@dataclass(frozen=True)
class _Seen:
    certificate: x509.Certificate
    said: Mapping[str, Any]
    clock: float | None
    latency: float


def _look(way: Route, timeout: float) -> _Seen:
    """Ask who is there, whatever certificate is shown."""
    address, latencies = f"{way.url}/v1/hub", []
    with way.client(way.trust_anybody(), timeout=timeout) as http:
        for _ in range(_PROBED):
            asked = time.time()
            with http.stream("GET", address) as response:
                tls = response.extensions["network_stream"].get_extra_info("ssl_object")
                certificate = x509.load_der_x509_certificate(tls.getpeercert(True))
                body = response.read()
            latencies.append(max(0.0, time.time() - asked))
    latency = min(latencies)  # the first one opened the connection
    return _Seen(certificate, _said(body), _clock(response, asked + latency / 2), latency)


def _said(body: bytes) -> Mapping[str, Any]:
    try:
        said = json.loads(body)
    except ValueError:
        return {}
    return said if isinstance(said, Mapping) else {}


def _clock(response: httpx.Response, here: float) -> float | None:
    try:
        there = parsedate_to_datetime(response.headers.get("date", "")).timestamp()
    except ValueError:
        return None
    return there + 0.5 - here  # the field has whole seconds


def _is_by(certificate: x509.Certificate, authority: str) -> bool:
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.encode()))
    except (InvalidSignature, TypeError, ValueError):
        return False
    return True


def _try(way: Route, hub: HubTrust | None, authority: str, timeout: float) -> CohortiumError | None:
    """Do as any call does; return what it would raise."""
    try:
        with closing(Wire(way, way.trust(authority), timeout=timeout)) as wire:
            introduced(wire, hub.id if hub else None)
    except CohortiumError as error:
        return error
    return None

"""What a member knows of its hub, and how it gets to know it: by an invitation, over any line."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cohortium.errors import RefusedError
from cohortium.identity import Certificate, key_id
from cohortium.transport.errors import UnauthorisedError, refusal
from cohortium.transport.route import route
from cohortium.transport.signing import Request, key_name
from cohortium.transport.wire import Answer, Wire

HUB_NAME = "@hub"

LARGEST = 1 << 20
"""Bytes of what a hub says of itself, at most."""


@dataclass(frozen=True)
class HubTrust:
    """What a member knows of its hub since it joined.

    Attributes:
        certificate: of the hub's working keys.
        ca_pem: the authority behind the hub's TLS certificate; empty: one that systems trust.
    """

    certificate: Certificate
    ca_pem: str = ""

    @property
    def root(self) -> str:
        """The hub's root key, hex."""
        return self.certificate.root

    @property
    def id(self) -> str:
        """What the hub is known by: the first half of its root key's SHA-256."""
        return key_id(self.root)

    def key(self, keyid: str) -> str | None:
        """Return the hub's public key (hex) of that name."""
        name = key_name(HUB_NAME, self.certificate.serial)
        return self.certificate.signing if keyid == name else None

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {"certificate": self.certificate.to_json(), "ca_pem": self.ca_pem}

    @classmethod
    def from_json(cls, value: object) -> HubTrust:
        """Read `to_json`.

        Raises:
            RefusedError: it is malformed, or the certificate is not a hub's by its own root key.
        """
        if not isinstance(value, Mapping) or not isinstance(value.get("ca_pem"), str):
            raise RefusedError("what is known of a hub is a certificate and a ca_pem")
        certificate = Certificate.from_json(value.get("certificate"))
        certificate.check(certificate.root)
        if (certificate.name, certificate.role) != (HUB_NAME, "hub"):
            raise RefusedError(f"{certificate.name} ({certificate.role}) is not a hub")
        return cls(certificate, value["ca_pem"])


def meet(
    url: str,
    hub_id: str,
    *,
    proxy: str | None = None,
    ca: Path | None = None,
    timeout: float = 30.0,
) -> HubTrust:
    """Get to know the hub that an invitation names.

    Its own authority is asked for over a line that nobody vouches for: nothing secret is sent, and
    the answer is signed by the key that the invitation names. Then everything is as in any later
    call, so that what hinders those shows now.

    Args:
        url: of the hub.
        hub_id: its id, of the invitation.
        proxy: see `route`.
        ca: see `route`.
        timeout: seconds of silence after which the connection counts as lost.

    Raises:
        ArgumentError: `url`, `proxy` or `ca` cannot be used.
        UnauthorisedError: another hub is there.
        ClockError: its clock and this one differ too much.
        UnreachableError: it cannot be reached as later calls reach it.
    """
    way = route(url, proxy=proxy, ca=ca)
    with closing(Wire(way, way.trust_anybody(), timeout=timeout)) as wire:
        authority = introduced(wire, hub_id).ca_pem
    with closing(Wire(way, way.trust(authority), timeout=timeout)) as wire:
        return introduced(wire, hub_id)


def introduced(wire: Wire, hub_id: str | None) -> HubTrust:
    """Ask a hub who it is, and check that it is the one with that id; None: whichever it is.

    Raises:
        UnauthorisedError: another hub, or none, is there.
        UnreachableError: nobody is.
    """
    request = Request("GET", wire.target(with_nonce("/v1/hub")), {})
    answer = wire.send(request)
    if len(answer.body) > LARGEST:  # nothing vouches for it yet, and JSON grows when it is read
        raise RefusedError(f"GET /v1/hub: an answer of {len(answer.body)} bytes is not a hub's")
    said = json_of(answer)
    if answer.status >= 400:
        raise refusal("GET /v1/hub", answer.status, said)
    if not isinstance(said, Mapping):
        raise RefusedError("GET /v1/hub: the answer is not a hub's")
    hub = HubTrust.from_json(
        {"certificate": said.get("certificate"), "ca_pem": said.get("ca") or ""}
    )
    if hub_id is not None and hub.id != hub_id:
        advice = "Is the address right, and the invitation for this hub?"
        raise UnauthorisedError(f"the hub {hub.id}", f"the hub {hub_id}", advice)
    answer.check(hub.key, now=time.time())
    return hub


def with_nonce(path: str) -> str:
    """Return the path of a request that is not signed, such that its answer can be no old one."""
    return f"{path}{'&' if '?' in path else '?'}nonce={secrets.token_urlsafe(16)}"


def json_of(answer: Answer) -> Any:
    """Return the JSON in an answer, None if there is none.

    Raises:
        RefusedError: it is no JSON.
    """
    if not answer.body:
        return None
    try:
        return json.loads(bytes(answer.body))
    except (RecursionError, ValueError) as error:
        raise RefusedError(f"{answer.request.target}: the answer is not JSON") from error

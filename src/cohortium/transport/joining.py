"""Joining a federation with an invitation: for sites, researchers and coordinators alike.

The invitation's secret authenticates both sides: who joins shows it by a MAC over its own keys, and
the hub by one over its answer. The code says by which key the hub is known; nothing that a proxy or
the network changes on the way is believed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cohortium.errors import ArgumentError, Problem, RefusedError
from cohortium.identity import Document, Identity, Invitation, SigningKey, canonical, fingerprint
from cohortium.transport.client import HubClient
from cohortium.transport.trust import HubTrust, meet

Keys = Callable[[str, str], Identity]
"""Returns the keys of who joins, by name and role; they must be kept before they are returned."""


@dataclass(frozen=True)
class Joined:
    """A new membership.

    Attributes:
        identity: the member's keys.
        hub: how the hub is recognised.
        fingerprint: what both sides compare by voice.
        federation: what people call it.
        broker: whether sites appear under pseudonyms.
    """

    identity: Identity
    hub: HubTrust
    fingerprint: str
    federation: str
    broker: bool


def join(
    url: str,
    code: str,
    *,
    roles: tuple[str, ...],
    keys: Keys,
    proxy: str | None = None,
    ca: Path | None = None,
) -> Joined:
    """Become a member; with the same keys it may be done again, such as when an answer was lost.

    Args:
        url: of the hub.
        code: as the coordinator gave it.
        roles: those that the invitation may be for.
        keys: makes the member's keys, or returns those of an earlier attempt.
        proxy: see `route`.
        ca: see `route`.

    Raises:
        ArgumentError: the code is none, or for another role; `url`, `proxy` or `ca` are unusable.
        RequestError: the hub refused: another hub's code, a used or an expired one, a wrong clock.
        UnreachableError: the hub did not answer.
        RefusedError: what answered does not have the invitation.
    """
    invitation = Invitation.parse(code)
    hub = meet(url, invitation.hub, proxy=proxy, ca=ca)
    with closing(HubClient(url, None, hub, proxy=proxy, ca=ca)) as client:
        name, role = _ask(client, invitation)
        if role not in roles:
            raise _other_role(name, role)
        identity = keys(name, role)
        said = _post(client, invitation, _joining(identity))
    return _joined(said, invitation, identity=identity, hub=hub)


def _ask(client: HubClient, invitation: Invitation) -> tuple[str, str]:
    """Return the name and the role that the invitation is for, proven to be held by nobody else."""
    said = _post(
        client, invitation, Document.of("ask", {"time": time.time()}, SigningKey.generate())
    )
    return str(said.get("name")), str(said.get("role"))


def _joining(identity: Identity) -> Document:
    body = {
        "name": identity.name,
        "role": identity.role,
        "root": identity.root.public,
        "certificate": identity.certificate.to_json(),
        "time": time.time(),
    }
    return Document.of("join", body, identity.root)


def _post(client: HubClient, invitation: Invitation, document: Document) -> Mapping[str, Any]:
    mac = invitation.mac(canonical(document.to_json()))
    said = client.call("POST", "/v1/join", {"document": document.to_json(), "mac": mac})
    if not isinstance(said, Mapping):
        raise RefusedError("the hub's answer to a code is not one")
    return said


def _joined(
    said: Mapping[str, Any], invitation: Invitation, *, identity: Identity, hub: HubTrust
) -> Joined:
    document = Document.from_json(said.get("hub"))
    invitation.check(canonical(document.to_json()), str(said.get("mac")))
    body = document.check("joined", hub.root)
    if (body.get("member"), body.get("member_root")) != (identity.name, identity.root.public):
        raise RefusedError("the hub has let somebody else in")
    return Joined(
        identity,
        hub,
        fingerprint(hub.root, identity.root.public),
        str(body.get("name", "")),
        bool(body.get("broker", False)),
    )


def _other_role(name: str, role: str) -> ArgumentError:
    verb = "node" if role == "site" else "study"
    got, expected = f"a code for {name}, a {role}", "one for this kind of member"
    advice = f"Join with: cohortium {verb} join URL CODE"
    return ArgumentError(Problem("<invitation>", "code", got, expected, advice))

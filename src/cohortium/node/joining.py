"""Joining a hub, and new keys for a site that belongs to one."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cohortium.errors import ArgumentError, Problem
from cohortium.identity import Identity, fingerprint
from cohortium.node.folder import Home
from cohortium.transport import joining
from cohortium.transport.client import HubClient, Waiting
from cohortium.transport.errors import UnauthorisedError
from cohortium.transport.trust import HubTrust

ROLE = "site"


@dataclass(frozen=True)
class Membership:
    """What people are told when they have joined.

    Attributes:
        site: the name under which the coordinator invited it.
        federation: what people call the federation.
        url: of the hub.
        fingerprint: to compare with the coordinator's, by voice.
        broker: whether the hub keeps sites unknown to each other.
    """

    site: str
    federation: str
    url: str
    fingerprint: str
    broker: bool


def join(
    home: Home,
    url: str,
    code: str,
    *,
    ca: Path | None = None,
    proxy: str | None = None,
    clock: Callable[[], float] = time.time,
) -> Membership:
    """Make a site's keys and join a hub with them.

    The keys are kept before they are shown to the hub, so that a lost answer costs nobody a code.

    Args:
        home: the node's folder.
        url: of the hub.
        code: as the coordinator gave it; it holds the name, and how the hub is recognised.
        ca: a PEM file of certificates to trust beside the system's.
        proxy: the way out; by default what HTTPS_PROXY says.
        clock: seconds since 1970.

    Raises:
        ArgumentError: this node has joined already, or the code is none.
        RequestError: the code is another hub's, used or expired, or a clock is wrong.
        UnreachableError: the hub cannot be reached.
    """
    if home.has_joined:
        raise _joined_already(home)
    settings = home.settings.hub
    ca = ca or home.ca
    ca = None if ca is None else ca.expanduser().absolute()
    proxy = settings.proxy if proxy is None else proxy

    def keys(name: str, role: str) -> Identity:
        if home.has_keys and home.identity().name == name:
            return home.identity()
        made = Identity.create(name, role=role, now=clock())
        home.save_identity(made)
        return made

    joined = joining.join(url, code, roles=(ROLE,), keys=keys, proxy=proxy, ca=ca)
    home.save_hub(
        {
            "url": url,
            "proxy": proxy,
            "ca": None if ca is None else str(ca),
            "federation": joined.federation,
            "broker": joined.broker,
            "trust": joined.hub.to_json(),
        }
    )
    return membership(home)


def membership(home: Home) -> Membership:
    """Return what joining found out.

    Raises:
        ArgumentError: this node has not joined a hub.
    """
    hub, identity = home.hub(), home.identity()
    trust = HubTrust.from_json(hub["trust"])
    mark = fingerprint(trust.root, identity.root.public)
    url = home.settings.hub.url or hub["url"]
    return Membership(identity.name, hub["federation"], url, mark, hub["broker"])


def client_of(
    home: Home,
    *,
    identity: Identity | None = None,
    timeout: float = 30.0,
    patience: float | None = 30.0,
    waiting: Waiting | None = None,
) -> HubClient:
    """Return the way to the hub.

    Args:
        home: the node's folder.
        identity: who calls; by default the site.
        timeout: seconds of silence after which a connection counts as lost.
        patience: seconds for which a call is tried again; None: for ever.
        waiting: told when the hub does not answer.

    Raises:
        ArgumentError: this node has not joined a hub.
    """
    hub, settings = home.hub(), home.settings.hub
    ca = home.ca or (Path(hub["ca"]) if hub["ca"] else None)

    def renewed(trust: HubTrust) -> None:
        """Keep the hub's new working keys, which its root key certified."""
        home.save_hub({**home.hub(), "trust": trust.to_json()})

    return HubClient(
        settings.url or hub["url"],
        identity or home.identity(),
        HubTrust.from_json(hub["trust"]),
        proxy=hub["proxy"] if settings.proxy is None else settings.proxy,
        ca=ca,
        timeout=timeout,
        patience=patience,
        waiting=waiting,
        renewed=renewed,
    )


def rotate_keys(home: Home, *, clock: Callable[[], float] = time.time) -> int:
    """Give this site new working keys under its root key; return their serial.

    The new keys are kept beside the old ones until the hub has them, so that it can be done again
    whatever happens in between.

    Raises:
        ArgumentError: this node has not joined a hub.
        RequestError: the hub refused.
        UnreachableError: the hub cannot be reached.
    """
    old = home.identity()
    new = home.next_identity() or old.rotated(clock())
    home.save_next_identity(new)
    try:
        _certify(home, new, signed_by=old)
    except UnauthorisedError:  # it has them: an answer was lost
        _certify(home, new, signed_by=new)
    home.adopt_next_identity()
    return new.certificate.serial


def _certify(home: Home, new: Identity, *, signed_by: Identity) -> None:
    with closing(client_of(home, identity=signed_by)) as client:
        client.call("POST", "/v1/certificates", {"certificate": new.certificate.to_json()})


def _joined_already(home: Home) -> ArgumentError:
    known = membership(home)
    got = f"a node that joined {known.url} as {known.site}"
    expected = "a folder without a membership"
    advice = (
        "For another federation, choose another folder: --home DIR. If this site was revoked or "
        "its keys were lost, move the folder away and join with a new code"
    )
    return ArgumentError(Problem(str(home.folder), "", got, expected, advice))

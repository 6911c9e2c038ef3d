"""Who belongs to the federation: invitations, members, their certificates, and revocation.

The registry is small and asked at every request, so it is held in memory beside the database; only
the one process that runs the hub writes it.

What joining proves: the code's secret authenticates both sides' keys (HMAC over the signed
documents), so neither a network that reads nor one that changes what passes can take part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, Row, delete, insert, select, update

from cohortium.data.names import SITE_NAME, SITE_NAME_RULE
from cohortium.errors import ArgumentError, Problem, RefusedError
from cohortium.governance.roster import HUB
from cohortium.hub.leases import Leases
from cohortium.hub.tables import CERTIFICATES, INVITATIONS, MEMBERS
from cohortium.identity import (
    Certificate,
    Document,
    Identity,
    Invitation,
    SignatureError,
    canonical,
    fingerprint,
    key_id,
)
from cohortium.store.database import reading, writing
from cohortium.transport.errors import (
    ClockError,
    ConflictError,
    ExpiredError,
    RequestError,
    RevokedError,
    UnknownError,
)
from cohortium.transport.signing import SKEW, key_parts

_LOG = structlog.get_logger()

ROLES = ("site", "researcher", "coordinator")
HOURS = 72.0
MOST_HOURS = 24.0 * 60
"""How long an invitation holds: by default, and at most."""

KEPT = 7 * 24 * 3600.0
"""Seconds after which an invitation that has expired is forgotten."""


@dataclass(frozen=True)
class Member:
    """A site, a researcher, a coordinator, or the hub itself.

    Attributes:
        name, role, root: who it is, and the key that certifies its working keys.
        certificate: the newest.
        joined: seconds since 1970.
        revoked: when it was revoked, or None.
        reason: why.
        address: where it takes direct links; empty: nowhere.
    """

    name: str
    role: str
    certificate: Certificate
    joined: float
    revoked: float | None = None
    reason: str = ""
    address: str = ""

    @property
    def root(self) -> str:
        return self.certificate.root


@dataclass(frozen=True)
class Open:
    """An invitation that nobody has used: whose, and until when."""

    name: str
    role: str
    expires: float


class Registry:
    """The members of a federation.

    Args:
        engine: the hub's database.
        identity: the hub's keys.
        leases: of the members' processes; they end with a membership's keys.
        clock: seconds since 1970.
        about: what a new member is told about the hub, beside its keys: name, ca, broker.
    """

    def __init__(
        self,
        engine: Engine,
        identity: Identity,
        *,
        leases: Leases,
        clock: Callable[[], float],
        about: Mapping[str, Any],
    ) -> None:
        self._engine, self._leases, self._clock, self._about = engine, leases, clock, about
        self.identity, self.id = identity, key_id(identity.root.public)
        self._members: dict[str, Member] = {}
        self._certificates: dict[tuple[str, int], Certificate] = {}
        self._enrol(identity)
        self._load()

    # -- who is there ------------------------------------------------------------------------------

    def members(self) -> tuple[Member, ...]:
        """Return everybody who joined, the hub first, in the order of joining."""
        return tuple(self._members.values())

    def get(self, name: str) -> Member:
        """Return a member, revoked or not.

        Raises:
            UnknownError: there is none of this name.
        """
        if name not in self._members:
            raise UnknownError(f"{name!r}", "a member of this federation")
        return self._members[name]

    def active(self, name: str) -> Member:
        """Return a member that may act.

        Raises:
            RevokedError: it was revoked.
            UnknownError: there is none of this name.
        """
        member = self.get(name)
        if member.revoked is not None:
            got = f"a request of {name}, which was revoked" + (
                f" ({member.reason})" if member.reason else ""
            )
            raise RevokedError(got, "an active member", "Ask the coordinator")
        return member

    def certificate(self, name: str, serial: int) -> Certificate | None:
        """Return a member's certificate with a serial, old ones included."""
        return self._certificates.get((name, serial))

    def certificates(self, name: str) -> list[Certificate]:
        """Return all certificates of a member, the newest last."""
        known = sorted(key for key in self._certificates if key[0] == name)
        return [self._certificates[key] for key in known]

    def key(self, keyid: str) -> str | None:
        """Return the key that signs requests as "name:serial": the newest of a member, or None."""
        name, serial = key_parts(keyid)
        member = self._members.get(name)
        if member is None or member.certificate.serial != serial:
            return None
        return member.certificate.signing

    # -- joining -----------------------------------------------------------------------------------

    def invite(self, name: str, role: str, *, hours: float = HOURS) -> tuple[Invitation, float]:
        """Return a new invitation and when it expires; an older one to this name is void.

        Raises:
            ArgumentError: no name, role or time that can be given.
            ConflictError: an active member has the name, or anybody one that people take for it.
        """
        _check_invitation(name, role, hours)
        member = self._members.get(name)
        if member is not None and member.revoked is None:
            advice = "Choose another name, or revoke the member first"
            raise ConflictError(f"{name!r}, who is a member", "a name that is free", advice)
        self._check_distinct(name)
        now = self._clock()
        invitation, expires = Invitation.create(self.identity.root.public), now + 3600 * hours
        row: dict[str, Any] = {"name": name, "role": role, "secret": invitation.secret.hex()}
        row |= {"created": now, "expires": expires, "used_by": ""}
        with writing(self._engine) as connection:
            _void_open(connection, name)
            connection.execute(insert(INVITATIONS).values(row))
        return invitation, expires

    def _check_distinct(self, name: str) -> None:
        known = {*self._members, *(each.name for each in self.invited())} - {name}
        alike = [other for other in known if _sound(other) == _sound(name)]
        if alike:
            raise ConflictError(f"{name!r}, much like {alike[0]!r}", "a name of its own")

    def invited(self) -> tuple[Open, ...]:
        """Return the invitations that nobody has used, expired ones included."""
        query = select(INVITATIONS).where(INVITATIONS.c.used_by == "")
        with reading(self._engine) as connection:
            rows = connection.execute(query.order_by(INVITATIONS.c.position)).all()
        return tuple(Open(row.name, row.role, row.expires) for row in rows)

    def join(self, document: Document, mac: str) -> dict[str, Any]:
        """Let in who holds an invitation; who lost the answer may ask again with the same key.

        Args:
            document: kind "join", signed by the joiner's root key: name, role, root, certificate,
                time. Or kind "ask", by any key, to learn name and role first.
            mac: over the document's canonical JSON.

        Returns:
            name, role, fingerprint, `hub` (a document of kind "joined") and its `mac`; to who asks,
            name and role.

        Raises:
            RefusedError: the document is not what it must be.
            RequestError: no invitation, an expired or a used one, another name, a wrong clock.
        """
        now = self._clock()
        _check_clock(document, now)
        row, invitation = self._invitation(document, mac, now)
        if row.used_by:
            self.active(row.name)
        elif now > row.expires:
            raise ExpiredError("a code whose time is over", "one that is new", _ASK)
        if document.kind == "ask":  # the joiner's certificate has to bear the invitation's name
            return {"name": row.name, "role": row.role}
        certificate = _joining(document)
        _check_fits(certificate, row)
        if row.used_by and row.used_by != certificate.root:
            raise ExpiredError("a code that was used already", "one that is new", _ASK)
        if not row.used_by:
            self._admit(certificate, row.position, now)
        return self._welcome(certificate, invitation)

    def _invitation(self, document: Document, mac: str, now: float) -> tuple[Row[Any], Invitation]:
        """Return the invitation with whose secret `mac` was made.

        One that was used and is over helps nobody any more, and is not tried.
        """
        message = canonical(document.to_json())
        helps = (INVITATIONS.c.used_by == "") | (INVITATIONS.c.expires >= now)
        query = select(INVITATIONS).where(helps).order_by(INVITATIONS.c.position.desc())
        with reading(self._engine) as connection:
            rows = connection.execute(query)
            for row in rows:
                invitation = Invitation(self.id, bytes.fromhex(row.secret))
                try:
                    invitation.check(message, mac)
                except SignatureError:
                    continue
                return row, invitation
        raise RequestError("a code that this hub did not give", "one of its invitations", _ASK)

    def _admit(self, certificate: Certificate, position: int, now: float) -> None:
        name = certificate.name
        with writing(self._engine) as connection:
            free = INVITATIONS.c.position == position, INVITATIONS.c.used_by == ""
            used = update(INVITATIONS).where(*free).values(used_by=certificate.root)
            if connection.execute(used).rowcount != 1:
                raise ExpiredError("a code that was used already", "one that is new", _ASK)
            connection.execute(delete(CERTIFICATES).where(CERTIFICATES.c.name == name))
            forgotten = self._leases.forget(connection, name)
            _put_member(connection, certificate, now)
        forgotten()
        _LOG.info("member joined", site=name, role=certificate.role)
        self._certificates = {k: c for k, c in self._certificates.items() if k[0] != name}
        self._remember(Member(name, certificate.role, certificate, now))

    def _welcome(self, certificate: Certificate, invitation: Invitation) -> dict[str, Any]:
        own = self.identity.certificate
        body = {
            **self._about,
            "id": self.id,
            "root": own.root,
            "certificate": own.to_json(),
            "member": certificate.name,
            "member_root": certificate.root,
            "time": self._clock(),
        }
        document = Document.of("joined", body, self.identity.root)
        return {
            "name": certificate.name,
            "role": certificate.role,
            "fingerprint": fingerprint(own.root, certificate.root),
            "hub": document.to_json(),
            "mac": invitation.mac(canonical(document.to_json())),
        }

    # -- keys, and the end of membership -----------------------------------------------------------

    def rotate(self, name: str, certificate: Certificate) -> None:
        """Take a member's new certificate: requests must be signed with the new key from now on.

        Its lease ends with that: who holds the root key says which process is the right one.

        Raises:
            SignatureError: the member's root key did not certify it.
            ConflictError: it is another member's, or its serial did not grow.
        """
        member = self.active(name)
        certificate.check(member.root)
        if (certificate.name, certificate.role) != (member.name, member.role):
            got = f"a certificate of {certificate.name!r} ({certificate.role})"
            raise ConflictError(got, f"one of {name!r} ({member.role})")
        if certificate == member.certificate:
            return
        if certificate.serial <= member.certificate.serial:
            got, expected = f"serial {certificate.serial}", f"above {member.certificate.serial}"
            raise ConflictError(got, expected, "Make new keys with: cohortium node rotate")
        with writing(self._engine) as connection:
            _put_certificate(connection, certificate)
            forgotten = self._leases.forget(connection, name)
        forgotten()
        _LOG.info("keys rotated", site=name, serial=certificate.serial)
        self._remember(replace(member, certificate=certificate))

    def rotate_own(self, identity: Identity) -> None:
        """Use the hub's new working keys."""
        self._enrol(identity)
        self._remember(replace(self._members[HUB], certificate=identity.certificate))
        self.identity = identity

    def revoke(self, name: str, reason: str) -> Member:
        """End a membership at once. The name can be invited again, with other keys.

        Raises:
            UnknownError: there is no such member.
            ConflictError: it is the hub itself.
        """
        member = self.get(name)
        if name == HUB:
            raise ConflictError("the hub itself", "a member")
        if member.revoked is None:
            member = replace(member, revoked=self._clock(), reason=reason)
            change = {"revoked": member.revoked, "reason": reason}
            with writing(self._engine) as connection:
                connection.execute(update(MEMBERS).where(MEMBERS.c.name == name).values(change))
                _void_open(connection, name)
                forgotten = self._leases.forget(connection, name)
            forgotten()
            _LOG.info("member revoked", site=name)
            self._remember(member)
        return member

    def set_address(self, name: str, address: str) -> None:
        """Keep where a member takes direct links."""
        member = self.active(name)
        if member.address != address:
            with writing(self._engine) as connection:
                change = update(MEMBERS).where(MEMBERS.c.name == name).values(address=address)
                connection.execute(change)
            self._remember(replace(member, address=address))

    def sweep(self) -> None:
        """Forget invitations that ended long ago, their secrets included."""
        old = INVITATIONS.c.expires < self._clock() - KEPT
        with writing(self._engine) as connection:
            connection.execute(delete(INVITATIONS).where(old))

    # -- memory ------------------------------------------------------------------------------------

    def _enrol(self, identity: Identity) -> None:
        """Write an identity that this machine made: the hub's, or its first coordinator's."""
        own = identity.certificate
        with writing(self._engine) as connection:
            query = select(MEMBERS.c.serial).where(MEMBERS.c.name == own.name)
            serial = connection.execute(query).scalar()
            if serial is None:
                _put_member(connection, own, self._clock())
            elif serial < own.serial:
                _put_certificate(connection, own)

    def enrol(self, identity: Identity) -> None:
        """Make a member of an identity that was made on this machine: the first coordinator."""
        self._enrol(identity)
        self._load()

    def _load(self) -> None:
        with reading(self._engine) as connection:
            certificates = connection.execute(select(CERTIFICATES)).all()
            members = connection.execute(select(MEMBERS).order_by(MEMBERS.c.position)).all()
        for row in certificates:
            self._certificates[row.name, row.serial] = Certificate.from_json(row.certificate)
        for row in members:
            newest = self._certificates[row.name, row.serial]
            self._members[row.name] = Member(
                row.name, row.role, newest, row.joined, row.revoked, row.reason, row.address
            )

    def _remember(self, member: Member) -> None:
        self._certificates[member.name, member.certificate.serial] = member.certificate
        self._members[member.name] = member


_ASK = "Ask the coordinator for a new code: cohortium hub invite NAME"


def _check_invitation(name: str, role: str, hours: float) -> None:
    checks = (
        ("name", SITE_NAME.fullmatch(name) is not None, repr(name), SITE_NAME_RULE),
        ("role", role in ROLES, repr(role), f"one of {', '.join(ROLES)}"),
        ("hours", 0 < hours <= MOST_HOURS, f"{hours:g}", f"above 0 and at most {MOST_HOURS:g}"),
    )
    problems = [
        Problem("invitation", key, got, want) for key, fits, got, want in checks if not fits
    ]
    if problems:
        raise ArgumentError(*problems)


def _sound(name: str) -> str:
    """Return what people make of a name."""
    return " ".join(name.split()).casefold()


def _void_open(connection: Connection, name: str) -> None:
    unused = INVITATIONS.c.name == name, INVITATIONS.c.used_by == ""
    connection.execute(delete(INVITATIONS).where(*unused))


def _joining(document: Document) -> Certificate:
    """Return the certificate of who signed a "join" document with its root key."""
    body = document.check("join", document.key)
    wanted = {"name", "role", "root", "certificate", "time"}
    if body.keys() != wanted:
        raise RefusedError(f"a join with other entries than {', '.join(sorted(wanted))}")
    certificate = Certificate.from_json(body["certificate"])
    certificate.check(document.key)
    said = body["name"], body["role"], body["root"]
    if said != (certificate.name, certificate.role, certificate.root):
        raise RefusedError("a join that says something else than its certificate")
    return certificate


def _check_clock(document: Document, now: float) -> None:
    at = document.body.get("time")
    if not isinstance(at, int | float) or isinstance(at, bool) or not 0 <= at < 1 << 53:
        raise RefusedError("a join whose time is none")
    if abs(at - now) > SKEW:
        got, expected = f"the time {at:.0f}", f"within {SKEW:.0f} s of the hub's, {now:.0f}"
        raise ClockError(got, expected, "Set the clock that is wrong, best by NTP")


def _check_fits(certificate: Certificate, row: Row[Any]) -> None:
    if (certificate.name, certificate.role) != (row.name, row.role):
        got = f"{certificate.name!r} ({certificate.role})"
        raise ConflictError(got, f"{row.name!r} ({row.role})", "Join under the name on the code")


def _put_member(connection: Connection, certificate: Certificate, now: float) -> None:
    """Add a member, or let one that was revoked come back with other keys."""
    values = {
        "role": certificate.role,
        "root": certificate.root,
        "serial": certificate.serial,
        "joined": now,
        "address": "",
        "revoked": None,
        "reason": "",
    }
    named = MEMBERS.c.name == certificate.name
    if connection.execute(update(MEMBERS).where(named).values(values)).rowcount == 0:
        connection.execute(insert(MEMBERS).values(name=certificate.name, **values))
    _put_certificate(connection, certificate)


def _put_certificate(connection: Connection, certificate: Certificate) -> None:
    name, serial = certificate.name, certificate.serial
    row = {"name": name, "serial": serial, "certificate": certificate.to_json()}
    connection.execute(insert(CERTIFICATES).values(row))
    connection.execute(update(MEMBERS).where(MEMBERS.c.name == name).values(serial=serial))

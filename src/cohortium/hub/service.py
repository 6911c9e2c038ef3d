"""The hub without its network: everything that its API and its commands can ask of it.

All methods are plain and safe to call from any thread; what they return is durable. A caller is
named by its `Member`, which whoever calls has authenticated.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Engine, delete, insert, select

from cohortium.errors import ArgumentError, Problem
from cohortium.governance.roster import HUB
from cohortium.host.tables import EVENTS, SNAPSHOTS
from cohortium.host.tables import MIGRATIONS as JOURNALS
from cohortium.hub.bells import Bells
from cohortium.hub.depot import Depot
from cohortium.hub.folder import SETTINGS, HubFolder
from cohortium.hub.leases import Leases
from cohortium.hub.mailbox import Mailbox
from cohortium.hub.pseudonyms import Pseudonyms
from cohortium.hub.registry import Member, Registry
from cohortium.hub.runs import ENDED, Runs
from cohortium.hub.studies import Studies
from cohortium.hub.tables import FACTS
from cohortium.identity import Certificate, key_id
from cohortium.store.database import open_database, writing
from cohortium.transport.blobs import Blobs, FolderBlobs, ObjectBlobs
from cohortium.transport.errors import RequestError, UnknownError

MIGRATIONS = ("cohortium.hub.migrations", JOURNALS)
DAY = 24 * 3600.0


class HubService:
    """A hub.

    Args:
        folder: the hub's.
        ca: PEM of the authority behind its TLS certificate; empty: one that systems trust.
        clock: seconds since 1970.

    Raises:
        DatabaseError: the database does not open.
        ArgumentError: the folder's settings or keys are damaged, or the database is another hub's.
    """

    def __init__(
        self, folder: HubFolder, *, ca: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        settings, self.folder, self.clock = folder.settings, folder, clock
        self.settings, self.bells = settings, Bells()
        self.engine = open_database(folder.database, migrations=MIGRATIONS)
        self._know_itself(key_id(folder.identity.root.public))
        about = {"name": settings.name, "ca": ca, "broker": settings.broker}
        engine = self.engine
        self.leases = Leases(engine, seconds=settings.lease, clock=clock, bells=self.bells)
        self.registry = Registry(
            engine, folder.identity, leases=self.leases, clock=clock, about=about
        )
        self.registry.enrol(folder.coordinator)
        self.runs = Runs(engine, hub=self.registry.identity.root.public)
        self.depot = Depot(engine, blobs_of(folder), limits=settings.limits, clock=clock)
        self.mailbox = Mailbox(
            engine,
            registry=self.registry,
            runs=self.runs,
            depot=self.depot,
            bells=self.bells,
            limits=settings.limits,
        )
        self.pseudonyms = Pseudonyms(engine, self.registry, on=settings.broker)
        self.studies = Studies(
            engine,
            registry=self.registry,
            runs=self.runs,
            mailbox=self.mailbox,
            depot=self.depot,
            pseudonyms=self.pseudonyms,
            clock=clock,
        )
        self.about = about

    @property
    def id(self) -> str:
        """What members know the hub by."""
        return self.registry.id

    def directory(self, member: Member) -> list[dict[str, Any]]:
        """Return the members that one may know: itself, the hub, and those of common runs.

        A coordinator sees all. Behind an honest broker the others appear under their pseudonyms, as
        their certificates do, without addresses, and as if never online: when a hospital's
        network fails, its neighbours know whose it is.
        """
        if member.role == "coordinator":
            return [self._entry(each) for each in self.registry.members()]
        if self.settings.broker:
            known = [self.registry.get(name) for name in (HUB, member.name)]
            return [self._entry(each) for each in known] + self._pseudonymous(member)
        names = {HUB, member.name}
        for run in self.runs.of(member.name):
            names |= run.hosts.keys()
        return [self._entry(m) for m in self.registry.members() if m.name in names]

    def certificate(
        self, member: Member, host: str, *, serial: int = 0, run: str = ""
    ) -> Certificate:
        """Return the newest certificate of a host that a member may know, or that of a serial.

        Args:
            member: who asks.
            host: whose.
            serial: which; 0: the newest.
            run: in which the host has that name.

        Raises:
            UnknownError: there is none.
        """
        unknown = UnknownError(f"the certificate of {host!r}", "one of a member of common runs")
        if run:
            found = self.runs.get(run)
            if member.name not in found.hosts or host not in found.members:
                raise unknown
            if found.hides(host):
                pinned = found.certificate(host)
                if serial not in (0, pinned.serial):
                    raise unknown
                return pinned
        elif host not in {entry["name"] for entry in self.directory(member)}:
            raise unknown
        newest = self.registry.get(host).certificate
        certificate = self.registry.certificate(host, serial) if serial else newest
        if certificate is None:
            raise unknown
        return certificate

    def run(self, member: Member, name: str) -> dict[str, Any]:
        """Return a run that a member is in.

        Raises:
            UnknownError: there is none.
        """
        run = self.runs.get(name)
        if member.name not in run.hosts and member.role != "coordinator":
            raise UnknownError(f"the run {name!r}", "a run that you are in")
        return run.to_json()

    def end(self, member: Member, name: str, status: str, reason: str) -> None:
        """Keep how a run ended, as the host of the party that closes its rounds says.

        Raises:
            RequestError: the member is not that host.
        """
        run = self.runs.get(name)
        closer = run.roster.plan(self.studies.bundle(run.study)).topology.closer
        if run.hosts.get(member.name) != run.roster.host_of(closer):
            raise RequestError(f"the end of a run, from {member.name}", f"the host of {closer}")
        self.studies.end(name, status, reason)

    def sites(self, member: Member) -> list[dict[str, Any]]:
        """Return everybody who joined or is invited, for a coordinator.

        Raises:
            RequestError: the member is none.
        """
        check_coordinator(member)
        joined = [
            {
                **self._entry(each),
                "joined": each.joined,
                "reason": each.reason,
                "expires": None,
            }
            for each in self.registry.members()
            if each.name != HUB
        ]
        nobody = {"certificate": None, "address": "", "online": False, "revoked": False}
        invited = [
            {"name": each.name, "role": each.role, **nobody, "joined": None, "reason": "",
             "expires": each.expires}
            for each in self.registry.invited()
        ]  # fmt: skip
        return joined + invited

    def revoke(self, member: Member, name: str, reason: str) -> None:
        """End a membership: its requests are refused, its polls end, and no run waits for it.

        Raises:
            RequestError: the caller is no coordinator.
            UnknownError: there is no such member.
        """
        check_coordinator(member)
        self.registry.revoke(name, reason)
        self.mailbox.drop(name)
        self.studies.forget(name)
        for run in self.runs.of(name):
            site = run.hosts[name]
            if run.status not in ENDED and site in {seat.site for seat in run.roster.seats}:
                why = "its membership was revoked"
                self.studies.control(run.id, "exclude", site=site, seconds=0.0, reason=why)

    def sweep(self) -> None:
        """Drop what nobody needs any more: old mail and journals, blobs that nothing refers to."""
        for run in self.mailbox.purge(self.clock() - self.settings.retention * DAY):
            erase_journals(self.engine, self.folder.parties, run)
        self.depot.sweep()
        self.registry.sweep()

    def close(self) -> None:
        """End all polls and let the database go."""
        self.bells.close()
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def _know_itself(self, hub: str) -> None:
        """Write down whose database this is; refuse another hub's."""
        new = {"hub": hub, "generation": secrets.token_hex(8)}
        with writing(self.engine) as connection:
            known = {row.key: row.value for row in connection.execute(select(FACTS))}
            rows = [{"key": key, "value": new[key]} for key in new if key not in known]
            if rows:
                connection.execute(insert(FACTS), rows)
        if known.get("hub", hub) != hub:
            self.engine.dispose()
            got, expected = f"the database of the hub {known['hub']}", f"that of {hub}"
            raise ArgumentError(Problem(SETTINGS, "database", got, expected))

    def _entry(self, member: Member) -> dict[str, Any]:
        return {
            "name": member.name,
            "role": member.role,
            "certificate": member.certificate.to_json(),
            "address": member.address,
            "online": member.name == HUB or self.leases.is_online(member.name),
            "revoked": member.revoked is not None,
        }

    def _pseudonymous(self, member: Member) -> list[dict[str, Any]]:
        return [
            {
                "name": host,
                "role": run.certificate(host).role,
                "certificate": run.certificate(host).to_json(),
                "address": "",
                "online": False,
                "revoked": self.registry.get(name).revoked is not None,
            }
            for run in self.runs.of(member.name)
            for host, name in run.members.items()
            if name not in (HUB, member.name)
        ]


def erase_journals(engine: Engine, folder: Path, run: str) -> None:
    """Drop the journals of the parties that the hub carried in a run, and their models."""
    with writing(engine) as connection:
        for table in (SNAPSHOTS, EVENTS):
            connection.execute(delete(table).where(table.c.run == run))
    shutil.rmtree(folder / run, ignore_errors=True)  # there is none where it carried nobody


def check_coordinator(member: Member) -> None:
    """Raise RequestError if a member is no coordinator."""
    if member.role != "coordinator":
        raise RequestError(f"{member.name}, a {member.role}", "a coordinator")


def blobs_of(folder: HubFolder) -> Blobs:
    """Return where a hub's blobs are."""
    if "://" in folder.blobs:
        return ObjectBlobs(folder.blobs, folder.folder / "uploads")
    return FolderBlobs(Path(folder.blobs))

"""The runs that a hub has started: who is in them, under which names, and how they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, Engine, Row, insert, select, update

from cohortium.governance.roster import HUB, Roster
from cohortium.hub.tables import RUNS
from cohortium.identity import Certificate, Document
from cohortium.store.database import reading, writing
from cohortium.transport.errors import UnknownError

ENDED = frozenset({"finished", "stopped", "failed"})


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        id: 32 hex digits of the roster's digest.
        study: digest of its bundle.
        document: the signed roster.
        roster: what it says.
        members: the name of each of its hosts in this run, to the member behind it. They differ in
            honest broker mode.
        status: "running", "paused", "finished", "stopped" or "failed".
        reason: why, where there is one.
    """

    id: str
    study: str
    document: Document
    roster: Roster
    members: Mapping[str, str]
    status: str
    reason: str

    @cached_property
    def hosts(self) -> Mapping[str, str]:
        """Each member of the run to its name in it."""
        return {member: host for host, member in self.members.items()}

    @cached_property
    def parties(self) -> frozenset[str]:
        """The parties of the plan."""
        return frozenset((*(seat.site for seat in self.roster.seats), *self.roster.hosts))

    def hides(self, host: str) -> bool:
        """Tell whether a host has a name and keys for this run alone: its own would tell who it is.

        Behind an honest broker the sites do; the hub and the researcher are known to all.
        """
        return self.roster.broker and host not in (HUB, self.roster.researcher.name)

    def certificate(self, host: str) -> Certificate:
        """Return the certificate of a host that the roster holds."""
        if host == HUB:
            return self.roster.hub
        if host == self.roster.researcher.name:
            return self.roster.researcher
        return next(seat.certificate for seat in self.roster.seats if seat.site == host)

    def to_json(self) -> dict[str, Any]:
        """Return what its members are told."""
        told = {"study": self.study, "status": self.status, "reason": self.reason}
        return {**told, "roster": self.document.to_json()}


class Runs:
    """All runs, read once: rosters do not change, and one process changes how runs stand.

    Args:
        engine: the hub's database.
        hub: the hub's root key.
    """

    def __init__(self, engine: Engine, *, hub: str) -> None:
        self._engine, self._hub = engine, hub
        self._runs: dict[str, Run] = {}

    def get(self, run: str) -> Run:
        """Return a run.

        Raises:
            UnknownError: there is none.
        """
        if run not in self._runs:
            with reading(self._engine) as connection:
                row = connection.execute(select(RUNS).where(RUNS.c.run == run)).one_or_none()
            if row is None:
                raise UnknownError(f"the run {run!r}", "a run of this hub")
            self._runs[run] = self._read(row)
        return self._runs[run]

    def of(self, member: str) -> list[Run]:
        """Return the runs that a member is in."""
        with reading(self._engine) as connection:
            ids = connection.execute(select(RUNS.c.run).order_by(RUNS.c.started)).scalars().all()
        return [run for run in map(self.get, ids) if member in run.hosts]

    def carried(self) -> list[Run]:
        """Return the runs in which parties that the hub carries have something left to do."""
        with reading(self._engine) as connection:
            query = select(RUNS.c.run).where(RUNS.c.carried).order_by(RUNS.c.started)
            ids = connection.execute(query).scalars().all()
        return [self.get(run) for run in ids]

    def set_down(self, run: str) -> None:
        """Keep that the hub's parties in a run have nothing left to do."""
        with writing(self._engine) as connection:
            connection.execute(update(RUNS).where(RUNS.c.run == run).values(carried=False))

    def add(self, connection: Connection, run: Run, now: float) -> None:
        """Write a new run."""
        row = {"run": run.id, "study": run.study, "roster": run.document.to_json()}
        row |= {"members": dict(run.members), "status": run.status, "reason": run.reason}
        flags = {"carried": HUB in run.roster.hosts.values(), "kept": True}
        connection.execute(insert(RUNS).values(**row, **flags, started=now, ended=None))

    def set_status(
        self, connection: Connection, run: str, status: str, *, reason: str, now: float
    ) -> None:
        """Write how a run stands."""
        values: dict[str, Any] = {"status": status, "reason": reason}
        if status in ENDED:
            values["ended"] = now
        connection.execute(update(RUNS).where(RUNS.c.run == run).values(values))

    def changed(self, run: str, status: str, reason: str) -> Run:
        """Remember what `set_status` wrote, once that is durable."""
        self._runs[run] = replace(self.get(run), status=status, reason=reason)
        return self._runs[run]

    def _read(self, row: Row[Any]) -> Run:
        document = Document.from_json(row.roster)
        return Run(
            row.run,
            row.study,
            document,
            Roster.of(document, hub=self._hub),
            row.members,
            row.status,
            row.reason,
        )

"""A party's journal in a database, its models in files beside it.

An event is durable when `append` returns; its models are written, and forced to disk, before the
row that names them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import ColumnElement, Engine, Table, delete, func, insert, select, update

from cohortium.governance.gate import Gate
from cohortium.host.arrays import Arrays
from cohortium.host.tables import EVENTS, SNAPSHOTS
from cohortium.runtime.actor import Snapshot
from cohortium.runtime.codec import (
    decode_event,
    decode_snapshot,
    encode_event,
    encode_snapshot,
)
from cohortium.runtime.events import Event
from cohortium.store.database import reading, writing
from cohortium.types import Params


class SqlJournal:
    """The journal of one party in one run.

    Args:
        engine: of a database that has the tables of `host.tables`.
        folder: of the service's journals; this one's models lie in `<run>/<party>`.
        run: whose.
        party: whose.
        gate: the party's own; it makes releases of what is read.
    """

    def __init__(self, engine: Engine, folder: Path, *, run: str, party: str, gate: Gate) -> None:
        self.run, self.party = run, party
        self._engine, self._gate = engine, gate
        self._arrays = Arrays(folder / run / quote(party, safe=""))
        self._number = 0

    @property
    def exists(self) -> bool:
        """Whether the party has begun."""
        with reading(self._engine) as connection:
            query = select(SNAPSHOTS.c.run).where(*self._mine(SNAPSHOTS))
            return connection.execute(query).first() is not None

    def append(self, event: Event) -> None:
        """Keep an event; it is durable when this returns."""
        body = encode_event(event, self._arrays.keep)
        row = {"run": self.run, "party": self.party, "number": self._number + 1}
        with writing(self._engine) as connection:
            connection.execute(insert(EVENTS).values(**row, body=body, at=time.time()))
        self._number += 1

    def compact(self, snapshot: Snapshot) -> None:
        """Replace everything by a snapshot, at once or not at all."""
        named: set[str] = set()

        def keep(params: Params) -> str:
            digest = self._arrays.keep(params)
            named.add(digest)
            return digest

        body, key = encode_snapshot(snapshot, keep), {"run": self.run, "party": self.party}
        with writing(self._engine) as connection:
            connection.execute(delete(EVENTS).where(*self._mine(EVENTS)))
            values = {"body": body, "at": time.time()}
            if not connection.execute(
                update(SNAPSHOTS).where(*self._mine(SNAPSHOTS)).values(**values)
            ).rowcount:
                connection.execute(insert(SNAPSHOTS).values(**key, **values))
        self._number = 0
        self._arrays.drop_all_but(named)

    def load(self) -> tuple[Snapshot, Sequence[Event]]:
        """Return the snapshot and the events since."""
        with reading(self._engine) as connection:
            [body] = connection.execute(
                select(SNAPSHOTS.c.body).where(*self._mine(SNAPSHOTS))
            ).one()
            rows = connection.execute(
                select(EVENTS.c.number, EVENTS.c.body)
                .where(*self._mine(EVENTS))
                .order_by(EVENTS.c.number)
            ).all()
        self._number = rows[-1].number if rows else 0
        load = self._arrays.load
        snapshot = decode_snapshot(body, load, self._gate)
        return snapshot, [decode_event(row.body, load, self._gate) for row in rows]

    def last_sign(self) -> float:
        """Return when the journal was last written, seconds since 1970."""
        with reading(self._engine) as connection:
            found = [
                connection.execute(select(func.max(table.c.at)).where(*self._mine(table))).scalar()
                for table in (SNAPSHOTS, EVENTS)
            ]
        return max(at or 0.0 for at in found)

    def erase(self) -> None:
        """Drop the journal of a run that is over."""
        with writing(self._engine) as connection:
            for table in (SNAPSHOTS, EVENTS):
                connection.execute(delete(table).where(*self._mine(table)))
        self._arrays.drop_all_but(())
        if self._arrays.folder.is_dir():
            self._arrays.folder.rmdir()

    def _mine(self, table: Table) -> tuple[ColumnElement[bool], ...]:
        return table.c.run == self.run, table.c.party == self.party

"""The runs that this node takes part in, as its own database remembers them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

from sqlalchemy import Engine, Row, delete, insert, select, update

from cohortium.host.tables import EVENTS, SNAPSHOTS
from cohortium.identity import Document
from cohortium.node.tables import RUNS
from cohortium.store.database import reading, writing

GOING_ON = ("running", "paused")


@dataclass(frozen=True)
class KnownRun:
    """A run.

    Attributes:
        run: 32 hex digits.
        study: digest of its bundle.
        roster: signed by the hub.
        status: "running", "paused", "finished", "stopped", "failed" or "refused".
        reason: why, where there is one.
        trouble: what last went wrong here; study code may have written it.
        round: rounds completed.
        started, changed: seconds since 1970.
    """

    run: str
    study: str
    roster: Document
    status: str
    reason: str
    trouble: str
    round: int
    started: float
    changed: float

    @property
    def goes_on(self) -> bool:
        """Whether it has not ended."""
        return self.status in GOING_ON


@dataclass(frozen=True)
class Runs:
    """A node's runs. `engine`: the node's database; `clock`: seconds since 1970."""

    engine: Engine
    clock: Callable[[], float] = time.time

    def add(
        self, run: str, study: str, roster: Document, *, consent: str = "", refusal: str = ""
    ) -> None:
        """Keep a new run with the digest of the consent to it, or one in which this node does not
        take part, and why.
        """
        now = self.clock()
        new = insert(RUNS).values(
            run=run,
            study=study,
            roster=roster.to_json(),
            consent=consent,
            status="refused" if refusal else "running",
            reason=refusal,
            trouble="",
            round=0,
            started=now,
            changed=now,
        )
        with writing(self.engine) as connection:
            connection.execute(new)

    def used(self, consent: str) -> bool:
        """Tell whether a run has begun on a consent, by its digest."""
        with reading(self.engine) as connection:
            query = select(RUNS.c.run).where(RUNS.c.consent == consent)
            return connection.execute(query).first() is not None

    def get(self, run: str) -> KnownRun | None:
        """Return a run, or None where it is not known here."""
        with reading(self.engine) as connection:
            row = connection.execute(select(RUNS).where(RUNS.c.run == run)).one_or_none()
        return None if row is None else _known(row)

    def all(self) -> list[KnownRun]:
        """Return every run, the newest first."""
        with reading(self.engine) as connection:
            query = select(RUNS).order_by(RUNS.c.started.desc())
            return [_known(row) for row in connection.execute(query).all()]

    def going_on(self) -> list[KnownRun]:
        """Return the runs that have not ended, the oldest first."""
        return [run for run in reversed(self.all()) if run.goes_on]

    def set(self, run: str, **values: Any) -> None:
        """Change `status`, `reason`, `trouble` or `round` of a run."""
        change = update(RUNS).where(RUNS.c.run == run)
        with writing(self.engine) as connection:
            connection.execute(change.values(**values, changed=self.clock()))

    def erase(self, run: str, journals: Path) -> None:
        """Drop the journals of a run that ended; what is known of the run stays."""
        with writing(self.engine) as connection:
            for table in (SNAPSHOTS, EVENTS):
                connection.execute(delete(table).where(table.c.run == run))
        rmtree(journals / run, ignore_errors=True)


def _known(row: Row[tuple[object, ...]]) -> KnownRun:
    return KnownRun(
        row.run,
        row.study,
        Document.from_json(row.roster),
        row.status,
        row.reason,
        row.trouble,
        row.round,
        row.started,
        row.changed,
    )

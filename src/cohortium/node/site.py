"""A node's folder, open: what its commands and its agent work on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, delete, insert, select

from cohortium.host.tables import MIGRATIONS as JOURNALS
from cohortium.node.bundles import Bundles
from cohortium.node.consents import Consents
from cohortium.node.datasets import Datasets
from cohortium.node.folder import Home
from cohortium.node.runs import Runs
from cohortium.node.tables import FACTS
from cohortium.store.database import open_database, reading, writing

MIGRATIONS = ("cohortium.node.migrations", JOURNALS)


@dataclass(frozen=True)
class Site:
    """What a node has on disk.

    Attributes:
        home: its folder.
        engine: its database.
        clock: seconds since 1970.
    """

    home: Home
    engine: Engine
    clock: Callable[[], float] = time.time

    @property
    def datasets(self) -> Datasets:
        """Its records."""
        return Datasets(self.engine, self.home.fingerprint_key(), clock=self.clock)

    @property
    def consents(self) -> Consents:
        """What it was asked and what it answered."""
        return Consents(self.engine)

    @property
    def runs(self) -> Runs:
        """What it takes part in."""
        return Runs(self.engine, self.clock)

    @property
    def bundles(self) -> Bundles:
        """The studies' files."""
        return Bundles(self.home.studies)

    def fact(self, key: str) -> Any:
        """Return what was remembered under a key, or None."""
        with reading(self.engine) as connection:
            query = select(FACTS.c.value).where(FACTS.c.key == key)
            return connection.execute(query).scalar()

    def remember(self, key: str, value: Any) -> None:
        """Keep something under a key; None forgets it."""
        with writing(self.engine) as connection:
            connection.execute(delete(FACTS).where(FACTS.c.key == key))
            if value is not None:
                connection.execute(insert(FACTS).values(key=key, value=value))


@contextmanager
def opened(home: Home, *, clock: Callable[[], float] = time.time) -> Iterator[Site]:
    """Open a node's folder; what is not there yet is made.

    Raises:
        DatabaseError: its database does not open.
    """
    engine = open_database(home.database, migrations=MIGRATIONS)
    try:
        yield Site(home, engine, clock)
    finally:
        engine.dispose()

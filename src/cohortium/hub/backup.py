"""Backups of a hub: its folder and its database in one file, taken while it runs.

The database is read in a transaction that nobody else can write in, and files are linked in the
same moment: what journals and frames name is there. Rows are kept as text, so that a backup can be
restored into the other kind of database: that is how a hub moves from SQLite to PostgreSQL.

A restored hub has forgotten what came after the backup. Its mailbox gets another generation, by
which members notice and send again what was not receipted; its numbers go on far above all that it
ever gave, so that no old acknowledgement swallows new mail. Leases are forgotten.
"""

from __future__ import annotations

import base64
import io
import json
import os
import secrets
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    LargeBinary,
    MetaData,
    Table,
    delete,
    func,
    insert,
    select,
    text,
)

from cohortium.errors import ArgumentError, Problem
from cohortium.hub.folder import SETTINGS, HubFolder, parse_settings
from cohortium.hub.service import MIGRATIONS, blobs_of
from cohortium.hub.tables import DELIVERIES, FACTS, FRAMES, LEASES, STUDY_BLOBS
from cohortium.store.database import connect, migrate, revisions, writing
from cohortium.store.files import write_private

FORMAT = 1
HEAD, TABLES, BLOBS, FOLDER = "backup.json", "tables", "blobs", "folder"
KEPT = (SETTINGS, "identity.json", "coordinator.json", "tls", "parties")
"""What of the folder is in a backup."""

STEP = 1 << 32
"""The numbers of a mailbox go up by this with each restore: more than it could give in between."""


def backup(folder: HubFolder, file: Path) -> None:
    """Write a backup, whether the hub runs or not. It holds the hub's secret keys.

    Blobs in an object store are in it, too: the hub deletes those that nobody needs any more.

    Args:
        folder: the hub's.
        file: what to write; only its owner may read it.

    Raises:
        OSError: there is no room, or no right to write.
    """
    part = file.with_name(f".{file.name}.part")
    engine = connect(folder.database)
    try:
        with tempfile.TemporaryDirectory(dir=folder.folder, prefix=".backup-") as name:
            copy = Path(name)
            with writing(engine) as connection:
                head = _copy(connection, folder, copy)
            write_private(copy / HEAD, json.dumps(head).encode())
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as to:
                with tarfile.open(fileobj=to, mode="w") as tar:
                    for path in sorted(copy.rglob("*")):
                        tar.add(path, path.relative_to(copy).as_posix(), recursive=False)
                to.flush()
                os.fsync(to.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
        engine.dispose()


def restore(
    file: Path, folder: Path, *, database: str | None = None, blobs: str | None = None
) -> HubFolder:
    """Make a hub's folder from a backup.

    Args:
        file: what `backup` wrote.
        folder: where to; it must not be there, or be empty.
        database: where the tables go; by default as the hub's settings say. It must be empty.
        blobs: where blobs go; by default as the hub's settings say.

    Raises:
        ArgumentError: the file is no backup, or the folder or the database is not empty.
        DatabaseError: the database does not open, or the backup is of a newer version.
    """
    if folder.exists() and any(folder.iterdir()):
        got, advice = "a folder with something in it", "Name one that is not there yet"
        raise ArgumentError(Problem(str(folder), "", got, "an empty folder", advice))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return _restore(file, folder, {"database": database, "blobs": blobs})
    except BaseException:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


def _restore(file: Path, folder: Path, places: Mapping[str, str | None]) -> HubFolder:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".restore-") as name:
        copy = Path(name)
        head = _unpack(file, copy)
        hub = HubFolder(folder)
        settings = parse_settings((copy / FOLDER / SETTINGS).read_bytes())
        given = {key: place for key, place in places.items() if place is not None}
        settings = settings.model_copy(update=given)
        for kept in (copy / FOLDER).iterdir():
            kept.rename(folder / kept.name)
        hub.save_settings(settings)
        _fill(hub, copy / TABLES, head["revisions"])
        kept_blobs = blobs_of(hub)
        for path in sorted((copy / BLOBS).glob("??/*")):
            kept_blobs.put(path.name, path.read_bytes())
    return hub


# --- writing ---


def _copy(connection: Connection, folder: HubFolder, copy: Path) -> dict[str, Any]:
    """Copy everything while nobody else writes; return what the backup says of itself."""
    tables = _tables(connection)
    (copy / TABLES).mkdir()
    for table in tables:
        with (copy / TABLES / table.name).open("w", encoding="ascii") as lines:
            for row in connection.execute(select(table)).mappings():
                lines.write(json.dumps(dict(row), default=_as_text) + "\n")
    (copy / FOLDER).mkdir()
    for name in KEPT:
        _link(folder.folder / name, copy / FOLDER / name)
    blobs = blobs_of(folder)
    for digest in _referred(connection):
        to, path = copy / BLOBS / digest[:2] / digest, blobs.path(digest)
        if path is not None:
            _link(path, to)
        elif (size := blobs.size(digest)) is not None:
            to.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_private(to, blobs.read(digest, 0, size))
    return {"format": FORMAT, "revisions": revisions(connection)}


def _tables(connection: Connection) -> list[Table]:
    """Return the tables that are there, in an order in which rows can be put in."""
    metadata = MetaData()
    metadata.reflect(connection)
    return [table for table in metadata.sorted_tables if table.name != "alembic_version"]


def _referred(connection: Connection) -> Iterable[str]:
    return {
        *connection.execute(select(FRAMES.c.blob).where(FRAMES.c.blob != "")).scalars(),
        *connection.execute(select(STUDY_BLOBS.c.blob)).scalars(),
    }


def _link(path: Path, to: Path) -> None:
    """Link a file or the files of a folder; what vanishes meanwhile is not needed any more."""
    if path.is_dir():
        for inner in path.iterdir():
            _link(inner, to / inner.name)
        return
    to.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with suppress(FileNotFoundError):
        try:
            to.hardlink_to(path)
        except OSError:  # another file system, such as a folder of blobs elsewhere
            write_private(to, path.read_bytes())


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    raise TypeError(f"a column of {type(value).__name__}")


# --- reading ---


def _unpack(file: Path, copy: Path) -> dict[str, Any]:
    try:
        with tarfile.open(file) as tar:
            tar.extractall(copy, filter="data")
        head: dict[str, Any] = json.loads((copy / HEAD).read_bytes())
    except (OSError, ValueError, tarfile.TarError) as error:
        advice = "Name a file that this command wrote: cohortium hub backup FILE"
        got = f"a file that cannot be read ({error})"
        raise ArgumentError(Problem(str(file), "", got, "a hub's backup", advice)) from error
    if head.get("format") != FORMAT:
        got, advice = f"a backup of format {head.get('format')}", "Install a newer version"
        raise ArgumentError(Problem(str(file), "", got, f"format {FORMAT}", advice))
    return head


def _fill(folder: HubFolder, rows: Path, at: Iterable[str]) -> None:
    """Make the tables as the backup knew them, put its rows in, and bring them up to date."""
    engine = connect(folder.database)
    try:
        with writing(engine) as connection:
            if _tables(connection):
                got, advice = "a database with tables", "Name one that is empty: --database URL"
                where = engine.url.render_as_string(hide_password=True)
                raise ArgumentError(Problem(where, "", got, "an empty database", advice))
        migrate(engine, MIGRATIONS, to=tuple(at))
        with writing(engine) as connection:
            for table in _tables(connection):
                _put(connection, table, rows / table.name)
        migrate(engine, MIGRATIONS)
        with writing(engine) as connection:
            _begin_anew(connection)
    finally:
        engine.dispose()


def _put(connection: Connection, table: Table, path: Path) -> None:
    with path.open(encoding="ascii") as file:
        for batch in _batches(file):
            connection.execute(insert(table), [_row(table, line) for line in batch])
    _go_on_counting(connection, table)


def _batches(lines: io.TextIOBase) -> Iterator[list[str]]:
    batch: list[str] = []
    for line in lines:
        batch.append(line)
        if len(batch) == 500:
            yield batch
            batch = []
    if batch:
        yield batch


def _row(table: Table, line: str) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(line)
    for column in table.columns:
        if isinstance(column.type, LargeBinary) and row[column.name] is not None:
            row[column.name] = base64.b64decode(row[column.name])
    return row


def _go_on_counting(connection: Connection, table: Table) -> None:
    """Let PostgreSQL's counters go on behind the rows; SQLite's do."""
    column = table.autoincrement_column
    if connection.dialect.name == "postgresql" and column is not None and column.identity is None:
        if column.server_default is None:
            return
        last = connection.execute(select(func.max(column))).scalar()
        _count_from(connection, table, (last or 0) + 1)


def _count_from(connection: Connection, table: Table, number: int) -> None:
    """Let the next row of a table have a number."""
    column = next(iter(table.primary_key.columns))
    if connection.dialect.name == "postgresql":
        sequence = func.pg_get_serial_sequence(table.name, column.name)
        connection.execute(select(func.setval(sequence, number, False)))
        return
    key = {"name": table.name}
    connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), key)
    query = text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :seq)")
    connection.execute(query, {**key, "seq": number - 1})


def _begin_anew(connection: Connection) -> None:
    """Give the mailbox another generation, and forget whose process was the newest."""
    query = select(FACTS.c.value).where(FACTS.c.key == "restored")
    times = int(connection.execute(query).scalar() or 0) + 1
    connection.execute(delete(FACTS).where(FACTS.c.key.in_(("restored", "generation"))))
    facts = {"restored": str(times), "generation": secrets.token_hex(8)}
    rows = [{"key": key, "value": value} for key, value in facts.items()]
    connection.execute(insert(FACTS), rows)
    connection.execute(delete(LEASES))
    _count_from(connection, DELIVERIES, times * STEP)

"""The contract of a service's database, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import itertools
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError, OperationalError
from tests.store.servers import BACKENDS, new_database, postgresql

from cohortium.store.database import (
    DatabaseError,
    is_away,
    is_full,
    open_database,
    reading,
    revisions,
    writing,
)

HUB = "cohortium.hub.migrations"


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return new_database(request.param, tmp_path)


@pytest.fixture
def engine(place: str) -> Iterator[Engine]:
    engine = open_database(place, migrations=HUB)
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE counters (name TEXT PRIMARY KEY, n INTEGER)"))
        connection.execute(text("INSERT INTO counters VALUES ('a', 0)"))
    yield engine
    engine.dispose()


def write(engine: Engine, *statements: str) -> None:
    with writing(engine) as connection:
        for statement in statements:
            connection.execute(text(statement))


def count(engine: Engine) -> int:
    with reading(engine) as connection:
        return int(connection.execute(text("SELECT n FROM counters")).scalar_one())


def test_what_was_written_is_there_when_it_is_opened_again(engine: Engine, place: str) -> None:
    write(engine, "UPDATE counters SET n = 7")
    engine.dispose()

    again = open_database(place, migrations=HUB)

    assert count(again) == 7
    again.dispose()


def test_a_transaction_that_raises_leaves_nothing(engine: Engine) -> None:
    with pytest.raises(IntegrityError):
        write(engine, "UPDATE counters SET n = 7", "INSERT INTO counters VALUES ('a', 1)")

    assert count(engine) == 0


def test_writers_of_two_engines_never_see_each_other_half_way(engine: Engine, place: str) -> None:
    """Reading, then writing: what would be lost if both had read before either wrote."""
    other = open_database(place, migrations=HUB)

    def add(which: Engine) -> None:
        for _ in range(10):
            with writing(which) as connection:
                n = connection.execute(text("SELECT n FROM counters")).scalar_one()
                connection.execute(text("UPDATE counters SET n = :n"), {"n": n + 1})

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(add, [engine, other] * 3))

    assert count(engine) == 60
    other.dispose()


def test_readers_do_not_wait_for_a_writer_and_see_nothing_of_it(engine: Engine) -> None:
    with writing(engine) as connection, ThreadPoolExecutor(1) as pool:
        connection.execute(text("UPDATE counters SET n = 7"))
        assert pool.submit(count, engine).result(timeout=20) == 0

    assert count(engine) == 7


def test_numbers_become_visible_in_their_order(engine: Engine) -> None:
    """Whoever has seen a number has seen all below it: a cumulative acknowledgement needs that."""
    insert = text("INSERT INTO deliveries (host, notice) VALUES ('a', '{}')")
    seen: list[list[int]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            with reading(engine) as connection:
                found = connection.execute(text("SELECT seq FROM deliveries ORDER BY seq"))
                seen.append(list(found.scalars()))

    def write(_: int) -> None:
        for _ in range(5):
            with writing(engine) as connection:
                connection.execute(insert)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    done.set()
    watcher.join()

    for before, after in itertools.pairwise(seen):
        assert after[: len(before)] == before


def test_a_number_is_never_given_twice(engine: Engine) -> None:
    insert = text("INSERT INTO deliveries (host, notice) VALUES ('a', '{}') RETURNING seq")
    numbers = []
    for _ in range(3):
        with writing(engine) as connection:
            numbers.append(connection.execute(insert).scalar_one())
            connection.execute(text("DELETE FROM deliveries"))

    assert numbers == sorted(set(numbers))


START = """
import sys
from cohortium.store.database import open_database
open_database(sys.argv[1], migrations="cohortium.hub.migrations")
"""


def test_services_that_start_at_once_do_not_collide(place: str) -> None:
    starts = [subprocess.Popen([sys.executable, "-c", START, place]) for _ in range(3)]

    assert [start.wait(60) for start in starts] == [0, 0, 0]


def test_each_package_of_revisions_is_a_branch_of_its_own(place: str) -> None:
    open_database(place, migrations=HUB).dispose()

    engine = open_database(place, migrations=[HUB, "cohortium.node.migrations"])

    with reading(engine) as connection:
        assert revisions(connection) == ("hub_0001", "node_0001")
    engine.dispose()


def test_tables_of_a_newer_version_are_refused(engine: Engine, place: str) -> None:
    write(engine, "UPDATE alembic_version SET version_num = 'hub_9999'")

    with pytest.raises(DatabaseError, match=r"hub_9999.*newer version"):
        open_database(place, migrations=HUB)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("mysql://root@localhost/x", "got 'mysql'; expected a file, or postgresql://"),
        ("postgresql://localhost:port/x", "got a URL that cannot be read"),
        ("postgresql://a:secret@127.0.0.1:1/x", "a database that does not open"),
        ("/nowhere/at/all.sqlite", "a file that cannot be written"),
    ],
)
def test_a_place_that_is_none_is_refused(place: str, message: str) -> None:
    with pytest.raises(DatabaseError, match=message) as caught:
        open_database(place, migrations=HUB)

    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "letter.sqlite"
    path.write_bytes(b"Dear colleague, " * 100)

    with pytest.raises(DatabaseError, match="not a database"):
        open_database(path, migrations=HUB)

    assert path.read_bytes() == b"Dear colleague, " * 100


def test_sqlite_forces_every_commit_to_the_disk(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "a.sqlite", migrations=HUB)

    with reading(engine) as connection:
        settings = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("synchronous", "journal_mode", "foreign_keys", "busy_timeout")
        }

    assert settings == {
        "synchronous": 2,  # FULL
        "journal_mode": "wal",
        "foreign_keys": 1,
        "busy_timeout": 30_000,
    }
    engine.dispose()


def test_only_its_owner_reads_a_file(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "a.sqlite", migrations=HUB)

    with writing(engine):
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}

    assert set(modes.values()) == {0o600}
    assert len(modes) > 1  # the journal, too
    engine.dispose()


def test_a_postgresql_that_was_restarted_is_used_again() -> None:
    engine = open_database(postgresql().create(), migrations=HUB)
    write(engine, "INSERT INTO facts VALUES ('a', '1')")

    postgresql().restart()

    write(engine, "INSERT INTO facts VALUES ('b', '2')")
    with reading(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM facts")).scalar_one() == 2
    engine.dispose()


def test_a_postgresql_that_is_away_says_so() -> None:
    engine = open_database(postgresql().create(), migrations=HUB)
    postgresql().stop()
    try:
        with pytest.raises(OperationalError) as caught, reading(engine):
            pass
    finally:
        postgresql().start()

    assert is_away(caught.value)
    assert not is_full(caught.value)
    engine.dispose()


def test_a_full_disk_says_so_and_loses_nothing(tmp_path: Path) -> None:
    """SQLite is kept from growing, as a full disk does; what was there stays."""
    engine = open_database(tmp_path / "a.sqlite", migrations=HUB)
    write(engine, "INSERT INTO facts VALUES ('kept', '1')")
    with engine.connect() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
        connection.rollback()

    big = "INSERT INTO facts VALUES ('big', zeroblob(10000000))"
    with pytest.raises(OperationalError) as caught:
        write(engine, f"PRAGMA max_page_count = {pages}", big)

    assert is_full(caught.value)
    with reading(engine) as connection:
        assert connection.execute(text("SELECT key FROM facts")).scalars().all() == ["kept"]
    engine.dispose()

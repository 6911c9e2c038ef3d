"""The contract of a party's journal, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine
from tests.store.servers import BACKENDS, new_database, postgresql

from cohortium.errors import RunFailedError
from cohortium.governance.gate import Declaration, Gate, Reduced
from cohortium.host.arrays import Arrays
from cohortium.host.journal import SqlJournal
from cohortium.host.tables import MIGRATIONS
from cohortium.learning.task import Cursor
from cohortium.plan.plan import State
from cohortium.runtime.actor import Snapshot
from cohortium.runtime.events import Arrived, Done, TimedOut
from cohortium.store.database import open_database
from cohortium.types import ArraySpec, Layout, Params, PartyId, Update

LAYOUT = Layout((ArraySpec("w", (4,), "float32"), ArraySpec("n", (), "int64")))
GATE = Gate(PartyId("a"), Declaration(LAYOUT, {}))


def params(start: float) -> Params:
    floats = np.arange(start, start + 4, dtype=np.float32)
    return Params(LAYOUT, {"float32": floats, "int64": np.array([3])})


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(backend: str, tmp_path: Path) -> str:
    return new_database(backend, tmp_path)


@pytest.fixture
def engine(place: str) -> Iterator[Engine]:
    engine = open_database(place, migrations=MIGRATIONS)
    yield engine
    engine.dispose()


def journal(engine: Engine, folder: Path, party: str = "a") -> SqlJournal:
    return SqlJournal(engine, folder, run="00" * 16, party=party, gate=GATE)


def done(round_: int, model: Params) -> Done:
    return Done(round_, 0, "train/a", Update(model, 2.0), Cursor(round_, 0), "", 5.0)


def test_what_was_kept_is_there_when_another_process_opens_it(
    engine: Engine, place: str, tmp_path: Path
) -> None:
    kept = journal(engine, tmp_path)
    assert not kept.exists
    kept.compact(Snapshot(State("s"), params(0), {"batches": Cursor(1, 2)}, at=7.0))
    reduced = Reduced(params(9), 2.0)
    release = GATE.received(
        reduced, sender=PartyId("b"), round_=1, attempt=0, step="reduce", number=1
    )
    kept.append(Arrived(release, 1.0))
    kept.append(done(1, params(5)))
    kept.append(TimedOut(1, 0, "reduce", 8.0))
    again = open_database(place, migrations=MIGRATIONS)
    snapshot, events = journal(again, tmp_path).load()
    again.dispose()
    assert (snapshot.state, snapshot.at) == (State("s"), 7.0)
    assert snapshot.model.digest == params(0).digest
    assert snapshot.slots == {"batches": Cursor(1, 2)}
    arrived, trained, late = events
    assert isinstance(arrived, Arrived)
    assert isinstance(arrived.release.payload, Reduced)
    assert arrived.release.payload.params.digest == params(9).digest
    assert isinstance(trained, Done)
    assert trained.update is not None
    assert trained.update.params is not None
    assert trained.update.params.digest == params(5).digest
    assert late == TimedOut(1, 0, "reduce", 8.0)


def test_a_snapshot_replaces_all_before_it_and_drops_the_models_that_nothing_names(
    engine: Engine, tmp_path: Path
) -> None:
    kept = journal(engine, tmp_path)
    kept.compact(Snapshot(State("s"), params(0), {}))
    kept.append(done(1, params(5)))
    kept.compact(Snapshot(State("s", round=1), params(6), {}))
    kept.append(done(2, params(7)))
    snapshot, events = kept.load()
    assert snapshot.state.round == 1
    assert [event.round for event in events if isinstance(event, Done)] == [2]
    files = {path.name for path in (tmp_path / ("00" * 16) / "a").iterdir()}
    assert files == {params(6).digest, params(7).digest}


def test_parties_do_not_see_each_other_s_journals(engine: Engine, tmp_path: Path) -> None:
    one, other = journal(engine, tmp_path, "@aggregator/north"), journal(engine, tmp_path, "b")
    one.compact(Snapshot(State("s"), params(0), {}))
    other.compact(Snapshot(State("s", round=4), params(1), {}))
    one.append(done(1, params(5)))
    assert len(one.load()[1]) == 1
    assert other.load()[1] == []
    one.erase()
    assert not one.exists
    assert other.exists
    assert other.load()[0].state.round == 4


def test_a_damaged_model_is_told_and_not_used(engine: Engine, tmp_path: Path) -> None:
    kept = journal(engine, tmp_path)
    kept.compact(Snapshot(State("s"), params(0), {}))
    [path] = (tmp_path / ("00" * 16) / "a").iterdir()
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(RunFailedError, match="damaged"):
        Arrays(path.parent).load(path.name)
    path.unlink()
    with pytest.raises(RunFailedError, match="lacks"):
        Arrays(path.parent).load(params(0).digest)


def test_a_postgresql_that_was_restarted_in_between_loses_nothing(tmp_path: Path) -> None:
    engine = open_database(postgresql().create(), migrations=MIGRATIONS)
    kept = journal(engine, tmp_path)
    kept.compact(Snapshot(State("s"), params(0), {}))
    kept.append(done(1, params(5)))
    postgresql().restart()
    kept.append(TimedOut(1, 0, "reduce", 8.0))
    assert len(kept.load()[1]) == 2
    engine.dispose()

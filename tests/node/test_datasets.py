"""A site's records: found, fingerprinted, and not trusted to be as they were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cohortium.errors import ArgumentError, DataError
from cohortium.node.datasets import Datasets
from cohortium.store.database import open_database

KEY = bytes(32)


@pytest.fixture
def datasets(tmp_path: Path) -> Iterator[Datasets]:
    engine = open_database(tmp_path / "node.sqlite", migrations="cohortium.node.migrations")
    yield Datasets(engine, KEY, clock=lambda: 5.0)
    engine.dispose()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "hearts.csv"
    path.write_text("age,sick\n61,1\n47,0\n")
    return path


def test_what_was_added_is_there_after_a_restart(datasets: Datasets, table: Path) -> None:
    added = datasets.add("hearts", table)
    assert added.summary.rows == 2
    assert list(added.summary.columns) == ["age", "sick"]
    assert datasets.all() == [added]
    assert Datasets(datasets.engine, KEY).get("hearts") == added
    assert datasets.get(None) == added
    assert datasets.is_unchanged(added)


def test_relative_paths_hold_wherever_the_node_starts(
    datasets: Datasets, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(table.parent)
    datasets.add("hearts", Path("hearts.csv"))
    monkeypatch.chdir("/")
    assert datasets.is_unchanged(datasets.get("hearts"))


def test_a_changed_value_is_noticed(datasets: Datasets, table: Path) -> None:
    added = datasets.add("hearts", table)
    assert datasets.approved("hearts", added.fingerprint) == added.dataset
    table.write_text("age,sick\n61,1\n48,0\n")
    assert not datasets.is_unchanged(added)
    with pytest.raises(DataError, match="data add hearts"):
        datasets.approved("hearts", added.fingerprint)
    again = datasets.add("hearts", table)
    assert datasets.all() == [again]
    with pytest.raises(DataError, match="approve again"):
        datasets.approved("hearts", added.fingerprint)


def test_a_fingerprint_can_be_guessed_by_nobody_else(datasets: Datasets, table: Path) -> None:
    mine = datasets.add("hearts", table)
    theirs = Datasets(datasets.engine, bytes(31) + b"x").add("hearts", table)
    assert mine.fingerprint != theirs.fingerprint


def test_only_one_needs_no_name(datasets: Datasets, table: Path) -> None:
    with pytest.raises(ArgumentError, match="data add NAME PATH"):
        datasets.get(None)
    datasets.add("a", table)
    datasets.add("b", table)
    with pytest.raises(ArgumentError, match="one of a, b"):
        datasets.get(None)
    with pytest.raises(ArgumentError, match="'c'"):
        datasets.remove("c")
    datasets.remove("a")
    assert datasets.get(None).dataset.name == "b"
    assert table.exists()


@pytest.mark.parametrize("name", ["", "../up", "a/b", "-x"])
def test_a_name_is_a_name(datasets: Datasets, table: Path, name: str) -> None:
    with pytest.raises(DataError, match="name"):
        datasets.add(name, table)


def test_nothing_there(datasets: Datasets, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        datasets.add("hearts", tmp_path / "none.csv")
    assert datasets.all() == []

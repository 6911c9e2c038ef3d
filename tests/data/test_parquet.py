"""Parquet files as tables: every type of column, and every way in which a file is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from cohortium.data import parquet as module
from cohortium.data.parquet import read_parquet
from cohortium.data.table import read_csv, write_csv
from cohortium.errors import DataError


def saved(folder: Path, columns: Any, **settings: Any) -> Path:
    parquet.write_table(pa.table(columns, **settings), folder / "a.parquet")
    return folder / "a.parquet"


@pytest.mark.parametrize(
    ("column", "numbers"),
    [
        (pa.array([1, 2, 3], pa.int8()), [1, 2, 3]),
        (pa.array([1, None, 3], pa.int64()), [1, np.nan, 3]),
        (pa.array([1.5, None, float("nan")]), [1.5, np.nan, np.nan]),
        (pa.array([0.1, 0.2, 0.3], pa.float32()), np.array([0.1, 0.2, 0.3], np.float32)),
        (pa.array(np.array([1, 2, 3], np.float16)), [1, 2, 3]),
        (pa.array([True, None, False]), [1, np.nan, 0]),
        (pa.array([True, True, False]), [1, 1, 0]),
        (pa.array([Decimal("1.25"), None, Decimal("3.00")]), [1.25, np.nan, 3]),
        (pa.array([None, None, None], pa.null()), [np.nan] * 3),
        (pa.array(["1", "?", " 3"]), [1, np.nan, 3]),
        (pa.array(["1", None, "3"], pa.large_string()), [1, np.nan, 3]),
        (pa.array(["1", "1", "3"]).dictionary_encode(), [1, 1, 3]),
    ],
)
def test_columns_are_numbers_or_missing(tmp_path: Path, column: Any, numbers: Any) -> None:
    table = read_parquet(saved(tmp_path, {"v": column}))
    found = table.column("v")
    assert np.array_equal(found.numbers(), np.asarray(numbers, np.float64), equal_nan=True)
    assert found.missing().tolist() == np.isnan(np.asarray(numbers, np.float64)).tolist()
    assert found.rows.tolist() == [1, 2, 3]
    write_csv(table, tmp_path / "a.csv")
    again = read_csv(tmp_path / "a.csv").column("v")
    assert np.array_equal(again.numbers(), found.numbers(), equal_nan=True)


def test_dates_and_times_are_text(tmp_path: Path) -> None:
    columns = {"day": [date(2024, 1, 31)], "time": [datetime(2024, 1, 31, 12)]}  # noqa: DTZ001
    table = read_parquet(saved(tmp_path, columns))
    assert table.columns["day"].tolist() == ["2024-01-31"]
    assert table.columns["time"].tolist() == ["2024-01-31 12:00:00.000000"]


def csv(path: Path) -> Path:
    path.write_text("x,y\n1,0\n", encoding="utf-8")
    return path


def cut(path: Path) -> Path:
    saved(path.parent, {"v": [1, 2]})
    path.write_bytes(path.read_bytes()[:-9])
    return path


def twice(path: Path) -> Path:
    return saved(path.parent, [pa.array([1]), pa.array([2])], names=["v", "v"])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (csv, "got another or a damaged file; expected a Parquet file that can be read"),
        (cut, "got another or a damaged file"),
        (twice, "column 'v': got the name twice"),
        (lambda path: path, "got no such file"),
        (lambda path: path.parent, "got another or a damaged file"),
        (lambda path: saved(path.parent, {"v": pa.array([], pa.int64())}), "got no rows"),
        (lambda path: saved(path.parent, {}), "got no rows"),
        (
            lambda path: saved(path.parent, {"v": [[1.0]]}),
            "column 'v': got values of type list<item: double>; expected numbers or text",
        ),
        (lambda path: saved(path.parent, {"v": [b"a"]}), "got values of type binary"),
    ],
)
def test_what_is_no_such_table_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], said: str
) -> None:
    with pytest.raises(DataError) as caught:
        read_parquet(make(tmp_path / "a.parquet"))
    assert said in str(caught.value).replace("element", "item")


def test_more_than_fits_into_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="more than 1 GiB"):
        read_parquet(saved(tmp_path, {"v": range(100)}))


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=3), st.data())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_read_or_refused(
    tmp_path: Path, changes: Sequence[tuple[int, int]], data: st.DataObject
) -> None:
    path = saved(tmp_path, {"v": [1, None, 3], "w": ["a", "b", "b"]})
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(1, len(content))) :]
    path.write_bytes(content)
    with suppress(DataError):
        assert len(read_parquet(path)) > 0

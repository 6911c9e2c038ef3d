"""Reading a site's CSV file: every way in which an export goes wrong has its own message."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohortium.data import table as module
from cohortium.data.table import Column, Table, read_csv, write_csv
from cohortium.errors import DataError


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "site.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def column(*values: object) -> Column:
    return Table.of({"v": np.array(values, object)}, where="a.csv").column("v")


def test_a_file_becomes_named_columns(tmp_path: Path) -> None:
    table = read_csv(write(tmp_path, 'age,"city, town"\n41,"Graz, AT"\n\n 52 ,Linz\n'))
    assert list(table.columns) == ["age", "city, town"]
    assert table.columns["city, town"].tolist() == ["Graz, AT", "Linz"]
    assert table.column("age").numbers().tolist() == [41, 52]
    assert table.rows.tolist() == [2, 4]  # as an editor numbers them


def test_a_file_without_a_header_takes_the_names(tmp_path: Path) -> None:
    table = read_csv(write(tmp_path, "1,2\n3,4\n"), names=["a", "b"])
    assert table.columns["b"].tolist() == ["2", "4"]
    assert table.rows.tolist() == [1, 2]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_a_byte_order_mark_and_any_line_end_are_read(tmp_path: Path, line_end: str) -> None:
    content = ("\ufeff" + line_end.join(["ä,b", "1,2"])).encode()
    assert list(read_csv(write(tmp_path, content)).columns) == ["ä", "b"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "an empty file"),
        ("\n\n", "an empty file"),
        ("a,b\n", "no rows"),
        ("a,b\n1,2\n1\n", "row 3: got 1 values; expected 2"),
        ("a,b\n1,2,3\n", "row 2: got 3 values; expected 2"),
        ("a,a\n1,2\n", "column 'a': got the name twice"),
        ("a,\n1,2\n", "column 2: got no name"),
        ("a;b\n1;2\n", "another separator"),
        ("a\tb\n1\t2\n", "another separator"),
        ('a,b\n"1,2\n', "unexpected end of data"),
        (b"a,b\n\xe4,1\n", "not UTF-8, at 4"),
        ("a,b\n1,2\n".encode("utf-16"), "not UTF-8"),
        ("a,b\n1," + "2" * 200_000 + "\n", "field larger than"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: str | bytes, said: str) -> None:
    with pytest.raises(DataError) as caught:
        read_csv(write(tmp_path, content))
    assert said in str(caught.value)
    assert "site.csv" in str(caught.value)


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_csv(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="directory"):
        read_csv(tmp_path)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b\n1,2\n")
    with path.open("r+b") as file:
        file.truncate(module.MAX_BYTES + 1)  # sparse: takes no space
    with pytest.raises(DataError, match="at most 1 GiB"):
        read_csv(path)


@pytest.mark.parametrize("cell", ["", " ", "?", "NA", "NaN", "nan", None])
def test_missing_values(cell: str | None) -> None:
    assert column("1", cell).missing().tolist() == [False, True]
    assert np.isnan(column("1", cell).numbers()).tolist() == [False, True]


@pytest.mark.parametrize("cell", ["high", "1_000", "inf", "-Infinity", "1,5", "0x1F", "5 mg"])
def test_what_is_no_number_is_refused_by_row_and_never_shown(cell: str) -> None:
    with pytest.raises(DataError) as caught:
        column("1", "2", cell, "3", cell).numbers()
    assert "a.csv: column 'v': got another value in row 3 and in 1 more" in str(caught.value)
    assert cell not in str(caught.value).replace("a finite number", "")


def test_levels_compare_numbers_by_value_and_text_by_letters() -> None:
    assert column("1", "1.0", "2", "NA").levels([1, 2]).tolist() == [0, 0, 1, -1]
    assert column("1", "1.0", "no").levels(["1", "no"]).tolist() == [0, -1, 1]
    assert Column("v", np.array([1.0, 2.0]), np.arange(2), "a").levels([2]).tolist() == [-1, 0]


def test_taking_rows_keeps_their_numbers() -> None:
    table = Table.of({"a": np.array([5.0, 6.0, 7.0])}, where="a.csv")
    kept = table.take(np.array([True, False, True]))
    assert kept.rows.tolist() == [1, 3]
    assert kept.columns["a"].tolist() == [5, 7]


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="column 'b'"):
        Table.of({"a": np.zeros(2), "b": np.zeros(3)}, where="a.csv")


def test_a_home_folder_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataError) as caught:
        read_csv(tmp_path / "secret-project" / "a.csv")
    assert str(caught.value).startswith("~/secret-project/a.csv")


CELL = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\r\t,\"'"), max_size=6
).map(str.strip)
NUMBERS: dict[str, st.SearchStrategy[Any]] = {
    "int64": st.integers(-(2**60), 2**60),
    "float64": st.floats(allow_infinity=False),
    "float32": st.floats(width=32, allow_infinity=False),
    "bool": st.booleans(),
}


@given(st.data(), st.integers(1, 5))
def test_what_is_written_reads_as_the_same_values(data: st.DataObject, rows: int) -> None:
    text = data.draw(st.lists(CELL, min_size=rows, max_size=rows))
    dtype = data.draw(st.sampled_from(sorted(NUMBERS)))
    numbers = data.draw(st.lists(NUMBERS[dtype], min_size=rows, max_size=rows))
    columns = {"one, two": np.array(text, object), "x": np.array(numbers, dtype)}
    table = Table.of(columns, where="")
    with TemporaryDirectory() as folder:
        write_csv(table, Path(folder) / "a.csv")
        again = read_csv(Path(folder) / "a.csv")
    assert list(again.columns) == list(columns)
    assert again.columns["one, two"].tolist() == text
    assert np.array_equal(again.column("x").numbers(), table.column("x").numbers(), equal_nan=True)
    assert np.array_equal(again.column("one, two").missing(), table.column("one, two").missing())


def test_missing_values_stay_missing(tmp_path: Path) -> None:
    table = Table.of({"a": np.array([1.5, np.nan]), "b": np.array([None, "?"])}, where="")
    write_csv(table, tmp_path / "a.csv")
    again = read_csv(tmp_path / "a.csv")
    assert [again.column(name).missing().tolist() for name in "ab"] == [[False, True], [True, True]]


@pytest.mark.parametrize("name", ["", " age", "age\n"])
def test_a_name_that_would_not_be_read_back_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        write_csv(Table.of({name: np.zeros(1)}, where=""), tmp_path / "a.csv")

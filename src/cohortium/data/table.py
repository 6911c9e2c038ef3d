"""One site's records as they lie in its file: named columns, row numbers, nothing interpreted yet.

Legend: N rows.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from cohortium.errors import DataError, Problem
from cohortium.types import Array

MISSING = frozenset({"", "?", "NA", "NaN", "nan"})
MAX_BYTES = 1 << 30
"""The largest CSV file that is read whole; a bigger one belongs into a database."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Column:
    """One column, with what a message needs to point at a cell without showing it.

    Attributes:
        name: as in the file.
        values: shape (N,), numbers (NaN is missing) or text (see `MISSING`).
        rows: shape (N,), each value's row number in the file.
        where: the file.
    """

    name: str
    values: Array
    rows: NDArray[np.int64]
    where: str

    def missing(self) -> Mask:
        """Return which values are missing, shape (N,).

        >>> Table.of({"age": np.array(["41", "?"])}, where="a.csv").column("age").missing()
        array([False,  True])
        """
        if self.values.dtype.kind in "fc":
            return np.isnan(self.values)
        if self.values.dtype.kind in "biu":
            return np.zeros(len(self.values), bool)
        return np.array([_text(value) in MISSING for value in self.values], bool)

    def numbers(self) -> NDArray[np.float64]:
        """Return the values as numbers, NaN where missing, shape (N,).

        Raises:
            DataError: a value is text or infinite.

        >>> Table.of({"age": np.array(["41", "?"])}, where="a.csv").column("age").numbers()
        array([41., nan])
        """
        if self.values.dtype.kind in "biuf":
            numbers = self.values.astype(np.float64)
        else:
            numbers = np.array([_number(value) for value in self.values], np.float64)
        self.refuse(np.isinf(numbers), expected="a finite number")
        return numbers

    def levels(self, options: Sequence[int | float | str]) -> NDArray[np.int64]:
        """Return each value's index in `options`, -1 where it is none of them, shape (N,).

        Options that are numbers match by value ("1.0" is 1); text matches exactly.

        >>> Table.of({"cp": np.array(["1.0", "3", "9"])}, where="a.csv").column("cp").levels([1, 3])
        array([ 0,  1, -1])
        """
        if any(isinstance(option, str) for option in options):
            values: Array = np.array([_text(value) for value in self.values], object)
        else:
            values = self.numbers()
        found = np.full(len(values), -1, np.int64)
        for index, option in enumerate(options):
            found[values == option] = index
        return found

    def refuse(self, bad: Mask, *, expected: str, advice: str = "") -> None:
        """Raise a `DataError` that names the first row of `bad` and how many there are.

        Args:
            bad: shape (N,).
            expected: what the column must hold.
            advice: what to do; a sentence about the file and the schema by default.
        """
        if not bad.any():
            return
        first, others = self.rows[int(bad.argmax())], int(bad.sum()) - 1
        got = f"another value in row {first}" + (f" and in {others} more" if others else "")
        advice = advice or "Correct the file, or the study's [data] section."
        raise DataError(Problem(self.where, f"column {self.name!r}", got, expected, advice))


@dataclass(frozen=True, eq=False)
class Table:
    """Named columns of equal length.

    Attributes:
        columns: name to values, shape (N,).
        where: the file, for messages.
        rows: each row's number in the file, shape (N,).
    """

    columns: Mapping[str, Array]
    where: str
    rows: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name, values in self.columns.items():
            if values.shape != self.rows.shape:
                raise ValueError(f"column {name!r} has shape {values.shape}, not {self.rows.shape}")

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, columns: Mapping[str, Array], *, where: str) -> Table:
        """Make a table of arrays whose rows count from 1."""
        n = len(next(iter(columns.values()), ()))
        return cls(dict(columns), where, np.arange(1, n + 1))

    def column(self, name: str) -> Column:
        """Return one column; a `KeyError` where there is none."""
        return Column(name, self.columns[name], self.rows, self.where)

    def take(self, keep: Mask) -> Table:
        """Return the rows of `keep`, shape (N,); they remember their numbers."""
        columns = {name: values[keep] for name, values in self.columns.items()}
        return Table(columns, self.where, self.rows[keep])

    def only(self, names: Sequence[str]) -> Table:
        """Return the named columns, in that order."""
        return Table({name: self.columns[name] for name in names}, self.where, self.rows)


def read_csv(path: Path, *, names: Sequence[str] | None = None) -> Table:
    """Read a comma-separated file in UTF-8, with or without a byte-order mark.

    Args:
        path: the file.
        names: the columns' names where the file has no header.

    Returns:
        A table of text columns. Rows count as in an editor: the header, where there is one, is 1.

    Raises:
        DataError: missing, unreadable, empty, too large, not UTF-8, or not a table.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _error(path, "", "more than 1 GiB", "at most 1 GiB", "Split the file by site.")
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _read(file, path, names)
    except FileNotFoundError as error:
        raise _error(path, "", "no such file", "a CSV file", "Check the path.") from error
    except OSError as error:
        got = error.strerror or "an unreadable file"
        raise _error(path, "", got, "a CSV file that can be read", "Check the file.") from error
    except UnicodeDecodeError as error:
        got = f"a byte that is not UTF-8, at {error.start}"
        raise _error(path, "", got, "UTF-8 text", "Save the file as CSV UTF-8.") from error
    except csv.Error as error:
        raise _error(path, "", str(error), "comma-separated values", "Check its quotes.") from error


def write_csv(table: Table, path: Path) -> None:
    """Write a table as `read_csv` reads it: prepared again, it gives the same records to the bit.

    Args:
        table: at least one row, columns of numbers, true and false (written as 1 and 0), or text.
        path: the file, which is replaced.

    Raises:
        ValueError: a column's name would not be read back.
    """
    if odd := [name for name in table.columns if not name or name != name.strip()]:
        raise ValueError(f"a column named {odd[0]!r} cannot be written")
    cells = [_cells(values) for values in table.columns.values()]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table.columns)
        writer.writerows(zip(*cells, strict=True))


def shown(path: Path) -> str:
    """Return a path for messages, without the home folder's name.

    >>> shown(Path.home() / "data" / "a.csv")
    '~/data/a.csv'
    """
    home = Path.home()
    return f"~/{path.relative_to(home).as_posix()}" if path.is_relative_to(home) else str(path)


def _read(file: TextIO, path: Path, names: Sequence[str] | None) -> Table:
    numbered = _rows(file)
    if names is None:
        names = _header(next(numbered, (1, []))[1], path)
    rows, numbers = [], []
    for number, row in numbered:
        if len(row) != len(names):
            raise _error(
                path,
                f"row {number}",
                f"{len(row)} values",
                f"{len(names)}, one for each column",
                "Check for a comma inside a value that is not quoted.",
            )
        rows.append(row)
        numbers.append(number)
    if not rows:
        raise _error(path, "", "no rows", "one row per patient", "Check that it is the right file.")
    cells = (np.array(column, object) for column in zip(*rows, strict=True))
    columns = dict(zip(names, cells, strict=True))
    return Table(columns, shown(path), np.array(numbers, np.int64))


def _cells(values: Array) -> list[str]:
    """Return text that reads as the same numbers: Python's is the shortest that does."""
    if values.dtype.kind == "f":
        numbers = values.astype(np.float64).tolist()
        return ["" if np.isnan(number) else repr(number) for number in numbers]
    if values.dtype.kind in "biu":
        return [str(int(value)) for value in values.tolist()]
    return [_text(value) for value in values]


def _rows(file: TextIO) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, with the number of the line on which each ends."""
    reader = csv.reader(file, strict=True)
    for row in reader:
        if cells := [cell.strip() for cell in row]:
            yield reader.line_num, cells


def _header(names: list[str], path: Path) -> list[str]:
    if not names:
        raise _error(path, "", "an empty file", "a header and rows", "Check the export.")
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        raise _error(
            path, "header", "one column with another separator", "commas", "Save it with commas."
        )
    for number, name in enumerate(names, start=1):
        if not name:
            raise _error(path, f"column {number}", "no name", "a name in the header", "Name it.")
        if name in names[: number - 1]:
            raise _error(path, f"column {name!r}", "the name twice", "unique names", "Rename one.")
    return names


def _error(path: Path, key: str, got: str, expected: str, advice: str) -> DataError:
    return DataError(Problem(shown(path), key, got, expected, advice))


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def _number(value: object) -> float:
    """Return a number, NaN where it is missing, infinity where it is none (refused by callers)."""
    text = _text(value)
    if text in MISSING:
        return float("nan")
    try:
        return float(text) if "_" not in text else float("inf")
    except ValueError:
        return float("inf")

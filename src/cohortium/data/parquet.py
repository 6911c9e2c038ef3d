"""Parquet files as tables, by pyarrow. Imported only where one is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cohortium.data.extra import needs
from cohortium.data.table import MAX_BYTES, Table, shown
from cohortium.errors import DataError, Problem
from cohortium.types import Array

with needs("pyarrow", "to read Parquet files", extra="tables", instead="or save the file as CSV"):
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet


def read_parquet(path: Path) -> Table:
    """Read a Parquet file whole.

    Args:
        path: the file.

    Returns:
        A table of numbers (missing ones are NaN; true and false are 1 and 0) and text; dates and
        times are text. Rows count from 1.

    Raises:
        DataError: missing, unreadable, empty, too large, no Parquet, or a column of lists, bytes or
            anything else that is neither number nor text.
    """
    try:
        with parquet.ParquetFile(path) as file:
            _check_size(file.metadata, path)
            found = file.read()
        names = found.column_names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            got, expected = "the name twice", "unique names"
            raise _error(path, f"column {twice[0]!r}", got, expected, "Rename one.")
        columns = zip(names, found.columns, strict=True)
        arrays = {name: _values(path, name, values) for name, values in columns}
    except FileNotFoundError as error:
        raise _error(path, "", "no such file", "a Parquet file", "Check the path.") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        expected, advice = "a Parquet file that can be read", "Export it again, or save it as CSV."
        raise _error(path, "", "another or a damaged file", expected, advice) from error
    return Table.of(arrays, where=shown(path))


def _check_size(metadata: pa.FileMetaData, path: Path) -> None:
    """Refuse what would not fit into memory once it is unpacked."""
    groups = range(metadata.num_row_groups)
    size = sum(metadata.row_group(group).total_byte_size for group in groups)
    if size > MAX_BYTES:
        raise _error(path, "", "more than 1 GiB", "at most 1 GiB", "Leave out unused columns.")
    if not metadata.num_rows or not metadata.num_columns:
        expected = "one row per patient"
        raise _error(path, "", "no rows", expected, "Check that it is the right file.")


def _values(path: Path, name: str, values: pa.ChunkedArray) -> Array:
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    if pa.types.is_boolean(kind):
        values, kind = values.cast(pa.int8()), pa.int8()
    if pa.types.is_null(kind):
        return np.full(len(values), np.nan)
    if pa.types.is_integer(kind) and not values.null_count:
        return np.asarray(values.to_numpy())
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return np.asarray(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    if pa.types.is_temporal(kind):
        values, kind = values.cast(pa.string()), pa.string()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return np.array(values.to_pylist(), object)
    expected, advice = "numbers or text", "Export the file without it, or as numbers or text."
    raise _error(path, f"column {name!r}", f"values of type {kind}", expected, advice)


def _error(path: Path, key: str, got: str, expected: str, advice: str) -> DataError:
    return DataError(Problem(shown(path), key, got, expected, advice))

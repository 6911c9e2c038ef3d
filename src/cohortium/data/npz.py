"""Arrays in a file of numpy's: an .npz with inputs `x` and targets `y`.

Legend: N rows.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic
from numpy.lib.npyio import NpzFile

from cohortium.data.arrays import Arrays
from cohortium.data.table import Column, shown
from cohortium.errors import DataError, Problem

MAX_BYTES = 8 << 30
"""The largest arrays, or images as numbers, that are held in memory."""

Header = tuple[tuple[int, ...], np.dtype[np.generic]]
"""An array's shape and dtype."""

_READERS = {(1, 0): read_array_header_1_0, (2, 0): read_array_header_2_0}


def read_npz(path: Path, *, x: str = "x", y: str = "y") -> Arrays:
    """Read inputs and targets; nothing is ever unpickled.

    Args:
        path: the file, as `numpy.savez` writes it.
        x: name of the inputs, numbers of shape (N, ...), taken as they are.
        y: name of the targets, numbers or text of shape (N,) or (N, 1).

    Raises:
        DataError: missing, unreadable, damaged or too large, or arrays that are not such ones.
    """
    with _opened(path) as archive:
        headers = _headers(archive, (x, y), path)
        _check(headers[x], headers[y], path)
        inputs, targets = archive[x], archive[y].reshape(-1)
    column = Column(y, targets, np.arange(len(targets)), shown(path))
    return Arrays(inputs, column, shown(path))


def npz_headers(path: Path, *, x: str = "x", y: str = "y") -> Mapping[str, Header]:
    """Return the shapes and dtypes of both arrays without reading them; as `read_npz`."""
    with _opened(path) as archive:
        headers = _headers(archive, (x, y), path)
        _check(headers[x], headers[y], path)
    return headers


def write_npz(arrays: Arrays, path: Path) -> None:
    """Write arrays as `read_npz` reads them."""
    targets = arrays.target.values
    if targets.dtype.kind == "O":
        targets = np.array([str(value) for value in targets])
    np.savez(path, x=arrays.x, y=targets)


@contextmanager
def _opened(path: Path) -> Iterator[NpzFile]:
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, NpzFile):
                raise _error(path, "", "a single array", "an .npz with x and y", "Use np.savez.")
            with archive:
                yield archive
    except FileNotFoundError as error:
        raise _error(path, "", "no such file", "an .npz file", "Check the path.") from error
    except (OSError, ValueError, EOFError, RuntimeError, BadZipFile, zlib.error) as error:
        expected, advice = "an .npz file that can be read", "Write it again with np.savez."
        raise _error(path, "", "another or a damaged file", expected, advice) from error


def _headers(archive: NpzFile, names: tuple[str, ...], path: Path) -> dict[str, Header]:
    members = archive.zip
    assert members is not None  # it is open
    headers = {}
    for name in names:
        file = f"{name}.npy"
        if file not in members.namelist():
            expected = f"the arrays {' and '.join(names)}"
            raise _error(path, name, "no such array", expected, "Name them so in np.savez.")
        with members.open(file) as member:
            if (version := read_magic(member)) not in _READERS:
                raise ValueError(f"version {version} of numpy's format")
            shape, _, dtype = _READERS[version](member)
        if prod(shape) * dtype.itemsize > members.getinfo(file).file_size:
            raise ValueError("an array that is larger than its file")
        headers[name] = (shape, dtype)
    return headers


def _check(x: Header, y: Header, path: Path) -> None:
    for name, (shape, dtype), kinds in (("x", x, "biuf"), ("y", y, "biufU")):
        if dtype.kind not in kinds:
            expected = "numbers" if name == "x" else "numbers or text"
            advice = "Convert the array; objects are never unpickled."
            raise _error(path, name, f"an array of {dtype.name}", expected, advice)
        if prod(shape) * dtype.itemsize > MAX_BYTES:
            raise _error(
                path, name, "more than 8 GiB", "at most 8 GiB", "Use fewer or smaller rows."
            )
    rows = x[0][0] if x[0] else 0
    if not rows or y[0] not in ((rows,), (rows, 1)):
        expected = "x of shape (N, ...) and y of shape (N,)"
        got = f"x of shape {x[0]} and y of shape {y[0]}"
        raise _error(path, "", got, expected, "Give every row of x one target, at least one.")


def _error(path: Path, key: str, got: str, expected: str, advice: str) -> DataError:
    return DataError(Problem(shown(path), key, got, expected, advice))

"""Arrays in .npz files: what they become, and every way in which one is wrong."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cohortium.data import npz as module
from cohortium.data.npz import npz_headers, read_npz, write_npz
from cohortium.errors import DataError

X = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
Y = np.array([0, 1, 1])


def saved(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


@pytest.mark.parametrize("y", [Y, Y[:, None], Y.astype(">f8"), np.array(["a", "b", "b"])])
def test_arrays_are_taken_as_they_are(tmp_path: Path, y: Any) -> None:
    path = saved(tmp_path, x=X, y=y)
    arrays = read_npz(path)
    assert np.array_equal(arrays.x, X)
    assert (arrays.x.dtype.name, len(arrays)) == ("uint8", 3)
    assert arrays.target.values.tolist() == y.reshape(-1).tolist()
    assert npz_headers(path)["x"] == ((3, 2, 2), np.dtype(np.uint8))


def test_arrays_may_have_other_names_and_be_compressed(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", train_images=X, train_labels=Y, test_images=X)
    arrays = read_npz(tmp_path / "a.npz", x="train_images", y="train_labels")
    assert np.array_equal(arrays.x, X)
    assert arrays.target.name == "train_labels"


def test_what_is_written_reads_as_the_same_arrays(tmp_path: Path) -> None:
    for y in (Y, np.array(["ill", "well", "?"], object)):
        arrays = read_npz(saved(tmp_path, x=X, y=y.astype(str) if y.dtype == object else y))
        write_npz(arrays, tmp_path / "b.npz")
        again = read_npz(tmp_path / "b.npz")
        assert np.array_equal(again.x, X)
        assert again.target.values.tolist() == y.tolist()


def text(path: Path) -> Path:
    path.write_text("x,y\n1,0\n", encoding="utf-8")
    return path


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def single(path: Path) -> Path:
    with path.open("wb") as file:
        np.save(file, X)
    return path


def pickled(path: Path) -> Path:
    with path.open("wb") as file:
        np.save(file, np.array([{"a": 1}]), allow_pickle=True)
    return path


def claims(path: Path) -> Path:
    """Write an archive whose header claims a larger array than there is."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000,), }"
    head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", head)
        archive.writestr("y.npy", head)
    return path


def odd_version(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x09\x00" + bytes(20))
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (text, "got another or a damaged file; expected an .npz file that can be read"),
        (empty, "got another or a damaged file"),
        (pickled, "got another or a damaged file"),
        (claims, "got another or a damaged file"),
        (odd_version, "got another or a damaged file"),
        (single, "got a single array; expected an .npz with x and y"),
        (lambda path: path, "got no such file"),
        (lambda path: path.parent, "got another or a damaged file"),
    ],
)
def test_what_is_no_such_file_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], said: str
) -> None:
    with pytest.raises(DataError) as caught:
        read_npz(make(tmp_path / "a.npz"))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": X}, "y: got no such array; expected the arrays x and y"),
        ({"x": X, "y": Y[:2]}, "got x of shape (3, 2, 2) and y of shape (2,); expected x of shape"),
        ({"x": X, "y": np.stack([Y, Y], 1)}, "y of shape (3, 2)"),
        ({"x": X[:0], "y": Y[:0]}, "got x of shape (0, 2, 2)"),
        ({"x": np.float32(1), "y": Y}, "got x of shape ()"),
        ({"x": X.astype(str), "y": Y}, "x: got an array of str96; expected numbers"),
        ({"x": X.astype(complex), "y": Y}, "x: got an array of complex128"),
        ({"x": X, "y": Y.astype("M8[D]")}, "y: got an array of datetime64"),
        ({"x": X.astype(object), "y": Y}, "x: got an array of object"),
        ({"x": X, "y": np.array([{}, 1, 2], object)}, "y: got an array of object; expected"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, arrays: Any, said: str) -> None:
    for read in (read_npz, npz_headers):
        with pytest.raises(DataError) as caught:
            read(saved(tmp_path, **arrays))
        assert said in str(caught.value)


def test_more_than_fits_into_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 11)
    with pytest.raises(DataError, match="x: got more than 8 GiB"):
        read_npz(saved(tmp_path, x=X, y=Y.astype(np.int8)))


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4), st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_read_or_refused(
    tmp_path: Path, changes: Sequence[tuple[int, int]], data: st.DataObject
) -> None:
    save = data.draw(st.sampled_from([np.savez, np.savez_compressed]))
    save(tmp_path / "a.npz", x=X, y=Y)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(1, len(content))) :]
    (tmp_path / "a.npz").write_bytes(content)
    with suppress(DataError):
        assert len(read_npz(tmp_path / "a.npz")) > 0

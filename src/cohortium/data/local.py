"""A dataset as it lies at one hospital: a table, arrays, or a folder of images with labels.

What a node trains on and what `--data DIR` holds per site is read here: the same records, the same
bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from cohortium.data.arrays import Arrays, check_shapes, prepare_arrays
from cohortium.data.names import SITE_NAME, SITE_NAME_RULE
from cohortium.data.npz import npz_headers, read_npz, write_npz
from cohortium.data.prepare import Prepared, prepare
from cohortium.data.schema import Schema
from cohortium.data.table import Table, read_csv, shown, write_csv
from cohortium.errors import DataError, Problem

Kind = Literal["csv", "parquet", "images", "arrays"]
Records = Table | Arrays
"""One site's records, read and not yet prepared."""

LABELS = "labels.csv"
SUFFIXES: Mapping[str, Kind] = {".csv": "csv", ".parquet": "parquet", ".npz": "arrays"}
OPTIONS: Mapping[Kind, tuple[str, ...]] = {
    "csv": (),
    "parquet": (),
    "images": ("file", "label"),
    "arrays": ("x", "y"),
}
"""What may be called otherwise: the columns of the labels, the arrays in the file."""

CHUNK = 1 << 20


@dataclass(frozen=True)
class LocalDataset:
    """Where a hospital's dataset lies, and what it is. Nothing is read when one is made.

    Attributes:
        name: what the hospital calls it.
        kind: "csv", "parquet", "images" (PNG or JPEG) or "arrays" (an .npz).
        path: the file, or the folder of images.
        labels: of images: a CSV file; by default the folder's `labels.csv`.
        options: other names for what is read: of images the columns `file` and `label` of the
            labels, of arrays `x` and `y`.

    Raises:
        DataError: a name that is none, labels of anything but images, or an unknown option.
    """

    name: str
    kind: Kind
    path: Path
    labels: Path | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not SITE_NAME.fullmatch(self.name):
            raise self._error("name", repr(self.name), SITE_NAME_RULE, "Choose another.")
        if self.kind == "images" and self.labels is None:
            object.__setattr__(self, "labels", self.path / LABELS)
        if self.kind != "images" and self.labels is not None:
            got, expected = f"labels of a dataset of kind {self.kind}", "labels of images only"
            raise self._error("labels", got, expected, "Its target is in the file itself.")
        known = OPTIONS[self.kind]
        for option in self.options:
            if option not in known:
                expected = f"one of {', '.join(known)}" if known else "no option"
                raise self._error("options", repr(option), expected, "Remove it.")

    @classmethod
    def detect(cls, name: str, path: Path, labels: Path | None = None) -> LocalDataset:
        """Return the dataset at a path, by its ending; a folder holds images.

        Raises:
            DataError: nothing is there, or nothing that is read.
        """
        if path.is_dir():
            found = cls(name, "images", path, labels)
            if labels is None and not (path / LABELS).is_file():
                got, expected = f"a folder without {LABELS}", f"a folder of images with {LABELS}"
                advice = "Write one row per image: file,label."
                raise found._error("", got, expected, advice)
            return found
        kind = SUFFIXES.get(path.suffix.lower())
        if not path.is_file() or kind is None:
            got = f"a file that ends in {path.suffix!r}" if path.is_file() else "no such file"
            expected = f"a file that ends in {', '.join(SUFFIXES)}, or a folder of images"
            raise DataError(Problem(shown(path), "", got, expected, "Check the path."))
        return cls(name, kind, path, labels)

    def _error(self, key: str, got: str, expected: str, advice: str) -> DataError:
        return DataError(Problem(shown(self.path), key, got, expected, advice))


class Demands(Protocol):
    """What a study demands of records; `Study` is one."""

    @property
    def data(self) -> Schema: ...

    @property
    def task(self) -> DemandedTask: ...

    @property
    def study(self) -> DemandedSeed: ...


class DemandedTask(Protocol):
    """How a study reads targets; its `task`."""

    @property
    def kind(self) -> str: ...

    @property
    def classes(self) -> int | None: ...


class DemandedSeed(Protocol):
    """What a study's splits derive from; its `study`."""

    @property
    def seed(self) -> int: ...


def read_local(dataset: LocalDataset) -> Records:
    """Read a dataset whole.

    Raises:
        DataError: missing, unreadable, damaged, or not what its kind says.
    """
    match dataset.kind:
        case "csv":
            return read_csv(dataset.path)
        case "parquet":
            from cohortium.data.parquet import read_parquet  # needs pyarrow

            return read_parquet(dataset.path)
        case "arrays":
            return read_npz(dataset.path, **dataset.options)
        case "images":
            from cohortium.data.images import list_images, read_images  # needs Pillow

            assert dataset.labels is not None
            listed = list_images(dataset.path, dataset.labels, **dataset.options)
            return read_images(listed, where=shown(dataset.path))


def prepare_local(dataset: LocalDataset, study: Demands, *, site: str) -> Prepared:
    """Read a dataset and make it ready for a study's training.

    Args:
        dataset: a hospital's.
        study: what is demanded of it.
        site: the hospital's name in the study.

    Returns:
        To the bit what a simulation makes of the same records.

    Raises:
        DataError: the dataset cannot be read, or does not fit the study.
    """
    return prepare_records(read_local(dataset), study, site=site)


def prepare_records(records: Records, study: Demands, *, site: str) -> Prepared:
    """Make a site's records ready for a study's training; as `prepare_local`."""
    schema, kind, classes = study.data, study.task.kind, study.task.classes
    seed = study.study.seed
    if isinstance(records, Arrays):
        return prepare_arrays(
            records, schema=schema, task_kind=kind, classes=classes, seed=seed, site=site
        )
    return prepare(records, schema=schema, task_kind=kind, classes=classes, seed=seed, site=site)


def prepare_sites(sites: Mapping[str, Records], study: Demands) -> dict[str, Prepared]:
    """Make several sites' records ready for a study's training.

    Raises:
        DataError: as `prepare_local`, or inputs of other shapes at other sites.
    """
    prepared = {site: prepare_records(records, study, site=site) for site, records in sites.items()}

    def refuse_at(site: str, part: str) -> Callable[[str, str, str], DataError]:
        return lambda *said: DataError(Problem(f"site {site!r}", part, *said))

    check_shapes({site: one.raw for site, one in prepared.items()}, refuse_at)
    return prepared


def write_local(records: Records, path: Path, *, name: str) -> LocalDataset:
    """Write records to one file that gives the same bits when it is read and prepared again.

    Args:
        records: a table, which becomes a CSV file, or arrays, which become an .npz.
        path: the file without its ending.
        name: of the dataset.
    """
    if isinstance(records, Arrays):
        file = path.with_name(f"{path.name}.npz")
        write_npz(records, file)
        return LocalDataset(name, "arrays", file)
    file = path.with_name(f"{path.name}.csv")
    write_csv(records, file)
    return LocalDataset(name, "csv", file)


def content_digest(dataset: LocalDataset) -> str:
    """Return the SHA-256 of a dataset's content, as hex: of its bytes and its options.

    Of images: of the labels, and of every image with its path in the folder. It may be guessed
    for a small dataset that others know, so it is for the hospital's own use: what leaves must be
    keyed.

    Raises:
        DataError: a file is missing or cannot be read, or labels and images do not agree.
    """
    sha = hashlib.sha256(repr(sorted(dataset.options.items())).encode())
    if dataset.kind != "images":
        _add(sha, "", dataset.path)
        return sha.hexdigest()
    from cohortium.data.images import list_images  # needs Pillow

    assert dataset.labels is not None
    listed = list_images(dataset.path, dataset.labels, **dataset.options)
    _add(sha, "", dataset.labels)
    for name, file in zip(listed.names, listed.files, strict=True):
        _add(sha, name, file)
    return sha.hexdigest()


@dataclass(frozen=True)
class Summary:
    """What a dataset is, without any of its values.

    Attributes:
        rows: how many.
        columns: name to type, such as "number" or "text", in the dataset's order.
    """

    rows: int
    columns: Mapping[str, str]


def summary(dataset: LocalDataset) -> Summary:
    """Return a dataset's size and its columns' types. Of images only the headers are read.

    Raises:
        DataError: it cannot be read.
    """
    if dataset.kind == "arrays":
        headers = npz_headers(dataset.path, **dataset.options)
        columns = {n: f"{dtype.name} of shape {shape}" for n, (shape, dtype) in headers.items()}
        return Summary(next(iter(headers.values()))[0][0], columns)
    if dataset.kind == "images":
        from cohortium.data.images import list_images, shape_of, told  # needs Pillow

        assert dataset.labels is not None
        listed = list_images(dataset.path, dataset.labels, **dataset.options)
        image = told(shape_of(listed))
        label = _type(Table.of({"label": listed.labels.values}, where=""), "label")
        return Summary(len(listed.files), {"image": image, "label": label})
    table = read_local(dataset)
    assert isinstance(table, Table)
    return Summary(len(table), {name: _type(table, name) for name in table.columns})


def _type(table: Table, name: str) -> str:
    column = table.column(name)
    if column.missing().all():
        return "empty"
    try:
        column.numbers()
    except DataError:
        return "text"
    return "number"


def _add(sha: hashlib._Hash, name: str, path: Path) -> None:
    """Add a file's name, size and bytes, so that no two lists of files give the same stream."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            sha.update(f"{len(name.encode())} {name} {size} ".encode())
            while piece := file.read(CHUNK):
                sha.update(piece)
    except OSError as error:
        got = error.strerror or "an unreadable file"
        expected = "a file that can be read"
        raise DataError(Problem(shown(path), "", got, expected, "Check the file.")) from error

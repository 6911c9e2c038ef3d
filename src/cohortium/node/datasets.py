"""A site's records by its own names: where they lie, and how to tell that they changed.

Nothing is copied. What leaves with a consent is a fingerprint under a key that only this site has:
it tells that records are the same as before, and nothing about them.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, Row, delete, insert, select

from cohortium.data.local import LocalDataset, Summary, content_digest, summary
from cohortium.errors import ArgumentError, DataError, Problem
from cohortium.node.tables import DATASETS
from cohortium.store.database import reading, writing


@dataclass(frozen=True)
class Registered:
    """A dataset as it was when it was added.

    Attributes:
        dataset: where it lies.
        fingerprint: of its content, keyed.
        summary: its size and its columns.
        added: seconds since 1970.
    """

    dataset: LocalDataset
    fingerprint: str
    summary: Summary
    added: float


@dataclass(frozen=True)
class Datasets:
    """The datasets of a node.

    Attributes:
        engine: the node's database.
        key: makes fingerprints.
        clock: seconds since 1970.
    """

    engine: Engine
    key: bytes
    clock: Callable[[], float] = time.time

    def add(self, name: str, path: Path, *, labels: Path | None = None) -> Registered:
        """Register the records at a path under a name; a name that is there is registered anew.

        Raises:
            DataError: nothing is there that can be read, or the name is none.
        """
        labels = labels.expanduser().absolute() if labels else None
        dataset = LocalDataset.detect(name, path.expanduser().absolute(), labels)
        found = Registered(dataset, self._fingerprint(dataset), summary(dataset), self.clock())
        row = {
            "name": name,
            "descriptor": {
                "kind": dataset.kind,
                "path": str(dataset.path),
                "labels": None if dataset.labels is None else str(dataset.labels),
                "options": dict(dataset.options),
            },
            "fingerprint": found.fingerprint,
            "summary": {"rows": found.summary.rows, "columns": dict(found.summary.columns)},
            "added": found.added,
        }
        with writing(self.engine) as connection:
            connection.execute(delete(DATASETS).where(DATASETS.c.name == name))
            connection.execute(insert(DATASETS).values(row))
        return found

    def all(self) -> list[Registered]:
        """Return every dataset, by name."""
        with reading(self.engine) as connection:
            rows = connection.execute(select(DATASETS).order_by(DATASETS.c.name)).all()
        return [_registered(row) for row in rows]

    def get(self, name: str | None) -> Registered:
        """Return a dataset; None is the only one there is.

        Raises:
            ArgumentError: no such dataset, or no only one.
        """
        there = {found.dataset.name: found for found in self.all()}
        if name is None and len(there) == 1:
            return next(iter(there.values()))
        if name is None or name not in there:
            got = "no name" if name is None else f"{name!r}"
            expected = f"one of {', '.join(there)}" if there else "a dataset that was added"
            advice = "Say which: --dataset NAME" if there else "cohortium node data add NAME PATH"
            raise ArgumentError(Problem("arguments", "dataset", got, expected, advice))
        return there[name]

    def remove(self, name: str) -> None:
        """Forget a dataset; its records are not touched.

        Raises:
            ArgumentError: no such dataset.
        """
        self.get(name)
        with writing(self.engine) as connection:
            connection.execute(delete(DATASETS).where(DATASETS.c.name == name))

    def is_unchanged(self, found: Registered) -> bool:
        """Tell whether a dataset's content is what it was when it was added.

        Raises:
            DataError: it cannot be read.
        """
        return hmac.compare_digest(self._fingerprint(found.dataset), found.fingerprint)

    def approved(self, name: str, fingerprint: str) -> LocalDataset:
        """Return a dataset whose content is what a consent was given for.

        Raises:
            ArgumentError: no such dataset.
            DataError: it changed since then, or cannot be read.
        """
        dataset = self.get(name).dataset
        if not hmac.compare_digest(self._fingerprint(dataset), fingerprint):
            got, expected = "records that changed since the study was approved", "the same records"
            advice = f"Look at them, then: cohortium node data add {name} PATH, and approve again"
            raise DataError(Problem(f"dataset {name!r}", "", got, expected, advice))
        return dataset

    def _fingerprint(self, dataset: LocalDataset) -> str:
        return hmac.new(self.key, content_digest(dataset).encode(), hashlib.sha256).hexdigest()


def _registered(row: Row[tuple[object, ...]]) -> Registered:
    where = row.descriptor
    labels = None if where["labels"] is None else Path(where["labels"])
    dataset = LocalDataset(row.name, where["kind"], Path(where["path"]), labels, where["options"])
    columns = row.summary["columns"]
    return Registered(dataset, row.fingerprint, Summary(row.summary["rows"], columns), row.added)

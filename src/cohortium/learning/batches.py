"""Which rows a site trains on, in which order: the same in every engine.

The permutation of epoch e is `derive_rng(seed, "batches", site, e).permutation(rows)`; batches are
cut from it in order and the last short one is kept.

Only work in seconds reads a clock: how many batches fit in is the machine's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from time import monotonic
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cohortium.learning.task import Cursor, TrainJob, Work
from cohortium.types import derive_seed

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive places `start` to `stop` of one epoch's permutation, cut into `batches`."""

    epoch: int
    start: int
    stop: int
    batches: int


def schedule(rows: int, *, batch_size: int, work: Work, cursor: Cursor) -> tuple[list[Run], Cursor]:
    """Return the runs that a job trains on, and where its iterator stands afterwards.

    Work in steps goes on where the cursor stands. Work in epochs is whole passes: what an earlier
    study's steps left of a permutation is dropped. Work in seconds is laid out one pass at a time:
    what is left of the one in progress. Without rows there is nothing to do.

    >>> schedule(10, batch_size=4, work=Work(steps=4), cursor=Cursor(0, 8))
    ([Run(epoch=0, start=8, stop=10, batches=1), Run(epoch=1, start=0, stop=10, batches=3)], \
Cursor(epoch=2, position=0))
    """
    if rows == 0:
        return [], cursor
    if cursor.position >= rows:
        cursor = Cursor(cursor.epoch + 1)
    if work.epochs is not None:
        first = cursor.epoch + (cursor.position > 0)
        whole = -(-rows // batch_size)
        runs = [Run(first + i, 0, rows, whole) for i in range(work.epochs)]
        return runs, Cursor(first + work.epochs)
    if work.seconds is not None:
        return _steps(rows, batch_size, -(-(rows - cursor.position) // batch_size), cursor)
    return _steps(rows, batch_size, work.steps or 0, cursor)


def _steps(rows: int, batch_size: int, steps: int, cursor: Cursor) -> tuple[list[Run], Cursor]:
    runs, epoch, start = [], cursor.epoch, cursor.position
    while steps:
        batches = min(steps, -(-(rows - start) // batch_size))
        stop = min(rows, start + batches * batch_size)
        runs.append(Run(epoch, start, stop, batches))
        steps -= batches
        epoch, start = (epoch + 1, 0) if stop == rows else (epoch, stop)
    return runs, Cursor(epoch, start)


class Shuffler:
    """The permutations of many sites and epochs.

    One generator is keyed anew for each, which gives the bits of `derive_rng` at a fifth of the
    cost of making a generator.
    """

    def __init__(self) -> None:
        self._philox = np.random.Philox(key=0)
        self._rng = np.random.Generator(self._philox)
        self._state = self._philox.state

    def permutation(self, job: TrainJob, epoch: int) -> NDArray[np.int64]:
        """Return the permutation of a job's training rows in an epoch, shape (rows,)."""
        self._state["state"]["key"][0] = derive_seed(job.seed, "batches", job.site, epoch)
        self._philox.state = self._state
        return self._rng.permutation(len(job.data))


class Feed:
    """The batches of one job, as row numbers.

    Args:
        job: what to train.
        batch_size: rows per batch.
        shuffler: makes the permutations.
        first_row: what to add to the row numbers, where several jobs' rows lie in one table.

    Attributes:
        updates: number of batches.
        width: rows of the longest batch.
        cursor: where the iterator stands after the job.
    """

    def __init__(
        self, job: TrainJob, *, batch_size: int, shuffler: Shuffler, first_row: int = 0
    ) -> None:
        rows = len(job.data)
        self._runs, self.cursor = schedule(
            rows, batch_size=batch_size, work=job.work, cursor=job.cursor
        )
        self.updates = sum(run.batches for run in self._runs)
        self.width = min(batch_size, rows)
        self._job, self._shuffler, self._first_row = job, shuffler, first_row
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def windows(self, steps: int) -> Iterator[NDArray[np.int64]]:
        """Yield the rows of all batches, shape (T, width) with T at most `steps`.

        A short batch is filled up with -1.
        """
        for begin in range(0, self.updates, steps):
            rows_TB = np.full((min(steps, self.updates - begin), self.width), -1)
            self.fill(rows_TB, begin)
            yield rows_TB

    def fill(self, rows_TB: NDArray[np.int64], begin: int) -> None:
        """Write the rows of the T batches from number `begin` on.

        Args:
            rows_TB: shape (T, B), B not below `width`; places that are in no batch are left alone.
            begin: number of the first batch.
        """
        steps, width = rows_TB.shape
        flat, first = rows_TB.reshape(-1), -begin
        for run in self._runs:
            last = first + run.batches
            if first < steps and last > 0:
                start, stop = max(0, first) * width, min(steps, last) * width
                shift = run.start - first * width
                taken = self._permutation(run.epoch)[start + shift : stop + shift]
                flat[start : start + len(taken)] = taken
            first = last

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._shuffler.permutation(self._job, epoch)
            self._order += self._first_row
        return self._order


class Walk:
    """The batches of one job from the first to the last, which its work, or the clock, decides.

    Args:
        job: what to train.
        batch_size: rows per batch.
        shuffler: makes the permutations.

    Attributes:
        cursor: where the iterator stands after the batches that were taken.
    """

    def __init__(self, job: TrainJob, *, batch_size: int, shuffler: Shuffler) -> None:
        self.cursor = job.cursor
        self._job, self._batch_size, self._shuffler = job, batch_size, shuffler

    def batches(self, cut: Callable[[Feed], Iterator[Batch]]) -> Iterator[Batch]:
        """Yield the batches that `cut` makes of a feed, until the work is done."""
        seconds = self._job.work.seconds
        if seconds is not None:
            yield from self._until(monotonic() + seconds, cut)
            return
        feed = self._feed()
        yield from cut(feed)
        self.cursor = feed.cursor

    def _until(self, end: float, cut: Callable[[Feed], Iterator[Batch]]) -> Iterator[Batch]:
        while len(self._job.data):
            feed = self._feed()
            for taken, batch in enumerate(cut(feed), start=1):
                yield batch
                if monotonic() >= end:
                    self.cursor = self._after(taken)
                    return
            self.cursor = feed.cursor

    def _feed(self) -> Feed:
        job = replace(self._job, cursor=self.cursor)
        return Feed(job, batch_size=self._batch_size, shuffler=self._shuffler)

    def _after(self, steps: int) -> Cursor:
        work, rows = Work(steps=steps), len(self._job.data)
        return schedule(rows, batch_size=self._batch_size, work=work, cursor=self.cursor)[1]

"""Which rows a site trains on, in which order: the same in every engine.

The permutation of epoch e is `derive_rng(seed, "batches", site, e).permutation(rows)`; batches are
cut from it in order and the last short one is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cohortium.learning.task import Cursor, TrainJob, Work
from cohortium.types import derive_seed


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
    study's steps left of a permutation is dropped. Without rows there is nothing to do.

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
    return _steps(rows, batch_size, work.steps or 0, cursor)


def updates(job: TrainJob, *, batch_size: int) -> int:
    """Return how many updates a job does."""
    if job.work.epochs is not None:
        return job.work.epochs * -(-len(job.data) // batch_size)
    return (job.work.steps or 0) if len(job.data) else 0


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

    def chunks(
        self, job: TrainJob, runs: Sequence[Run], *, batch_size: int, most: int
    ) -> Iterator[tuple[NDArray[np.int64], list[int]]]:
        """Yield row numbers in training order, and the lengths of the batches that they make.

        Args:
            job: whose rows.
            runs: of the job's schedule.
            batch_size: rows per batch.
            most: rows to yield at a time; at least a batch is.
        """
        held: list[NDArray[np.int64]] = []
        whole = max(1, most // batch_size) * batch_size
        for run in runs:
            order = self.permutation(job, run.epoch)[run.start : run.stop]
            for begin in range(0, len(order), whole):
                piece = order[begin : begin + whole]
                if sum(map(len, held)) + len(piece) > whole:
                    yield _joined(held, batch_size)
                    held = []
                held.append(piece)
        yield _joined(held, batch_size)


def _joined(
    pieces: Sequence[NDArray[np.int64]], batch_size: int
) -> tuple[NDArray[np.int64], list[int]]:
    lengths: list[int] = []
    for piece in pieces:
        full, rest = divmod(len(piece), batch_size)
        lengths += [batch_size] * full + [rest] * (rest > 0)
    return np.concatenate(pieces) if pieces else np.empty(0, np.int64), lengths

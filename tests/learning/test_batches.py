"""Which rows are trained on: the declared permutations, whole epochs, steps across rounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohortium.learning.batches import Feed, Run, Shuffler, Walk, schedule
from cohortium.learning.task import Cursor, TrainJob, Work
from cohortium.records import Part
from cohortium.types import Params, derive_rng

ROWS = st.integers(1, 40)
SIZES = st.integers(1, 12)


def make_job(rows: int, *, work: Work, site: str = "a") -> TrainJob:
    data = Part(np.zeros((rows, 1), np.float32), np.zeros(rows, np.float32))
    params = Params.of({"w": np.zeros(1, np.float32)})
    return TrainJob(site, 1, 7, params, data, work, Cursor())


@given(ROWS, st.integers(0, 2**40), st.text(max_size=5))
def test_permutations_are_those_that_the_contract_derives(rows: int, epoch: int, site: str) -> None:
    job, shuffler = make_job(rows, work=Work(steps=1), site=site), Shuffler()
    shuffler.permutation(job, epoch + 1)  # what ran before does not matter
    expected = derive_rng(7, "batches", site, epoch).permutation(rows)
    assert np.array_equal(shuffler.permutation(job, epoch), expected)


@given(ROWS, SIZES, st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_steps_of_many_rounds_are_those_of_one_long_round(
    rows: int, size: int, rounds: list[int]
) -> None:
    pieces, cursor = [], Cursor()
    for steps in rounds:
        batches, cursor = lay_out(rows, size, Work(steps=steps), cursor)
        pieces += batches
    assert (pieces, cursor) == lay_out(rows, size, Work(steps=sum(rounds)), Cursor())


@given(ROWS, SIZES, st.integers(1, 4))
def test_epochs_are_whole_passes(rows: int, size: int, epochs: int) -> None:
    runs, cursor = schedule(rows, batch_size=size, work=Work(epochs=epochs), cursor=Cursor(3, 0))
    assert [(run.epoch, run.start, run.stop) for run in runs] == [
        (3 + i, 0, rows) for i in range(epochs)
    ]
    assert cursor == Cursor(3 + epochs, 0)


def test_epochs_drop_what_is_left_of_a_permutation() -> None:
    runs, cursor = schedule(10, batch_size=4, work=Work(epochs=1), cursor=Cursor(2, 4))
    assert runs == [Run(3, 0, 10, 3)]
    assert cursor == Cursor(4, 0)


def test_a_cursor_at_the_end_starts_the_next_permutation() -> None:
    runs, _ = schedule(10, batch_size=4, work=Work(steps=1), cursor=Cursor(2, 10))
    assert runs == [Run(3, 0, 4, 1)]


@pytest.mark.parametrize("work", [Work(epochs=3), Work(steps=3), Work(seconds=3)])
def test_a_site_without_rows_does_nothing(work: Work) -> None:
    assert schedule(0, batch_size=4, work=work, cursor=Cursor(1, 0)) == ([], Cursor(1, 0))
    feed = Feed(make_job(0, work=work), batch_size=4, shuffler=Shuffler())
    assert (feed.updates, feed.width) == (0, 0)


@given(ROWS, SIZES, st.integers(0, 30), st.integers(1, 9), st.integers(0, 3))
def test_a_feed_gives_the_schedules_rows_a_window_at_a_time(
    rows: int, size: int, steps: int, window: int, wider: int
) -> None:
    job, shuffler = make_job(rows, work=Work(steps=steps)), Shuffler()
    feed = Feed(job, batch_size=size, shuffler=shuffler, first_row=100)
    width = size if feed.width == size else feed.width + wider  # as beside a larger site
    batches, cursor = lay_out(rows, size, job.work, job.cursor)
    filled: list[list[int]] = []
    for begin in range(0, feed.updates, window):
        rows_TB = np.full((window, width), -1)
        feed.fill(rows_TB, begin)
        filled += [[row for row in batch if row >= 0] for batch in rows_TB.tolist()]
    orders = {epoch: shuffler.permutation(job, epoch) + 100 for epoch, _, _ in batches}
    expected = [orders[epoch][start:stop].tolist() for epoch, start, stop in batches]
    assert filled[: feed.updates] == expected
    assert not any(filled[feed.updates :])
    assert feed.updates == len(batches)
    assert feed.cursor == cursor


def lay_out(
    rows: int, size: int, work: Work, cursor: Cursor
) -> tuple[list[tuple[int, int, int]], Cursor]:
    """Return each batch as (epoch, start, stop)."""
    runs, cursor = schedule(rows, batch_size=size, work=work, cursor=cursor)
    batches = []
    for run in runs:
        starts = range(run.start, run.stop, size)
        assert len(starts) == run.batches
        batches += [(run.epoch, start, min(start + size, run.stop)) for start in starts]
    return batches, cursor


def walk(job: TrainJob, *, size: int = 4) -> tuple[list[list[int]], Cursor]:
    """Return the rows of the batches that a job takes, and where its iterator stands then."""

    def cut(feed: Feed) -> Iterator[list[int]]:
        for rows_TB in feed.windows(2):
            yield from ([int(row) for row in rows_B if row >= 0] for rows_B in rows_TB)

    walked = Walk(job, batch_size=size, shuffler=Shuffler())
    return list(walked.batches(cut)), walked.cursor


class Clock:
    """Stands still while it is not looked at, and goes on by one second for each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@given(ROWS, SIZES, st.integers(1, 40), st.integers(0, 50))
def test_work_in_seconds_is_the_work_in_steps_that_fits_in(
    rows: int, size: int, seconds: int, position: int
) -> None:
    cursor = Cursor(3, position)
    timed = replace(make_job(rows, work=Work(seconds=seconds)), cursor=cursor)
    counted = replace(timed, work=Work(steps=seconds))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cohortium.learning.batches.monotonic", Clock())
        assert walk(timed, size=size) == walk(counted, size=size)


def test_however_little_time_there_is_one_batch_is_taken() -> None:
    batches, cursor = walk(make_job(10, work=Work(seconds=1e-9)))
    assert (len(batches), cursor) == (1, Cursor(0, 4))


def test_a_site_without_rows_does_not_wait_for_its_time() -> None:
    assert walk(make_job(0, work=Work(seconds=1e9))) == ([], Cursor())

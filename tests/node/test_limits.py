"""Whose turn it is: least served first, within the hospital's limits."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread

import pytest

from cohortium.errors import RefusedError
from cohortium.node.limits import Hours, StoppedError, Turns, check_disk
from cohortium.node.settings import Limits

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("hours", "at", "seconds"),
    [
        (None, "12:00", 0),
        ("20:00-06:00", "12:00", 8 * 3600),
        ("20:00-06:00", "20:00", 0),
        ("20:00-06:00", "05:59", 0),
        ("20:00-06:00", "06:00", 14 * 3600),
        ("08:00-18:00", "12:00", 0),
        ("08:00-18:00", "18:00", 14 * 3600),
        ("08:00-18:00", "07:30", 1800),
    ],
)
def test_hours_may_span_midnight(hours: str | None, at: str, seconds: float) -> None:
    now = datetime.fromisoformat(f"2026-03-01T{at}:00+00:00")
    assert Hours(hours).wait(now) == seconds


class Holder(Thread):
    """A step that holds its turn until it is told to end."""

    def __init__(self, turns: Turns, study: str, order: list[str]) -> None:
        super().__init__()
        self.turns, self.study, self.order = turns, study, order
        self.holds, self.end = Event(), Event()
        self.start()

    def run(self) -> None:
        with self.turns.turn(self.study):
            self.order.append(self.study)
            self.holds.set()
            assert self.end.wait(20)

    def done(self) -> None:
        self.end.set()
        self.join()


def waiting(turns: Turns, count: int) -> None:
    """Return once so many steps wait for a turn."""
    with turns._changed:
        enough = turns._changed.wait_for(
            lambda: sum(a.waiting for a in turns._accounts.values()) == count, 20
        )
    assert enough


@contextmanager
def signalling(turns: Turns) -> Iterator[None]:
    """Wake the test, too, whenever a step begins to wait."""
    enter = turns._enter

    def told(study: str) -> object:
        account = enter(study)
        turns._changed.notify_all()
        return account

    turns._enter = told  # type: ignore[method-assign, assignment]
    yield


def test_the_study_that_had_least_goes_first(tmp_path: Path) -> None:
    turns = Turns(Limits(), tmp_path)
    order: list[str] = []
    with signalling(turns):
        first = Holder(turns, "busy", order)
        assert first.holds.wait(20)
        again = Holder(turns, "busy", order)
        waiting(turns, 1)
        other = Holder(turns, "other", order)
        waiting(turns, 2)
        assert order == ["busy"]
        first.done()
        assert other.holds.wait(20)
        assert order == ["busy", "other"]
        other.done()
        again.done()
    assert order == ["busy", "other", "busy"]


def test_as_many_studies_compute_at_a_time_as_the_hospital_allows(tmp_path: Path) -> None:
    turns = Turns(Limits(studies=2), tmp_path)
    order: list[str] = []
    with signalling(turns):
        holders = [Holder(turns, study, order) for study in ("a", "b", "c")]
        waiting(turns, 1)
        running = [holder for holder in holders if holder.study in order]
        assert len(running) == 2
        running[0].done()
        for holder in holders:
            holder.done()
    assert sorted(order) == ["a", "b", "c"]


def test_who_was_away_does_not_make_up_for_it(tmp_path: Path) -> None:
    spent: dict[str, float] = {}
    turns = Turns(Limits(), tmp_path, spent=spent.__setitem__)
    with turns.turn("old"):
        pass
    turns._accounts["old"].seconds = 1000.0
    with turns.turn("old"):
        assert turns._enter("new").seconds >= 1000.0
    assert spent["old"] >= 0.0


def test_steps_wait_for_the_hour_and_the_stop_wakes_them(tmp_path: Path) -> None:
    turns = Turns(Limits(hours="20:00-06:00"), tmp_path, now=lambda: NOON)
    with signalling(turns), ThreadPoolExecutor(1) as pool:
        step = pool.submit(lambda: turns.turn("study").__enter__())
        waiting(turns, 1)
        turns.stop()
        with pytest.raises(StoppedError):
            step.result(20)


def test_the_hour_that_comes_wakes_them(tmp_path: Path) -> None:
    evening = NOON.replace(hour=19, minute=59, second=59) + timedelta(microseconds=950_000)
    clock = iter([evening, NOON.replace(hour=20)])
    turns = Turns(Limits(hours="20:00-06:00"), tmp_path, now=lambda: next(clock))
    with turns.turn("study"):
        pass
    assert next(clock, None) is None


def test_nothing_starts_on_a_full_disk(tmp_path: Path) -> None:
    limits = Limits(disk_free_gib=1e9)
    with pytest.raises(RefusedError, match="disk_free_gib"):
        check_disk(limits, tmp_path)
    turns = Turns(limits, tmp_path)
    with pytest.raises(RefusedError, match="GiB free"), turns.turn("study"):
        pytest.fail("a step started")
    with pytest.raises(RefusedError, match="GiB free"), turns.turn("study"):
        pytest.fail("the turn was not given back")

"""The histories of faults: they hold, they come again, and they notice what is taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Any

import pytest

from cohortium.runtime.actor import Actor, Snapshot
from cohortium.runtime.events import Effect, Event
from cohortium.runtime.journal import Journaled, MemoryJournal
from cohortium.testing import chaos

MOST = 1500
"""Histories of which at least one must notice."""


def first_problem(histories: int = MOST) -> chaos.Verdict | None:
    verdicts = (chaos.examine(0, number) for number in range(histories))
    return next((verdict for verdict in verdicts if verdict.problem), None)


def test_a_few_hundred_histories_hold() -> None:
    found = first_problem(300)
    assert found is None, found


def test_a_history_comes_again() -> None:
    for number in range(5):
        once, again = list[str](), list[str]()
        first = chaos.examine(3, number, trace=once.append)
        assert first == chaos.examine(3, number, trace=again.append)
        assert once == again
        assert len(once) > 10


# -- what is taken away ----------------------------------------------------------------------------

Patch = Callable[[pytest.MonkeyPatch], None]


def forgotten(field: str) -> Patch:
    """Leave a field of every snapshot as it was at the start of the run."""
    compact = MemoryJournal.compact

    def forget(self: MemoryJournal, snapshot: Snapshot) -> None:
        start = self.__dict__.setdefault("start", self._snapshot)
        compact(self, replace(snapshot, **{field: getattr(start, field)}))

    return lambda patch: patch.setattr(MemoryJournal, "compact", forget)


def _no_append(self: MemoryJournal, event: Event) -> None:
    """Keep nothing."""


def _forgets_what_did_not_leave() -> Patch:
    handle = Journaled.handle

    def without(self: Journaled, event: Event, unsent: Iterable[Effect] = ()) -> list[Effect]:
        return handle(self, event)

    return lambda patch: patch.setattr(Journaled, "handle", without)


def _forgets_what_it_read_at_the_opening() -> Patch:
    snapshot = Actor.snapshot

    def without(self: Actor, effects: Iterable[Effect] = ()) -> Snapshot:
        return replace(snapshot(self, effects), early=tuple(self._early.values()))

    return lambda patch: patch.setattr(Actor, "snapshot", without)


def _never(*_: Any) -> bool:
    return False


TAKEN_AWAY: dict[str, Patch] = {
    # A paused round is not closed, and so no snapshot is taken: see test_controls.
    **{f.name: forgotten(f.name) for f in fields(Snapshot) if f.name != "paused"},
    "the journal's write": lambda patch: patch.setattr(MemoryJournal, "append", _no_append),
    "what did not leave": _forgets_what_did_not_leave(),
    "what was read at the opening": _forgets_what_it_read_at_the_opening(),
    "the look at the receipts": lambda patch: patch.setattr(
        "cohortium.testing.faults.is_behind", _never
    ),
}


@pytest.mark.parametrize("name", TAKEN_AWAY)
def test_what_is_taken_away_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    TAKEN_AWAY[name](monkeypatch)
    assert first_problem() is not None


# -- the command -----------------------------------------------------------------------------------


def test_the_command_counts_alike_in_any_number_of_processes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = []
    for jobs in ("1", "2"):
        assert chaos.main(["--histories", "150", "--seed", "1", "--jobs", jobs]) == 0
        lines.append(capsys.readouterr().out.rpartition(",")[0])
    assert lines[0] == lines[1]
    assert lines[0].startswith("150 histories of seed 1: 0 failed; ")


def test_the_command_says_how_to_see_a_failure_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryJournal, "append", _no_append)
    assert chaos.main(["--histories", "100"]) == 1
    first, again, *_ = capsys.readouterr().out.splitlines()
    number = again.rpartition(" ")[2]
    assert first.startswith(f"history {number}: ")
    assert "--seed 0 --history" in again
    assert chaos.main(["--seed", "0", "--history", number]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == first.partition(": ")[2]
    monkeypatch.undo()
    assert chaos.main(["--seed", "0", "--history", number]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Everything held."

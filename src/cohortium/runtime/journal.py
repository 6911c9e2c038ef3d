"""A party's journal: its events, kept before they are handled. Restart is replay.

When a round opens, a snapshot replaces all events before it, so that a journal stays as short as a
round. What a replay asks for is asked for again: releases are delivered at least once and handled
once, steps that had not reported run again, and give the same bits.

The same releases have the same numbers again. So a party that wakes from an old copy of its journal
can tell: its peers have numbers that it does not know (`is_behind`). It must not go on, or it would
give numbers, and masks and noise that must not repeat, to other values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from cohortium.runtime.actor import Actor, Snapshot
from cohortium.runtime.events import Effect, Event


class Journal(Protocol):
    """Where a party's events are kept."""

    def append(self, event: Event) -> None:
        """Keep an event; it is durable when this returns."""

    def compact(self, snapshot: Snapshot) -> None:
        """Replace everything by a snapshot, at once or not at all."""

    def load(self) -> tuple[Snapshot, Sequence[Event]]:
        """Return the newest snapshot and the events since."""


class MemoryJournal:
    """A journal that outlives its actor, but not the process."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot, self._events = snapshot, list[Event]()

    def append(self, event: Event) -> None:
        """Keep an event."""
        self._events.append(event)

    def compact(self, snapshot: Snapshot) -> None:
        """Replace everything by a snapshot."""
        self._snapshot, self._events = snapshot, []

    def load(self) -> tuple[Snapshot, Sequence[Event]]:
        """Return the snapshot and the events since."""
        return self._snapshot, tuple(self._events)


class Journaled:
    """An actor with its journal: what an engine talks to where parties can die alone.

    Args:
        journal: has the snapshot to start from.
        make: builds the actor at a snapshot.
    """

    def __init__(self, journal: Journal, make: Callable[[Snapshot], Actor]) -> None:
        self.journal, self._make = journal, make
        self.actor: Actor

    def recover(self) -> list[Effect]:
        """Start from the journal, new or left by a crash; return what is to be done, or again.

        Work that the journal knows to be done, and timers that no step waits for, are left out.
        """
        snapshot, events = self.journal.load()
        self.actor = self._make(snapshot)
        effects = self.actor.start()
        for event in events:
            effects += self.actor.handle(event)
        return [effect for effect in effects if self.actor.wants(effect)]

    def handle(self, event: Event, unsent: Iterable[Effect] = ()) -> list[Effect]:
        """Keep an event, handle it, and return what is to be done.

        Args:
            event: what happened.
            unsent: sends, and records of rounds, that the transport has not acknowledged. When a
                round opens, they outlive it in the snapshot; until then the journal makes them
                again.
        """
        self.journal.append(event)
        before = self.actor.state
        effects = self.actor.handle(event)
        if self.actor.state is not before:
            self.journal.compact(self.actor.snapshot((*unsent, *effects)))
        return effects


def is_behind(released: int, receipts: Iterable[int]) -> bool:
    """Tell whether a party has woken from an old copy of its journal.

    Args:
        released: the count of its releases after `Journaled.recover`.
        receipts: numbers of its releases that its peers say they have.

    >>> is_behind(7, [3, 7]), is_behind(5, [3, 7])
    (False, True)
    """
    return any(number > released for number in receipts)

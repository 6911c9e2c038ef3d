"""A party's journal: its events, kept before they are handled. Restart is replay.

When a round opens, a snapshot replaces all events before it, so that a journal stays as short as a
round. What a replay asks for is asked for again: releases are delivered at least once and handled
once, steps that had not reported run again, and give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        """Start from the journal, new or left by a crash; return what is to be done, or again."""
        snapshot, events = self.journal.load()
        self.actor = self._make(snapshot)
        effects = self.actor.start()
        for event in events:
            effects += self.actor.handle(event)
        return effects

    def handle(self, event: Event) -> list[Effect]:
        """Keep an event, handle it, and return what is to be done."""
        self.journal.append(event)
        before = self.actor.state
        effects = self.actor.handle(event)
        if self.actor.state is not before:
            self.journal.compact(self.actor.snapshot(effects))
        return effects

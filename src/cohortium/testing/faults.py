"""A fault injector: the same actors, with messages that are late, doubled and out of order, sites
that do not answer or lie, and parties that die at any moment and come back.

    faults = Faults(seed=7, kills=0.2)
    faulty.run(federation, faults)

Histories are replayable: equal seeds give equal histories.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from cohortium.errors import RunFailedError
from cohortium.governance.gate import Release
from cohortium.runtime.actor import Actor, Snapshot
from cohortium.runtime.engine import Federation
from cohortium.runtime.events import (
    Arrived,
    Effect,
    Event,
    Record,
    Run,
    Send,
    TimedOut,
    Timer,
)
from cohortium.runtime.journal import Journaled, MemoryJournal
from cohortium.types import PartyId, Update

Moment = Literal["before journaling", "after journaling", "before sending"]
MOMENTS: tuple[Moment, ...] = ("before journaling", "after journaling", "before sending")


@dataclass(frozen=True)
class Faults:
    """What goes wrong in a history.

    Attributes:
        seed: of the history.
        shuffle: deliver and run in random order instead of first in, first out.
        duplicates: chance that a delivered message stays under way and comes again.
        kills: chance that a party dies at an event, at a random moment of it.
        kill_at: (party, its event's number) to the moment at which it dies.
        silent: (site, round) of steps that never report.
        tampered: site to what it makes of its update before its gate sees it.
        lies: site to what it makes of its releases after its gate, as a hostile node would.
    """

    seed: int = 0
    shuffle: bool = True
    duplicates: float = 0.0
    kills: float = 0.0
    kill_at: Mapping[tuple[str, int], Moment] = field(default_factory=dict)
    silent: frozenset[tuple[str, int]] = frozenset()
    tampered: Mapping[str, Callable[[Update], Update]] = field(default_factory=dict)
    lies: Mapping[str, Callable[[Release], list[Release]]] = field(default_factory=dict)


@dataclass
class History:
    """What came of it: the actors at the end, and how often each moment of death struck."""

    actors: dict[PartyId, Actor]
    rounds: list[Record]
    refused: list[Record]
    deaths: dict[Moment, int]
    events: dict[PartyId, int]


def run(federation: Federation, faults: Faults) -> History:
    """Run a federation through a faulty history.

    Raises:
        RunFailedError: nothing is under way and the run has not ended.
    """
    return _Injector(federation, faults).run()


Pending = tuple[Literal["upload", "message", "run", "done"], PartyId, Event | Run | Send]


class _Injector:
    """Parties whose work, timers and unsent messages die with them, around a durable mailbox."""

    def __init__(self, federation: Federation, faults: Faults) -> None:
        self.federation, self.faults = federation, faults
        self.random = random.Random(faults.seed)  # noqa: S311 - a history, not a secret
        self.pending: list[Pending] = []
        self.timers: list[tuple[float, PartyId, Timer]] = []
        self.now = 0.0
        self.parties: dict[PartyId, Journaled] = {}
        self.rounds: list[Record] = []
        self.refused: list[Record] = []
        self.deaths: dict[Moment, int] = dict.fromkeys(MOMENTS, 0)
        self.events: dict[PartyId, int] = {}
        for party in federation.agreement.plan.parties:
            self.parties[party] = self._party(party)
            self.events[party] = 0

    def run(self) -> History:
        for party, journaled in self.parties.items():
            self._carry_out(party, journaled.recover())
        while not self._ended():
            if self.pending:
                self._take()
            elif self.timers:
                self._time_out()
            else:
                raise RunFailedError("nothing is under way and the run has not ended")
        actors = {party: journaled.actor for party, journaled in self.parties.items()}
        return History(actors, self.rounds, self.refused, self.deaths, self.events)

    def _party(self, party: PartyId) -> Journaled:
        start = self.federation.actor(party).snapshot()

        def make(snapshot: Snapshot) -> Actor:
            return self.federation.actor(party, snapshot)

        return Journaled(MemoryJournal(start), make)

    def _ended(self) -> bool:
        return all(j.actor.state.status != "running" for j in self.parties.values())

    def _take(self) -> None:
        at = self.random.randrange(len(self.pending)) if self.faults.shuffle else 0
        kind, party, what = self.pending[at]
        again = kind == "message" and self.random.random() < self.faults.duplicates
        if not again:
            del self.pending[at]
        match what:
            case Run():
                self._perform(party, what)
            case Send():
                self._deliver(party, what)
            case _:
                died = self._handle(party, what)
                if died == "before journaling" and kind == "message" and not again:
                    self.pending.append((kind, party, what))  # not acknowledged: it comes again

    def _deliver(self, party: PartyId, send: Send) -> None:
        """Put a release into its readers' mailboxes, which outlive everybody."""
        lie = self.faults.lies.get(party)
        for release in [send.release] if lie is None else lie(send.release):
            event = Arrived(release, self.now)
            self.pending += [("message", reader, event) for reader in send.to]

    def _time_out(self) -> None:
        self.timers.sort(key=lambda timer: timer[0])
        self.now, party, timer = self.timers.pop(0)
        self._handle(party, TimedOut(timer.round, timer.attempt, timer.step, self.now))

    def _perform(self, party: PartyId, run: Run) -> None:
        if (party, run.round) in self.faults.silent:
            return
        done = self.federation.training.perform(run, at=self.now)
        tamper = self.faults.tampered.get(party)
        if tamper is not None and run.step.op == "train" and done.update is not None:
            done = replace(done, update=tamper(done.update))
        self.pending.append(("done", party, done))

    def _handle(self, party: PartyId, event: Event) -> Moment | None:
        """Give an event to a party, which may die of it; return the moment at which it did."""
        number = self.events[party] = self.events[party] + 1
        moment = self.faults.kill_at.get((party, number))
        if moment is None and self.random.random() < self.faults.kills:
            moment = self.random.choice(MOMENTS)
        journaled = self.parties[party]
        if moment is None:
            self._carry_out(party, journaled.handle(event, self._unsent(party)))
            return None
        self.deaths[moment] += 1
        if moment == "after journaling":
            journaled.journal.append(event)
        elif moment == "before sending":
            journaled.handle(event, self._unsent(party))
        self._forget(party)
        self._carry_out(party, journaled.recover())
        return moment

    def _unsent(self, party: PartyId) -> list[Send]:
        return [what for _, by, what in self.pending if by == party and isinstance(what, Send)]

    def _forget(self, party: PartyId) -> None:
        """Drop what a party had in memory only."""
        self.pending = [
            entry for entry in self.pending if entry[1] != party or entry[0] == "message"
        ]
        self.timers = [timer for timer in self.timers if timer[1] != party]

    def _carry_out(self, party: PartyId, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Run():
                    self.pending.append(("run", party, effect))
                case Send():
                    self.pending.append(("upload", party, effect))
                case Timer():
                    self.timers.append((effect.due, party, effect))
                case Record():
                    (self.rounds if effect.kind == "round" else self.refused).append(effect)

"""What outlives a death: numbers, and sends that had not left, whatever rounds open meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

import pytest

from cohortium.errors import RefusedError
from cohortium.governance.gate import Reduced
from cohortium.plan.cyclic import Cyclic
from cohortium.plan.star import Star
from cohortium.plan.topology import AGGREGATOR
from cohortium.runtime.actor import Actor, Snapshot
from cohortium.runtime.engine import Federation
from cohortium.runtime.events import Arrived, Effect, Extended, Run, Send, TimedOut, Timer
from cohortium.runtime.journal import Journaled, MemoryJournal, is_behind
from cohortium.testing.federations import federation
from cohortium.types import PartyId

ROWS = {"a": 30, "b": 12, "c": 55}
C = PartyId("c")


class Network:
    """Journaled parties, first in first out; what `holds` names does not leave its sender."""

    def __init__(self, made: Federation, holds: Callable[[Send], bool]) -> None:
        self.made, self.holds = made, holds
        self.parties = {party: self._party(party) for party in made.agreement.plan.parties}
        self.queue: deque[tuple[PartyId, Run | Arrived]] = deque()
        self.held: dict[PartyId, list[Send]] = {party: [] for party in self.parties}
        for party, journaled in self.parties.items():
            self.carry_out(party, journaled.recover())

    def _party(self, party: PartyId) -> Journaled:
        def make(snapshot: Snapshot) -> Actor:
            return self.made.actor(party, snapshot)

        return Journaled(MemoryJournal(self.made.start()), make)

    def run(self) -> None:
        while self.queue:
            party, what = self.queue.popleft()
            event = self.made.training.perform(what, at=0.0) if isinstance(what, Run) else what
            self.carry_out(party, self.parties[party].handle(event, self.held[party]))

    def carry_out(self, party: PartyId, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Run):
                self.queue.append((party, effect))
            elif isinstance(effect, Send) and self.holds(effect):
                self.held[party].append(effect)
            elif isinstance(effect, Send):
                self.queue.extend((to, Arrived(effect.release, 0.0)) for to in effect.to)


def is_model(send: Send) -> bool:
    return isinstance(send.release.payload, Reduced) and send.release.step == "consensus"


def sends(effects: list[Effect]) -> dict[int, Send]:
    return {e.release.number: e for e in effects if isinstance(e, Send)}


def test_a_model_that_has_not_left_outlives_the_rounds_that_open_meanwhile() -> None:
    """The clerk closes the round on the holder's vote; the others still need the holder's model."""
    network = Network(federation(Cyclic(), ROWS, evaluate_every=0), is_model)
    network.run()
    holder = network.parties[C]
    assert holder.actor.state.round == 1
    [model] = network.held[C]
    for _ in range(3):  # and any number of deaths
        again = sends(holder.recover())
        assert again[model.release.number].release.payload == model.release.payload
    network.holds = lambda send: False
    network.carry_out(C, holder.recover())
    network.run()
    assert {j.actor.state.status for j in network.parties.values()} == {"finished"}


def test_what_never_leaves_stays_in_every_snapshot() -> None:
    """A site whose uploads fail, in a study whose rounds go on without it."""
    made = federation(Star(), ROWS, rounds=4, quorum=2, evaluate_every=0)
    network = Network(made, lambda send: send.release.sender == C)
    for number in range(1, 4):
        network.run()
        late = TimedOut(number, 0, "reduce", number * 1e6)
        network.carry_out(AGGREGATOR, network.parties[AGGREGATOR].handle(late))
    network.run()
    kept, _ = network.parties[C].journal.load()
    assert [s.release.round for s in kept.sends] == [1, 2, 3]
    assert [s.release.number for s in kept.sends] == [1, 2, 3]


def test_a_replay_numbers_the_same_releases_alike() -> None:
    network = Network(federation(Star(), ROWS, rounds=2), lambda send: False)
    seen: dict[tuple[PartyId, int], tuple[int, int, str, str]] = {}
    while network.queue:
        party, what = network.queue.popleft()
        event = network.made.training.perform(what, at=0.0) if isinstance(what, Run) else what
        journaled = network.parties[party]
        effects = journaled.handle(event)
        network.carry_out(party, effects)
        for number, send in {**sends(effects), **sends(journaled.recover())}.items():
            r = send.release
            identity = (r.round, r.attempt, r.step, type(r.payload).__name__)
            assert seen.setdefault((party, number), identity) == identity
    for party, journaled in network.parties.items():
        numbers = [number for by, number in seen if by == party]
        assert sorted(numbers) == list(range(1, journaled.actor.gate.released + 1))


def test_what_the_journal_knows_to_be_done_is_not_done_again() -> None:
    network = Network(federation(Star(), ROWS, rounds=2), lambda send: False)
    party, what = network.queue.popleft()
    assert isinstance(what, Run)
    journaled = network.parties[party]
    assert [e.step for e in journaled.recover() if isinstance(e, Run)] == [what.step]
    journaled.handle(network.made.training.perform(what, at=0.0))
    again = journaled.recover()
    assert [e for e in again if isinstance(e, Run)] == []
    assert [send.release.step for send in sends(again).values()] == [what.step.id]


def test_timers_that_nobody_waits_for_are_not_set_again() -> None:
    journaled = Network(federation(Star(), ROWS), lambda send: False).parties[AGGREGATOR]
    first = {e.step: e.due for e in journaled.recover() if isinstance(e, Timer)}
    journaled.handle(Extended(60.0, 0.0))
    journaled.handle(TimedOut(1, 0, "reduce", first["reduce"] + 60.0))
    again = [(e.step, e.due) for e in journaled.recover() if isinstance(e, Timer)]
    assert again == [("tally", first["tally"] + 60.0)]


def test_an_old_copy_of_a_journal_is_noticed() -> None:
    network = Network(federation(Star(), ROWS, rounds=2), lambda send: False)
    old, _ = network.parties[C].journal.load()
    network.run()
    true = network.parties[C]
    receipts = [true.actor.gate.released - 1, true.actor.gate.released]
    true.recover()
    assert not is_behind(true.actor.gate.released, receipts)
    restored = Journaled(MemoryJournal(old), lambda s: network.made.actor(C, s))
    restored.recover()
    assert is_behind(restored.actor.gate.released, receipts)


def test_an_actor_does_not_number_its_releases_anew() -> None:
    made = federation(Star(), ROWS)
    later = replace(made.start(), released=3)
    with pytest.raises(ValueError, match="a gate at 0 releases, a snapshot 3"):
        Actor(C, made.agreement, made.gate(C), later)


def test_a_party_does_not_take_what_claims_to_be_its_own() -> None:
    made = federation(Star(), ROWS)
    actor = made.actor(C)
    actor.start()
    own = made.gate(C).received(
        Reduced(made.initial(), 1.0),
        sender=C,
        round_=1,
        attempt=0,
        step="train/c",
        number=1,
    )
    [record] = actor.handle(Arrived(own, 0.0))
    assert getattr(record, "kind", "") == "refused"
    with pytest.raises(RefusedError, match="not sent on"):
        Send(own, (AGGREGATOR,))

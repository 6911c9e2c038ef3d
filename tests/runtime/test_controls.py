"""What a coordinator orders in the middle of a run, and what is known of who did not answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cohortium.governance.gate import Closed, Plain, Reduced, Void
from cohortium.plan.cyclic import Cyclic
from cohortium.plan.gossip import Gossip
from cohortium.plan.hybrid import Hybrid, SubFederation
from cohortium.plan.plan import Note, State
from cohortium.plan.star import Star
from cohortium.plan.topology import AGGREGATOR, CLERK, Topology
from cohortium.plan.tree import Tree
from cohortium.runtime.actor import Actor
from cohortium.runtime.closing import LOST, doubt, stop
from cohortium.runtime.engine import Federation
from cohortium.runtime.events import (
    Arrived,
    Away,
    Back,
    Control,
    Effect,
    Extended,
    Paused,
    Record,
    Resumed,
    Run,
    Send,
    Stopped,
    TimedOut,
    Timer,
)
from cohortium.runtime.in_process import Sequential
from cohortium.testing import faults
from cohortium.testing.faults import Faults, History
from cohortium.testing.federations import federation
from cohortium.types import PartyId, SiteId

ROWS = {"a": 30, "b": 12, "c": 55, "d": 8}
A, B = PartyId("a"), PartyId("b")
SUBS = (
    SubFederation(name="g", topology="star", sites=("a", "b")),
    SubFederation(name="h", topology="gossip", sites=("c", "d")),
)
PARALLEL: dict[str, Topology] = {
    "star": Star(),
    "tree": Tree(groups={"north": ["a", "b"], "south": ["c", "d"]}),
    "ring": Gossip(exchanges=2),
    "complete": Gossip(graph="complete"),
    "hybrid": Hybrid(outer="star", groups=SUBS),
    "gossip of groups": Hybrid(outer="gossip", groups=SUBS),
}


def ordered(made: Federation, *controls: tuple[int, Control], **wrong: Any) -> History:
    return faults.run(made, Faults(controls=controls, **wrong))


def states(found: History) -> list[State]:
    return list(found.states.values())


def last(found: History) -> State:
    [digest] = {actor.state.digest for actor in found.actors.values()}  # all end alike
    [state] = [s for s in states(found) if s.digest == digest]
    return state


def sent(effects: list[Effect], kind: type) -> list[Send]:
    return [e for e in effects if isinstance(e, Send) and isinstance(e.release.payload, kind)]


def at_work(made: Federation, party: PartyId) -> Actor:
    actor = made.actor(party)
    actor.start()
    return actor


def update_of(made: Federation, site: PartyId, number: int = 1) -> Arrived:
    """Return what a site sends after training in a round."""
    actor = made.actor(site)
    [run] = [e for e in actor.start() if isinstance(e, Run)]
    [send] = sent(actor.handle(made.training.perform(run, at=0.0)), Plain)
    assert send.release.round == number
    return Arrived(send.release, 0.0)


# -- away and back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARALLEL)
def test_nobody_waits_for_who_is_away_and_it_is_named(name: str) -> None:
    made = federation(PARALLEL[name], ROWS, quorum=3)
    for seed in range(10):
        found = ordered(made, (0, Away(B, "left the consortium", 0.0)), seed=seed)
        assert found.timeouts == 0
        rest = [state for state in states(found) if "b" not in state.roster]
        assert len(rest) >= 2  # round 1 may have begun
        for state in rest:
            assert set(state.roster) == {"a", "c", "d"}
            assert Note(SiteId("b"), "excluded", "left the consortium") in state.notes
        assert last(found).status == "finished"


def test_who_is_away_from_the_start_is_as_if_it_had_never_answered() -> None:
    made = federation(Star(), ROWS, rounds=1, quorum=3)
    away = last(ordered(made, (0, Away(B, "left", 0.0)), shuffle=False))
    silent = last(ordered(made, shuffle=False, silent=frozenset({("b", 1)})))
    assert away.models == silent.models


def test_what_was_taken_in_before_counts() -> None:
    made = federation(Star(), ROWS, rounds=2, quorum=1, evaluate_every=0)
    actor = at_work(made, AGGREGATOR)
    actor.handle(update_of(made, B))
    actor.handle(Away(B, "left", 0.0))
    effects: list[Effect] = []
    for site in ("a", "c", "d"):
        effects += actor.handle(update_of(made, PartyId(site)))
    [record] = [e for e in effects if isinstance(e, Record)]
    assert record.state is not None
    assert record.state.roster == ("a", "b", "c", "d")
    plan = made.agreement.plan.layout(2)
    assert actor._progress["reduce"].waiting == {"train/a", "train/c", "train/d"}
    assert plan["reduce"].gathers[1] == "train/b"


def test_what_it_sends_afterwards_is_ignored() -> None:
    made = federation(Star(), ROWS, quorum=1)
    actor = at_work(made, AGGREGATOR)
    actor.handle(Away(B, "left", 0.0))
    assert actor.handle(update_of(made, B)) == []
    assert actor._progress["reduce"].notes == [Note(SiteId("b"), "excluded", "left")]


def test_who_is_away_gives_up_its_work_and_tells() -> None:
    made = federation(Star(), ROWS)
    actor = made.actor(B)
    [run] = [e for e in actor.start() if isinstance(e, Run)]
    told = sent(actor.handle(Away(B, "left", 0.0)), Void)
    assert [send.release.step for send in told] == ["train/b", "evaluate/b"]
    assert actor.handle(made.training.perform(run, at=1.0)) == []  # nothing of it leaves


def test_it_tells_each_reader_once() -> None:
    """Its training void makes its model void, and that its evaluation."""
    last = PartyId("d")
    actor = at_work(federation(Cyclic(), ROWS), last)
    told = sent(actor.handle(Away(last, "left", 0.0)), Void)
    assert [send.release.step for send in told] == ["consensus", "evaluate/d"]


def test_who_is_back_takes_part_from_the_next_round() -> None:
    made = federation(Star(), ROWS, rounds=6, quorum=3)
    for seed in range(20):
        orders = (0, Away(B, "left", 0.0)), (90, Back(B, 0.0))
        found = ordered(made, *orders, seed=seed, kills=0.1)
        heard = max(found.heard[party, 1] for party in found.actors)
        later = [state for state in states(found) if state.round > heard]
        assert later
        assert all(state.roster == ("a", "b", "c", "d") for state in later)
        assert found.timeouts == 0


def test_in_the_round_in_which_it_comes_back_it_stays_out() -> None:
    made = federation(Star(), ROWS, rounds=2, quorum=3, evaluate_every=0)
    actor = at_work(made, AGGREGATOR)
    actor.handle(Away(B, "left", 0.0))
    actor.handle(Back(B, 0.0))
    actor.handle(update_of(made, B))
    for site in ("a", "c", "d"):
        actor.handle(update_of(made, PartyId(site)))
    assert actor.state.roster == ("a", "c", "d")
    assert "train/b" in actor._progress["reduce"].waiting  # of round 2


def test_what_came_early_counts_if_it_is_back_by_then() -> None:
    """A peer may be a round ahead of who hears of its return."""
    made = federation(Gossip(), ROWS, quorum=2, evaluate_every=0)
    actor = at_work(made, A)
    actor.handle(Away(B, "left", 0.0))
    ahead = update_of(made, B).release
    early = made.gate(A).received(
        ahead.payload, sender=B, round_=2, attempt=0, step="train/b", number=9
    )
    actor.handle(Arrived(early, 0.0))
    actor.handle(Back(B, 0.0))
    assert [release.step for release in actor.snapshot().early] == ["train/b"]


def test_a_region_that_is_away_takes_its_sites_with_it_and_blames_none() -> None:
    made = federation(PARALLEL["tree"], ROWS, rounds=1, quorum=2, evaluate_every=0)
    north = PartyId("@aggregator/north")
    state = last(ordered(made, (0, Away(north, "its hospital left", 0.0)), shuffle=False))
    assert state.roster == ("c", "d")
    assert {(n.site, n.status, n.reason) for n in state.notes} == {
        ("a", "absent", LOST),
        ("b", "absent", LOST),
    }


def test_a_chain_without_one_of_its_links_falls_short_at_once() -> None:
    made = federation(Cyclic(), ROWS, rounds=2, on_shortfall="skip")
    for seed in range(10):
        found = ordered(made, (0, Away(B, "left", 0.0)), seed=seed)
        assert found.timeouts == 0
        assert not last(found).roster
        assert Note(SiteId("b"), "excluded", "left") in last(found).notes


def test_a_thousand_rounds_without_anybody_end() -> None:
    """Each closes as it opens."""
    made = federation(Star(), {"a": 5, "b": 5}, rounds=1000, on_shortfall="skip", evaluate_every=0)
    orders = (0, Away(A, "left", 0.0)), (0, Away(B, "left", 0.0))
    assert last(ordered(made, *orders, shuffle=False)).round == 1000


def test_the_closing_party_cannot_be_away() -> None:
    made = federation(Star(), ROWS)
    found = ordered(made, (0, Away(AGGREGATOR, "no", 0.0)), shuffle=False)
    assert last(found).digest == Sequential().run(made).logs[-1].state.digest
    assert {r.party for r in found.refused} == set(made.agreement.plan.parties)


# -- deadlines -------------------------------------------------------------------------------------


def test_extended_deadlines_pass_later() -> None:
    made = federation(Star(), ROWS, quorum=1)
    actor = made.actor(AGGREGATOR)
    timers = {e.step: e.due for e in actor.start() if isinstance(e, Timer)}
    moved = actor.handle(Extended(60.0, 5.0))
    assert {e.step: e.due for e in moved if isinstance(e, Timer)} == {
        step: due + 60.0 for step, due in timers.items()
    }
    actor.handle(update_of(made, A))
    early = TimedOut(1, 0, "reduce", timers["reduce"])
    assert actor.handle(early) == [Timer(1, 0, "reduce", timers["reduce"] + 60.0)]
    assert actor.handle(replace(early, at=timers["reduce"] + 60.0)) != []
    assert actor._progress["reduce"].settled


def test_what_is_known_of_who_did_not_answer_completes_the_reason() -> None:
    made = federation(Star(), ROWS, quorum=1, evaluate_every=0)
    actor = at_work(made, AGGREGATOR)
    actor.handle(update_of(made, A))
    seen = {B: "not heard from since 12:03 UTC"}
    actor.handle(TimedOut(1, 0, "reduce", 1e4, seen))
    notes = {note.site: note.reason for note in actor.state.notes}
    assert notes[SiteId("b")] == "nothing came of 'train/b' in 900 s; " + seen[B]
    assert notes[SiteId("c")] == "nothing came of 'train/c' in 900 s"


def test_in_a_chain_too() -> None:
    made = federation(Cyclic(), ROWS, on_shortfall="skip", evaluate_every=0)
    actor = at_work(made, CLERK)
    actor.handle(TimedOut(1, 0, "outcome", 1e5, {B: "not heard from since 12:03 UTC"}))
    notes = {note.site: note.reason for note in actor.state.notes}
    assert notes == {
        "a": LOST,
        "b": LOST + "; not heard from since 12:03 UTC",
        "c": LOST,
        "d": LOST,
    }
    assert "3 of 4" in actor.state.reason


def test_a_site_that_only_evaluates_and_does_not_answer_is_named() -> None:
    made = federation(Star(), ROWS, rounds=1, evaluation_only=("d",))
    state = last(ordered(made, shuffle=False, silent=frozenset({("d", 1)})))
    [note] = state.notes
    assert (note.site, note.status) == ("d", "absent")
    assert "evaluate/d" in note.reason


# -- pausing and stopping --------------------------------------------------------------------------

CLOSERS = [(Star(), AGGREGATOR), (Gossip(), CLERK), (Cyclic(), CLERK)]


@pytest.mark.parametrize(("topology", "closer"), CLOSERS, ids=str)
def test_a_paused_round_is_done_but_not_closed(topology: Topology, closer: PartyId) -> None:
    made = federation(topology, ROWS)
    expected = Sequential().run(made).logs[-1].state.digest
    for seed in range(10):
        orders = (seed * 9, Paused(0.0)), (10_000, Resumed(0.0))  # when nothing else is left
        found = ordered(made, *orders, seed=seed, kills=0.1)
        assert last(found).digest == expected
        assert found.timeouts == 0


def test_a_deadline_that_passes_in_a_pause_counts_when_it_ends() -> None:
    made = federation(Cyclic(), ROWS, on_shortfall="skip", evaluate_every=0)
    actor = at_work(made, CLERK)
    actor.handle(Paused(0.0))
    assert actor.handle(TimedOut(1, 0, "outcome", 1e5)) == []
    [timer] = actor.handle(Resumed(2e5))  # long past: it goes off at once
    assert isinstance(timer, Timer)
    assert sent(actor.handle(TimedOut(1, 0, "outcome", max(2e5, timer.due))), Closed) != []


def test_a_deadline_may_be_extended_while_it_has_passed_in_a_pause() -> None:
    made = federation(Cyclic(), ROWS, on_shortfall="skip", evaluate_every=0)
    actor = at_work(made, CLERK)
    actor.handle(Paused(0.0))
    actor.handle(TimedOut(1, 0, "outcome", 1e5))
    actor.handle(Extended(2e5, 1e5))
    [timer] = actor.handle(Resumed(1.5e5))
    assert isinstance(timer, Timer)
    assert timer.due > 2e5
    assert actor.handle(TimedOut(1, 0, "outcome", 1.6e5)) == [timer]


@pytest.mark.parametrize("seconds", [0.0, -60.0, float("nan")])
def test_nothing_shortens_a_deadline(seconds: float) -> None:
    actor = at_work(federation(Star(), ROWS), AGGREGATOR)
    assert actor.handle(Extended(seconds, 0.0)) == []


def test_a_pause_is_in_the_snapshot() -> None:
    made = federation(Cyclic(), ROWS, on_shortfall="skip", evaluate_every=0)
    actor = at_work(made, CLERK)
    actor.handle(Paused(0.0))
    again = made.actor(CLERK, actor.snapshot())
    again.start()
    assert again.handle(TimedOut(1, 0, "outcome", 1e5)) == []


@pytest.mark.parametrize(("topology", "closer"), CLOSERS, ids=str)
@pytest.mark.parametrize("paused", [False, True])
def test_a_stop_ends_the_run_everywhere_and_says_why(
    topology: Topology, closer: PartyId, paused: bool
) -> None:
    made = federation(topology, ROWS, rounds=50)
    for seed in range(10):
        orders: list[tuple[int, Control]] = [(seed * 20, Stopped("no longer needed", 0.0))]
        if paused:
            orders.insert(0, (seed * 10, Paused(0.0)))
        found = ordered(made, *orders, seed=seed, kills=0.05)
        state = last(found)
        assert (state.status, state.reason) == ("stopped", "no longer needed")
        before = states(found)[-2] if len(states(found)) > 1 else State("test")
        assert (state.models, state.round) == (before.models, before.round)
        assert not state.roster


def test_others_ignore_what_is_for_the_closing_party() -> None:
    made = federation(Star(), ROWS)
    actor = at_work(made, A)
    for order in (Paused(0.0), Resumed(0.0), Stopped("no", 0.0)):
        assert actor.handle(order) == []
    assert actor.state.status == "running"
    assert not actor.paused


STOPS: dict[str, tuple[Callable[[State], State], str]] = {
    "as it should be": (lambda s: s, ""),
    "for no reason": (lambda s: replace(s, reason=""), "why"),
    "with another model": (lambda s: replace(s, models={AGGREGATOR: "0" * 64}), "model"),
    "of a later round": (lambda s: replace(s, round=s.round + 1, attempt=0), "not skipped"),
    "in another past": (lambda s: replace(s, previous=""), "follow"),
    "that finishes": (lambda s: replace(s, status="finished"), "quorum"),
}


@pytest.mark.parametrize("kind", STOPS)
def test_a_stop_is_believed_if_it_changes_nothing_else(kind: str) -> None:
    change, words = STOPS[kind]
    made = federation(Star(), ROWS)
    before = Sequential().run(made).logs[0].state
    why = doubt(made.agreement, before, change(stop(before, "no longer needed")))
    assert bool(why) == bool(words)
    assert words in why


def test_orders_outlive_the_round_and_a_death() -> None:
    """They are in the journal of the round, and in the snapshot that opens the next."""
    made = federation(Star(), ROWS, rounds=3, quorum=3, evaluate_every=0)
    actor = at_work(made, AGGREGATOR)
    actor.handle(Away(B, "left", 0.0))
    for site in ("a", "c", "d"):
        actor.handle(update_of(made, PartyId(site)))
    assert actor.state.round == 1
    again = made.actor(AGGREGATOR, actor.snapshot())
    again.start()
    assert again._progress["reduce"].waiting == {"train/a", "train/c", "train/d"}


def test_a_model_of_who_is_away_is_kept_for_the_state_that_names_it() -> None:
    """Its vote counted before it was excluded: its members still need the model."""
    made = federation(Cyclic(), ROWS, rounds=2, evaluate_every=0)
    actor = at_work(made, A)
    actor.handle(Away(PartyId("d"), "left", 0.0))
    model = made.gate(A).received(
        Reduced(made.initial(), 1.0),
        sender=PartyId("d"),
        round_=1,
        attempt=0,
        step="consensus",
        number=2,
    )
    actor.handle(Arrived(model, 0.0))
    assert list(actor.snapshot().models) == [(1, 0, PartyId("d"))]

"""Who took part, who did not, and why: named, never silently dropped, never averaged in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cohortium.aggregation.krum import Krum
from cohortium.errors import RunFailedError
from cohortium.governance.gate import Gate, Plain, Release, check
from cohortium.plan.cyclic import Cyclic
from cohortium.plan.gossip import Gossip
from cohortium.plan.plan import Note, State
from cohortium.plan.star import Star
from cohortium.plan.step import Step
from cohortium.plan.topology import Topology
from cohortium.plan.tree import Tree
from cohortium.runtime.engine import Federation
from cohortium.runtime.in_process import Sequential
from cohortium.testing import faults
from cohortium.testing.faults import Faults
from cohortium.testing.federations import federation
from cohortium.types import Params, PartyId, SiteId, Update

ROWS = {"a": 30, "b": 12, "c": 55, "d": 8}
TREE = Tree(groups={"north": ["a", "b"], "south": ["c", "d"]})


def hostile(
    made: Federation, change: Callable[[Update], Update]
) -> Callable[[Release], list[Release]]:
    """Return a node that sends something else than its gate admitted."""

    def lie(release: Release) -> list[Release]:
        if not isinstance(release.payload, Plain) or not release.step.startswith("train"):
            return [release]
        update = change(release.payload.admitted.update)
        return [forge(made, release, update)]

    return lie


def forge(
    made: Federation, release: Release, update: Update, *, roster: tuple[str, ...] | None = None
) -> Release:
    """Return a release of an update that no honest gate would admit."""

    class Careless(Gate):
        def admit(self, update: Update, step: Step) -> Any:
            from cohortium.governance import gate

            return gate.Admitted(update, step.id, _sum(update), seal=gate._SEAL)

    plan = made.agreement.plan
    state = State(plan.study, round=release.round - 1, attempt=release.attempt)
    step = plan.round(state)[release.step]
    gate = Careless(release.sender, made.agreement.declaration)
    names = (release.sender,) if roster is None else roster
    payload = Plain(gate.admit(update, step), tuple(map(SiteId, names)))
    return gate.release(payload, step, readers=(PartyId("x"),), state=state)


def _sum(update: Update) -> float:
    if update.params is None:
        return 0.0
    return float(np.nansum(update.params.buffers["float32"].astype(np.float64)))


def with_arrays(**arrays: Any) -> Callable[[Update], Update]:
    return lambda update: replace(update, params=Params.of(arrays))


def filled(value: float) -> Callable[[Update], Update]:
    def change(update: Update) -> Update:
        assert update.params is not None
        buffer = update.params.buffers["float32"].copy()
        buffer[1] = value
        return replace(update, params=Params(update.params.layout, {"float32": buffer}))

    return change


def weighing(weight: float) -> Callable[[Update], Update]:
    return lambda update: replace(update, weight=weight)


W, B = np.zeros(3, np.float32), np.zeros(1, np.float32)
BAD = {
    "NaN": (filled(np.nan), "not finite"),
    "infinity": (filled(np.inf), "not finite"),
    "zero weight": (weighing(0.0), "weight"),
    "negative weight": (weighing(-3.0), "weight"),
    "absurd weight": (weighing(1e12), "more than the 55 declared rows"),
    "NaN weight": (weighing(float("nan")), "weight"),
    "another name": (with_arrays(w=W, bias=B), "'bias' is not declared"),
    "an extra array": (with_arrays(w=W, b=B, records=W), "'records' is not declared"),
    "a missing array": (with_arrays(w=W), "missing: 'b'"),
    "another shape": (with_arrays(w=W[:1], b=B), "shape (1,), not (3,)"),
    "another dtype": (with_arrays(w=W.astype(np.float64), b=B), "float64, not float32"),
    "another order": (with_arrays(b=B, w=W), "another order"),
    "no arrays": (lambda update: replace(update, params=None), "arrays are missing"),
}


@pytest.mark.parametrize("topology", [Star(), TREE], ids=["star", "tree"])
@pytest.mark.parametrize("kind", BAD)
def test_a_hostile_update_is_excluded_and_named(kind: str, topology: Topology) -> None:
    """Past its own gate: the aggregator must find it, and the others' mean must not change."""
    change, words = BAD[kind]
    made = federation(topology, ROWS, rounds=1, quorum=3)
    found = faults.run(made, Faults(lies={"c": hostile(made, change)}))
    state = found.actors[PartyId("@aggregator")].state
    [note] = [n for n in state.notes if n.site == "c"]
    assert note.status == "excluded"
    assert words in note.reason
    assert state.roster == ("a", "b", "d")
    without = faults.run(made, Faults(silent=frozenset({("c", 1)})))
    assert state.models == without.actors[PartyId("a")].state.models


@pytest.mark.parametrize(("roster", "words"), [(("c", "a"), "names a"), ((), "leaves out")])
def test_a_hostile_roster_is_excluded_and_named(roster: tuple[str, ...], words: str) -> None:
    made = federation(Star(), ROWS, rounds=1, quorum=3)

    def lie(release: Release) -> list[Release]:
        if not release.step.startswith("train") or not isinstance(release.payload, Plain):
            return [release]
        return [forge(made, release, release.payload.admitted.update, roster=roster)]

    state = faults.run(made, Faults(lies={"c": lie})).actors[PartyId("@aggregator")].state
    [note] = state.notes
    assert (note.site, note.status) == ("c", "excluded")
    assert words in note.reason


@pytest.mark.parametrize("kind", ["NaN", "absurd weight", "another shape", "an extra array"])
def test_a_site_s_own_gate_refuses_and_tells_no_more(kind: str) -> None:
    change, words = BAD[kind]
    made = federation(Star(), ROWS, rounds=1, quorum=3)
    found = faults.run(made, Faults(tampered={"c": change}))
    state = found.actors[PartyId("a")].state
    assert Note(SiteId("c"), "refused") in state.notes  # the others see that it refused
    [record] = [r for r in found.refused if r.party == "c"]
    assert words in record.reason  # why, stands in its own log
    assert "c" not in state.roster


def test_an_excluded_update_does_not_count_towards_the_quorum() -> None:
    made = federation(Star(), ROWS, rounds=1, quorum=4)
    found = faults.run(made, Faults(lies={"c": hostile(made, filled(np.nan))}))
    state = found.actors[PartyId("a")].state
    assert state.status == "stopped"
    assert "3 of 4" in state.reason or "0 of 4" in state.reason
    assert "c excluded" in " ".join(f"{n.site} {n.status}" for n in state.notes)


def test_a_second_update_for_the_same_step_is_excluded_and_named() -> None:
    made = federation(Star(), ROWS, rounds=1)

    def twice(release: Release) -> list[Release]:
        if not isinstance(release.payload, Plain) or not release.step.startswith("train"):
            return [release]
        return [release, forge(made, release, filled(5.0)(release.payload.admitted.update))]

    expected = Sequential().run(made).logs[-1].state
    found = faults.run(made, Faults(shuffle=False, lies={"b": twice}))
    state = found.actors[PartyId("a")].state
    assert state.models == expected.models
    [note] = state.notes
    assert (note.site, note.status) == ("b", "excluded")
    assert "second" in note.reason


@pytest.mark.parametrize("topology", [Star(), TREE], ids=["star", "tree"])
def test_an_absent_site_is_named_and_back_in_the_next_round(topology: Topology) -> None:
    made = federation(topology, ROWS, rounds=2, quorum=3)
    found = faults.run(made, Faults(silent=frozenset({("b", 1)})))
    first, second = (record.state for record in found.rounds)
    assert first is not None
    assert second is not None
    [note] = first.notes
    assert (note.site, note.status) == ("b", "absent")
    assert "in 900 s" in note.reason
    assert first.roster == ("a", "c", "d")
    assert second.roster == ("a", "b", "c", "d")
    assert second.last_in == dict.fromkeys("abcd", 2)


def test_an_absent_neighbour_s_weight_stays_with_oneself() -> None:
    made = federation(Gossip(graph="complete"), ROWS, rounds=1, quorum=3)
    found = faults.run(made, Faults(silent=frozenset({("b", 1)})))
    state = found.actors[PartyId("a")].state
    assert set(state.roster) == {"a", "c", "d"}
    assert {(n.site, n.status) for n in state.notes} == {("b", "absent")}


@pytest.mark.parametrize("topology", [Star(), TREE, Gossip(), Cyclic()], ids=str)
def test_below_quorum_stops_skips_or_waits_as_agreed(topology: Topology) -> None:
    dead = frozenset(("b", round_) for round_ in range(1, 9))
    stopped = faults.run(federation(topology, ROWS), Faults(silent=dead))
    state = stopped.actors[PartyId("a")].state
    assert state.status == "stopped"
    assert "of 4 needed" in state.reason
    skipped = faults.run(
        federation(topology, ROWS, on_shortfall="skip"), Faults(silent=frozenset({("b", 2)}))
    )
    states = [record.state for record in skipped.rounds if record.state]
    assert [bool(s.roster) for s in states] == [True, False, True]
    assert states[1].models == states[0].models
    waited = faults.run(federation(topology, ROWS, on_shortfall="wait"), Faults(silent=dead))
    assert [(r.state.round, r.state.attempt) for r in waited.rounds if r.state] == [
        (0, 1),
        (0, 2),
        (0, 3),
    ]


def test_a_skipped_round_rolls_the_batch_iterator_back() -> None:
    """Round 2 does not count: its batches come again in round 3."""
    made = federation(Star(), ROWS, on_shortfall="skip")
    found = faults.run(made, Faults(silent=frozenset({("b", 2)})))
    calm = faults.run(federation(Star(), ROWS, rounds=2), Faults())
    assert found.actors[PartyId("a")].slots == calm.actors[PartyId("a")].slots


def test_training_that_raises_fails_that_site_only() -> None:
    made = federation(Star(), ROWS, rounds=1, quorum=3)
    train = made.task.train

    def broken(jobs: Any) -> Any:
        if jobs[0].site == "d":
            raise ZeroDivisionError("no luck")
        return train(jobs)

    made.task.train = broken  # type: ignore[method-assign]
    log = Sequential().run(made).logs[-1]
    assert log.state.roster == ("a", "b", "c")
    assert Note(SiteId("d"), "failed") in log.state.notes
    assert "ZeroDivisionError: no luck" in log.reasons["d", "failed"]


def test_early_stopping_stops_every_member_in_the_same_round() -> None:
    made = federation(Star(), ROWS, rounds=50, patience=2, accept_below=0.5)
    finished = Sequential().run(made)
    assert 2 <= len(finished.logs) < 50
    assert finished.logs[-1].state.patience == 2
    assert finished.logs[-2].state.patience == 1


FORGED = {
    "a stranger in the roster": lambda s: replace(s, roster=(*s.roster, SiteId("mallory"))),
    "an early end": lambda s: replace(s, status="finished"),
    "another past": lambda s: replace(s, previous="0" * 64),
    "another study": lambda s: replace(s, study="other"),
    "a wrong counter": lambda s: replace(s, patience=s.patience + 1),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_outcome_is_refused(kind: str) -> None:
    from cohortium.governance.gate import Closed

    made = federation(Star(), ROWS, rounds=3, patience=5)

    def lie(release: Release) -> list[Release]:
        if not isinstance(release.payload, Closed) or release.payload.state.round != 1:
            return [release]
        state = FORGED[kind](release.payload.state)
        gate = Gate(release.sender, made.agreement.declaration)
        before = State(made.agreement.plan.study)
        closing = made.agreement.plan.round(before).closing
        return [gate.release(Closed(state), closing, readers=(PartyId("x"),), state=before)]

    with pytest.raises(RunFailedError, match="nothing is under way"):
        faults.run(made, Faults(shuffle=False, lies={"@aggregator": lie}))


def test_check_tells_two_updates_apart() -> None:
    made = federation(Star(), ROWS)
    update = Update(made.initial, 3.0)
    one = check(update, made.agreement.declaration, most=5, trained=True)
    other = check(filled(0.25)(update), made.agreement.declaration, most=5, trained=True)
    assert one != other


def test_a_robust_rule_left_with_too_few_voids_the_round() -> None:
    made = federation(Star(), {**ROWS, "e": 9}, rounds=1, quorum=3, aggregator=Krum(byzantine=1))
    found = faults.run(made, Faults(silent=frozenset({("b", 1)})))
    state = found.actors[PartyId("a")].state
    assert state.status == "stopped"

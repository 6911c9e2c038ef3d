"""Who took part, who did not, and why: named, never silently dropped, never averaged in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cohortium.aggregation.krum import Krum
from cohortium.aggregation.server_optimizer import FedAvgM
from cohortium.errors import RunFailedError
from cohortium.governance.gate import (
    _SEAL,
    Admitted,
    Closed,
    Plain,
    Reduced,
    Release,
    Void,
    check,
)
from cohortium.plan.cyclic import Cyclic
from cohortium.plan.gossip import Gossip
from cohortium.plan.hybrid import Hybrid, SubFederation
from cohortium.plan.plan import Note, State
from cohortium.plan.star import Star
from cohortium.plan.topology import Topology
from cohortium.plan.tree import Tree
from cohortium.runtime.events import Arrived, Record
from cohortium.runtime.in_process import Sequential
from cohortium.testing import faults
from cohortium.testing.faults import Cut, Faults
from cohortium.testing.federations import federation
from cohortium.types import Params, PartyId, SiteId, Update

ROWS = {"a": 30, "b": 12, "c": 55, "d": 8}
TREE = Tree(groups={"north": ["a", "b"], "south": ["c", "d"]})


def hostile(change: Callable[[Update], Update]) -> Callable[[Release], list[Release]]:
    """Return a node that sends something else than its gate admitted."""

    def lie(release: Release) -> list[Release]:
        if not isinstance(release.payload, Plain) or not release.step.startswith("train"):
            return [release]
        update = change(release.payload.admitted.update)
        return [forge(release, update)]

    return lie


def forge(release: Release, update: Update, *, roster: tuple[str, ...] | None = None) -> Release:
    """Return a release of an update that no honest gate would admit."""
    admitted = Admitted(update, release.step, _sum(update), seal=_SEAL)
    names = (release.sender,) if roster is None else roster
    return sent_as(release, Plain(admitted, tuple(map(SiteId, names))))


def sent_as(release: Release, payload: Any, **changes: Any) -> Release:
    """Return a release with another payload, or another origin, than the gate let go."""
    origin = {
        "sender": release.sender,
        "round_": release.round,
        "attempt": release.attempt,
        "step": release.step,
    }
    return Release(payload, **{**origin, **changes}, number=release.number, seal=_SEAL)


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
    found = faults.run(made, Faults(lies={"c": hostile(change)}))
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
        return [forge(release, release.payload.admitted.update, roster=roster)]

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
    found = faults.run(made, Faults(lies={"c": hostile(filled(np.nan))}))
    state = found.actors[PartyId("a")].state
    assert state.status == "stopped"
    assert "3 of 4" in state.reason or "0 of 4" in state.reason
    assert "c excluded" in " ".join(f"{n.site} {n.status}" for n in state.notes)


def test_a_second_update_for_the_same_step_is_excluded_and_named() -> None:
    made = federation(Star(), ROWS, rounds=1)

    def twice(release: Release) -> list[Release]:
        if not isinstance(release.payload, Plain) or not release.step.startswith("train"):
            return [release]
        return [release, forge(release, filled(5.0)(release.payload.admitted.update))]

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
    train = made.training.task.train

    def broken(jobs: Any) -> Any:
        if jobs[0].site == "d":
            raise ZeroDivisionError("no luck")
        return train(jobs)

    made.training.task.train = broken  # type: ignore[method-assign]
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


FORGED: dict[str, Callable[[State], State]] = {
    "a stranger in the roster": lambda s: replace(s, roster=(*s.roster, SiteId("mallory"))),
    "an early end": lambda s: replace(s, status="finished"),
    "a late end": lambda s: replace(s, round=99, status="finished"),
    "another past": lambda s: replace(s, previous="0" * 64),
    "another study": lambda s: replace(s, study="other"),
    "a wrong counter": lambda s: replace(s, patience=s.patience + 1),
    "a roster below quorum": lambda s: replace(s, roster=s.roster[:1]),
    "a skipped round": lambda s: replace(s, roster=()),
    "a stop for no reason": lambda s: replace(s, roster=(), status="stopped"),
    "a round again": lambda s: replace(s, round=0, attempt=1, roster=()),
    "no model": lambda s: replace(s, models={}),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_outcome_is_refused(kind: str) -> None:
    made = federation(Star(), ROWS, rounds=3, patience=5)

    def lie(release: Release) -> list[Release]:
        if not isinstance(release.payload, Closed) or release.payload.state.round != 1:
            return [release]
        return [sent_as(release, Closed(FORGED[kind](release.payload.state)))]

    with pytest.raises(RunFailedError, match="nothing is under way"):
        faults.run(made, Faults(shuffle=False, lies={"@aggregator": lie}))


@pytest.mark.parametrize("number", [1, 2, 99])
@pytest.mark.parametrize("status", ["finished", "running", "stopped"])
def test_nobody_but_the_closing_party_ends_a_round(number: int, status: Any) -> None:
    made = federation(Star(), ROWS)

    def lie(release: Release) -> list[Release]:
        state = State("test", round=number, attempt=0, status=status, roster=(SiteId("a"),))
        return [sent_as(release, Closed(state), step="outcome"), release]

    expected = Sequential().run(made).logs[-1].state
    found = faults.run(made, Faults(lies={"c": lie}))
    assert {actor.state.digest for actor in found.actors.values()} == {expected.digest}
    assert any(record.party == "@aggregator" for record in found.refused)


@pytest.mark.parametrize("topology", [Star(), TREE, Cyclic()], ids=str)
def test_a_flood_is_not_kept(topology: Topology) -> None:
    """Neither invented steps, nor rounds and attempts that will never be."""
    made = federation(topology, ROWS)

    def flood(release: Release) -> list[Release]:
        model = Reduced(made.initial(), 1.0)
        made_up = [
            sent_as(release, model, step=step, round_=round_, attempt=attempt)
            for step in ("consensus", f"consensus/{release.sender}", "train/a", "x")
            for round_ in (1, 2, 3, 50)
            for attempt in range(50)
        ]
        return [release, *made_up]

    expected = Sequential().run(made).logs[-1].state
    found = faults.run(made, Faults(lies={"c": flood}, shuffle=False))
    for party, actor in found.actors.items():
        assert actor.state.digest == expected.digest, party
        assert len(actor._early) + len(actor._candidates) < 60


ODD = {
    "no statistics at all": lambda u: replace(u, statistics={}),
    "a word for a weight": lambda u: replace(u, weight="many"),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_evaluation_is_excluded_and_the_run_goes_on(kind: str) -> None:
    made = federation(Star(), ROWS, rounds=1)

    def lie(release: Release) -> list[Release]:
        if not isinstance(release.payload, Plain) or not release.step.startswith("evaluate"):
            return [release]
        return [forge(release, ODD[kind](release.payload.admitted.update), roster=())]

    state = faults.run(made, Faults(lies={"c": lie})).actors[PartyId("a")].state
    assert state.status == "finished"
    assert set(state.metrics["loss"].per_site) == {"a", "b", "d"}
    assert ("c", "excluded") in {(note.site, note.status) for note in state.notes}


def test_a_void_slanders_nobody_and_its_sender_is_named() -> None:
    made = federation(Star(), ROWS, rounds=1, quorum=3)

    def lie(release: Release) -> list[Release]:
        notes = (Note(SiteId("a"), "excluded", "slander"), Note(SiteId("mallory"), "excluded"))
        return [sent_as(release, Void("refused", notes))]

    state = faults.run(made, Faults(lies={"c": lie})).actors[PartyId("a")].state
    assert {note.site for note in state.notes} == {"c"}
    assert state.roster == ("a", "b", "d")


@pytest.mark.parametrize(
    "topology",
    [
        Cyclic(),
        Hybrid(
            outer="star",
            groups=(
                SubFederation(name="g", topology="gossip", sites=("a", "b")),
                SubFederation(name="h", topology="cyclic", sites=("c", "d")),
            ),
        ),
    ],
    ids=["cyclic", "hybrid"],
)
@pytest.mark.parametrize("gone", ["a", "b", "c", "d"])
def test_whoever_is_not_in_it_is_named(topology: Topology, gone: str) -> None:
    made = federation(topology, ROWS, rounds=1, on_shortfall="skip", quorum=1)
    state = faults.run(made, Faults(silent=frozenset({(gone, 1)}))).rounds[0].state
    assert state is not None
    named = {note.site for note in state.notes}
    assert gone in named
    assert named | set(state.roster) == set(ROWS)


def test_a_bad_update_in_a_chain_names_only_its_sender() -> None:
    made = federation(Cyclic(), ROWS, rounds=1)
    found = faults.run(made, Faults(lies={"c": hostile(filled(np.nan))}))
    state = found.actors[PartyId("@clerk")].state
    assert {n.site for n in state.notes if n.status == "excluded"} == {"c"}


def test_the_last_of_a_chain_weighs_what_it_declared() -> None:
    """It stands for its group's weight: claiming the group's rows itself would count them twice."""
    groups = (
        SubFederation(name="g", topology="star", sites=("a", "b")),
        SubFederation(name="h", topology="cyclic", sites=("c", "d")),
    )
    made = federation(Hybrid(outer="star", groups=groups), ROWS, rounds=1, quorum=2)
    found = faults.run(made, Faults(lies={"d": hostile(weighing(63.0))}))
    state = found.actors[PartyId("a")].state
    assert ("d", "excluded") in {(note.site, note.status) for note in state.notes}
    assert state.roster == ("a", "b")


@pytest.mark.filterwarnings("ignore:.*encountered in matmul:RuntimeWarning")
def test_a_server_step_that_overflows_stops_the_run_and_says_so() -> None:
    made = federation(Star(), ROWS, rounds=2, server_optimizer=FedAvgM(lr=3e38))
    state = Sequential().run(made).logs[-1].state
    assert state.status == "stopped"


def test_notes_do_not_depend_on_the_order_of_arrival() -> None:
    made = federation(Star(), ROWS, rounds=1, quorum=2)
    lies = {"b": hostile(filled(np.nan)), "c": hostile(weighing(-1.0))}
    digests = {
        faults.run(made, Faults(seed=seed, lies=lies)).actors[PartyId("a")].state.digest
        for seed in range(12)
    }
    assert len(digests) == 1


@pytest.mark.parametrize("topology", [Star(), Gossip(), Cyclic(order="random")], ids=str)
def test_who_lags_behind_catches_up_without_redoing_rounds(topology: Topology) -> None:
    """Skipped and sampled rounds on the way, in any order of arrival."""
    fraction = 1.0 if isinstance(topology, Gossip) else 0.75
    made = federation(topology, ROWS, rounds=6, on_shortfall="skip", fraction=fraction)
    silent = frozenset({("b", 2), ("c", 4)})
    expected = faults.run(made, Faults(shuffle=False, silent=silent))
    last = expected.actors[PartyId("a")].state.digest
    for seed in range(25):
        found = faults.run(made, Faults(seed=seed, duplicates=0.3, kills=0.1, silent=silent))
        assert {actor.state.digest for actor in found.actors.values()} == {last}
        for party, actor in found.actors.items():
            assert actor.model.digest == expected.actors[party].model.digest


def test_check_tells_two_updates_apart() -> None:
    made = federation(Star(), ROWS)
    update = Update(made.initial(), 3.0)
    one = check(update, made.agreement.declaration, most=5, trained=True)
    other = check(filled(0.25)(update), made.agreement.declaration, most=5, trained=True)
    assert one != other


def test_a_robust_rule_left_with_too_few_voids_the_round() -> None:
    made = federation(Star(), {**ROWS, "e": 9}, rounds=1, quorum=3, aggregator=Krum(byzantine=1))
    found = faults.run(made, Faults(silent=frozenset({("b", 1)})))
    state = found.actors[PartyId("a")].state
    assert state.status == "stopped"


def test_states_and_models_that_wait_for_each_other_outlive_a_death() -> None:
    """A site is cut off while the others go on; then all that it missed comes, in any order."""
    made = federation(Star(), ROWS, rounds=8, quorum=1, on_shortfall="skip", evaluate_every=0)
    for seed in range(10):
        wrong = Faults(seed=seed, kills=0.2, cuts=(Cut("a", 0, 300),), late=0.01)
        found = faults.run(made, wrong)
        assert len({actor.state.digest for actor in found.actors.values()}) == 1


def test_a_state_waits_for_the_one_before_it() -> None:
    """Round 1 was tried again, and the State of the second try is heard of first."""
    made = federation(Star(), ROWS, on_shortfall="wait", evaluate_every=0)
    found = faults.run(made, Faults(shuffle=False, silent=frozenset({("b", 1)})))
    again, *_ = found.states.values()
    assert (again.round, again.attempt) == (0, 1)
    counted = replace(
        again,
        round=1,
        attempt=0,
        previous=again.digest,
        roster=made.agreement.plan.trainers,
        models={PartyId("@aggregator"): "0" * 64},
    )
    made = federation(Star(), ROWS, on_shortfall="wait", evaluate_every=0)
    actor = made.actor(PartyId("a"))
    actor.start()
    for state, attempt in ((counted, 1), (again, 0)):
        closed = made.gate(PartyId("a")).received(
            Closed(state),
            sender=PartyId("@aggregator"),
            round_=1,
            attempt=attempt,
            step="outcome",
            number=1,
        )
        assert not [e for e in actor.handle(Arrived(closed, 0.0)) if isinstance(e, Record)]
    assert actor.state == again
    assert actor.snapshot().states == (counted,)


MIXED = Hybrid(
    outer="gossip",
    groups=(
        SubFederation(name="g", topology="star", sites=("a", "b")),
        SubFederation(name="h", topology="cyclic", sites=("c", "d")),
    ),
)


def test_the_share_of_an_absent_group_stays_with_oneself_whatever_it_stands_for() -> None:
    """The last of a chain stands for all of it: that is no matter of its neighbour's."""
    made = federation(MIXED, ROWS, rounds=1, quorum=1)
    state = faults.run(made, Faults(silent=frozenset({("d", 1)}))).actors[PartyId("a")].state
    assert state.roster == ("a", "b")
    assert {(n.site, n.status) for n in state.notes} == {("c", "absent"), ("d", "absent")}


def test_the_last_of_a_chain_stands_for_all_of_it_among_peers_too() -> None:
    made = federation(MIXED, ROWS, rounds=1)
    sent: list[Release] = []

    def listen(release: Release) -> list[Release]:
        sent.append(release)
        return [release]

    faults.run(made, Faults(lies={"@aggregator/g": listen}))
    [model] = [r.payload for r in sent if isinstance(r.payload, Reduced) and r.step[:4] == "cons"]
    assert model.weight == pytest.approx(sum(ROWS.values()) / 2)  # two groups share it


def test_peers_that_miss_one_another_are_not_taken_for_liars() -> None:
    """d mixed what c sent, and c did not have d's: together they weigh more than their rows."""
    groups = (
        SubFederation(name="g", topology="star", sites=("a", "b")),
        SubFederation(name="h", topology="gossip", sites=("c", "d")),
    )
    made = federation(Hybrid(outer="star", groups=groups), ROWS, rounds=1, quorum=2)

    def lose(release: Release) -> list[Release]:
        return [] if release.step == "train/d" else [release]

    state = faults.run(made, Faults(lies={"d": lose})).actors[PartyId("a")].state
    assert not [note for note in state.notes if note.status == "excluded"]
    assert set(state.roster) == set(ROWS)


def test_a_round_that_counts_does_not_say_why_the_one_before_did_not() -> None:
    made = federation(Star(), ROWS, on_shortfall="skip")
    found = faults.run(made, Faults(silent=frozenset({("b", 2)})))
    assert [state.reason for state in found.states.values()] == [
        "",
        "round 2: 3 of 4 needed sites",
        "",
    ]


def test_a_site_of_which_nothing_came_is_named_once() -> None:
    groups = (
        SubFederation(name="g", topology="star", sites=("a", "b")),
        SubFederation(name="h", topology="star", sites=("c", "d")),
    )
    made = federation(Hybrid(outer="cyclic", groups=groups), ROWS, rounds=1)
    silent = frozenset({("c", 1), ("d", 1)})
    state = faults.run(made, Faults(silent=silent)).actors[PartyId("a")].state
    names = [note.site for note in state.notes]
    assert len(names) == len(set(names)) == 4

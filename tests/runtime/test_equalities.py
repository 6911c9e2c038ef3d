"""The equalities that must hold between topologies, engines, orders and histories."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cohortium.learning.task import Cursor, TrainJob, Work
from cohortium.plan.cyclic import Cyclic
from cohortium.plan.gossip import Gossip
from cohortium.plan.hybrid import Hybrid, SubFederation
from cohortium.plan.star import Star
from cohortium.plan.topology import AGGREGATOR, CLERK, Topology
from cohortium.plan.tree import Tree
from cohortium.runtime.engine import Federation
from cohortium.runtime.in_process import Sequential, Vectorised
from cohortium.testing.faults import MOMENTS, Faults, run
from cohortium.testing.federations import federation
from cohortium.types import Params, PartyId

ROWS = {"a": 30, "b": 12, "c": 55, "d": 8, "e": 21}

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def sub(name: str, topology: Any, sites: str) -> SubFederation:
    return SubFederation(name=name, topology=topology, sites=tuple(sites))


COMPLETE = {"kind": "gossip", "graph": "complete"}
LIKE_A_STAR: dict[str, Topology] = {
    "tree by name": Tree(groups={"north": ["a", "b"], "south": {"x": ["c"], "y": ["d", "e"]}}),
    "tree by branching": Tree(branching=2),
    "complete gossip": Gossip(graph="complete"),
    "star of stars": Hybrid(outer="star", groups=(sub("g", "star", "ab"), sub("h", "star", "cde"))),
    "star of gossips": Hybrid(
        outer="star", groups=(sub("g", COMPLETE, "ab"), sub("h", COMPLETE, "cde"))
    ),
    "gossip of stars": Hybrid(
        outer=COMPLETE, groups=(sub("g", "star", "ab"), sub("h", "star", "cde"))
    ),
    "gossip of gossips": Hybrid(
        outer=COMPLETE, groups=(sub("g", COMPLETE, "ab"), sub("h", COMPLETE, "cde"))
    ),
}
OTHERS: dict[str, Topology] = {
    "star": Star(),
    "ring": Gossip(exchanges=2),
    "cyclic": Cyclic(),
    "cyclic, best local": Cyclic(order="random", select="best-local"),
    "star of cycles": Hybrid(
        outer="star", groups=(sub("g", "cyclic", "ab"), sub("h", "cyclic", "cde"))
    ),
    "cycle of stars": Hybrid(
        outer="cyclic", groups=(sub("g", "star", "ab"), sub("h", "star", "cde"))
    ),
}
ALL = {**LIKE_A_STAR, **OTHERS}


def final(made: Federation) -> Params:
    """Run in order and return a member's model."""
    return Sequential().run(made).models[PartyId("a")]


def distance(one: Params, other: Params) -> float:
    a, b = (model.buffers["float32"].astype(np.float64) for model in (one, other))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("name", LIKE_A_STAR)
@given(
    rows=st.lists(st.integers(1, 400), min_size=5, max_size=5),
    seed=st.integers(0, 1000),
    rounds=st.integers(1, 4),
)
@QUICK
def test_additive_rules_do_not_depend_on_the_topology(
    name: str, rows: list[int], seed: int, rounds: int
) -> None:
    sizes = dict(zip("abcde", rows, strict=True))
    star = final(federation(Star(), sizes, seed=seed, rounds=rounds))
    other = final(federation(LIKE_A_STAR[name], sizes, seed=seed, rounds=rounds))
    assert distance(other, star) < 1e-6


def test_all_members_of_a_complete_gossip_hold_the_same_bits() -> None:
    finished = Sequential().run(federation(Gossip(graph="complete"), ROWS))
    assert len({model.digest for model in finished.models.values()}) == 1


def test_gossip_on_a_ring_comes_to_the_star_as_exchanges_grow() -> None:
    star = final(federation(Star(), ROWS, rounds=1))
    gaps = [
        distance(final(federation(Gossip(exchanges=k), ROWS, rounds=1)), star) for k in (1, 8, 64)
    ]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-6


@pytest.mark.parametrize("topology", [Star(), Tree(branching=2), Cyclic()], ids=str)
def test_one_site_federated_is_that_site_alone_to_the_bit(topology: Topology) -> None:
    made = federation(topology, {"a": 37}, rounds=4, work=Work(steps=7))
    params, cursor = made.initial(), Cursor()
    for number in range(1, 5):
        data = made.training.data[made.agreement.plan.trainers[0]].train
        job = TrainJob("a", number, made.training.seed, params, data, made.training.work, cursor)
        [trained] = made.training.task.train([job])
        assert trained.update.params is not None
        params, cursor = trained.update.params, trained.cursor
    assert final(made).digest == params.digest


def test_the_cyclic_plan_is_training_in_turn_to_the_bit() -> None:
    made = federation(Cyclic(), ROWS, rounds=2)
    params, cursors = made.initial(), dict.fromkeys(ROWS, Cursor())
    for number in (1, 2):
        for site in made.agreement.plan.trainers:
            data = made.training.data[site].train
            job = TrainJob(
                site, number, made.training.seed, params, data, made.training.work, cursors[site]
            )
            [trained] = made.training.task.train([job])
            assert trained.update.params is not None
            params, cursors[site] = trained.update.params, trained.cursor
    assert final(made).digest == params.digest


@pytest.mark.parametrize("name", ALL)
@given(
    history=st.integers(0, 10_000),
    duplicates=st.sampled_from([0.0, 0.3]),
    kills=st.sampled_from([0.0, 0.05, 0.3]),
)
@QUICK
def test_no_history_changes_a_bit(name: str, history: int, duplicates: float, kills: float) -> None:
    """Any order, any repetition, any deaths: as if nothing had happened."""
    made = federation(ALL[name], ROWS, rounds=2)
    undisturbed = Sequential().run(made)
    found = run(made, Faults(seed=history, duplicates=duplicates, kills=kills))
    for party, model in undisturbed.models.items():
        assert found.actors[party].model.digest == model.digest
    last = undisturbed.logs[-1].state
    assert {actor.state.digest for actor in found.actors.values()} == {last.digest}


def test_every_kill_point_of_every_party() -> None:
    """Kill each party once at each of its events, at each moment of it."""
    made = federation(Tree(groups={"n": ["a", "b"], "s": ["c", "d", "e"]}), ROWS, rounds=2)
    expected = Sequential().run(made).logs[-1].state.digest
    calm = run(made, Faults(shuffle=False))
    points = [
        (str(party), number, moment)
        for party, count in calm.events.items()
        for number in range(1, count + 1)
        for moment in MOMENTS
    ]
    assert len(points) > 150
    for party, number, moment in points:
        found = run(made, Faults(shuffle=False, kill_at={(party, number): moment}))
        assert sum(found.deaths.values()) == 1
        digests = {actor.state.digest for actor in found.actors.values()}
        assert digests == {expected}, (party, number, moment)


def test_a_journal_that_forgets_turns_the_kill_test_red(monkeypatch: pytest.MonkeyPatch) -> None:
    """The positive control: without the journal's write, a death loses what was handled."""
    made = federation(Star(), ROWS, rounds=2)
    expected = Sequential().run(made).logs[-1].state.digest
    monkeypatch.setattr("cohortium.runtime.journal.MemoryJournal.append", lambda *_: None)
    differs = 0
    for history in range(20):
        try:
            found = run(made, Faults(seed=history, kills=0.3))
        except Exception:  # noqa: BLE001 - any way of failing will do here
            differs += 1
        else:
            differs += {a.state.digest for a in found.actors.values()} != {expected}
    assert differs


@pytest.mark.parametrize("name", ALL)
def test_the_engines_agree(name: str) -> None:
    made = federation(ALL[name], ROWS)
    one, other = Sequential().run(made), Vectorised().run(made)
    assert one.logs[-1].state.digest == other.logs[-1].state.digest


@pytest.mark.parametrize("name", ALL)
def test_the_clerk_and_regions_never_hold_what_they_were_not_sent(name: str) -> None:
    made = federation(ALL[name], ROWS)
    actors = run(made, Faults()).actors
    if CLERK in actors:
        assert actors[CLERK].model is made.initial()
    if AGGREGATOR in actors and made.agreement.plan.topology.closer == AGGREGATOR:
        assert actors[AGGREGATOR].model.digest == actors[PartyId("a")].model.digest

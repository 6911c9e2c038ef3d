"""Every topology lays out rounds that are DAGs, closes them, and serves every member."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cohortium.plan.cyclic import Cyclic
from cohortium.plan.gossip import Gossip
from cohortium.plan.hybrid import Hybrid, SubFederation
from cohortium.plan.plan import Member, Plan, State
from cohortium.plan.star import Star
from cohortium.plan.step import RoundPlan, Step
from cohortium.plan.topology import CLERK, TOPOLOGIES, Topology
from cohortium.plan.tree import Tree
from cohortium.types import PartyId, SiteId

SITES = tuple("abcdef")


def sub(name: str, topology: object, sites: str) -> SubFederation:
    return SubFederation(name=name, topology=topology, sites=tuple(sites))


EXAMPLES: dict[str, list[Topology]] = {
    "star": [Star()],
    "tree": [
        Tree(branching=2),
        Tree(groups={"north": ["a", "b"], "south": {"x": ["c", "d"], "y": ["e", "f"]}}),
    ],
    "gossip": [
        Gossip(),
        Gossip(graph="complete", exchanges=2),
        Gossip(graph="random-regular", degree=3),
        Gossip(graph="edges", edges=tuple(zip("abcde", "bcdef", strict=True))),
    ],
    "cyclic": [Cyclic(), Cyclic(order="random"), Cyclic(select="best-local")],
    "hybrid": [
        Hybrid(outer="star", groups=(sub("g", "gossip", "abc"), sub("h", "cyclic", "def"))),
        Hybrid(outer="gossip", groups=(sub("g", "star", "abc"), sub("h", "star", "def"))),
        Hybrid(outer="cyclic", groups=(sub("g", "star", "abc"), sub("h", "gossip", "def"))),
    ],
}
ALL = [topology for examples in EXAMPLES.values() for topology in examples]


def plan(topology: Topology, sites: tuple[str, ...] = SITES, **settings: Any) -> Plan:
    members = tuple(Member(SiteId(site), 10 * (i + 1)) for i, site in enumerate(sites))
    return Plan("test", 7, topology, members, 5, **settings)


def test_every_registered_topology_has_an_example() -> None:
    assert set(TOPOLOGIES) == set(EXAMPLES)


@pytest.mark.parametrize("topology", ALL, ids=str)
class TestContract:
    def test_every_site_trains_once_and_ends_with_a_model(self, topology: Topology) -> None:
        steps = plan(topology).round(State("test")).steps
        assert sorted(s.party for s in steps if s.op == "train") == list(SITES)
        served = [party for s in steps if s.op == "consensus" for party in (*s.to, s.party)]
        assert set(SITES) <= set(served)

    def test_the_outcome_is_last_and_reaches_every_party(self, topology: Topology) -> None:
        compiled = plan(topology)
        closing = compiled.round(State("test")).closing
        assert closing.op == "outcome"
        assert closing.party == topology.closer
        assert set(closing.to) == set(compiled.parties)

    def test_a_step_covers_what_its_sources_cover(self, topology: Topology) -> None:
        layout = plan(topology).round(State("test"))
        for step in layout.steps:
            if step.op in ("reduce", "mix", "select", "consensus"):
                below = {site for s in step.inputs + step.gathers for site in layout[s].covers}
                assert set(step.covers) == below

    def test_equal_arguments_give_equal_steps(self, topology: Topology) -> None:
        first = plan(topology).round(State("test", round=2))
        assert first.steps == plan(topology).round(State("test", round=2)).steps

    def test_deadlines_never_shrink_along_a_path(self, topology: Topology) -> None:
        layout = plan(topology).round(State("test"))
        for step in layout.steps:
            if step.deadline is None or step.inputs:
                continue
            for source in step.gathers:
                assert (layout[source].deadline or 0.0) <= step.deadline
                below = layout[source].inputs + layout[source].gathers
                assert all((layout[s].deadline or 0.0) < step.deadline for s in below)

    def test_a_single_site_is_a_federation_too(self, topology: Topology) -> None:
        if isinstance(topology, Gossip) and topology.graph in ("edges", "random-regular"):
            with pytest.raises(ValueError, match=r"no member|no regular graph"):
                plan(topology, ("a",)).round(State("test"))
            return
        alone = plan(topology, ("a",))
        assert [s.party for s in alone.round(State("test")).steps if s.op == "train"] == ["a"]


def test_only_the_sampled_train_and_all_evaluate() -> None:
    compiled = plan(Star(), fraction=0.5)
    seen = set()
    for number in range(20):
        steps = compiled.round(State("test", round=number)).steps
        trains = [s.party for s in steps if s.op == "train"]
        assert len(trains) == 3
        assert trains == sorted(trains)
        assert len([s for s in steps if s.op == "evaluate"]) == 6
        seen.update(trains)
    assert seen == set(SITES)


def test_an_evaluation_only_site_never_trains_and_is_served() -> None:
    members = (Member(SiteId("a"), 5), Member(SiteId("b"), 5, trains=False))
    steps = Plan("test", 0, Star(), members, 1).round(State("test")).steps
    assert [s.party for s in steps if s.op == "train"] == ["a"]
    assert [s.party for s in steps if s.op == "evaluate"] == ["a", "b"]


def test_zero_rounds_only_evaluate() -> None:
    members = (Member(SiteId("a"), 5, trains=False), Member(SiteId("b"), 5, trains=False))
    steps = Plan("test", 0, Star(), members, 0).round(State("test")).steps
    assert [s.op for s in steps] == ["consensus", "evaluate", "evaluate", "tally", "outcome"]


def test_evaluation_follows_its_schedule_and_the_last_round_always_has_it() -> None:
    compiled = plan(Star(), evaluate_every=2)
    with_it = [
        any(s.op == "evaluate" for s in compiled.round(State("test", round=r)).steps)
        for r in range(5)
    ]
    assert with_it == [False, True, False, True, True]
    none = plan(Star(), evaluate_every=0).round(State("test", round=4))
    assert all(s.op != "tally" for s in none.steps)


def test_random_order_changes_from_round_to_round_and_is_the_seed_s() -> None:
    compiled = plan(Cyclic(order="random"))
    orders = {
        tuple(s.party for s in compiled.round(State("test", round=r)).steps if s.op == "train")
        for r in range(10)
    }
    assert len(orders) > 3


@given(st.integers(1, 12), st.sampled_from(["ring", "complete"]))
def test_metropolis_rows_sum_to_one_and_are_symmetric(n: int, graph: Any) -> None:
    names = [str(i) for i in range(n)]
    steps = plan(Gossip(graph=graph), tuple(names)).round(State("test")).steps
    mixes = {s.party: dict(zip(s.gathers, s.weights, strict=True)) for s in steps if s.op == "mix"}
    for party, row in mixes.items():
        assert sum(row.values()) == pytest.approx(1.0)
        for source, weight in row.items():
            other = source.removeprefix("train/")
            if other != party:
                assert mixes[PartyId(other)][f"train/{party}"] == weight


@given(st.integers(4, 30), st.integers(2, 6), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_random_regular_graphs_are_regular_and_connected(n: int, degree: int, seed: int) -> None:
    names = [str(i) for i in range(n)]
    gossip = Gossip(graph="random-regular", degree=degree)
    if degree >= n or n * degree % 2:
        with pytest.raises(ValueError, match="no regular graph"):
            gossip.neighbours(names, seed=seed)
        return
    graph = gossip.neighbours(names, seed=seed)
    assert all(len(set(row) - {i}) == degree for i, row in enumerate(graph))


@pytest.mark.parametrize(
    ("topology", "words"),
    [
        (Gossip(graph="edges", edges=(("a", "b"), ("c", "d"))), "not connected"),
        (Gossip(graph="edges", edges=(("a", "z"),)), "z, which is no member"),
        (Gossip(graph="edges", edges=(("a", "a"), ("a", "b"))), "with itself"),
        (Gossip(graph="random-regular", degree=4), "no regular graph"),
        (Tree(groups={"north": ["a", "b"]}), "no group names the sites c, d"),
        (Hybrid(outer="star", groups=(sub("g", "star", "ab"),)), "no group names the sites c, d"),
    ],
    ids=str,
)
def test_a_topology_that_does_not_fit_says_why(topology: Topology, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        topology.arrange([SiteId(s) for s in "abcd"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Tree(),
        lambda: Tree(branching=1),
        lambda: Tree(branching=2, groups={"g": ["a"]}),
        lambda: Tree(groups={"g": ["a"], "h": ["a"]}),
        lambda: Tree(groups={"g": 3}),
        lambda: Gossip(graph="edges"),
        lambda: Gossip(edges=(("a", "b"),)),
        lambda: Gossip(exchanges=0),
        lambda: Cyclic(order="sideways"),  # type: ignore[arg-type]
        lambda: Hybrid(outer="star", groups=()),
        lambda: Hybrid(outer="nowhere", groups=(sub("g", "star", "a"),)),
        lambda: Hybrid(outer="star", groups=(sub("g", "star", "a"), sub("g", "star", "b"))),
        lambda: Hybrid(outer="star", groups=(sub("g", "star", "a"), sub("h", "star", "a"))),
    ],
)
def test_settings_that_contradict_themselves_are_refused(make: Any) -> None:
    with pytest.raises((ValidationError, ValueError)):
        make()


def test_a_round_is_a_dag_with_unique_ids() -> None:
    a, b = PartyId("a"), PartyId("b")
    with pytest.raises(ValueError, match="share an id"):
        RoundPlan(1, (Step("x", a, "train"), Step("x", b, "train")))
    with pytest.raises(ValueError, match="no earlier step"):
        RoundPlan(1, (Step("x", a, "consensus", inputs=("y",)), Step("y", b, "train")))


def test_the_clerk_is_served_no_model() -> None:
    for topology in ALL:
        for step in plan(topology).round(State("test")).steps:
            if step.op == "consensus":
                assert CLERK not in step.to


@pytest.mark.parametrize("topology", [Star(), Tree(branching=2), *EXAMPLES["hybrid"]], ids=str)
def test_who_is_sampled_stays_with_its_region(topology: Topology) -> None:
    """Parties are the same in every round, and a site's update always goes to the same one."""
    compiled = plan(topology, fraction=0.5)
    regions: dict[str, set[str]] = {}
    for number in range(20):
        layout = compiled.round(State("test", round=number))
        assert {step.party for step in layout.steps} <= set(compiled.parties)
        for step in layout.steps:
            for source in step.gathers:
                if source.startswith("train/") and step.op == "reduce":
                    regions.setdefault(source, set()).add(step.party)
    assert all(len(parties) == 1 for parties in regions.values())

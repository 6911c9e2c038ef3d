"""The plan is what runs: removing or reordering any compiled step changes the result or fails."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cohortium.errors import RunFailedError
from cohortium.plan.cyclic import Cyclic
from cohortium.plan.gossip import Gossip
from cohortium.plan.hybrid import Hybrid, SubFederation
from cohortium.plan.plan import LoweringPass, State
from cohortium.plan.star import Star
from cohortium.plan.step import RoundPlan, Step
from cohortium.plan.topology import Topology
from cohortium.plan.tree import Tree
from cohortium.runtime.engine import Federation
from cohortium.runtime.in_process import Sequential
from cohortium.testing.federations import federation
from cohortium.types import PartyId, SiteId

SEEDS = range(8)
ROWS = {"a": 30, "b": 12, "c": 55}
TOPOLOGIES: list[Topology] = [
    Star(),
    Tree(branching=2),
    Gossip(),
    Cyclic(),
    Cyclic(select="best-local"),
    Hybrid(
        outer="gossip",
        groups=(
            SubFederation(name="g", topology="star", sites=("a", "b")),
            SubFederation(name="h", topology="star", sites=("c",)),
        ),
    ),
]


def without(gone: str) -> LoweringPass:
    """Remove a step, and every mention of it."""

    def lower(plan: RoundPlan) -> RoundPlan:
        return RoundPlan(plan.round, tuple(_forget(s, gone) for s in plan.steps if s.id != gone))

    return lower


def _forget(step: Step, gone: str) -> Step:
    kept = [i for i, source in enumerate(step.gathers) if source != gone]
    return replace(
        step,
        inputs=tuple(source for source in step.inputs if source != gone),
        gathers=tuple(step.gathers[i] for i in kept),
        weights=tuple(step.weights[i] for i in kept) if step.weights else (),
        scales=tuple(step.scales[i] for i in kept) if step.scales else (),
        needs=min(step.needs, len(kept)),
    )


def outcome(made: Federation) -> Any:
    """Return everything that a run shows, or that it failed."""
    try:
        finished = Sequential().run(made)
    except (RunFailedError, AssertionError, KeyError, IndexError, StopIteration, ValueError) as e:
        return type(e)
    log = finished.logs[-1]
    models = {party: model.digest for party, model in finished.models.items()}
    return models, log.state.metrics, log.state.roster, log.state.status, log.state.notes


def lowered(topology: Topology, *passes: LoweringPass, seed: int = 0) -> Federation:
    made = federation(topology, ROWS, rounds=2, seed=seed)
    plan = replace(made.agreement.plan, passes=passes)
    return replace(made, agreement=replace(made.agreement, plan=plan))


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_removing_any_step_changes_the_result_or_fails(topology: Topology) -> None:
    """A step may happen not to matter for one federation (the best model came later): of a few
    federations, each step must matter for one."""
    steps = lowered(topology).agreement.plan.round(State("test")).steps
    whole = [outcome(lowered(topology, seed=seed)) for seed in SEEDS]
    for step in steps:
        cut = (outcome(lowered(topology, without(step.id), seed=seed)) for seed in SEEDS)
        assert any(one != other for one, other in zip(cut, whole, strict=True)), step.id


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_a_step_before_its_source_is_refused(topology: Topology) -> None:
    steps = lowered(topology).agreement.plan.round(State("test")).steps
    for i, step in enumerate(steps):
        for source in step.inputs + step.gathers:
            at = next(k for k, s in enumerate(steps) if s.id == source)
            moved = [*steps[:at], step, *steps[at:i], *steps[i + 1 :]]
            with pytest.raises(ValueError, match="no earlier step"):
                RoundPlan(1, tuple(moved))


def test_visiting_in_another_order_changes_a_cyclic_model() -> None:
    def backwards(plan: RoundPlan) -> RoundPlan:
        swap = {"a": "c", "c": "a"}

        def renamed(text: str) -> str:
            head, _, site = text.rpartition("/")
            return f"{head}/{swap.get(site, site)}" if head else text

        steps = tuple(
            replace(
                step,
                id=renamed(step.id),
                party=PartyId(swap.get(step.party, step.party)),
                inputs=tuple(map(renamed, step.inputs)),
                gathers=tuple(map(renamed, step.gathers)),
                covers=tuple(SiteId(swap.get(site, site)) for site in step.covers),
            )
            if step.op in ("train", "consensus")
            else step
            for step in plan.steps
        )
        return RoundPlan(plan.round, steps)

    assert outcome(lowered(Cyclic(), backwards)) != outcome(lowered(Cyclic()))


def test_a_pass_that_changes_nothing_changes_nothing() -> None:
    """The positive control of the tests above."""
    same = lowered(Star(), lambda plan: RoundPlan(plan.round, plan.steps))
    assert outcome(same) == outcome(lowered(Star()))

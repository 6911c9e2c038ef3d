"""The sentences that people consent by follow from the plan that will run."""

from __future__ import annotations

from typing import Any

import pytest

from cohortium.governance.exposure import exposures
from cohortium.plan.cyclic import Cyclic
from cohortium.plan.gossip import Gossip
from cohortium.plan.plan import Member, Plan
from cohortium.plan.star import Star
from cohortium.plan.tree import Tree
from cohortium.types import SiteId

SITES = ("a", "b", "c", "d")


def told(topology: Any, sites: tuple[str, ...] = SITES, **hosts: str) -> list[str]:
    members = tuple(Member(SiteId(site), 10) for site in sites)
    plan = Plan("x", 0, topology, members, 3)
    return [found.told for found in exposures(plan, {f"@{k}": v for k, v in hosts.items()})]


def test_the_operator_of_the_hub_can_read_every_update_of_a_star() -> None:
    [line] = told(Star())
    assert line == (
        "the hub, as @aggregator, reads each single update of a, b, c, d, and the metrics of "
        "a, b, c, d: its operator can, too"
    )


def test_a_site_that_aggregates_is_named_instead() -> None:
    [line] = told(Star(), aggregator="c")
    assert line.startswith("c, as @aggregator, reads each single update of a, b, d")


def test_many_sites_are_counted() -> None:
    assert "each single update of 50 sites" in told(Star(), tuple(f"s{i}" for i in range(50)))[0]


def test_in_a_tree_the_top_reads_mixtures() -> None:
    found = told(Tree(branching=2))
    assert any("a mixture of the updates of" in line and "@aggregator," in line for line in found)
    assert not any("@aggregator, reads each single" in line for line in found)


def test_peers_read_each_other_and_a_clerk_metrics_only() -> None:
    found = {line.split(" reads ")[0]: line for line in told(Gossip())}
    assert set(found) == {*SITES, "the hub, as @clerk,"}
    assert found["the hub, as @clerk,"] == (
        "the hub, as @clerk, reads the metrics of a, b, c, d: its operator can, too"
    )
    assert "update" in found["a"]


def test_along_a_chain_the_second_reads_the_first() -> None:
    found = {line.split(" reads ")[0]: line for line in told(Cyclic(order="fixed"))}
    assert found["b"].startswith("b reads the update of a")
    assert found["c"].startswith("c reads a mixture of the updates of a, b")


@pytest.mark.parametrize("topology", [Star(), Gossip(), Cyclic()])
def test_nobody_else_is_read(topology: Any) -> None:
    members = tuple(Member(SiteId(site), 10) for site in SITES)
    for found in exposures(Plan("x", 0, topology, members, 3), {}):
        assert {*found.updates, *found.joined, *found.metrics} <= set(SITES)

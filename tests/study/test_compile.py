"""From a study and its sites to a plan: who may carry the parties that are no site."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from cohortium.errors import StudyError
from cohortium.plan.plan import Member
from cohortium.study.bundle import Bundle
from cohortium.study.compile import compile_plan
from cohortium.study.study import Study
from cohortium.types import SiteId

Change = Callable[[Mapping[str, Any]], dict[str, Any]]

MEMBERS = tuple(Member(SiteId(site), 10) for site in ("a", "b", "c", "d"))
TREE = {"kind": "tree", "groups": {"north": ["a", "b"], "south": ["c", "d"]}}


def bundle_of(tables: Mapping[str, Any]) -> Bundle:
    return Bundle(Study.from_dict(tables), where="s.toml")


def test_a_site_may_carry_any_party_that_is_no_site(changed: Change) -> None:
    hosts = {"@aggregator": "a", "@aggregator/north": "b"}
    tables = changed({"plan.topology": TREE, "plan.hosts": hosts})
    plan = compile_plan(bundle_of(tables), MEMBERS)
    assert set(hosts) < set(plan.parties)


@pytest.mark.parametrize(
    ("topology", "hosts", "words"),
    [
        (
            "star",
            {"@aggregator/north": "a"},
            ("plan.hosts.@aggregator/north", "not in the plan", "one of @aggregator."),
        ),
        (
            TREE,
            {"@aggregator/west": "a"},
            ("one of @aggregator/north, @aggregator/south, @aggregator",),
        ),
        ("star", {"a": "b"}, ("plan.hosts.a", "a site, which carries itself")),
        ("star", {"@aggregator": "e"}, ("got 'e'", "a site that takes part: a, b, c, d")),
    ],
)
def test_hosts_of_unknown_parties_and_unknown_sites_are_refused(
    changed: Change, topology: object, hosts: dict[str, str], words: tuple[str, ...]
) -> None:
    tables = changed({"plan.topology": topology, "plan.hosts": hosts})
    with pytest.raises(StudyError) as refusal:
        compile_plan(bundle_of(tables), MEMBERS)
    for word in ("s.toml", *words):
        assert word in str(refusal.value)


def test_every_unfit_host_is_told_at_once(changed: Change) -> None:
    tables = changed({"plan.hosts": {"@clerk": "a", "@aggregator": "e"}})
    with pytest.raises(StudyError) as refusal:
        compile_plan(bundle_of(tables), MEMBERS)
    assert len(refusal.value.problems) == 2


def test_a_study_that_only_evaluates_has_a_closing_party_to_carry(changed: Change) -> None:
    tables = changed({"plan.rounds": 0, "task.initial_model": "m", "plan.hosts": {"@clerk": "a"}})
    bundle = Bundle(Study.from_dict(tables), {"m": b""})
    with pytest.raises(StudyError, match="one of @aggregator"):
        compile_plan(bundle, MEMBERS)

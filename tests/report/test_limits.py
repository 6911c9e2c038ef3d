from __future__ import annotations

from cohortium.plan.cyclic import Cyclic
from cohortium.plan.plan import Member, Plan
from cohortium.report.limits import limits
from cohortium.types import SiteId

from .conftest import MakeResult


def test_who_sees_what_follows_the_plan(make_result: MakeResult) -> None:
    star = " ".join(limits(make_result()))
    assert "the aggregator sees every update" in star
    assert "visible to the aggregator" in star
    plan = Plan("x", 0, Cyclic(), (Member(SiteId("a"), 5), Member(SiteId("b"), 5)), 2)
    cyclic = " ".join(limits(make_result(["a", "b"], plan=plan)))
    assert "aggregator" not in cyclic
    assert "visible to the clerk" in cyclic


def test_a_run_across_hospitals_is_no_simulation(make_result: MakeResult) -> None:
    text = " ".join(limits(make_result(engine="network")))
    assert "simulated" not in text
    assert "Nothing shows that a hospital\u2019s records are right" in text
    assert "no secure sum" in text


def test_the_absence_of_protection_is_said(make_result: MakeResult) -> None:
    text = " ".join(limits(make_result()))
    for words in (
        "simulated on one machine",
        "no secure sum",
        "no differential privacy",
        "one seed",
    ):
        assert words in text

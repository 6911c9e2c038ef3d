"""A plan's rounds are laid out once, whoever looks at them."""

from __future__ import annotations

from collections import Counter

from cohortium.plan.plan import CACHED, Member, Plan
from cohortium.plan.star import Star
from cohortium.plan.step import RoundPlan
from cohortium.types import SiteId


def test_who_lags_behind_does_not_lay_every_round_anew() -> None:
    laid: Counter[int] = Counter()

    def count(plan: RoundPlan) -> RoundPlan:
        laid[plan.round] += 1
        return plan

    members = (Member(SiteId("a"), 5), Member(SiteId("b"), 5))
    plan = Plan("test", 0, Star(), members, 2 * CACHED, passes=(count,))
    for _ in range(2):  # a second run begins where the first did
        for number in range(1, 2 * CACHED):
            for _ in range(5):
                plan.layout(number)
                plan.layout(number + 1)
    assert max(laid.values()) == 2

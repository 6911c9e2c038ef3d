"""Results to look at: a real comparison, and made-up ones of any size and trouble."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cohortium.governance.acceptance import Verdict
from cohortium.plan.gossip import Gossip
from cohortium.plan.plan import Member, Plan
from cohortium.plan.star import Star
from cohortium.runtime.result import ArmResult, MetricValue, Participation, Result, RoundResult
from cohortium.runtime.simulation import compare
from cohortium.study.arms import ARMS
from cohortium.types import Array, Params, SiteId, derive_rng

MakeResult = Callable[..., Result]

STUDY: dict[str, Any] = {
    "schema_version": 1,
    "study": {"name": "four-hospitals", "purpose": "Tell two clouds of points apart.", "seed": 3},
    "task": {
        "kind": "binary-classification",
        "model": "linear",
        "optimizer": {"kind": "sgd", "lr": 0.2},
    },
    "data": {
        "dataset": "own",
        "target": "y",
        "features": [{"name": "a"}, {"name": "b"}],
    },
    "plan": {"rounds": 3, "local": {"epochs": 1}},
    "acceptance": {"criteria": [{"metric": "auroc", "scope": "global", "at_least": 0.6}]},
}
"""A study that runs in a moment."""


@pytest.fixture(scope="session")
def compared() -> Result:
    """A real comparison of every arm over four small hospitals, one of which only evaluates."""
    study = {**STUDY, "plan": {**STUDY["plan"], "evaluation_only": ["west"]}}
    return compare(study, own_sites(), arms=tuple(ARMS))


def own_sites() -> dict[str, tuple[Array, Array]]:
    """Return four hospitals' records: two clouds of points each."""
    rng = derive_rng(0, "report-tests")
    sites: dict[str, tuple[Array, Array]] = {}
    for i, site in enumerate(("north", "south", "east", "west")):
        y = (np.arange(24 + 8 * i) % 2).astype(np.float32)
        x = rng.normal(size=(len(y), 2)) + y[:, None]
        sites[site] = (x.astype(np.float32), y)
    return sites


@pytest.fixture(scope="session")
def make_result() -> MakeResult:
    """A function that makes a result up; see `made_up`."""
    return made_up


def made_up(
    sites: Sequence[str] = ("north", "south", "east"),
    *,
    arms: Sequence[str] = ("pooled", "federated", "single"),
    metrics: Sequence[str] = ("auroc", "loss"),
    rounds: int = 5,
    better: str = "higher",
    plan: Plan | None = None,
    **changes: Any,
) -> Result:
    """Return a result with values drawn from a fixed stream.

    Args:
        sites: their names; training rows fall from site to site.
        arms: their names.
        metrics: their names; lower is better for the loss, `better` for the others.
        rounds: of the arms that have rounds.
        plan: by default a star.
        changes: any other field of the result.
    """
    rows = {site: 400 // (i + 1) + 8 for i, site in enumerate(sites)}
    members = tuple(Member(SiteId(site), n) for site, n in rows.items())
    result = Result(
        study="made-up",
        purpose="Show what a report looks like.",
        digest="ab" * 32,
        seed=7,
        engine="sequential",
        sites=rows,
        evaluation_only=(),
        arms={name: _arm(name, sites, metrics, rounds) for name in arms},
        participation=tuple(
            Participation("federated", r, site, "in")
            for r in range(1, rounds + 1)
            for site in sites
            if "federated" in arms
        ),
        acceptance=(),
        warnings=(),
        seconds=12.5,
        environment={"python": "3.11", "cohortium": "0.1.0"},
        better={name: "lower" if name == "loss" else better for name in metrics},
        model=Params.of({"w": np.arange(4, dtype=np.float32)}),
        plan=plan or Plan("ab" * 32, 7, Star(), members, rounds),
    )
    return replace(result, **changes)


def _arm(name: str, sites: Sequence[str], metrics: Sequence[str], rounds: int) -> ArmResult:
    several = name in ("single", "leave-one-out")
    runs = 0 if several else rounds if name in ("federated", "pooled", "ciil") else 1
    final = {metric: _value(name, metric, sites, rounds) for metric in metrics}
    history = tuple(
        RoundResult(
            round=r,
            metrics={metric: _value(name, metric, sites, r) for metric in metrics},
            seconds=0.25,
            sent={} if name == "pooled" else dict.fromkeys(sites, 4_000),
            received={} if name == "pooled" else dict.fromkeys(sites, 1_500),
        )
        for r in range(1, runs + 1)
    )
    members = dict.fromkeys(sites, final) if several else {}
    return ArmResult(name, ARMS[name].title, final, history, 1.25, members)


def _value(arm: str, metric: str, sites: Sequence[str], r: int) -> MetricValue:
    strength = {"pooled": 0.9, "federated": 0.88, "single": 0.6}.get(arm, 0.75)
    rng = derive_rng(1, arm, metric, r)
    learned = 1 - 0.5 * (0.6**r) - 0.5 * (1 - strength) * rng.uniform(0.8, 1.2)
    overall = float(learned if metric != "loss" else 1.3 - learned)
    spread = rng.normal(0, 0.03, size=len(sites))
    per_site = {s: float(np.clip(overall + d, 0, 1)) for s, d in zip(sites, spread, strict=True)}
    worst = max(per_site.values()) if metric == "loss" else min(per_site.values())
    return MetricValue(overall, per_site, overall - 0.01 if len(sites) > 1 else None, worst)


@pytest.fixture(scope="session")
def troubled() -> Result:
    """A gossip federation in which much went wrong: every status, undefined values, a miss."""
    sites = [f"hospital-{i:02d}" for i in range(1, 10)]
    members = tuple(Member(SiteId(site), 50, trains=i < 8) for i, site in enumerate(sites))
    plan = Plan("cd" * 32, 7, Gossip(exchanges=2), members, 12)
    result = made_up(sites, rounds=12, plan=plan, arms=tuple(ARMS))
    statuses = {3: "absent", 4: "refused", 5: "failed", 6: "excluded", 7: "not sampled"}
    reasons = {4: "an array is not finite", 5: "ValueError: no", 6: "weight 9000 is above 50"}
    lines = tuple(
        Participation("federated", r, site, "evaluated")
        if i == 8
        else Participation("federated", r, site, statuses[r], reasons.get(r, ""))
        if i == r % 4 and r in statuses
        else Participation("federated", r, site, "in")
        for r in range(1, 13)
        for i, site in enumerate(sites)
    )
    arms = {
        name: replace(arm, metrics={**arm.metrics, "auroc": _without(arm, "hospital-04")})
        for name, arm in result.arms.items()
    }
    arms["federated"] = replace(arms["federated"], disagreement=0.0123)
    return replace(
        result,
        arms=arms,
        participation=lines,
        evaluation_only=("hospital-09",),
        acceptance=(
            Verdict("global auroc at least 0.8", "auroc", "global", 0.8, 0.94, met=True),
            Verdict(
                "every site's auroc at least 0.95", "auroc", "every-site", 0.95, 0.9, met=False
            ),
        ),
        warnings=("hospital-04: the held-out records have one class, so its AUROC is undefined",),
    )


def _without(arm: ArmResult, site: str) -> MetricValue:
    value = arm.metrics["auroc"]
    return replace(value, per_site={**value.per_site, site: None})

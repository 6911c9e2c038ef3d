"""What a run gives back, and `result.json`: its stable, documented form.

The schema is `result.schema.json` beside this file; `docs/result-schema.md` explains it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cohortium.governance.acceptance import Verdict
from cohortium.plan.plan import Plan
from cohortium.types import Params, PartyId, SiteId, Statistics

SCHEMA_VERSION = 1

NETWORK = "network"
"""What carries out a run whose parties are on machines of their own."""


@dataclass(frozen=True)
class MetricValue:
    """One metric of one model (or the mean over an arm's models); None where undefined.

    Attributes:
        overall: over the held-out records of all sites together.
        per_site: over each site's. For the single-site arm: of the site's own model.
        elsewhere: generalisation: the mean over sites of the value over all *other* sites' held-out
            records together; for the single-site arm, each with the model of that one site.
        worst: the worst site's value.
    """

    overall: float | None
    per_site: Mapping[str, float | None]
    elsewhere: float | None = None
    worst: float | None = None


@dataclass(frozen=True)
class RoundResult:
    """One round of one run.

    Attributes:
        round: counting from 1; 0 for a study that only evaluates.
        metrics: of the consensus model after it; empty where it was not evaluated.
        seconds: wall time.
        sent, received: bytes of arrays by site. What goes to several readers is sent once, and
            received by each.
    """

    round: int
    metrics: Mapping[str, MetricValue]
    seconds: float
    sent: Mapping[str, int]
    received: Mapping[str, int]


@dataclass(frozen=True)
class Participation:
    """How one site fared in one round of one arm; `status` as in `plan.Note`, and "evaluated"."""

    arm: str
    round: int
    site: str
    status: str
    reason: str = ""


@dataclass(frozen=True)
class ArmResult:
    """One way of training.

    Attributes:
        name: "federated", "pooled", "single", "iil", "ciil", "ensemble" or "leave-one-out".
        title: what readers see.
        metrics: by name, "loss" among them.
        rounds: of its run; empty for an arm of several runs.
        seconds: wall time of all its runs.
        members: for an arm of several models, each model's metrics by the site that gave its name.
        disagreement: for gossip, the largest relative distance of a site's model from their mean.
        idle: share of the run in which each site had nothing to do; empty where nobody can tell.
    """

    name: str
    title: str
    metrics: Mapping[str, MetricValue]
    rounds: tuple[RoundResult, ...] = ()
    seconds: float = 0.0
    members: Mapping[str, Mapping[str, MetricValue]] = field(default_factory=dict)
    disagreement: float | None = None
    idle: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """Everything that a run gives back.

    Attributes:
        study: the study's name.
        purpose: the study's purpose.
        digest: of the study bundle.
        seed, engine: how it ran.
        sites: training rows by site, in roster order.
        evaluation_only: the sites that never train.
        arms: by name, in the order in which they ran.
        participation: every site in every round.
        acceptance: every criterion; empty where none was agreed.
        warnings: what a reader should know, such as a site with one class.
        seconds: wall time in all.
        environment: versions, processor, system.
        better: metric to "higher" or "lower".
        model: the consensus model; of the first site where each has its own.
        models: every site's own, where they differ: among peers, or in an arm of one for each.
        evaluation: arm to the additive statistics of its consensus model, by site.
        plan: the compiled plan of the federated arm, for drawing.
    """

    study: str
    purpose: str
    digest: str
    seed: int
    engine: str
    sites: Mapping[str, int]
    evaluation_only: tuple[str, ...]
    arms: Mapping[str, ArmResult]
    participation: tuple[Participation, ...]
    acceptance: tuple[Verdict, ...]
    warnings: tuple[str, ...]
    seconds: float
    environment: Mapping[str, str]
    better: Mapping[str, str]
    model: Params
    models: Mapping[PartyId, Params] = field(default_factory=dict)
    evaluation: Mapping[str, Mapping[SiteId, Statistics]] = field(default_factory=dict, repr=False)
    plan: Plan | None = field(default=None, repr=False)

    @property
    def metrics(self) -> Mapping[str, MetricValue]:
        """The metrics of the first arm: in a simulation, the federated one."""
        return next(iter(self.arms.values())).metrics

    @property
    def accepted(self) -> bool:
        """Whether the consensus model meets every criterion that was agreed."""
        return all(criterion.met for criterion in self.acceptance)

    def to_json(self) -> dict[str, Any]:
        """Return `result.json` as plain values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "study": self.study,
            "purpose": self.purpose,
            "digest": self.digest,
            "seed": self.seed,
            "engine": self.engine,
            "sites": dict(self.sites),
            "evaluation_only": list(self.evaluation_only),
            "arms": {name: _arm(arm) for name, arm in self.arms.items()},
            "participation": [vars(line) for line in self.participation],
            "acceptance": [vars(criterion) for criterion in self.acceptance],
            "warnings": list(self.warnings),
            "model_digest": self.model.digest,
            "timing": {
                "seconds": self.seconds,
                "arms": {name: arm.seconds for name, arm in self.arms.items()},
            },
            "environment": dict(self.environment),
        }


def _arm(arm: ArmResult) -> dict[str, Any]:
    found: dict[str, Any] = {
        "title": arm.title,
        "metrics": _metrics(arm.metrics),
        "rounds": [
            {
                "round": r.round,
                "metrics": _metrics(r.metrics),
                "duration": r.seconds,
                "bytes": {s: {"sent": r.sent[s], "received": r.received[s]} for s in r.sent},
            }
            for r in arm.rounds
        ],
    }
    if arm.members:
        found["members"] = {name: _metrics(metrics) for name, metrics in arm.members.items()}
    if arm.disagreement is not None:
        found["disagreement"] = arm.disagreement
    if arm.idle:
        found["idle"] = dict(arm.idle)
    return found


def _metrics(metrics: Mapping[str, MetricValue]) -> dict[str, Any]:
    return {
        name: {
            "global": value.overall,
            "per_site": dict(value.per_site),
            "elsewhere": value.elsewhere,
            "worst": value.worst,
        }
        for name, value in metrics.items()
    }

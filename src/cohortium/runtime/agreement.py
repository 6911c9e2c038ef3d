"""What the parties of a run agreed on, in the form in which actors use it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cohortium.aggregation.rule import Aggregator
from cohortium.aggregation.server_optimizer import ServerOptimizer
from cohortium.governance.gate import Declaration
from cohortium.plan.plan import Metric, Plan
from cohortium.types import SiteId, Statistics

Evaluation = Mapping[SiteId, Statistics]
"""The additive statistics that each site returned."""


@dataclass(frozen=True)
class Agreement:
    """A plan and the parts that its steps use.

    Attributes:
        plan: the steps of each round.
        declaration: what sites may share.
        aggregator: how updates become one.
        server_optimizer: how the consensus model moves towards the aggregate.
        measure: the metrics of an evaluation, by name.
        accepted: whether metrics meet all acceptance criteria; for early stopping.
        patience: evaluated rounds in a row that must be accepted to stop early; 0 never stops.
        score: one site's validation statistics to the score by which models compete; higher is
            better, None is undefined.
    """

    plan: Plan
    declaration: Declaration
    aggregator: Aggregator
    server_optimizer: ServerOptimizer
    measure: Callable[[Evaluation], Mapping[str, Metric]]
    accepted: Callable[[Mapping[str, Metric]], bool]
    patience: int
    score: Callable[[Statistics], float | None]

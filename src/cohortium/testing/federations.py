"""Small federations for tests: a plan, least squares in numpy, simulated hospitals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cohortium.aggregation.mean import Mean
from cohortium.aggregation.rule import Aggregator
from cohortium.aggregation.server_optimizer import FedAvg, ServerOptimizer
from cohortium.governance.gate import Declaration
from cohortium.learning.task import Work
from cohortium.plan.plan import Member, Metric, Plan
from cohortium.plan.topology import Topology
from cohortium.runtime.agreement import Agreement, Evaluation
from cohortium.runtime.arms import measure
from cohortium.runtime.engine import Federation
from cohortium.runtime.training import Training
from cohortium.testing.regression import LeastSquares, hospitals
from cohortium.types import VALIDATION, Statistics


def federation(
    topology: Topology,
    rows: Mapping[str, int],
    *,
    rounds: int = 3,
    seed: int = 0,
    evaluation_only: tuple[str, ...] = (),
    work: Work | None = None,
    aggregator: Aggregator | None = None,
    server_optimizer: ServerOptimizer | None = None,
    features: int = 3,
    patience: int = 0,
    accept_below: float = 0.0,
    **plan: Any,
) -> Federation:
    """Return a federation that is ready to run.

    Args:
        topology: of its plan.
        rows: training rows by site, in roster order.
        rounds: of its plan.
        seed: of its plan, and of the hospitals' records.
        evaluation_only: sites that never train.
        work: in each round; by default 5 steps.
        aggregator: by default the weighted mean.
        server_optimizer: by default FedAvg.
        features: of the hospitals' records.
        patience: rounds in a row below `accept_below` after which it stops early; 0 never.
        accept_below: validation loss that is accepted.
        **plan: further attributes of the plan, such as `quorum`.
    """
    task = LeastSquares(features)
    data = hospitals(rows, features=features, seed=seed)
    members = tuple(
        Member(site, len(records.train), trains=site not in evaluation_only)
        for site, records in data.items()
    )
    shapes = {prefix + name: s for prefix in ("", VALIDATION) for name, s in _shapes(task)}

    def value(evaluation: Evaluation) -> Mapping[str, Metric]:
        return measure(evaluation, task.metrics, task.value)

    def accepted(metrics: Mapping[str, Metric]) -> bool:
        loss = metrics[VALIDATION + "loss"].overall
        return loss is not None and loss < accept_below

    def score(statistics: Statistics) -> float | None:
        loss = task.value("loss", {"loss": statistics[VALIDATION + "loss"]})
        return None if loss is None else -loss

    agreement = Agreement(
        plan=Plan("test", seed, topology, members, rounds, **plan),
        declaration=Declaration(task.layout, shapes),
        aggregator=aggregator or Mean(),
        server_optimizer=server_optimizer or FedAvg(),
        measure=value,
        accepted=accepted,
        patience=patience,
        score=score,
    )
    initial = task.initial(seed)
    training = Training(task, data, work or Work(steps=5), seed)
    return Federation(agreement, training, lambda: initial)


def _shapes(task: LeastSquares) -> list[tuple[str, tuple[int, ...]]]:
    return list(task.statistics.items())

"""From a study to what its parties agree on, in the form in which actors use it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cohortium.governance.acceptance import judge
from cohortium.governance.gate import Declaration
from cohortium.learning.task import Work
from cohortium.plan.plan import Metric, Plan
from cohortium.runtime.agreement import Agreement, Evaluation
from cohortium.runtime.arms import Value, measure
from cohortium.study.study import Study
from cohortium.types import VALIDATION, Layout, Statistics


def agree(
    study: Study,
    plan: Plan,
    *,
    layout: Layout,
    shapes: Mapping[str, tuple[int, ...]],
    metrics: tuple[str, ...],
    value: Value,
) -> Agreement:
    """Return what the parties of a run agree on.

    Args:
        study: the study.
        plan: as it was compiled.
        layout: the arrays that sites share.
        shapes: name and shape of every statistic that they share.
        metrics: the metrics' names.
        value: a metric's value from summed statistics.
    """
    shared = shapes if study.task.evaluate else {}
    validation = {VALIDATION + name: shape for name, shape in shared.items()}
    criteria, stopping = study.acceptance.criteria, study.acceptance.early_stopping
    is_better = better(study, metrics)
    first = criteria[0].metric if criteria else metrics[min(1, len(metrics) - 1)]

    def measured(evaluation: Evaluation) -> Mapping[str, Metric]:
        return measure(evaluation, metrics, value)

    def accepted(found: Mapping[str, Metric]) -> bool:
        held_out = {n: found[VALIDATION + n] for n in metrics if VALIDATION + n in found}
        return all(verdict.met for verdict in judge(criteria, held_out))

    def score(statistics: Statistics) -> float | None:
        own = {name.removeprefix(VALIDATION): values for name, values in statistics.items()}
        if not own.keys() >= shapes.keys():  # a site without validation rows
            return None
        found = value(first, own)
        return found if found is None or is_better.get(first) == "higher" else -found

    return Agreement(
        plan=plan,
        declaration=Declaration(layout, {**shared, **validation}),
        aggregator=study.plan.aggregation,
        server_optimizer=study.plan.server_optimizer,
        measure=measured,
        accepted=accepted,
        patience=stopping.patience if stopping else 0,
        score=score,
    )


def work_of(study: Study) -> Work:
    """Return how much a site trains in a round."""
    local = study.plan.local
    if local is None:
        return Work(epochs=1)
    return Work(epochs=local.epochs, steps=local.steps, seconds=local.seconds)


def better(study: Study, metrics: Iterable[str]) -> dict[str, str]:
    """Return, for each of the metrics, whether "higher" or "lower" is better; none unmeasured."""
    if not study.task.evaluate:
        return {}
    names = study.task.metric_names[1:]
    known = {name: str(m.better) for name, m in zip(names, study.task.metrics, strict=True)}
    known["loss"] = "lower"
    return {name: known.get(name, "higher") for name in metrics}

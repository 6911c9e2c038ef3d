"""Whether a consensus model meets what all sites agreed on before round 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cohortium.plan.plan import Metric
from cohortium.study.sections import Criterion


@dataclass(frozen=True)
class Verdict:
    """One acceptance criterion, as agreed, and how the consensus model fared.

    `text` is the criterion in words. An undefined value meets nothing.
    """

    text: str
    metric: str
    scope: str
    bound: float
    value: float | None
    met: bool


def judge(criteria: Sequence[Criterion], metrics: Mapping[str, Metric]) -> tuple[Verdict, ...]:
    """Return how a model with these metrics fares, criterion by criterion."""
    return tuple(_judge(criterion, metrics.get(criterion.metric)) for criterion in criteria)


def _judge(criterion: Criterion, metric: Metric | None) -> Verdict:
    value = None if metric is None else _value(criterion, metric)
    low, high = criterion.at_least, criterion.at_most
    bound = low if low is not None else high
    assert bound is not None  # a study has exactly one of the two
    met = value is not None and (value >= bound if low is not None else value <= bound)
    words = f"{'at least' if low is not None else 'at most'} {bound:g}"
    text = f"{_SCOPE[criterion.scope]} {criterion.metric} {words}"
    return Verdict(text, criterion.metric, criterion.scope, bound, value, met)


def _value(criterion: Criterion, metric: Metric) -> float | None:
    """Return what the bound applies to; sites at which the metric is undefined are left out."""
    if criterion.scope == "global":
        return metric.overall
    defined = [value for value in metric.per_site.values() if value is not None]
    if not defined:
        return None
    if criterion.scope == "gap":
        return max(defined) - min(defined)
    return min(defined) if criterion.at_least is not None else max(defined)


_SCOPE = {"global": "global", "every-site": "every site's", "gap": "gap between sites in"}

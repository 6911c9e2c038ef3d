"""Arms beside each other: one metric's values for every way of training, and which are best."""

from __future__ import annotations

from dataclasses import dataclass

from cohortium.report.notation import UNDEFINED, number, percent
from cohortium.runtime.result import ArmResult, MetricValue, Result
from cohortium.study.arms import ARMS

COLUMNS = {
    "overall": ("Global", "over the held-out records of all hospitals together"),
    "worst": ("Worst hospital", "the hospital at which it does worst, on its own held-out records"),
    "elsewhere": (
        "Other hospitals",
        "generalisation: over all hospitals but one, averaged over which one that is",
    ),
    "relative": ("Of pooled", "the global value as a share of the pooled arm's"),
}
"""Key to the heading of a column and what it means."""

YARDSTICK = "pooled"
"""The arm that needs all records in one place: others are measured against it, and not ranked
with it.
"""


@dataclass(frozen=True)
class Row:
    """One arm's line: values as `COLUMNS` names them, and the columns in which it is best."""

    name: str
    title: str
    why: str
    overall: float | None
    worst: float | None
    elsewhere: float | None
    relative: float | None
    best: frozenset[str]

    def text(self, column: str) -> str:
        """Return a value as readers see it."""
        value: float | None = getattr(self, column)
        if column == "relative":
            return UNDEFINED if value is None else percent(value)
        return number(value)


def primary_metric(result: Result) -> str | None:
    """Return the metric that leads: the first that is not the loss; None if none was measured.

    A validation part's metrics, which early stopping uses, do not count.
    """
    names = metric_names(result)
    return next((name for name in names if name != "loss"), names[0] if names else None)


def metric_names(result: Result) -> tuple[str, ...]:
    """Return all metrics of the held-out parts, the primary one first and the loss last."""
    arms = result.arms.values()
    names = dict.fromkeys(name for arm in arms for name in arm.metrics if "/" not in name)
    return (*(name for name in names if name != "loss"), *(["loss"] if "loss" in names else []))


def leading_arm(result: Result) -> ArmResult | None:
    """Return the arm whose model is the result's: the federated one, or else the first."""
    return result.arms.get("federated", next(iter(result.arms.values()), None))


def rows(result: Result, metric: str) -> list[Row]:
    """Return every arm's line for one metric, in the order in which the arms ran."""
    pooled = result.arms.get(YARDSTICK)
    base = pooled.metrics[metric].overall if pooled and metric in pooled.metrics else None
    found = {name: arm.metrics.get(metric, _NOTHING) for name, arm in result.arms.items()}
    ranked = {name: value for name, value in found.items() if name != YARDSTICK}
    higher = result.better.get(metric, "higher") == "higher"
    best = {c: _best(ranked, c, higher) for c in ("overall", "worst", "elsewhere")}
    return [
        Row(
            name=name,
            title=result.arms[name].title,
            why=explain(name),
            overall=value.overall,
            worst=value.worst,
            elsewhere=value.elsewhere,
            relative=value.overall / base
            if base and base > 0 and value.overall is not None
            else None,
            best=frozenset(c for c, winners in best.items() if name in winners),
        )
        for name, value in found.items()
    ]


def explain(name: str) -> str:
    """Return one line on an arm; empty for one that is not known here."""
    return ARMS[name].why if name in ARMS else ""


def _best(found: dict[str, MetricValue], column: str, higher: bool) -> set[str]:
    """Return the arms whose value, as shown, is the best; nobody where there is no choice."""
    values = {n: getattr(v, column) for n, v in found.items() if getattr(v, column) is not None}
    if len(values) < 2:
        return set()
    top = number(max(values.values()) if higher else min(values.values()))
    winners = {name for name, value in values.items() if number(value) == top}
    return winners if len(winners) < len(values) else set()


_NOTHING = MetricValue(None, {})

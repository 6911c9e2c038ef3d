"""What an arm of a comparison amounts to: its models' metrics, here and elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cohortium.plan.plan import Metric, Plan, State
from cohortium.runtime.agreement import Evaluation
from cohortium.runtime.engine import Finished, RoundLog
from cohortium.runtime.result import ArmResult, MetricValue, Participation, RoundResult
from cohortium.study.arms import ARMS, POOLED, Variant
from cohortium.types import VALIDATION, Params, SiteId, Statistics, sum_statistics

Value = Callable[[str, Statistics], float | None]
"""(metric, summed statistics) to the metric's value."""


@dataclass(frozen=True)
class Trained:
    """A variant that has run.

    Attributes:
        variant: what ran.
        finished: how it ended.
        plan: what it ran by.
        value: a metric's value from statistics.
        better: metric to "higher" or "lower".
        seconds: wall time.
    """

    variant: Variant
    finished: Finished
    plan: Plan
    value: Value
    better: Mapping[str, str]
    seconds: float

    @property
    def state(self) -> State:
        """The last State."""
        return self.finished.logs[-1].state

    @property
    def model(self) -> Params:
        """The consensus model; of the first holder where each has its own."""
        return self.finished.models[next(iter(self.state.models))]

    @property
    def evaluation(self) -> Evaluation:
        """The hospitals' statistics of the last evaluation, on their test records."""
        found = self.finished.logs[-1].evaluation or {}
        return {
            site: {k: v for k, v in stats.items() if not k.startswith(VALIDATION)}
            for site, stats in found.items()
            if site != POOLED
        }


def measure(evaluation: Evaluation, metrics: Iterable[str], value: Value) -> dict[str, Metric]:
    """Return each metric over all sites together and at each, on test and on validation records.

    Metrics of validation records carry the prefix `validation/`.
    """
    found: dict[str, Metric] = {}
    names = tuple(metrics)
    for prefix in ("", VALIDATION):
        parts = {site: _part(stats, prefix) for site, stats in evaluation.items()}
        parts = {site: stats for site, stats in parts.items() if stats}
        if not parts:
            continue
        total = sum_statistics(list(parts.values()))
        for name in names:
            per_site = {str(site): value(name, stats) for site, stats in parts.items()}
            found[prefix + name] = Metric(value(name, total), per_site)
    return found


def _part(statistics: Statistics, prefix: str) -> Statistics:
    if prefix:
        return {k.removeprefix(prefix): v for k, v in statistics.items() if k.startswith(prefix)}
    return {k: v for k, v in statistics.items() if not k.startswith(VALIDATION)}


def arm_result(name: str, trained: Sequence[Trained]) -> ArmResult:
    """Return what an arm amounts to.

    One model is measured at all sites. Of several, named after a site each, `overall` is the mean
    over the models and `per_site` is each site's own model; see `MetricValue` for `elsewhere`.
    """
    first = trained[0]
    several = bool(first.variant.name)
    members = {t.variant.name: _metrics(t) for t in trained} if several else {}
    metrics = _of_members(name, trained, members) if several else _metrics(first)
    return ArmResult(
        name=name,
        title=ARMS[name].title,
        metrics=metrics,
        rounds=() if several else tuple(_round(first, log) for log in first.finished.logs),
        seconds=sum(t.seconds for t in trained),
        members=members,
        disagreement=None if several else _disagreement(first),
        idle={} if several else _idle(first.finished.logs),
    )


def participation(name: str, trained: Trained) -> list[Participation]:
    """Return every hospital's line in every round of a run."""
    lines = []
    for log in trained.finished.logs:
        state = log.state
        round_ = _number(trained, state)
        lines += [Participation(name, round_, site, "in") for site in state.roster]
        for note in state.notes:
            reason = note.reason or log.reasons.get((note.site, note.status), "")
            lines.append(Participation(name, round_, note.site, note.status, reason))
        trains = set(trained.plan.trainers)
        lines += [
            Participation(name, round_, site, "evaluated")
            for site in log.evaluated
            if site not in trains or not trained.variant.study.plan.rounds
        ]
    order = {site: i for i, site in enumerate(trained.plan.rows)}
    return sorted(lines, key=lambda line: (line.round, order[SiteId(line.site)]))


def worst(values: Iterable[float | None], better: str) -> float | None:
    """Return the worst of the defined values."""
    defined = [value for value in values if value is not None]
    if not defined:
        return None
    return min(defined) if better == "higher" else max(defined)


def _metrics(trained: Trained) -> dict[str, MetricValue]:
    evaluation = trained.evaluation
    sites = [site for site in evaluation if site in _hospitals(trained)]
    measured = measure(evaluation, trained.better, trained.value)
    total = sum_statistics(list(evaluation.values()))
    return {
        name: MetricValue(
            metric.overall,
            metric.per_site,
            _mean(
                _elsewhere(trained, name, total, evaluation=evaluation, site=site) for site in sites
            ),
            worst(metric.per_site.values(), trained.better[name]),
        )
        for name, metric in measured.items()
    }


def _hospitals(trained: Trained) -> tuple[str, ...]:
    """Return the hospitals from whose point of view others are elsewhere."""
    own = trained.variant.name
    return (own,) if own else tuple(trained.plan.rows)


def _elsewhere(
    trained: Trained, name: str, total: Statistics, *, evaluation: Evaluation, site: SiteId
) -> float | None:
    if len(evaluation) < 2:
        return None
    own = evaluation[site]
    return trained.value(name, {key: values - own[key] for key, values in total.items()})


def _of_members(
    arm: str, trained: Sequence[Trained], members: Mapping[str, Mapping[str, MetricValue]]
) -> dict[str, MetricValue]:
    first = trained[0]
    metrics = {}
    for name, better in first.better.items():
        measured = {site: m[name] for site, m in members.items() if name in m}
        if not measured:
            continue
        own = {site: m.per_site.get(site) for site, m in measured.items()}
        elsewhere = _mean(m.elsewhere for m in measured.values())
        if arm == "leave-one-out":  # elsewhere is the hospital that was left out
            evaluations = [(t.evaluation, SiteId(t.variant.name)) for t in trained]
            left_out = [found[site] for found, site in evaluations if site in found]
            elsewhere = first.value(name, sum_statistics(left_out)) if left_out else None
        overall = _mean(m.overall for m in measured.values())
        metrics[name] = MetricValue(overall, own, elsewhere, worst(own.values(), better))
    return metrics


def _number(trained: Trained, state: State) -> int:
    """Return which round a State closed: of an attempt that is to be repeated, the next one."""
    return min(state.round + (state.attempt > 0), trained.plan.rounds)


def _round(trained: Trained, log: RoundLog) -> RoundResult:
    metrics = {
        name: MetricValue(
            metric.overall,
            {site: value for site, value in metric.per_site.items() if site != POOLED},
            None,
            worst(metric.per_site.values(), trained.better[name.removeprefix(VALIDATION)]),
        )
        for name, metric in log.state.metrics.items()
    }
    sites = [site for site in log.sent if site != POOLED]
    sent, received = ({s: table[s] for s in sites} for table in (log.sent, log.received))
    return RoundResult(_number(trained, log.state), metrics, log.seconds, sent, received)


def _idle(logs: Sequence[RoundLog]) -> dict[str, float]:
    """Return the share of the run in which each site waited, where its engine told."""
    told = [log for log in logs if log.waited]
    seconds = sum(log.seconds for log in told)
    sites = dict.fromkeys(site for log in told for site in log.waited)
    waited = {site: sum(log.waited.get(site, 0.0) for log in told) for site in sites}
    return {site: min(time / seconds, 1.0) for site, time in waited.items()} if seconds else {}


def _disagreement(trained: Trained) -> float | None:
    """Return the largest distance of a holder's model from their mean, relative to its length."""
    holders = trained.state.models
    if len(holders) < 2:
        return None
    flat = [
        np.concatenate([b.astype(np.float64) for b in trained.finished.models[h].buffers.values()])
        for h in holders
    ]
    mean = np.mean(flat, axis=0)
    length = float(np.linalg.norm(mean)) or 1.0
    return max(float(np.linalg.norm(model - mean)) for model in flat) / length


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None

"""What a result says, in sentences that a board can read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from cohortium.report.comparison import leading_arm, primary_metric
from cohortium.report.notation import THIN, metric_title, number, percent, plural, typeset
from cohortium.runtime.result import ArmResult, MetricValue, Result


@dataclass(frozen=True)
class Verdict:
    """Whether the model was accepted: in a word, and in a sentence."""

    kind: Literal["good", "bad", "open"]
    word: str
    text: str


def verdict(result: Result) -> Verdict:
    """Return what became of the acceptance criteria."""
    criteria = result.acceptance
    if not criteria and primary_metric(result) is None:
        return Verdict("open", "Not measured", "Nothing was measured, and no criteria were agreed.")
    if not criteria:
        return Verdict("open", "No criteria", "No acceptance criteria were agreed for this study.")
    missed = sum(not criterion.met for criterion in criteria)
    agreed = plural(len(criteria), "criterion", "criteria") + " agreed before round 1"
    if not missed:
        return Verdict("good", "Accepted", f"{agreed}, all met.")
    return Verdict("bad", "Not accepted", f"{agreed}, {missed} missed.")


def key_sentences(result: Result) -> list[Markup]:
    """Return the few sentences that matter most; their figures are emphasised."""
    metric, arm = primary_metric(result), leading_arm(result)
    if metric is None or arm is None or metric not in arm.metrics:
        return [Markup("No model was measured, so there is nothing to compare.")]
    return [*_achieved(result, arm, metric), *_elsewhere(result, arm, metric), *_worst(arm, metric)]


def _achieved(result: Result, arm: ArmResult, metric: str) -> Iterator[Markup]:
    value, pooled = arm.metrics[metric].overall, _value(result, "pooled", metric).overall
    title, name = metric_title(metric), _name(arm)
    if value is None:
        yield _sentence("{}'s {} is undefined over the held-out records.", name, title)
    elif arm.name == "pooled" or not pooled or pooled <= 0:
        text = "{}'s {} is <b>{}</b> over the held-out records of all hospitals."
        yield _sentence(text, name, title, number(value))
    elif result.better.get(metric, "higher") == "higher":
        text = "{} reaches <b>{}</b> of the pooled model's {} ({} against {})."
        ratio = percent(value / pooled)
        yield _sentence(text, name, ratio, title, number(value), number(pooled))
    else:
        text = "{}'s {} is <b>{}</b> the pooled model's ({} against {})."
        ratio = _difference(value / pooled - 1)
        yield _sentence(text, name, title, ratio, number(value), number(pooled))


def _elsewhere(result: Result, arm: ArmResult, metric: str) -> Iterator[Markup]:
    ours, alone = arm.metrics[metric].elsewhere, _value(result, "single", metric).elsewhere
    if arm.name == "single" or ours is None or alone is None:
        return
    base = _value(result, "pooled", metric).elsewhere
    if base and base > 0 and result.better.get(metric, "higher") == "higher":
        figures = percent(ours / base), percent(alone / base)
    else:
        figures = number(ours), number(alone)
    yield _sentence(
        "On the other hospitals' patients it reaches <b>{}</b>, a hospital that trains alone "
        "<b>{}</b> on average.",
        *figures,
    )


def _worst(arm: ArmResult, metric: str) -> Iterator[Markup]:
    value = arm.metrics[metric]
    sites = [site for site, found in value.per_site.items() if found == value.worst]
    if value.worst is not None and sites and len(value.per_site) > 1:
        at = sites[0] if len(sites) == 1 else f"{sites[0]} and {plural(len(sites) - 1, 'other')}"
        text = "Its worst hospital is {}, with <b>{}</b>."
        text = text if len(sites) == 1 else "Its worst hospitals are {}, with <b>{}</b>."
        yield _sentence(text, at, number(value.worst))


def _value(result: Result, arm: str, metric: str) -> MetricValue:
    nothing = MetricValue(None, {})
    return result.arms[arm].metrics.get(metric, nothing) if arm in result.arms else nothing


def _name(arm: ArmResult) -> str:
    names = {
        "federated": "The federated model",
        "pooled": "The pooled model",
        "single": "A hospital that trains alone",
    }
    return names.get(arm.name, f"The model of {arm.title}")


def _difference(ratio: float) -> str:
    if abs(ratio) < 5e-4:
        return "equal to"
    return f"{number(100 * abs(ratio), 1)}{THIN}% {'above' if ratio > 0 else 'below'}"


def _sentence(text: str, *values: str) -> Markup:
    """Return a sentence of ours with values of anybody's, which are escaped."""
    return Markup(typeset(text)).format(*values)  # noqa: S704 - texts are literals of this file

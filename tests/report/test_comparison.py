from __future__ import annotations

from dataclasses import replace

import pytest

from cohortium.report.comparison import explain, leading_arm, metric_names, primary_metric, rows
from cohortium.report.notation import UNDEFINED
from cohortium.runtime.result import MetricValue, Result
from cohortium.study.arms import ARMS

from .conftest import MakeResult


def with_values(result: Result, **overall: float | None) -> Result:
    """Return a result whose arms have these values of one metric everywhere."""
    arms = {
        name.replace("_", "-"): replace(
            result.arms[name.replace("_", "-")],
            metrics={"auroc": MetricValue(value, {"a": value}, value, value)},
        )
        for name, value in overall.items()
    }
    return replace(result, arms=arms)


def test_the_primary_metric_is_the_first_that_is_not_the_loss(make_result: MakeResult) -> None:
    assert primary_metric(make_result(metrics=("loss", "mae", "auroc"))) == "mae"
    assert primary_metric(make_result(metrics=("loss",))) == "loss"
    assert primary_metric(make_result(metrics=("validation/auroc", "loss"))) == "loss"
    assert primary_metric(make_result(metrics=())) is None
    assert primary_metric(make_result(arms=())) is None


def test_the_loss_comes_last(make_result: MakeResult) -> None:
    assert metric_names(make_result(metrics=("loss", "auroc", "brier"))) == (
        "auroc",
        "brier",
        "loss",
    )


def test_the_federated_arm_leads_wherever_it_stands(make_result: MakeResult) -> None:
    leading = leading_arm(make_result(arms=("pooled", "single", "federated")))
    assert leading is not None
    assert leading.name == "federated"
    other = leading_arm(make_result(arms=("iil", "pooled")))
    assert other is not None
    assert other.name == "iil"
    assert leading_arm(make_result(arms=())) is None


def test_pooled_is_a_yardstick_and_not_ranked(make_result: MakeResult) -> None:
    made = with_values(make_result(), pooled=0.99, federated=0.95, single=0.8)
    best = {row.name: row.best for row in rows(made, "auroc")}
    assert best == {
        "pooled": frozenset(),
        "federated": frozenset({"overall", "worst", "elsewhere"}),
        "single": frozenset(),
    }


def test_the_lowest_is_best_where_lower_is_better(make_result: MakeResult) -> None:
    made = with_values(make_result(metrics=("auroc",), better="lower"), federated=0.4, single=0.5)
    assert [row.name for row in rows(made, "auroc") if row.best] == ["federated"]


@pytest.mark.parametrize("other", [0.9501, None])
def test_equals_as_shown_are_not_ranked(make_result: MakeResult, other: float | None) -> None:
    made = with_values(make_result(), federated=0.95, single=other)
    assert not any(row.best for row in rows(made, "auroc"))


def test_relative_is_to_pooled_and_undefined_without_it(make_result: MakeResult) -> None:
    made = with_values(make_result(), pooled=0.8, federated=0.6, single=None)
    pooled, federated, single = rows(made, "auroc")
    assert [row.relative for row in (pooled, federated)] == pytest.approx([1.0, 0.75])
    assert single.relative is None
    assert single.text("relative") == single.text("overall") == UNDEFINED
    alone = with_values(make_result(), federated=0.6)
    assert rows(alone, "auroc")[0].relative is None
    zero = with_values(make_result(), pooled=0.0, federated=0.6)
    assert rows(zero, "auroc")[1].relative is None


def test_every_arm_is_explained() -> None:
    assert all(explain(name) for name in ARMS)
    assert explain("an arm of others") == ""

"""Criteria that were agreed before round 1, judged at the end."""

from __future__ import annotations

import pytest

from cohortium.governance.acceptance import judge
from cohortium.plan.plan import Metric
from cohortium.study.sections import Criterion

METRICS = {
    "auroc": Metric(0.9, {"a": 0.95, "b": 0.8, "c": None}),
    "loss": Metric(0.4, {"a": 0.2, "b": 0.7, "c": 0.5}),
    "brier": Metric(None, {"a": None}),
}


@pytest.mark.parametrize(
    ("criterion", "value", "met"),
    [
        (Criterion(metric="auroc", at_least=0.9), 0.9, True),
        (Criterion(metric="auroc", at_least=0.91), 0.9, False),
        (Criterion(metric="auroc", scope="every-site", at_least=0.8), 0.8, True),
        (Criterion(metric="auroc", scope="every-site", at_least=0.81), 0.8, False),
        (Criterion(metric="auroc", scope="gap", at_most=0.2), 0.15, True),
        (Criterion(metric="auroc", scope="gap", at_most=0.1), 0.15, False),
        (Criterion(metric="loss", at_most=0.4), 0.4, True),
        (Criterion(metric="loss", scope="every-site", at_most=0.6), 0.7, False),
        (Criterion(metric="brier", at_most=0.6), None, False),
        (Criterion(metric="brier", scope="every-site", at_most=0.6), None, False),
        (Criterion(metric="absent", at_most=0.6), None, False),
    ],
    ids=str,
)
def test_a_criterion(criterion: Criterion, value: float | None, met: bool) -> None:
    [verdict] = judge([criterion], METRICS)
    assert verdict.value == pytest.approx(value)
    assert verdict.met is met


def test_words() -> None:
    criteria = [
        Criterion(metric="auroc", at_least=0.9),
        Criterion(metric="auroc", scope="every-site", at_least=0.8),
        Criterion(metric="auroc", scope="gap", at_most=0.1),
    ]
    assert [verdict.text for verdict in judge(criteria, METRICS)] == [
        "global auroc at least 0.9",
        "every site's auroc at least 0.8",
        "gap between sites in auroc at most 0.1",
    ]

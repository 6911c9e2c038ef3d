"""Metrics from statistics that may be summed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from sklearn import metrics as sklearn_metrics

from cohortium.errors import StudyError
from cohortium.learning.metrics import (
    METRICS,
    R2,
    Accuracy,
    Auroc,
    Brier,
    Mae,
    MeanLoss,
    Measures,
    Metric,
    Mse,
    Predictions,
    Sensitivity,
    Specificity,
)
from cohortium.types import sum_statistics

ALL: dict[str, Metric] = {
    "loss": MeanLoss(),
    "accuracy": Accuracy(),
    "auroc": Auroc(),
    "brier": Brier(),
    "sensitivity": Sensitivity(),
    "specificity": Specificity(),
    "mae": Mae(),
    "mse": Mse(),
    "r2": R2(),
}


def predictions(seed: int, rows: int, *, kind: str = "binary-classification") -> Predictions:
    rng = np.random.default_rng(seed)
    losses = rng.exponential(size=rows)
    if kind == "regression":
        return Predictions(rng.normal(size=rows), rng.normal(size=rows), losses)
    if kind == "binary-classification":
        targets = rng.integers(0, 2, rows).astype(np.float64)
        return Predictions(rng.uniform(size=rows), targets, losses)
    scores = rng.dirichlet(np.ones(3), size=rows)
    return Predictions(scores, rng.integers(0, 3, rows).astype(np.float64), losses)


def rows_of(whole: Predictions, which: slice) -> Predictions:
    return Predictions(whole.scores[which], whole.targets[which], whole.losses[which])


@pytest.mark.parametrize("kind", list(METRICS))
@given(st.integers(0, 1000), st.lists(st.integers(0, 40), min_size=1, max_size=5))
@settings(max_examples=15)
def test_the_value_of_summed_statistics_is_that_of_all_rows(
    kind: str, seed: int, cuts: list[int]
) -> None:
    metric = ALL[kind]
    for task in sorted(metric.tasks):
        whole = predictions(seed, 40, kind=task)
        bounds = [0, *sorted(cuts), 40]
        parts = [metric.statistics(rows_of(whole, slice(a, b))) for a, b in pairwise(bounds)]
        expected = metric.value(metric.statistics(whole))
        assert metric.value(sum_statistics(parts)) == pytest.approx(expected, rel=1e-12)
        for statistics in parts:
            shapes = {name: values.shape for name, values in statistics.items()}
            assert shapes == dict(metric.shapes)
            assert all(values.dtype == np.float64 for values in statistics.values())


@pytest.mark.parametrize("kind", list(METRICS))
def test_a_metric_of_no_rows_is_undefined(kind: str) -> None:
    metric = ALL[kind]
    for task in sorted(metric.tasks):
        assert metric.value(metric.statistics(predictions(0, 0, kind=task))) is None
    assert metric.better in ("higher", "lower")
    assert METRICS[kind] is type(metric)


@given(st.integers(0, 10_000), st.integers(2, 300), st.sampled_from([2, 16, 256, 1024]))
@settings(max_examples=60)
def test_binned_auroc_is_within_its_stated_bound(seed: int, rows: int, resolution: int) -> None:
    whole = predictions(seed, rows)
    whole.targets[:2] = [0, 1]
    metric = Auroc(resolution=resolution)
    statistics = metric.statistics(whole)
    value, bound = metric.value(statistics), metric.error_bound(statistics)
    assert value is not None
    assert bound is not None
    exact = sklearn_metrics.roc_auc_score(whole.targets, whole.scores)
    assert abs(value - exact) <= bound + 1e-12


def test_auroc_at_its_default_resolution_is_within_a_thousandth_on_smooth_scores() -> None:
    whole = predictions(5, 5000)
    value = Auroc().value(Auroc().statistics(whole))
    exact = sklearn_metrics.roc_auc_score(whole.targets, whole.scores)
    assert value == pytest.approx(exact, abs=1e-3)


def test_auroc_counts_equal_scores_as_one_half() -> None:
    tied = Predictions(np.full(4, 0.3), np.array([0.0, 1.0, 1.0, 0.0]), np.zeros(4))
    assert Auroc().value(Auroc().statistics(tied)) == 0.5
    assert Auroc().error_bound(Auroc().statistics(tied)) == 0.5


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_auroc_of_one_class_is_undefined(label: float) -> None:
    one = Predictions(np.array([0.2, 0.9]), np.full(2, label), np.zeros(2))
    assert Auroc().value(Auroc().statistics(one)) is None
    assert Auroc().error_bound(Auroc().statistics(one)) is None


def test_auroc_takes_scores_at_and_beyond_the_ends() -> None:
    scores = np.array([0.0, 1e-300, 1.0, 1 - 1e-16, np.nan])
    whole = Predictions(scores, np.array([0.0, 0.0, 1.0, 1.0, 0.0]), np.zeros(5))
    assert Auroc().value(Auroc().statistics(whole)) == 1.0


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_metrics_agree_with_scikit_learn(seed: int) -> None:
    binary = predictions(seed, 50)
    guess = binary.scores > 0.5
    regression = predictions(seed, 50, kind="regression")
    truth, predicted = regression.targets, regression.scores
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(binary.targets, guess),
        "brier": sklearn_metrics.brier_score_loss(binary.targets, binary.scores),
        "sensitivity": sklearn_metrics.recall_score(binary.targets, guess),
        "specificity": sklearn_metrics.recall_score(binary.targets, guess, pos_label=0),
        "mae": sklearn_metrics.mean_absolute_error(truth, predicted),
        "mse": sklearn_metrics.mean_squared_error(truth, predicted),
        "r2": sklearn_metrics.r2_score(truth, predicted),
    }
    for kind, value in expected.items():
        whole = regression if kind in ("mae", "mse", "r2") else binary
        assert ALL[kind].value(ALL[kind].statistics(whole)) == pytest.approx(value)


def test_many_classes() -> None:
    scores = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    whole = Predictions(scores, np.array([0.0, 1.0]), np.array([1.0, 3.0]))
    assert Accuracy().value(Accuracy().statistics(whole)) == 0.5
    squares = (0.09 + 0.04 + 0.01) + (0.01 + 0.49 + 0.36)
    assert Brier().value(Brier().statistics(whole)) == pytest.approx(squares / 2)
    assert MeanLoss().value(MeanLoss().statistics(whole)) == 2.0


def test_a_probability_of_one_half_is_negative() -> None:
    even = Predictions(np.array([0.5]), np.array([0.0]), np.zeros(1))
    assert Accuracy().value(Accuracy().statistics(even)) == 1.0


@pytest.mark.parametrize(("metric", "label"), [(Sensitivity(), 0.0), (Specificity(), 1.0)])
def test_rates_without_such_rows_are_undefined(metric: Metric, label: float) -> None:
    one = Predictions(np.array([0.2, 0.9]), np.full(2, label), np.zeros(2))
    assert metric.value(metric.statistics(one)) is None


def test_r2_without_spread_is_undefined() -> None:
    flat = Predictions(np.array([0.1, 0.3]), np.full(2, 0.1), np.zeros(2))
    assert R2().value(R2().statistics(flat)) is None


@pytest.mark.parametrize("resolution", [1, 70_000, 2.5, "many"])
def test_auroc_refuses_an_impossible_resolution(resolution: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Auroc).validate_json(json.dumps({"resolution": resolution}))


def test_a_diverged_model_has_a_loss_that_says_so() -> None:
    broken = Predictions(np.array([np.nan]), np.array([1.0]), np.array([np.nan]))
    value = MeanLoss().value(MeanLoss().statistics(broken))
    assert value is not None
    assert math.isnan(value)


def test_measures_of_pieces_are_those_of_the_whole() -> None:
    whole = predictions(3, 17)
    measures = Measures.of([Auroc(resolution=8), Accuracy()])
    assert measures.names == ("loss", "auroc", "accuracy")
    pieces = [rows_of(whole, slice(a, b)) for a, b in pairwise([0, 5, 6, 17])]
    summed, at_once = measures.statistics(pieces), measures.statistics([whole])
    assert {name: values.shape for name, values in summed.items()} == measures.shapes
    for name in measures.names:
        alone = ALL[name] if name != "auroc" else Auroc(resolution=8)
        expected = alone.value(alone.statistics(whole))
        assert measures.value(name, summed) == pytest.approx(expected)
        assert measures.value(name, at_once) == expected


def test_without_rows_there_are_zeros_and_no_value() -> None:
    measures = Measures.of([Auroc(resolution=8)])
    none = measures.statistics([])
    assert {name: values.shape for name, values in none.items()} == measures.shapes
    assert not any(values.any() for values in none.values())
    assert [measures.value(name, none) for name in measures.names] == [None, None]


def test_the_loss_is_measured_once_and_first() -> None:
    assert Measures.of([Accuracy(), MeanLoss()]).names == ("loss", "accuracy")
    with pytest.raises(StudyError, match=r"s\.toml: task\.metrics: got 'accuracy' twice"):
        Measures.of([Accuracy(), Accuracy()], where="s.toml")


WITHOUT_TORCH = """
import sys
import numpy as np
from cohortium.learning.metrics import METRICS, Measures
measures = Measures.of([METRICS["auroc"](), METRICS["accuracy"]()])
statistics = {name: np.ones(shape) for name, shape in measures.shapes.items()}
assert measures.value("auroc", statistics) == 0.5
assert "torch" not in sys.modules
"""


def test_a_party_without_pytorch_tells_a_metrics_value() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH], check=True)

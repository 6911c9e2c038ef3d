"""The geometric median against Weiszfeld's algorithm written over whole vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from cohortium.aggregation.geometric_median import GeometricMedian
from cohortium.errors import RefusedError
from cohortium.types import Params


def median(
    rule: GeometricMedian, rows_KP: NDArray[np.float64], weights: list[float]
) -> NDArray[np.float64]:
    fold = rule.begin(Params.of({"w": np.zeros_like(rows_KP[0])}))
    for index, (row, weight) in enumerate(zip(rows_KP, weights, strict=True)):
        fold.add(index, Params.of({"w": row}), weight)
    params, total = fold.finish()
    assert total == pytest.approx(sum(weights))
    return params["w"].astype(np.float64)


def radius(row: NDArray[np.float64], rows_KP: NDArray[np.float64], weights: list[float]) -> float:
    """Return the radius of the ball around a row that holds more than half of the weight."""
    held = 0.0
    for distance, weight in sorted(
        zip(np.linalg.norm(rows_KP - row, axis=1), weights, strict=True)
    ):
        held += weight
        if held > 0.5 * sum(weights):
            return float(distance)
    raise AssertionError


def weiszfeld(
    rows_KP: NDArray[np.float64], weights: list[float], *, iterations: int, smoothing: float
) -> NDArray[np.float64]:
    """Pillutla et al. 2022, Algorithm 2, over whole vectors."""

    def weigh(distances: NDArray[np.float64]) -> NDArray[np.float64]:
        beta = np.array(weights) / np.maximum(smoothing, distances)
        return np.asarray(beta @ rows_KP / beta.sum())

    point = weigh(np.array([radius(row, rows_KP, weights) for row in rows_KP]))
    for _ in range(iterations):
        point = weigh(np.linalg.norm(rows_KP - point, axis=1))
    return point


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 12),
    st.integers(0, 2**32),
    st.sampled_from([1, 3, 100]),
    st.sampled_from([1e-6, 0.5]),
    st.sampled_from([0.0, 1e3, 1e12]),
)
def test_equals_the_algorithm_of_the_paper(
    count: int, seed: int, iterations: int, smoothing: float, outlier: float
) -> None:
    rng = np.random.default_rng(seed)
    rows, weights = rng.standard_normal((count, 5)), rng.uniform(1, 3, count).tolist()
    rows[0] += outlier
    rule = GeometricMedian(iterations=iterations, smoothing=smoothing)
    expected = weiszfeld(rows, weights, iterations=iterations, smoothing=smoothing)
    scale = np.linalg.norm(expected) + 1
    assert np.linalg.norm(median(rule, rows, weights) - expected) <= 1e-6 * scale


@pytest.mark.parametrize("lie", [1e3, 1e30, 1e140, 1e200, 1e308])
def test_a_minority_cannot_move_it_far(lie: float) -> None:
    rows = np.random.default_rng(0).normal(1, 0.1, (9, 20))
    rows[[2, 5, 7]] = lie
    assert np.abs(median(GeometricMedian(), rows, [1.0] * 9) - 1).max() < 0.3


def test_weights_count() -> None:
    rows = np.array([[0.0], [1.0], [10.0]])
    assert median(GeometricMedian(), rows, [1.0, 1.0, 5.0]) == pytest.approx(10.0, abs=1e-3)


def test_float32_loses_no_digits_to_an_outlier() -> None:
    updates = [Params.of({"w": np.array([value], np.float32)}) for value in (3e38, 1.0, 1.0, 1.0)]
    fold = GeometricMedian().begin(updates[1])
    for index, update in enumerate(updates):
        fold.add(index, update, 1.0)
    assert fold.finish()[0]["w"][0] == pytest.approx(1.0, abs=1e-5)


def test_the_smallest_smoothing() -> None:
    rows = np.array([[1.0], [1.0], [9.0]])
    assert median(GeometricMedian(smoothing=5e-324), rows, [1.0, 1.0, 1.0]) == pytest.approx(1.0)


def test_all_updates_out_of_range() -> None:
    with pytest.raises(RefusedError, match="all 2 updates are farther than 1e150"):
        median(GeometricMedian(), np.full((2, 3), 1e200), [1.0, 1.0])


@pytest.mark.parametrize(
    "settings", [{"iterations": 0}, {"smoothing": 0.0}, {"iterations": 10**9}, {"iterations": 2.0}]
)
def test_settings_that_make_no_sense(settings: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        GeometricMedian(**settings)

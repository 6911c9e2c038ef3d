"""The norm-bounded mean: no update moves the model further than the bound."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from cohortium.aggregation.mean import Mean
from cohortium.aggregation.norm_bounded_mean import NormBoundedMean
from cohortium.aggregation.rule import Aggregator
from cohortium.types import Params


def model(rng: np.random.Generator, scale: float) -> Params:
    return Params.of(
        {
            "a": (scale * rng.standard_normal(20)).astype(np.float32),
            "n": rng.integers(0, 100, 2),
            "b": scale * rng.standard_normal((3, 4)),
        }
    )


def aggregate(rule: Aggregator, reference: Params, updates: list[Params]) -> Params:
    fold = rule.begin(reference)
    for index, update in enumerate(updates):
        fold.add(index, update, 1.0 + index)
    params, weight = fold.finish()
    assert weight == sum(1.0 + index for index in range(len(updates)))
    return params


def wide(params: Params, name: str) -> NDArray[np.float64]:
    return np.asarray(params[name], np.float64)


def distance(one: Params, other: Params) -> float:
    squares = sum(np.square(wide(one, k) - wide(other, k)).sum() for k in ("a", "b"))
    return float(np.sqrt(squares))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 70), st.floats(0.1, 20))
def test_equals_clipping_each_and_averaging(seed: int, count: int, bound: float) -> None:
    rng = np.random.default_rng(seed)
    reference, updates = model(rng, 1), [model(rng, 10 ** rng.uniform(-2, 2)) for _ in range(count)]
    weights = 1.0 + np.arange(count)
    expected = {}
    for name in ("a", "b"):
        origin = wide(reference, name)
        steps = [
            (wide(u, name) - origin) * min(1.0, bound / distance(u, reference)) for u in updates
        ]
        expected[name] = origin + np.average(steps, axis=0, weights=weights)
    result = aggregate(NormBoundedMean(bound=bound), reference, updates)
    for name, values in expected.items():
        np.testing.assert_allclose(wide(result, name), values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e30, 1e37])
def test_one_update_moves_no_further_than_the_bound(scale: float) -> None:
    rng = np.random.default_rng(0)
    reference, update = model(rng, 1), model(rng, scale)
    moved = aggregate(NormBoundedMean(bound=0.5), reference, [update])
    assert distance(moved, reference) == pytest.approx(0.5, rel=1e-5)


def test_float32_may_lie_further_apart_than_it_reaches() -> None:
    reference = Params.of({"w": np.array([-3e38, 0.0], np.float32)})
    update = Params.of({"w": np.array([3e38, 0.0], np.float32)})
    moved = aggregate(NormBoundedMean(bound=1e38), reference, [update])
    np.testing.assert_allclose(wide(moved, "w"), [-2e38, 0.0], rtol=1e-6)


def test_a_distance_that_overflows_counts_as_the_model() -> None:
    reference = Params.of({"w": np.array([1.0, -1e308])})
    update = Params.of({"w": np.array([2.0, 1e308])})
    assert aggregate(NormBoundedMean(bound=1.0), reference, [update])["w"].tolist() == [1, -1e308]


def test_a_bound_that_none_exceeds_is_the_mean_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    reference, updates = model(rng, 1), [model(rng, 1) for _ in range(70)]
    bounded = aggregate(NormBoundedMean(bound=1e6), reference, updates)
    assert bounded.digest == aggregate(Mean(), reference, updates).digest


def test_a_group_takes_one_model_of_memory() -> None:
    reference = Params.of({"w": np.zeros(4_000_000, np.float32)})
    update = Params.of({"w": np.ones(4_000_000, np.float32)})
    tracemalloc.start()
    aggregate(NormBoundedMean(bound=0.1), reference, [update] * 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * reference.nbytes


def test_it_must_see_each_update() -> None:
    assert not NormBoundedMean.additive


@pytest.mark.parametrize("settings", [{}, {"bound": 0.0}, {"bound": -1.0}, {"bound": float("inf")}])
def test_settings_that_make_no_sense(settings: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="bound"):
        NormBoundedMean(**settings)

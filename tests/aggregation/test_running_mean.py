"""The streaming mean: exact where it can be, near float64 elsewhere, in at most two models."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cohortium.aggregation import running_mean
from cohortium.aggregation.mean import Mean
from cohortium.aggregation.running_mean import GROUP, RunningMean
from cohortium.types import Params

Update = tuple[int, Params, float]
weights = st.floats(-6, 9).map(lambda exponent: 10.0**exponent)


def model(rng: np.random.Generator) -> Params:
    return Params.of(
        {
            "w": rng.standard_normal((3, 5)).astype(np.float32) + np.float32(0.3),
            "steps": rng.integers(0, 1000, 2),
            "b": rng.standard_normal(4) - 0.2,
            "mask": rng.random(7) < 0.5,
        }
    )


def fold(updates: Sequence[Update]) -> tuple[Params, float]:
    started = Mean().begin(updates[0][1])
    for index, params, weight in updates:
        started.add(index, params, weight)
    return started.finish()


def partials(updates: Sequence[Update]) -> list[Update]:
    """Fold each group where it is, as an engine does for a block of sites."""
    found = []
    for group, members in itertools.groupby(updates, lambda update: update[0] // GROUP):
        mean = RunningMean(updates[0][1].layout)
        for _, params, weight in members:
            mean.add(params, weight)
        weight = mean.weight
        found.append((group * GROUP, mean.result(), weight))
    return found


def exact(updates: Sequence[Update], dtype: str) -> NDArray[Any]:
    stack = np.stack([params.buffers[dtype].astype(np.float64) for _, params, _ in updates])
    return np.average(stack, axis=0, weights=[weight for _, _, weight in updates])


@st.composite
def cohorts(draw: st.DrawFn, most: int = 200) -> list[Update]:
    count = draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    gaps = draw(st.booleans())
    indices = np.cumsum(rng.integers(1, 20, count)) if gaps else np.arange(count)
    wild = draw(st.lists(weights, min_size=1, max_size=9))
    return [
        (int(index), model(rng), float(wild[rng.integers(len(wild))] * rng.uniform(0.5, 2)))
        for index in indices
    ]


@settings(max_examples=60, deadline=None)
@given(cohorts())
def test_near_the_mean_in_float64(updates: list[Update]) -> None:
    mean, weight = fold(updates)
    assert weight == pytest.approx(sum(weight for _, _, weight in updates), rel=1e-12)
    for dtype, tolerance in {"float32": 1e-6, "float64": 1e-14}.items():
        expected = exact(updates, dtype)
        error = np.linalg.norm(mean.buffers[dtype].astype(np.float64) - expected)
        assert error <= tolerance * np.linalg.norm(expected)


@settings(max_examples=60, deadline=None)
@given(cohorts())
def test_group_partials_fold_to_the_same_bits(updates: list[Update]) -> None:
    flat, folded = fold(updates), fold(partials(updates))
    assert folded[0].digest == flat[0].digest
    assert folded[1] == flat[1]


@settings(max_examples=20, deadline=None)
@given(cohorts(most=80))
def test_the_same_order_gives_the_same_bits(updates: list[Update]) -> None:
    assert fold(updates)[0].digest == fold(updates)[0].digest


def test_the_group_is_part_of_the_contract() -> None:
    assert GROUP == 64, "another size changes the bits of every study with more sites"


def test_groups_are_by_index_not_by_count() -> None:
    rng = np.random.default_rng(1)
    first, second, third = (model(rng) for _ in range(3))
    apart = [(0, first, 1.0), (GROUP, second, 2.0), (GROUP + 1, third, 3.0)]
    mean = RunningMean(first.layout)
    mean.add(second, 2.0)
    mean.add(third, 3.0)
    pair = (GROUP, mean.result(), 5.0)
    assert fold(apart)[0].digest == fold([(0, first, 1.0), pair])[0].digest


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 150), st.lists(weights, min_size=1, max_size=9))
def test_equal_updates_stay_what_they_are(count: int, wild: list[float]) -> None:
    update = model(np.random.default_rng(count))
    updates = [(index, update, wild[index % len(wild)]) for index in range(count)]
    assert fold(updates)[0].digest == update.digest


def test_one_update_is_copied_whatever_its_bits() -> None:
    update = Params.of(
        {"w": np.array([-0.0, 1e-45, 3.4e38], np.float32), "n": np.array([2**63 - 1, -1])}
    )
    mean, _ = fold([(5, update, 3.0)])
    assert mean.digest == update.digest
    assert all(
        not np.shares_memory(mean.buffers[dtype], update.buffers[dtype]) for dtype in mean.buffers
    )


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([np.float32, np.float64]),
    st.lists(st.floats(-1, 1), min_size=2, max_size=70),
)
@example(np.float32, [1.0, -1.0])
def test_finite_at_the_end_of_the_range(dtype: type[np.floating[Any]], values: list[float]) -> None:
    top = np.finfo(dtype).max
    updates = [
        (index, Params.of({"w": np.array([value], dtype) * top}), 1.0)
        for index, value in enumerate(values)
    ]
    mean, _ = fold(updates)
    assert float(mean["w"][0]) / float(top) == pytest.approx(np.mean(values), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=GROUP))
def test_integers_round_to_nearest_and_keep_their_dtype(values: list[int]) -> None:
    updates = [(i, Params.of({"n": np.array(value)}), 1.0) for i, value in enumerate(values)]
    rounded = fold(updates)[0]["n"]
    assert rounded.dtype == np.int64
    assert abs(int(rounded) - sum(values) / len(values)) <= 0.5 + 1e-3


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64", "int64"])
def test_integers_stay_within_their_dtype(dtype: str) -> None:
    for limit in (np.iinfo(dtype).min, np.iinfo(dtype).max):
        update = Params.of({"n": np.full(3, limit, dtype)})
        mean = fold([(0, update, 1.0), (1, update, 2.0)])[0]["n"]
        assert mean.dtype == np.dtype(dtype)
        assert np.abs(mean.astype(np.float64) - float(limit)).max() <= 2048


def test_bool_goes_by_majority_of_weight() -> None:
    yes, no = (Params.of({"mask": np.array([value])}) for value in (True, False))
    assert fold([(0, yes, 3.0), (1, no, 1.0), (2, no, 1.0)])[0]["mask"].tolist() == [True]
    assert fold([(0, yes, 1.0), (1, no, 1.0), (2, no, 1.0)])[0]["mask"].tolist() == [False]


def test_more_than_a_group_of_integers_is_rounded_once_per_group() -> None:
    updates = [(i, Params.of({"n": np.array(i % 3)}), 1.0 + i % 5) for i in range(200)]
    rounded = int(fold(updates)[0]["n"])
    assert abs(rounded - float(exact(updates, "int64")[0])) <= 1.0
    assert fold(partials(updates))[0].digest == fold(updates)[0].digest


def test_blocks_do_not_change_the_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    updates = [(index, model(rng), 1.0 + index) for index in range(70)]
    whole = fold(updates)[0].digest
    monkeypatch.setattr(running_mean, "BLOCK_BYTES", 32)
    assert fold(updates)[0].digest == whole


def peak_in_models(count: int) -> float:
    """Return the most memory that a fold of `count` updates holds beside the incoming update."""
    update = Params.of({"w": np.ones(2_000_000, np.float32)})
    tracemalloc.start()
    fold([(index, update, 1.0 + index) for index in range(count)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / update.nbytes


def test_one_model_for_a_group_and_two_for_any_number() -> None:
    assert peak_in_models(3) < 1.2
    assert peak_in_models(GROUP) < 1.2
    assert peak_in_models(3 * GROUP + 1) < 2.2

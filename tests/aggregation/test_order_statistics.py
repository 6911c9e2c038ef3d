"""The median and trimmed mean against numpy, whichever way they are ordered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cohortium.aggregation import order_statistics
from cohortium.aggregation.order_statistics import middle_mean
from cohortium.types import Params


def updates_of(rows: NDArray[Any]) -> list[Params]:
    return [Params.of({"w": row}) for row in rows]


def middle(updates: list[Params], cut: int) -> NDArray[np.float64]:
    return np.asarray(middle_mean(updates, cut)["w"], np.float64)


def rows_of(seed: int, count: int, size: int = 7) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 100), st.integers(0, 2**32), st.data())
def test_equals_sorting(count: int, seed: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, (count - 1) // 2))
    rows = rows_of(seed, count)
    expected = np.sort(rows.astype(np.float64), axis=0)[cut : count - cut].mean(axis=0)
    np.testing.assert_allclose(middle(updates_of(rows), cut), expected, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 20, 33, 64])
def test_network_and_sort_agree_to_the_bit(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    updates, cut = updates_of(rows_of(count, count, 40_000)), (count - 1) // 2
    by_network = middle_mean(updates, cut).digest
    monkeypatch.setattr(order_statistics, "NETWORK", 0)
    assert middle_mean(updates, cut).digest == by_network


@pytest.mark.parametrize("count", range(1, 12))
def test_the_network_sorts_all_zeros_and_ones(count: int) -> None:
    """The 0-1 principle: a network that sorts these sorts everything."""
    patterns = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
    for cut in range((count + 1) // 2):
        expected = np.sort(patterns, axis=1)[:, cut : count - cut].mean(axis=1)
        columns = [Params.of({"w": column.astype(np.float64)}) for column in patterns.T]
        np.testing.assert_allclose(middle(columns, cut), expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 70), st.randoms())
def test_the_order_of_updates_does_not_matter_to_the_bit(count: int, random: Any) -> None:
    updates = updates_of(rows_of(count, count))
    cut = count // 4
    before = middle_mean(updates, cut).digest
    random.shuffle(updates)
    assert middle_mean(updates, cut).digest == before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_finite_and_exact_at_the_end_of_the_range(dtype: str) -> None:
    top = np.finfo(dtype).max
    updates = updates_of(np.array([[top], [top], [top], [top]], dtype))
    assert middle_mean(updates, 0)["w"][0] == top
    tiny = np.nextafter(np.array(0, dtype), np.array(1, dtype))
    assert middle_mean(updates_of(np.array([[tiny], [tiny]])), 0)["w"][0] == tiny


def test_integers_are_rounded_and_keep_their_value_beyond_float64() -> None:
    def mean(*values: int) -> int:
        return int(middle_mean([Params.of({"n": np.array(value)}) for value in values], 0)["n"])

    assert mean(1, 2, 5) == 3
    assert mean(2**63 - 1, 2**63 - 1) == 2**63 - 1
    assert mean(-(2**63), -(2**63)) == -(2**63)


def test_bool_goes_by_majority() -> None:
    updates = [Params.of({"m": np.array([value])}) for value in (True, True, False)]
    assert middle_mean(updates, 0)["m"].tolist() == [True]
    assert middle_mean(updates, 1)["m"].tolist() == [True]

"""Inner products, distances and combinations against the plain formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cohortium.aggregation.geometry import combine, gram, squared_distances
from cohortium.types import Params


def updates_of(seed: int, count: int) -> list[Params]:
    rng = np.random.default_rng(seed)
    return [
        Params.of(
            {
                "a": rng.standard_normal(33).astype(np.float32),
                "n": rng.integers(0, 100, 3),
                "b": rng.standard_normal((4, 5)),
            }
        )
        for _ in range(count)
    ]


def floats(params: Params) -> NDArray[np.float64]:
    return np.concatenate([params["a"].astype(np.float64), params["b"].astype(np.float64).ravel()])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_distances_equal_the_plain_formula(seed: int, count: int) -> None:
    reference, *updates = updates_of(seed, count + 1)
    distances = squared_distances(gram(reference, updates))
    for i, one in enumerate(updates):
        for j, other in enumerate(updates):
            expected = np.square(floats(one) - floats(other)).sum()
            assert distances[i, j] == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_tiles_cover_every_element() -> None:
    rows = np.random.default_rng(1).standard_normal((4, 20_001))
    updates = [Params.of({"w": row}) for row in rows]
    expected = (rows[1:] - rows[0]) @ (rows[1:] - rows[0]).T
    np.testing.assert_allclose(gram(updates[0], updates[1:]), expected, rtol=1e-12, atol=1e-9)
    mixed = combine(updates, [0.0, 0.25, 0.5, 0.25])["w"].astype(float)
    np.testing.assert_allclose(mixed, [0, 0.25, 0.5, 0.25] @ rows, rtol=1e-12, atol=1e-12)


def test_a_distance_that_overflows_is_infinite_and_spoils_no_other() -> None:
    far = Params.of({"w": np.array([1e200, -1e200])})
    near = [Params.of({"w": np.array(w)}) for w in ([0.0, 1.0], [0.0, 3.0])]
    distances = squared_distances(gram(near[0], [near[0], far, near[1], far]))
    assert distances[0].tolist() == [0, np.inf, 4, np.inf]
    assert distances[1].tolist() == [np.inf, 0, np.inf, np.inf]


def test_a_distant_update_with_a_tiny_share_costs_no_digits() -> None:
    far, near = (
        Params.of({"w": np.array([1e30], np.float32)}),
        Params.of({"w": np.array([0.1], np.float32)}),
    )
    combined = combine([far, near], [1e-32, 1.0])
    assert combined["w"][0] == np.float32(np.float64(np.float32(0.1)) + 0.01)


def test_an_update_without_a_share_is_not_read() -> None:
    bad, good = Params.of({"w": np.array([np.nan])}), Params.of({"w": np.array([2.0])})
    assert combine([bad, good, good], [0.0, 0.5, 0.5])["w"].tolist() == [2.0]
    assert combine([bad, good], [0.0, 1.0]) is good

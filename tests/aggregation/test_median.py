"""The coordinate-wise median."""

from __future__ import annotations

import numpy as np
import pytest

from cohortium.aggregation.median import Median
from cohortium.types import Params


@pytest.mark.parametrize("count", [1, 2, 5, 8, 65, 66])
def test_equals_numpy(count: int) -> None:
    rows = np.random.default_rng(count).standard_normal((count, 11))
    fold = Median().begin(Params.of({"w": rows[0]}))
    for index, row in enumerate(rows):
        fold.add(index, Params.of({"w": row}), 1.0 + index)
    median, weight = fold.finish()
    np.testing.assert_allclose(
        median["w"].astype(float), np.median(rows, axis=0), rtol=1e-14, atol=1e-300
    )
    assert weight == sum(1.0 + index for index in range(count))


def test_a_huge_weight_buys_nothing() -> None:
    fold = Median().begin(Params.of({"w": np.zeros(1)}))
    for index, (value, weight) in enumerate([(1.0, 1.0), (2.0, 1.0), (1e9, 1e12)]):
        fold.add(index, Params.of({"w": np.array([value])}), weight)
    assert fold.finish()[0]["w"][0] == 2.0

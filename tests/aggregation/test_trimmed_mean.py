"""The coordinate-wise trimmed mean: how much it drops, and what it withstands."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from cohortium.aggregation.trimmed_mean import TrimmedMean
from cohortium.types import Params


def trimmed(fraction: float, values: list[float]) -> float:
    fold = TrimmedMean(fraction=fraction).begin(Params.of({"w": np.zeros(1)}))
    for index, value in enumerate(values):
        fold.add(index, Params.of({"w": np.array([value])}), 1.0)
    return float(fold.finish()[0]["w"][0])


@pytest.mark.parametrize(
    ("fraction", "count", "dropped"),
    [
        (0.1, 10, 1),
        (0.2, 10, 2),
        (0.07, 100, 7),  # the product is a little more than 7
        (0.1, 11, 2),
        (0.1, 3, 1),
        (0.1, 2, 0),
        (0.49, 4, 1),
        (0.49, 5, 2),
        (0.3, 1, 0),
    ],
)
def test_how_many_are_dropped(fraction: float, count: int, dropped: int) -> None:
    values = [float(2**index) for index in range(count)]
    assert trimmed(fraction, values) == pytest.approx(np.mean(values[dropped : count - dropped]))


def test_withstands_as_many_as_it_drops() -> None:
    honest = [1.0, 1.1, 1.2, 1.3, 1.4]
    assert 1.0 <= trimmed(0.2, [*honest, 1e30, -1e30]) <= 1.4
    assert 1.0 <= trimmed(0.2, [*honest, 1e30, 1e30]) <= 1.4


@pytest.mark.parametrize("fraction", [0.0, -0.1, 0.5, float("nan"), "0.1"])
def test_fractions_that_make_no_sense(fraction: object) -> None:
    with pytest.raises(ValidationError, match="fraction"):
        TrimmedMean(fraction=fraction)  # type: ignore[arg-type]

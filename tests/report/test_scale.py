from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohortium.report.scale import quantile, scale, whole_ticks

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20)


@given(VALUES)
def test_all_values_lie_on_the_axis_and_ticks_within_it(values: list[float]) -> None:
    axis = scale(values)
    assert all(0 <= axis(value) <= 1 for value in values)
    assert axis.ticks
    assert all(-1e-9 <= axis(tick) <= 1 + 1e-9 for tick in axis.ticks)
    assert len(axis.ticks) <= 12


@given(VALUES)
def test_labels_of_ticks_differ(values: list[float]) -> None:
    axis = scale(values)
    if max(map(abs, axis.ticks)) < 100:  # above, labels have one decimal
        assert len({axis.label(tick) for tick in axis.ticks}) == len(axis.ticks)


@pytest.mark.parametrize("values", [[], [math.nan], [0.0], [0.0, 0.0], [5.0], [math.inf, 0.5]])
def test_an_axis_needs_no_spread(values: list[float]) -> None:
    axis = scale(values)
    assert axis.low < axis.high
    assert math.isfinite(axis.low + axis.high)


@given(st.integers(0, 500), st.integers(0, 5000))
def test_whole_ticks_ascend_from_end_to_end(low: int, length: int) -> None:
    ticks = whole_ticks(low, low + length)
    assert ticks[0] == low
    assert ticks[-1] == low + length
    assert list(ticks) == sorted(set(ticks))
    assert len(ticks) <= 10


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30).map(sorted), st.floats(0, 1))
def test_quantile_is_the_usual_one(ordered: list[float], share: float) -> None:
    expected = float(np.quantile(ordered, share))
    assert quantile(ordered, share) == pytest.approx(expected, rel=1e-9, abs=1e-9)

"""What no rule takes in, whatever the gate let through."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cohortium.aggregation.intake import Intake
from cohortium.errors import RefusedError
from cohortium.types import Params

MODEL = Params.of({"w": np.zeros((2, 2), np.float32)})


@pytest.fixture
def intake() -> Intake:
    intake = Intake(MODEL.layout)
    intake.accept(3, MODEL, 1.5)
    return intake


@pytest.mark.parametrize("index", [3, 2, -1])
def test_an_index_that_does_not_increase(intake: Intake, index: int) -> None:
    with pytest.raises(RefusedError, match=f"update {index} came after update 3.*plan's order"):
        intake.accept(index, MODEL, 1.0)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_positive_and_finite(intake: Intake, weight: float) -> None:
    with pytest.raises(RefusedError, match=f"update 4 has weight {weight}"):
        intake.accept(4, MODEL, weight)


def test_a_sum_of_weights_that_overflows(intake: Intake) -> None:
    intake.accept(4, MODEL, 1.7e308)
    with pytest.raises(RefusedError, match="also of the sum"):
        intake.accept(5, MODEL, 1.7e308)


@pytest.mark.parametrize(
    ("other", "shown"),
    [
        (Params.of({"w": np.zeros(4, np.float32)}), r"w float32\[4\]"),
        (Params.of({"w": np.zeros((2, 2))}), r"w float64\[2, 2\]"),
        (Params.of({"v": np.zeros((2, 2), np.float32)}), r"v float32\[2, 2\]"),
        (Params.of({name: np.zeros(1) for name in "abcdef"}), r"c float64\[1\] and 3 more"),
    ],
)
def test_other_arrays(intake: Intake, other: Params, shown: str) -> None:
    with pytest.raises(RefusedError, match=shown):
        intake.accept(4, other, 1.0)


def test_what_is_refused_does_not_count(intake: Intake) -> None:
    with pytest.raises(RefusedError):
        intake.accept(7, MODEL, -1.0)
    intake.accept(4, MODEL, 2.0)
    assert intake.weight == 3.5


def test_nothing_at_all() -> None:
    with pytest.raises(RefusedError, match="no update"):
        Intake(MODEL.layout).require_any()

"""Krum and multi-Krum against the paper's definition, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from cohortium.aggregation.krum import Krum, MultiKrum
from cohortium.aggregation.rule import Aggregator
from cohortium.errors import RefusedError
from cohortium.types import Params


def aggregate(rule: Aggregator, updates: list[Params]) -> Params:
    fold = rule.begin(Params.of({key: np.zeros_like(value) for key, value in updates[0].items()}))
    for index, update in enumerate(updates):
        fold.add(index, update, 1.0 + index)
    params, weight = fold.finish()
    assert weight == sum(1.0 + index for index in range(len(updates)))
    return params


def scores(rows_KP: NDArray[np.float64], byzantine: int) -> list[float]:
    """Definition of Krum, Section 4: summed squared distances to the K - f - 2 closest others."""
    found = []
    for i, row in enumerate(rows_KP):
        others = np.delete(rows_KP, i, axis=0)
        nearest = sorted(float(np.square(row - other).sum()) for other in others)
        found.append(sum(nearest[: len(rows_KP) - byzantine - 2]))
    return found


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[NDArray[np.float64], int]:
    byzantine = draw(st.integers(0, 4))
    count = draw(st.integers(2 * byzantine + 4, 2 * byzantine + 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return rng.standard_normal((count, 6)), byzantine


@settings(max_examples=60, deadline=None)
@given(cohorts())
def test_krum_is_the_best_score(cohort: tuple[NDArray[np.float64], int]) -> None:
    rows, byzantine = cohort
    updates = [Params.of({"w": row}) for row in rows]
    best = int(np.argmin(scores(rows, byzantine)))
    assert aggregate(Krum(byzantine=byzantine), updates) is updates[best]


@settings(max_examples=60, deadline=None)
@given(cohorts(), st.booleans())
def test_multi_krum_is_the_mean_of_the_best(
    cohort: tuple[NDArray[np.float64], int], some: bool
) -> None:
    rows, byzantine = cohort
    keep = len(rows) - byzantine - 2
    best = np.argsort(scores(rows, byzantine))[: 2 if some else keep]
    rule = MultiKrum(byzantine=byzantine, keep=2 if some else None)
    mean = aggregate(rule, [Params.of({"w": row}) for row in rows])
    np.testing.assert_allclose(
        mean["w"].astype(float), rows[best].mean(axis=0), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("rule", [Krum(byzantine=2), MultiKrum(byzantine=2)])
@pytest.mark.parametrize("lie", [3e38, -1e20, 50.0])
def test_colluding_updates_are_not_chosen(rule: Aggregator, lie: float) -> None:
    rng = np.random.default_rng(0)
    honest = [Params.of({"w": rng.normal(1, 0.1, 20).astype(np.float32)}) for _ in range(6)]
    lies = [Params.of({"w": np.full(20, lie, np.float32)})] * 2
    chosen = aggregate(rule, [lies[0], *honest, lies[1]])
    assert np.abs(chosen["w"] - 1).max() < 0.5


def test_integers_are_the_chosen_updates_own() -> None:
    updates = [
        Params.of({"w": np.array([w]), "n": np.array([10 * index])})
        for index, w in enumerate([1.0, 1.2, 1.3, 9.0])
    ]
    assert aggregate(Krum(byzantine=0), updates)["n"].tolist() == [10]
    several = aggregate(MultiKrum(byzantine=0), updates)["n"]
    assert several.tolist() == [15]
    assert several.dtype == np.int64


@pytest.mark.parametrize("rule", [Krum(byzantine=2), MultiKrum(byzantine=2)])
def test_too_few_updates(rule: Aggregator) -> None:
    updates = [Params.of({"w": np.array([float(value)])}) for value in range(6)]
    with pytest.raises(
        RefusedError, match=r"got 6 updates; expected at least 7 .*Raise the quorum"
    ):
        aggregate(rule, updates)


def test_keeping_more_than_the_rule_allows() -> None:
    updates = [Params.of({"w": np.array([float(value)])}) for value in range(6)]
    with pytest.raises(RefusedError, match=r"got 6 updates; expected at least 7 .*at most 3"):
        aggregate(MultiKrum(byzantine=1, keep=4), updates)


@pytest.mark.parametrize("settings", [{}, {"byzantine": -1}, {"byzantine": 1.5}])
def test_settings_that_make_no_sense(settings: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="byzantine"):
        Krum(**settings)


def test_keep_is_at_least_one() -> None:
    with pytest.raises(ValidationError, match="keep"):
        MultiKrum(byzantine=1, keep=0)

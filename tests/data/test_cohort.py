"""Cohort conditions over a site's rows."""

from __future__ import annotations

import numpy as np
import pytest

from cohortium.data.cohort import in_cohort
from cohortium.data.schema import Condition
from cohortium.data.table import Table
from cohortium.errors import DataError

TABLE = Table.of(
    {
        "age": np.array(["17", "18", "65", "?", "80"], object),
        "sex": np.array(["f", "m", "f", "f", ""], object),
    },
    where="a.csv",
)


@pytest.mark.parametrize(
    ("conditions", "inside"),
    [
        ([], [1, 1, 1, 1, 1]),
        ([Condition(column="age", min=18)], [0, 1, 1, 0, 1]),
        ([Condition(column="age", max=65)], [1, 1, 1, 0, 0]),
        ([Condition(column="age", min=18, max=65)], [0, 1, 1, 0, 0]),
        ([Condition(column="age", equals=18)], [0, 1, 0, 0, 0]),
        ([Condition(column="age", equals=0), Condition(column="age", min=0)], [0, 0, 0, 0, 0]),
        ([Condition(column="age", one_of=(17, 80))], [1, 0, 0, 0, 1]),
        ([Condition(column="sex", equals="f")], [1, 0, 1, 1, 0]),
        ([Condition(column="sex", equals="")], [0, 0, 0, 0, 0]),
        ([Condition(column="sex", equals="f"), Condition(column="age", min=18)], [0, 0, 1, 0, 0]),
    ],
)
def test_every_condition_must_hold(conditions: list[Condition], inside: list[int]) -> None:
    assert in_cohort(TABLE, conditions).tolist() == [bool(value) for value in inside]


@pytest.mark.parametrize(
    "condition", [Condition(column="sex", min=1), Condition(column="sex", equals=1)]
)
def test_text_is_not_compared_with_a_number(condition: Condition) -> None:
    with pytest.raises(DataError, match="column 'sex': got another value in row 1"):
        in_cohort(TABLE, [condition])

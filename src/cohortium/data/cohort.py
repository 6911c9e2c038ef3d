"""Which patients are in: the cohort conditions over a site's table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cohortium.data.schema import Condition
from cohortium.data.table import Column, Mask, Table


def in_cohort(table: Table, conditions: Sequence[Condition]) -> Mask:
    """Tell for each row whether it meets every condition, shape (N,).

    A missing value meets none.

    Raises:
        DataError: a bound or a number is compared with text.

    >>> table = Table.of({"age": np.array(["17", "41", "?"])}, where="a.csv")
    >>> in_cohort(table, [Condition(column="age", min=18)])
    array([False,  True, False])
    """
    inside = np.ones(len(table), bool)
    for condition in conditions:
        inside &= _meets(table.column(condition.column), condition)
    return inside


def _meets(column: Column, condition: Condition) -> Mask:
    options = condition.one_of or (() if condition.equals is None else (condition.equals,))
    if options:
        return (column.levels(options) >= 0) & ~column.missing()
    numbers = column.numbers()
    low = -np.inf if condition.min is None else condition.min
    high = np.inf if condition.max is None else condition.max
    return (low <= numbers) & (numbers <= high)

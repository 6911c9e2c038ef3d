"""From columns to arrays: the model's inputs and its targets, checked against the schema.

Legend: N rows, F inputs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cohortium.data.schema import THRESHOLD, Feature, Scalar
from cohortium.data.table import Column, Mask, Table
from cohortium.errors import DataError, Problem
from cohortium.types import Array

COMPARISONS: dict[str, Callable[[NDArray[np.float64], float], Mask]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


def encode_inputs(table: Table, features: Sequence[Feature]) -> NDArray[np.float32]:
    """Return the inputs, shape (N, F): numbers as they are, categories as 0/1 without the first.

    Args:
        table: rows without missing values.
        features: at least one.

    Raises:
        DataError: values that are no numbers, out of range or of no category, for every column.

    >>> table = Table.of({"cp": np.array(["1", "2", "3"])}, where="a.csv")
    >>> encode_inputs(table, [Feature(name="cp", type="category", categories=(1, 2, 3))]).tolist()
    [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    """
    blocks: list[NDArray[np.float32]] = []
    problems: list[Problem] = []
    for feature in features:
        try:
            blocks.append(_encode(table.column(feature.name), feature))
        except DataError as error:
            problems.extend(error.problems)
    if problems:
        raise DataError(*problems)
    return np.concatenate(blocks, axis=1)


def encode_target(
    column: Column,
    *,
    task_kind: str,
    classes: int | None = None,
    positive: str | tuple[Scalar, ...] | None = None,
) -> Array:
    """Return the targets, shape (N,): float32 of 0 and 1, int64 class indices, or float32 numbers.

    Args:
        column: values without a missing one.
        task_kind: "binary-classification", "multiclass-classification" or "regression".
        classes: number of classes of a multiclass task.
        positive: binary tasks: a comparison such as "> 0", or the positive values.

    Raises:
        DataError: a value that is no such target.
        ValueError: `positive` in another task, or a multiclass task without `classes`.

    >>> column = Table.of({"num": np.array(["0", "3"])}, where="a.csv").column("num")
    >>> encode_target(column, task_kind="binary-classification", positive="> 0")
    array([0., 1.], dtype=float32)
    """
    if task_kind == "binary-classification":
        return _positive(column, positive).astype(np.float32)
    if positive is not None:
        raise ValueError(f"data.positive is for binary-classification, not {task_kind}")
    numbers = column.numbers()
    if task_kind == "regression":
        return _single(column, numbers)
    if task_kind != "multiclass-classification" or classes is None:
        raise ValueError(f"no targets of {task_kind!r} with classes={classes}")
    column.refuse(
        ~np.isin(numbers, np.arange(classes)),
        expected=f"a class index, a whole number from 0 to {classes - 1}",
    )
    return numbers.astype(np.int64)


def class_count(task_kind: str, classes: int | None) -> int | None:
    """Return a task's number of classes; None in a regression."""
    return {"binary-classification": 2, "regression": None}.get(task_kind, classes)


def in_range(column: Column, numbers: NDArray[np.floating], feature: Feature) -> None:
    """Refuse numbers, shape (N,), outside a feature's range; its ends are in, in their precision.

    Raises:
        DataError: a number outside.
    """
    if feature.range is None:
        return
    low, high = np.array(feature.range, numbers.dtype)
    unit = f" {feature.unit}" if feature.unit else ""
    column.refuse(
        ~((low <= numbers) & (numbers <= high)), expected=f"a number in [{low:g}, {high:g}]{unit}"
    )


def _encode(column: Column, feature: Feature) -> NDArray[np.float32]:
    if feature.categories is not None:
        levels = column.levels(feature.categories)
        names = ", ".join(str(level) for level in feature.categories)
        column.refuse(levels < 0, expected=f"one of the categories {names}")
        one_hot: Mask = levels[:, None] == np.arange(1, len(feature.categories))
        return one_hot.astype(np.float32)
    numbers = column.numbers()
    in_range(column, numbers, feature)
    return _single(column, numbers)[:, None]


def _single(column: Column, numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    limit = float(np.finfo(np.float32).max)
    column.refuse(np.abs(numbers) > limit, expected=f"a number within {limit:.1e} (float32)")
    single: NDArray[np.float32] = numbers.astype(np.float32)
    return single


def _positive(column: Column, positive: str | tuple[Scalar, ...] | None) -> Mask:
    if isinstance(positive, tuple):
        return column.levels(positive) >= 0
    numbers = column.numbers()
    if positive is None:
        column.refuse(
            (numbers != 0) & (numbers != 1),
            expected="0 or 1",
            advice='Say which values are positive, such as data.positive = "> 0".',
        )
        return COMPARISONS[">="](numbers, 1.0)
    match = THRESHOLD.fullmatch(positive)
    if match is None:
        raise ValueError(f"positive is {positive!r}; expected a comparison such as '> 0'")
    comparison, bound = match.groups()
    return COMPARISONS[comparison](numbers, float(bound))

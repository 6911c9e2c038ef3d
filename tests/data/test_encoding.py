"""From columns to inputs and targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cohortium.data.encoding import encode_inputs, encode_target
from cohortium.data.schema import Feature
from cohortium.data.table import Column, Table
from cohortium.errors import DataError

BINARY = "binary-classification"


def target(*values: object) -> Column:
    return Table.of({"y": np.array(values, object)}, where="a.csv").column("y")


def test_inputs_stand_in_the_schemas_order_without_first_levels() -> None:
    table = Table.of(
        {"sex": np.array(["m", "f"], object), "age": np.array([40, 50])}, where="a.csv"
    )
    features = [
        Feature(name="age"),
        Feature(name="sex", type="category", categories=("f", "m", "x")),
    ]
    x = encode_inputs(table, features)
    assert x.dtype == np.float32
    assert x.tolist() == [[40, 1, 0], [50, 0, 0]]


def test_all_columns_that_do_not_fit_are_named_with_rows_and_without_values() -> None:
    table = Table.of(
        {
            "age": np.array(["40", "181", "50"], object),
            "cp": np.array(["1", "2", "7"], object),
            "bp": np.array(["low", "2", "7"], object),
            "ok": np.array(["1", "2", "7"], object),
        },
        where="a.csv",
    )
    features = [
        Feature(name="age", unit="years", range=(0, 120)),
        Feature(name="cp", type="category", categories=(1, 2)),
        Feature(name="bp"),
        Feature(name="ok"),
    ]
    with pytest.raises(DataError) as caught:
        encode_inputs(table, features)
    text = str(caught.value)
    assert "column 'age': got another value in row 2; expected a number in [0, 120] years" in text
    assert "column 'cp': got another value in row 3; expected one of the categories 1, 2" in text
    assert "column 'bp': got another value in row 1; expected a finite number" in text
    assert len(caught.value.problems) == 3
    assert "181" not in text
    assert "low" not in text


def test_a_ranges_ends_are_inside() -> None:
    table = Table.of({"a": np.array([0.1, 0.3])}, where="a.csv")
    assert len(encode_inputs(table, [Feature(name="a", range=(0.1, 0.3))])) == 2


def test_a_number_beyond_float32_is_refused() -> None:
    table = Table.of({"a": np.array([1.0, 1e39])}, where="a.csv")
    with pytest.raises(DataError, match=r"row 2; expected a number within 3.4e\+38"):
        encode_inputs(table, [Feature(name="a")])


@pytest.mark.parametrize(
    ("positive", "expected"),
    [
        ("> 0", [0, 1, 1]),
        (">=2", [0, 0, 1]),
        ("< 2", [1, 1, 0]),
        ("<= 0", [1, 0, 0]),
        ((2,), [0, 0, 1]),
        ((0, 2), [1, 0, 1]),
    ],
)
def test_positive_targets(positive: Any, expected: list[int]) -> None:
    y = encode_target(target("0", "1", "2.0"), task_kind=BINARY, positive=positive)
    assert y.dtype == np.float32
    assert y.tolist() == expected


def test_targets_may_be_text_where_the_positive_values_are_listed() -> None:
    y = encode_target(target("sick", "well"), task_kind=BINARY, positive=("sick",))
    assert y.tolist() == [1, 0]


def test_class_indices_are_integers_and_a_regressions_targets_are_numbers() -> None:
    classes = encode_target(
        target("2", "0", "1.0"), task_kind="multiclass-classification", classes=3
    )
    assert (classes.dtype.name, classes.tolist()) == ("int64", [2, 0, 1])
    numbers = encode_target(target("2.5", "-1"), task_kind="regression")
    assert (numbers.dtype.name, numbers.tolist()) == ("float32", [2.5, -1])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"task_kind": BINARY}, "expected 0 or 1. Say which values are positive"),
        ({"task_kind": BINARY, "positive": "> 1"}, "expected a finite number"),
        ({"task_kind": "multiclass-classification", "classes": 2}, "finite number"),
        ({"task_kind": "regression"}, "finite number"),
    ],
)
def test_targets_that_do_not_fit_the_task_are_refused(settings: Any, said: str) -> None:
    last = "2" if "0 or 1" in said else "ill"
    with pytest.raises(DataError) as caught:
        encode_target(target("0", "1", last), **settings)
    assert said in str(caught.value)
    assert "column 'y': got another value in row 3" in str(caught.value)


@pytest.mark.parametrize("value", ["-1", "3", "0.5"])
def test_a_class_index_is_a_whole_number_below_the_classes(value: str) -> None:
    with pytest.raises(DataError, match="whole number from 0 to 2"):
        encode_target(target(value), task_kind="multiclass-classification", classes=3)


@pytest.mark.parametrize(
    "settings",
    [
        {"task_kind": "regression", "positive": "> 0"},
        {"task_kind": "multiclass-classification"},
        {"task_kind": "clustering"},
        {"task_kind": BINARY, "positive": "nonsense"},
    ],
)
def test_a_study_that_cannot_be_is_a_callers_fault(settings: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        encode_target(target("0", "1"), **settings)

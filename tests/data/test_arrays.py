"""Own arrays from Python: every accepted form gives the same records, everything else a message."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cohortium.data.arrays import from_arrays
from cohortium.data.prepare import Prepared, prepare
from cohortium.data.schema import Condition, Feature, Schema, Split
from cohortium.data.table import Table
from cohortium.errors import ArgumentError, DataError, InvalidInputError
from cohortium.records import Part, SiteData

BINARY = "binary-classification"
X = np.random.default_rng(0).normal(size=(20, 3))
Y = np.arange(20) % 2


def read(
    sites: Any, *, task_kind: str = BINARY, classes: int | None = None, **settings: Any
) -> dict[str, Prepared]:
    schema = Schema(**settings)
    return from_arrays(sites, schema=schema, task_kind=task_kind, classes=classes, seed=3)


def with_torch(x: Any, y: Any) -> Any:
    torch = pytest.importorskip("torch")
    return torch.tensor(x, requires_grad=True), torch.tensor(y)


@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: (x, y),
        lambda x, y: [x, y],
        lambda x, y: (x.tolist(), y.tolist()),
        lambda x, y: (x, y[:, None]),
        lambda x, y: (x, y.astype(bool)),
        lambda x, y: SimpleNamespace(x=x, y=y),
        lambda x, y: Part(x, y),
        with_torch,
    ],
    ids=["tuple", "list", "lists", "column", "bool", "object", "part", "torch"],
)
def test_all_forms_are_split_and_normalised_alike(form: Callable[[Any, Any], Any]) -> None:
    data = read({"a": form(X, Y)})["a"].data
    columns = {name: X[:, k] for k, name in enumerate("uvw")} | {"y": Y}
    schema = Schema(target="y", features=tuple(Feature(name=name) for name in "uvw"))
    expected = prepare(
        Table.of(columns, where="a.csv"), schema=schema, task_kind=BINARY, seed=3, site="a"
    ).data
    for got, wanted in ((data.train, expected.train), (data.test, expected.test)):
        np.testing.assert_array_equal(got.x, wanted.x)
        np.testing.assert_array_equal(got.y, wanted.y)
        assert (got.x.dtype.name, got.y.dtype.name) == ("float32", "float32")


def test_parts_are_taken_as_they_are_and_normalised_by_the_training_rows() -> None:
    parts = {
        "train": (X[:12], Y[:12]),
        "validation": (X[12:15], Y[12:15]),
        "test": (X[15:], Y[15:]),
    }
    data = SiteData(*(Part(x, y) for x, y in parts.values()))
    read_both = read({"a": parts, "b": data})
    mean, sd = X[:12].mean(axis=0), X[:12].std(axis=0, ddof=1)
    for prepared in read_both.values():
        assert [len(part) for part in vars(prepared.raw).values()] == [12, 3, 5]
        scaled = prepared.data.test.x.astype(np.float64)
        np.testing.assert_allclose(scaled, (X[15:] - mean) / sd, rtol=1e-4, atol=1e-6)


def test_parts_that_are_left_out_are_empty() -> None:
    data = read({"a": {"train": (X, Y)}})["a"].data
    assert (len(data.train), data.test.x.shape, data.validation.y.shape) == (20, (0, 3), (0,))


def test_images_are_read_where_nothing_normalises_them() -> None:
    images = np.zeros((4, 1, 8, 8), np.uint8)
    data = read({"a": (images, [0, 1, 0, 1])}, normalize="none", split=Split(test=0.0))["a"].data
    assert (data.train.x.shape, data.train.x.dtype.name) == ((4, 1, 8, 8), "float32")


def test_classes_and_regressions() -> None:
    classes = read({"a": (X, Y)}, task_kind="multiclass-classification", classes=3)["a"]
    assert classes.data.train.y.dtype == np.int64
    assert len(classes.summary.class_counts) == 3
    numbers = read({"a": (X, X[:, 0])}, task_kind="regression")["a"]
    assert numbers.data.train.y.dtype == np.float32


def test_the_schemas_rule_says_which_targets_are_positive() -> None:
    data = read({"a": (X, np.arange(20) % 4)}, positive="> 2", split=Split(test=0.0))["a"].data
    assert data.train.y.sum() == 5


def test_listed_features_are_those_of_the_columns() -> None:
    features = (
        Feature(name="dose", range=(0, 0.1)),
        Feature(name="cp", type="category", categories=(1, 2, 3)),
    )
    x = np.array([[0.1, 0, 1], [0.05, 1, 0]], np.float32)  # 0.1 in float32 lies above 0.1
    settings: dict[str, Any] = {"target": "y", "features": features, "normalize": "range"}
    settings["split"] = Split(test=0.0)
    scaled = read({"a": (x, [0, 1])}, **settings)["a"].data.train.x.astype(np.float64)
    np.testing.assert_allclose(scaled, np.array([[1, 0, 1], [0.5, 1, 0]]), rtol=1e-6)
    with pytest.raises(ArgumentError, match=r"shape \(2, 2\); expected shape \(N, 3\).*dose, cp=2"):
        read({"a": (x[:, :2], [0, 1])}, **settings)
    with pytest.raises(DataError, match=r"'dose': got another value in row 1; .*\[0, 0.1\]"):
        read({"a": (x[[0, 0]] * [[1, 1, 1], [2, 1, 1]], [0, 1])}, **settings)


def test_sites_keep_their_order() -> None:
    assert list(read({"b": (X, Y), "a": (X, Y)})) == ["b", "a"]


def with_nan() -> Any:
    x = X.copy()
    x[7, 1] = np.nan
    return x


@pytest.mark.parametrize(
    ("sites", "said"),
    [
        ({}, "sites: got dict without sites"),
        ([(X, Y)], "sites: got list without sites"),
        ({"a": X}, "sites['a']: got a ndarray; expected (x, y), an object with .x and .y"),
        ({"a": None}, "sites['a']: got a NoneType"),
        ({"a": {"trian": (X, Y)}}, "a dict with 'trian'; expected the keys train, validation"),
        ({"a": {"test": (X, Y)}}, "a dict without 'train'"),
        ({"a": (X, Y[:-1])}, "got 20 inputs and 19 targets"),
        ({"a": (X[:0], Y[:0])}, "got no rows"),
        ({"a": (X[:, 0], Y)}, "sites['a'].x: got float64 of shape (20,)"),
        ({"a": (X, np.stack([Y, Y], 1))}, "sites['a'].y: got shape (20, 2)"),
        ({"a": (X.astype(str), Y)}, "expected numbers of shape (N, F)"),
        ({"a": (X.astype(complex), Y)}, "complex128 of shape"),
        ({"a": ([[1, 2], [3]], [0, 1])}, "sites['a'].x: got a list that numpy cannot read"),
        ({"a": (3.0, 1)}, "a single float"),
        ({"a": (with_nan(), Y)}, "sites['a'].x: got NaN or infinity in row 7"),
        ({"a": (X * 1e300, Y)}, "NaN or infinity in row 0"),
        ({"a": (X, np.where(Y, np.nan, 1.0))}, "row 1 and in 9 more; expected a target"),
        ({"a": (X, Y + 1)}, "expected 0 or 1"),
        ({"a": (np.zeros((20, 2, 2)), Y)}, 'expected shape (N, F) under data.normalize = "site"'),
        ({"a": (X, Y), "b": (X[:, :2], Y)}, "shape (N, 2); expected (N, 3), as site 'a'"),
        ({"a": {"train": (X, Y), "test": (X[:, :2], Y)}}, "sites['a'], test: got inputs"),
        ({"": (X, Y)}, "the site name ''"),
        ({"../x": (X, Y)}, "the site name '../x'"),
        ({"a\n": (X, Y)}, "the site name"),
        ({"a" * 65: (X, Y)}, "up to 63 letters"),
        ({1: (X, Y)}, "the site name 1"),
        ({"a": (X[:1], Y[:1])}, "site 'a': got 1 rows, of which 1 test"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(sites: Any, said: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        read(sites)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_cohort_needs_a_table() -> None:
    with pytest.raises(ArgumentError, match=r"data\.cohort"):
        read({"a": (X, Y)}, cohort=(Condition(column="age", min=18),))

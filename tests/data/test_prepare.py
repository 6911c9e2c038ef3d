"""A site's table becomes records: what is kept, what is dropped, what is refused, and the scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cohortium.data.prepare import Prepared, join, pool, prepare, share_scale
from cohortium.data.schema import Condition, Feature, Schema, Split
from cohortium.data.table import Table
from cohortium.errors import DataError
from cohortium.types import Array

AGE = Feature(name="age", range=(0, 120))
BINARY = "binary-classification"


def floats(values: Array) -> NDArray[np.float64]:
    return values.astype(np.float64)


def table(n: int = 20, **columns: Any) -> Table:
    standard: dict[str, Any] = {
        "age": np.linspace(20, 80, n),
        "ill": np.arange(n) % 2,
        "sex": np.array(["f", "m"] * (n // 2) + ["f"] * (n % 2), object),
    }
    return Table.of(standard | columns, where="a.csv")


def ready(
    records: Table | None = None, *, site: str = "a", task_kind: str = BINARY, **settings: Any
) -> Prepared:
    default: dict[str, Any] = {"target": "ill", "features": (AGE,), "split": Split(test=0.25)}
    schema = Schema(**default | settings)
    return prepare(records or table(), schema=schema, task_kind=task_kind, seed=0, site=site)


def test_counts_say_what_became_of_the_rows() -> None:
    ages = np.linspace(10, 48, 20)
    ages[[10, 11]] = np.nan
    ill = np.array(["0", "1"] * 9 + ["?", "1"], object)
    unused = np.full(20, np.nan)
    records = table(age=ages, ill=ill, unused=unused)
    cohort = (Condition(column="sex", equals="f"),)
    summary = ready(records, cohort=cohort).summary
    assert (summary.rows_read, summary.rows_in_cohort, summary.rows_missing) == (20, 10, 2)
    assert (summary.train, summary.validation, summary.test) == (6, 0, 2)


def test_class_counts_are_those_of_training() -> None:
    prepared = ready()
    assert prepared.summary.class_counts == tuple(
        np.bincount(prepared.raw.train.y.astype(int)).tolist()
    )
    assert ready(task_kind="regression").summary.class_counts == ()


def test_rows_keep_their_order_and_their_targets() -> None:
    ages = np.arange(20.0)
    data = ready(table(age=ages), normalize="none", split=Split(test=0.2, validation=0.2)).data
    for part in (data.train, data.validation, data.test):
        assert (np.diff(part.x[:, 0]) > 0).all()
        assert part.y.tolist() == (part.x[:, 0] % 2).tolist()
    assert [len(part) for part in (data.train, data.validation, data.test)] == [12, 4, 4]


def test_all_parts_are_on_the_scale_of_the_sites_training_rows() -> None:
    prepared = ready()
    train = floats(prepared.raw.train.x)
    expected = (floats(prepared.raw.test.x) - train.mean(0)) / (train.std(0, ddof=1) + 1e-9)
    np.testing.assert_allclose(floats(prepared.data.test.x), expected, rtol=1e-6)
    np.testing.assert_allclose(prepared.data.train.x.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(prepared.data.train.x.std(0, ddof=1), 1, rtol=1e-6)
    assert prepared.data is prepared.data  # made once


def test_ranges_and_none() -> None:
    by_range, none = ready(normalize="range"), ready(normalize="none")
    scaled, raw = floats(by_range.data.train.x), floats(none.data.train.x)
    np.testing.assert_allclose(scaled * 120, raw, rtol=1e-6)
    assert none.data is none.raw


@pytest.mark.parametrize("normalize", ["site", "range", "none"])
def test_pooling_joins_raw_rows_and_normalises_with_pooled_training_statistics(
    normalize: str,
) -> None:
    sites = [
        ready(table(12), site="a", normalize=normalize),
        ready(table(30, age=np.linspace(5, 20, 30)), site="b", normalize=normalize),
    ]
    raw = join([site.raw for site in sites])
    shift, scale = 0.0, 1.0
    if normalize == "site":
        train = floats(raw.train.x)
        shift, scale = train.mean(), train.std(ddof=1) + 1e-9
    if normalize == "range":
        scale = 120.0
    pooled = pool(sites)
    for got, expected in ((pooled.train, raw.train), (pooled.test, raw.test)):
        scaled = (floats(expected.x) - shift) / scale
        np.testing.assert_allclose(floats(got.x), scaled, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(got.y, expected.y)
    each = share_scale(sites)
    assert [len(site.test) for site in each] == [3, 8]
    np.testing.assert_array_equal(np.concatenate([site.test.x for site in each]), pooled.test.x)


def test_pooling_one_site_is_that_site() -> None:
    site = ready()
    np.testing.assert_array_equal(pool([site]).train.x, site.data.train.x)


def test_sites_of_different_schemas_are_not_pooled() -> None:
    with pytest.raises(ValueError, match="one schema"):
        pool([ready(), ready(normalize="none")])
    with pytest.raises(ValueError, match="at least one site"):
        pool([])


def test_a_site_of_one_class_trains_with_a_warning() -> None:
    prepared = ready(table(ill=np.ones(20)))
    assert prepared.summary.class_counts == (0, 15)
    (warning,) = prepared.summary.warnings
    assert warning.startswith("a: all 15 training rows are of class 1;")


def test_an_input_that_varies_only_outside_training_is_warned_of() -> None:
    flag = Feature(name="flag")
    plain = ready(table(flag=np.zeros(20)), features=(AGE, flag))
    assert plain.summary.warnings == ()
    ages = table().columns["age"].astype(np.float32)
    test_row = ages.tolist().index(plain.raw.test.x[0, 0])
    flags = np.zeros(20)
    flags[test_row] = 1
    (warning,) = ready(table(flag=flags), features=(AGE, flag)).summary.warnings
    assert "flag never vary in its training rows" in warning
    assert ready(table(flag=flags), features=(AGE, flag), normalize="none").summary.warnings == ()


REFUSED: list[tuple[Table, dict[str, Any], str]] = [
    (table(), {"features": (Feature(name="aeg"),)}, "it in the header. Did you mean 'age'?"),
    (table(), {"features": (Feature(name="weight"),)}, "Its columns: age, ill, sex."),
    (table(), {"target": "dead"}, "column 'dead': got no such column"),
    (table(), {"cohort": (Condition(column="ward", equals=1),)}, "column 'ward': got no such"),
    (table(), {"features": ()}, "got no features"),
    (table(), {"features": (), "target": None}, "got no target"),
    (table(), {"features": (Feature(name="sex"),)}, "another value in row 1 and in 19 more"),
    (table(), {"features": (Feature(name="age", range=(0, 79)),)}, "another value in row 20"),
    (table(age=np.full(20, np.nan)), {}, "20 rows in the cohort, none of them complete"),
    (table(), {"cohort": (Condition(column="age", min=99),)}, "no row in the cohort"),
    (table(1), {}, "site 'a': got 1 rows, of which 1 test and 0 validate; expected"),
    (table(3), {"split": Split(test=0.4, validation=0.2)}, "expected at least 1 training row"),
    (table(2), {}, "site 'a': got 1 training row; expected at least 2"),
]  # fmt: skip


@pytest.mark.parametrize(("records", "settings", "said"), REFUSED, ids=[r[2][:40] for r in REFUSED])
def test_what_does_not_fit_is_refused(records: Table, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        ready(records, **settings)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_one_training_row_is_enough_without_a_standard_deviation() -> None:
    assert len(ready(table(2), normalize="range").data.train) == 1


def test_only_rows_that_would_be_used_are_checked() -> None:
    """A row outside the cohort, or dropped for another column, may hold anything."""
    ages = np.array(["40"] * 16 + ["999", "999", "high", "41"], object)
    ill = np.array([0, 1] * 8 + [np.nan, np.nan, 1, 0])
    ward = np.array([1] * 18 + [2, 1])
    records = table(age=ages, ill=ill, ward=ward)
    prepared = ready(records, cohort=(Condition(column="ward", equals=1),))
    assert prepared.summary.rows_missing == 2

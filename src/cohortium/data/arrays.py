"""Arrays as sites' records: from Python (numpy, torch or lists; whole or split), or from files.

Legend: N rows, F inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohortium.data.encoding import class_count, encode_target, in_range
from cohortium.data.names import SITE_NAME, SITE_NAME_RULE
from cohortium.data.prepare import Prepared, finish, split_part
from cohortium.data.schema import Schema
from cohortium.data.table import Column
from cohortium.errors import ArgumentError, DataError, InvalidInputError, Problem
from cohortium.records import Part, SiteData
from cohortium.types import Array

PARTS = ("train", "validation", "test")
Refuse = Callable[[str, str, str], InvalidInputError]
"""From what was got, what was expected and what to do to the error to raise."""

FORMS = "(x, y), an object with .x and .y, SiteData, or a dict of parts with 'train'"


def from_arrays(
    sites: Mapping[str, Any],
    *,
    schema: Schema,
    task_kind: str,
    classes: int | None = None,
    seed: int,
) -> dict[str, Prepared]:
    """Make own arrays ready for training, site by site.

    Args:
        sites: site name to `(x, y)` or an object with `.x` and `.y`, which the schema's split
            splits, or to `SiteData` or `{"train": (x, y), "validation": ..., "test": ...}`, of
            which only `train` is needed. x has shape (N, F) or (N, ...), y has shape (N,); numpy,
            torch or lists. All of it is raw: the schema's rule normalises it.
        schema: the study's `[data]` section; where it lists features, x has their inputs.
        task_kind: "binary-classification", "multiclass-classification" or "regression".
        classes: number of classes of a multiclass task.
        seed: the study's seed; the split's own seed wins.

    Returns:
        Site name to its records, in the order of `sites`.

    Raises:
        ArgumentError: a name, form, shape or type that is not as above.
        DataError: targets or inputs that do not fit the task and the schema, or too few rows.

    >>> from cohortium.data.schema import Split
    >>> sites = {"a": ([[0.0], [1.0]], [0, 1])}
    >>> schema = Schema(split=Split(test=0.0))
    >>> prepared = from_arrays(sites, schema=schema, task_kind="binary-classification", seed=0)
    >>> prepared["a"].data.train.y
    array([0., 1.], dtype=float32)
    """
    if not isinstance(sites, Mapping) or not sites:
        raise _error("", f"{type(sites).__name__} without sites", "a dict of site name to arrays")
    if schema.cohort:
        raise _error(
            "", "a data.cohort filter", "none", "Select the rows before handing them over."
        )
    reader = _Reader(schema, task_kind, class_count(task_kind, classes))
    raw = {_site_name(name): reader.site(value, name, seed) for name, value in sites.items()}
    check_shapes(raw, lambda site, part: partial(_error, f"sites[{site!r}], {part}"))
    return {
        name: finish(data, schema=schema, classes=reader.classes, site=name)
        for name, data in raw.items()
    }


@dataclass(frozen=True, eq=False)
class Arrays:
    """One site's records as they lie in its files, where these are no table.

    Attributes:
        x: shape (N, ...), numbers.
        target: N targets.
        where: the file or folder, for messages.
    """

    x: Array
    target: Column
    where: str

    def __len__(self) -> int:
        return len(self.x)


def prepare_arrays(
    arrays: Arrays,
    *,
    schema: Schema,
    task_kind: str,
    classes: int | None = None,
    seed: int,
    site: str,
) -> Prepared:
    """Make a site's arrays ready for training: to the bit what `from_arrays` makes of them.

    Args:
        arrays: the site's records.
        schema: the study's `[data]` section.
        task_kind: "binary-classification", "multiclass-classification" or "regression".
        classes: number of classes of a multiclass task.
        seed: the study's seed; the split's own seed wins.
        site: the site's name.

    Raises:
        DataError: targets or inputs that do not fit the task and the schema, or too few rows.
    """

    def refuse(got: str, expected: str, advice: str = "") -> DataError:
        return DataError(Problem(arrays.where, "", got, expected, advice))

    if schema.cohort:
        raise refuse("a data.cohort filter", "none", "Select the rows before adding the dataset.")
    reader = _Reader(schema, task_kind, class_count(task_kind, classes))
    x = _inputs(arrays.x, schema, where=arrays.where, refuse=refuse)
    whole = Part(x, reader.targets(arrays.target))
    raw = split_part(whole, schema=schema, task_kind=task_kind, seed=seed, site=site)
    return finish(raw, schema=schema, classes=reader.classes, site=site)


def check_shapes(sites: Mapping[str, SiteData], refuse: Callable[[str, str], Refuse]) -> None:
    """Refuse inputs that differ in shape, across sites and parts.

    Args:
        sites: each site's records.
        refuse: from a site and a part to what makes the error.
    """
    first, expected = next((name, data.train.x.shape[1:]) for name, data in sites.items())
    for name, data in sites.items():
        for part in PARTS:
            if (shape := getattr(data, part).x.shape[1:]) != expected:
                raise refuse(name, part)(
                    f"inputs of shape (N, {_dims(shape)})",
                    f"(N, {_dims(expected)}), as site {first!r} has them",
                    "Give every site the same inputs.",
                )


@dataclass(frozen=True)
class _Reader:
    """How one study reads arrays."""

    schema: Schema
    task_kind: str
    classes: int | None

    def site(self, value: Any, name: str, seed: int) -> SiteData:
        """Return one site's rows, split, in any of `FORMS`."""
        key = f"sites[{name!r}]"
        if isinstance(value, SiteData):
            value = {part: getattr(value, part) for part in PARTS}
        if isinstance(value, Mapping):
            return self._parts(value, key)
        whole = self._part(value, key)
        return split_part(whole, schema=self.schema, task_kind=self.task_kind, seed=seed, site=name)

    def _parts(self, value: Mapping[str, Any], key: str) -> SiteData:
        if unknown := [part for part in value if part not in PARTS]:
            raise _error(key, f"a dict with {unknown[0]!r}", f"the keys {', '.join(PARTS)}")
        if "train" not in value:
            raise _error(key, "a dict without 'train'", FORMS)
        train = self._part(value["train"], f"{key}['train']")
        none = Part(train.x[:0], train.y[:0])
        others = [
            self._part(value[part], f"{key}[{part!r}]", may_be_empty=True)
            if part in value
            else none
            for part in PARTS[1:]
        ]
        return SiteData(train, *others)

    def _part(self, value: Any, key: str, *, may_be_empty: bool = False) -> Part:
        x, y = _pair(value, key)
        x, y = _array(x, f"{key}.x"), _array(y, f"{key}.y")
        y = y.reshape(-1) if y.shape == (len(x), 1) else y
        if len(x) != len(y):
            raise _error(key, f"{len(x)} inputs and {len(y)} targets", "one target for each input")
        if y.ndim != 1:
            raise _error(f"{key}.y", f"shape {y.shape}", "shape (N,), one number for each row")
        if not len(x) and not may_be_empty:
            raise _error(key, "no rows", "at least one row", "Leave the site out.")
        inputs = _inputs(x, self.schema, where=f"{key}.x", refuse=partial(_error, f"{key}.x"))
        return Part(inputs, self.targets(Column("y", y, np.arange(len(y)), f"{key}.y")))

    def targets(self, column: Column) -> Array:
        """Return the targets as the task reads them, shape (N,)."""
        column.refuse(column.missing(), expected="a target in every row")
        return encode_target(
            column, task_kind=self.task_kind, classes=self.classes, positive=self.schema.positive
        )


def _inputs(x: Array, schema: Schema, *, where: str, refuse: Refuse) -> NDArray[np.float32]:
    """Return inputs as float32, shape (N, F) or (N, ...), once they fit the schema."""
    if x.ndim < 2 or x.dtype.kind not in "biuf":
        expected = "numbers of shape (N, F) or (N, ...)"
        raise refuse(f"{x.dtype.name} of shape {x.shape}", expected, "")
    if x.ndim > 2 and schema.normalize == "site":
        expected = 'shape (N, F) under data.normalize = "site"'
        advice = 'Scale the arrays yourself and set normalize to "none".'
        raise refuse(f"shape {x.shape}", expected, advice)
    if schema.shape is not None and x.shape[1:] != schema.shape:
        expected = f"(N, {_dims(schema.shape)}), as data.shape says"
        raise refuse(f"inputs of shape (N, {_dims(x.shape[1:])})", expected, "")
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(x, np.float32)
    if not (finite := np.isfinite(single)).all():
        row = int((~finite).reshape(len(x), -1).any(axis=1).argmax())
        raise refuse(f"NaN or infinity in row {row}", "finite numbers (float32)", "")
    _check_features(single, schema, where=where, refuse=refuse)
    return single


def _check_features(x: NDArray[np.float32], schema: Schema, *, where: str, refuse: Refuse) -> None:
    if not schema.features:
        return
    if x.shape[1:] != (width := len(schema.inputs),):
        expected = f"shape (N, {width}), the inputs of data.features: "
        raise refuse(f"shape {x.shape}", expected + ", ".join(schema.inputs), "")
    inputs = ((feature, name) for feature in schema.features for name in feature.inputs)
    for (feature, name), values in zip(inputs, x.T, strict=True):
        column = Column(name, values, np.arange(len(values)), where)
        in_range(column, values, feature)


def _pair(value: Any, key: str) -> tuple[Any, Any]:
    if isinstance(value, tuple | list) and len(value) == 2:
        return value[0], value[1]
    if hasattr(value, "x") and hasattr(value, "y"):
        return value.x, value.y
    raise _error(key, f"a {type(value).__name__}", FORMS)


def _array(value: Any, key: str) -> Array:
    """Return anything array-like as numpy; of a torch tensor its values, wherever it lies."""
    try:
        for step in ("detach", "cpu"):
            value = getattr(value, step)() if hasattr(value, step) else value
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        got = f"a {type(value).__name__} that numpy cannot read"
        raise _error(key, got, "numbers in a numpy array, a torch tensor or a list") from error
    if array.ndim == 0:
        raise _error(key, f"a single {type(value).__name__}", "an array with one entry per row")
    return array


def _site_name(name: object) -> str:
    if isinstance(name, str) and SITE_NAME.fullmatch(name):
        return name
    raise _error("sites", f"the site name {name!r}", SITE_NAME_RULE, "Rename the site.")


def _dims(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def _error(key: str, got: str, expected: str, advice: str = "") -> ArgumentError:
    return ArgumentError(Problem("<python>", key or "sites", got, expected, advice))

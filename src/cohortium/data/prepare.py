"""From a site's table to the records that training sees: cohort, checks, encoding, split, scale.

Legend: N rows, F inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Literal

import numpy as np

from cohortium.data.cohort import in_cohort
from cohortium.data.encoding import class_count, encode_inputs, encode_target
from cohortium.data.normalization import Normalization
from cohortium.data.schema import Schema
from cohortium.data.split import part_sizes, split_rows
from cohortium.data.table import Mask, Table
from cohortium.errors import DataError, Problem
from cohortium.records import Part, SiteData
from cohortium.types import Array

Normalize = Literal["site", "range", "none"]


@dataclass(frozen=True)
class Preparation:
    """What became of a site's rows: counts, and what its people should know.

    Attributes:
        site: its name.
        rows_read: rows in the file.
        rows_in_cohort: rows that meet the cohort's conditions.
        rows_missing: of these, rows dropped because a used column is missing.
        train: training rows; `validation` and `test` likewise.
        class_counts: training rows by class index; empty in a regression.
        warnings: sentences for people.
    """

    site: str
    rows_read: int
    rows_in_cohort: int
    rows_missing: int
    train: int
    validation: int
    test: int
    class_counts: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Prepared:
    """One site's records, split, and the scale to put them on.

    Attributes:
        site: its name.
        raw: rows before normalisation.
        normalize: the schema's rule.
        normalization: the site's own scale; None where the rule is "none".
        summary: what became of its rows.
    """

    site: str
    raw: SiteData
    normalize: Normalize
    normalization: Normalization | None
    summary: Preparation

    @cached_property
    def data(self) -> SiteData:
        """The records on the site's own scale; made once."""
        return _normalised(self.raw, self.normalization)


def prepare(
    table: Table,
    *,
    schema: Schema,
    task_kind: str,
    classes: int | None = None,
    seed: int,
    site: str,
) -> Prepared:
    """Make a site's records ready for training.

    Args:
        table: the site's rows as they lie in its file.
        schema: the study's `[data]` section, with features and target.
        task_kind: "binary-classification", "multiclass-classification" or "regression".
        classes: number of classes of a multiclass task.
        seed: the study's seed; the split's own seed wins.
        site: the site's name.

    Returns:
        Rows in the cohort without missing values, encoded, split, with the scale beside them.

    Raises:
        DataError: a column is missing, a value does not fit the schema, or too few rows remain.
    """
    target = _check_columns(table, schema)
    cohort = table.take(in_cohort(table, schema.cohort))
    used = cohort.only([*(feature.name for feature in schema.features), target])
    complete = used.take(~_any_missing(used))
    if not len(complete):
        raise _too_few(table.where, site, len(cohort))
    y = encode_target(
        complete.column(target), task_kind=task_kind, classes=classes, positive=schema.positive
    )
    whole = Part(encode_inputs(complete, schema.features), y)
    raw = split_part(whole, schema=schema, task_kind=task_kind, seed=seed, site=site)
    rows = (len(table), len(cohort), len(cohort) - len(complete))
    return finish(raw, schema=schema, classes=class_count(task_kind, classes), site=site, rows=rows)


def split_part(part: Part, *, schema: Schema, task_kind: str, seed: int, site: str) -> SiteData:
    """Split a site's rows as the schema says; inside a part they keep their order.

    Raises:
        DataError: no row would remain for training.
    """
    train, validation, test = part_sizes(len(part), schema.split)
    if train < 1:
        got = f"{len(part)} rows, of which {test} test and {validation} validate"
        advice = "Give the site more rows, lower data.split, or leave the site out of the study."
        raise DataError(Problem(f"site {site!r}", "", got, "at least 1 training row", advice))
    parts = split_rows(part.y, split=schema.split, seed=seed, stratify=task_kind != "regression")
    return SiteData(*(Part(part.x[rows], part.y[rows]) for rows in parts))


def finish(
    raw: SiteData,
    *,
    schema: Schema,
    classes: int | None,
    site: str,
    rows: tuple[int, int, int] | None = None,
) -> Prepared:
    """Add the scale and the summary to a site's split rows.

    Args:
        raw: split rows, at least one of them for training.
        schema: the study's `[data]` section.
        classes: number of classes (2 in a binary task), None in a regression.
        site: the site's name.
        rows: rows read, in the cohort, and dropped for missing values; by default all are there.
    """
    normalization = _normalization(raw.train, schema, site)
    counts = () if classes is None else _class_counts(raw.train.y, classes)
    sizes = (len(raw.train), len(raw.validation), len(raw.test))
    warnings = (*_one_class(counts, site), *_far_off(raw, schema, site))
    summary = Preparation(
        site, *(rows or (sum(sizes), sum(sizes), 0)), *sizes, class_counts=counts, warnings=warnings
    )
    return Prepared(site, raw, schema.normalize, normalization, summary)


def pool(sites: Sequence[Prepared]) -> SiteData:
    """Join the rows of several sites, in order, normalised with their pooled training statistics.

    Only a comparison does this: no federation ever can.

    Raises:
        ValueError: no site, or sites of different schemas.
    """
    return join(share_scale(sites))


def share_scale(sites: Sequence[Prepared]) -> list[SiteData]:
    """Return each site's rows, normalised with the training statistics of all of them together.

    A model of pooled data is measured site by site on these.

    Raises:
        ValueError: no site, or sites of different schemas.
    """
    if len({site.normalize for site in sites}) != 1:
        raise ValueError("expected at least one site, all of one schema")
    scale = sites[0].normalization
    if sites[0].normalize == "site":
        scale = Normalization.fit(Part.join([site.raw.train for site in sites]))
    return [_normalised(site.raw, scale) for site in sites]


def join(sites: Sequence[SiteData]) -> SiteData:
    """Stack the rows of several sites in order, part by part."""
    return SiteData(
        Part.join([site.train for site in sites]),
        Part.join([site.validation for site in sites]),
        Part.join([site.test for site in sites]),
    )


def _check_columns(table: Table, schema: Schema) -> str:
    """Return the target's name after checking that the table has every column."""
    if not schema.features or schema.target is None:
        expected = "at least one feature and a target, since records come from a table"
        got = "no features" if schema.target else "no target"
        raise DataError(Problem("study", "data", got, expected, "List [[data.features]]."))
    names = [*(feature.name for feature in schema.features), schema.target]
    names += [condition.column for condition in schema.cohort]
    if problems := [_no_column(table, name) for name in names if name not in table.columns]:
        raise DataError(*problems)
    return schema.target


def _no_column(table: Table, name: str) -> Problem:
    columns = list(table.columns)
    near = get_close_matches(name, columns, n=1)
    listed = ", ".join(columns[:20]) + (", ..." if len(columns) > 20 else "")
    advice = f"Did you mean {near[0]!r}?" if near else f"Its columns: {listed}."
    return Problem(table.where, f"column {name!r}", "no such column", "it in the header", advice)


def _any_missing(table: Table) -> Mask:
    missing = [table.column(name).missing() for name in table.columns]
    anywhere: Mask = np.logical_or.reduce(missing)
    return anywhere


def _too_few(where: str, site: str, cohort: int) -> DataError:
    got = (
        f"{cohort} rows in the cohort, none of them complete" if cohort else "no row in the cohort"
    )
    advice = "Check data.cohort and the missing values, or leave the site out of the study."
    return DataError(Problem(where, f"site {site!r}", got, "at least 1 training row", advice))


def _class_counts(y: Array, classes: int) -> tuple[int, ...]:
    return tuple(int(count) for count in np.bincount(y.astype(np.int64), minlength=classes))


def _normalization(train: Part, schema: Schema, site: str) -> Normalization | None:
    if schema.normalize == "none":
        return None
    if schema.normalize == "range":
        return Normalization.of_ranges(schema.features)
    if len(train) < 2:
        advice = 'Leave the site out, or set data.normalize = "range" or "none".'
        expected = 'at least 2: data.normalize = "site" needs a standard deviation'
        raise DataError(Problem(f"site {site!r}", "", "1 training row", expected, advice))
    return Normalization.fit(train)


def _normalised(raw: SiteData, normalization: Normalization | None) -> SiteData:
    return raw if normalization is None else normalization.apply_all(raw)


def _one_class(counts: tuple[int, ...], site: str) -> list[str]:
    present = [index for index, count in enumerate(counts) if count]
    if len(present) != 1:
        return []
    what = f"{site}: all {counts[present[0]]} training rows are of class {present[0]}"
    return [f"{what}; it trains, and metrics that need two classes are left out there"]


def _far_off(raw: SiteData, schema: Schema, site: str) -> list[str]:
    """Warn of inputs that (x - mean) / (sd + 1e-9) blows up outside the training rows."""
    if schema.normalize != "site":
        return []
    first = raw.train.x[0]
    constant = (raw.train.x == first).all(axis=0)
    others = np.concatenate([raw.validation.x, raw.test.x])
    bad = constant & (others != first).any(axis=0)
    names = [name for name, is_bad in zip(_names(schema, len(bad)), bad, strict=True) if is_bad]
    if not names:
        return []
    what = f"{site}: {', '.join(names)} never vary in its training rows but do in others"
    return [f'{what}, where (x - mean) / sd is huge; consider data.normalize = "range"']


def _names(schema: Schema, width: int) -> tuple[str, ...]:
    return schema.inputs or tuple(str(index) for index in range(width))

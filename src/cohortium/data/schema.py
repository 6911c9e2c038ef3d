"""The `[data]` section of a study: which columns, which patients, and how rows are split.

Pure settings: no records, no numpy, no scikit-learn. Checks across fields raise `ValueError`, which
the study's reader reports with the file and the key.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Annotated, Literal

from pydantic import Field

from cohortium.part import part

Scalar = int | float | str
Name = Annotated[str, Field(min_length=1, max_length=200)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

THRESHOLD = re.compile(r"\s*(>=|<=|>|<)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*")


@part
class Feature:
    """One input column of the model, and what a site's values in it may be."""

    name: Annotated[Name, Field(description="The column's name in the site's file.")]
    type: Annotated[
        Literal["number", "category"],
        Field(
            description="`category` expands to one 0/1 input per level, the first level dropped."
        ),
    ] = "number"
    unit: Annotated[
        str | None, Field(description="The unit in which every site gives it; for people.")
    ] = None
    range: Annotated[
        tuple[float, float] | None,
        Field(
            strict=False,
            description="Lowest and highest plausible number; a row outside is refused, "
            "with its number.",
        ),
    ] = None
    categories: Annotated[
        tuple[Scalar, ...] | None,
        Field(strict=False, description="The levels of a category, all numbers or all text."),
    ] = None

    def __post_init__(self) -> None:
        if self.type == "category":
            self._check_category()
        elif self.categories is not None:
            raise ValueError(
                f"feature {self.name!r} is a number and lists categories; "
                'write type = "category", or leave the categories out'
            )
        elif self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(
                f"the range of feature {self.name!r} is [{self.range[0]:g}, {self.range[1]:g}]; "
                "its lowest value must lie below its highest"
            )

    def _check_category(self) -> None:
        if self.range is not None:
            raise ValueError(f"feature {self.name!r} is a category: it has categories, no range")
        if self.categories is None or len(self.categories) < 2:
            raise ValueError(
                f"feature {self.name!r} is a category and needs at least two categories, "
                "such as categories = [1, 2, 3]"
            )
        _check_levels(self.categories, f"the categories of feature {self.name!r}")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The model's inputs that this feature becomes.

        >>> Feature(name="cp", type="category", categories=(1, 2, 3)).inputs
        ('cp=2', 'cp=3')
        """
        if self.categories is None:
            return (self.name,)
        return tuple(f"{self.name}={level}" for level in self.categories[1:])


@part
class Condition:
    """One condition on a column that a patient's row must meet to be in the cohort."""

    column: Annotated[Name, Field(description="The column; it need not be a feature.")]
    min: Annotated[float | None, Field(description="Lowest number that is in the cohort.")] = None
    max: Annotated[float | None, Field(description="Highest number that is in the cohort.")] = None
    equals: Annotated[Scalar | None, Field(description="The one value that is in.")] = None
    one_of: Annotated[
        tuple[Scalar, ...] | None,
        Field(strict=False, min_length=1, description="The values that are in."),
    ] = None

    def __post_init__(self) -> None:
        bounds = self.min is not None or self.max is not None
        if bounds + (self.equals is not None) + (self.one_of is not None) != 1:
            raise ValueError(
                f"the condition on {self.column!r} needs exactly one of: min and/or max, equals, "
                "one_of"
            )
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"the condition on {self.column!r} has min above max: no row meets it")
        if self.one_of is not None:
            _check_levels(self.one_of, f"one_of in the condition on {self.column!r}")


@part
class Split:
    """How each site's rows are split into training, validation and test rows.

    scikit-learn's `train_test_split` draws them, with the number of test rows rounded up.
    """

    method: Annotated[
        Literal["stratified", "random"],
        Field(
            description="`stratified` keeps the classes' shares; where a class has two rows or "
            "fewer, and in a regression, it splits as `random` does."
        ),
    ] = "stratified"
    test: Annotated[Fraction, Field(description="Fraction of rows that only measure.")] = 0.2
    validation: Annotated[
        Fraction, Field(description="Fraction of rows for early stopping and selection.")
    ] = 0.0
    seed: Annotated[
        int | None,
        Field(ge=0, lt=2**32, description="Seed of the split; by default the study's seed."),
    ] = None

    def __post_init__(self) -> None:
        if self.test + self.validation >= 1:
            raise ValueError(
                f"test = {self.test:g} and validation = {self.validation:g} leave no row to train "
                "on; together they must stay below 1"
            )


@part
class Schema:
    """What every site's records must look like, so that one model can train on all of them."""

    dataset: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
            description="A registered dataset, or any name: then `--data DIR` holds one "
            "`<site>.csv`, `<site>.parquet`, `<site>.npz` or folder of images per site. Not needed "
            "for arrays that Python hands over.",
        ),
    ] = None
    target: Annotated[
        Name | None, Field(description="The column to predict; `task.kind` says how it is read.")
    ] = None
    positive: Annotated[
        Annotated[str, Field(min_length=1)]
        | Annotated[tuple[Scalar, ...], Field(strict=False, min_length=1)]
        | None,
        Field(
            description='Binary tasks: which targets are positive, such as "> 0" or a list of '
            "values. Without it the column must be 0 or 1."
        ),
    ] = None
    normalize: Annotated[
        Literal["site", "range", "none"],
        Field(
            description="`site`: (x - mean) / (sd + 1e-9) with the mean and sample sd of the "
            "site's own training rows; `range`: each feature's range becomes [0, 1]; `none`."
        ),
    ] = "site"
    features: Annotated[
        tuple[Feature, ...],
        Field(
            strict=False,
            description="The model's inputs, in this order. May be empty only for images and "
            "arrays.",
        ),
    ] = ()
    shape: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...] | None,
        Field(
            strict=False,
            min_length=1,
            max_length=8,
            description="The shape of one record that is an image or an array, such as "
            "`[3, 224, 224]`: channels, height, width. Images are numbers from 0 to 1, of one size "
            'at all sites, and need `normalize = "none"`.',
        ),
    ] = None
    cohort: Annotated[
        tuple[Condition, ...],
        Field(strict=False, description="Which patients are in: every condition must hold."),
    ] = ()
    split: Annotated[Split, Field(description="How each site's rows are split.")] = Split()

    def __post_init__(self) -> None:
        self._check_features()
        self._check_target()
        self._check_shape()
        if self.normalize == "range":
            self._check_ranges()

    def _check_features(self) -> None:
        names = [feature.name for feature in self.features]
        if twice := _duplicates(names):
            raise ValueError(f"feature {twice[0]!r} is listed more than once")
        if twice := _duplicates(self.inputs):
            raise ValueError(
                f"two features become an input of the same name, {twice[0]!r}; rename one of them"
            )

    def _check_target(self) -> None:
        if self.features and self.target is None:
            raise ValueError("features are listed and the target is missing: name its column")
        if any(feature.name == self.target for feature in self.features):
            raise ValueError(
                f"the target {self.target!r} is also listed as a feature: the model would read "
                "the answer"
            )
        if isinstance(self.positive, str) and not THRESHOLD.fullmatch(self.positive):
            raise ValueError(
                f"positive is {self.positive!r}; write a comparison with a number such as "
                '"> 0" or ">= 2", or a list of values such as ["yes"]'
            )
        if isinstance(self.positive, tuple):
            _check_levels(self.positive, "positive")

    def _check_shape(self) -> None:
        if self.shape is None:
            return
        if self.features:
            raise ValueError(
                "features and a shape are both given; a table has features, images a shape"
            )
        if len(self.shape) > 1 and self.normalize != "none":
            raise ValueError(
                f'normalize = "{self.normalize}" is for columns of a table; for images, and arrays '
                'of this shape, write normalize = "none"'
            )

    def _check_ranges(self) -> None:
        if not self.features:
            raise ValueError('normalize = "range" needs features with ranges')
        for feature in self.features:
            if feature.type == "number" and feature.range is None:
                raise ValueError(
                    f'normalize = "range" needs the range of every number; feature '
                    f"{feature.name!r} has none"
                )

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the model's inputs, in order, categories expanded; empty without features.

        >>> Schema(target="y", features=(Feature(name="age"),)).inputs
        ('age',)
        """
        return tuple(name for feature in self.features for name in feature.inputs)


def _check_levels(levels: tuple[Scalar, ...], what: str) -> None:
    """Refuse duplicates (1 and 1.0 are equal) and text among numbers."""
    if len({isinstance(level, str) for level in levels}) > 1:
        raise ValueError(f"{what} mix numbers and text; write all of them as one or the other")
    if twice := _duplicates(levels):
        raise ValueError(f"{what} list {twice[0]!r} more than once")


def _duplicates(items: Iterable[Hashable]) -> list[Hashable]:
    return [item for item, count in Counter(items).items() if count > 1]

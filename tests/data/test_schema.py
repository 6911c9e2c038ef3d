"""The `[data]` section: what is accepted, and that impossible combinations are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from cohortium.data.schema import Condition, Feature, Schema, Split

SCHEMA = TypeAdapter(Schema)


def read(**section: Any) -> Schema:
    """Read a section the way that a study file is read: strictly, as JSON."""
    return SCHEMA.validate_json(json.dumps(section))


def test_the_defaults_are_those_of_the_study_reference() -> None:
    schema = read()
    assert (schema.normalize, schema.positive, schema.cohort, schema.features) == (
        "site",
        None,
        (),
        (),
    )
    assert schema.split == Split(method="stratified", test=0.2, validation=0.0, seed=None)


def test_a_whole_section_is_read() -> None:
    schema = read(
        dataset="heart-disease",
        target="num",
        positive="> 0",
        features=[
            {"name": "age", "type": "number", "unit": "years", "range": [0, 120]},
            {"name": "cp", "type": "category", "categories": [1, 2, 3, 4]},
        ],
        cohort=[{"column": "age", "min": 18}, {"column": "sex", "one_of": ["f", "m"]}],
        split={"test": 0.34, "validation": 0.1, "seed": 43},
    )
    assert schema.features[0].range == (0.0, 120.0)
    assert schema.inputs == ("age", "cp=2", "cp=3", "cp=4")
    assert schema.cohort[1] == Condition(column="sex", one_of=("f", "m"))


def test_python_may_pass_lists() -> None:
    schema = Schema(
        target="y",
        positive=[1, 2],  # type: ignore[arg-type]
        features=[Feature(name="a", range=[0, 1])],  # type: ignore[arg-type]
    )
    assert schema.positive == (1, 2)
    assert schema.features[0].range == (0.0, 1.0)


AGE = {"name": "age"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"datset": "a"}, "datset"),
    ({"dataset": "../etc"}, "dataset"),
    ({"dataset": ""}, "dataset"),
    ({"normalize": "mean"}, "normalize"),
    ({"features": [AGE]}, "target is missing"),
    ({"features": [AGE, AGE], "target": "y"}, "'age' is listed more than once"),
    ({"features": [AGE], "target": "age"}, "also listed as a feature"),
    ({"features": [{"name": ""}], "target": "y"}, "at least 1 character"),
    ({"features": [{"name": "a", "range": [1, 1]}], "target": "y"}, "below its highest"),
    ({"features": [{"name": "a", "range": [2, 1]}], "target": "y"}, "below its highest"),
    ({"features": [{"name": "a", "range": ["0", "1"]}], "target": "y"}, "valid number"),
    ({"features": [{"name": "a", "range": [0, 1, 2]}], "target": "y"}, "at most 2 items"),
    ({"features": [{"name": "a", "categories": [1, 2]}], "target": "y"}, "is a number and lists"),
    ({"features": [{"name": "a", "type": "category"}], "target": "y"}, "at least two categories"),
    (
        {"features": [{"name": "a", "type": "category", "categories": [1]}], "target": "y"},
        "at least two categories",
    ),
    (
        {"features": [{"name": "a", "type": "category", "categories": [1, 1.0]}], "target": "y"},
        "more than once",
    ),
    (
        {"features": [{"name": "a", "type": "category", "categories": [1, "b"]}], "target": "y"},
        "mix numbers and text",
    ),
    (
        {"features": [{"name": "a", "type": "category", "categories": [1, True]}], "target": "y"},
        "categories",
    ),
    (
        {
            "features": [{"name": "a", "type": "category", "categories": [1, 2], "range": [0, 1]}],
            "target": "y",
        },
        "it has categories, no range",
    ),
    (
        {
            "features": [
                {"name": "a=2"},
                {"name": "a", "type": "category", "categories": [1, 2]},
            ],
            "target": "y",
        },
        "input of the same name",
    ),
    ({"target": "y", "positive": "0"}, "write a comparison"),
    ({"target": "y", "positive": "> zero"}, "write a comparison"),
    ({"target": "y", "positive": "> 0; import os"}, "write a comparison"),
    ({"target": "y", "positive": []}, "positive"),
    ({"target": "y", "positive": [1, "a"]}, "mix numbers and text"),
    ({"normalize": "range"}, "needs features with ranges"),
    ({"normalize": "range", "features": [AGE], "target": "y"}, "'age' has none"),
    ({"cohort": [{"column": "age"}]}, "exactly one of"),
    ({"cohort": [{"column": "age", "min": 1, "equals": 2}]}, "exactly one of"),
    ({"cohort": [{"column": "age", "equals": 1, "one_of": [2]}]}, "exactly one of"),
    ({"cohort": [{"column": "age", "min": 2, "max": 1}]}, "no row meets it"),
    ({"cohort": [{"column": "age", "one_of": []}]}, "at least 1 item"),
    ({"cohort": [{"column": "age", "one_of": [1, 1]}]}, "more than once"),
    ({"split": {"test": 1.0}}, "less than 1"),
    ({"split": {"test": -0.1}}, "greater than or equal to 0"),
    ({"split": {"test": 0.5, "validation": 0.5}}, "leave no row to train on"),
    ({"split": {"seed": -1}}, "greater than or equal to 0"),
    ({"split": {"seed": 2**32}}, "less than"),
    ({"split": {"method": "site"}}, "stratified"),
]


@pytest.mark.parametrize(("section", "said"), REFUSED, ids=lambda value: str(value)[:60])
def test_impossible_sections_are_refused(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read(**section)
    assert said in str(caught.value)


@pytest.mark.parametrize("positive", [">0", "> 0", ">=2", "<= -1.5", "< 1e3", [1, 2], ["yes"]])
def test_positive_values_are_a_comparison_or_a_list(positive: str | list[Any]) -> None:
    expected = tuple(positive) if isinstance(positive, list) else positive
    assert read(target="y", positive=positive).positive == expected


def test_every_setting_is_described() -> None:
    """The study reference is made of these descriptions."""
    definitions = SCHEMA.json_schema()
    tables = [definitions, *definitions["$defs"].values()]
    undescribed = [
        f"{table['title']}.{name}"
        for table in tables
        for name, setting in table["properties"].items()
        if not setting.get("description")
    ]
    assert not undescribed

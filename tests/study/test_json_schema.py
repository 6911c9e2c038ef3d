from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from cohortium.study.example import demo, template
from cohortium.study.sections import PARTS
from cohortium.study.study import Study

Tables = dict[str, Any]
Change = Callable[[Mapping[str, Any]], Tables]


@pytest.fixture(scope="module")
def schema() -> Tables:
    return Study.json_schema()


@pytest.fixture(scope="module")
def validator(schema: Tables) -> Draft202012Validator:
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def settings(node: object) -> Iterator[Tables]:
    if isinstance(node, dict):
        yield from node.get("properties", {}).values()
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from settings(item)


def test_every_kind_of_every_table_is_an_alternative(schema: Tables) -> None:
    for part in PARTS:
        alternatives = schema["$defs"][part.registry.table.replace(" ", "-")]["anyOf"]
        tables = [table for table in alternatives if "properties" in table]
        kinds = [table["properties"]["kind"]["const"] for table in tables]
        assert kinds == list(part.registry)


def test_every_setting_is_described(schema: Tables) -> None:
    described = [s for s in settings(schema) if "const" not in s]
    assert len(described) > 60
    for setting in described:
        named = schema["$defs"].get(setting.get("$ref", "").removeprefix("#/$defs/"), {})
        assert setting.get("description") or named.get("description"), setting


def test_every_reference_leads_somewhere(schema: Tables) -> None:
    text = str(schema)
    assert "x-part-of" not in text
    for name in schema["$defs"]:
        assert f"'#/$defs/{name}'" in text


def test_it_accepts_what_the_study_accepts(validator: Draft202012Validator) -> None:
    for tables in (tomllib.loads(template()), demo().study.canonical()):
        assert list(validator.iter_errors(tables)) == []


@pytest.mark.parametrize(
    "bad",
    [
        {"plan.rouds": 3},
        {"plan.rounds": "3"},
        {"plan.topology": "strr"},
        {"plan.topology": {"kind": "gossip", "x": 1}},
        {"plan.topology": {"kind": "hybrid", "outer": "strr", "groups": []}},
        {"task.optimizer": "sgd"},
        {"task.optimizer": {"lr": 1}},
        {"task.metrics": ["aurok"]},
        {"study.name": "A b"},
    ],
    ids=str,
)
def test_it_refuses_what_is_malformed(
    validator: Draft202012Validator, changed: Change, bad: Tables
) -> None:
    assert not validator.is_valid(changed(bad))

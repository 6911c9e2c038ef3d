from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from cohortium.governance.acceptance import Verdict
from cohortium.runtime.result import Result
from cohortium.study.arms import ARMS

from .conftest import MakeResult

SCHEMA: dict[str, Any] = json.loads(
    files("cohortium.runtime").joinpath("result.schema.json").read_text("utf-8")
)


MET = Verdict("global auroc at least 0.8", "auroc", "global", 0.8, 0.9, met=True)


def refusals(found: object) -> list[str]:
    return [error.message for error in Draft202012Validator(SCHEMA).iter_errors(found)]


def plain(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(result.to_json()))
    return found


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_a_real_comparison_fits(compared: Result) -> None:
    assert refusals(plain(compared)) == []


def test_results_of_every_kind_fit(make_result: MakeResult, troubled: Result) -> None:
    for result in (
        troubled,
        make_result(["only"], arms=("federated",), rounds=0),
        make_result(arms=(), participation=()),
        make_result(arms=tuple(ARMS), metrics=("validation/auroc", "auroc", "loss")),
    ):
        assert refusals(plain(result)) == []


OPEN = {"sites", "arms", "metrics", "per_site", "members", "bytes", "environment", "idle"}
"""Objects whose keys are names."""

OPTIONAL = {"members", "disagreement", "idle"}


@pytest.fixture(scope="module")
def small(make_result: MakeResult) -> dict[str, Any]:
    """A result with one of everything."""
    made = make_result(
        ["a"], arms=("federated", "single"), metrics=("auroc",), rounds=1, acceptance=(MET,)
    )
    federated = replace(made.arms["federated"], disagreement=0.1, idle={"a": 0.25})
    arms = {**made.arms, "federated": federated}
    return plain(replace(made, arms=arms))


def closed(found: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of the objects whose keys the schema lists."""
    if isinstance(found, list):
        return [p for i, value in enumerate(found) for p in closed(value, (*path, i))]
    if not isinstance(found, dict):
        return []
    named = path[-1:] and (path[-1] in OPEN or path[-2:-1] == ("members",))
    here = [] if named or path == ("timing", "arms") else [path]
    return here + [p for key, value in found.items() for p in closed(value, (*path, key))]


def at(found: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        found = found[key]
    return found


def test_no_closed_object_takes_another_key(small: dict[str, Any]) -> None:
    paths = closed(small)
    assert len(paths) > 10
    for path in paths:
        found = deepcopy(small)
        at(found, path)["surplus"] = 1
        assert refusals(found), path


def test_no_key_may_be_missing(small: dict[str, Any]) -> None:
    for path in closed(small):
        for key in at(small, path):
            found = deepcopy(small)
            del at(found, path)[key]
            assert bool(refusals(found)) == (key not in OPTIONAL), (path, key)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema_version",), 2),
        (("digest",), "AB" * 32),
        (("seed",), -1),
        (("sites", "hospital-01"), 1.5),
        (("arms", "mine"), {"title": "x", "metrics": {}, "rounds": []}),
        (("arms", "federated", "idle"), {"hospital-01": 1.5}),
        (("participation", 0, "status"), "late"),
        (("acceptance", 0, "scope"), "everywhere"),
        (("acceptance", 0, "met"), None),
        (("timing", "seconds"), "1"),
        (("environment", "python"), 3),
    ],
)
def test_wrong_values_are_refused(troubled: Result, path: tuple[Any, ...], value: object) -> None:
    found = plain(troubled)
    at(found, path[:-1])[path[-1]] = value
    assert refusals(found)


def test_every_key_is_described() -> None:
    def undescribed(schema: Any, name: str) -> list[str]:
        own = schema.get("properties", {})
        missing = [
            f"{name}.{key}"
            for key, value in own.items()
            if "description" not in value and "$ref" not in value
        ]
        return missing + [m for k, v in own.items() for m in undescribed(v, f"{name}.{k}")]

    found = undescribed(SCHEMA, "")
    for name, schema in SCHEMA["$defs"].items():
        found += undescribed(schema, name)
    assert found == []

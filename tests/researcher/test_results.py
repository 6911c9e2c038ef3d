"""A run across hospitals ends in the result that a simulation of it ends in."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from cohortium.errors import BelowQuorumError, DivergedError
from cohortium.plan.plan import Note, State
from cohortium.researcher.results import environment_of, result_of
from cohortium.runtime.result import Result
from cohortium.types import SiteId

from .conftest import ROWS, Ran, Run

SCHEMA = json.loads(
    files("cohortium.runtime").joinpath("result.schema.json").read_text(encoding="utf-8")
)
EVERYONE = ('evaluation_only = ["west"]\n', "")


def plain(result: Result) -> dict[str, Any]:
    """Return a result without what belongs to the machines that it was reached on."""
    table: dict[str, Any] = json.loads(json.dumps(result.to_json()))
    for key in ("engine", "environment", "timing"):
        del table[key]
    for arm in table["arms"].values():
        arm.pop("idle", None)
    return table


def fetched(ran: Ran) -> Result:
    return result_of(ran.run, ran.logs, ran.models)


@pytest.mark.parametrize(
    "changes",
    [
        (),
        (EVERYONE, ("[plan]\n", '[plan]\ntopology = "gossip"\n')),
        (EVERYONE, ("[plan]\n", '[plan]\ntopology = "cyclic"\n')),
    ],
    ids=["star", "gossip", "cyclic"],
)
def test_it_is_what_the_simulation_gave(ran: Run, changes: tuple[tuple[str, str], ...]) -> None:
    found = fetched(ran(*changes))
    assert plain(found) == plain(ran(*changes).result)
    assert found.model.digest == ran(*changes).result.model.digest
    assert not list(Draft202012Validator(SCHEMA).iter_errors(found.to_json()))


def test_it_says_what_carried_it_out_and_who_waited(ran: Run) -> None:
    found = fetched(ran())
    assert found.engine == "network"
    assert found.seconds == pytest.approx(sum(log.seconds for log in ran().logs))
    assert found.arms["federated"].idle == pytest.approx(dict.fromkeys(ROWS, 0.25))


def test_versions_are_those_of_the_sites(ran: Run) -> None:
    assert environment_of(ran().run.roster) == {"python": "3.11; 3.12", "system": "linux"}


@pytest.mark.parametrize(
    ("reason", "error"),
    [("nothing came", BelowQuorumError), ("an array is not finite", DivergedError)],
)
def test_a_run_that_stopped_says_why(
    ran: Run, reason: str, error: type[BelowQuorumError | DivergedError]
) -> None:
    stopped = replace(
        State(ran().run.plan.study),
        status="stopped",
        reason="round 1: 1 of 2 needed sites",
        notes=(Note(SiteId("south"), "absent", reason),),
    )
    logs = (replace(ran().logs[0], state=stopped, evaluation=None),)
    with pytest.raises(error, match=f"round 1.*south absent .{reason}"):
        result_of(ran().run, logs, {})

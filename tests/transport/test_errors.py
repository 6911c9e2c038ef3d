"""A refusal arrives at the other end as the error that it was."""

from __future__ import annotations

import json

import pytest

from cohortium.errors import InvalidInputError, Problem
from cohortium.transport.errors import (
    ClockError,
    ConflictError,
    ProtocolError,
    RequestError,
    StorageFullError,
    UnauthorisedError,
    UnavailableError,
    UnreachableError,
    refusal,
    refusal_body,
)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ClockError("12:00", "12:09", "Set it."), 401),
        (ConflictError("another process", "one"), 409),
        (ProtocolError("version 2", "version 1"), 426),
        (StorageFullError("no room", "some"), 507),
    ],
)
def test_a_refusal_keeps_its_class_and_its_words(error: RequestError, status: int) -> None:
    sent, body = refusal_body(error)
    assert sent == status
    made = refusal("GET /v1/hub", sent, json.loads(json.dumps(body)))
    assert type(made) is type(error)
    assert str(made) == str(error)


def test_what_is_malformed_arrives_as_invalid_input_with_its_key() -> None:
    error = InvalidInputError(Problem("study.toml", "plan.rounds", "-1", "a number from 1"))
    status, body = refusal_body(error)
    made = refusal("POST /v1/studies", status, body)
    assert isinstance(made, InvalidInputError)
    expected = "POST /v1/studies: plan.rounds: got -1; expected a number from 1"
    assert (status, str(made)) == (422, expected)


@pytest.mark.parametrize("body", [None, [], "text", {}, {"error": "news", "got": None}])
def test_a_body_that_is_no_refusals_is_told_by_its_status(body: object) -> None:
    assert type(refusal("GET /", 401, body)) is UnauthorisedError
    assert type(refusal("GET /", 503, body)) is UnavailableError
    assert type(refusal("GET /", 418, body)) is RequestError
    assert "418" in str(refusal("GET /", 418, body))


def test_some_failures_need_somebody_and_others_need_time() -> None:
    assert UnreachableError("certificate", "it is not trusted").lasting
    assert not UnreachableError("refused", "nobody listens").lasting

"""The hub's log: JSON lines that say where, and never what."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest
import structlog

from cohortium.hub.logs import configure_logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    found = io.StringIO()
    configure_logs(found)
    yield found
    structlog.reset_defaults()


def test_a_line_is_an_object_with_what_was_bound(stream: io.StringIO) -> None:
    structlog.get_logger().bind(study="s1").info("run started", run="r1", site="a")

    [line] = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert entry.pop("timestamp").endswith("Z")
    assert entry == {
        "event": "run started", "level": "info", "study": "s1", "run": "r1", "site": "a"
    }  # fmt: skip


def test_an_error_is_told_without_what_variables_held(stream: io.StringIO) -> None:
    def fail(patient: str) -> None:
        if patient:
            raise ValueError("bad")

    try:
        fail("Doe, Jane")
    except ValueError as error:
        structlog.get_logger().error("fault", exc_info=error)

    assert json.loads(stream.getvalue())["exception"][0]["exc_type"] == "ValueError"
    assert "Doe" not in stream.getvalue()

"""The page on result.json names every key and every status of its schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

PAGE = (Path(__file__).parents[2] / "docs/result-schema.md").read_text(encoding="utf-8")
SCHEMA = json.loads(
    files("cohortium.runtime").joinpath("result.schema.json").read_text(encoding="utf-8")
)


def words(schema: Any) -> Iterator[str]:
    """Yield every key and every listed value of a JSON Schema."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        yield from (value for value in schema.get("enum", ()) if isinstance(value, str))
        for inner in schema.values():
            yield from words(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from words(inner)


def test_every_key_and_status_is_explained() -> None:
    found = set(words(SCHEMA))
    assert {"participation", "excluded", "elsewhere", "disagreement", "sent"} <= found
    assert sorted(word for word in found if f"`{word}`" not in PAGE) == []

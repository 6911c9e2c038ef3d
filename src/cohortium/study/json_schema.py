"""The JSON Schema of a study file, for documentation, editors and forms."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from cohortium.part import PartOf
from cohortium.study.sections import PARTS


def spell_out(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a model's JSON Schema with every kind of part that it may name under `$defs`.

    A definition such as `topology` lists its alternatives: the bare name of a kind that needs no
    settings, or a table of its settings.
    """
    definitions = schema.pop("$defs", {})
    for part in PARTS:
        definitions[_slug(part.registry.table)] = _alternatives(part, definitions)
    schema = _referring(schema) | {"$defs": _referring(definitions)}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _alternatives(part: PartOf, definitions: dict[str, Any]) -> dict[str, Any]:
    tables = [_table(part, kind, definitions) for kind in part.registry]
    bare = [table["properties"]["kind"]["const"] for table in tables if len(table["required"]) == 1]
    return {"anyOf": ([{"enum": bare}] if bare else []) + tables}


def _table(part: PartOf, kind: str, definitions: dict[str, Any]) -> dict[str, Any]:
    table = TypeAdapter(part.registry[kind]).json_schema(ref_template="#/$defs/{model}")
    definitions.update(table.pop("$defs", {}))
    table["properties"] = {"kind": {"const": kind}, **table.get("properties", {})}
    table["required"] = ["kind", *table.get("required", [])]
    return table


def _referring(schema: Any) -> Any:
    """Return `schema` with each field that names a part referring to that part's definition."""
    if isinstance(schema, list):
        return [_referring(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: _referring(value) for key, value in schema.items()}
    if table := schema.pop("x-part-of", None):
        schema["$ref"] = f"#/$defs/{_slug(table)}"
    return schema


def _slug(table: str) -> str:
    return table.replace(" ", "-")

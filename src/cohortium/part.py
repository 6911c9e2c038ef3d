"""A part is its own settings: a frozen dataclass whose fields are what a study may write.

`topology = "star"`, `topology = {kind = "star"}` and, in Python, `topology=Star()` are the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
from pydantic import ValidationError as PydanticError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from cohortium.registry import Registry, UnknownKindError

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def part(cls: type[T]) -> type[T]:
    """Make `cls` a part: frozen, keyword-only, strictly typed; unknown fields are refused.

    Constrain fields with `Annotated[float, Field(gt=0, description=...)]`: the description is what
    the study reference prints.
    """
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return pydantic_dataclass(cls, frozen=True, kw_only=True, config=config)  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)  # a type may carry it: hashed by identity, as a table is not
class PartOf:
    """Marks a field, as in `Annotated[Any, PartOf(TOPOLOGIES)]`, whose value is a registered part.

    The part's own class validates its settings; the field serialises to `{"kind": ..., settings}`.
    """

    registry: Registry

    def build(self, value: object) -> object:
        """Return the part that `value` describes: a kind, a table with a `kind`, or a part.

        Raises:
            ValidationError: no such kind, or settings that the kind refuses.
        """
        if self.kind_of(value):
            return value
        if isinstance(value, str):
            return _settings(self._class(value, at=())).validate_json("{}")
        if not isinstance(value, Mapping):
            raise refuse(Refusal((), expected=f"{self._kinds()}, or a table with a `kind`"))
        if not isinstance(value.get("kind"), str):
            got = "" if "kind" in value else "nothing"
            raise refuse(Refusal(("kind",), got=got, expected=self._kinds()))
        settings = {key: setting for key, setting in value.items() if key != "kind"}
        adapter = _settings(self._class(value["kind"], at=("kind",)))
        part: object = adapter.validate_json(json.dumps(settings))
        return part

    def kind_of(self, value: object) -> str | None:
        """Return the kind under which the class of `value` is listed, or None."""
        try:
            return self.registry.kind_of(value)
        except StopIteration:
            return None

    def table(self, value: object) -> dict[str, Any]:
        """Return a part's kind and all its settings, as JSON values."""
        cls: type = type(value)
        settings = _settings(cls).dump_python(value, mode="json")
        return {"kind": self.registry.kind_of(value), **settings}

    def _class(self, kind: str, *, at: tuple[str, ...]) -> type:
        try:
            return self.registry[kind]
        except UnknownKindError as error:
            raise refuse(Refusal(at, expected=self._kinds(), advice=error.advice)) from None
        except ModuleNotFoundError as error:
            got = f"{kind!r}, which needs the Python package {error.name!r}"
            expected = f"a {self.registry.table} that is installed"
            advice = f"Install it: pip install {error.name}"
            raise refuse(Refusal(at, got=got, expected=expected, advice=advice)) from error

    def _kinds(self) -> str:
        return f"one of {', '.join(self.registry)}"

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        serialization = core_schema.plain_serializer_function_ser_schema(self.table)
        return core_schema.no_info_plain_validator_function(self.build, serialization=serialization)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Name the table; `Study.json_schema` spells out its kinds (they may nest themselves)."""
        return {"x-part-of": self.registry.table}


@dataclass(frozen=True)
class Refusal:
    """Why a setting is refused, in the words of a `Problem`.

    Attributes:
        at: the key, relative to what is validated.
        expected: what is accepted.
        got: what was found; empty means the value that stands at `at`.
        advice: what to do.
    """

    at: tuple[str | int, ...]
    expected: str
    got: str = ""
    advice: str = ""


def refuse(*refusals: Refusal) -> PydanticError:
    """Return the error with which a validator refuses; pydantic prefixes the keys above it."""
    lines = [
        InitErrorDetails(
            type=PydanticCustomError(
                "refused", "expected {expected}", {**vars(refusal), "at": None}
            ),
            loc=refusal.at,
            input=None,
        )
        for refusal in refusals
    ]
    return PydanticError.from_exception_data("study", lines)


@cache
def _settings(cls: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(cls)

"""What is wrong with a study, in words for the person who wrote it.

Validation itself is pydantic's; this file turns its findings into `Problem`s: which key, what
stands there, what is accepted, what to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import ValidationError as PydanticError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from cohortium.errors import Problem
from cohortium.part import PartOf
from cohortium.registry import UnknownKindError

Key = tuple[str | int, ...]

_TABLE = "a table"
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
_NOT_A_FINDING = ("default_factory_not_called", "none_required")
"""Consequences of another finding, or the branch of an optional key that nobody meant."""

_EXPECTED: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "int_type": lambda _: "a whole number",
    "int_from_float": lambda _: "a whole number",
    "float_type": lambda _: "a number",
    "finite_number": lambda _: "a finite number",
    "string_type": lambda _: "text in quotes",
    "bool_type": lambda _: "true or false",
    "tuple_type": lambda _: "a list",
    "list_type": lambda _: "a list",
    "dict_type": lambda _: _TABLE,
    "model_type": lambda _: _TABLE,
    "dataclass_type": lambda _: _TABLE,
    "greater_than": lambda c: f"a value above {_number(c['gt'])}",
    "greater_than_equal": lambda c: f"a value of at least {_number(c['ge'])}",
    "less_than": lambda c: f"a value below {_number(c['lt'])}",
    "less_than_equal": lambda c: f"a value of at most {_number(c['le'])}",
    "string_too_short": lambda c: f"text of at least {c['min_length']} characters",
    "string_too_long": lambda c: f"text of at most {c['max_length']} characters",
    "too_short": lambda c: f"a list of at least {c['min_length']} entries",
    "too_long": lambda c: f"a list of at most {c['max_length']} entries",
    "literal_error": lambda c: ("one of " if " or " in c["expected"] else "") + c["expected"],
    "string_pattern_mismatch": lambda c: f"text of the form {c['pattern']}",
}


@dataclass(frozen=True)
class _Place:
    """Where a finding points to.

    Attributes:
        key: the keys that a person wrote, without the names of pydantic's alternatives.
        value: what stands there; None where nothing does.
        known: the keys that the table around it may have.
        description: what the setting means.
        alternative: whether the finding is about one of several accepted types.
    """

    key: Key
    value: object
    known: tuple[str, ...]
    description: str
    alternative: bool


def dotted(key: Key) -> str:
    """Return a key as one writes it, places in a list counting from 0.

    >>> dotted(("data", "features", 0, "name"))
    'data.features[0].name'
    """
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return text.removeprefix(".")


def describe(value: object) -> str:
    """Return what a person sees at a key: a short value as it is, a longer one by its nature.

    >>> describe("mean"), describe(True), describe([1, 2]), describe(None)
    ("'mean'", 'true', 'a list of 2', 'nothing')
    """
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return _shortened(value)
    if isinstance(value, Mapping):
        return _TABLE
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return f"a value of type {type(value).__name__}"


def explain(
    error: PydanticError, *, data: Mapping[str, Any], root: type, where: str
) -> tuple[Problem, ...]:
    """Return everything that validation found, one problem per key.

    Args:
        error: what validating `data` as `root` raised.
        data: the plain tables that were validated.
        root: the model class.
        where: the file, for messages.
    """
    findings = [e for e in error.errors(include_url=False) if e["type"] not in _NOT_A_FINDING]
    placed = [(finding, _place(finding, data, root)) for finding in findings]
    problems: dict[Key, Problem] = {}
    for finding, place in placed:
        if place.alternative and _is_inside(place, placed):
            continue
        if finding["type"] == "too_short" and _is_long_enough(finding, place):
            continue
        problem = _problem(finding, place, where)
        earlier = problems.get(place.key)
        problems[place.key] = _either(earlier, problem) if earlier else problem
    return tuple(problems.values())


def _is_inside(place: _Place, placed: Iterable[tuple[ErrorDetails, _Place]]) -> bool:
    """Tell whether another alternative came further: then that one was meant."""
    depth = len(place.key)
    return any(
        other.alternative and len(other.key) > depth and other.key[:depth] == place.key
        for _, other in placed
    )


def _is_long_enough(finding: ErrorDetails, place: _Place) -> bool:
    """Tell whether a list is short only because wrong entries of it were not counted."""
    return isinstance(place.value, list) and len(place.value) >= finding["ctx"]["min_length"]


def _either(first: Problem, second: Problem) -> Problem:
    options = dict.fromkeys([*first.expected.split(" or "), second.expected])
    if "a number" in options:
        options.pop("a whole number", None)
    expected = " or ".join(options)
    return Problem(first.where, first.key, first.got, expected, first.advice or second.advice)


def _problem(finding: ErrorDetails, place: _Place, where: str) -> Problem:
    kind, context = finding["type"], finding.get("ctx", {})
    got, expected, advice = describe(place.value), "", ""
    if kind == "refused":
        got, expected, advice = context["got"] or got, context["expected"], context["advice"]
    elif kind == "missing":
        got, expected = (
            "nothing",
            f"a value: {place.description}" if place.description else "a value",
        )
    elif kind in _UNKNOWN_KEY:
        got, expected = "an unknown key", f"one of {', '.join(place.known)}"
        advice = _nearest(str(place.key[-1]), place.known)
    elif kind == "value_error":
        got, expected = f"a conflict: {context['error']}", "settings that fit together"
    elif kind in _EXPECTED:
        expected = _EXPECTED[kind](context)
        advice = _advice(kind, context, place)
    else:
        expected = finding["msg"].removeprefix("Input should be ")
    return Problem(where, dotted(place.key), got, expected, advice)


def _advice(kind: str, context: Mapping[str, Any], place: _Place) -> str:
    if kind == "literal_error":
        return _nearest(str(place.value), re.findall(r"'([^']*)'", context["expected"]))
    return place.description if kind == "string_pattern_mismatch" else ""


def _nearest(word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word[:100], list(known), n=1)
    return f"Did you mean {near[0]!r}?" if near else ""


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shortened(value: str | float) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:40]}… ({len(text)} characters)"


def _place(finding: ErrorDetails, data: Mapping[str, Any], root: type) -> _Place:
    """Follow a finding's keys through the data and, beside it, through the models.

    Pydantic puts the names of alternatives ("int", "tuple[...]") between the keys; what is not in
    the data is one of those, unless it is what the finding says is missing.
    """
    must_exist = finding["type"] not in ("missing", "refused")
    key: list[str | int] = []
    value: Any = data
    kind: Any = root
    known: dict[str, FieldInfo | None] = {}
    description, alternative = "", False
    for part in finding["loc"]:
        there = _holds(value, part)
        if must_exist and not there:
            alternative = True
            continue
        if isinstance(part, str):
            known = _fields(kind, value)
            field = known.get(part)
            kind, description = field or object, (field and field.description) or ""
        key.append(part)
        value = value[part] if there else None
    return _Place(tuple(key), value, tuple(known), description, alternative)


def _holds(value: object, part: str | int) -> bool:
    if isinstance(part, int):
        return isinstance(value, list) and part < len(value)
    return isinstance(value, Mapping) and part in value


def _fields(kind: Any, value: object) -> dict[str, FieldInfo | None]:
    """Return the keys of the table that `kind` (a model, part, field or type) describes."""
    if isinstance(kind, FieldInfo):
        marks, kind = kind.metadata, kind.annotation
    else:
        marks = getattr(kind, "__metadata__", [])
    for mark in marks:
        if isinstance(mark, PartOf):
            return _part_fields(mark, value)
    for attribute in ("model_fields", "__pydantic_fields__"):
        if isinstance(kind, type) and hasattr(kind, attribute):
            return dict(getattr(kind, attribute))
    inner = (_fields(argument, value) for argument in get_args(kind))
    return next((fields for fields in inner if fields), {})


def _part_fields(part: PartOf, value: object) -> dict[str, FieldInfo | None]:
    kind = value.get("kind") if isinstance(value, Mapping) else value
    try:
        fields = _fields(part.registry[str(kind)], value)
    except (UnknownKindError, ModuleNotFoundError):
        fields = {}
    return {"kind": None, **fields}

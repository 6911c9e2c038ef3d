"""A study in Python's hands as the plain tables, lists and values that a file could hold.

Everything is validated in this one form, so that TOML and Python obey the same rules.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel

from cohortium.errors import Problem, StudyError
from cohortium.study.problems import Key, describe, dotted
from cohortium.study.sections import PARTS

DEPTH = 32
"""More levels of tables and lists than any study needs."""


def plain(value: object, *, where: str) -> dict[str, Any]:
    """Return the study `value` as JSON values, every table sorted by key.

    Sorted, because the digest does not see the order of keys: nothing that runs may see it either.

    Args:
        value: a table of sections; parts and sections may be Python objects.
        where: the file, for messages.

    Raises:
        StudyError: a value that no study can hold, such as a date, NaN or an array.
    """
    if not isinstance(value, Mapping):
        raise StudyError(Problem(where, "", describe(value), "a table of sections"))
    problems: list[Problem] = []
    tree: dict[str, Any] = _plain(value, (), problems, where=where)
    if problems:
        raise StudyError(*problems)
    return tree


def _plain(value: object, at: Key, problems: list[Problem], *, where: str) -> Any:
    value = _table(value)
    if len(at) > DEPTH:
        expected = f"at most {DEPTH} levels of tables and lists"
        problems.append(Problem(where, dotted(at[:3]), "a deeper nesting", expected))
        return None
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        for key in value:
            _check_text(key, (*at, key), problems, where=where)
        return {k: _plain(value[k], (*at, k), problems, where=where) for k in sorted(value)}
    if isinstance(value, list | tuple):
        return [_plain(v, (*at, i), problems, where=where) for i, v in enumerate(value)]
    if isinstance(value, str):
        _check_text(value, at, problems, where=where)
    if not _is_json(value):
        expected = "text, a finite number, true or false, a list or a table"
        problems.append(Problem(where, dotted(at), describe(value), expected))
    return value


_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Controls of terminals and of the direction of writing, and halves of characters: with them, what
people read before they approve a study could say something else than what they sign."""


def _check_text(text: str, at: Key, problems: list[Problem], *, where: str) -> None:
    shown = re.sub(r"[\n\t]", " ", text) if at == ("study", "purpose") else text
    if found := _HIDDEN.search(shown):
        got, expected = f"text with {found[0]!a}", "text that shows as it is"
        problems.append(Problem(where, dotted(at), got, expected, "Leave that character out"))


def _table(value: object) -> object:
    """Return a part, a section or a schema as a table, anything else as it is."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    settings = {field.name: getattr(value, field.name) for field in fields(value)}
    kinds = [kind for part in PARTS if (kind := part.kind_of(value))]
    return {"kind": kinds[0], **settings} if kinds else settings


def _is_json(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int)

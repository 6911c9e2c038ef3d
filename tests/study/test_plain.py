from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pytest

from cohortium.errors import StudyError
from cohortium.learning.optimizers import Adam
from cohortium.study.plain import DEPTH, plain


def test_tables_are_sorted_at_every_level() -> None:
    tree = plain({"b": 1, "a": [{"d": 1, "c": 2}]}, where="x")
    assert list(tree) == ["a", "b"]
    assert list(tree["a"][0]) == ["c", "d"]


def test_parts_become_tables() -> None:
    assert plain({"optimizer": Adam(lr=0.5)}, where="x")["optimizer"]["kind"] == "adam"


@pytest.mark.parametrize(
    "value",
    [
        datetime.date(2026, 1, 1),
        datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        datetime.time(1),
        float("nan"),
        float("-inf"),
        {1: 2},
        {"a", "b"},
        b"bytes",
        np.float32(1),
        np.zeros(3),
        object(),
        Adam,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_no_file_could_hold_is_refused_with_its_key(value: object) -> None:
    with pytest.raises(StudyError, match=r"^x: a\.b\[1\]: got .*; expected text, a finite number"):
        plain({"a": {"b": [1, value]}}, where="x")


@pytest.mark.parametrize(
    "sign", ["\0", "\x1b[8m", "\x9b2J", "\u202e", "\u2067", "\u2028", "\ud800"]
)
def test_text_that_shows_as_something_else_is_refused(sign: str) -> None:
    for tree in (
        {"study": {"purpose": f"To{sign} help."}},
        {"task": {"model": {"file": f"m{sign}.py"}}},
        {"plan": {"hosts": {f"@a{sign}": "b"}}},
    ):
        with pytest.raises(StudyError, match="text that shows as it is"):
            plain(tree, where="x")


def test_only_a_purpose_has_several_lines() -> None:
    text = "Für alle,\n\tüberall: 每个人 کتابخانه‌"
    assert plain({"study": {"purpose": text}}, where="x") == {"study": {"purpose": text}}
    with pytest.raises(StudyError, match=r"task\.model\.file: got text with '\\n'"):
        plain({"task": {"model": {"file": "m\n.py"}}}, where="x")


def test_an_endless_nesting_is_refused() -> None:
    tree: dict[str, Any] = {}
    for _ in range(DEPTH + 1):
        tree = {"a": tree}
    with pytest.raises(StudyError, match="deeper nesting"):
        plain(tree, where="x")
    assert plain(tree["a"], where="x")


def test_a_nesting_that_contains_itself_is_refused() -> None:
    tree: dict[str, Any] = {}
    tree["a"] = tree
    with pytest.raises(StudyError, match="deeper nesting"):
        plain(tree, where="x")

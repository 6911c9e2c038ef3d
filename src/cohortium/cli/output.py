"""How verbs speak: tables, notes and JSON on standard output."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from cohortium.cli.boundary import printable

WIDE = 160
"""Columns of output that no person's terminal bounds, such as that into a pipe."""

FEW = 4
"""Names that are listed in a line."""


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that takes text as it is: names may hold what looks like markup."""
    made = Console(stderr=stderr, markup=False, highlight=False, soft_wrap=True)
    if not made.is_terminal:
        made.width = max(made.width, WIDE)
    return made


console = make_console()


def print_json(found: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print JSON values for programs."""
    text = json.dumps(found, allow_nan=False, default=list)
    console.print_json(text, ensure_ascii=True)


def print_notes(notes: Sequence[str]) -> None:
    """Print what a reader should know, a line each."""
    for note in notes:
        console.print(Text.assemble(("note ", "yellow"), printable(note)))


def few(names: Sequence[str]) -> str:
    """Return names in a line, of many the first and the last."""
    if len(names) <= FEW:
        return ", ".join(names)
    return f"{', '.join(names[: FEW - 1])}, … {names[-1]} ({len(names)} in all)"


def shape_told(shape: Sequence[int]) -> str:
    """Return an array's shape for people.

    >>> shape_told([3, 2]), shape_told([])
    ('3 x 2', '1')
    """
    return " x ".join(map(str, shape)) or "1"

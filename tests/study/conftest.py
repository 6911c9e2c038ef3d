"""A small study that is valid, and what changes one setting of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest

Tables = dict[str, Any]
Change = Callable[[Mapping[str, Any]], Tables]

REMOVED = "<removed>"

SMALL: Tables = {
    "study": {"name": "small", "purpose": "Show how it works."},
    "task": {
        "kind": "binary-classification",
        "model": "linear",
        "optimizer": {"kind": "sgd", "lr": 0.1},
    },
    "data": {
        "dataset": "breast-cancer",
        "target": "malignant",
        "features": [{"name": "age", "range": [0, 120]}],
    },
    "plan": {"rounds": 3, "local": {"epochs": 1}},
}


@pytest.fixture
def small() -> Tables:
    """A valid study as tables, to change at will."""
    return copy.deepcopy(SMALL)


@pytest.fixture
def changed() -> Change:
    """A function that returns the small study's tables with some dotted keys set or removed."""

    def change(settings: Mapping[str, Any]) -> Tables:
        tables: Tables = copy.deepcopy(SMALL)
        for key, value in settings.items():
            *above, last = key.split(".")
            table = tables
            for name in above:
                table = table.setdefault(name, {})
            if value == REMOVED:
                del table[last]
            else:
                table[last] = value
        return tables

    return change

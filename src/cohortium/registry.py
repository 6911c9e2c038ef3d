"""Tables of parts: from a kind's name to the class that implements it, imported when it is used.

A part is its own settings: a frozen pydantic dataclass whose fields are what a study may write.
Third parties add a part through a package entry point in the table's group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points


class UnknownKindError(KeyError):
    """A kind that the table does not list. `advice` names the nearest one that it does."""

    def __init__(self, table: str, kind: str, known: list[str]) -> None:
        near = get_close_matches(kind, known, n=1)
        self.table, self.kind, self.known = table, kind, known
        self.advice = f"Did you mean {near[0]!r}?" if near else ""
        super().__init__(kind)

    def __str__(self) -> str:
        text = f"unknown {self.table} {self.kind!r}; known: {', '.join(self.known)}"
        return f"{text}. {self.advice}" if self.advice else text


class Registry(Mapping[str, type]):
    """A lazy table of kinds.

    Args:
        table: what one of its kinds is called in messages, such as "aggregation rule".
        group: the entry-point group through which other packages add kinds.
        builtin: kind to "module:class", such as `{"mean": "cohortium.aggregation.mean:Mean"}`.
    """

    def __init__(self, table: str, *, group: str, builtin: Mapping[str, str]) -> None:
        self.table, self.group, self._builtin = table, group, dict(builtin)

    @cached_property
    def _targets(self) -> dict[str, str]:
        found = {entry.name: entry.value for entry in entry_points(group=self.group)}
        return found | self._builtin  # a package cannot replace a built-in kind

    def __getitem__(self, kind: str) -> type:
        """Return the class of `kind`, importing its module.

        Raises:
            UnknownKindError: the table lists no such kind.
        """
        if kind not in self._targets:
            raise UnknownKindError(self.table, kind, sorted(self._targets))
        module, _, name = self._targets[kind].partition(":")
        part: type = getattr(import_module(module), name)
        return part

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._targets))

    def __len__(self) -> int:
        return len(self._targets)

    def kind_of(self, part: object) -> str:
        """Return the kind under which the class of `part` is listed."""
        target = f"{type(part).__module__}:{type(part).__qualname__}"
        return next(kind for kind, value in self._targets.items() if value == target)

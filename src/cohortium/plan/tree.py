"""Tree: regions reduce their sites' updates, and a root reduces the regions (hierarchical)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from cohortium.part import part
from cohortium.plan.star import Star
from cohortium.plan.topology import (
    AGGREGATOR,
    GROUP_NAME,
    Draft,
    Element,
    Group,
    Holder,
    Site,
)
from cohortium.types import PartyId, SiteId


@part
class Tree:
    """Stars inside a star, to any depth: by named regions, or by splitting the roster evenly."""

    closer: ClassVar[PartyId] = AGGREGATOR
    one_model: ClassVar[bool] = True

    groups: Annotated[
        dict[str, Any],
        Field(description="Regions by name, each a list of sites or again a table of regions."),
    ] = Field(default_factory=dict)
    branching: Annotated[
        int | None,
        Field(
            ge=2, description="Without `groups`: how many members a region has, in roster order."
        ),
    ] = None

    @model_validator(mode="after")
    def _check(self) -> Tree:
        if bool(self.groups) == (self.branching is not None):
            raise ValueError("a tree needs either `groups` or `branching`")
        named = list(_sites_of(self.groups))
        if len(set(named)) != len(named):
            raise ValueError("a site stands in two groups")
        return self

    def arrange(self, sites: Sequence[SiteId]) -> Sequence[Element]:
        """Group this round's sites; regions without any of them are left out."""
        if self.branching is not None:
            return _split([Site(site) for site in sites], self.branching)
        missing = set(sites) - set(_sites_of(self.groups))
        if missing:
            raise ValueError(f"no group names the sites {', '.join(sorted(missing))}")
        return _nest(self.groups, set(sites))

    def lay(
        self, draft: Draft, elements: Sequence[Element], *, name: str, start: str | None
    ) -> tuple[Holder, ...]:
        """Reduce the regions as a star does."""
        return Star().lay(draft, elements, name=name, start=start)


def _sites_of(groups: Mapping[str, Any]) -> list[SiteId]:
    found: list[SiteId] = []
    for name, below in groups.items():
        if not GROUP_NAME.fullmatch(name):
            raise ValueError(f"the group name {name!r} is not letters, digits, '.', '_', '-', ' '")
        if isinstance(below, Mapping):
            found += _sites_of(below)
        elif isinstance(below, list | tuple) and all(isinstance(site, str) for site in below):
            found += [SiteId(site) for site in below]
        else:
            raise ValueError(f"group {name!r} is neither a list of sites nor a table of groups")
    return found


def _nest(groups: Mapping[str, Any], sites: set[SiteId]) -> list[Element]:
    elements: list[Element] = []
    for name, below in groups.items():
        inner: list[Element]
        if isinstance(below, Mapping):
            inner = _nest(below, sites)
        else:
            inner = [Site(SiteId(site)) for site in below if site in sites]
        if inner:
            elements.append(Group(name, Star(), tuple(inner)))
    return elements


def _split(elements: list[Element], branching: int, *, level: int = 1) -> list[Element]:
    if len(elements) <= branching:
        return elements
    groups: list[Element] = [
        Group(f"{level}-{i // branching}", Star(), tuple(elements[i : i + branching]))
        for i in range(0, len(elements), branching)
    ]
    return _split(groups, branching, level=level + 1)

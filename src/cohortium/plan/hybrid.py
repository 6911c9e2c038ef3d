"""Hybrid: sub-federations of one kind inside another, such as a gossip ring of stars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator

from cohortium.part import PartOf, part
from cohortium.plan.topology import GROUP_NAME, TOPOLOGIES, Draft, Element, Group, Holder, Topology
from cohortium.types import PartyId, SiteId

AnyTopology = Annotated[Any, PartOf(TOPOLOGIES)]


@part
class SubFederation:
    """One group of a hybrid."""

    name: Annotated[
        str, Field(pattern=f"^{GROUP_NAME.pattern}$", description="Unique in the hybrid.")
    ]
    topology: Annotated[AnyTopology, Field(description="How the group's sites are connected.")]
    sites: Annotated[
        tuple[str, ...], Field(strict=False, min_length=1, description="Its member sites.")
    ]


@part
class Hybrid:
    """Groups with a topology each, joined by an outer one."""

    outer: Annotated[AnyTopology, Field(description="How the groups are connected.")]
    groups: Annotated[
        tuple[SubFederation, ...],
        Field(strict=False, min_length=1, description="The sub-federations."),
    ]

    @model_validator(mode="after")
    def _check(self) -> Hybrid:
        names = [group.name for group in self.groups]
        if len(set(names)) != len(names):
            raise ValueError("two groups share a name")
        sites = [site for group in self.groups for site in group.sites]
        if len(set(sites)) != len(sites):
            raise ValueError("a site stands in two groups")
        outer = TOPOLOGIES.kind_of(self.outer)
        if outer in ("tree", "hybrid"):  # they would arrange sites, and here are groups
            raise ValueError(
                f"`outer` is a {outer}; for more levels, give a group the topology hybrid instead"
            )
        return self

    @property
    def closer(self) -> PartyId:
        """The outer topology's."""
        closer: PartyId = self.outer.closer
        return closer

    @property
    def one_model(self) -> bool:
        """Whether the outer topology ends with one model."""
        return bool(self.outer.one_model)

    def arrange(self, sites: Sequence[SiteId]) -> Sequence[Element]:
        """Group this round's sites; groups without any of them are left out."""
        missing = set(sites) - {SiteId(site) for group in self.groups for site in group.sites}
        if missing:
            raise ValueError(f"no group names the sites {', '.join(sorted(missing))}")
        present = set(sites)
        elements: list[Element] = []
        for group in self.groups:
            inner = [SiteId(site) for site in group.sites if site in present]
            if inner:
                topology: Topology = group.topology
                elements.append(Group(group.name, topology, tuple(topology.arrange(inner))))
        outer: Topology = self.outer
        outer.arrange([SiteId(element.name) for element in elements])
        return elements

    def lay(
        self, draft: Draft, elements: Sequence[Element], *, name: str, start: str | None
    ) -> tuple[Holder, ...]:
        """Join the groups as the outer topology joins elements."""
        outer: Topology = self.outer
        return outer.lay(draft, elements, name=name, start=start)

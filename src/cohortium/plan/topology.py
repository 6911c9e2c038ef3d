"""How the members of a federation are connected, and the table of all topologies.

Every topology is built from elements: a site that trains, or a whole sub-federation. An element
starts from a model and ends in a *holder*: the party that has the element's model, and the step
that produced it. A tree is stars inside a star; a hybrid is any of them inside any other.

To add one: a file beside this one, and a line in `TOPOLOGIES`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from cohortium.plan.step import Op, Step
from cohortium.registry import Registry
from cohortium.types import PartyId, SiteId, derive_rng

AGGREGATOR = PartyId("@aggregator")
CLERK = PartyId("@clerk")
"""A party that sees votes and metrics only, never a model."""

GROUP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")

TRANSFER = 0.25
"""Slack for handing a value on, as a share of the study's deadline."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A party that has a model after some steps.

    Attributes:
        party: who holds it.
        step: the step whose value it is.
        sites: the sites that are served with it.
        scale: factor that turns the value's weight into the element's total weight.
    """

    party: PartyId
    step: str
    sites: tuple[SiteId, ...]
    scale: float = 1.0


@dataclass
class Draft:
    """The steps of a round while a topology lays them out.

    Attributes:
        seed: the study's, for orders and graphs.
        round: counting from 1.
        deadline: seconds that a site has for one step.
        quorum: how many sites must be in a consensus.
        rows: training rows that each site declared.
        steps: what has been laid out.
        path: names of the groups that are being laid out, from the outermost.
    """

    seed: int
    round: int
    deadline: float
    quorum: int
    rows: Mapping[SiteId, int]
    steps: list[Step] = field(default_factory=list)
    path: tuple[str, ...] = ()
    _settles: dict[str, float] = field(default_factory=dict)
    _covers: dict[str, tuple[SiteId, ...]] = field(default_factory=dict)

    def add(
        self,
        step_id: str,
        party: PartyId,
        op: Op,
        *,
        inputs: tuple[str, ...] = (),
        gathers: tuple[str, ...] = (),
        needs: int = 0,
        weights: tuple[float, ...] = (),
        scales: tuple[float, ...] = (),
        covers: tuple[SiteId, ...] = (),
        slot: str | None = None,
        to: tuple[PartyId, ...] = (),
    ) -> str:
        """Add a step; its deadline covers the slowest path that leads to it. Return its id."""
        sources = [self._settles[s] for s in inputs + gathers]
        due = max(sources, default=0.0) + TRANSFER
        work = 1.0 if op in ("train", "evaluate") else 0.0
        self._settles[step_id] = due + work
        if not covers:
            covers = self._union(inputs + gathers)
        self._covers[step_id] = covers
        ready = max((self._settles[s] for s in inputs), default=0.0)
        deadline = (due - ready) * self.deadline if gathers else None
        self.steps.append(
            Step(
                step_id,
                party,
                op,
                inputs=inputs,
                gathers=gathers,
                needs=needs,
                weights=weights,
                scales=scales,
                deadline=deadline,
                covers=covers,
                slot=slot,
                to=to,
            )
        )
        return step_id

    @contextmanager
    def inside(self, group: str) -> Iterator[str]:
        """Lay out a group within those that are being laid out; yield its full name."""
        before = self.path
        self.path = (*before, group)
        yield "/".join(self.path)
        self.path = before

    def covers(self, step_id: str) -> tuple[SiteId, ...]:
        """Return the sites whose records may be in a step's value."""
        return self._covers[step_id]

    def rows_of(self, sites: Iterable[SiteId]) -> int:
        """Return the training rows that these sites declared together."""
        return sum(self.rows[site] for site in sites)

    def _union(self, sources: Iterable[str]) -> tuple[SiteId, ...]:
        parts = [self._covers[s] for s in sources]
        if len(parts) == 1 or all(part is parts[0] for part in parts[1:]):
            return parts[0] if parts else ()
        return tuple(dict.fromkeys(site for part in parts for site in part))


class Element(Protocol):
    """Something that takes a model and ends with one: a site, or a sub-federation."""

    @property
    def name(self) -> str: ...

    @property
    def sites(self) -> tuple[SiteId, ...]: ...

    def only(self, sites: Set[SiteId]) -> Element | None:
        """Return the element with no other sites than these; None where none is left."""

    def lay(self, draft: Draft, start: str | None) -> Holder:
        """Add the element's steps. `start` is the step whose value it trains from; None means the
        consensus model of the round before, which every party holds.
        """


@dataclass(frozen=True, slots=True)
class Site:
    """An element that is one site."""

    name: SiteId

    @property
    def sites(self) -> tuple[SiteId, ...]:
        """Itself."""
        return (self.name,)

    def only(self, sites: Set[SiteId]) -> Site | None:
        """Itself, if it is among `sites`."""
        return self if self.name in sites else None

    def lay(self, draft: Draft, start: str | None) -> Holder:
        """Train once."""
        inputs = () if start is None else (start,)
        before = draft.covers(start) if start is not None else ()
        covers = (*before, self.name) if before else (self.name,)
        step = draft.add(
            f"train/{self.name}",
            PartyId(self.name),
            "train",
            inputs=inputs,
            covers=covers,
            slot="batches",
        )
        return Holder(PartyId(self.name), step, (self.name,))


class Topology(Protocol):
    """Lays out how elements become one model, or one model per group.

    Attributes:
        closer: the party that closes a round when this topology is outermost.
        one_model: whether all members end with the same model.
    """

    @property
    def closer(self) -> PartyId: ...

    @property
    def one_model(self) -> bool: ...

    def arrange(self, sites: Sequence[SiteId]) -> Sequence[Element]:
        """Group the sites that train into the elements of `lay`.

        Raises:
            ValueError: the settings do not fit these sites; the text says what to change.
        """

    def lay(
        self, draft: Draft, elements: Sequence[Element], *, name: str, start: str | None
    ) -> tuple[Holder, ...]:
        """Add the steps that join `elements`. `name` is the group's, empty for the outermost."""


@dataclass(frozen=True, slots=True)
class Group:
    """An element that is a sub-federation."""

    name: str
    topology: Topology
    elements: tuple[Element, ...]

    @property
    def sites(self) -> tuple[SiteId, ...]:
        """All sites below it."""
        return tuple(site for element in self.elements for site in element.sites)

    def only(self, sites: Set[SiteId]) -> Group | None:
        """The group without the others; a site stays in its group, whoever else is there."""
        kept = tuple(e for e in (element.only(sites) for element in self.elements) if e is not None)
        return replace(self, elements=kept) if kept else None

    def lay(self, draft: Draft, start: str | None) -> Holder:
        """Lay out the group; where its members end with a model each, the first one reduces them.

        The weights that peers mix add up to those that they began with: this is the group's mean.
        """
        with draft.inside(self.name) as name:
            holders = self.topology.lay(draft, self.elements, name=name, start=start)
            if len(holders) == 1:
                return replace(holders[0], sites=self.sites)
            step = draft.add(
                f"reduce/{name}",
                holders[0].party,
                "reduce",
                gathers=tuple(holder.step for holder in holders),
                weights=tuple(holder.scale for holder in holders),
                needs=1,
            )
            return Holder(holders[0].party, step, self.sites)


def sample(seed: int, round_: int, sites: Sequence[SiteId], *, count: int) -> tuple[SiteId, ...]:
    """Return the sites that train in a round, in roster order, drawn without replacement.

    >>> sample(0, 1, ["a", "b", "c"], count=3)
    ('a', 'b', 'c')
    """
    if count >= len(sites):
        return tuple(sites)
    chosen = derive_rng(seed, "sample", round_).choice(len(sites), size=count, replace=False)
    return tuple(sites[i] for i in sorted(chosen))


TOPOLOGIES = Registry(
    "topology",
    group="cohortium.topologies",
    builtin={
        "star": "cohortium.plan.star:Star",
        "tree": "cohortium.plan.tree:Tree",
        "gossip": "cohortium.plan.gossip:Gossip",
        "cyclic": "cohortium.plan.cyclic:Cyclic",
        "hybrid": "cohortium.plan.hybrid:Hybrid",
    },
)

"""What a drawing shows of one round: the parties in reading order, and who is drawn together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cohortium.plan.cyclic import Cyclic
from cohortium.plan.gossip import Gossip
from cohortium.plan.plan import Plan
from cohortium.plan.step import RoundPlan, Step
from cohortium.plan.topology import AGGREGATOR, CLERK, TOPOLOGIES, Element, Group, Topology
from cohortium.report.notation import plural
from cohortium.types import PartyId, SiteId

CROWD = 12
"""Sites up to which each is drawn; of more, the first `SHOWN` are."""

SHOWN = 8

REST = PartyId("…")
"""Stands for everyone who is not drawn. No party is called so: a site's name begins otherwise."""


@dataclass(frozen=True)
class Picture:
    """Something drawn, its size in pixels, and what its legend has to explain."""

    drawn: Markup
    width: float
    height: float
    ops: frozenset[str]
    edges: frozenset[str]


@dataclass(frozen=True)
class Band:
    """A sub-federation: parties that are drawn on one ground; `depth` 0 is outermost."""

    label: str
    parties: tuple[PartyId, ...]
    depth: int


@dataclass(frozen=True)
class Scene:
    """One round of a plan, in the order in which it is drawn.

    Attributes:
        plan, steps: what is drawn.
        parties: in reading order, an aggregator amid those whose values it joins; `REST` where some
            are hidden.
        bands: the sub-federations.
        hidden: sites, and aggregators of hidden sites only, that are drawn as one.
    """

    plan: Plan
    steps: RoundPlan
    parties: tuple[PartyId, ...]
    bands: tuple[Band, ...]
    hidden: frozenset[PartyId]

    @classmethod
    def of(cls, plan: Plan, steps: RoundPlan) -> Scene:
        """Put the parties of a round in order, and decide who is drawn."""
        turn = {step.party: i for i, step in enumerate(steps.steps) if step.op == "train"}
        trained = [site for site in plan.trainers if PartyId(site) in turn]
        elements = plan.topology.arrange(trained) if trained else ()
        outside = [PartyId(m.site) for m in plan.members if PartyId(m.site) not in turn]
        sites = [*turn, *outside]
        shown = set(sites if len(sites) <= CROWD else sites[:SHOWN])
        present = dict.fromkeys(step.party for step in steps.steps)
        walk = _Walk(shown, present, turn)
        children = walk.children(elements, depth=0)
        rest = [[REST]] if len(sites) > len(shown) else []
        ordered = _amid([*children, *rest], AGGREGATOR, present)
        ordered += [party for party in outside if party in shown]
        hidden = frozenset({*sites} - shown | walk.hidden)
        placed = hidden.union(ordered)
        ordered += [party for party in present if party not in placed]
        return cls(plan, steps, tuple(ordered), tuple(walk.bands), hidden)

    def seen(self, party: PartyId) -> PartyId:
        """Return as whom a party is drawn."""
        return REST if party in self.hidden else party

    def label(self, party: PartyId) -> str:
        """Return what readers call a party."""
        if party == REST:
            return f"… {plural(self.hidden_sites, 'more site')}"
        if party in (CLERK, AGGREGATOR):
            return party.removeprefix("@")
        return party.replace(f"{AGGREGATOR}/", "aggregator of ")

    def short(self, party: PartyId) -> str:
        """Return what a party is called inside its own band."""
        return "aggregator" if party.startswith(f"{AGGREGATOR}/") else self.label(party)

    @property
    def hidden_sites(self) -> int:
        """How many sites are not drawn."""
        return sum(SiteId(party) in self.plan.rows for party in self.hidden)


class _Walk:
    """Goes through the elements and notes the sub-federations on its way."""

    def __init__(
        self, shown: Collection[PartyId], present: Collection[PartyId], turn: Mapping[PartyId, int]
    ) -> None:
        self.shown, self.present, self.turn = shown, present, turn
        self.bands: list[Band] = []
        self.hidden: set[PartyId] = set()

    def children(self, elements: Sequence[Element], *, depth: int) -> list[list[PartyId]]:
        """Return the drawn parties of each element, in the order in which they begin to train."""
        begins = {id(e): min(self.turn[PartyId(site)] for site in e.sites) for e in elements}
        ordered = sorted(elements, key=lambda element: begins[id(element)])
        return [self._parties(element, depth=depth) for element in ordered]

    def _parties(self, element: Element, *, depth: int) -> list[PartyId]:
        if not isinstance(element, Group):
            return [PartyId(s) for s in element.sites if PartyId(s) in self.shown]
        own = PartyId(f"{AGGREGATOR}/{element.name}")
        place = len(self.bands)
        children = self.children(element.elements, depth=depth + 1)
        if not any(children):
            self.hidden |= {own} & set(self.present)
            return []
        ordered = _amid(children, own, self.present)
        self.bands.insert(place, Band(_title(element), tuple(ordered), depth))
        return ordered


def _title(group: Group) -> str:
    """Return a group's own name, and how its members are connected."""
    return f"{group.name.rpartition('/')[2]}: {kind_of(group.topology)}"


def _amid(
    children: Sequence[list[PartyId]], own: PartyId, present: Collection[PartyId]
) -> list[PartyId]:
    """Return the children's parties with their aggregator, if there is one, in their middle."""
    if own not in present:
        return [party for child in children for party in child]
    ends = [0]
    for child in children:
        ends.append(ends[-1] + len(child))
    middle = min(ends[1:] or ends, key=lambda end: (abs(end - ends[-1] / 2), -end))
    ordered = [party for child in children for party in child]
    return [*ordered[:middle], own, *ordered[middle:]]


def kind_of(topology: Topology) -> str:
    """Return a topology with the settings that shape it, such as "gossip on a ring"."""
    match topology:
        case Gossip(graph="ring"):
            return "gossip on a ring"
        case Gossip(graph="complete"):
            return "gossip, each with all"
        case Gossip(graph="random-regular", degree=degree):
            return f"gossip, {degree} neighbours each"
        case Cyclic(order="random"):
            return "cyclic in random order"
    named = (name for name in TOPOLOGIES if TOPOLOGIES[name] is type(topology))
    return next(named, type(topology).__name__.lower())


def tell(scene: Scene, steps: Sequence[Step]) -> str:
    """Return what a box stands for, in words."""
    first = steps[0]
    if len(steps) > 1 and len({step.party for step in steps}) > 1:
        return f"{first.op} at {plural(len(steps), 'party', 'parties')} that are not drawn"
    words = [f"{first.op} at {scene.label(first.party)}"]
    if len(steps) > 1:
        words.append(f"{len(steps)} times in a row")
    if first.needs > 1:
        words.append(f"needs {first.needs} of {len(first.gathers)}")
    if first.deadline is not None:
        words.append(f"waits at most {first.deadline:g} s")
    return ", ".join(words)

"""Gossip: peers mix their models with their neighbours', without any aggregator.

Mixing weights are Metropolis's: w_ij = 1 / (1 + max(deg i, deg j)) for neighbours, the rest with
oneself (Xiao, Boyd and Kim 2007, eq. 9). Each message carries the model and its weight, and both
are mixed (ratio consensus, Kempe et al. 2003), so that a complete graph gives the weighted mean in
one exchange, and any connected graph comes to it as exchanges grow. An absent neighbour's weight
stays with oneself; where absence is not mutual, the mean is not preserved.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from cohortium.part import part
from cohortium.plan.topology import CLERK, Draft, Element, Holder, Site
from cohortium.types import PartyId, SiteId, derive_rng

Neighbours = list[list[int]]


@part
class Gossip:
    """Every site mixes with its neighbours; a clerk counts votes and sees no model."""

    closer: ClassVar[PartyId] = CLERK
    one_model: ClassVar[bool] = False

    graph: Annotated[
        Literal["ring", "complete", "random-regular", "edges"],
        Field(description="Who is whose neighbour; `edges` takes the list `edges`."),
    ] = "ring"
    degree: Annotated[
        int, Field(ge=2, description="Neighbours of each site in a random regular graph.")
    ] = 4
    edges: Annotated[
        tuple[tuple[str, str], ...],
        Field(strict=False, description="Pairs of neighbouring sites, for the graph `edges`."),
    ] = ()
    exchanges: Annotated[int, Field(ge=1, le=1000, description="Exchanges in each round.")] = 1

    @model_validator(mode="after")
    def _check(self) -> Gossip:
        if (self.graph == "edges") != bool(self.edges):
            raise ValueError('`edges` and `graph = "edges"` go together')
        return self

    def arrange(self, sites: Sequence[SiteId]) -> Sequence[Element]:
        """Every site is an element."""
        elements = [Site(site) for site in sites]
        self.neighbours([site.name for site in elements], seed=0)
        return elements

    def lay(
        self, draft: Draft, elements: Sequence[Element], *, name: str, start: str | None
    ) -> tuple[Holder, ...]:
        """Train everywhere, then mix `exchanges` times."""
        graph = self.neighbours([element.name for element in elements], seed=draft.seed)
        holders = [element.lay(draft, start) for element in elements]
        weights = [_metropolis(i, graph) for i in range(len(graph))]
        for exchange in range(self.exchanges):
            holders = [
                _mix(draft, holders, i, weights[i], label=f"mix{exchange + 1}", name=name)
                for i in range(len(holders))
            ]
        return tuple(holders)

    def neighbours(self, names: Sequence[str], *, seed: int) -> Neighbours:
        """Return each element's neighbours by index, sorted.

        Raises:
            ValueError: the graph does not fit the elements, or is not connected.
        """
        pairs = _PAIRS[self.graph](self, names, seed)
        graph: Neighbours = [[] for _ in names]
        for i, j in sorted(pairs):
            graph[i].append(j)
            graph[j].append(i)
        graph = [sorted(row) for row in graph]
        apart = _unreached(graph)
        if apart:
            raise ValueError(
                f"the graph is not connected: no path joins {names[0]!r} and {names[apart[0]]!r}; "
                "add edges between them"
            )
        return graph


def _ring(_: Gossip, names: Sequence[str], __: int) -> set[tuple[int, int]]:
    n = len(names)
    return {(min(i, (i + 1) % n), max(i, (i + 1) % n)) for i in range(n)} if n > 1 else set()


def _complete(_: Gossip, names: Sequence[str], __: int) -> set[tuple[int, int]]:
    return {(i, j) for j in range(len(names)) for i in range(j)}


def _named(gossip: Gossip, names: Sequence[str], _: int) -> set[tuple[int, int]]:
    index = {name: i for i, name in enumerate(names)}
    unknown = sorted({end for edge in gossip.edges for end in edge} - index.keys())
    if unknown:
        raise ValueError(f"`edges` names {', '.join(unknown)}, which is no member here")
    pairs = {(min(index[a], index[b]), max(index[a], index[b])) for a, b in gossip.edges}
    loop = next((names[i] for i, j in pairs if i == j), None)
    if loop is not None:
        raise ValueError(f"`edges` joins {loop!r} with itself")
    return pairs


def _random_regular(gossip: Gossip, names: Sequence[str], seed: int) -> set[tuple[int, int]]:
    n, degree = len(names), gossip.degree
    if degree >= n or (n * degree) % 2:
        raise ValueError(
            f"{n} sites have no regular graph of degree {degree}: the degree must be below the "
            "number of sites, and their product even"
        )
    return set(_drawn(n, degree, seed))


@lru_cache(maxsize=8)
def _drawn(n: int, degree: int, seed: int) -> frozenset[tuple[int, int]]:
    """Swap the ends of random pairs of edges, many times: the degrees stay (Markov chain sampling,
    Milo et al. 2003). A graph that comes out in pieces is swapped further.
    """
    rng = derive_rng(seed, "gossip-graph")
    edges = sorted(_circulant(n, degree))
    present = set(edges)
    while True:
        for i, j, flip in rng.integers((len(edges), len(edges), 2), size=(10 * len(edges), 3)):
            (a, b), (c, d) = edges[i], edges[j]
            c, d = (d, c) if flip else (c, d)
            new = {(min(a, d), max(a, d)), (min(c, b), max(c, b))}
            if len({a, b, c, d}) == 4 and not new & present:
                present -= {edges[i], edges[j]}
                edges[i], edges[j] = sorted(new)
                present |= new
        if not _unreached(_adjacent(n, present)):
            return frozenset(present)


def _circulant(n: int, degree: int) -> set[tuple[int, int]]:
    """Join everyone with the nearest on a circle: regular and connected for any feasible n."""
    steps = list(range(1, degree // 2 + 1)) + ([n // 2] if degree % 2 else [])
    return {(min(i, (i + step) % n), max(i, (i + step) % n)) for i in range(n) for step in steps}


def _adjacent(n: int, pairs: set[tuple[int, int]]) -> Neighbours:
    graph: Neighbours = [[] for _ in range(n)]
    for i, j in pairs:
        graph[i].append(j)
        graph[j].append(i)
    return graph


def _unreached(graph: Neighbours) -> list[int]:
    seen, todo = {0}, [0]
    while todo:
        fresh = [j for j in graph[todo.pop()] if j not in seen]
        seen.update(fresh)
        todo += fresh
    return [i for i in range(len(graph)) if i not in seen]


_PAIRS = {
    "ring": _ring,
    "complete": _complete,
    "random-regular": _random_regular,
    "edges": _named,
}


def _metropolis(i: int, graph: Neighbours) -> dict[int, float]:
    """Return row i of the mixing matrix, by index in ascending order; the row sums to 1."""
    row = {j: 1.0 / (1 + max(len(graph[i]), len(graph[j]))) for j in graph[i]}
    row[i] = 1.0 - sum(row.values())
    return dict(sorted(row.items()))


def _mix(
    draft: Draft, holders: Sequence[Holder], i: int, row: dict[int, float], *, label: str, name: str
) -> Holder:
    own, scales = holders[i], tuple(holders[j].scale for j in row)
    step = draft.add(
        f"{label}/{name}/{own.party}" if name else f"{label}/{own.party}",
        own.party,
        "mix",
        gathers=tuple(holders[j].step for j in row),
        weights=tuple(row.values()),
        scales=scales if any(scale != 1.0 for scale in scales) else (),
    )
    return Holder(own.party, step, own.sites)

"""Star: an aggregation server reduces the updates of all sites (McMahan et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from cohortium.part import part
from cohortium.plan.topology import AGGREGATOR, Draft, Element, Holder, Site
from cohortium.types import PartyId, SiteId


@part
class Star:
    """Every site sends its update to one aggregator, which sends the consensus model back."""

    closer: ClassVar[PartyId] = AGGREGATOR
    one_model: ClassVar[bool] = True

    def arrange(self, sites: Sequence[SiteId]) -> Sequence[Element]:
        """Every site is an element."""
        return [Site(site) for site in sites]

    def lay(
        self, draft: Draft, elements: Sequence[Element], *, name: str, start: str | None
    ) -> tuple[Holder, ...]:
        """Reduce all elements at one party."""
        holders = [element.lay(draft, start) for element in elements]
        party = PartyId(f"{AGGREGATOR}/{name}") if name else AGGREGATOR
        scales = tuple(holder.scale for holder in holders)
        plain = all(isinstance(element, Site) for element in elements)
        step = draft.add(
            f"reduce/{name}" if name else "reduce",
            party,
            "reduce",
            gathers=tuple(holder.step for holder in holders),
            weights=scales if any(scale != 1.0 for scale in scales) else (),
            needs=draft.quorum if plain and not name else 1,
        )
        sites = tuple(site for holder in holders for site in holder.sites)
        return (Holder(party, step, sites),)

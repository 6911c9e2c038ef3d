"""Cyclic: a model travels from site to site, each trains it in turn (sequential, no aggregator).

One round with long local training is institutional incremental learning (IIL), many rounds with
short ones are cyclic institutional incremental learning (CIIL): Sheller et al. 2020, Methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cohortium.part import part
from cohortium.plan.topology import CLERK, Draft, Element, Holder, Site
from cohortium.types import PartyId, SiteId, derive_rng


@part
class Cyclic:
    """The model visits all elements in turn, every round."""

    closer: ClassVar[PartyId] = CLERK
    one_model: ClassVar[bool] = True

    order: Annotated[
        Literal["fixed", "random"],
        Field(description="Visit in roster order, or in an order drawn anew for each round."),
    ] = "fixed"
    select: Annotated[
        Literal["last", "best-local"],
        Field(
            description="Which of a round's models goes on: the last one, or the one that scored "
            "best on the validation part of the site that trained it (Sheller et al. 2020)."
        ),
    ] = "last"

    def arrange(self, sites: Sequence[SiteId]) -> Sequence[Element]:
        """Every site is an element."""
        return [Site(site) for site in sites]

    def lay(
        self, draft: Draft, elements: Sequence[Element], *, name: str, start: str | None
    ) -> tuple[Holder, ...]:
        """Chain the elements; with `best-local`, carry the best model so far beside the chain."""
        order = list(elements)
        if self.order == "random":
            places = derive_rng(draft.seed, "order", name, draft.round).permutation(len(order))
            order = [elements[i] for i in places]
        best: str | None = None
        for element in order:
            holder = element.lay(draft, start)
            start = holder.step
            if self.select == "best-local":
                best = _select(draft, holder, best, name=name)
        sites = tuple(site for element in elements for site in element.sites)
        share = draft.rows_of(holder.sites) / draft.rows_of(sites)
        return (Holder(holder.party, best or holder.step, sites, holder.scale / share),)


def _select(draft: Draft, holder: Holder, best: str | None, *, name: str) -> str:
    sources = (holder.step,) if best is None else (best, holder.step)
    return draft.add(
        f"select/{name}/{holder.party}" if name else f"select/{holder.party}",
        holder.party,
        "select",
        inputs=sources,
        covers=draft.covers(holder.step),
    )

"""Who could read what of whom, if a study ran without a secure sum: in plain words, before consent.

It is read off the plan itself, so that it cannot promise anything else than what will run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cohortium.governance.roster import HUB
from cohortium.plan.plan import Plan
from cohortium.types import PartyId, SiteId

NAMED = 6
"""Sites that a sentence names; of more it tells the number."""


@dataclass(frozen=True)
class Exposure:
    """What one party gets from others in a round, so that whoever operates its host could read it.

    Attributes:
        party: the reader.
        host: who carries it: a site, or the hub.
        updates: sites whose own update it reads, alone.
        joined: sites of whose updates it reads a mixture.
        metrics: sites whose sums of metrics it reads.
    """

    party: PartyId
    host: str
    updates: tuple[SiteId, ...]
    joined: tuple[SiteId, ...]
    metrics: tuple[SiteId, ...]

    @property
    def told(self) -> str:
        """One sentence for people."""
        reads = []
        if self.updates:
            what = "the update of" if len(self.updates) == 1 else "each single update of"
            reads.append(f"{what} {_few(self.updates)}")
        if self.joined:
            reads.append(f"a mixture of the updates of {_few(self.joined)}")
        if self.metrics:
            reads.append(f"the metrics of {_few(self.metrics)}")
        where = "the hub" if self.host == HUB else self.host
        who = where if self.party == self.host else f"{where}, as {self.party},"
        return f"{who} reads {', and '.join(reads)}: its operator can, too"


def exposures(plan: Plan, hosts: Mapping[str, str]) -> list[Exposure]:
    """Return who reads what of other parties, in the plan's order; nobody who reads nothing.

    Args:
        plan: as it was compiled.
        hosts: who carries the parties that are no sites, where it is not the hub.
    """
    layout = plan.layout(1)
    found: dict[PartyId, dict[str, dict[SiteId, None]]] = {}
    for step in layout.steps:
        host = _host(plan, hosts, step.party)
        for source in (layout[name] for name in step.inputs + step.gathers):
            kind, others = _kind(source.op, len(source.covers)), set(source.covers) - {host}
            if kind and source.party != step.party and others:
                read = found.setdefault(step.party, {}).setdefault(kind, {})
                read.update((site, None) for site in source.covers if site in others)
    return [
        Exposure(
            party,
            _host(plan, hosts, party),
            *(tuple(found[party].get(kind, ())) for kind in ("updates", "joined", "metrics")),
        )
        for party in plan.parties
        if party in found
    ]


def _host(plan: Plan, hosts: Mapping[str, str], party: PartyId) -> str:
    return str(party) if SiteId(party) in plan.rows else hosts.get(party, HUB)


def _kind(op: str, sites: int) -> str:
    """Return what a step's value is to a reader; empty for what all members get anyway."""
    if op == "evaluate":
        return "metrics"
    if op in ("consensus", "tally", "outcome") or not sites:
        return ""
    return "updates" if sites == 1 else "joined"


def _few(sites: Sequence[SiteId]) -> str:
    return ", ".join(sites) if len(sites) <= NAMED else f"{len(sites)} sites"

"""All that a host knows of a run before its first event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from cohortium.errors import RefusedError
from cohortium.governance.gate import Gate
from cohortium.governance.grant import Grant
from cohortium.governance.roster import Roster, run_id
from cohortium.identity import Document
from cohortium.learning.metrics import Measures
from cohortium.plan.plan import Plan, State
from cohortium.runtime.actor import Snapshot
from cohortium.runtime.agreeing import agree
from cohortium.runtime.agreement import Agreement
from cohortium.study.bundle import Bundle
from cohortium.types import Params, PartyId, SiteId


@dataclass(frozen=True)
class HostedRun:
    """A run as its signed roster and its study say.

    Attributes:
        id: 32 hex digits of the roster's digest.
        roster: who takes part, by which keys.
        bundle: the study.
        agreement: the plan and its parts.
    """

    id: str
    roster: Roster
    bundle: Bundle
    agreement: Agreement

    @classmethod
    def of(cls, document: Document, bundle: Bundle, *, hub: str) -> Self:
        """Return the run of a signed roster.

        Args:
            document: the roster as the hub signed it.
            bundle: the study; its digest is checked.
            hub: the hub's root key, as pinned when joining.

        Raises:
            RefusedError: the roster is not the hub's, or does not fit the study.
        """
        roster = Roster.of(document, hub=hub)
        plan, study = roster.plan(bundle), bundle.study
        measures = Measures.of(study.task.metrics)
        agreement = agree(
            study,
            plan,
            layout=roster.layout,
            shapes=measures.shapes,
            metrics=measures.names,
            value=measures.value,
        )
        return cls(run_id(document), roster, bundle, agreement)

    @property
    def plan(self) -> Plan:
        """The compiled plan."""
        return self.agreement.plan

    def parties_of(self, host: str) -> tuple[PartyId, ...]:
        """Return the parties that a host carries."""
        return tuple(p for p in self.plan.parties if self.roster.host_of(p) == host)

    def holder(self, party: PartyId) -> bool:
        """Tell whether a party may hold a consensus model of its own."""
        return party in self.plan.layout(max(self.plan.rounds, 1)).holder_of.values()

    def gate(self, party: PartyId, *, released: int = 0) -> Gate:
        """Return a party's gate."""
        rows = self.plan.rows.get(SiteId(party))
        declaration = self.agreement.declaration
        if rows is None:
            return Gate(party, declaration, released=released)
        return Gate(party, declaration, rows, released=released)

    def start(self, initial: Params, *, at: float) -> Snapshot:
        """Return where a party stands that begins at a time: before round 1.

        Raises:
            RefusedError: the model is not the one that all sites consented to.
        """
        if initial.digest != self.roster.initial:
            raise RefusedError("the initial model is not the one that the sites consented to")
        return Snapshot(State(self.plan.study), initial, {}, at=at)

    def grant_of(self, site: str) -> Grant | None:
        """Return a site's consent, where the roster shows it."""
        seat = next(seat for seat in self.roster.seats if seat.site == site)
        return None if seat.grant is None else Grant.of(seat.grant)

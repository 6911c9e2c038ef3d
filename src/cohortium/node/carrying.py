"""One run at this node: what is checked before it begins, and the hosts of its parties here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from cohortium.errors import RefusedError
from cohortium.governance.grant import Grant
from cohortium.governance.roster import PRIVATE_STEP, Seat, hosts_of
from cohortium.host.courier import Courier
from cohortium.host.host import Host
from cohortium.host.journal import SqlJournal
from cohortium.host.run import HostedRun
from cohortium.identity import Document, Identity
from cohortium.node.consents import Offer
from cohortium.node.site import Site
from cohortium.node.work import StudyWork
from cohortium.plan.plan import State
from cohortium.transport.envelope import Frame
from cohortium.types import PartyId


def check_run(run: HostedRun, offer: Offer, *, keys: Identity, broker: bool) -> Seat:
    """Check that a run is what this site consented to; return its seat.

    The hub's signature, and the other sites', were checked when the roster was read.

    Args:
        run: as the hub's roster says.
        offer: this site's own copy of the study, and of its answer.
        keys: under which it consented.
        broker: whether the hub was an honest broker when this site joined.

    Raises:
        RefusedError: it is not, and why.
    """
    if offer.decision != "approved" or offer.grant is None:
        raise RefusedError("this site has not approved the study")
    grant, roster = Grant.of(offer.grant), run.roster
    seat = next((s for s in roster.seats if s.certificate.root == keys.root.public), None)
    if seat is None or seat.site != keys.name:
        raise RefusedError("the roster does not hold this site under its own key")
    if roster.broker != broker:
        told, pinned = (("no", "an")[is_broker] for is_broker in (roster.broker, broker))
        raise RefusedError(f"{told} honest broker starts the run; this site joined {pinned} one")
    _check_seat(seat, grant, offer.grant, broker=broker)
    if not grant.names(roster.researcher):
        raise RefusedError("the run is another researcher's than was approved")
    for what in ("layout", "initial", "inputs"):
        if getattr(roster, what) != getattr(grant, what):
            raise RefusedError(f"the run has another {what} than was approved")
    plan = run.bundle.study.plan
    if plan.sites is not None and tuple(seat.site for seat in roster.seats) != plan.sites:
        raise RefusedError("the run is among other sites than the study names")
    for other in roster.seats:
        if other.trains == (other.site in plan.evaluation_only):
            raise RefusedError(f"the study says otherwise whether {other.site} trains")
    _check_hosts(roster.hosts, hosts_of(run.bundle, run.plan))
    return seat


def _check_hosts(told: Mapping[PartyId, str], approved: Mapping[PartyId, str]) -> None:
    for party in sorted({*told, *approved}):
        if told.get(party) != approved.get(party):
            host = told.get(party, "nobody")
            raise RefusedError(f"{party} is carried by {host}, which is not what was approved")


def _check_seat(seat: Seat, grant: Grant, document: Document, *, broker: bool) -> None:
    rows = grant.rows.train
    if broker:
        rows = -(-rows // PRIVATE_STEP) * PRIVATE_STEP
    elif seat.grant != document:
        raise RefusedError("the roster holds another consent than this site gave")
    if seat.rows != rows:
        raise RefusedError("the roster does not say of this site what it consented to")


@dataclass(frozen=True)
class Watch:
    """Who is told what happens in a run.

    Attributes:
        moved: told of each State that this site's own party reaches.
        ended: told once when all parties here have ended and sent everything.
    """

    moved: Callable[[str, State], None]
    ended: Callable[[Carrier, State], None]


class Carrier:
    """Carries this site's parties of a run.

    Args:
        site: the node's folder.
        run: checked by `check_run`.
        keys: under which the site takes part.
        courier: the way to the mailbox.
        work: runs the steps over this site's records.
        watch: who is told.
    """

    def __init__(
        self,
        site: Site,
        run: HostedRun,
        *,
        keys: Identity,
        courier: Courier,
        work: StudyWork,
        watch: Watch,
    ) -> None:
        self.run, self._site, self._keys = run, site, keys
        self._courier, self._work, self._watch = courier, work, watch
        self._hosts: dict[PartyId, Host] = {}
        self._log = structlog.get_logger().bind(study=run.plan.study[:12], run=run.id)

    def start(self) -> None:
        """Begin, or go on where the journals stand.

        Raises:
            BehindError: a journal is an old copy.
            RunFailedError: the initial model is not here.
            Closed: the node stops.
        """
        try:
            for party in self.run.parties_of(self._keys.name):
                self._hosts[party] = self._host(party)
                self._hosts[party].start()
        except BaseException:
            self.close()
            raise
        self._log.info("carrying", parties=sorted(self._hosts))

    def watch(self) -> None:
        """Tell, from now on, when all parties here have ended and sent everything."""
        Thread(target=self._wait, name=f"end of {self.run.id}", daemon=True).start()

    def deliver(self, frame: Frame) -> list[Document]:
        """Hand a frame to its readers here, and return their receipts, once it is durable."""
        here = [self._hosts[party] for party in map(PartyId, frame.to) if party in self._hosts]
        receipts = [host.deliver(frame) for host in here]
        return [receipt for receipt in receipts if receipt is not None]

    def control(self, notice: Mapping[str, Any]) -> None:
        """Hand an order to every party here; durable when this returns."""
        for host in self._hosts.values():
            host.control(notice)

    def resend(self) -> None:
        """Post again what the mailbox may have lost."""
        for host in self._hosts.values():
            host.resend()

    def drain(self) -> None:
        """Let the steps in progress end, and begin no others."""
        for host in self._hosts.values():
            host.drain()

    def close(self) -> None:
        """Stop; nothing more is sent."""
        for host in self._hosts.values():
            host.close()

    @property
    def state(self) -> State:
        """The newest State that this site's own party has reached."""
        return self._hosts[PartyId(self._keys.name)].state

    @property
    def closes_rounds(self) -> bool:
        """Whether the party that closes the rounds is carried here."""
        return self.run.plan.topology.closer in self._hosts

    def _host(self, party: PartyId) -> Host:
        run, site, own = self.run, self._site, party == self._keys.name
        study, roster = run.plan.study, run.roster
        gate = run.gate(party)
        journal = SqlJournal(site.engine, site.home.journal, run=run.id, party=party, gate=gate)
        return Host(
            run,
            party,
            identity=self._keys,
            courier=self._courier,
            journal=journal,
            initial=partial(site.bundles.initial, study, roster.layout, model=roster.initial),
            worker=self._work if own else None,
            allowed=self._refusal,
            clock=site.clock,
            changed=self._moved if own else lambda _: None,
        )

    def _refusal(self, round_: int) -> str:
        try:
            return self._site.consents.refusal(self.run.plan.study, round_, now=self._site.clock())
        except SQLAlchemyError as error:
            return f"the consent cannot be read ({type(error).__name__})"

    def _moved(self, state: State) -> None:
        self._watch.moved(self.run.id, state)

    def _wait(self) -> None:
        for host in self._hosts.values():
            host.settled.wait()
        self._watch.ended(self, self.state)

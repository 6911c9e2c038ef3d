"""One party of a run on this machine: the same actor as in a simulation, over the network.

Everything that reaches the actor is in its journal first. Whatever fails in between (a full disk, a
database that restarts, a kill) is met in one way: the actor is built anew from its journal, and
asks again for what was under way. The mailbox and the readers drop what they have had before.

Threads: whoever delivers, one that posts, one that works, one that keeps time. One lock guards the
actor; nothing is sent, trained or waited for under it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError

from cohortium.errors import CohortiumError, RefusedError
from cohortium.governance.gate import Void
from cohortium.host.courier import Closed, Courier
from cohortium.host.journal import SqlJournal
from cohortium.host.receipts import check_not_behind, highest, receipt
from cohortium.host.run import HostedRun
from cohortium.host.timers import Timers
from cohortium.host.traffic import Traffic
from cohortium.identity import Certificate, Document, Identity
from cohortium.plan.plan import Note, State
from cohortium.runtime.actor import AHEAD, Actor, Snapshot
from cohortium.runtime.codec import encode_log, from_bytes, model_parts, most_bytes, to_parts
from cohortium.runtime.engine import RoundLog
from cohortium.runtime.events import (
    Arrived,
    Away,
    Back,
    Done,
    Effect,
    Event,
    Extended,
    Paused,
    Record,
    Resumed,
    Run,
    Send,
    Stopped,
    TimedOut,
    Timer,
)
from cohortium.runtime.journal import Journaled
from cohortium.transport.envelope import Frame, Head, open_frame, seal
from cohortium.types import Params, PartyId, SiteId

RETRY = 5.0
"""Seconds before work is journaled again where the disk or the database refused it."""

TROUBLE = (OSError, SQLAlchemyError)
"""What a journal meets that may pass."""


class Worker(Protocol):
    """Runs a step over records."""

    def run(self, run: Run, *, at: Callable[[], float]) -> Done:
        """Return the event that the step has run, or why it failed.

        Raises:
            Closed: the service stops; the step runs when it starts again.
        """


@dataclass(frozen=True)
class Model:
    """The model that a run ended with, for the researcher."""

    state: State
    params: Params


Outgoing = Send | RoundLog | Model | None
"""What is posted, in order; None is the end of the run."""


class Host:
    """Carries one party of a run.

    Args:
        run: as its roster and its study say.
        party: which one.
        identity: the host's keys for this run.
        courier: its way to the mailbox.
        journal: the party's own; empty for a party that has not begun.
        initial: the model that round 1 starts from; asked for only at the beginning.
        worker: runs steps over the site's records; None for a party without any.
        turn: waits until the party may use the machine, and holds it.
        allowed: tells why the site's consent does not cover a round; empty if it does.
        clock: seconds since 1970.
        seen: tells what is known of parties that do not answer, such as when they last did.
        changed: is told of every State that this party reaches.
    """

    def __init__(
        self,
        run: HostedRun,
        party: PartyId,
        *,
        identity: Identity,
        courier: Courier,
        journal: SqlJournal,
        initial: Callable[[], Params],
        worker: Worker | None = None,
        turn: Callable[[], AbstractContextManager[Any]] = nullcontext,
        allowed: Callable[[int], str] = lambda _: "",
        clock: Callable[[], float] = time.time,
        seen: Callable[[], Mapping[PartyId, str]] = dict,
        changed: Callable[[State], None] = lambda _: None,
    ) -> None:
        self.run, self.party = run, party
        self._identity, self._courier, self._journal = identity, courier, journal
        self._initial, self._worker = initial, worker
        self._turn, self._allowed, self._clock = turn, allowed, clock
        self._seen, self._changed = seen, changed
        self._log = structlog.get_logger().bind(run=run.id, party=party)
        self._lock = threading.RLock()
        self._journaled = Journaled(journal, self._actor)
        self._unsent: dict[object, Send | Record] = {}
        self._again: set[object] = set()
        self._certificates: dict[tuple[str, int], Certificate] = {}
        self._traffic = Traffic(run.plan)
        self._whole = False
        self._modelled = False
        self._closed = threading.Event()
        self.settled = threading.Event()
        """Set when the run has ended and everything that it owed has been posted."""
        self._outgoing: SimpleQueue[tuple[object, Outgoing] | None] = SimpleQueue()
        self._work: SimpleQueue[Run | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._timers: Timers

    # -- what the service calls --------------------------------------------------------------------

    def start(self) -> None:
        """Begin, or go on where the journal stands.

        Raises:
            BehindError: the journal is an old copy: peers have signed for more than it knows.
        """
        if not self._journal.exists:
            self._journal.compact(self.run.start(self._initial(), at=self._clock()))
            idle = 0.0
        else:
            idle = self._clock() - self._journal.last_sign()
        self._timers = Timers(self._clock, self._due)
        with self._lock:
            effects = self._journaled.recover()
            self._check_not_behind()
            self._whole = True
            self._again = {self._key(e) for e in effects if isinstance(e, Send | Record)}
            self._carry_out(effects)
            if idle > 0:  # nobody could answer while this party was away
                self._handle(Extended(idle, self._clock()))
        for name, body in (("post", self._post_all), ("work", self._work_all)):
            thread = threading.Thread(target=body, name=f"{name} {self.party}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def deliver(self, frame: Frame) -> Document | None:
        """Take in a frame; its content is durable when this returns. Return a receipt for it.

        What is forged or damaged is refused, logged and forgotten; what its sender signed, and
        nobody can read, counts as void.
        """
        try:
            sender = self._check(frame)
        except RefusedError as error:
            self._log.warning("frame refused", sender=frame.sender, reason=str(error))
            return None
        if not self._matters(frame):
            return receipt(frame, by=self._identity)
        try:
            payload = self._opened(frame, sender)
        except RefusedError as error:
            self._log.warning("payload refused", sender=frame.sender, reason=str(error))
            notes = tuple(Note(s, "excluded", str(error)) for s in self._sites_of(frame))
            payload = Void("excluded", notes)
        with self._lock:
            gate = self._journaled.actor.gate
            release = gate.received(
                payload,
                sender=PartyId(frame.sender),
                round_=frame.round,
                attempt=frame.attempt,
                step=frame.step,
                number=frame.number,
            )
            self._traffic.received(frame, at=self._clock())
            self._handle(Arrived(release, self._clock()))
        return receipt(frame, by=self._identity)

    def control(self, notice: Mapping[str, Any]) -> None:
        """Take in what the coordinator or the researcher orders; durable when this returns."""
        at, site = self._clock(), PartyId(str(notice.get("site", "")))
        reason = str(notice.get("reason", ""))
        event: Event | None = None
        match notice.get("op"):
            case "pause":
                event = Paused(at)
            case "resume":
                event = Resumed(at)
            case "stop":
                event = Stopped(reason, at)
            case "extend":
                event = Extended(float(notice.get("seconds", 0.0)), at)
            case "exclude":
                event = Away(site, reason or "excluded by the coordinator", at)
            case "readmit":
                event = Back(site, at)
        if event is None:
            self._log.warning("unknown order", op=str(notice.get("op")))
            return
        self._log.info("order", op=notice.get("op"), site=site, reason=reason)
        with self._lock:
            self._handle(event)

    def resend(self) -> None:
        """Post again what the mailbox may have lost, such as one from a backup."""
        with self._lock:
            self._revive()

    def drain(self) -> None:
        """Begin no step any more, and return when the one in progress is in the journal."""
        self._work.put(None)
        for thread in self._threads:
            if thread.name.startswith("work"):
                thread.join()

    def close(self) -> None:
        """Stop. When this returns, nothing more is journaled; what is under way ends unheard."""
        with self._lock:
            self._closed.set()
        self._outgoing.put(None)
        self._work.put(None)
        if hasattr(self, "_timers"):
            self._timers.close()

    @property
    def state(self) -> State:
        """The newest State that this party has reached."""
        return self._journaled.actor.state

    # -- events ------------------------------------------------------------------------------------

    def _actor(self, snapshot: Snapshot) -> Actor:
        gate = self.run.gate(self.party, released=snapshot.released)
        return Actor(self.party, self.run.agreement, gate, snapshot)

    def _handle(self, event: Event) -> None:
        """Journal an event and carry out what follows. Called under the lock.

        Raises:
            OSError, SQLAlchemyError: the event is not in the journal: whoever has it tries again.
        """
        if self._closed.is_set():
            raise Closed
        if not self._whole:
            self._revive()
        before = self._journaled.actor.state
        try:
            effects = self._journaled.handle(event, tuple(self._unsent.values()))
        except TROUBLE:
            self._whole = False
            raise
        self._carry_out(effects)
        after = self._journaled.actor.state
        if after is not before:
            self._changed(after)

    def _revive(self) -> None:
        """Build the actor anew from its journal."""
        effects = self._journaled.recover()
        self._whole = True
        self._again |= {self._key(e) for e in effects if isinstance(e, Send | Record)}
        self._carry_out(effects)

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Run():
                    self._work.put(effect)
                case Send():
                    self._queue(effect)
                case Timer():
                    self._timers.add(effect.due, effect)
                case Record(kind="round"):
                    self._log.info("round closed", **_told(effect.state))
                    if self._is_closer:
                        self._queue(effect)
                case Record():
                    self._log.warning(effect.kind, step=effect.step, reason=effect.reason)
                    self._traffic.refused(effect)
        self._end()

    def _queue(self, effect: Send | Record) -> None:
        key = self._key(effect)
        self._unsent[key] = effect
        what = effect if isinstance(effect, Send) else self._traffic.log(effect, at=self._clock())
        self._outgoing.put((key, what))

    def _end(self) -> None:
        """When the run is over, hand the researcher the model that this party holds."""
        state, model = self._journaled.actor.state, self._journaled.actor.model
        if state.status == "running":
            return
        self._timers.clear()
        if self.party in state.models and not self._modelled:
            self._modelled = True
            self._outgoing.put((("model", state.round), Model(state, model)))
        self._outgoing.put((None, None))

    @staticmethod
    def _key(effect: Send | Record) -> object:
        if isinstance(effect, Send):
            return effect.release.number
        assert effect.state is not None
        return ("log", effect.state.round, effect.state.attempt)

    def _due(self, what: object) -> None:
        assert isinstance(what, Timer)
        if self._is_current(what):  # of rounds that are over, nothing is journaled
            seen = self._seen()
            self._retry(TimedOut(what.round, what.attempt, what.step, self._clock(), seen))

    def _retry(self, event: Event) -> None:
        """Hand an event in until the journal takes it."""
        while not self._closed.is_set():
            try:
                with self._lock:
                    self._handle(event)
                return
            except Closed:
                return
            except TROUBLE as error:
                self._log.error("journal refused", reason=type(error).__name__, retry_s=RETRY)
                self._closed.wait(RETRY)

    # -- work --------------------------------------------------------------------------------------

    def _work_all(self) -> None:
        while (run := self._work.get()) is not None:
            try:
                if self._is_current(run):
                    self._retry(self._performed(run))
            except Closed:
                return
            except TROUBLE as error:
                self._log.error("work refused", reason=type(error).__name__, retry_s=RETRY)
                self._closed.wait(RETRY)
                self._work.put(run)

    def _is_current(self, run: Run | Timer) -> bool:
        state = self._journaled.actor.state
        running = state.status == "running" and not self._closed.is_set()
        return running and (run.round, run.attempt) == (state.round + 1, state.attempt)

    def _performed(self, run: Run) -> Done:
        refusal = self._allowed(run.round)
        if self._worker is None or refusal:
            reason = refusal or "this party has no records"
            return Done(run.round, run.attempt, run.step.id, None, None, reason, self._clock())
        with self._turn():
            return self._worker.run(run, at=self._clock)

    # -- the mailbox -------------------------------------------------------------------------------

    @property
    def _is_closer(self) -> bool:
        return self.party == self.run.plan.topology.closer

    def _post_all(self) -> None:
        while (item := self._outgoing.get()) is not None:
            key, what = item
            try:
                self._post(key, what)
            except Closed:
                return
            except RefusedError as error:
                self._log.error("not sent", reason=str(error))
            except CohortiumError as error:
                self._log.error("not sent; it is tried again at the next start", reason=str(error))
                continue
            with self._lock:
                self._unsent.pop(key, None)
                self._again.discard(key)

    def _post(self, key: object, what: Outgoing) -> None:
        if what is None:
            self.settled.set()
            return
        head, parts = self._message(what)
        if (key in self._again or isinstance(what, Model)) and self._courier.has(head.id):
            return
        hosts = {self._host_of(party) for party in head.to}
        receivers = dict(self._receivers(sorted(hosts)))
        if not receivers:
            raise RefusedError("none of its readers has a key that this run knows")
        frame, ciphertext = seal(head, parts, signer=self._identity, receivers=receivers)
        with self._lock:
            self._traffic.sent(frame, at=self._clock())
        self._courier.post(frame, ciphertext)

    def _receivers(self, hosts: Iterable[str]) -> Iterator[tuple[str, Certificate]]:
        """Yield the hosts that can be sealed for; one that cannot keeps nothing from the others."""
        for host in hosts:
            try:
                yield host, self._certificate(host)
            except RefusedError as error:
                self._log.error("reader left out", host=host, reason=str(error))

    def _message(self, what: Send | RoundLog | Model) -> tuple[Head, list[Any]]:
        if isinstance(what, Send):
            release = what.release
            head = Head(
                run=self.run.id,
                sender=self.party,
                to=tuple(what.to),
                number=release.number,
                kind="release",
                round=release.round,
                attempt=release.attempt,
                step=release.step,
            )
            return head, list(to_parts(release.payload))
        head = Head(
            run=self.run.id,
            sender=self.party,
            to=(self.run.roster.researcher.name,),
            number=0,
            kind="model" if isinstance(what, Model) else "log",
            round=what.state.round,
            attempt=what.state.attempt,
            step="",
        )
        return head, model_parts(what.params) if isinstance(what, Model) else [encode_log(what)]

    def _host_of(self, party: str) -> str:
        researcher = self.run.roster.researcher.name
        return party if party == researcher else self.run.roster.host_of(PartyId(party))

    def _certificate(self, host: str, serial: int | None = None) -> Certificate:
        """Return a host's certificate under the key that the run pins for it.

        Raises:
            RefusedError: the hub's answer is not signed by that key, or is older than one before.
        """
        if serial is not None and (host, serial) in self._certificates:
            return self._certificates[host, serial]
        found = self._courier.certificate(host, serial=serial, run=self.run.id)
        found.check(self.run.roster.root_of(host))
        if found.name != host or (serial is not None and found.serial != serial):
            raise RefusedError(f"another certificate than that of {host}")
        self._certificates[host, found.serial] = found
        newest = max(s for h, s in self._certificates if h == host)
        return found if serial is not None else self._certificates[host, newest]

    def _check(self, frame: Frame) -> Certificate:
        """Return the certificate of who signed a frame that this party may read."""
        if frame.run != self.run.id or self.party not in frame.to or frame.kind != "release":
            raise RefusedError("not for this party")
        if PartyId(frame.sender) not in self.run.plan.parties:
            raise RefusedError("its sender has no part in the plan")
        if frame.host != self.run.roster.host_of(PartyId(frame.sender)):
            raise RefusedError(f"{frame.host} does not speak for {frame.sender}")
        sender = self._certificate(frame.host, frame.serial)
        frame.check(sender)
        return sender

    def _matters(self, frame: Frame) -> bool:
        """Tell whether the actor could use a frame: what it would ignore is not kept either."""
        plan, state = self.run.plan, self._journaled.actor.state
        if frame.step == plan.layout(state.round + 1).closing.id:
            return frame.sender == plan.topology.closer
        ahead = frame.round - (state.round + 1)
        if ahead < 0 or frame.round > max(plan.rounds, 1) or frame.attempt >= plan.attempts:
            return False
        layout = plan.layout(frame.round if ahead <= AHEAD else state.round + 1)
        step = layout.get(frame.step)
        if step is None or (ahead > AHEAD and step.op != "consensus"):
            return False
        return step.party == frame.sender and self.party in layout.readers[step.id]

    def _opened(self, frame: Frame, sender: Certificate) -> Any:
        declaration = self.run.agreement.declaration
        sites = len(self.run.roster.seats)
        most = most_bytes(declaration.layout, declaration.statistics, sites=sites)
        if frame.size > most:
            raise RefusedError(f"{frame.size} bytes are more than the {most} that can be due")
        blob = self._courier.fetch(frame.blob, frame.payload_size) if frame.blob else b""
        data = open_frame(frame, blob, identity=self._identity, sender=sender, limit=most)
        return from_bytes(data, declaration.layout)

    def _sites_of(self, frame: Frame) -> tuple[SiteId, ...]:
        sites = [seat.site for seat in self.run.roster.seats if seat.site == frame.sender]
        return tuple(sites)

    def _check_not_behind(self) -> None:
        number, peer = highest(
            self._courier.receipts(self.run.id, self.party),
            run=self.run.id,
            party=self.party,
            own=partial(self._certificate, self._identity.name),
        )
        check_not_behind(self._journaled.actor.gate.released, number, peer)


def _told(state: State | None) -> dict[str, Any]:
    if state is None:
        return {}
    return {"round": state.round, "attempt": state.attempt, "status": state.status}

"""The time under one set of keys and settings: lease, what went on before, mail, and an end.

One thread asks the hub for mail and hands it to the hosts of this node's parties; what it
acknowledges is in their journals. What comes twice changes nothing, so that nothing has to be
remembered of the mail itself.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import partial
from shutil import rmtree
from typing import Any
from urllib.parse import quote

import structlog
from sqlalchemy.exc import SQLAlchemyError

from cohortium.data.local import prepare_local
from cohortium.errors import ArgumentError, CohortiumError, Problem, RefusedError
from cohortium.governance.grant import Grant
from cohortium.governance.roster import Roster
from cohortium.host.courier import Closed
from cohortium.host.run import HostedRun
from cohortium.identity import Certificate, Document, Identity
from cohortium.node.carrying import Carrier, Watch, check_run
from cohortium.node.consents import Offer
from cohortium.node.courier import TURNED_AWAY, HubCourier
from cohortium.node.joining import client_of
from cohortium.node.limits import Turns
from cohortium.node.links import Desk, Links, listening
from cohortium.node.metrics import Metrics
from cohortium.node.notify import Notifier, stopped, waits_for_approval
from cohortium.node.runs import KnownRun
from cohortium.node.settings import Settings
from cohortium.node.site import Site
from cohortium.node.work import StudyWork, make_worker
from cohortium.plan.plan import State
from cohortium.transport.blobs import FolderBlobs
from cohortium.transport.envelope import Frame
from cohortium.transport.errors import (
    ConflictError,
    UnauthorisedError,
    UnknownError,
    UnreachableError,
)
from cohortium.transport.nonces import Nonces
from cohortium.worker.worker import Worker

POLL = 50.0
"""Seconds for which the hub may keep a question for mail; proxies cut at a minute."""

LEASE_WAIT, LEASE_TRIES = 25.0, 5
"""How long the hub may wait for a predecessor to be gone, and how often it is asked to."""

RETRY = 5.0
"""Seconds before mail is taken in again where this machine's disk was in the way."""

DAY, PAYLOAD_DAYS = 24 * 3600.0, 7
BRIEF = 0.5
"""A pause between two tries, in seconds, up to which the hub does not count as away."""

CONTACT = 30.0
"""Seconds after which it is written down again that the hub answers."""

ENDED = ("finished", "stopped", "failed")
OUTCOME = 600.0
"""Seconds for which a run goes on here after the hub has said that it ended."""

MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What comes of reading something that the hub made up."""

TROUBLE = (OSError, SQLAlchemyError)
"""What a journal meets that may pass."""


class Session:
    """A node at its hub.

    Args:
        site: the node's folder.
        settings: what the hospital allows.
        notifier: tells people.
        metrics: counts.
    """

    def __init__(
        self, site: Site, settings: Settings, *, notifier: Notifier, metrics: Metrics
    ) -> None:
        self._site, self._settings, self._home = site, settings, site.home
        self._notifier, self._metrics = notifier, metrics
        self._log = structlog.get_logger()
        self._identity = self._home.identity()
        self._client = client_of(
            self._home, identity=self._identity, patience=None, waiting=self._away
        )
        self._root = self._client.hub.root
        self._links, self._brought = self._direct()
        self._courier = HubCourier(
            self._client,
            self._home.inbox,
            turned_away=self._turned_away,
            links=self._links,
            direct=self._brought,
        )
        self._turns = Turns(settings.limits, self._home.folder, spent=self._spent)
        self._carriers: dict[str, Carrier] = {}
        self._works: dict[str, StudyWork] = {}
        self._rosters: dict[str, Roster] = {}
        self._timers: dict[str, threading.Timer] = {}
        self._receipts = _Receipts()
        self._announced: set[tuple[str, float]] = set()
        self._stopping = threading.Event()
        self._refusal: RefusedError | None = None
        self._instance = ""
        self._is_away, self._contact = False, 0.0

    def _direct(self) -> tuple[Links | None, FolderBlobs | None]:
        """Return the ways to peers, and where what they bring waits; a broker allows neither."""
        listens = self._settings.direct.listen is not None
        if self._home.hub()["broker"]:
            if listens:
                got, advice = "a listener, behind an honest broker", "Remove [direct]"
                expected = "none: an address would tell who takes part"
                raise ArgumentError(Problem("node.toml", "direct", got, expected, advice))
            return None, None
        blobs = FolderBlobs(self._home.inbox / "direct") if listens else None
        return Links(self._identity, self._certificate), blobs

    # -- from start to end -------------------------------------------------------------------------

    def run(self) -> None:
        """Take part until `close`.

        Raises:
            RefusedError: the hub turned this node away.
        """
        try:
            self._lease()
            self._tidy()
            with self._listening():
                for known in self._site.runs.going_on():
                    self._carry(known)
                self._look_around()
                self._poll()
        except (Closed, UnreachableError):
            if self._refusal is not None:
                raise self._refusal from None
            if not self._stopping.is_set():
                raise
        finally:
            self.close(now=True)

    def close(self, *, now: bool = False) -> None:
        """End; may be called from any thread, and again.

        Args:
            now: kill what computes and send nothing more; else steps in progress end first.
        """
        if not now:
            self._turns.stop()
            for carrier in list(self._carriers.values()):
                carrier.drain()
        self._stopping.set()
        for carrier in list(self._carriers.values()):
            carrier.close()
        self._turns.stop()
        for work in list(self._works.values()):
            work.stop(now=True)
        for timer in list(self._timers.values()):
            timer.cancel()
        if self._links is not None:
            self._links.close()
        self._client.close()
        if not now:
            self._release()

    @property
    def is_away(self) -> bool:
        """Whether the hub does not answer."""
        return self._is_away

    # -- the hub -----------------------------------------------------------------------------------

    def _lease(self) -> None:
        """Let this process act for the site; the one before it must be gone.

        A name that the hub may not have taken yet is used again, so that a crash in between does
        not break the chain.
        """
        names = self._site.fact("instance") or {"id": "", "before": "", "taken": True}
        if names["taken"]:
            names = {"id": secrets.token_hex(16), "before": names["id"], "taken": False}
            self._site.remember("instance", names)
        self._instance = str(names["id"])
        body = {"instance": self._instance, "predecessor": names["before"]}
        body["address"] = self._settings.direct.address or ""
        for left in reversed(range(LEASE_TRIES)):
            try:
                self._client.call("POST", "/v1/lease", body, wait=LEASE_WAIT)
                break
            except ConflictError as error:
                if not left or self._stopping.wait(RETRY):
                    raise
                self._log.info("waiting for an earlier process to be gone", reason=str(error))
        self._site.remember("instance", {**names, "taken": True})
        self._seen()

    def _release(self) -> None:
        """Let the next process take over at once; if the hub is away, it waits a little."""
        if not self._instance:
            return
        body = {"instance": self._instance, "ended": True}
        impatient = client_of(self._home, identity=self._identity, timeout=3.0, patience=0.0)
        with closing(impatient), suppress(CohortiumError):
            impatient.call("POST", "/v1/lease", body)

    def _poll(self) -> None:
        after = 0
        while not self._stopping.is_set():
            sent = self._receipts.all()
            body = {
                "instance": self._instance,
                "after": after,
                "wait": POLL,
                "receipts": [document.to_json() for document in sent],
            }
            mail = self._client.call("POST", "/v1/inbox", body, wait=POLL)
            self._receipts.drop(sent)
            self._seen()
            generation, messages = _mail(mail)
            if self._is_another(generation):
                after = 0
                continue
            for seq, message in messages:
                found = self._taken(message)
                if found is None:
                    break
                after = seq
                self._receipts.add(found)

    def _is_another(self, generation: str) -> bool:
        """Tell whether the hub was restored from a backup; send it again what it may have lost."""
        known = self._site.fact("generation")
        if known == generation:
            return False
        if known is not None:
            self._log.warning("the hub was restored from a backup; sending again what it lost")
            for carrier in list(self._carriers.values()):
                carrier.resend()
            self._look_around()
        self._site.remember("generation", generation)
        return known is not None

    def _look_around(self) -> None:
        """Learn what the hub offers, and what was started meanwhile."""
        with self._refusing():
            for study in self._client.call("GET", "/v1/studies"):
                with self._refusing():
                    self._offered(study)
                    if study["run"] and study["status"] in ("running", "paused"):
                        self._begin(str(study["run"]))

    def _tidy(self) -> None:
        """Drop journals of runs that ended long ago, and payloads that nobody asked for again."""
        now, limits = self._site.clock(), self._settings.limits
        for run in self._site.runs.all():
            if not run.goes_on and run.changed < now - DAY * limits.journal_days:
                self._site.runs.erase(run.run, self._home.journal)
        for folder in (self._home.inbox / "direct").glob("*"):
            rmtree(folder, ignore_errors=True)
        for path in self._home.inbox.glob("*"):
            if path.is_file() and path.stat().st_mtime < now - DAY * PAYLOAD_DAYS:
                path.unlink()

    def _away(self, error: CohortiumError, seconds: float) -> None:
        if seconds > BRIEF and not self._is_away and not self._stopping.is_set():
            self._is_away = True
            self._metrics.reachable.set(0)
            self._log.warning("the hub does not answer; trying on", reason=str(error))

    def _seen(self) -> None:
        if self._is_away:
            self._is_away = False
            self._log.info("the hub is back")
        self._metrics.reachable.set(1)
        if time.monotonic() - self._contact > CONTACT:
            self._contact = time.monotonic()
            self._site.remember("contact", self._site.clock())

    def _turned_away(self, error: RefusedError) -> None:
        """End the session: a party was told that the hub does not talk to this node."""
        self._refusal = error
        self._client.close()

    # -- direct links ------------------------------------------------------------------------------

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Take in what peers bring directly, if this hospital chose to listen."""
        direct = self._settings.direct
        if direct.listen is None or direct.address is None or self._brought is None:
            yield
            return
        nonces = Nonces(self._home.folder / "nonces")
        desk = Desk(
            identity=self._identity,
            blobs=self._brought,
            nonces=nonces,
            runs=lambda: list(self._carriers),
            lookup=self._certificate,
            deliver=self._brought_frame,
        )
        with closing(nonces), listening(direct.listen, direct.address, desk, self._home.folder):
            self._log.info("listening for direct links", at=direct.listen)
            yield

    def _brought_frame(self, frame: Frame) -> None:
        """Take in a frame that a peer brought; its receipts go to the hub with the next poll."""
        if frame.run not in self._carriers:
            raise UnknownError(f"the run {frame.run}", "one that goes on here")
        self._receipts.add(self._frame(frame))

    def _learn_addresses(self) -> None:
        """Ask where peers listen."""
        if self._links is not None:
            with self._refusing():
                found = self._client.call("GET", "/v1/directory")
                self._links.addresses = {
                    each["name"]: each["address"] for each in found if not each["revoked"]
                }

    def _certificate(self, host: str, serial: int | None, run: str) -> Certificate:
        """Return a host's certificate under the key that a run's roster pins for it."""
        roster = self._rosters.get(run)
        if roster is None:
            raise UnknownError(f"the run {run}", "one that goes on here")
        found = self._courier.certificate(host, serial=serial, run=run)
        found.check(roster.root_of(host))
        return found

    # -- mail --------------------------------------------------------------------------------------

    def _taken(self, message: Mapping[str, Any]) -> list[Document] | None:
        """Take in a message; return receipts, or None where it has to come again."""
        try:
            with self._refusing():
                if message["kind"] == "frame":
                    return self._frame(Frame.from_json(message["frame"]))
                self._notice(message["notice"])
        except TROUBLE as error:
            kind = type(error).__name__
            self._log.error("mail cannot be kept; trying again", reason=kind, retry_s=RETRY)
            self._stopping.wait(RETRY)
            return None
        return []

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Go on without something of the hub that is refused, or that cannot be read."""
        try:
            yield
        except (*TURNED_AWAY, UnreachableError):
            raise
        except CohortiumError as error:
            self._log.warning("mail refused", reason=str(error))
        except MALFORMED as error:
            self._log.warning("mail refused", reason=f"malformed ({type(error).__name__})")

    def _frame(self, frame: Frame) -> list[Document]:
        self._metrics.frames.inc()
        carrier, receipts = self._carriers.get(frame.run), list[Document]()
        if carrier is not None:
            with self._unless_over(frame.run):
                receipts = carrier.deliver(frame)
        self._courier.forget(frame.blob)
        return receipts

    @contextmanager
    def _unless_over(self, run: str) -> Iterator[None]:
        """Drop mail of a run that ends here at this moment: nobody needs it any more."""
        try:
            yield
        except Closed:
            if run in self._carriers:  # it is the session that ends
                raise

    def _notice(self, notice: Mapping[str, Any]) -> None:
        match notice.get("kind"):
            case "study":
                self._changed(str(notice["digest"]))
            case "run":
                self._begin(str(notice["run"]))
            case "control":
                self._order(notice)
            case kind:
                self._log.warning("unknown notice", kind=str(kind))

    def _changed(self, digest: str) -> None:
        try:
            study = self._client.call("GET", f"/v1/studies/{quote(digest, safe='')}")
        except UnknownError:  # it ended before anybody here had approved it
            self._site.consents.withdrawn(digest)
            return
        self._offered(study)
        if study["run"] in self._carriers and study["status"] in ENDED:
            told = f": {study['reason']}" if study["reason"] else ""
            reason = f"the hub says that it {study['status']}{told}; no outcome came"
            timer = threading.Timer(OUTCOME, self._give_up, (study["run"], reason))
            timer.daemon = True
            self._timers[study["run"]] = timer
            timer.start()

    def _give_up(self, run: str, reason: str) -> None:
        """Leave a run that ended elsewhere, if its outcome did not come meanwhile: such as that of
        a hub which was restored from an old backup.
        """
        carrier, known = self._carriers.get(run), self._site.runs.get(run)
        if carrier is not None and known is not None and carrier.state.status == "running":
            self._fail(known, reason)
            self._count()

    def _offered(self, study: Mapping[str, Any]) -> None:
        offer = self._site.consents.offered(study)
        wanted = study["sites"] is None or self._identity.name in study["sites"]
        asked = offer.digest, float(study["submitted_at"])
        if offer.waits and wanted and not offer.notified and asked not in self._announced:
            self._announced.add(asked)
            self._log.info("a study waits for approval", study=offer.digest[:12])
            message = waits_for_approval(offer.name, purpose=offer.purpose, digest=offer.digest)
            self._notifier.send(message)
        self._count()

    def _order(self, notice: Mapping[str, Any]) -> None:
        run, op = str(notice["run"]), notice.get("op")
        carrier = self._carriers.get(run)
        if carrier is None:
            return
        with self._unless_over(run):
            carrier.control(notice)
            if op in ("pause", "resume"):
                self._site.runs.set(run, status="paused" if op == "pause" else "running")

    # -- runs --------------------------------------------------------------------------------------

    def _begin(self, run: str) -> None:
        """Take part in a run that was started, if it is what this site approved."""
        known = self._site.runs.get(run)
        if known is not None:
            if known.goes_on and run not in self._carriers:
                self._carry(known)
            return
        told = self._client.call("GET", f"/v1/runs/{quote(run, safe='')}")
        document, study = Document.from_json(told["roster"]), str(told["study"])
        try:
            hosted = self._hosted(document, study)
            if hosted.id != run:
                raise RefusedError("the roster is another run's")
            consent = self._unused(study)
        except (CohortiumError, LookupError) as error:
            self._refuse(run, study, document, reason=str(error))
            return
        self._site.runs.add(run, study, document, consent=consent)
        known = self._site.runs.get(run)
        assert known is not None
        self._carry(known)

    def _unused(self, study: str) -> str:
        """Return the digest of this site's consent, if no run has begun on it: it is to one."""
        grant = self._site.consents.get(study).grant
        consent = "" if grant is None else grant.digest
        if self._site.runs.used(consent):
            raise RefusedError("the consent was to one run, which began before: approve it again")
        return consent

    def _hosted(self, document: Document, study: str) -> HostedRun:
        """Return a run after checking it against this site's own copy of the study and consent."""
        offer = self._site.consents.get(study)
        run = HostedRun.of(document, self._site.bundles.load(study), hub=self._root)
        broker = bool(self._home.hub()["broker"])
        check_run(run, offer, keys=self._keys(offer), broker=broker)
        return run

    def _refuse(self, run: str, study: str, document: Document, *, reason: str) -> None:
        self._log.error("run refused", run=run, study=study[:12], reason=reason)
        self._metrics.refused.labels("run").inc()
        self._site.runs.add(run, study, document, refusal=reason)
        self._tell_stopped(study)

    def _carry(self, known: KnownRun) -> None:
        """Begin a run, or go on with it."""
        try:
            run = self._hosted(known.roster, known.study)
            offer = self._site.consents.get(known.study)
            self._rosters[known.run] = run.roster
            self._learn_addresses()
            carrier = Carrier(
                self._site,
                run,
                keys=self._keys(offer),
                courier=self._courier,
                work=self._work(run, offer),
                watch=Watch(self._moved, self._ended),
            )
            carrier.start()
            self._carriers[known.run] = carrier
            carrier.watch()
        except CohortiumError as error:
            self._fail(known, str(error))
        self._count()

    def _fail(self, known: KnownRun, reason: str) -> None:
        carrier, work = self._carriers.pop(known.run, None), self._works.pop(known.run, None)
        if carrier is not None:
            carrier.close()
        if work is not None:
            work.stop(now=True)
        self._log.error("run stopped here", run=known.run, study=known.study[:12], reason=reason)
        self._site.runs.set(known.run, status="failed", reason=reason)
        self._tell_stopped(known.study)

    def _work(self, run: HostedRun, offer: Offer) -> StudyWork:
        make = partial(self._worker, run, offer)
        failed = partial(self._failed, run.id)
        work = StudyWork(offer.digest, make, self._turns, failed=failed)
        self._works[run.id] = work
        return work

    def _worker(self, run: HostedRun, offer: Offer) -> Worker:
        """Read the records that were approved, if they are still the same, and make the worker."""
        assert offer.grant is not None
        fingerprint = Grant.of(offer.grant).fingerprint
        dataset = self._site.datasets.approved(offer.dataset, fingerprint)
        name = self._keys(offer).name
        prepared = prepare_local(dataset, run.bundle.study, site=name)
        return make_worker(run.bundle, prepared, self._settings, party=name)

    def _keys(self, offer: Offer) -> Identity:
        return offer.identity or self._identity

    # -- what happens in a run ---------------------------------------------------------------------

    def _moved(self, run: str, state: State) -> None:
        """Keep how far a run is; it ends for this node when everything that it owed was sent."""
        self._metrics.rounds.inc()
        with self._unless_refused():
            self._site.runs.set(run, round=state.round)

    def _ended(self, carrier: Carrier, state: State) -> None:
        """Let go of a run whose parties here have ended and sent everything."""
        run, study = carrier.run.id, carrier.run.plan.study
        try:
            if carrier.closes_rounds:
                body = {"status": state.status, "reason": state.reason}
                self._client.call("POST", f"/v1/runs/{run}/end", body)
        except (RefusedError, UnreachableError) as error:
            self._log.warning("the hub was not told of the end", run=run, reason=str(error))
        ended = {"status": state.status, "round": state.round, "reason": state.reason}
        with self._unless_refused():  # else it ends once more after the next start
            self._site.runs.set(run, **ended)
        self._carriers.pop(run, None)
        carrier.close()
        work = self._works.pop(run, None)
        if work is not None:
            work.stop()
        self._log.info("run ended", run=run, study=study[:12], status=state.status)
        if state.status == "stopped":
            self._tell_stopped(study)
        self._count()

    def _failed(self, run: str, reason: str) -> None:
        self._metrics.failures.inc()
        with self._unless_refused():
            self._site.runs.set(run, trouble=reason)

    def _spent(self, study: str, seconds: float) -> None:
        self._metrics.seconds.inc(seconds)
        with self._unless_refused():
            self._site.consents.spent(study, seconds)

    @contextmanager
    def _unless_refused(self) -> Iterator[None]:
        """Go on without a note, where the disk refuses it: a run must not end of that."""
        try:
            yield
        except TROUBLE as error:
            self._log.error("a note was not kept", reason=type(error).__name__)

    def _tell_stopped(self, study: str) -> None:
        offer = self._site.consents.get(study)
        self._notifier.send(stopped(offer.name, purpose=offer.purpose, digest=study))

    def _count(self) -> None:
        self._metrics.runs.set(len(self._carriers))
        self._metrics.waiting.set(sum(offer.waits for offer in self._site.consents.all()))


def _mail(told: Any) -> tuple[str, list[tuple[int, Any]]]:
    """Return an inbox's generation, and its messages with their numbers.

    Raises:
        UnauthorisedError: it is none; as with what no hub signed, it may be better later.
    """
    try:
        return str(told["generation"]), [(int(each["seq"]), each) for each in told["messages"]]
    except MALFORMED as error:
        raise UnauthorisedError("mail that cannot be read", "an inbox") from error


class _Receipts:
    """Receipts that wait to be sent: of each party that sent, the one with the highest number."""

    def __init__(self) -> None:
        self._newest: dict[tuple[str, str, str], Document] = {}
        self._lock = threading.Lock()

    def add(self, documents: Iterable[Document]) -> None:
        with self._lock:
            for document in documents:
                body = document.body
                subject = body["run"], body["from"], body["host"]
                known = self._newest.get(subject)
                if known is None or known.body["number"] < body["number"]:
                    self._newest[subject] = document

    def all(self) -> list[Document]:
        with self._lock:
            return list(self._newest.values())

    def drop(self, sent: Iterable[Document]) -> None:
        """Drop what was sent, unless there is something newer by now."""
        with self._lock:
            gone = {document.signature for document in sent}
            self._newest = {k: d for k, d in self._newest.items() if d.signature not in gone}

"""The parties that the hub itself carries: by default the aggregators and the clerk of every run.

They are hosts like any other, in the hub's own process: frames come from the mailbox and go to it,
sealed and signed as everybody's, only without HTTPS in between.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from cohortium.errors import CohortiumError, RefusedError
from cohortium.governance.roster import HUB
from cohortium.host.courier import Closed
from cohortium.host.host import Host
from cohortium.host.journal import SqlJournal
from cohortium.host.run import HostedRun
from cohortium.hub.mailbox import Message
from cohortium.hub.runs import ENDED
from cohortium.hub.service import HubService
from cohortium.identity import Certificate, Document
from cohortium.learning.model_file import from_bytes
from cohortium.plan.plan import State
from cohortium.transport.envelope import Data, Frame
from cohortium.transport.errors import UnavailableError
from cohortium.types import Params, PartyId

T = TypeVar("T")

RETRY = 5.0
"""Seconds before the database or the disk is asked again after it refused."""

WAIT = 50.0
"""Seconds for which the inbox waits."""

TROUBLE = (OSError, SQLAlchemyError, UnavailableError)
"""What may pass by itself: a full disk, a database that restarts."""


class LocalCourier:
    """Takes frames straight to the hub's mailbox.

    Args:
        service: the hub.
        closed: set when the hub stops.
    """

    def __init__(self, service: HubService, closed: threading.Event) -> None:
        self._service, self._closed = service, closed
        self._log = structlog.get_logger()

    def post(self, frame: Frame, ciphertext: Data) -> None:
        """Keep a frame; it is durable when this returns."""
        if frame.blob:
            self._patiently(partial(self._service.depot.put, HUB, frame.blob, ciphertext))
        self._patiently(partial(self._service.mailbox.post, HUB, frame))

    def has(self, frame_id: str) -> bool:
        """Tell whether the mailbox was given a frame before."""
        return self._patiently(partial(self._service.mailbox.has, HUB, frame_id))

    def fetch(self, digest: str, size: int) -> Data | Path:
        """Return a blob, as the file that it is, where it is one."""
        blobs = self._service.depot.blobs
        return blobs.path(digest) or self._patiently(partial(blobs.read, digest, 0, size))

    def certificate(self, host: str, *, serial: int | None = None, run: str = "") -> Certificate:
        """Return a host's newest certificate, or that of a serial."""
        hub = self._service.registry.get(HUB)
        return self._service.certificate(hub, host, serial=serial or 0, run=run)

    def receipts(self, run: str, party: str) -> list[Document]:
        """Return the newest receipt of each host that has had frames of a party."""
        return self._patiently(partial(self._service.mailbox.receipts, HUB, run, party))

    def inbox(self, after: int, wait: float) -> list[Message]:
        """Return the hub's own mail after a number; wait for some if there is none."""
        woken = threading.Event()
        with self._service.bells.listening(HUB, woken.set):
            messages = self._service.mailbox.waiting(HUB, after)
            if not messages:
                woken.wait(wait)
                messages = self._service.mailbox.waiting(HUB, after)
        return messages

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask until the disk and the database answer.

        Raises:
            Closed: the hub stops.
        """
        while True:
            if self._closed.is_set():
                raise Closed
            try:
                return ask()
            except TROUBLE as error:
                self._log.error("mailbox refused", reason=type(error).__name__, retry_s=RETRY)
                self._closed.wait(RETRY)


class Parties:
    """All parties that a hub carries, each with its journal.

    Args:
        service: the hub.
    """

    def __init__(self, service: HubService) -> None:
        self._service, self._closed = service, threading.Event()
        self._courier = LocalCourier(service, self._closed)
        self._hosts: dict[str, list[Host]] = {}
        self._thread = threading.Thread(target=self._run, name="parties", daemon=True)
        self._log = structlog.get_logger()

    def start(self) -> None:
        """Go on with all runs where their journals stand, and take part in those to come."""
        self._thread.start()

    def are_carried(self) -> bool:
        """Tell whether the thread that carries them lives."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop; every journal is whole."""
        self._closed.set()
        self._service.bells.ring([HUB])
        self._thread.join()
        for host in self._all():
            host.close()

    # -- the loop ----------------------------------------------------------------------------------

    def _run(self) -> None:
        self._courier_patiently(self._go_on)
        after = 0
        while not self._closed.is_set():
            after = self._courier_patiently(partial(self._once, after)) or after

    def _courier_patiently(self, do: Callable[[], T]) -> T | None:
        try:
            return self._courier._patiently(do)
        except Closed:
            return None

    def _go_on(self) -> None:
        for run in self._service.runs.carried():
            self._open(run.id)

    def _once(self, after: int) -> int:
        """Take in what has come, acknowledge it, and return its last number."""
        messages = self._courier.inbox(after, 0.0 if self._closed.is_set() else WAIT)
        receipts: list[Document] = []
        for message in messages:
            receipts += self._survived(partial(self._take, message)) or []
        if messages:
            after = int(messages[-1]["seq"])
            self._acknowledge(after, receipts)
        for run in list(self._hosts):
            self._survived(partial(self._look_after, run))
        return after

    def _acknowledge(self, after: int, receipts: list[Document]) -> None:
        """Forget what was taken in; a receipt that is refused is no reason to read it all again."""
        try:
            self._service.mailbox.acknowledge(HUB, after, receipts)
        except RefusedError as error:
            self._log.error("receipts refused", reason=str(error))
            self._service.mailbox.acknowledge(HUB, after)

    def _survived(self, do: Callable[[], T]) -> T | None:
        """Let a fault in one run, whoever provoked it, end in the log: the others go on."""
        try:
            return do()
        except (Closed, *TROUBLE):
            raise
        except Exception as error:  # noqa: BLE001 - the boundary between runs
            self._log.error("fault in a run", exc_info=error)
            return None

    def _take(self, message: Message) -> list[Document]:
        """Hand one message to the parties that it is for; return their receipts."""
        if message["kind"] == "notice":
            self._notice(message["notice"])
            return []
        frame = Frame.from_json(message["frame"])
        hosts = self._hosts.get(frame.run, ())
        given = [host.deliver(frame) for host in hosts if host.party in frame.to]
        return [receipt for receipt in given if receipt is not None][:1]

    def _notice(self, notice: dict[str, Any]) -> None:
        if notice["kind"] == "run" and notice["run"] not in self._hosts:
            self._open(notice["run"])
        if notice["kind"] == "control":
            for host in self._hosts.get(notice["run"], ()):
                host.control(notice)

    # -- runs --------------------------------------------------------------------------------------

    def _open(self, name: str) -> None:
        """Begin a run's parties, or go on with them; one that cannot go on has failed."""
        log = self._log.bind(run=name)
        hosts: list[Host] = []
        try:
            for host in self._made(name):
                hosts.append(host)
                host.start()
        except CohortiumError as error:
            if isinstance(error, TROUBLE):
                raise
            log.error("run failed", reason=str(error))
            for host in hosts:
                host.close()
            self._service.studies.end(name, "failed", f"the hub cannot carry it: {error}")
            self._service.runs.set_down(name)
            return
        self._hosts[name] = hosts
        threading.Thread(
            target=self._await_end, args=(hosts,), name=f"end {name}", daemon=True
        ).start()
        log.info("run carried", parties=[host.party for host in hosts])

    def _made(self, name: str) -> Iterable[Host]:
        service = self._service
        run = service.runs.get(name)
        bundle = service.studies.bundle(run.study)
        hosted = HostedRun.of(run.document, bundle, hub=service.registry.identity.root.public)
        for party in hosted.parties_of(HUB):
            yield self._host(hosted, party)

    def _host(self, run: HostedRun, party: PartyId) -> Host:
        service = self._service
        journal = SqlJournal(
            service.engine,
            service.folder.parties,
            run=run.id,
            party=party,
            gate=run.gate(party),
        )
        return Host(
            run,
            party,
            identity=service.registry.identity,
            courier=self._courier,
            journal=journal,
            initial=partial(self._initial, run),
            clock=service.clock,
            seen=partial(self._seen, run.id),
            changed=self._changed,
        )

    def _seen(self, name: str) -> dict[PartyId, str]:
        """Return since when nothing has come from the hosts of a run that are not online."""
        members, leases = self._service.runs.get(name).members, self._service.leases
        told = {PartyId(host): leases.silence(member) for host, member in members.items()}
        return {host: silence for host, silence in told.items() if silence and host != HUB}

    def _initial(self, run: HostedRun) -> Params:
        """Return the model that round 1 starts from; sites check it against their own."""
        blobs, blob = self._service.depot.blobs, run.roster.initial_blob
        content = blobs.read(blob, 0, blobs.size(blob) or 0)
        return from_bytes(content, run.roster.layout, where=f"initial model {blob[:12]}")

    def _changed(self, state: State) -> None:
        if state.status != "running":
            self._service.bells.ring([HUB])  # the loop looks after it

    def _await_end(self, hosts: Iterable[Host]) -> None:
        """Wake the loop once a run's parties have posted all that they owed."""
        for host in hosts:
            host.settled.wait()
        self._service.bells.ring([HUB])

    def _look_after(self, name: str) -> None:
        """Tell how a run has ended; set it down once all that it owed was posted."""
        hosts = self._hosts[name]
        closers = [host for host in hosts if host.party == host.run.plan.topology.closer]
        ended = [host.state for host in closers if host.state.status != "running"]
        if ended and self._service.runs.get(name).status not in ENDED:
            status = "finished" if ended[0].status == "finished" else "failed"
            self._service.studies.end(name, status, ended[0].reason)
        if all(host.settled.is_set() for host in hosts):
            for host in self._hosts.pop(name):
                host.close()
            self._service.runs.set_down(name)

    def _all(self) -> Iterable[Host]:
        return [host for hosts in self._hosts.values() for host in hosts]

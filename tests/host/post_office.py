"""A mailbox in memory for tests of hosts, which outlives them: real seals, real signatures."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cohortium.errors import RefusedError
from cohortium.governance.grant import Grant, Rows
from cohortium.governance.roster import HUB, make_roster
from cohortium.host.courier import Closed
from cohortium.host.host import Host
from cohortium.host.journal import SqlJournal
from cohortium.host.run import HostedRun
from cohortium.host.tables import MIGRATIONS
from cohortium.identity import Certificate, Document, Identity
from cohortium.records import SiteData
from cohortium.runtime.agreeing import work_of
from cohortium.runtime.events import Done, Run
from cohortium.runtime.training import Training
from cohortium.store.database import open_database
from cohortium.study.bundle import Bundle
from cohortium.transport.envelope import Data, Frame
from cohortium.types import Params, PartyId, SiteId


class PostOffice:
    """Frames and receipts of everybody; hands each frame to its readers when told to."""

    def __init__(self, identities: Iterable[Identity]) -> None:
        self.identities = {identity.name: identity for identity in identities}
        self.frames: dict[str, Frame] = {}
        self.blobs: dict[str, bytes] = {}
        self.waiting: list[tuple[str, Frame]] = []
        self.kept: dict[tuple[str, str, str], Document] = {}
        self.changed = threading.Condition()
        self.posted: list[str] = []

    def post(self, frame: Frame, ciphertext: Data) -> None:
        with self.changed:
            self.posted.append(frame.id)
            if frame.id in self.frames:
                return
            if frame.blob:
                assert hashlib.sha256(ciphertext).hexdigest() == frame.blob
                self.blobs[frame.blob] = bytes(ciphertext)
            self.frames[frame.id] = frame
            self.waiting += [(party, frame) for party in frame.to]
            self.changed.notify_all()

    def has(self, frame_id: str) -> bool:
        return frame_id in self.frames

    def fetch(self, digest: str, size: int) -> Data:
        if digest not in self.blobs:
            raise RefusedError("no such blob")
        assert len(self.blobs[digest]) == size
        return self.blobs[digest]

    def certificate(self, host: str, *, serial: int | None = None, run: str = "") -> Certificate:
        del serial, run
        return self.identities[host].certificate

    def receipts(self, run: str, party: str) -> list[Document]:
        return [d for (r, p, _), d in self.kept.items() if (r, p) == (run, party)]

    def keep(self, document: Document) -> None:
        body = document.body
        key = body["run"], body["from"], body["host"]
        if key not in self.kept or self.kept[key].body["number"] < body["number"]:
            self.kept[key] = document


class InProcess:
    """A worker in this process."""

    def __init__(self, training: Training) -> None:
        self.training = training

    def run(self, run: Run, *, at: Callable[[], float]) -> Done:
        return self.training.perform(run, at=at())


class Machine:
    """Everything of a federation on one machine, each host with a folder and keys of its own."""

    def __init__(
        self, folder: Path, bundle: Bundle, data: dict[SiteId, SiteData], task: Any
    ) -> None:
        self.folder, self.bundle, self.data, self.task = folder, bundle, data, task
        sites = [Identity.create(site, role="site", now=0.0) for site in data]
        self.hub = Identity.create(HUB, role="hub", now=0.0)
        self.researcher = Identity.create("ada", role="researcher", now=0.0)
        self.identities = {i.name: i for i in (*sites, self.hub, self.researcher)}
        self.office = PostOffice(self.identities.values())
        initial: Params = task.initial(bundle.study.study.seed)
        self.initial = initial
        consents = [(s, self._grant(s).sign(self.identities[s].root)) for s in data]
        self.roster = make_roster(
            bundle,
            consents,
            hub=self.hub.certificate,
            researcher=self.researcher.certificate,
            nonce="0" * 32,
            now=1.0,
        ).sign(self.hub.root)
        self.run = HostedRun.of(self.roster, bundle, hub=self.hub.root.public)
        self.hosts: dict[PartyId, Host] = {}

    def _grant(self, site: str) -> Grant:
        records = self.data[SiteId(site)]
        return Grant(
            study=self.bundle.digest,
            site=site,
            certificate=self.identities[site].certificate,
            dataset="d",
            fingerprint="00" * 32,
            purpose=self.bundle.study.study.purpose,
            researcher=self.researcher.name,
            researcher_root=self.researcher.root.public,
            rows=Rows(len(records.train), len(records.validation), len(records.test)),
            inputs=tuple(records.train.x.shape[1:]),
            rounds=max(self.bundle.study.plan.rounds, 1),
            until=1e12,
            layout=self.task.layout,
            initial=self.initial.digest,
            initial_blob="00" * 32,
            environment={},
            time=0.0,
        )

    def host(self, party: PartyId, **settings: Any) -> Host:
        """Return a party's host, over whatever its folder already holds."""
        carrier = self.run.roster.host_of(party)
        folder = self.folder / carrier
        folder.mkdir(parents=True, exist_ok=True)
        engine = open_database(folder / "state.sqlite", migrations=MIGRATIONS)
        gate = self.run.gate(party)
        study = self.bundle.study
        worker = None
        if SiteId(party) in self.data:
            training = Training(self.task, self.data, work_of(study), study.study.seed)
            worker = InProcess(training)
        return Host(
            self.run,
            party,
            identity=self.identities[carrier],
            courier=self.office,
            journal=SqlJournal(engine, folder, run=self.run.id, party=party, gate=gate),
            initial=lambda: self.initial,
            worker=settings.pop("worker", worker),
            **settings,
        )

    def start(self, **settings: Any) -> None:
        for party in self.run.plan.parties:
            self.hosts[party] = self.host(party, **settings)
            self.hosts[party].start()

    def deliver(self, *, until: Callable[[], bool]) -> None:
        """Hand frames over as they come, until something holds."""
        quiet = 0
        while not until():
            with self.office.changed:
                if not self.office.changed.wait_for(lambda: self.office.waiting, 0.02):
                    quiet += 1
                    if quiet > 1500:
                        raise TimeoutError("nothing came for 30 s")
                    continue
                party, frame = self.office.waiting.pop(0)
            quiet = 0
            self.hand_over(PartyId(party), frame)

    def hand_over(self, party: PartyId, frame: Frame) -> None:
        if party not in self.hosts:
            return  # the researcher's mail lies in the office
        try:
            given = self.hosts[party].deliver(frame)
        except Closed:
            return
        if given is not None:
            self.office.keep(given)

    def ended(self) -> bool:
        return all(host.settled.is_set() for host in self.hosts.values())

    def close(self) -> None:
        for host in self.hosts.values():
            host.close()

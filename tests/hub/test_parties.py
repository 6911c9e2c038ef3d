"""The parties that the hub carries: the bits of one process, whatever happens to the hub."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select
from structlog.testing import LogCapture
from tests.host.post_office import InProcess
from tests.hub.federation import Federation, federation
from tests.store.servers import BACKENDS

from cohortium.governance.grant import Rows
from cohortium.host.host import Host
from cohortium.host.journal import SqlJournal
from cohortium.host.run import HostedRun
from cohortium.host.tables import EVENTS, MIGRATIONS, SNAPSHOTS
from cohortium.hub.parties import Parties
from cohortium.hub.runs import Run
from cohortium.hub.service import HubService
from cohortium.identity import Certificate, Document
from cohortium.learning.build import build_task
from cohortium.records import Part, SiteData
from cohortium.runtime.agreeing import work_of
from cohortium.runtime.codec import model_parts
from cohortium.runtime.engine import Federation as InOneProcess
from cohortium.runtime.in_process import Sequential
from cohortium.runtime.training import Training
from cohortium.store.database import open_database, reading
from cohortium.study.bundle import Bundle
from cohortium.study.read import parse
from cohortium.transport.envelope import Data, Frame
from cohortium.types import PartyId, SiteId, derive_rng

SITES = {"a": 24, "b": 17, "c": 31}
STUDY = """
[study]
name = "s"
purpose = "To test."

[task]
kind = "regression"
model = {kind = "linear", framework = "numpy"}
optimizer = {kind = "sgd", lr = 0.1}
batch_size = 4

[data]
dataset = "d"
target = "y"
normalize = "none"
features = [{name = "x0", range = [-9, 9]}, {name = "x1", range = [-9, 9]}]
split = {test = 0.2, validation = 0.2}

[plan]
rounds = 3
local = {steps = 5}
sites = ["a", "b", "c"]
"""


def records() -> dict[SiteId, SiteData]:
    def part(site: str, use: str, rows: int) -> Part:
        rng = derive_rng(7, site, use)
        x = rng.normal(size=(rows, 2)).astype(np.float32)
        return Part(x, (x @ [1.0, -2.0]).astype(np.float32))

    return {
        SiteId(site): SiteData(part(site, "t", n), part(site, "v", 5), part(site, "e", 6))
        for site, n in SITES.items()
    }


def training_of(bundle: Bundle) -> Training:
    task: Any = bundle.study.task
    made = build_task(
        kind=task.kind,
        inputs=(2,),
        model=task.model,
        loss=task.loss,
        optimizer=task.optimizer,
        algorithm=bundle.study.plan.algorithm,
        metrics=task.metrics,
        batch_size=task.batch_size,
    )
    return Training(made, records(), work_of(bundle.study), bundle.study.study.seed)


class Courier:
    """A site's way to the hub, without HTTPS in between."""

    def __init__(self, fed: Federation, member: str) -> None:
        self.fed, self.member = fed, member

    def post(self, frame: Frame, ciphertext: Data) -> None:
        self.fed.post(self.member, frame, bytes(ciphertext))

    def has(self, frame_id: str) -> bool:
        return self.fed.service.mailbox.has(self.member, frame_id)

    def fetch(self, digest: str, size: int) -> Data:
        return self.fed.service.depot.blobs.read(digest, 0, size)

    def certificate(self, host: str, *, serial: int | None = None, run: str = "") -> Certificate:
        member = self.fed.member(self.member)
        return self.fed.service.certificate(member, host, serial=serial or 0, run=run)

    def receipts(self, run: str, party: str) -> list[Document]:
        return self.fed.service.mailbox.receipts(self.member, run, party)


class Sites:
    """The sites' hosts, each with a folder of its own; they take what comes when they are told."""

    def __init__(self, fed: Federation, folder: Path, bundle: Bundle) -> None:
        self.fed, self.folder, self.training = fed, folder, training_of(bundle)
        self.initial = self.training.task.initial(bundle.study.study.seed)
        self.bundle, self.hosts = bundle, dict[str, Host]()
        self.pause = threading.Event()

    def consent(self) -> None:
        content = b"".join(bytes(part) for part in model_parts(self.initial))
        blob = hashlib.sha256(content).hexdigest()
        for site, data in self.training.data.items():
            depot = self.fed.service.depot
            depot.append(site, blob, 0, chunk=content, total=len(content))
            document = self.fed.consent(
                site,
                self.bundle.digest,
                rows=Rows(len(data.train), len(data.validation), len(data.test)),
                inputs=(2,),
                layout=self.training.task.layout,
                initial=self.initial.digest,
                initial_blob=blob,
            )
            self.fed.service.studies.grant(self.fed.member(site), self.bundle.digest, document)

    def start(self, run: Run) -> None:
        hub = self.fed.service.registry.identity.root.public
        hosted = HostedRun.of(run.document, self.bundle, hub=hub)
        for site in SITES:
            folder = self.folder / site
            folder.mkdir()
            engine = open_database(folder / "state.sqlite", migrations=MIGRATIONS)
            party = PartyId(site)
            journal = SqlJournal(engine, folder, run=run.id, party=party, gate=hosted.gate(party))
            self.hosts[site] = Host(
                hosted,
                party,
                identity=self.fed.identities[site],
                courier=Courier(self.fed, site),
                journal=journal,
                initial=lambda: self.initial,
                worker=InProcess(self.training),
            )
            self.hosts[site].start()

    def deliver(self, *, until: Callable[[], bool], absent: str = "") -> None:
        """Take what comes, until something holds."""
        here, quiet = [site for site in SITES if site != absent], 0
        while not until():
            took = [self._take(site) for site in here]
            quiet = 0 if any(took) else quiet + 1
            assert quiet < 1500, "nothing came for 30 s"
            if not any(took):
                self.pause.wait(0.02)

    def _take(self, site: str) -> bool:
        box = self.fed.service.mailbox
        messages = box.waiting(site, 0)
        for message in messages:
            if message["kind"] == "frame" and site in self.hosts:
                given = self.hosts[site].deliver(Frame.from_json(message["frame"]))
                box.put_receipts(site, [given] if given is not None else [])
        if messages:
            box.acknowledge(site, messages[-1]["seq"])
        return bool(messages)

    def model(self, site: str) -> str:
        return self.hosts[site]._journaled.actor.model.digest

    def close(self) -> None:
        for host in self.hosts.values():
            host.close()


@pytest.fixture(params=BACKENDS)
def fed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Federation]:
    with federation(tmp_path, request.param) as found:
        yield found


@pytest.fixture
def sites(fed: Federation, tmp_path: Path) -> Iterator[Sites]:
    """Three sites that have consented to the study."""
    made = submitted(fed, tmp_path, STUDY)
    yield made
    made.close()


def submitted(fed: Federation, folder: Path, text: str) -> Sites:
    fed.submit(text)
    made = Sites(fed, folder, parse(text, {}, where="study.toml"))
    made.consent()
    return made


def status(fed: Federation, sites: Sites) -> tuple[str, str]:
    study = fed.service.studies.show(fed.member("ada"), sites.bundle.digest)
    return study["status"], study["reason"]


def undisturbed(sites: Sites, run: Run) -> str:
    """Return the model of the same run in one process, by digest."""
    hub = sites.fed.service.registry.identity.root.public
    agreement = HostedRun.of(run.document, sites.bundle, hub=hub).agreement
    finished = Sequential().run(InOneProcess(agreement, sites.training, lambda: sites.initial))
    [digest] = {model.digest for model in finished.models.values()}
    return digest


@contextmanager
def carried(service: HubService) -> Iterator[Parties]:
    parties = Parties(service)
    parties.start()
    try:
        yield parties
    finally:
        parties.close()


def rows(fed: Federation) -> int:
    with reading(fed.service.engine) as connection:
        return sum(
            connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (SNAPSHOTS, EVENTS)
        )


def test_a_run_ends_with_the_bits_of_one_process(fed: Federation, sites: Sites) -> None:
    with carried(fed.service):
        run = fed.service.studies.start(fed.member("ada"), sites.bundle.digest)
        sites.start(run)
        sites.deliver(until=lambda: not fed.service.runs.carried())

        assert status(fed, sites) == ("finished", "")
        sites.deliver(until=lambda: all(h.settled.is_set() for h in sites.hosts.values()))
    assert {sites.model(site) for site in SITES} == {undisturbed(sites, run)}
    kinds = [
        message["frame"]["kind"]
        for message in fed.service.mailbox.waiting("ada", 0)
        if message["kind"] == "frame"
    ]
    assert kinds.count("log") == 3
    assert kinds.count("model") == 1


@pytest.mark.parametrize("frames", [1, 4, 7, 10])
def test_a_hub_that_dies_goes_on_where_its_journals_stand(
    fed: Federation, sites: Sites, frames: int
) -> None:
    taken = 0

    def enough() -> bool:
        nonlocal taken
        taken += 1
        return taken > frames or status(fed, sites)[0] == "finished"

    with carried(fed.service):
        run = fed.service.studies.start(fed.member("ada"), sites.bundle.digest)
        sites.start(run)
        sites.deliver(until=enough)
    fed.restarted()
    with carried(fed.service):
        sites.deliver(until=lambda: not fed.service.runs.carried())
        sites.deliver(until=lambda: all(h.settled.is_set() for h in sites.hosts.values()))

    assert status(fed, sites) == ("finished", "")
    assert {sites.model(site) for site in SITES} == {undisturbed(sites, run)}


def test_a_run_that_fails_tells_why(fed: Federation, tmp_path: Path) -> None:
    fed.clock.runs = True
    text = STUDY + "[plan.participation]\ndeadline = 0.5\n"
    sites = submitted(fed, tmp_path, text)
    with carried(fed.service):
        run = fed.service.studies.start(fed.member("ada"), sites.bundle.digest)
        sites.start(run)
        sites.hosts["c"].close()
        sites.deliver(until=lambda: not fed.service.runs.carried(), absent="c")
    sites.close()

    what, why = status(fed, sites)
    assert what == "failed"
    assert "of 3 needed sites" in why, why


def test_a_run_that_is_stopped_is_set_down(fed: Federation, sites: Sites) -> None:
    with carried(fed.service):
        run = fed.service.studies.start(fed.member("ada"), sites.bundle.digest)
        fed.service.studies.steer(fed.member("ada"), sites.bundle.digest, "stop", "enough")
        sites.deliver(until=lambda: not fed.service.runs.carried())

    assert status(fed, sites) == ("stopped", "enough")
    assert fed.service.runs.get(run.id).status == "stopped"


def test_a_run_that_cannot_be_carried_fails_and_the_others_go_on(
    fed: Federation, sites: Sites, tmp_path: Path
) -> None:
    """The file of its initial model was damaged on the hub's disk."""
    other = tmp_path / "other"
    other.mkdir()
    second = submitted(fed, other, STUDY.replace('name = "s"', 'name = "t"'))
    blob = Grants(fed, sites).initial_blob
    path = fed.service.depot.blobs.path(blob)
    assert path is not None
    content = path.read_bytes()
    path.write_bytes(content[:-4])
    with carried(fed.service):
        fed.service.studies.start(fed.member("ada"), sites.bundle.digest)
        sites.deliver(until=lambda: status(fed, sites)[0] == "failed")
        path.write_bytes(content)
        run = fed.service.studies.start(fed.member("ada"), second.bundle.digest)
        second.start(run)
        second.deliver(until=lambda: not fed.service.runs.carried())
    second.close()

    assert "the hub cannot carry it" in status(fed, sites)[1]
    assert status(fed, second) == ("finished", "")


def test_a_fault_in_one_run_ends_in_the_log_and_the_others_go_on(
    fed: Federation, sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: LogCapture
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    second = submitted(fed, other, STUDY.replace('name = "s"', 'name = "t"'))
    whole = Host.deliver
    with carried(fed.service):
        bad = fed.service.studies.start(fed.member("ada"), sites.bundle.digest)

        def deliver(host: Host, frame: Frame) -> Document | None:
            if frame.run == bad.id and host.party == "@aggregator":
                raise ZeroDivisionError("a value that nobody should read")
            return whole(host, frame)

        monkeypatch.setattr(Host, "deliver", deliver)
        sites.start(bad)
        run = fed.service.studies.start(fed.member("ada"), second.bundle.digest)
        second.start(run)
        second.deliver(until=lambda: fed.service.runs.get(run.id).status == "finished")
    second.close()

    assert status(fed, sites) == ("running", "")
    assert "fault in a run" in [entry["event"] for entry in log.entries]


def test_a_receipt_that_is_refused_stops_nobody(
    fed: Federation, sites: Sites, monkeypatch: pytest.MonkeyPatch, log: LogCapture
) -> None:
    whole = Host.deliver

    def deliver(host: Host, frame: Frame) -> Document | None:
        receipt = whole(host, frame)
        if receipt is None or host.party != "@aggregator":
            return receipt
        return Document.of("receipt", receipt.body, fed.identities["a"].signing)

    monkeypatch.setattr(Host, "deliver", deliver)
    with carried(fed.service) as parties:
        run = fed.service.studies.start(fed.member("ada"), sites.bundle.digest)
        sites.start(run)
        sites.deliver(until=lambda: fed.service.runs.get(run.id).status == "finished")
        assert parties.are_carried()

    assert "receipts refused" in [entry["event"] for entry in log.entries]


class Grants:
    """What the sites have consented to."""

    def __init__(self, fed: Federation, sites: Sites) -> None:
        study: Any = fed.service.studies.show(fed.member("ada"), sites.bundle.digest)
        self.initial_blob: str = study["grants"][0]["body"]["initial_blob"]


def test_journals_go_with_the_mail_of_their_run(fed: Federation, sites: Sites) -> None:
    with carried(fed.service):
        run = fed.service.studies.start(fed.member("ada"), sites.bundle.digest)
        sites.start(run)
        sites.deliver(until=lambda: not fed.service.runs.carried())
    folder = fed.service.folder.parties / run.id
    assert rows(fed) > 0
    assert folder.is_dir()

    fed.clock.now += (fed.service.settings.retention + 1) * 86_400
    fed.service.sweep()

    assert rows(fed) == 0
    assert not folder.exists()

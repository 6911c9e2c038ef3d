"""Nodes that take part in real runs through a real hub, in this process."""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
from tests.hub.running import running
from tests.node.federation import (
    Federation,
    Node,
    federation,
    study,
    until,
    until_ended,
    write_records,
)
from tests.node.servers import web_server

from cohortium.errors import RefusedError, RunFailedError
from cohortium.hub import backup as hub_backup
from cohortium.identity import Document
from cohortium.node import session
from cohortium.node.agent import Agent
from cohortium.node.approvals import DAY
from cohortium.node.carrying import Carrier
from cohortium.node.folder import Home
from cohortium.node.joining import rotate_keys
from cohortium.node.site import opened
from cohortium.node.work import StudyWork
from cohortium.runtime.events import Done, Run
from cohortium.runtime.simulation import simulate
from cohortium.transport.client import HubClient
from cohortium.transport.envelope import Frame
from cohortium.transport.errors import ConflictError, RequestError


@pytest.fixture
def alliance(tmp_path: Path) -> Iterator[Federation]:
    with federation(tmp_path) as alliance:
        alliance.node("aachen", seed=1)
        alliance.node("bonn", seed=2)
        yield alliance


def model_of(node: Node, run: str) -> str:
    """Return the digest of the model that a run ended with at a node."""
    with opened(node.home) as site:
        known = site.runs.get(run)
        assert known is not None
        folder = node.home.journal / run / node.name
        (file,) = folder.iterdir()
        return file.name


def ended(node: Node, run: str) -> str:
    with opened(node.home) as site:
        return until_ended(site, run)


def round_of(node: Node, run: str) -> int:
    with opened(node.home) as site:
        known = site.runs.get(run)
        return -1 if known is None else known.round


def waiting_mail(alliance: Federation) -> int:
    """Return how many messages to sites nobody has acknowledged."""
    with closing(sqlite3.connect(alliance.hub.folder.folder / "hub.sqlite")) as database:
        query = "SELECT count(*) FROM deliveries WHERE host IN ('aachen', 'bonn')"
        return int(database.execute(query).fetchone()[0])


def test_two_nodes_end_with_the_model_of_the_simulation(
    alliance: Federation, tmp_path: Path
) -> None:
    text = study(plan='sites = ["aachen", "bonn"]').replace("[data]", '[data]\ndataset = "here"')
    digest = alliance.approved(text)
    a, b = alliance.nodes.values()
    with a.up(), b.up():
        run = alliance.start(digest)
        assert [ended(a, run), ended(b, run)] == ["finished", "finished"]
        until(lambda: not waiting_mail(alliance))
    assert round_of(a, run) == 3
    (tmp_path / "records").mkdir()
    for node in (a, b):
        shutil.copy(node.records, tmp_path / "records")
    (tmp_path / "study.toml").write_text(text)
    result = simulate(tmp_path / "study.toml", data=tmp_path / "records", engine="sequential")
    assert {model_of(a, run), model_of(b, run)} == {result.model.digest}
    with opened(a.home) as site:
        assert site.consents.get(digest).seconds > 0


def test_one_node_per_key(
    alliance: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "RETRY", 0.01)
    node = alliance.nodes["aachen"]
    copy = Node(Home.at(tmp_path / "copy"), node.records)
    with node.up():
        until(lambda: fact(node, "contact"))
        shutil.copytree(node.home.folder, copy.home.folder)
        with opened(copy.home) as site, pytest.raises(RunFailedError, match="second process"):
            Agent(site).run()
    with opened(copy.home) as site:  # the first one has gone, and the copy goes on after it
        agent = Agent(site)
        thread = threading.Thread(target=agent.run)
        thread.start()
        until(lambda: site.fact("instance")["taken"])
        agent.order("kill")
        thread.join()
    with opened(node.home) as site, pytest.raises(RunFailedError, match="took over"):
        Agent(site).run()


def fact(node: Node, key: str) -> Any:
    with opened(node.home) as site:
        return site.fact(key)


def test_a_second_node_in_one_folder_is_refused(alliance: Federation) -> None:
    node = alliance.nodes["aachen"]
    with node.up(), opened(node.home) as site:
        until(lambda: node.home.running())
        with pytest.raises(RefusedError, match=r"running in .* already"):
            Agent(site).run()


def test_a_revoked_site_stops_and_says_so(alliance: Federation) -> None:
    node = alliance.nodes["aachen"]
    body = {"reason": "left the consortium"}
    revoke = partial(alliance.hub.coordinator.call, "POST", "/v1/sites/aachen/revoke", body)
    with opened(node.home) as site:
        agent = Agent(site)
        revoking = threading.Thread(target=lambda: (until(lambda: site.fact("contact")), revoke()))
        revoking.start()
        with pytest.raises(RunFailedError, match=r"revoked.*ask the coordinator"):
            agent.run()
        revoking.join()


def test_new_keys_are_taken_up_while_it_runs(alliance: Federation) -> None:
    node = alliance.nodes["aachen"]
    with node.up() as agent:
        until(lambda: fact(node, "contact"))
        assert rotate_keys(node.home) == 2
        agent.order("reload")
        digest = alliance.approved(study())
        with alliance.nodes["bonn"].up():
            assert ended(node, alliance.start(digest)) == "finished"


def test_what_changed_after_the_approval_is_not_trained_on(alliance: Federation) -> None:
    digest = alliance.approved(study(participation="quorum = 1"))
    a, b = alliance.nodes.values()
    write_records(a.records, seed=77)
    with opened(a.home) as site:
        site.datasets.add("records", a.records)
    with a.up(), b.up():
        run = alliance.start(digest)
        assert ended(b, run) == "finished"
        assert ended(a, run) == "finished"
    with opened(a.home) as site:
        known = site.runs.get(run)
    assert known is not None
    assert "changed since the study was approved" in known.trouble


def test_a_consent_that_is_taken_back_ends_the_part_of_this_site(alliance: Federation) -> None:
    digest = alliance.approved(study(rounds=200, participation="quorum = 1"))
    a, b = alliance.nodes.values()
    with a.up(), b.up():
        run = alliance.start(digest)
        until(lambda: round_of(a, run) > 0)
        with a.approvals() as approvals:
            said = approvals.decline(digest, "the board said no")
        assert "takes no further part" in said
        with opened(a.home) as site:
            spent = until_quiet(lambda: site.consents.get(digest).seconds)
        assert round_of(b, run) < 200
        alliance.researcher().call("POST", f"/v1/studies/{digest}/stop", {"reason": "enough"})
        assert ended(b, run) == "stopped"
        assert ended(a, run) == "stopped"
    with opened(a.home) as site:
        assert site.consents.get(digest).seconds == spent


def until_quiet(value: Any) -> Any:
    """Return a value once it no longer changes from one look to the next."""
    pause = threading.Event()
    before = value()
    while True:
        pause.wait(0.5)
        now = value()
        if now == before:
            return now
        before = now


def test_a_consent_is_to_one_run(alliance: Federation) -> None:
    """A hub that starts a study again needs another approval, whatever its own tables say."""
    digest = alliance.approved(study(rounds=1))
    a, b = alliance.nodes.values()

    def again() -> str:
        until(lambda: alliance.researcher().call("GET", path)["status"] == "finished")
        with closing(sqlite3.connect(alliance.hub.folder.folder / "hub.sqlite")) as database:
            database.execute("UPDATE studies SET status = 'open', run = ''")
            database.commit()
        return alliance.start(digest)

    path = f"/v1/studies/{digest}"
    with a.up(), b.up():
        assert ended(a, alliance.start(digest)) == "finished"
        run = again()
        assert [ended(a, run), ended(b, run)] == ["refused", "refused"]
    with opened(a.home) as site:
        known = site.runs.get(run)
    assert known is not None
    assert "approve it again" in known.reason


def test_a_study_is_paused_and_goes_on(alliance: Federation) -> None:
    digest = alliance.approved(study(rounds=40))
    a, b = alliance.nodes.values()
    researcher = alliance.researcher()
    with a.up(), b.up():
        run = alliance.start(digest)
        until(lambda: round_of(a, run) > 0)
        researcher.call("POST", f"/v1/studies/{digest}/pause", {})
        with opened(a.home) as site:
            until(lambda: site.runs.get(run).status == "paused")  # type: ignore[union-attr]
        paused = until_quiet(lambda: round_of(a, run))
        assert paused < 40
        researcher.call("POST", f"/v1/studies/{digest}/resume", {})
        assert ended(a, run) == "finished"
    assert round_of(a, run) == 40


def test_a_hub_that_is_away_is_waited_for(tmp_path: Path) -> None:
    with federation(tmp_path) as alliance:
        a, b = alliance.node("aachen", seed=1), alliance.node("bonn", seed=2)
        digest = alliance.approved(study(rounds=60))
        folder, port = alliance.hub.folder, alliance.hub.port
    settings = folder.settings.model_copy(update={"listen": f"127.0.0.1:{port}"})
    folder.save_settings(settings)
    folder = type(folder).at(folder.folder)
    with structlog.testing.capture_logs() as lines, a.up(), b.up():
        until(lambda: any("does not answer" in line["event"] for line in lines))
        with running(folder) as hub:
            alliance.hub = hub
            run = alliance.start(digest)
            until(lambda: round_of(a, run) > 1)
        with running(folder):
            assert ended(a, run) == "finished"
            assert ended(b, run) == "finished"
    said = [line["event"] for line in lines if line["event"].startswith("the hub")]
    assert 1 <= said.count("the hub is back") <= 4
    assert said.count("the hub does not answer; trying on") == said.count("the hub is back")


def test_the_step_in_progress_ends_before_a_stop(
    alliance: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = alliance.approved(study(rounds=200))
    a, b = alliance.nodes.values()
    begun, go_on, done = threading.Event(), threading.Event(), list[Done]()
    perform = StudyWork.run

    def slowly(self: StudyWork, run: Run, *, at: Any) -> Done:
        found = perform(self, run, at=at)
        if run.party == "aachen" and run.round == 2 and run.step.op == "train":
            begun.set()
            assert go_on.wait(20)
            done.append(found)
        return found

    monkeypatch.setattr(StudyWork, "run", slowly)
    with a.up() as agent, b.up():
        run = alliance.start(digest)
        assert begun.wait(20)
        agent.order("stop")
        assert not agent.ended.wait(0.2)
        go_on.set()
        assert agent.ended.wait(20)
        assert len(done) == 1
        monkeypatch.setattr(StudyWork, "run", perform)
        performed: list[tuple[str, int, str]] = []

        def noted(self: StudyWork, run: Run, *, at: Any) -> Done:
            performed.append((run.party, run.round, run.step.op))
            return perform(self, run, at=at)

        monkeypatch.setattr(StudyWork, "run", noted)
        with a.up():
            until(lambda: round_of(a, run) > 3)
    assert ("aachen", 2, "train") not in performed
    assert ("aachen", 3, "train") in performed


def test_pending_approvals_are_announced_once(tmp_path: Path) -> None:
    with web_server() as posts, federation(tmp_path) as alliance:
        node = alliance.node("aachen", toml=f'[notify]\nwebhook = "{posts.url}"\n')
        digest = alliance.submit(study("announced"))
        alliance.submit(study("not-for-us", plan='sites = ["bonn"]'))
        with node.up():
            until(lambda: posts.bodies)
            until(lambda: notified(node, digest))
        with node.up():
            until(lambda: node.home.running())
            later = alliance.submit(study("later"))
            until(lambda: notified(node, later))
    bodies = [json.loads(body) for body in posts.bodies]
    assert [body["study"] for body in bodies] == ["announced", "later"]
    assert bodies[0]["digest"] == digest
    assert bodies[0]["command"].startswith("cohortium node study show")


def notified(node: Node, digest: str) -> bool:
    with opened(node.home) as site:
        return any(o.digest == digest and o.notified for o in site.consents.all())


def test_monitoring_reads_counts_and_no_names(tmp_path: Path) -> None:
    with federation(tmp_path) as alliance:
        node = alliance.node("aachen", toml='[metrics]\nlisten = "127.0.0.1:0"\n')
        alliance.submit(study("secret-study"))
        with structlog.testing.capture_logs() as lines, node.up():
            until(lambda: [line for line in lines if line["event"] == "node up"])
            (port,) = [line["metrics_port"] for line in lines if line["event"] == "node up"]
            until(lambda: b"studies_waiting 1.0" in get(port, "metrics"))
            metrics = get(port, "metrics")
            assert b"hub_reachable 1.0" in metrics
            assert b"secret-study" not in metrics
            assert b"aachen" not in metrics
            assert json.loads(get(port, "healthz")) == {"status": "ok", "hub": "reachable"}


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}") as answer:
        found: bytes = answer.read()
        return found


def test_journals_of_runs_that_ended_long_ago_are_dropped(tmp_path: Path) -> None:
    with federation(tmp_path) as alliance:
        a, b = alliance.node("aachen", seed=1), alliance.node("bonn", seed=2)
        digest = alliance.approved(study())
        with a.up(), b.up():
            run = alliance.start(digest)
            assert ended(a, run) == "finished"
            assert ended(b, run) == "finished"
        assert (a.home.journal / run).exists()
        text = (a.home.folder / "node.toml").read_text()
        (a.home.folder / "node.toml").write_text(text.replace("gpu", "journal_days = 0, gpu"))
        with Node(Home.at(a.home.folder), a.records).up():
            until(lambda: not (a.home.journal / run).exists())
        assert (b.home.journal / run).exists()
        assert round_of(a, run) == 3


def test_a_lease_is_asked_for_again_under_the_same_name(
    alliance: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between the hub's answer and this node's note of it must not break the chain."""
    node = alliance.nodes["aachen"]
    with node.up():
        until(lambda: fact(node, "contact"))
    with opened(node.home) as site:
        names = site.fact("instance")
        site.remember("instance", {**names, "taken": False})
    with node.up():
        until(lambda: fact(node, "instance")["taken"])
        assert fact(node, "instance")["id"] == names["id"]


def test_a_predecessor_that_never_goes_is_named(
    alliance: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LEASE_TRIES", 1)
    node = alliance.nodes["aachen"]
    with node.up():
        until(lambda: fact(node, "contact"))
    with opened(node.home) as site:
        site.remember("instance", {"id": "ff" * 16, "before": "", "taken": True})
        with pytest.raises(RunFailedError, match="took over") as caught:
            Agent(site).run()
    assert isinstance(caught.value.__cause__, ConflictError)


def test_behind_a_broker_sites_take_part_under_other_names(tmp_path: Path) -> None:
    with federation(tmp_path, broker=True) as alliance:
        a, b = alliance.node("aachen", seed=1), alliance.node("bonn", seed=2)
        digest = alliance.approved(study())
        with a.up(), b.up():
            run = alliance.start(digest)
            assert ended(a, run) == "finished"
            assert ended(b, run) == "finished"
        told = json.dumps(alliance.researcher().call("GET", f"/v1/runs/{run}"))
        assert "aachen" not in told
        assert "bonn" not in told
        with opened(a.home) as site:
            keys = site.consents.get(digest).identity
        assert keys is not None
        assert keys.name.startswith("site-")
        assert keys.root != a.home.identity().root
        assert keys.certificate.issued % DAY == 0


def test_a_node_carries_its_regions_aggregator(alliance: Federation) -> None:
    hosts = 'sites = ["aachen", "bonn"]\nhosts = {"@aggregator" = "bonn"}'
    digest = alliance.approved(study(plan=hosts))
    a, b = alliance.nodes.values()
    with a.up(), b.up():
        run = alliance.start(digest)
        assert ended(a, run) == "finished"
        assert ended(b, run) == "finished"
        told = alliance.researcher().call("GET", f"/v1/studies/{digest}")
        assert told["status"] == "finished"
    assert {folder.name for folder in (b.home.journal / run).iterdir()} == {"bonn", "%40aggregator"}


@pytest.mark.parametrize("topology", ["cyclic", "gossip"])
def test_peers_need_no_aggregator(alliance: Federation, topology: str) -> None:
    alliance.node("celle", seed=3)
    sites = 'sites = ["aachen", "bonn", "celle"]'
    digest = alliance.approved(study(topology=topology, plan=sites))
    a, b, c = alliance.nodes.values()
    with a.up(), b.up(), c.up():
        run = alliance.start(digest)
        assert [ended(node, run) for node in (a, b, c)] == ["finished"] * 3


class Skewed:
    """A clock that is wrong by some seconds."""

    monotonic = staticmethod(time.monotonic)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def time(self) -> float:
        return time.time() + self.seconds


def test_a_wrong_clock_is_tried_again_until_it_is_right(
    alliance: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cohortium.node.agent.FIRST_PAUSE", 0.1)
    clock = Skewed(0)
    node = alliance.nodes["aachen"]
    digest = alliance.approved(study())
    monkeypatch.setattr("cohortium.transport.client.time", clock)
    clock.seconds = 3600
    with structlog.testing.capture_logs() as lines, node.up(), alliance.nodes["bonn"].up():
        said = "the session broke off; trying again"
        until(lambda: any(line["event"] == said and "clock" in line["reason"] for line in lines))
        clock.seconds = 60
        assert ended(node, alliance.start(digest)) == "finished"


def test_a_run_whose_hub_was_restored_from_an_old_backup_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "OUTCOME", 0.1)
    file = tmp_path / "hub.backup"
    with ExitStack() as nodes, structlog.testing.capture_logs() as lines:
        with federation(tmp_path) as alliance:
            a, b = alliance.node("aachen", seed=1), alliance.node("bonn", seed=2)
            digest = alliance.approved(study(rounds=40, deadline=3.0))
            nodes.enter_context(a.up())
            nodes.enter_context(b.up())
            run = alliance.start(digest)
            until(lambda: round_of(a, run) > 1)
            hub_backup.backup(alliance.hub.folder, file)
            taken = round_of(a, run)
            until(lambda: round_of(a, run) > taken + 2)
        restored = hub_backup.restore(file, tmp_path / "restored")
        port = f"127.0.0.1:{alliance.hub.port}"
        restored.save_settings(restored.settings.model_copy(update={"listen": port}))
        with running(type(restored).at(restored.folder)):
            assert ended(a, run) == ended(b, run) != "finished"
    assert any("restored from a backup" in line["event"] for line in lines)


def test_notices_that_nobody_can_read_end_no_node(alliance: Federation) -> None:
    """Nor does a run of which the hub says nonsense; what is well-formed goes on."""
    digest = alliance.approved(study(rounds=1))
    notices: list[Any] = [
        *({"kind": "run"}, {"kind": "run", "run": "../../v1/hub?"}, {"kind": "study"}, []),
        *({"kind": "control", "op": "stop"}, {"kind": "study", "digest": "?" * 70}),
    ]
    with closing(sqlite3.connect(alliance.hub.folder.folder / "hub.sqlite")) as database:
        insert = "INSERT INTO deliveries (host, notice) VALUES ('aachen', ?)"
        database.executemany(insert, [[json.dumps(notice)] for notice in notices])
        database.commit()
    a, b = alliance.nodes.values()
    with structlog.testing.capture_logs() as logs, a.up(), b.up():
        run = alliance.start(digest)
        assert [ended(a, run), ended(b, run)] == ["finished", "finished"]
        until(lambda: not waiting_mail(alliance))
    refused = [entry["reason"] for entry in logs if entry["event"] == "mail refused"]
    assert len(refused) == len(notices)


def test_a_refusal_that_may_pass_ends_no_node(
    alliance: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cohortium.node.agent.FIRST_PAUSE", 0.01)
    node, faults = alliance.nodes["aachen"], [RequestError("a fault in the hub", "none")]
    call = HubClient.call

    def odd(client: HubClient, method: str, path: str, *body: Any, **options: Any) -> Any:
        if path == "/v1/inbox" and faults:
            raise faults.pop()
        return call(client, method, path, *body, **options)

    monkeypatch.setattr(HubClient, "call", odd)
    with structlog.testing.capture_logs() as logs, node.up():
        until(lambda: not faults)
        alliance.submit(study())
        until(lambda: any(entry["event"] == "a study waits for approval" for entry in logs))


@pytest.mark.parametrize("told", [None, [], {"messages": []}, {"generation": "1", "messages": [7]}])
def test_an_inbox_that_nobody_can_read_is_asked_for_again(
    alliance: Federation, monkeypatch: pytest.MonkeyPatch, told: object
) -> None:
    monkeypatch.setattr("cohortium.node.agent.FIRST_PAUSE", 0.01)
    node, answers = alliance.nodes["aachen"], [told]
    call = HubClient.call

    def odd(client: HubClient, method: str, path: str, *body: Any, **options: Any) -> Any:
        if path in ("/v1/studies", "/v1/directory"):
            return told
        if path == "/v1/inbox" and answers:
            return answers.pop()
        return call(client, method, path, *body, **options)

    monkeypatch.setattr(HubClient, "call", odd)
    with structlog.testing.capture_logs() as logs, node.up():
        until(lambda: not answers)
        until(
            lambda: any(entry["event"] == "the session broke off; trying again" for entry in logs)
        )
        monkeypatch.setattr(HubClient, "call", call)
        digest = alliance.submit(study())
        until(lambda: any(entry["event"] == "a study waits for approval" for entry in logs))
    with opened(node.home) as site:
        assert site.consents.get(digest).waits


def test_two_studies_share_a_node(alliance: Federation) -> None:
    digests = [alliance.approved(study(name, rounds=10)) for name in ("first", "second")]
    a, b = alliance.nodes.values()
    with a.up(), b.up():
        runs = [alliance.start(digest) for digest in digests]
        assert {ended(a, run) for run in runs} == {"finished"}
        assert {ended(b, run) for run in runs} == {"finished"}
    with opened(a.home) as site:
        assert all(site.consents.get(digest).seconds > 0 for digest in digests)


def test_a_full_disk_loses_no_mail(alliance: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "RETRY", 0.05)
    digest = alliance.approved(study())
    a, b = alliance.nodes.values()
    deliver, refusals = Carrier.deliver, iter([OSError(errno.ENOSPC, "full")] * 5)

    def full(self: Carrier, frame: Frame) -> list[Document]:
        refusal = next(refusals, None)
        if refusal is not None:
            raise refusal
        return deliver(self, frame)

    monkeypatch.setattr(Carrier, "deliver", full)
    with structlog.testing.capture_logs() as lines, a.up(), b.up():
        run = alliance.start(digest)
        assert [ended(a, run), ended(b, run)] == ["finished", "finished"]
    assert [line["event"] for line in lines].count("mail cannot be kept; trying again") == 5


def test_a_session_that_broke_off_begins_anew(
    alliance: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cohortium.node.agent.FIRST_PAUSE", 0.05)
    digest = alliance.approved(study())
    a, b = alliance.nodes.values()
    start, refusals = Carrier.start, iter([OSError(errno.ENOSPC, "full")] * 2)

    def full(self: Carrier) -> None:
        refusal = next(refusals, None)
        if refusal is not None:
            raise refusal
        start(self)

    monkeypatch.setattr(Carrier, "start", full)
    monkeypatch.setattr(session, "RETRY", 0.05)
    with a.up(), b.up():
        run = alliance.start(digest)
        assert [ended(a, run), ended(b, run)] == ["finished", "finished"]


def test_a_node_of_another_version_is_told(
    alliance: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cohortium.transport.signing.PROTOCOL_VERSION", 0)
    expected = pytest.raises(RunFailedError, match=r"version 0.*Install the version")
    with opened(alliance.nodes["aachen"].home) as site, expected:
        Agent(site).run()

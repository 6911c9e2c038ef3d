"""A node as a process of its own: started, stopped, killed, and what its folder says meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from tests.node.federation import Federation, Node, federation, study, until, until_ended

from cohortium.node import admin
from cohortium.node.site import opened


@pytest.fixture
def alliance(tmp_path: Path) -> Iterator[Federation]:
    with federation(tmp_path) as alliance:
        alliance.node("aachen", seed=1)
        alliance.node("bonn", seed=2)
        yield alliance


@contextmanager
def started(node: Node) -> Iterator[subprocess.Popen[str]]:
    """Run a node in a process; its log goes to a file beside its folder."""
    command = [sys.executable, "-m", "cohortium", "node", "up", "--home", str(node.home.folder)]
    log = node.home.folder.with_suffix(".log")
    with (
        log.open("a") as stream,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True) as process,
    ):
        try:
            until(lambda: node.home.running() == process.pid)
            yield process
        finally:
            process.kill()


def log_of(node: Node) -> list[dict[str, object]]:
    text = node.home.folder.with_suffix(".log").read_text()
    return [json.loads(line) for line in text.splitlines()]


def round_of(node: Node, run: str) -> int:
    with opened(node.home) as site:
        known = site.runs.get(run)
        return -1 if known is None else known.round


def is_past(node: Node, run: str, round_: int) -> bool:
    return round_of(node, run) > round_


def test_a_node_is_stopped_and_says_so(alliance: Federation) -> None:
    node = alliance.nodes["aachen"]
    assert admin.status(node.home.folder).pid is None
    with started(node) as process:
        shown = admin.status(node.home.folder)
        assert shown.pid == process.pid
        assert shown.site == "aachen"
        assert admin.stop(node.home.folder)
        assert process.wait(20) == 0
    stopped = admin.status(node.home.folder)
    assert stopped.pid is None
    assert stopped.stopped is not None
    assert not admin.stop(node.home.folder)
    with started(node) as process:
        until(lambda: admin.status(node.home.folder).contact)
        assert admin.status(node.home.folder).stopped is None
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert [line["event"] for line in log_of(node)].count("node down") == 2


def test_stopping_now_kills_what_computes(alliance: Federation) -> None:
    digest = alliance.approved(study(rounds=2000))
    a, b = alliance.nodes.values()
    with started(a) as process, b.up():
        run = alliance.start(digest)
        until(lambda: round_of(a, run) > 0)
        workers = psutil.Process(process.pid).children(recursive=True)
        assert workers
        assert admin.stop(a.home.folder, now=True)
        assert process.wait(20) == 0
        _, alive = psutil.wait_procs(workers, timeout=20)
        assert not alive
        assert admin.status(a.home.folder).runs[0].status == "running"


@pytest.mark.parametrize("kills", [2])
def test_a_killed_node_goes_on(alliance: Federation, kills: int) -> None:
    digest = alliance.approved(study(rounds=8))
    a, b = alliance.nodes.values()
    with b.up():
        with started(a) as process:
            run = alliance.start(digest)
            until(lambda: round_of(a, run) >= 0)
            os.kill(process.pid, signal.SIGKILL)
            process.wait(20)
        for before in range(kills):
            with started(a) as process:
                until(partial(is_past, a, run, before))
                os.kill(process.pid, signal.SIGKILL)
                process.wait(20)
        with started(a), opened(a.home) as site:
            assert until_ended(site, run) == "finished"
        with opened(b.home) as site:
            assert until_ended(site, run) == "finished"
    assert round_of(a, run) == 8
    files = [list((node.home.journal / run / node.name).iterdir()) for node in (a, b)]
    assert files[0][0].name == files[1][0].name


def test_the_log_is_json_and_names_no_record(alliance: Federation) -> None:
    digest = alliance.approved(study())
    a, b = alliance.nodes.values()
    a.records.write_text(a.records.read_text().replace(",1\n", ",Jane\n", 1))
    with started(a), b.up():
        run = alliance.start(digest)
        with opened(a.home) as site:
            until_ended(site, run)
    lines = log_of(a)
    assert {"node up", "carrying", "run ended"} <= {str(line["event"]) for line in lines}
    failed = [line for line in lines if line["event"] == "failed"]
    assert failed
    assert all(line["reason"] == "failed" for line in failed)
    text = json.dumps(lines)
    assert "Jane" not in text
    assert str(a.records) not in text
    with opened(a.home) as site:
        known = site.runs.get(run)
    assert known is not None
    assert "changed since the study was approved" in known.trouble

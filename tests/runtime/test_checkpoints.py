"""A simulation that was killed goes on from its last checkpoint to the same bits."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import cohortium as co
from cohortium.aggregation.server_optimizer import FedAdam
from cohortium.errors import ArgumentError
from cohortium.plan.cyclic import Cyclic
from cohortium.plan.gossip import Gossip
from cohortium.plan.star import Star
from cohortium.plan.topology import Topology
from cohortium.runtime.actor import Snapshot
from cohortium.runtime.checkpoints import FolderCheckpoints
from cohortium.runtime.engine import RoundLog
from cohortium.runtime.in_process import Sequential
from cohortium.testing.federations import federation
from cohortium.types import PartyId

ROWS = {"a": 30, "b": 12, "c": 55}


class Killed(BaseException):
    """Stands for a kill where a process of its own would be slow."""


class KillAfter:
    """Checkpoints that stop the run after so many rounds."""

    def __init__(self, kept: FolderCheckpoints, rounds: int) -> None:
        self.kept, self.rounds = kept, rounds

    def save(self, snapshots: Any, log: RoundLog) -> None:
        self.kept.save(snapshots, log)
        self.rounds -= 1
        if not self.rounds:
            raise Killed


@pytest.mark.parametrize("topology", [Star(), Gossip(), Cyclic(order="random")], ids=str)
@pytest.mark.parametrize("rounds", [1, 3, 4])
def test_a_resumed_run_ends_with_the_same_bits(
    topology: Topology, rounds: int, tmp_path: Path
) -> None:
    optimizer = FedAdam() if isinstance(topology, Star) else None
    made = federation(topology, ROWS, rounds=5, server_optimizer=optimizer)
    whole = Sequential().run(made)
    run = {"digest": "x"}
    kept = FolderCheckpoints(tmp_path, run, every=0.0)
    with pytest.raises(Killed):
        Sequential().run(made, checkpoints=KillAfter(kept, rounds))
    resumed = FolderCheckpoints(tmp_path, run, every=0.0)
    found = Sequential().run(made, checkpoints=resumed, resume=resumed.load())
    assert found.logs[-1].state.digest == whole.logs[-1].state.digest
    assert len(found.logs) == 5
    assert {p: m.digest for p, m in found.models.items()} == {
        p: m.digest for p, m in whole.models.items()
    }


def test_resuming_a_finished_run_gives_its_result_again(tmp_path: Path) -> None:
    made = federation(Star(), ROWS)
    kept = FolderCheckpoints(tmp_path, {}, every=0.0)
    whole = Sequential().run(made, checkpoints=kept)
    again = FolderCheckpoints(tmp_path, {}, every=0.0)
    found = Sequential().run(made, checkpoints=again, resume=again.load())
    assert found.logs[-1].state.digest == whole.logs[-1].state.digest
    assert found.logs[-1].evaluation is not None
    assert found.models["a"].digest == whole.models["a"].digest  # type: ignore[index]


def test_a_torn_line_after_the_last_checkpoint_is_dropped(tmp_path: Path) -> None:
    made = federation(Star(), ROWS, rounds=4)
    kept = FolderCheckpoints(tmp_path, {}, every=0.0)
    with pytest.raises(Killed):
        Sequential().run(made, checkpoints=KillAfter(kept, 2))
    with (tmp_path / "rounds.jsonl").open("a") as lines:
        lines.write('{"state": {"stu')
    again = FolderCheckpoints(tmp_path, {}, every=0.0)
    found = Sequential().run(made, checkpoints=again, resume=again.load())
    assert found.logs[-1].state.digest == Sequential().run(made).logs[-1].state.digest


def test_another_run_s_checkpoint_is_refused(tmp_path: Path) -> None:
    kept = FolderCheckpoints(tmp_path, {"digest": "one"}, every=0.0)
    Sequential().run(federation(Star(), ROWS), checkpoints=kept)
    with pytest.raises(ArgumentError, match="digest"):
        FolderCheckpoints(tmp_path, {"digest": "other"}, every=0.0).load()


def test_nothing_kept_means_nothing_to_resume(tmp_path: Path) -> None:
    assert FolderCheckpoints(tmp_path / "none", {}, every=0.0).load() is None


class KilledAtFirst(FolderCheckpoints):
    """The process dies after the rounds' lines, before its first checkpoint is there."""

    def _write(self, *_: Any) -> None:
        raise Killed


def test_rounds_of_a_run_without_any_checkpoint_are_dropped(tmp_path: Path) -> None:
    made = federation(Star(), ROWS, rounds=5)
    with pytest.raises(Killed):
        Sequential().run(made, checkpoints=KilledAtFirst(tmp_path, {}, every=0.0))
    assert (tmp_path / "rounds.jsonl").exists()
    for rounds in (3, 1):
        kept = FolderCheckpoints(tmp_path, {}, every=0.0)
        resume = kept.load()
        with pytest.raises(Killed):
            Sequential().run(made, checkpoints=KillAfter(kept, rounds), resume=resume)
    kept = FolderCheckpoints(tmp_path, {}, every=0.0)
    found = Sequential().run(made, checkpoints=kept, resume=kept.load())
    assert [log.state.round for log in found.logs] == [1, 2, 3, 4, 5]


def test_a_run_that_only_evaluates_has_checkpoints_too(tmp_path: Path) -> None:
    made = federation(Star(), ROWS, rounds=0)
    whole = Sequential().run(made, checkpoints=FolderCheckpoints(tmp_path, {}, every=0.0))
    loaded = FolderCheckpoints(tmp_path, {}, every=0.0).load()
    assert loaded is not None
    assert loaded[1][-1].state.digest == whole.logs[-1].state.digest


def test_a_step_that_keeps_nothing_has_nothing_to_keep(tmp_path: Path) -> None:
    log = Sequential().run(federation(Star(), ROWS, rounds=1)).logs[-1]
    snapshot = Snapshot(log.state, federation(Star(), ROWS).initial(), {"server": None})
    FolderCheckpoints(tmp_path, {}, every=0.0).save(lambda: {PartyId("a"): snapshot}, log)
    loaded = FolderCheckpoints(tmp_path, {}, every=0.0).load()
    assert loaded is not None
    assert loaded[0][PartyId("a")].slots == {}


def test_who_was_evaluated_is_still_known_after_resuming(tmp_path: Path) -> None:
    made = federation(Star(), ROWS, evaluation_only=("b",))
    kept = FolderCheckpoints(tmp_path, {}, every=0.0)
    with pytest.raises(Killed):
        Sequential().run(made, checkpoints=KillAfter(kept, 2))
    kept = FolderCheckpoints(tmp_path, {}, every=0.0)
    found = Sequential().run(made, checkpoints=kept, resume=kept.load())
    assert [log.evaluated for log in found.logs] == [tuple(ROWS)] * 3
    assert [log.evaluation is not None for log in found.logs] == [False, False, True]


def test_a_run_of_more_or_fewer_sites_is_another_run(tmp_path: Path) -> None:
    kept = FolderCheckpoints(tmp_path, {"records": {"a": "1", "b": "2"}}, every=0.0)
    Sequential().run(federation(Star(), ROWS), checkpoints=kept)
    for records in ({"a": "1"}, {"a": "1", "b": "3"}, {"a": "1", "b": "2", "c": "4"}):
        with pytest.raises(ArgumentError, match=r"records\.[bc]"):
            FolderCheckpoints(tmp_path, {"records": records}).load()


STUDY = """
study = {name = "kill", purpose = "die and come back"}
task = {kind = "binary-classification", model = "linear", optimizer = {kind = "sgd", lr = 0.1}}
data = {dataset = "hospitals", target = "y", features = [{name = "x"}, {name = "z"}]}
plan = {rounds = 1500, local = {epochs = 1}, server_optimizer = "fedadam"}
"""


def write_hospitals(folder: Path) -> None:
    folder.mkdir()
    for name, rows in ROWS.items():
        lines = [f"{i * 37 % 11},{i * 17 % 7},{int(i % 3 == 0)}" for i in range(rows)]
        (folder / f"{name}.csv").write_text("x,z,y\n" + "\n".join(lines) + "\n")


def test_a_process_that_is_killed_resumes_to_the_same_model(tmp_path: Path) -> None:
    """A real process, a real SIGKILL, the real command line."""
    (tmp_path / "study.toml").write_text(STUDY)
    write_hospitals(tmp_path / "data")
    command = [sys.executable, "-m", "cohortium", "simulate", str(tmp_path / "study.toml")]
    command += ["--data", str(tmp_path / "data")]

    def run(out: str, *more: str) -> subprocess.CompletedProcess[str]:
        arguments = [*command, "--out", str(tmp_path / out), *more]
        return subprocess.run(arguments, capture_output=True, text=True, check=False)

    whole = run("whole")
    assert whole.returncode == 0, whole.stderr
    killed = subprocess.Popen([*command, "--out", str(tmp_path / "killed")])
    rounds = tmp_path / "killed" / "journal" / "federated" / "rounds.jsonl"
    while killed.poll() is None and (not rounds.exists() or rounds.read_bytes().count(b"\n") < 1):
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "result.json").exists()
    resumed = run("killed", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    model = "model.safetensors"
    assert (tmp_path / "killed" / model).read_bytes() == (tmp_path / "whole" / model).read_bytes()
    assert not (tmp_path / "killed" / "journal").exists()


def test_a_run_does_not_go_on_with_other_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Eager(FolderCheckpoints):
        def __init__(self, folder: Path, run: Any) -> None:
            super().__init__(folder, run, every=0.0)

    monkeypatch.setattr("cohortium.runtime.simulation.FolderCheckpoints", Eager)
    (tmp_path / "study.toml").write_text(STUDY.replace("1500", "2"))
    write_hospitals(tmp_path / "data")

    def run(*, resume: bool) -> co.Result:
        file, data, out = (tmp_path / name for name in ("study.toml", "data", "out"))
        return co.simulate(file, data=data, out=out, resume=resume)

    first = run(resume=False)
    assert run(resume=True).model.digest == first.model.digest
    lines = (tmp_path / "data" / "b.csv").read_text().splitlines()
    lines[1] = "3.5," + lines[1].split(",", 1)[1]
    (tmp_path / "data" / "b.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(ArgumentError, match=r"records\.b"):
        run(resume=True)

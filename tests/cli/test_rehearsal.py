"""`cohortium try`: a federation of real processes, which all end with it, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from cohortium.cli import rehearsal
from cohortium.cli.rehearsal import Stage
from cohortium.errors import RunFailedError

from .conftest import STUDY, hospitals
from .test_process import COMMAND, command, environment

NETWORK = STUDY.replace("[plan]", '[plan]\nsites = ["north", "south"]')
FOR_EVER = "import time\nprint('up', flush=True)\ntime.sleep(600)"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + FOR_EVER
DIES = "import sys\nprint('the disk is on fire', file=sys.stderr)\nsys.exit(3)"


def write(folder: Path) -> None:
    (folder / "study.toml").write_text(NETWORK)
    (folder / "data").mkdir()
    for site, lines in hospitals().items():
        (folder / "data" / f"{site}.csv").write_text(lines)


def plain(folder: Path) -> dict[str, Any]:
    """Return a result without what belongs to how it was reached."""
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    for key in ("engine", "environment", "timing"):
        del found[key]
    for arm in found["arms"].values():
        arm.pop("idle", None)
        for each in arm["rounds"]:
            del each["duration"], each["bytes"]
    return found


def left_over(home: str) -> list[int]:
    """Return the processes whose COHORTIUM_HOME lies in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"COHORTIUM_HOME={home}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_the_model_is_the_simulations_to_the_bit(tmp_path: Path) -> None:
    write(tmp_path)
    kept = tmp_path / "kept"
    kept.mkdir()
    words = ["study.toml", "--data", "data", "--out", "tried"]
    tried = command("try", *words, "--keep", cwd=tmp_path, TMPDIR=str(kept))
    assert tried.returncode == 0, tried.stderr
    simulate = ["simulate", "study.toml", "--data", "data", "--engine", "sequential"]
    assert command(*simulate, "--out", "simulated", cwd=tmp_path).returncode == 0
    model = (tmp_path / "simulated/model.safetensors").read_bytes()
    assert (tmp_path / "tried/model.safetensors").read_bytes() == model
    assert plain(tmp_path / "tried") == plain(tmp_path / "simulated")
    _teaches(tried.stdout)
    [home] = kept.iterdir()
    assert str(home) in tried.stdout.splitlines()[-1]
    assert {"@hub", "@researcher", "north", "south"} <= {path.name for path in home.iterdir()}
    assert left_over(str(home)) == []


def _teaches(shown: str) -> None:
    """The commands stand there as a consortium types them."""
    typed = [line.partition(" $ ")[::2] for line in shown.splitlines() if " $ " in line]
    for who, words in (
        ("hub", "cohortium hub init --name rehearsal --url https://localhost:"),
        ("hub", "cohortium hub up --listen localhost:"),
        ("north", "cohortium node join https://localhost:"),
        ("south", "cohortium node data add records "),
        ("researcher", "cohortium study submit "),
        ("north", "cohortium node study approve small --yes"),
        ("researcher", "cohortium study watch small"),
    ):
        assert any(name == who and line.startswith(words) for name, line in typed), words
    assert "round 3 of 3, 2 of 2 sites" in shown


def test_ctrl_c_ends_everything(tmp_path: Path) -> None:
    write(tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    tried = subprocess.Popen(
        [*COMMAND, "try", "study.toml", "--data", "data"],
        cwd=tmp_path,
        env=environment(TMPDIR=str(temporary), PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tried.stdout is not None
    lines = list(takewhile(lambda line: "node join" not in line, tried.stdout))
    assert tried.poll() is None, (lines, tried.communicate())
    [home] = temporary.iterdir()  # the hub runs by now
    assert left_over(str(home))
    tried.send_signal(signal.SIGINT)
    _, err = tried.communicate(timeout=60)
    assert tried.returncode == 130
    assert err.splitlines()[-1] == "interrupted: the hub and the nodes have ended, too"
    assert left_over(str(home)) == []
    assert list(temporary.iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_is_said_before_anything_is_started(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "file").touch()
    for words in (
        ["absent.toml"],
        ["study.toml"],
        ["study.toml", "--data", "data", "--out", "file"],
    ):
        done = command("try", *words, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")


# -- the processes ---------------------------------------------------------------------------------


@contextmanager
def stage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A stage on which Python programs are typed."""
    monkeypatch.setattr(rehearsal, "_command", lambda: [sys.executable, "-c"])
    monkeypatch.setattr(rehearsal, "PATIENCE", 1.0)
    made = Stage(folder, quiet=True)
    try:
        yield made
    finally:
        made.close()
        assert left_over(str(folder)) == []


def test_a_command_that_fails_is_told_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stage(tmp_path, monkeypatch) as made, pytest.raises(RunFailedError) as failed:
        made.type("north", DIES)
    assert str(failed.value).startswith("north: cohortium ")
    assert str(failed.value).endswith("the disk is on fire")


def test_a_process_that_dies_ends_the_command_in_progress_and_shows_its_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stage(tmp_path, monkeypatch) as made:
        begun = threading.Event()

        def follow() -> None:
            begun.wait()
            made.keep_running("@hub", DIES)

        thread = threading.Thread(target=follow)
        thread.start()
        begun.set()
        with pytest.raises(RunFailedError, match=r"the process of hub ended with 3.*\n.*on fire"):
            made.type("north", FOR_EVER)
        thread.join()


def test_all_sites_do_it_and_the_first_failure_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stage(tmp_path, monkeypatch) as made:
        done: list[str] = []
        made.all(["a", "b", "c"], done.append)
        assert sorted(done) == ["a", "b", "c"]
        with pytest.raises(RunFailedError):
            made.all(["a", "b"], lambda site: made.type(site, DIES))


def test_a_process_that_does_not_listen_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stage(tmp_path, monkeypatch) as made:
        made.keep_running("north", STUBBORN)
        log = tmp_path / "north.log"
        while b"up" not in log.read_bytes():
            os.sched_yield()
    assert left_over(str(tmp_path)) == []

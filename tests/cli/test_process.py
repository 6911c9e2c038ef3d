"""The installed command as a process of its own: exit codes, signals, pipes, an empty environment.

What does not depend on the process is tested in this one; see the other files.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from .conftest import STUDY, Desk, hospitals

COMMAND = [str(Path(sysconfig.get_path("scripts")) / "cohortium")]
SLOW = """
import os, time

import torch


class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(2, 1)

    def forward(self, x):
        if "SLOW" in os.environ:
            time.sleep(0.01)
        return super().forward(x)
"""
"""A model that takes its time without using the processor."""

WITHOUT = """
import sys
from importlib.machinery import PathFinder

find = PathFinder.find_spec

def find_all_but_one(name, *rest):
    return None if name.partition(".")[0] == {missing!r} else find(name, *rest)

PathFinder.find_spec = find_all_but_one
sys.argv = ["cohortium", *{arguments!r}]
from cohortium.cli.main import main
main()
"""
"""The command line where a package is not installed."""

OFFLINE = """
import socket

def refuse(*_):
    raise SystemExit("something wants the network")

socket.socket.connect = socket.socket.connect_ex = refuse
"""
"""A `sitecustomize` that lets nobody out."""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", **more}


def command(*arguments: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def write(folder: Path, text: str = STUDY) -> None:
    (folder / "study.toml").write_text(text)
    (folder / "data").mkdir()
    for site, lines in hospitals().items():
        (folder / "data" / f"{site}.csv").write_text(lines)


# -- exit codes ------------------------------------------------------------------------------------


def test_a_new_study_runs_in_two_commands_offline(tmp_path: Path) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path/sitecustomize.py").write_text(OFFLINE)
    offline = {"PYTHONPATH": str(tmp_path / "path"), "COHORTIUM_DATA": str(tmp_path / "none")}
    made = command("new", "mine", cwd=tmp_path, **offline)
    assert (made.returncode, made.stderr) == (0, "")
    done = command("simulate", "mine/study.toml", cwd=tmp_path, **offline)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/my-study/report.html").exists()


def test_what_is_invalid_ends_with_2_and_one_problem(tmp_path: Path) -> None:
    done = command("simulate", "absent.toml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("invalid: absent.toml: got no such file; expected a study file. ")
    assert not list(tmp_path.iterdir())


def test_what_fails_ends_with_1_and_its_results(tmp_path: Path) -> None:
    criterion = '[[acceptance.criteria]]\nmetric = "auroc"\nat_least = 0.999\n\n[plan]'
    write(tmp_path, STUDY.replace("[plan]", criterion))
    words = ["simulate", "study.toml", "--data", "data", "--out", "out", "--json"]
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert json.loads(done.stdout)["acceptance"][0]["met"] is False
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["failed", "next step"]
    assert (tmp_path / "out/result.json").read_text() == done.stdout


def test_the_module_is_the_command() -> None:
    words = [sys.executable, "-m", "cohortium", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment())
    assert done.stdout == command("--version", cwd=Path.cwd()).stdout


# -- pipes and disks -------------------------------------------------------------------------------


def test_a_reader_that_leaves_is_no_reason_for_a_traceback(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [*COMMAND, "data", "list", "--json"],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment(COHORTIUM_DATA=str(tmp_path)),
        )
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_told_in_words() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, "data", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment(),
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "failed: No space left on device"


# -- an environment without ------------------------------------------------------------------------


def without(missing: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    code = WITHOUT.format(missing=missing, arguments=list(arguments))
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=environment(COHORTIUM_DATA=str(cwd / "none")),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("missing", "verb"),
    [
        ("sqlalchemy", ["hub", "sites"]),
        ("fastapi", ["hub", "up"]),
        ("httpx", ["node", "status"]),
        ("cryptography", ["study", "list"]),
    ],
)
def test_a_network_that_is_not_installed_says_how_to_get_it(
    tmp_path: Path, missing: str, verb: list[str]
) -> None:
    done = without(missing, *verb, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"failed: {missing} is not installed: a federation over a network needs it",
        "next step: pip install 'cohortium[net]'",
    ]


@pytest.mark.parametrize(
    ("package", "check", "extra"),
    [("torch", "torch, for models", "torch"), ("sklearn", "scikit-learn, for the demo", "demo")],
)
def test_the_doctor_fails_where_something_needed_is_missing(
    package: str, check: str, extra: str, tmp_path: Path
) -> None:
    done = without(package, "doctor", cwd=tmp_path)
    assert done.returncode == 1
    failed, step = done.stderr.splitlines()
    assert failed.startswith(f"failed: {check}")
    assert step == f'next step: pip install "cohortium[{extra}]"'
    assert f'pip install "cohortium[{extra}]"' in done.stdout, "not eaten as markup"


@pytest.mark.parametrize(("package", "name"), [("torch", "torch"), ("sklearn", "scikit-learn")])
def test_the_demo_says_what_to_install(package: str, name: str, tmp_path: Path) -> None:
    done = without(package, "demo", "--out", "out", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert name in done.stderr
    assert "pip install" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


# -- Ctrl-C ----------------------------------------------------------------------------------------


Stopped = tuple[Path, int, str, str]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """A run that was stopped by Ctrl-C after a checkpoint: its folder, exit code and output."""
    folder = tmp_path_factory.mktemp("stopped")
    model = '{kind = "code", file = "model.py", build = "Net"}'
    write(folder, STUDY.replace('"linear"', model).replace("rounds = 3", "rounds = 150"))
    (folder / "model.py").write_text(SLOW)
    (folder / "out").mkdir()
    (folder / "out/result.json").write_text("of an older run")
    process = subprocess.Popen(
        [*COMMAND, "simulate", "study.toml", "--data", "data", "--out", "out"],
        cwd=folder,
        env=environment(SLOW="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while (
        process.poll() is None and not (folder / "out/journal/federated/checkpoint.json").exists()
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return folder, process.returncode, out, err


def test_ctrl_c_leaves_one_line_and_nothing_half_written(stopped: Stopped) -> None:
    folder, code, out, err = stopped
    assert code == 130, err
    assert out == ""
    way_on = "to go on, add --out out --resume"
    assert err == f"interrupted: nothing half-written is left; {way_on}\n"
    assert {path.name for path in (folder / "out").iterdir()} == {"journal", "result.json"}
    assert (folder / "out/result.json").read_text() == "of an older run"


@pytest.fixture
def taken_up(stopped: Stopped, desk: Desk) -> Desk:
    """A copy of the stopped run's folder, to go on from."""
    shutil.copytree(stopped[0], desk.folder, dirs_exist_ok=True)
    return desk


def resume(desk: Desk, *options: str, study: str = "study.toml") -> tuple[object, str]:
    answer = desk.run("simulate", study, "--data", "data", "--out", "out", "--resume", *options)
    return answer.code, answer.err


def test_resume_goes_on_to_the_same_bits(taken_up: Desk) -> None:
    folder = taken_up.folder
    before = json.loads((folder / "out/journal/federated/checkpoint.json").read_text())["rounds"]
    assert 0 < before < 150
    code, err = resume(taken_up)
    assert code == 0, err
    assert "begins with round 1" not in err
    assert not (folder / "out/journal").exists()
    whole = taken_up.run("simulate", "study.toml", "--data", "data", "--out", "whole")
    assert whole.code == 0, whole.err
    one, other = (folder / name / "model.safetensors" for name in ("out", "whole"))
    assert one.read_bytes() == other.read_bytes()
    rounds = json.loads((folder / "out/result.json").read_text())["arms"]["federated"]["rounds"]
    assert [each["round"] for each in rounds] == list(range(1, 151))


OTHERS = {
    "another study": ([], "other.toml", "got a run with digest"),
    "another seed": (["--seed", "3"], "study.toml", "got a run with digest"),
    "another engine": (
        ["--engine", "vectorised"],
        "study.toml",
        "got a run with engine 'sequential'",
    ),
}


@pytest.mark.parametrize(("options", "study", "told"), OTHERS.values(), ids=OTHERS)
def test_another_run_s_journal_is_refused(
    taken_up: Desk, options: list[str], study: str, told: str
) -> None:
    text = (taken_up.folder / "study.toml").read_text()
    (taken_up.folder / "other.toml").write_text(text.replace("lr = 0.1", "lr = 0.2"))
    before = taken_up.files()
    code, err = resume(taken_up, *options, study=study)
    assert code == 2
    assert err.startswith(f"invalid: out/journal/federated/checkpoint.json: --resume: {told}")
    assert "Resume with the study" in err
    assert "another DIR" in err
    assert taken_up.files() == before, "what was kept is still there"


DAMAGES = {
    "no JSON": ("checkpoint.json", b"{"),
    "nothing in it": ("checkpoint.json", b"{}"),
    "another thing": ("checkpoint.json", b"[1, 2]"),
    "no text": ("checkpoint.json", b"\xff\xfe"),
    "cut rounds": ("rounds.jsonl", b'{"state": '),
    "no rounds": ("rounds.jsonl", b""),
    "cut arrays": ("round-*.safetensors", b"\x10\x00"),
    "no arrays": ("round-*.safetensors", None),
}


@pytest.mark.parametrize(("name", "content"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_journal_is_refused(taken_up: Desk, name: str, content: bytes | None) -> None:
    (path,) = (taken_up.folder / "out/journal/federated").glob(name)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    code, err = resume(taken_up)
    assert code == 2, err
    assert "checkpoint.json: --resume: got a checkpoint that cannot be read" in err
    assert "Run without --resume to begin anew" in err


def test_without_resume_a_run_begins_anew(taken_up: Desk) -> None:
    path = taken_up.folder / "out/journal/federated/checkpoint.json"
    path.write_bytes(b"{")
    answer = taken_up.run("simulate", "study.toml", "--data", "data", "--out", "out")
    assert answer.code == 0, answer.err
    assert not (taken_up.folder / "out/journal").exists()


def test_ctrl_c_before_the_first_round_leaves_nothing(tmp_path: Path) -> None:
    """While libraries are still being imported, too."""
    write(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    process = subprocess.Popen(
        [*COMMAND, "compare", "study.toml", "--data", "data", "--out", "out"],
        cwd=tmp_path,
        env=environment(PYTHONVERBOSE="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("import 'pydantic'"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: nothing half-written is left" in err
    assert sorted(tmp_path.rglob("*")) == before

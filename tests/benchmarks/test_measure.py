"""A benchmark prints one line of JSON, of a run that was verified. Nothing here looks at times."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as everything
from benchmarks import measure

ROOT = Path(__file__).parents[2]
KEYS = {
    "workload", "system", "version", "rounds", "sites", "size", "wall_s", "cpu_s", "first_round_s",
    "wall_per_round_s", "cpu_per_round_s", "client_rounds_per_cpu_s", "client_rounds_per_wall_s",
    "client_rounds_per_cpu_s_total", "peak_rss_mb", "processes", "cpu_from", "settings", "final",
    "machine",
}  # fmt: skip


def test_a_benchmark_prints_one_line() -> None:
    options = ["--sites=2", "--rounds=2", "--repeats=1", "--alone"]
    command = [sys.executable, "-m", "benchmarks.w1", *options]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    (line,) = [json.loads(line) for line in ran.stdout.splitlines()]
    assert line.keys() == KEYS
    assert (line["workload"], line["system"], line["sites"]) == ("W1", "Cohortium", 2)


@pytest.mark.parametrize("name", everything.WORKLOADS)
def test_every_workload_is_a_module(name: str) -> None:
    assert importlib.util.find_spec(f"benchmarks.{name}") is not None


def test_peers_need_a_python_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(measure.PEERS_PYTHON, raising=False)
    assert measure.peer("flower_w1")["peer"] is None
    monkeypatch.setenv(measure.PEERS_PYTHON, sys.executable)
    assert "nobody failed" in measure.peer("nobody")["why"]


def test_ratios_leave_out_who_did_not_run() -> None:
    ours = {"client_rounds_per_cpu_s": 12.0, "client_rounds_per_cpu_s_total": 6.0}
    theirs = {"system": "x", "client_rounds_per_cpu_s": 3.0, "client_rounds_per_cpu_s_total": 6.0}
    found = measure.ratios(ours, [theirs, {"peer": None, "why": "not installed"}])
    assert found == {"x": {"steady": 4.0, "with start-up": 1.0}}


def test_a_size_survives_the_command_line() -> None:
    words = measure.Size(3, 2, rows=20, ragged=True, engine="sequential").words()
    assert words == ["--sites=3", "--rounds=2", "--rows=20", "--engine=sequential", "--ragged"]

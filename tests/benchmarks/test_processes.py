"""A federation of processes is seen from outside: who belongs to whom, who was started when."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks import measure, processes

WORKER = "import time; time.sleep(0.6)"
PROGRAM = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WORKER!r}])"
COMMAND = f"""
import socket, subprocess, sys
with socket.create_server(("127.0.0.1", 0)) as server:
    with socket.create_connection(server.getsockname()) as near, server.accept()[0] as far:
        near.sendall(bytes(50_000))
        far.recv(50_000, socket.MSG_WAITALL)
for _ in range(2):
    subprocess.run([sys.executable, "-c", {PROGRAM!r}])
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def watched() -> processes.Watched:
    code, found = processes.watch(
        [sys.executable, "-c", COMMAND], output=subprocess.DEVNULL, own_network=True
    )
    assert code == 0
    return found


def test_who_a_program_starts_belongs_to_it(watched: processes.Watched) -> None:
    owners = list(watched.program_of.values())
    assert len(owners) == watched.processes == 5
    assert sorted(map(owners.count, set(owners))) == [1, 2, 2]
    assert all(len(watched.program_peak_mb(program)) == 2 for program in owners[1:])


def test_processes_are_counted_when_they_are_started(watched: processes.Watched) -> None:
    command, *later = watched.starts
    assert watched.started_between(watched.started, watched.ended) == 5
    assert watched.started_between(command, watched.ended) == len(later) == 4
    assert watched.started_between(later[1], later[-1]) == 2


def test_bytes_are_counted_in_a_network_of_its_own(watched: processes.Watched) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    assert 50_000 < watched.bytes_at(watched.ended) < 60_000


def test_figures_by_role_are_of_the_steady_rounds() -> None:
    seen = processes.Watched(
        0.0, starts=[0.0, 0.5, 2.5], cpu=[(9.0, 1.0)], bytes=[(0.0, 0.0), (4.0, 400.0)]
    )
    seen.programs = {7: [(0.0, 0.0), (2.0, 1.0), (4.0, 1.5)], 8: [(0.0, 0.0), (4.0, 4.0)]}
    marks = [0.0, 2.0, 3.0, 4.0]
    outcome = measure.Outcome("1", marks, {}, programs={"hub": [7], "site": [7, 8]})
    line = measure.of_programs(outcome, seen)
    assert line["cpu_per_round_s_of"] == {"hub": 0.25, "site": 0.625}
    assert line["processes_started_per_round"] == 0.5
    assert line["bytes_per_round"] == 100

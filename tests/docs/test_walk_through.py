"""The walk-through's commands, all of them, in the order in which they stand there."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sysconfig
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/walk-through.md"
PORT = "8443"
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
FRAME = """
set -euo pipefail
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
{commands}
wait  # what runs in the background was told to end
"""


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_the_walk_through_leads_to_a_result(tmp_path: Path) -> None:
    commands = "".join(BLOCK.findall(PAGE.read_text(encoding="utf-8")))
    assert commands.count("cohortium") > 25
    port = free_port()
    script = FRAME.format(commands=commands.replace(PORT, port))
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-4000:]}"
    result = json.loads((tmp_path / "result/result.json").read_text(encoding="utf-8"))
    assert result["engine"] == "network"
    assert result["sites"].keys() == {"oslo", "bergen"}
    assert all(criterion["met"] for criterion in result["acceptance"])
    assert (tmp_path / "result/report.html").exists()
    assert (tmp_path / "hub.backup").stat().st_size > 10_000
    assert "round 15 of 15, 2 of 2 sites" in done.stdout
    assert "Traceback" not in done.stderr


def test_what_it_types_is_marked_as_shell() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(BLOCK.findall(text)), "no block is left out"

"""The hello world of the documentation is short, and runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs/start.md").read_text(encoding="utf-8")


def test_hello_world_runs_in_at_most_fifteen_lines(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(code.splitlines()) <= 15
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    overall = float(done.stdout.split()[0])
    assert 0.7 < overall <= 1.0
    assert not list(tmp_path.iterdir()), "it writes nothing unless asked"

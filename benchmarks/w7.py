"""W7: how long until something happens. Each command in a fresh interpreter, a few times.

The hello world is the one of docs/start.md, to its printed result. Files are in the page cache; a
first run after an installation, which also compiles to bytecode, takes longer.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import cohortium
from benchmarks import measure
from benchmarks.processes import ROOT, quiet

PAGE = ROOT / "docs/start.md"


def commands() -> dict[str, tuple[list[str], float | None]]:
    """Return what is measured by name: the command, and how many seconds it should take at most."""
    python, script = sys.executable, str(Path(sys.executable).with_name("cohortium"))
    return {
        "python": ([python, "-c", ""], None),
        "import": ([python, "-c", "import cohortium"], 0.3),
        "help": ([script, "--help"], 0.4),
        "import torch": ([python, "-c", "import torch"], None),
        "hello": ([python, "-c", hello()], 3.0),
    }


def hello() -> str:
    """Return the documentation's hello world."""
    return str(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)[0])


def measured(command: list[str], *, repeats: int) -> dict[str, float | None]:
    """Return the median wall and CPU seconds of a command, after one run that is not counted.

    Raises:
        SystemExit: it failed.
    """
    runs = [_seconds(command) for _ in range(repeats + 1)][1:]
    return {
        "wall_s": round(median(wall for wall, _ in runs), 3),
        "cpu_s": round(median(cpu for _, cpu in runs), 3),
    }


def _seconds(command: list[str]) -> tuple[float, float]:
    before, begun = _children_cpu(), time.monotonic()
    ran = subprocess.run(command, capture_output=True, text=True, env=quiet(), check=False)
    wall = time.monotonic() - begun
    if ran.returncode:
        raise SystemExit(f"{command[:2]} failed: {ran.stderr.strip()[-500:]}")
    return wall, _children_cpu() - before


def _children_cpu() -> float:
    used = os.times()
    return used.children_user + used.children_system


def main() -> None:
    """Print the line."""
    parser = argparse.ArgumentParser(description="W7: prints one JSON line.")
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    found = {}
    for name, (command, target_s) in commands().items():
        found[name] = measured(command, repeats=repeats) | {"target_s": target_s}
    line = {"workload": "W7", "system": "Cohortium", "version": cohortium.__version__}
    lines = {"hello_lines": len(hello().splitlines()), "machine": measure.machine()}
    print(json.dumps(line | found | lines))


if __name__ == "__main__":
    main()

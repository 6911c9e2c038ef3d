"""What importing Cohortium costs: the heavy libraries come only when they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "sklearn", "scipy", "pandas", "matplotlib", "rich", "jinja2", "typer"}
PROBE = "import sys; print('LOADED', *{name.partition('.')[0] for name in sys.modules})"


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{PROBE}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_import_pulls_in_nothing_heavy() -> None:
    assert loaded_by("import cohortium") & HEAVY == set()


def test_the_probe_sees_what_is_loaded() -> None:
    assert {"cohortium", "sklearn"} <= loaded_by("import cohortium, sklearn")


@pytest.mark.parametrize("arguments", [["--help"], ["simulate", "--help"], ["--version"]])
def test_help_does_not_wait_for_heavy_libraries(arguments: list[str]) -> None:
    code = f"""
import sys
from cohortium.cli.main import main
sys.argv = ["cohortium", *{arguments!r}]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""
    assert loaded_by(code) & {"torch", "sklearn", "scipy", "pandas", "jinja2"} == set()

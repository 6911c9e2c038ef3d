"""The walk-through in CONTRIBUTING.md works as it stands: its file, registered, in a study."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

USE = """
import numpy as np
from cohortium.aggregation.rule import AGGREGATORS
from cohortium.types import Params

def aggregate(values, **settings):
    updates = [Params.of({"w": np.float32([value]), "n": np.array([3])}) for value in values]
    fold = AGGREGATORS["winsorised-mean"](**settings).begin(updates[0])
    for index, update in enumerate(updates):
        fold.add(index, update, weight=2.0)
    params, weight = fold.finish()
    assert weight == 2.0 * len(values) and params["n"].dtype == np.int64 and params["n"][0] == 3
    return float(params["w"][0])

assert aggregate([1, 2, 3, 4, 1e9]) == 3.0, "the wild one counts as its inner neighbour"
assert aggregate([1, 2, 6], pull=0) == 3.0
assert aggregate([7]) == 7.0
try:
    aggregate([1], pull=-1)
except ValueError as error:
    assert "pull" in str(error)
else:
    raise SystemExit("pull = -1 was accepted")
"""


def block(language: str, containing: str) -> str:
    """Return the code block of a language that contains a text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    (found,) = [code for code in blocks if containing in code]
    return str(found)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Install the walk-through's file as another package would, by its entry point."""
    (tmp_path / "your_package").mkdir()
    code = block("python", "class WinsorisedMean")
    (tmp_path / "your_package/winsorised_mean.py").write_text(code, encoding="utf-8")
    entry = block("toml", "entry-points")
    group = re.findall(r'entry-points\."([\w.]+)"', entry)[0]
    name, target = re.findall(r'^([\w-]+) = "(.+)"$', entry, re.MULTILINE)[0]
    info = tmp_path / "your_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: your-package\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")
    return tmp_path


def run(package: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(package)!r})\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_rule_of_the_walk_through_works(package: Path) -> None:
    done = run(package, USE)
    assert done.returncode == 0, done.stderr


def test_a_study_may_name_it(package: Path) -> None:
    table = block("toml", "[plan.aggregation]")
    code = f"""
import tomllib
from pydantic import TypeAdapter
from cohortium.part import PartOf
from cohortium.aggregation.rule import AGGREGATORS
settings = tomllib.loads({table!r})["plan"]["aggregation"]
rule = PartOf(AGGREGATORS).build(settings)
assert type(rule).__name__ == "WinsorisedMean" and rule.pull == 2
"""
    done = run(package, code)
    assert done.returncode == 0, done.stderr


def test_the_line_names_the_file(package: Path) -> None:
    assert "`src/cohortium/aggregation/winsorised_mean.py`" in TEXT
    assert "cohortium.aggregation.winsorised_mean:WinsorisedMean" in block(
        "python", "winsorised-mean"
    )
    assert (package / "your_package/winsorised_mean.py").exists()

"""A small study on a folder of CSV files, and the command line: in this process, and as its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cohortium.cli.main import main

SITES = {"north": 30, "south": 40, "west": 20}
STUDY = """
schema_version = 1

[study]
name = "small"
purpose = "See the command line at work."

[task]
kind = "binary-classification"
model = "linear"
optimizer = {kind = "sgd", lr = 0.1}
batch_size = 8

[data]
dataset = "hospitals"
target = "y"
features = [{name = "a", range = [-9, 9]}, {name = "b"}]

[plan]
rounds = 3
local = {epochs = 1}
"""


def rows(count: int, seed: int, label: Callable[[float], int] = lambda a: int(a > 0)) -> str:
    """Return a hospital's CSV file."""
    points = np.random.default_rng(seed).normal(size=(count, 2))
    lines = [f"{a:.3f},{b:.3f},{label(a)}" for a, b in points]
    return "\n".join(["a,b,y", *lines]) + "\n"


def hospitals() -> dict[str, str]:
    """Return the files of three hospitals."""
    return {site: rows(count, seed) for seed, (site, count) in enumerate(SITES.items())}


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    code: object
    out: str
    err: str


@dataclass(frozen=True)
class Desk:
    """Where somebody sits: a folder with `study.toml` and the hospitals' files in `data`."""

    folder: Path
    capsys: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch

    def study(self, *changes: tuple[str, str], text: str = STUDY, name: str = "study.toml") -> str:
        """Write a study, with some of its text replaced."""
        for before, after in changes:
            assert text.count(before) == 1, f"{before!r} is not there once"
            text = text.replace(before, after)
        (self.folder / name).write_text(text, "utf-8")
        return name

    def data(self, files: Mapping[str, str]) -> None:
        """Write the hospitals' files in place of those that are there."""
        (self.folder / "data").mkdir(exist_ok=True)
        for path in (self.folder / "data").iterdir():
            path.unlink()
        for site, text in files.items():
            (self.folder / "data" / f"{site}.csv").write_text(text, "utf-8")

    def run(self, *arguments: str) -> Answer:
        """Type a command, in this process."""
        self.capsys.readouterr()
        self.patch.setattr(sys, "argv", ["cohortium", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self.capsys.readouterr()
        return Answer(ended.value.code or 0, out, err)

    def files(self) -> dict[str, bytes | None]:
        """Return everything that lies here: path to content, None for a folder."""
        found = sorted(self.folder.rglob("*"))
        return {
            str(path.relative_to(self.folder)): path.read_bytes() if path.is_file() else None
            for path in found
        }


@pytest.fixture
def desk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Desk:
    """A desk with the small study, its data, and nothing downloaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COHORTIUM_DATA", str(tmp_path / "kept"))
    made = Desk(tmp_path, capsys, monkeypatch)
    made.study()
    made.data(hospitals())
    return made


def environment(**changed: str) -> dict[str, str]:
    """Return the environment of a process of its own: one thread, no colour."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", **changed}

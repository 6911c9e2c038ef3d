from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cohortium.errors import ArgumentError
from cohortium.learning.model_file import load, read_metadata
from cohortium.report.writing import FILES, write
from cohortium.runtime.result import MetricValue, Result

from .conftest import MakeResult


def test_four_files_are_written_and_nothing_else(compared: Result, tmp_path: Path) -> None:
    write(compared, tmp_path / "new" / "folder")
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == sorted(FILES)


def test_the_files_hold_what_they_should(compared: Result, tmp_path: Path) -> None:
    write(compared, str(tmp_path))
    figures = json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert figures == json.loads(json.dumps(compared.to_json()))
    assert list(figures) == list(compared.to_json())
    assert (
        load(tmp_path / "model.safetensors", compared.model.layout).digest == compared.model.digest
    )
    assert "<!doctype html>" in (tmp_path / "report.html").read_text("utf-8")
    assert ElementTree.parse(tmp_path / "plan.svg").getroot().tag.endswith("svg")


def test_the_models_bytes_depend_on_model_study_and_seed_only(
    make_result: MakeResult, tmp_path: Path
) -> None:
    made = make_result()
    other = replace(made, environment={"python": "4"}, seconds=99.0, purpose="Another.", engine="x")
    files = []
    for name, result in {"a": made, "b": other, "c": replace(made, seed=8)}.items():
        write(result, tmp_path / name)
        files.append((tmp_path / name / "model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]
    metadata = read_metadata(tmp_path / "a" / "model.safetensors")
    assert metadata == {"study": "made-up", "digest": "ab" * 32, "seed": "7"}


def test_what_is_not_finite_is_null(make_result: MakeResult, tmp_path: Path) -> None:
    made = make_result(arms=("federated",), metrics=("loss",))
    value = MetricValue(math.inf, {"north": math.nan, "south": 1.0}, None, -math.inf)
    arm = replace(made.arms["federated"], metrics={"loss": value})
    write(replace(made, arms={"federated": arm}), tmp_path)
    figures = json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert figures["arms"]["federated"]["metrics"]["loss"] == {
        "global": None,
        "per_site": {"north": None, "south": 1.0},
        "elsewhere": None,
        "worst": None,
    }


def test_a_result_without_a_plan_leaves_no_old_drawing(
    make_result: MakeResult, tmp_path: Path
) -> None:
    write(make_result(), tmp_path)
    write(replace(make_result(), plan=None), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(set(FILES) - {"plan.svg"})


class Interrupting(str):
    """A purpose during whose writing somebody presses Ctrl-C."""

    __slots__ = ()

    def __html__(self) -> str:
        raise KeyboardInterrupt


def test_an_interruption_leaves_what_was_there(make_result: MakeResult, tmp_path: Path) -> None:
    write(make_result(), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        write(make_result(seed=99, purpose=Interrupting("x")), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_result_json_is_moved_last() -> None:
    assert FILES[-1] == "result.json"


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_file_is_not_a_folder(make_result: MakeResult, tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArgumentError, match="expected a folder for the results"):
        write(make_result(), tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_refused(
    make_result: MakeResult, tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    closed = Path("/proc/closed") if os.geteuid() == 0 else tmp_path / "x"  # root writes elsewhere
    with pytest.raises(ArgumentError):
        write(make_result(), closed)


def test_names_beyond_ascii_are_kept(make_result: MakeResult, tmp_path: Path) -> None:
    write(make_result(["Süd", "医院"]), tmp_path)
    assert '"Süd"' in (tmp_path / "result.json").read_text("utf-8")
    assert "医院" in (tmp_path / "report.html").read_text("utf-8")


def test_no_figures_stay_beside_another_model(
    make_result: MakeResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the files, a folder has a model without figures, never another's."""
    write(make_result(), tmp_path)
    moved: list[str] = []
    replace = Path.replace

    def dies(self: Path, target: Path) -> Path:
        if moved:
            raise KeyboardInterrupt
        moved.append(target.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        write(make_result(seed=99), tmp_path)
    assert moved
    assert not (tmp_path / "result.json").exists()

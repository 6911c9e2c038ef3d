"""Every study of `studies/` reads, runs, and says what its README says that it shows."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cohortium.learning.model_file import save
from cohortium.plan.plan import State
from cohortium.runtime.result import Result
from cohortium.runtime.simulation import simulate
from cohortium.study.read import read

STUDIES = Path(__file__).parents[2] / "studies"
FILES = sorted(STUDIES.glob("*/*.toml"))
RUNNABLE = [path for path in FILES if path.stem != "validate"]
TOPOLOGIES = ("star", "tree", "gossip", "cyclic", "hybrid")


def named(path: Path) -> str:
    return str(path.relative_to(STUDIES))


def run(path: Path, **settings: Any) -> Result:
    torch.set_num_threads(1)
    data = None
    if path.parent.name == "heart-disease":
        folder = os.environ.get("COHORTIUM_TEST_DATA")
        if not folder:
            pytest.skip("COHORTIUM_TEST_DATA is not set: it holds heart_disease/processed.*.data")
        data = Path(folder) / "heart_disease"
    return simulate(read(path).override(settings), data=data)


@pytest.mark.parametrize("path", RUNNABLE, ids=named)
def test_each_study_runs(path: Path) -> None:
    result = run(path, **{"plan.rounds": 2, "acceptance": {}})
    assert result.model.is_finite()
    assert len(result.arms["federated"].rounds) == 2
    assert all(line.status in ("in", "evaluated") for line in result.participation)


@pytest.mark.parametrize("path", FILES, ids=named)
def test_each_study_is_described_and_says_how_to_run_it(path: Path) -> None:
    readme = (path.parent / "README.md").read_text(encoding="utf-8")
    assert path.name in readme or f"{path.parent.name}/{path.name}" in readme
    command = re.search(r"^#   cohortium simulate (\S+)$", path.read_text(encoding="utf-8"), re.M)
    assert command is not None
    assert command[1].endswith(f"/{path.parent.name}/{path.name}")


def test_every_folder_is_listed() -> None:
    text = (STUDIES / "README.md").read_text(encoding="utf-8")
    folders = [folder.name for folder in STUDIES.iterdir() if (folder / "README.md").exists()]
    assert len(folders) >= 5
    assert all(f"[{folder}]({folder}/README.md)" in text for folder in folders)


def test_topologies_differ_in_nothing_else() -> None:
    def common(name: str) -> dict[str, Any]:
        found = read(STUDIES / f"topologies/{name}.toml").study.canonical()
        assert found["study"].pop("name") == f"topology-{name}"
        found["plan"].pop("topology")
        validation = found["data"]["split"].pop("validation")
        assert (validation > 0) == (name == "cyclic")
        return found

    assert {path.stem for path in STUDIES.glob("topologies/*.toml")} == set(TOPOLOGIES)
    assert all(common(name) == common("star") for name in TOPOLOGIES)


def test_the_tree_is_the_star_and_peers_end_close_to_each_other() -> None:
    results = {name: run(STUDIES / f"topologies/{name}.toml") for name in TOPOLOGIES}
    star, tree = (np.asarray(results[name].model["weight"], float) for name in ("star", "tree"))
    np.testing.assert_allclose(tree, star, rtol=1e-5, atol=1e-6)
    for name in ("gossip", "hybrid"):
        apart = results[name].arms["federated"].disagreement
        assert apart is not None
        assert 0 < apart < 0.05
    for result in results.values():
        assert result.metrics["auroc"].overall == pytest.approx(0.943, abs=0.02)


def test_the_readme_counts_the_steps_of_a_round() -> None:
    text = (STUDIES / "topologies/README.md").read_text(encoding="utf-8")
    for name in TOPOLOGIES:
        path = STUDIES / f"topologies/{name}.toml"
        row = next(line for line in text.splitlines() if line.startswith(f"| [{name}.toml]"))
        plan = run(path, **{"plan.rounds": 1}).plan
        assert plan is not None
        assert int(row.split("|")[-2]) == len(plan.round(State(plan.study)).steps)


def test_evaluation_only_hospitals_measure_and_never_train() -> None:
    result = run(STUDIES / "evaluation-only/study.toml", **{"plan.rounds": 2})
    status = {line.site: line.status for line in result.participation}
    assert {site for site, is_ in status.items() if is_ == "evaluated"} == {
        "hospital-02",
        "hospital-05",
    }
    assert set(status) == set(result.metrics["auroc"].per_site)
    assert result.evaluation_only == ("hospital-02", "hospital-05")


def test_a_released_model_is_validated_without_training(tmp_path: Path) -> None:
    trained = run(STUDIES / "evaluation-only/study.toml")
    save(trained.model, tmp_path / "model.safetensors", metadata={})
    shutil.copy(STUDIES / "evaluation-only/validate.toml", tmp_path)
    result = simulate(tmp_path / "validate.toml")
    assert result.model.digest == trained.model.digest
    values = result.metrics["auroc"]
    assert values.overall == pytest.approx(0.982, abs=0.005)  # as the README has it
    assert values.per_site == pytest.approx({"hospital-02": 0.997, "hospital-05": 0.9}, abs=0.005)


def test_the_own_model_is_the_files() -> None:
    result = run(STUDIES / "own-model/study.toml")
    assert set(result.model) >= {"past.weight", "hidden.0.weight", "out.bias"}
    assert result.engine == "sequential"
    assert result.metrics["auroc"].overall == pytest.approx(0.959, abs=0.01)

"""The heart-disease study against a plain PyTorch transcription, and against FLamby's table."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cohortium.runtime.bench import Bench
from cohortium.runtime.simulation import compare, simulate
from cohortium.study.arms import POOLED
from cohortium.study.read import read
from cohortium.types import Params, SiteId, derive_rng

HERE = Path(__file__).parents[2] / "studies/heart-disease"
TABLE, PLAIN = (run_path(str(HERE / name)) for name in ("table.py", "transcription.py"))
METHODS: tuple[str, ...] = TABLE["FEDERATED"]
SEED = 42


@pytest.fixture(scope="module")
def folder() -> Path:
    data = os.environ.get("COHORTIUM_TEST_DATA")
    if not data:
        pytest.skip("COHORTIUM_TEST_DATA is not set: it holds heart_disease/processed.*.data")
    torch.set_num_threads(1)
    return Path(data) / "heart_disease"


@pytest.fixture(scope="module")
def hospitals(folder: Path) -> dict[str, Any]:
    return {name: PLAIN["read"](folder, name) for name in PLAIN["HOSPITALS"]}


def tables(method: str) -> dict[str, Any]:
    return tomllib.loads((HERE / f"{method}.toml").read_text(encoding="utf-8"))


def cohortiums(name: str, rows: int) -> Iterator[Tensor]:
    """Yield batches in Cohortium's order: the contract at the top of `learning/batches.py`."""
    for epoch in count():
        order = derive_rng(SEED, "batches", name, epoch).permutation(rows)
        yield from (torch.from_numpy(order[i : i + 4]) for i in range(0, rows, 4))


def assert_same(model: Params, plain: torch.nn.Module) -> None:
    weight, bias = (parameter.detach().numpy() for parameter in plain.parameters())
    for name, expected in (("weight", weight), ("bias", bias)):
        found = np.asarray(model[name], np.float64)
        np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=0, atol=1e-5)


def test_the_five_files_differ_in_their_method_only() -> None:
    def common(method: str) -> dict[str, Any]:
        found = tables(method)
        for section, key in [
            ("study", "name"),
            ("task", "optimizer"),
            ("plan", "algorithm"),
            ("plan", "server_optimizer"),
        ]:
            assert found[section].pop(key)
        return {key: found[key] for key in ("schema_version", "study", "task", "data", "plan")}

    assert {path.stem for path in HERE.glob("*.toml")} == set(METHODS)
    for method in METHODS:
        assert common(method) == common("fedavg")
        assert tables(method)["study"]["name"] == f"heart-disease-{method}"


def test_the_settings_are_the_transcriptions() -> None:
    for method in METHODS:
        found, settings = tables(method), PLAIN["METHODS"][method]
        assert found["task"]["optimizer"] == {"kind": "sgd", "lr": settings.lr}
        assert (settings.mu > 0) == (method == "fedprox")
    central = tables("fedavg")["compare"]["central"]
    assert central == {"epochs": 50, "optimizer": {"kind": "adam", "lr": 0.001}}


def test_the_rows_are_the_protocols(folder: Path, hospitals: dict[str, Any]) -> None:
    bench = Bench.of(HERE / "fedavg.toml", data=folder)
    sizes = {site: (len(d.train), len(d.test)) for site, d in bench.data.items()}
    assert sizes == {
        "cleveland": (199, 104),
        "hungarian": (172, 89),
        "switzerland": (30, 16),
        "va": (85, 45),
    }
    everyone = PLAIN["pool"](list(hospitals.values()))
    for site, own in hospitals.items():
        for data, by in ((bench.data, own), (bench.pooled, everyone)):
            expected = PLAIN["scaled"](own.test_x, by).numpy()
            found = data[SiteId(site)].test
            x = np.asarray(found.x, np.float64)
            np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(found.y, own.test_y.numpy())


@pytest.mark.parametrize("method", METHODS)
def test_each_method_is_the_transcription(
    method: str, folder: Path, hospitals: dict[str, Any]
) -> None:
    study = read(HERE / f"{method}.toml").override({"plan.rounds": 3})
    settings = PLAIN["METHODS"][method]
    plain = PLAIN["federated"](hospitals, settings, cohortiums, seed=SEED, rounds=3)
    for engine in ("sequential", "vectorised"):
        assert_same(simulate(study, data=folder, engine=engine).model, plain)


def test_all_rounds_of_fedavg_are_the_transcription(
    folder: Path, hospitals: dict[str, Any]
) -> None:
    plain = PLAIN["federated"](hospitals, PLAIN["METHODS"]["fedavg"], cohortiums, seed=SEED)
    result = simulate(HERE / "fedavg.toml", data=folder)
    assert_same(result.model, plain)
    assert result.accepted
    expected = PLAIN["accuracies"](plain, hospitals)
    bench = Bench.of(HERE / "fedavg.toml", data=folder)
    row = TABLE["row_of"](bench, result.model, bench.data)
    assert list(row.values()) == pytest.approx(expected)
    assert dict(result.metrics["accuracy"].per_site) == pytest.approx(
        {site: value for site, value in row.items() if site != TABLE["POOLED_TEST"]}
    )


def test_pooled_and_single_site_training_are_the_transcription(
    folder: Path, hospitals: dict[str, Any]
) -> None:
    study = read(HERE / "fedavg.toml").override({"compare.central.epochs": 3})
    records = {POOLED: PLAIN["pool"](list(hospitals.values())), **hospitals}
    models = {POOLED: compare(study, arms=("pooled",), data=folder).model}
    alone = compare(study, arms=("single",), data=folder).models
    models |= {str(site): model for site, model in alone.items()}
    assert list(models) == list(records)
    for name, model in models.items():
        rows = len(records[name].train_y)
        batches = cohortiums(name, rows)
        epochs = [[next(batches) for _ in range(-(-rows // 4))] for _ in range(3)]
        assert_same(model, PLAIN["central"](records[name], epochs, seed=SEED))


@pytest.mark.parametrize("method", ["fedavg", "fedadam"])
def test_in_flambys_order_of_batches_the_numbers_are_flambys(
    method: str, hospitals: dict[str, Any]
) -> None:
    settings = PLAIN["METHODS"][method]
    plain = PLAIN["federated"](hospitals, settings, PLAIN["shuffled"], seed=SEED)
    published = TABLE["published"]()[method][SEED]
    assert PLAIN["accuracies"](plain, hospitals) == pytest.approx(
        list(published.values()), abs=6e-5
    )


def test_the_table_of_one_seed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "table.json"
    TABLE["main"](["--data", str(folder), "--seeds", str(SEED), "--json", str(file)])
    found = json.loads(file.read_text(encoding="utf-8"))["accuracy"]
    rows = {method: by_seed[str(SEED)] for method, by_seed in found.items()}
    patients = {"cleveland": 104, "hungarian": 89, "switzerland": 16, "va": 45, "pooled test": 254}
    recorded = {"cleveland": 79, "hungarian": 62, "switzerland": 11, "va": 28, "pooled test": 191}
    for test, right in recorded.items():  # as README.md has it, give or take two patients
        assert rows["fedavg"][test] * patients[test] == pytest.approx(right, abs=2)
    pooled = rows["pooled"]
    total = sum(patients[test] * pooled[test] for test in PLAIN["HOSPITALS"])
    assert pooled["pooled test"] * 254 == pytest.approx(total), "one scale, so the parts add up"
    assert rows["pooled, own scales"]["pooled test"] == pooled["pooled test"]
    for method, by_seed in TABLE["published"]().items():
        for test, value in by_seed[SEED].items():
            assert rows[method][test] * patients[test] == pytest.approx(
                value * patients[test], abs=5
            )
    assert [*METHODS, "iil", "ciil"] == list(rows)[-7:]
    assert "Published by FLamby, the same seeds" in capsys.readouterr().out


def test_the_table_has_every_method_for_every_seed() -> None:
    published = TABLE["published"]()
    assert {*METHODS, "pooled, own scales", "va alone"} < published.keys()
    assert all(sorted(rows) == [42, 43, 44, 45, 46] for rows in published.values())
    text = TABLE["shown"](published)
    lines = text.splitlines()
    assert len({len(line) for line in lines}) == 1
    fedavg = next(line for line in lines if line.startswith("| fedavg "))
    assert [cell.strip() for cell in fedavg.split("|")[2:4]] == ["0.731 ± 0.021", "0.719 ± 0.033"]
    assert any(line.startswith("| each alone, at home ") for line in lines)


def test_the_readme_shows_what_flamby_published() -> None:
    text = " ".join((HERE / "README.md").read_text(encoding="utf-8").split())
    for line in TABLE["shown"](TABLE["published"]()).splitlines()[2:]:
        assert " ".join(line.split()) in text


@pytest.mark.parametrize(
    ("text", "seeds"), [("42-44", [42, 43, 44]), ("7", [7]), ("1,3-4", [1, 3, 4])]
)
def test_seeds_are_read(text: str, seeds: list[int]) -> None:
    assert TABLE["read_seeds"](text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "1-2-3", "4-2", "-3"])
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(TABLE["ArgumentError"], match=r"seeds: got .*; expected such as 42-46"):
        TABLE["read_seeds"](text)

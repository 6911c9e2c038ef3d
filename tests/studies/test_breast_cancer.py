"""The demo's claim over seeds: what is measured, and when it is refused."""

from __future__ import annotations

from pathlib import Path
from runpy import run_path

import pytest
import torch

from cohortium.errors import AcceptanceError
from cohortium.runtime.simulation import compare
from cohortium.study.example import demo

HERE = Path(__file__).parents[2] / "studies/breast-cancer"
SEEDS = run_path(str(HERE / "seeds.py"))
RATIO, OURS, ALONE = SEEDS["RATIO"], SEEDS["OURS"], SEEDS["ALONE"]


def test_a_seed_measures_what_the_arms_report() -> None:
    torch.set_num_threads(1)
    short = demo().override({"plan.rounds": 2, "plan.sites": ["hospital-01", "hospital-02"]})
    arms = compare(short, arms=SEEDS["ARMS"], seed=3).arms
    row = SEEDS["measure"](3, short)
    assert list(row) == [*SEEDS["ARMS"], RATIO, OURS, ALONE]
    for name in SEEDS["ARMS"]:
        assert row[name] == arms[name].metrics["auroc"].overall
    assert row[RATIO] == row["federated"] / row["pooled"]
    assert row[OURS] == arms["federated"].metrics["auroc"].elsewhere
    assert row[ALONE] == arms["single"].metrics["auroc"].elsewhere


def test_a_claim_that_holds_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    SEEDS["check"]([{RATIO: 1.0, OURS: 0.99, ALONE: 0.97}, {RATIO: 0.985, OURS: 0.96, ALONE: 0.97}])
    told = capsys.readouterr().out
    assert f"{RATIO} 0.9925 >= 0.99 on average, and in 1 of 2 seeds" in told
    assert f"{OURS} 0.9750 > {ALONE} 0.9700, and in 1 of 2 seeds" in told


@pytest.mark.parametrize(
    ("row", "miss"),
    [
        ({RATIO: 0.98, OURS: 0.98, ALONE: 0.97}, "federated/pooled is 0.9800, less than 0.99"),
        ({RATIO: 1.00, OURS: 0.97, ALONE: 0.97}, "federated elsewhere is 0.9700, no better"),
    ],
)
def test_a_claim_that_fails_ends_with_1(row: dict[str, float], miss: str) -> None:
    with pytest.raises(AcceptanceError, match=miss) as caught:
        SEEDS["check"]([row])
    assert caught.value.exit_code == 1


def test_the_readme_has_every_seed_and_no_claim_fails_in_it() -> None:
    rows = {}
    for line in (HERE / "README.md").read_text(encoding="utf-8").splitlines():
        name, *cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        if name.isdigit():
            rows[int(name)] = [float(cell) for cell in cells]
    assert sorted(rows) == [*SEEDS["CLAIMED"], *SEEDS["BESIDE"]]
    names = [*SEEDS["ARMS"], RATIO, OURS, ALONE]
    SEEDS["check"]([dict(zip(names, rows[seed], strict=True)) for seed in SEEDS["CLAIMED"]])
    for pooled, federated, *_, ratio, _ours, _alone in rows.values():
        assert ratio == pytest.approx(federated / pooled, abs=2e-4)

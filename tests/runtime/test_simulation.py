"""`simulate` and `compare` as people call them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cohortium as co
from cohortium.errors import (
    ArgumentError,
    BelowQuorumError,
    DivergedError,
    InvalidInputError,
    ModelError,
    StudyError,
)
from cohortium.learning.model_file import save
from cohortium.runtime.bench import TRIED, telling
from cohortium.study.arms import ARMS
from cohortium.testing.regression import LeastSquares
from cohortium.types import Params, SiteId

Tables = dict[str, Any]


def hospitals(n: int = 3, rows: int = 24, seed: int = 0) -> dict[str, Any]:
    """Return arrays by site: two features, two classes that a line separates well."""
    rng = np.random.default_rng(seed)
    sites = {}
    for i in range(n):
        x = rng.normal(size=(rows + 4 * i, 2)).astype(np.float32)
        sites[f"hospital-{i}"] = (x, (x[:, 0] + 0.5 * x[:, 1] > 0).astype(np.float32))
    return sites


def study(**settings: Any) -> co.Study:
    tables: Tables = {
        "study": {"name": "test", "purpose": "see it work"},
        "task": {
            "kind": "binary-classification",
            "model": "linear",
            "optimizer": {"kind": "sgd", "lr": 0.5},
            "batch_size": 8,
        },
        "data": {"normalize": "none"},
        "plan": {"rounds": 3, "local": {"epochs": 1}},
    }
    return co.Study.from_dict(tables).override(settings)


def test_a_study_runs_and_tells() -> None:
    result = co.simulate(study(), hospitals())
    assert result.metrics["auroc"].overall is not None
    assert result.metrics["auroc"].overall > 0.8
    assert list(result.arms) == ["federated"]
    assert [r.round for r in result.arms["federated"].rounds] == [1, 2, 3]
    assert {line.status for line in result.participation} == {"in"}
    assert len(result.participation) == 9
    sent = result.arms["federated"].rounds[0].sent
    assert all(count > result.model.nbytes for count in sent.values())
    assert result.sites == {"hospital-0": 19, "hospital-1": 22, "hospital-2": 25}


def test_equal_seeds_give_equal_bytes_and_others_do_not(tmp_path: Path) -> None:
    files = []
    for i, seed in enumerate([1, 1, 2]):
        result = co.simulate(study(), hospitals(), seed=seed)
        co.write(result, tmp_path / str(i))
        files.append((tmp_path / str(i) / "model.safetensors").read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_the_engines_agree_within_1e_5() -> None:
    one, other = (
        co.simulate(study(), hospitals(), engine=engine) for engine in ("sequential", "vectorised")
    )
    assert (one.engine, other.engine) == ("sequential", "vectorised")
    np.testing.assert_allclose(
        one.model.buffers["float32"].astype(float),
        other.model.buffers["float32"].astype(float),
        rtol=1e-5,
        atol=1e-6,
    )


def test_the_engine_is_chosen_by_the_model() -> None:
    assert co.simulate(study(), hospitals()).engine == "vectorised"
    own = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    assert co.simulate(study(**{"task.model": None}), hospitals(), model=own).engine == "sequential"


class Net(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(2, width), torch.nn.Tanh(), torch.nn.Linear(width, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(x)
        return found


def make_net() -> torch.nn.Module:
    return Net(3)


class TestModels:
    bare: ClassVar[Tables] = {"task.model": None}

    def test_an_instance_starts_from_its_own_weights(self) -> None:
        net = Net(3)
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        result = co.simulate(study(**self.bare), hospitals(), model=net)
        assert list(result.model) == list(before)
        for name, values in before.items():
            assert torch.equal(net.state_dict()[name], values)  # the caller's module is untouched

    def test_a_class_with_arguments(self) -> None:
        result = co.simulate(study(**self.bare), hospitals(), model=Net, model_args={"width": 5})
        assert result.model["layers.0.weight"].shape == (5, 2)

    def test_a_function(self) -> None:
        assert co.simulate(study(**self.bare), hospitals(), model=make_net).model.nbytes == 52

    @pytest.mark.parametrize(
        ("model", "words"),
        [
            (Net, "width"),
            (3, "int"),
            (lambda: 3, "int"),
            (dict, "dict"),
            (lambda: torch.nn.Linear(3, 1), ""),
            (lambda: torch.nn.Linear(2, 2), "shape (3, 2)"),
        ],
    )
    def test_anything_else_is_refused_in_one_line(self, model: Any, words: str) -> None:
        with pytest.raises(ModelError) as refused:
            co.simulate(study(**self.bare), hospitals(), model=model)
        assert words in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1

    def test_a_loss_that_is_nan_at_once(self) -> None:
        class Broken(Net):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return super().forward(x) * math.nan

        with pytest.raises(ModelError, match=r"(?i)nan|not a number"):
            co.simulate(study(**self.bare), hospitals(), model=Broken(3))

    def test_no_model_at_all(self) -> None:
        with pytest.raises(InvalidInputError, match="model"):
            co.simulate(study(**self.bare), hospitals())

    @pytest.mark.parametrize("model", [make_net, Net(3), Net, 3])
    def test_a_study_that_names_a_model_takes_no_object(self, model: Any) -> None:
        with pytest.raises(
            ArgumentError, match=r"model: got a model object beside .*task\.model"
        ) as e:
            co.simulate(study(), hospitals(), model=model)
        assert "\n" not in str(e.value)

    def test_a_task_of_one_s_own(self) -> None:
        task = LeastSquares(2)
        result = co.simulate(
            study(**{"task.kind": "regression", "task.metrics": [], "task.loss": "mse"}),
            hospitals(),
            task=task,
        )
        assert list(result.model) == ["w", "b"]


def test_an_evaluation_only_site_is_measured_and_never_trains() -> None:
    sites = hospitals()
    result = co.simulate(study(**{"plan.evaluation_only": ["hospital-2"]}), sites)
    assert set(result.metrics["auroc"].per_site) == set(sites)
    lines = [line for line in result.participation if line.site == "hospital-2"]
    assert {line.status for line in lines} == {"evaluated"}
    without = co.simulate(study(**{"plan.sites": ["hospital-0", "hospital-1"]}), sites)
    assert result.model.digest == without.model.digest


def test_a_study_may_only_evaluate_a_released_model(tmp_path: Path) -> None:
    released = co.simulate(study(), hospitals())
    save(released.model, tmp_path / "released.safetensors", metadata={})
    (tmp_path / "study.toml").write_text(
        """
        study = {name = "validate", purpose = "in-institution validation"}
        data = {normalize = "none"}
        plan = {rounds = 0}
        [task]
        kind = "binary-classification"
        model = "linear"
        initial_model = "released.safetensors"
        """
    )
    found = co.simulate(tmp_path / "study.toml", hospitals())
    assert found.model.digest == released.model.digest
    assert found.metrics["auroc"] == released.metrics["auroc"]
    lines = {(line.round, line.site, line.status) for line in found.participation}
    assert lines == {(0, site, "evaluated") for site in hospitals()}


def test_a_study_may_start_from_a_given_model(tmp_path: Path) -> None:
    start = Params.of({"weight": np.ones((1, 2), np.float32), "bias": np.zeros(1, np.float32)})
    save(start, tmp_path / "start.safetensors", metadata={})
    bundle = co.Bundle.of(study(**{"task.initial_model": "start.safetensors"}), folder=tmp_path)
    assert (
        co.simulate(bundle, hospitals()).model.digest
        != co.simulate(study(), hospitals()).model.digest
    )


CODE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        torch.nn.init.constant_(self.layer.weight, {weight})

    def forward(self, x):
        return self.layer(x)
"""


def in_folder(folder: Path, *, weight: float, bias: float) -> co.Bundle:
    """Write a study whose code and initial model lie beside it, and read it."""
    (folder / "net.py").write_text(CODE.format(weight=weight))
    start = {"layer.weight": np.ones((1, 2), np.float32), "layer.bias": np.array([bias], "f4")}
    save(Params.of(start), folder / "start.safetensors", metadata={})
    (folder / "study.toml").write_text(
        """
        study = {name = "beside", purpose = "run what was approved"}
        data = {normalize = "none"}
        plan = {rounds = 2, local = {epochs = 1}}
        [task]
        kind = "binary-classification"
        model = {kind = "code", file = "net.py", build = "Net"}
        optimizer = {kind = "sgd", lr = 0.5}
        """
    )
    return co.read(folder / "study.toml")


class TestTheApprovedDigestIsWhatRuns:
    """What runs are the bytes under the digest, whatever lies on disk by then."""

    start: ClassVar[Tables] = {"task.initial_model": "start.safetensors"}

    def bundle(self, folder: Path, *, weight: float = 1.0, bias: float = 1.0) -> co.Bundle:
        study = in_folder(folder, weight=weight, bias=bias).study
        return co.Bundle.of(study.override(self.start), folder=folder)

    @pytest.mark.parametrize("settings", [{}, start])
    def test_files_that_change_after_reading_change_nothing(
        self, tmp_path: Path, settings: Tables
    ) -> None:
        study = in_folder(tmp_path, weight=1.0, bias=1.0).study.override(settings)
        bundle = co.Bundle.of(study, folder=tmp_path)
        results = [co.simulate(bundle, hospitals())]
        (tmp_path / "net.py").write_text("raise RuntimeError('not approved')")
        (tmp_path / "start.safetensors").write_bytes(b"not approved")
        results.append(co.simulate(bundle, hospitals()))
        for file in tmp_path.iterdir():
            file.unlink()
        results.append(co.simulate(bundle, hospitals()))
        assert {result.digest for result in results} == {bundle.digest}
        assert len({result.model.digest for result in results}) == 1

    def test_the_digest_covers_what_ran(self, tmp_path: Path) -> None:
        code, other = (in_folder(tmp_path, weight=weight, bias=1.0) for weight in (1.0, 2.0))
        start, moved = (self.bundle(tmp_path, bias=bias) for bias in (1.0, 2.0))
        results = [co.simulate(b, hospitals()) for b in (code, other, start, moved)]
        assert len({result.model.digest for result in results}) == 4
        assert len({result.digest for result in results}) == 4

    def test_every_arm_runs_it(self, tmp_path: Path) -> None:
        bundle = self.bundle(tmp_path)
        whole = co.compare(bundle, hospitals(), arms=tuple(ARMS))
        (tmp_path / "net.py").unlink()
        (tmp_path / "start.safetensors").unlink()
        again = co.compare(bundle, hospitals(), arms=tuple(ARMS))
        assert again.arms.keys() == whole.arms.keys()
        assert all(again.arms[arm].metrics == whole.arms[arm].metrics for arm in ARMS)

    def test_an_initial_model_of_another_shape_is_refused_by_name(self, tmp_path: Path) -> None:
        other = Params.of({"weight": np.ones((1, 2), np.float32)})
        bundle = self.bundle(tmp_path)
        save(other, tmp_path / "start.safetensors", metadata={})
        wrong = co.Bundle.of(bundle.study, folder=tmp_path)
        with pytest.raises(ModelError, match=r"^start\.safetensors: layer\."):
            co.simulate(wrong, hospitals())


class TestTrying:
    """The model is tried on sites' whole and last batches before anything runs."""

    bare: ClassVar[Tables] = {"task.model": None}

    def sites(self, *rows: int) -> dict[str, Any]:
        """Return sites of that many rows; of 20, 16 train, which is two batches; of 22, 17."""
        rng = np.random.default_rng(0)
        return {
            f"s{i}": (rng.normal(size=(n, 2)).astype(np.float32), np.arange(n) % 2)
            for i, n in enumerate(rows)
        }

    def test_a_last_batch_of_one_row_at_any_site_is_told(self) -> None:
        norm = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1))
        co.simulate(study(**self.bare), self.sites(*[20] * 30, 23), model=norm)
        with pytest.raises(ModelError, match=r"<model> at s30: .*GroupNorm"):
            co.simulate(study(**self.bare), self.sites(*[20] * 30, 22), model=norm)

    def test_a_loss_that_is_not_a_number_at_one_site_is_told(self) -> None:
        steep, sites = torch.nn.Linear(2, 1), self.sites(20, 20, 20)
        torch.nn.init.constant_(steep.weight, 100.0)
        co.simulate(study(**self.bare), sites, model=steep)
        sites["s2"] = (sites["s2"][0] * np.float32(1e37), sites["s2"][1])
        with pytest.raises(ModelError, match=r"<model> at s2: .*loss of (nan|inf)"):
            co.simulate(study(**self.bare), sites, model=steep)

    def test_sites_that_never_train_are_not_tried(self) -> None:
        norm = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1))
        settings = {**self.bare, "plan.evaluation_only": ["s1"]}
        co.simulate(study(**settings), self.sites(20, 22), model=norm)


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    batch_size=st.integers(1, 12),
)
def test_the_sites_that_are_tried_have_every_length_of_last_batch(
    counts: list[int], batch_size: int
) -> None:
    rows = {SiteId(f"s{i}"): n for i, n in enumerate(counts)}
    tried = telling(rows, batch_size)
    assert {rows[s] % batch_size for s in tried} == {n % batch_size for n in counts}
    assert tried == [site for site in rows if site in set(tried)]
    assert len(tried) == min(TRIED, len(rows))


def test_of_very_many_lengths_the_shortest_last_batches_are_tried() -> None:
    rows = {SiteId(f"s{n}"): n for n in range(200, 100, -1)}
    assert {rows[site] - 100 for site in telling(rows, 100)} == set(range(1, TRIED + 1))


def test_every_arm_runs_and_is_measured_on_the_same_records() -> None:
    result = co.compare(study(), hospitals(), arms=tuple(ARMS))
    assert list(result.arms) == list(ARMS)
    for arm in result.arms.values():
        assert set(arm.metrics["accuracy"].per_site) == set(hospitals())
        assert arm.metrics["accuracy"].elsewhere is not None
    assert len(result.arms["single"].members) == 3
    assert result.arms["pooled"].rounds
    assert not result.arms["single"].rounds


def test_pooled_with_one_hospital_is_that_hospital_alone() -> None:
    one = hospitals(1)
    result = co.compare(study(), one, arms=("pooled", "federated", "single"), engine="sequential")
    accuracies = {arm.metrics["loss"].per_site["hospital-0"] for arm in result.arms.values()}
    federated = result.arms["federated"].metrics["loss"].per_site["hospital-0"]
    single = result.arms["single"].metrics["loss"].per_site["hospital-0"]
    assert federated == single
    assert len(accuracies) <= 2  # the pooled arm shuffles under another name


def test_the_ensemble_averages_scores() -> None:
    result = co.compare(study(), hospitals(), arms=("single", "ensemble"))
    assert result.arms["ensemble"].metrics["auroc"].overall is not None
    assert result.model is not None


def test_gossip_gives_every_site_its_own_model_and_says_how_far_apart_they_are() -> None:
    result = co.simulate(study(**{"plan.topology": "gossip"}), hospitals(5))
    assert len(result.models) == 5
    assert result.arms["federated"].disagreement is not None
    assert 0 < result.arms["federated"].disagreement < 1


def test_best_local_needs_and_uses_validation_rows() -> None:
    topology = {"kind": "cyclic", "select": "best-local"}
    with pytest.raises(StudyError, match="validation"):
        study(**{"plan.topology": topology})
    found = co.simulate(
        study(**{"plan.topology": topology, "data.split": {"test": 0.2, "validation": 0.2}}),
        hospitals(),
    )
    assert "validation/auroc" in found.arms["federated"].rounds[0].metrics


def test_early_stopping_on_validation_rows() -> None:
    result = co.simulate(
        study(
            **{
                "plan.rounds": 40,
                "data.split": {"test": 0.2, "validation": 0.2},
                "acceptance.criteria": [{"metric": "auroc", "at_least": 0.6}],
                "acceptance.early_stopping": {"patience": 2},
            }
        ),
        hospitals(),
    )
    assert 2 <= len(result.arms["federated"].rounds) < 40
    assert result.accepted


def parted(*, validation: bool) -> dict[str, Any]:
    """Return a site's parts, with 8 validation rows or none."""
    rng = np.random.default_rng(7)
    parts = {"train": 24, "test": 8} | ({"validation": 8} if validation else {})
    drawn = {part: rng.normal(size=(n, 2)).astype(np.float32) for part, n in parts.items()}
    return {part: (x, (x[:, 0] > 0).astype(np.float32)) for part, x in drawn.items()}


VALIDATED: Tables = {"data.split": {"test": 0.2, "validation": 0.2}}


def test_best_local_passes_over_a_site_without_validation_rows() -> None:
    sites = {site: parted(validation=site != "b") for site in "abc"}
    topology = {"kind": "cyclic", "select": "best-local"}
    result = co.simulate(study(**VALIDATED, **{"plan.topology": topology}), sites)
    assert result.metrics["auroc"].overall is not None


def test_without_any_validation_row_nothing_stops_early() -> None:
    settings = {
        **VALIDATED,
        "acceptance.criteria": [{"metric": "auroc", "at_least": 0.1}],
        "acceptance.early_stopping": {"patience": 1},
    }
    result = co.simulate(study(**settings), {site: parted(validation=False) for site in "abc"})
    assert len(result.arms["federated"].rounds) == 3


class Unlucky(LeastSquares):
    """Training fails in `round_` at hospital-1; evaluation everywhere, if `blind`."""

    def __init__(self, round_: int = 0, *, blind: bool = False) -> None:
        super().__init__(2)
        self.round_, self.blind = round_, blind

    def train(self, jobs: Any) -> Any:
        if (jobs[0].site, jobs[0].round) == ("hospital-1", self.round_):
            raise RuntimeError("out of memory")
        return super().train(jobs)

    def evaluate(self, params: Params, data: Any) -> Any:
        if self.blind:
            raise RuntimeError("no luck")
        return super().evaluate(params, data)


REGRESSION: Tables = {"task.kind": "regression", "task.metrics": [], "task.loss": "mse"}
SKIPPING: Tables = {"plan.participation": {"on_shortfall": "skip"}}


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (Unlucky(3), "hospital-1 failed (RuntimeError: out of memory)"),
        (Unlucky(blind=True), "hospital-0 failed (RuntimeError: no luck)"),
    ],
    ids=["last round skipped", "evaluation void"],
)
def test_a_model_that_was_not_evaluated_is_not_accepted(task: Unlucky, why: str) -> None:
    criteria = [{"metric": "loss", "at_most": 1e9}]
    found = co.simulate(
        study(**REGRESSION, **SKIPPING, **{"acceptance.criteria": criteria}), hospitals(), task=task
    )
    assert not found.accepted
    assert [(v.value, v.met) for v in found.acceptance] == [(None, False)]
    found = co.simulate(study(**REGRESSION, **SKIPPING), hospitals(), task=task)
    [warning] = found.warnings
    assert warning.startswith("the final model was not evaluated: ")
    assert why in warning


def test_arms_whose_evaluation_is_void_are_told_too() -> None:
    arms = ("federated", "single", "leave-one-out")
    task = Unlucky(blind=True)
    found = co.compare(study(**REGRESSION, **SKIPPING), hospitals(), arms=arms, task=task)
    assert [dict(arm.metrics) for arm in found.arms.values()] == [{}, {}, {}]


def test_a_study_that_measures_nothing_warns_of_nothing() -> None:
    settings = {**REGRESSION, "task.evaluate": False}
    assert not co.simulate(study(**settings), hospitals()).warnings


def test_a_skipped_round_keeps_its_number() -> None:
    found = co.simulate(study(**REGRESSION, **SKIPPING), hospitals(), task=Unlucky(2))
    assert [r.round for r in found.arms["federated"].rounds] == [1, 2, 3]
    failed = [(p.round, p.site) for p in found.participation if p.status == "failed"]
    assert failed == [(2, "hospital-1")]
    assert {p.round for p in found.participation if p.status == "in"} == {1, 3}


def test_a_missed_criterion_is_told_and_the_result_is_there() -> None:
    criteria = [{"metric": "loss", "at_most": 0.0001}]
    result = co.simulate(study(**{"acceptance.criteria": criteria}), hospitals())
    assert not result.accepted
    [verdict] = result.acceptance
    assert verdict.value == result.metrics["loss"].overall


def test_one_class_at_one_site_trains_with_a_warning() -> None:
    sites = hospitals()
    x, y = sites["hospital-1"]
    sites["hospital-1"] = (x, np.zeros_like(y))
    result = co.simulate(study(), sites)
    assert any("hospital-1" in warning for warning in result.warnings)
    assert result.metrics["auroc"].per_site["hospital-1"] is None
    assert result.metrics["auroc"].overall is not None
    assert {line.site for line in result.participation if line.status == "in"} == set(sites)


def test_one_class_over_all_training_data_is_refused() -> None:
    sites = {name: (x, np.zeros_like(y)) for name, (x, y) in hospitals().items()}
    with pytest.raises(InvalidInputError, match="class"):
        co.simulate(study(), sites)


def test_divergence_is_told_as_such() -> None:
    with pytest.raises(DivergedError, match="diverged"):
        co.simulate(
            study(
                **{
                    "task.optimizer": {"kind": "sgd", "lr": 1e38},
                    "task.kind": "regression",
                    "task.loss": "mse",
                    "task.metrics": [],
                }
            ),
            hospitals(),
        )


def test_below_quorum_names_the_sites_and_why() -> None:
    class Moody(LeastSquares):
        def train(self, jobs: Any) -> Any:
            if jobs[0].site == "hospital-1":
                raise RuntimeError("out of memory")
            return super().train(jobs)

    with pytest.raises(BelowQuorumError) as failed:
        co.simulate(study(), hospitals(), task=Moody(2))
    assert "hospital-1 failed (RuntimeError: out of memory)" in str(failed.value)
    assert failed.value.exit_code == 1
    result = co.simulate(study(**{"plan.participation": {"quorum": 2}}), hospitals(), task=Moody(2))
    assert [p.status for p in result.participation if p.site == "hospital-1"] == ["failed"] * 3


@pytest.mark.parametrize(
    ("settings", "arguments", "words"),
    [
        ({}, {"engine": "warp"}, "'warp'"),
        ({}, {"arms": ()}, "arms"),
        ({}, {"arms": ("federated", "centaur")}, "'centaur'"),
        ({}, {"arms": ("single", "single")}, "twice"),
        ({}, {"resume": True}, "folder"),
        ({}, {"model_args": {"width": 3}}, "model_args"),
        ({"task.model": None}, {"model": Net(3), "task": LeastSquares(2)}, "one of the two"),
        ({"plan.participation": {"quorum": 4}}, {}, "plan.participation.quorum"),
        ({"plan.sites": ["hospital-0", "nowhere"]}, {}, "'nowhere'"),
        ({"plan.evaluation_only": ["nowhere"]}, {}, "'nowhere'"),
        ({"plan.evaluation_only": [f"hospital-{i}" for i in range(3)]}, {}, "no site that trains"),
        (
            {"plan.topology": {"kind": "tree", "groups": {"g": ["hospital-0"]}}},
            {},
            "no group names",
        ),
        (
            {
                "plan.topology": {
                    "kind": "gossip",
                    "graph": "edges",
                    "edges": [["hospital-0", "hospital-1"]],
                }
            },
            {},
            "not connected",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(
    settings: Tables, arguments: Tables, words: str, tmp_path: Path
) -> None:
    with pytest.raises((ArgumentError, StudyError)) as refused:
        co.compare(study(**settings), hospitals(), **{"arms": ("federated",), **arguments})
    assert words in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [None, 3, ["x"]])
def test_a_study_is_a_study(bad: Any) -> None:
    with pytest.raises(ArgumentError, match="study"):
        co.simulate(bad, hospitals())


def test_no_dataset_and_no_sites() -> None:
    with pytest.raises(ArgumentError, match=r"data\.dataset"):
        co.simulate(study())

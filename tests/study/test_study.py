from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from cohortium.aggregation.median import Median
from cohortium.aggregation.server_optimizer import FedAdam, FedAvg
from cohortium.data.schema import Feature, Schema, Split
from cohortium.errors import StudyError
from cohortium.learning.optimizers import Sgd
from cohortium.plan.gossip import Gossip
from cohortium.plan.hybrid import Hybrid, SubFederation
from cohortium.plan.star import Star
from cohortium.study.sections import LocalWork, PlanSection, StudySection
from cohortium.study.study import Study

Tables = dict[str, Any]
Change = Callable[[Mapping[str, Any]], Tables]


def kinds(parts: tuple[Any, ...]) -> list[str]:
    return [type(part).__name__ for part in parts]


def test_defaults_are_filled_in(small: Tables) -> None:
    study = Study.from_dict(small)

    assert study.plan.topology == Star()
    assert study.plan.server_optimizer == FedAvg()
    assert study.plan.participation.deadline == 600.0
    assert study.task.batch_size == 32
    assert study.task.metric_names == ("loss", "auroc", "accuracy")
    assert study.privacy.secure_sum == "none"


@pytest.mark.parametrize(
    ("kind", "more", "loss", "metrics"),
    [
        ("binary-classification", {}, "BceWithLogits", ["Auroc", "Accuracy"]),
        ("multiclass-classification", {"classes": 3}, "CrossEntropy", ["Accuracy"]),
        ("regression", {}, "Mse", ["Mae"]),
        ("binary-classification", {"evaluate": False}, "BceWithLogits", []),
    ],
)
def test_loss_and_metrics_follow_the_kind(
    small: Tables, kind: str, more: Tables, loss: str, metrics: list[str]
) -> None:
    small["task"] |= {"kind": kind, **more}
    task = Study.from_dict(small).task
    assert (kinds((task.loss,)), kinds(task.metrics)) == ([loss], metrics)


@pytest.mark.parametrize("topology", ["star", {"kind": "star"}, Star()])
def test_a_part_may_be_a_kind_a_table_or_an_object(changed: Change, topology: object) -> None:
    assert Study.from_dict(changed({"plan.topology": topology})).plan.topology == Star()


def test_python_objects_make_the_same_study_as_tables(small: Tables) -> None:
    small["plan"] = {
        "rounds": 3,
        "local": {"steps": 2},
        "aggregation": "median",
        "server_optimizer": {"kind": "fedadam", "lr": 0.5},
        "sites": ["a", "b"],
    }
    small["data"]["split"] = {"validation": 0.5}
    objects = Study(
        study=StudySection(**small["study"]),
        task={"kind": "binary-classification", "model": "linear", "optimizer": Sgd(lr=0.1)},
        data=Schema(
            dataset="breast-cancer",
            target="malignant",
            features=(Feature(name="age", range=(0, 120)),),
            split=Split(validation=0.5),
        ),
        plan=PlanSection(
            rounds=3,
            local=LocalWork(steps=2),
            aggregation=Median(),
            server_optimizer=FedAdam(lr=0.5),
            sites=("a", "b"),
        ),
    )
    assert objects == Study.from_dict(small)


def test_topologies_nest(changed: Change) -> None:
    hybrid = Hybrid(
        outer=Gossip(graph="complete"),
        groups=(SubFederation(name="north", topology=Star(), sites=("a", "b")),),
    )
    tables = {
        "kind": "hybrid",
        "outer": {"kind": "gossip", "graph": "complete"},
        "groups": [{"name": "north", "topology": "star", "sites": ["a", "b"]}],
    }
    study = Study.from_dict(changed({"plan.topology": tables}))
    assert study.plan.topology == hybrid
    assert study == Study.from_dict(changed({"plan.topology": hybrid}))
    assert study.canonical()["plan"]["topology"]["groups"][0]["topology"] == {"kind": "star"}


def test_a_part_of_another_table_is_refused(changed: Change) -> None:
    with pytest.raises(StudyError, match=r"plan\.aggregation\.kind: got 'star'"):
        Study.from_dict(changed({"plan.aggregation": Star()}))


def test_a_study_may_only_evaluate(small: Tables) -> None:
    small["task"] = {
        "kind": "binary-classification",
        "model": "linear",
        "initial_model": "released.safetensors",
    }
    small["plan"] = {"rounds": 0}
    study = Study.from_dict(small)
    assert (study.plan.local, study.task.optimizer) == (None, None)


@pytest.mark.parametrize(
    "settings",
    [
        {"plan.topology": {"kind": "tree", "branching": 2}, "plan.server_optimizer": "fedadam"},
        {"plan.topology": {"kind": "gossip"}, "plan.server_optimizer": {"kind": "fedavg", "lr": 2}},
        {"plan.topology": {"kind": "cyclic", "select": "best-local"}, "data.split.validation": 0.1},
        {"plan.aggregation": {"kind": "krum", "byzantine": 1}},
        {"plan.sites": ["a", "b"], "plan.evaluation_only": ["b"], "plan.participation.quorum": 1},
        {"plan.evaluation_only": ["b"], "plan.participation.quorum": 9},
        {"task.metrics": [], "task.evaluate": False},
        {"task.metrics": []},
        {"task.loss": "bce", "task.metrics": [{"kind": "auroc", "resolution": 512}]},
        {"task.kind": "regression", "data.split.method": "random"},
        {"compare.central": {"epochs": 50, "optimizer": {"kind": "adam", "lr": 0.001}}},
        {
            "acceptance.criteria": [
                {"metric": "loss", "at_most": 1},
                {"metric": "auroc", "scope": "gap", "at_most": 0.1},
                {"metric": "accuracy", "scope": "every-site", "at_least": 0},
            ],
            "acceptance.early_stopping": {"patience": 3},
            "data.split.validation": 0.2,
        },
        {"task.model": "<removed>"},
        {"data": {}},
        {"task.model": {"kind": "linear", "framework": "numpy"}},
        {
            "task.model": {"kind": "linear", "framework": "numpy"},
            "plan.algorithm": {"kind": "fedprox", "mu": 0.1},
        },
        {"plan.local": {"seconds": 599.5}},
        {"plan.local": {"seconds": 2}, "plan.participation.deadline": 3},
        {"plan.hosts": {"@aggregator": "a", "@aggregator/north": "b"}},
    ],
    ids=str,
)
def test_possible_combinations_are_accepted(changed: Change, settings: Tables) -> None:
    study = Study.from_dict(changed(settings))
    assert Study.from_dict(study.canonical()).canonical() == study.canonical()


def test_canonical_spells_out_every_default(small: Tables) -> None:
    canonical = Study.from_dict(small).canonical()

    assert canonical["schema_version"] == 1
    assert canonical["plan"]["server_optimizer"] == {"kind": "fedavg", "lr": 1.0}
    assert canonical["task"]["optimizer"]["momentum"] == 0.0
    assert canonical["data"]["split"]["test"] == 0.2


def test_the_split_takes_the_seed_of_the_study_unless_it_has_its_own(changed: Change) -> None:
    inherited = Study.from_dict(changed({"study.seed": 7}))
    own = Study.from_dict(changed({"study.seed": 7, "data.split.seed": 3}))

    assert (inherited.split_seed, own.split_seed) == (7, 3)
    assert inherited.canonical()["data"]["split"]["seed"] == 7
    assert inherited.override({"study.seed": 8}).split_seed == 8
    assert own.override({"study.seed": 8}).split_seed == 3


def test_override_changes_what_it_names_and_nothing_else(small: Tables) -> None:
    study = Study.from_dict(small)
    other = study.override({"plan.rounds": 9, "plan.participation.quorum": 2, "task.loss": "bce"})

    expected = study.canonical()
    expected["plan"]["rounds"] = 9
    expected["plan"]["participation"]["quorum"] = 2
    expected["task"]["loss"] = {"kind": "bce"}
    assert other.canonical() == expected
    assert study == Study.from_dict(small)
    assert study.override({}) == study


def test_override_leaves_defaults_to_follow_what_changed(small: Tables) -> None:
    other = Study.from_dict(small).override({"task.kind": "regression"})
    assert other.task.metric_names == ("loss", "mae")


def test_override_takes_a_setting_back(small: Tables) -> None:
    other = Study.from_dict(small).override({"plan.local.epochs": None, "plan.local.steps": 5})
    assert other.plan.local == LocalWork(steps=5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"plan.rouds": 3}, "--set: plan.rouds: got an unknown key"),
        ({"plan.rounds": -3}, "--set: plan.rounds: got -3"),
        ({"plan.rounds.x": 3}, "--set: plan.rounds.x: got 'rounds', which is no table"),
        ({"": 3}, "--set: got an unknown key"),
    ],
)
def test_override_is_validated(small: Tables, settings: Tables, message: str) -> None:
    with pytest.raises(StudyError) as caught:
        Study.from_dict(small).override(settings, where="--set")
    assert str(caught.value).startswith(message)


def test_a_study_cannot_be_changed(small: Tables) -> None:
    study = Study.from_dict(small)
    with pytest.raises(ValidationError, match="frozen"):
        study.plan.rounds = 4


def test_a_study_can_be_sent_to_another_process(small: Tables) -> None:
    study = Study.from_dict(small)
    assert pickle.loads(pickle.dumps(study)) == study

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

import pytest

from cohortium.errors import StudyError
from cohortium.study.study import Study

Change = Callable[[Mapping[str, Any]], dict[str, Any]]

ADAM = {"kind": "fedadam"}
CYCLIC = {"kind": "cyclic"}
GOSSIP = {"kind": "gossip", "graph": "complete"}
STARS = [{"name": "a", "topology": "star", "sites": ["x", "y"]}]
RELEASED = {"plan.rounds": 0, "task.initial_model": "model.safetensors"}
NUMPY = {"kind": "linear", "framework": "numpy"}
AUROC = {"metric": "auroc", "at_least": 0.9}

# what is written, the key of the problem, words that its message must have
BAD: list[tuple[dict[str, Any], str, tuple[str, ...]]] = [
    # unknown and missing keys
    ({"plna": {}}, "plna", ("unknown key", "Did you mean 'plan'?")),
    ({"plan.rouds": 3}, "plan.rouds", ("unknown key", "evaluate_every", "Did you mean 'rounds'?")),
    ({"plan.local.step": 3}, "plan.local.step", ("unknown key", "Did you mean 'steps'?")),
    ({"data.target_": "y"}, "data.target_", ("unknown key", "Did you mean 'target'?")),
    ({"data.split.seeds": 3}, "data.split.seeds", ("Did you mean 'seed'?",)),
    ({"data.features": [{"name": "a", "rnge": 1}]}, "data.features[0].rnge", ("'range'?",)),
    ({"data.features": [{}]}, "data.features[0].name", ("got nothing", "The column's name")),
    ({"study": "<removed>"}, "study", ("got nothing", "What the study is")),
    ({"study.purpose": "<removed>"}, "study.purpose", ("got nothing", "What the model is for")),
    ({"task.kind": "<removed>"}, "task.kind", ("got nothing", "How the target is read")),
    ({"plan.rounds": "<removed>"}, "plan.rounds", ("got nothing", "Rounds of training")),
    # types
    ({"plan": 3}, "plan", ("got 3", "a table")),
    ({"plan.local": 3}, "plan.local", ("got 3", "a table")),
    ({"plan.rounds": "3"}, "plan.rounds", ("got '3'", "a whole number")),
    ({"plan.rounds": True}, "plan.rounds", ("got true", "a whole number")),
    ({"plan.rounds": 2.5}, "plan.rounds", ("got 2.5", "a whole number")),
    ({"study.name": 3}, "study.name", ("got 3", "text in quotes")),
    ({"study.name": None}, "study.name", ("got nothing", "text in quotes")),
    ({"task.evaluate": "no"}, "task.evaluate", ("got 'no'", "true or false")),
    ({"task.metrics": "auroc"}, "task.metrics", ("got 'auroc'", "a list")),
    ({"data.features": [3]}, "data.features[0]", ("got 3", "a table")),
    ({"data.split.test": "0.2"}, "data.split.test", ("got '0.2'", "a number")),
    ({"data.positive": 1}, "data.positive", ("got 1", "text in quotes or a list")),
    ({"data.positive": [True]}, "data.positive[0]", ("got true", "a number or text in quotes")),
    ({"study.seed": float("nan")}, "study.seed", ("got nan", "a finite number")),
    ({"data.split.test": float("inf")}, "data.split.test", ("got inf", "a finite number")),
    ({"study.name": date(2026, 1, 1)}, "study.name", ("type date", "text")),
    ({"plan.sites": {"a"}}, "plan.sites", ("type set", "a list")),
    # values
    ({"schema_version": 2}, "schema_version", ("got 2", "expected 1")),
    ({"study.name": "My study"}, "study.name", ("'My study'", "lower-case letters")),
    ({"study.name": "a" * 65}, "study.name", ("lower-case letters",)),
    ({"study.purpose": " "}, "study.purpose", ("' '", "every site's board")),
    ({"study.purpose": "x" * 2001}, "study.purpose", ("2003 characters", "at most 2000")),
    ({"study.seed": -1}, "study.seed", ("got -1", "at least 0")),
    ({"study.seed": 2**32}, "study.seed", ("got 4294967296", "below 4294967296")),
    ({"plan.rounds": -1}, "plan.rounds", ("got -1", "at least 0")),
    ({"plan.evaluate_every": 0}, "plan.evaluate_every", ("got 0", "at least 1")),
    ({"plan.local": {"epochs": 0}}, "plan.local.epochs", ("got 0", "at least 1")),
    ({"plan.participation.fraction": 0}, "plan.participation.fraction", ("got 0", "above 0")),
    ({"plan.participation.fraction": 1.5}, "plan.participation.fraction", ("1.5", "at most 1")),
    ({"plan.participation.deadline": 0}, "plan.participation.deadline", ("above 0",)),
    ({"plan.participation.on_shortfall": "skp"}, "plan.participation.on_shortfall", ("'skip'?",)),
    ({"plan.participation.quorum": 0}, "plan.participation.quorum", ("at least 1",)),
    ({"plan.sites": []}, "plan.sites", ("a list of 0", "at least 1 entries")),
    ({"plan.sites": ["a/b"]}, "plan.sites[0]", ("'a/b'", "a letter or digit")),
    ({"task.batch_size": 0}, "task.batch_size", ("got 0", "at least 1")),
    ({"task.batch_size": 10**9}, "task.batch_size", ("at most 1000000",)),
    ({"task.kind": "binary"}, "task.kind", ("'binary'", "'binary-classification'")),
    ({"data.split.test": 1}, "data.split.test", ("got 1", "below 1")),
    # parts
    ({"plan.topology": "strr"}, "plan.topology", ("'strr'", "gossip", "Did you mean 'star'?")),
    ({"plan.topology": {"kind": "strr"}}, "plan.topology.kind", ("Did you mean 'star'?",)),
    ({"plan.topology": {"graph": "ring"}}, "plan.topology.kind", ("got nothing", "gossip")),
    ({"plan.topology": {"kind": 3}}, "plan.topology.kind", ("got 3", "gossip")),
    ({"plan.topology": 3}, "plan.topology", ("got 3", "gossip", "a table with a `kind`")),
    ({"plan.topology": None}, "plan.topology", ("got nothing", "gossip")),
    ({"plan.topology": "tree"}, "plan.topology", ("a conflict", "`branching`")),
    (
        {"plan.topology": {"kind": "gossip", "grap": "ring"}},
        "plan.topology.grap",
        ("unknown key", "kind, graph", "Did you mean 'graph'?"),
    ),
    (
        {"plan.topology": {"kind": "gossip", "graph": "rng"}},
        "plan.topology.graph",
        ("'rng'", "Did you mean 'ring'?"),
    ),
    (
        {"plan.topology": {"kind": "gossip", "graph": "edges", "edges": [["a", 1]]}},
        "plan.topology.edges[0][1]",
        ("got 1", "text in quotes"),
    ),
    (
        {"plan.topology": {"kind": "hybrid", "outer": "sta", "groups": STARS}},
        "plan.topology.outer",
        ("'sta'", "Did you mean 'star'?"),
    ),
    (
        {
            "plan.topology": {
                "kind": "hybrid",
                "outer": "star",
                "groups": [{"name": "a", "topology": {"kind": "gossip", "x": 1}, "sites": ["x"]}],
            }
        },
        "plan.topology.groups[0].topology.x",
        ("unknown key", "exchanges"),
    ),
    ({"task.optimizer": "sgd"}, "task.optimizer.lr", ("got nothing", "earning rate")),
    ({"task.optimizer": {"kind": "sgd", "lr": 0}}, "task.optimizer.lr", ("got 0", "above 0")),
    ({"task.optimizer": {"kind": "sgd", "lr": "x"}}, "task.optimizer.lr", ("'x'", "a number")),
    ({"task.model": {"kind": "mlp", "hidden": []}}, "task.model.hidden", ("at least 1 entries",)),
    ({"task.model": {"kind": "mlp", "hidden": [0]}}, "task.model.hidden[0]", ("at least 1",)),
    ({"task.model": {"kind": "torch.nn.Linear"}}, "task.model.kind", ("code, linear, mlp",)),
    ({"task.metrics": ["aurok"]}, "task.metrics[0]", ("Did you mean 'auroc'?",)),
    (
        {"task.metrics": [{"kind": "auroc", "resolution": 0.5}]},
        "task.metrics[0].resolution",
        ("got 0.5", "a whole number"),
    ),
    # one section against itself
    ({"study.trust": "non-trusted"}, "study.trust", ("'non-trusted'", "not there yet")),
    ({"task.classes": 3}, "task.classes", ("got 3", "no classes in a binary-classification")),
    (
        {"task.kind": "multiclass-classification"},
        "task.classes",
        ("got nothing", "number of classes"),
    ),
    ({"task.loss": "mse"}, "task.loss", ("'mse'", "bce, bce-with-logits")),
    ({"task.metrics": ["accuracy", "mae"]}, "task.metrics[1]", ("'mae'", "brier, sensitivity")),
    ({"task.metrics": ["auroc", "auroc"]}, "task.metrics[1]", ("'auroc' again",)),
    ({"task.metrics": ["loss"]}, "task.metrics[0]", ("always measured", "Remove it")),
    ({"task.evaluate": False, "task.metrics": ["auroc"]}, "task.metrics", ("evaluate = false",)),
    ({"plan.local": {}}, "plan.local", ("none of epochs, steps and seconds", "epochs = 1")),
    ({"plan.local": {"epochs": 1, "steps": 1}}, "plan.local", ("epochs and steps", "exactly one")),
    (
        {"plan.local": {"steps": 1, "seconds": 1}},
        "plan.local",
        ("steps and seconds", "exactly one"),
    ),
    ({"plan.local": {"seconds": 0}}, "plan.local.seconds", ("got 0", "above 0")),
    (
        {"plan.local": {"seconds": 600}},
        "plan.local.seconds",
        ("got 600", "less than the deadline, 600 seconds", "too late"),
    ),
    ({"plan.local": "<removed>"}, "plan.local", ("got nothing", "local = {epochs = 1}")),
    ({"plan.hosts": {"@aggregator": 3}}, "plan.hosts.@aggregator", ("got 3", "text in quotes")),
    ({"plan.hosts": {"@aggregator": "@hub"}}, "plan.hosts.@aggregator", ("'@hub'", "of the form")),
    (
        {"plan.sites": ["a", "b"], "plan.hosts": {"@aggregator": "c"}},
        "plan.hosts.@aggregator",
        ("'c'", "one of plan.sites", "leave the party to the hub"),
    ),
    (
        {"task.model": NUMPY, "task.loss": "bce"},
        "task.loss",
        ("'bce'", "'bce-with-logits', 'cross-entropy', 'mse'", 'framework = "torch"'),
    ),
    ({"task.model": NUMPY, "task.optimizer": "adam"}, "task.optimizer", ("'adam'", "has: 'sgd'")),
    (
        {"task.model": NUMPY, "compare.central": {"optimizer": "adam"}},
        "compare.central.optimizer",
        ("'adam'", "has: 'sgd'"),
    ),
    ({"task.model": {"kind": "linear", "framework": "jax"}}, "task.model.framework", ("'jax'",)),
    ({"plan.sites": ["a", "b", "a"]}, "plan.sites[2]", ("'a' again", "each site once")),
    ({"plan.evaluation_only": ["a", "a"]}, "plan.evaluation_only[1]", ("'a' again",)),
    (
        {"plan.sites": ["a", "b"], "plan.evaluation_only": ["c"]},
        "plan.evaluation_only[0]",
        ("'c'", "one of plan.sites"),
    ),
    (
        {"plan.sites": ["a", "b"], "plan.evaluation_only": ["a", "b"]},
        "plan.evaluation_only",
        ("every site", "at least one site that trains"),
    ),
    (
        {
            "plan.sites": ["a", "b", "c"],
            "plan.evaluation_only": ["c"],
            "plan.participation.quorum": 3,
        },
        "plan.participation.quorum",
        ("got 3", "at most 2"),
    ),
    ({"privacy.secure_sum": "secagg"}, "privacy.secure_sum", ("'secagg'", "not there yet")),
    ({"privacy.secure_sum": "ckks"}, "privacy.secure_sum", ("'ckks'", "'bfv'")),
    ({"privacy.mechanism": "gaussian"}, "privacy.mechanism", ("'gaussian'", "not there yet")),
    ({"privacy.unit": "site"}, "privacy.unit", ("'site'", "not there yet")),
    (
        {"acceptance.criteria": [{"metric": "auroc"}]},
        "acceptance.criteria[0]",
        ("neither at_least nor at_most", "exactly one"),
    ),
    (
        {"acceptance.criteria": [AUROC | {"at_most": 1}]},
        "acceptance.criteria[0]",
        ("at_least and at_most", "exactly one"),
    ),
    (
        {"acceptance.criteria": [AUROC | {"scope": "gap"}]},
        "acceptance.criteria[0].at_least",
        ("got 0.9", "at_most"),
    ),
    (
        {"acceptance.criteria": [AUROC | {"scope": "each-site"}]},
        "acceptance.criteria[0].scope",
        ("'each-site'", "Did you mean 'every-site'?"),
    ),
    (
        {"acceptance.early_stopping": {"patience": 2}, "data.split.validation": 0.1},
        "acceptance.criteria",
        ("got nothing", "early stopping"),
    ),
    (
        {"compare.central": {"epochs": 1, "steps": 1}},
        "compare.central",
        ("epochs and steps", "at most one"),
    ),
    # one section against another
    ({"plan.rounds": 0}, "task.initial_model", ("got nothing", "rounds = 0")),
    ({"task.optimizer": "<removed>"}, "task.optimizer", ("got nothing", "how a site trains")),
    (RELEASED | {"task.evaluate": False}, "task.evaluate", ("got false", "rounds = 0")),
    (
        {"task.evaluate": False, "acceptance.criteria": [{"metric": "loss", "at_most": 1}]},
        "task.evaluate",
        ("got false", "acceptance criteria"),
    ),
    (
        {"plan.topology": GOSSIP, "plan.aggregation": "median"},
        "plan.aggregation",
        ("'median'", "an additive rule", "topology 'gossip'", 'topology = "star"'),
    ),
    (
        {"plan.topology": {"kind": "tree", "branching": 2}, "plan.aggregation": "geometric-median"},
        "plan.aggregation",
        ("'geometric-median'", "topology 'tree'"),
    ),
    (
        {"plan.topology": CYCLIC, "plan.aggregation": "median"},
        "plan.aggregation",
        ("'median'", "travels from site to site"),
    ),
    (
        {"plan.topology": CYCLIC, "plan.server_optimizer": ADAM},
        "plan.server_optimizer",
        ("'fedadam'", "passes no server"),
    ),
    (
        {"plan.topology": CYCLIC, "plan.server_optimizer": {"kind": "fedavg", "lr": 0.5}},
        "plan.server_optimizer",
        ("lr = 0.5", "lr = 1"),
    ),
    (
        {"plan.topology": GOSSIP, "plan.server_optimizer": ADAM},
        "plan.server_optimizer",
        ("'fedadam'", "drift apart"),
    ),
    (
        {
            "plan.topology": {"kind": "hybrid", "outer": GOSSIP, "groups": STARS},
            "plan.server_optimizer": ADAM,
        },
        "plan.server_optimizer",
        ("'fedadam'", "topology 'gossip'"),
    ),
    (
        {"plan.topology": CYCLIC | {"select": "best-local"}},
        "data.split.validation",
        ("got 0", 'select = "best-local"', "validation = 0.1"),
    ),
    (
        {"acceptance.criteria": [AUROC], "acceptance.early_stopping": {"patience": 2}},
        "data.split.validation",
        ("acceptance.early_stopping",),
    ),
    (
        {"acceptance.criteria": [{"metric": "brier", "at_most": 0.1}]},
        "acceptance.criteria[0].metric",
        ("'brier'", "loss, auroc, accuracy", "task.metrics"),
    ),
    (
        {"task.kind": "regression", "data.positive": "> 0"},
        "data.positive",
        ("'> 0'", "regression"),
    ),
    # the data section's own rules
    ({"data.split.validation": 0.9}, "data.split", ("leave no row to train on",)),
    ({"data.target": "age"}, "data", ("a conflict", "also listed as a feature")),
]


@pytest.mark.parametrize(("settings", "key", "words"), BAD, ids=lambda value: str(value)[:50])
def test_a_bad_study_is_refused_in_words(
    changed: Change, settings: dict[str, Any], key: str, words: tuple[str, ...]
) -> None:
    with pytest.raises(StudyError) as caught:
        Study.from_dict(changed(settings), where="study.toml")

    (problem,) = caught.value.problems
    assert (problem.where, problem.key) == ("study.toml", key)
    for word in words:
        assert word in str(problem)
    for jargon in ("pydantic", "http", "Input should", "None", "type=", "dict", "tuple["):
        assert jargon not in str(problem)


def test_the_table_is_long_and_its_rows_differ() -> None:
    assert len({(str(settings), key) for settings, key, _ in BAD}) == len(BAD) >= 40


def test_all_problems_are_reported_at_once(changed: Change) -> None:
    tables = changed({"plan.rouds": 3, "study.name": "A", "task.optimizer": "sgd", "x": 1})

    with pytest.raises(StudyError) as caught:
        Study.from_dict(tables)

    keys = {problem.key for problem in caught.value.problems}
    assert keys == {"plan.rouds", "study.name", "task.optimizer.lr", "x"}


def test_problems_of_several_sections_are_reported_at_once(changed: Change) -> None:
    tables = changed({"privacy.unit": "site", "task.loss": "mse", "plan.sites": ["a", "a"]})

    with pytest.raises(StudyError) as caught:
        Study.from_dict(tables)

    keys = {problem.key for problem in caught.value.problems}
    assert keys == {"privacy.unit", "task.loss", "plan.sites[1]"}


def test_a_long_value_is_not_repeated_in_full(changed: Change) -> None:
    with pytest.raises(StudyError) as caught:
        Study.from_dict(changed({"plan.topology": "x" * 100_000}))

    assert len(str(caught.value)) < 500


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(StudyError, match="got a list of 1; expected a table of sections"):
        Study.from_dict([1])  # type: ignore[arg-type]

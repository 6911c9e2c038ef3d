from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortium.errors import StudyError
from cohortium.study.bundle import FILE_LIMIT, Bundle, named_files
from cohortium.study.read import read
from cohortium.study.study import Study

Tables = dict[str, Any]
Change = Callable[[Mapping[str, Any]], Tables]

RICH: Tables = {
    "schema_version": 1,
    "study": {"name": "rich", "purpose": "Say = everything # at once.", "seed": 3},
    "task": {
        "kind": "binary-classification",
        "model": {
            "kind": "code",
            "file": "net.py",
            "build": "Net",
            "args": {"width": 8, "bias": True},
        },
        "optimizer": {"kind": "adam", "lr": 0.001, "beta1": 0.8},
        "batch_size": 4,
        "metrics": [{"kind": "auroc", "resolution": 512}, "accuracy"],
    },
    "data": {
        "dataset": "mine",
        "target": "num",
        "positive": "> 0",
        "features": [
            {"name": "age", "unit": "years", "range": [0, 120]},
            {"name": "cp", "type": "category", "categories": [1, 2, 3]},
        ],
        "cohort": [{"column": "age", "min": 18, "max": 90.5}],
        "split": {"validation": 0.1},
    },
    "plan": {
        "rounds": 5,
        "local": {"steps": 10},
        "sites": ["a", "b", "c", "d"],
        "evaluation_only": ["d"],
        "topology": {"kind": "tree", "groups": {"north": ["a", "b"], "south": ["c", "d"]}},
        "algorithm": {"kind": "fedprox", "mu": 0.01},
        "server_optimizer": {"kind": "fedadam", "lr": 0.01},
        "participation": {"fraction": 0.9, "quorum": 2},
    },
    "acceptance": {
        "criteria": [{"metric": "auroc", "scope": "gap", "at_most": 0.1}],
        "early_stopping": {"patience": 2},
    },
    "compare": {"central": {"epochs": 50, "optimizer": {"kind": "adam", "lr": 0.01}}},
}

CHANGES: Tables = {
    "study.name": "other",
    "study.purpose": "Say everything at once.",
    "study.seed": 4,
    "task.model.file": "net2.py",
    "task.model.build": "Net2",
    "task.model.args": {"width": 8, "bias": False},
    "task.optimizer.lr": 0.002,
    "task.optimizer.beta1": 0.81,
    "task.optimizer.beta2": 0.998,
    "task.optimizer.eps": 1e-7,
    "task.optimizer.weight_decay": 1e-9,
    "task.loss": "bce",
    "task.batch_size": 5,
    "task.metrics": ["accuracy", {"kind": "auroc", "resolution": 512}],
    "task.initial_model": "start.safetensors",
    "data.dataset": "yours",
    "data.target": "label",
    "data.positive": ">= 0",
    "data.normalize": "none",
    "data.features": [{"name": "age"}],
    "data.cohort": [],
    "data.split.method": "random",
    "data.split.test": 0.25,
    "data.split.validation": 0.11,
    "data.split.seed": 4,
    "plan.rounds": 6,
    "plan.evaluate_every": 2,
    "plan.sites": ["b", "a", "c", "d"],
    "plan.evaluation_only": ["c"],
    "plan.topology": {"kind": "tree", "groups": {"north": ["b", "a"], "south": ["c", "d"]}},
    "plan.local.steps": 11,
    "plan.algorithm": {"kind": "fedprox", "mu": 0.011},
    "plan.hosts": {"@aggregator/north": "a"},
    "plan.server_optimizer.lr": 0.02,
    "plan.server_optimizer.beta1": 0.91,
    "plan.server_optimizer.beta2": 0.991,
    "plan.server_optimizer.tau": 1e-7,
    "plan.participation.fraction": 0.8,
    "plan.participation.quorum": 3,
    "plan.participation.deadline": 601,
    "plan.participation.on_shortfall": "skip",
    "acceptance.criteria": [{"metric": "auroc", "scope": "gap", "at_most": 0.2}],
    "acceptance.early_stopping.patience": 3,
    "compare.central.epochs": 51,
    "compare.central.optimizer.lr": 0.02,
    "compare.central.optimizer.beta1": 0.91,
    "compare.central.optimizer.beta2": 0.991,
    "compare.central.optimizer.eps": 1e-7,
    "compare.central.optimizer.weight_decay": 1e-9,
}
FIXED = {
    "schema_version": "one version so far",
    "study.trust": "one level so far",
    "task.kind": "the loss and the metrics go with it",
    "task.optimizer.kind": "the kind goes with its settings",
    "task.classes": "for another kind of task",
    "task.evaluate": "the criteria need it",
    "task.model.kind": "the kind goes with its settings",
    "plan.aggregation.kind": "a tree needs the mean",
    "plan.server_optimizer.kind": "the kind goes with its settings",
    "plan.local.epochs": "goes without steps",
    "plan.local.seconds": "goes without steps",
    "privacy.unit": "one value so far",
    "privacy.secure_sum": "one value so far",
    "privacy.mechanism": "one value so far",
    "data.shape": "goes without features",
    "compare.central.steps": "goes without epochs",
    "compare.central.optimizer.kind": "the kind goes with its settings",
}


def leaves(node: object, above: str = "") -> Iterator[str]:
    if not isinstance(node, dict):
        yield above
        return
    for key, value in node.items():
        yield from leaves(value, f"{above}.{key}".removeprefix("."))


def digest(study: Study) -> str:
    return Bundle(study, {path: b"" for _, path in named_files(study)}).digest


def test_no_setting_of_a_study_is_forgotten() -> None:
    found = set(leaves(Study.from_dict(RICH).canonical()))
    covered = {leaf for leaf in found for key in CHANGES if f"{leaf}.".startswith(f"{key}.")}
    assert found - covered == FIXED.keys()


@pytest.mark.parametrize("key", CHANGES)
def test_a_changed_setting_changes_the_digest(key: str) -> None:
    study = Study.from_dict(RICH)
    assert digest(study.override({key: CHANGES[key]})) != digest(study)


def test_writing_every_default_does_not_change_the_digest() -> None:
    study = Study.from_dict(RICH)
    assert digest(Study.from_dict(study.canonical())) == digest(study)


@pytest.mark.parametrize(
    ("key", "same"),
    [
        ("plan.aggregation", "mean"),
        ("plan.aggregation", {"kind": "mean"}),
        ("task.loss", "bce-with-logits"),
        ("plan.participation.deadline", 600),
        ("plan.participation.deadline", 600.0),
        ("data.split.seed", 3),
        ("data.split.method", "stratified"),
        ("privacy.unit", "patient"),
    ],
)
def test_a_default_that_is_written_does_not_change_the_digest(key: str, same: object) -> None:
    study = Study.from_dict(RICH)
    assert digest(study.override({key: same})) == digest(study)


def test_the_digest_is_that_of_the_documented_text(folder: Path) -> None:
    bundle = Bundle.of(Study.from_dict(RICH), folder=folder)
    study = json.dumps(bundle.study.canonical(), sort_keys=True, separators=(",", ":"))
    code = hashlib.sha256(b"class Net: ...\n").hexdigest()
    text = f'{{"files":{{"net.py":"{code}"}},"model":null,"study":{study}}}'
    assert bundle.digest == hashlib.sha256(text.encode()).hexdigest()


# Writing the same study in other ways


@st.composite
def written(draw: st.DrawFn, tables: Tables) -> str:
    """Draw a TOML text of the tables: keys in any order, any white space, any comments."""

    def gap() -> str:
        return draw(st.sampled_from(["", " ", "\t ", "    "]))

    def end() -> str:
        return gap() + draw(st.sampled_from(["\n", "\n\n", "# rounds = 7\n", "\r\n"]))

    def inline(value: Any) -> str:
        if isinstance(value, dict):
            items = [f"{k}{gap()}={gap()}{inline(value[k])}" for k in shuffled(value)]
            return f"{{{gap()}{(gap() + ',' + gap()).join(items)}{gap()}}}"
        if isinstance(value, list):
            return f"[{gap()}{(',' + end()).join(inline(item) for item in value)}{end()}]"
        return json.dumps(value)

    def shuffled(table: Tables) -> list[str]:
        return draw(st.permutations(list(table)))

    lines = [f"schema_version{gap()}={gap()}1{end()}"]
    for section in shuffled({k: v for k, v in tables.items() if isinstance(v, dict)}):
        lines.append(f"[{gap()}{section}{gap()}]{end()}")
        table = tables[section]
        lines += [f"{gap()}{k}{gap()}={gap()}{inline(table[k])}{end()}" for k in shuffled(table)]
    return "".join(lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    (folder / "net.py").write_text("class Net: ...\n", encoding="utf-8")
    return folder


@settings(max_examples=30, deadline=None)
@given(text=written(RICH))
def test_order_of_keys_white_space_and_comments_do_not_change_the_digest(
    folder: Path, text: str
) -> None:
    (folder / "study.toml").write_bytes(text.encode())
    bundle = read(folder / "study.toml")
    reference = Bundle.of(Study.from_dict(RICH), folder=folder)
    assert bundle.digest == reference.digest
    groups = bundle.study.plan.topology.groups
    assert list(groups) == ["north", "south"]  # nor does what runs depend on their order


# Files


def test_a_changed_byte_of_a_file_changes_the_digest(folder: Path, tmp_path: Path) -> None:
    study = Study.from_dict(RICH)
    before = Bundle.of(study, folder=folder)
    assert before.files == {"net.py": b"class Net: ...\n"}

    (tmp_path / "net.py").write_bytes(b"class Net: ... \n")
    assert Bundle.of(study, folder=tmp_path).digest != before.digest
    (tmp_path / "net.py").write_bytes(b"class Net: ...\n")
    assert Bundle.of(study, folder=tmp_path).digest == before.digest


def test_two_files_cannot_trade_places(tmp_path: Path) -> None:
    study = Study.from_dict(RICH).override({"task.initial_model": "start.safetensors"})
    digests = set()
    for code, start in ((b"x", b"y"), (b"y", b"x"), (b"xy", b""), (b"", b"xy")):
        (tmp_path / "net.py").write_bytes(code)
        (tmp_path / "start.safetensors").write_bytes(start)
        digests.add(Bundle.of(study, folder=tmp_path).digest)
    assert len(digests) == 4


def test_a_model_object_has_its_fingerprint_in_the_digest(small: Tables) -> None:
    del small["task"]["model"]
    study = Study.from_dict(small)
    digests = {Bundle.of(study, model_fingerprint=f).digest for f in (None, "", "a", "b")}
    assert len(digests) == 4


def test_a_study_in_a_folder_may_name_files_below_it(tmp_path: Path, changed: Change) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "start.safetensors").write_bytes(b"start")
    (tmp_path / "link").symlink_to(tmp_path / "models")
    for path in ("models/start.safetensors", "link/start.safetensors"):
        study = Study.from_dict(changed({"task.initial_model": path}))
        assert Bundle.of(study, folder=tmp_path).files == {path: b"start"}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("../secret", "a relative path inside"),
        ("a/../../secret", "a relative path inside"),
        ("inside/../net.py", "a relative path inside"),
        ("/etc/passwd", "a relative path inside"),
        ("..\\secret", "a relative path inside"),
        ("C:secret", "a relative path inside"),
        ("C:\\secret", "a relative path inside"),
        ("./net.py", "Write 'net.py'"),
        ("inside//net.py", "Write 'inside/net.py'"),
        (".", "shortest form"),
        ("absent.py", "which is not there"),
        ("net.py/x", "which is not there"),
        ("x" * 255, "which is not there"),
        ("escape", "leads outside the study's folder"),
        ("way-out/secret", "leads outside the study's folder"),
        ("circle", "which is not there"),
        ("inside", "not a plain file"),
        ("pipe", "not a plain file"),
        ("huge", f"at most {FILE_LIMIT} bytes"),
    ],
)
def test_a_path_that_leaves_the_bundle_is_refused(
    tmp_path: Path, changed: Change, path: str, words: str
) -> None:
    folder = tmp_path / "study"
    (folder / "inside").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "net.py").write_bytes(b"net")
    (folder / "escape").symlink_to(tmp_path / "secret")
    (folder / "way-out").symlink_to(tmp_path)
    (folder / "circle").symlink_to(folder / "circle")
    os.mkfifo(folder / "pipe")
    (folder / "huge").touch()
    os.truncate(folder / "huge", FILE_LIMIT + 1)

    study = Study.from_dict(changed({"task.initial_model": path}))
    with pytest.raises(StudyError) as caught:
        Bundle.of(study, folder=folder, where="study.toml")
    (problem,) = caught.value.problems
    assert problem.key == "task.initial_model"
    assert words in str(problem)
    assert str(tmp_path) not in str(problem)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("../outside.py", "a relative path inside"),
        ("sub/../../outside.py", "a relative path inside"),
        ("/etc/passwd", "a relative path inside"),
        ("C:/model.py", "a relative path inside"),
        ("a\\b.py", "a relative path inside"),
        (".", "shortest form"),
        ("link.py", "leads outside the study's folder"),
        ("absent.py", "which is not there"),
        ("sub", "ends in .py"),
        ("model.txt", "ends in .py"),
        ("model.pyc", "ends in .py"),
        ("model.so", "ends in .py"),
        ("folder.py", "not a plain file"),
    ],
)
def test_code_is_a_python_file_inside_the_folder(tmp_path: Path, path: str, words: str) -> None:
    folder = tmp_path / "study"
    (folder / "sub").mkdir(parents=True)
    (folder / "folder.py").mkdir()
    (tmp_path / "outside.py").write_bytes(b"secret")
    (folder / "link.py").symlink_to(tmp_path / "outside.py")
    for name in ("model.txt", "model.pyc", "model.so"):
        (folder / name).write_bytes(b"")
    study = Study.from_dict(RICH).override({"task.model.file": path})
    with pytest.raises(StudyError) as caught:
        Bundle.of(study, folder=folder)
    (problem,) = caught.value.problems
    assert problem.key == "task.model.file"
    assert words in str(problem)


def test_a_link_inside_the_folder_may_name_code(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_bytes(b"code")
    (tmp_path / "net.py").symlink_to(tmp_path / "model.py")
    assert Bundle.of(Study.from_dict(RICH), folder=tmp_path).files == {"net.py": b"code"}


def test_a_bundle_holds_every_file_that_its_study_names(folder: Path) -> None:
    study = Study.from_dict(RICH)
    with pytest.raises(StudyError, match=r"task\.model\.file: got 'net\.py'; expected a file of"):
        Bundle(study)
    bundle = Bundle.of(study, folder=folder)
    other = study.override({"task.initial_model": "start.safetensors"})
    with pytest.raises(StudyError, match=r"task\.initial_model: got 'start\.safetensors'"):
        dataclasses.replace(bundle, study=other)


def test_what_becomes_of_the_files_on_disk_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_bytes(b"before")
    bundle = Bundle.of(Study.from_dict(RICH), folder=tmp_path)
    digest = bundle.digest
    (tmp_path / "net.py").write_bytes(b"after")
    other = bundle.override({"study.seed": 3})
    assert (other.files, other.digest) == ({"net.py": b"before"}, digest)


def test_all_files_that_are_wrong_are_reported(tmp_path: Path) -> None:
    study = Study.from_dict(RICH).override({"task.initial_model": "../start"})
    with pytest.raises(StudyError) as caught:
        Bundle.of(study, folder=tmp_path)
    keys = [problem.key for problem in caught.value.problems]
    assert keys == ["task.model.file", "task.initial_model"]


def test_a_study_without_a_folder_can_name_no_file() -> None:
    with pytest.raises(StudyError, match=r"task\.model\.file.*Bundle\.of\(study, folder="):
        Bundle.of(Study.from_dict(RICH))


# Overriding


def test_an_overridden_bundle_keeps_its_files(folder: Path) -> None:
    bundle = Bundle.of(Study.from_dict(RICH), folder=folder)
    other = bundle.override({"study.seed": 9})
    assert other.files == bundle.files
    assert other.study.study.seed == 9
    assert other.digest == Bundle.of(other.study, folder=folder).digest != bundle.digest


def test_an_overridden_bundle_drops_files_that_are_no_longer_named(folder: Path) -> None:
    bundle = Bundle.of(Study.from_dict(RICH), folder=folder)
    assert bundle.override({"task.model": "linear"}).files == {}


def test_an_overridden_bundle_gains_no_files(folder: Path) -> None:
    bundle = Bundle.of(Study.from_dict(RICH), folder=folder)
    with pytest.raises(StudyError, match=r"--x: task\.model\.file: got 'other\.py'; expected a f"):
        bundle.override({"task.model.file": "other.py"}, where="--x")

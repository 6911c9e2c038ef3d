"""Everything that a person can get wrong: told with file, key, what was got, what was expected and
what to do; exit code 2; nothing written.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from safetensors.numpy import save

from .conftest import Answer, Desk, hospitals, rows

PROBLEM = re.compile(
    r"invalid: (?P<place>.+?): got (?P<got>.+?); expected (?P<expected>.+?)"
    r"(?:(?:\. |\? )(?P<advice>[A-Z].*))?"
)
NEXT_STEP = "next step: correct this and run it again; nothing was written"


@dataclass(frozen=True)
class Case:
    """What is wrong, and what must be said about it.

    Attributes:
        place: the file and the key, as a message names them.
        got, expected, advice: text that must stand in that part of it; no advice stands for the
            general one.
        change: of the study file.
        data: hospitals' files that differ; None takes one away.
        bundle: files beside the study.
    """

    place: str
    got: str
    expected: str
    advice: str = ""
    change: tuple[str, str] | None = None
    data: Mapping[str, str | None] = field(default_factory=dict)
    bundle: Mapping[str, bytes] = field(default_factory=dict)


def topology(text: str, **participation: str) -> tuple[str, str]:
    extra = ", ".join(f"{key} = {value}" for key, value in participation.items())
    lines = f"topology = {text}\nparticipation = {{{extra}}}"
    return "rounds = 3", f"rounds = 3\n{lines}"


def plan(line: str) -> tuple[str, str]:
    return "rounds = 3", f"rounds = 3\n{line}"


def code(place: str, got: str, expected: str, advice: str, body: str, args: str = "{}") -> Case:
    """Return the case of a model in a file."""
    change = (
        '"linear"',
        f'{{kind = "code", file = "model.py", build = "Net", args = {args}}}',
    )
    bundle = {"model.py": f"import torch\n\n\n{body}\n".encode()}
    return Case(place, got, expected, advice, change, bundle=bundle)


CRITERIA = '[[acceptance.criteria]]\nmetric = "auroc"\nat_least = 0.5'
GROUPS = (
    'groups = [{name = "x", topology = "star", sites = ["north"]}, '
    '{name = "y", topology = "star", sites = ["south", "west"]}]'
)
ONE_CLASS = {site: rows(30, seed, lambda _: 1) for seed, site in enumerate(hospitals())}

STUDY_FILE = {
    "unknown key": Case(
        "study.toml: task.batch_sise",
        "an unknown key",
        "one of kind, classes",
        "'batch_size'?",
        ("batch_size", "batch_sise"),
    ),
    "unknown kind": Case(
        "study.toml: task.model", "'lineer'", "linear, mlp", "'linear'?", ('"linear"', '"lineer"')
    ),
    "unknown kind in a table": Case(
        "study.toml: plan.topology.kind",
        "'rnig'",
        "cyclic, gossip, hybrid, star, tree",
        "",
        topology('{kind = "rnig"}'),
    ),
    "unknown section": Case(
        "study.toml: plam",
        "an unknown key",
        "study, task, data, plan",
        "'plan'?",
        ("[plan]", "[plam]"),
    ),
    "missing section": Case(
        "study.toml: plan",
        "nothing",
        "a value",
        "",
        ("[plan]\nrounds = 3\nlocal = {epochs = 1}", ""),
    ),
    "impossible combination": Case(
        "study.toml: plan.aggregation",
        "'median'",
        "'mean' with the topology 'cyclic'",
        "use a star",
        plan('topology = "cyclic"\naggregation = "median"'),
    ),
    "epochs and steps": Case(
        "study.toml: plan.local",
        "epochs and steps",
        "exactly one",
        "Write epochs = 1",
        ("{epochs = 1}", "{epochs = 1, steps = 2}"),
    ),
    "metric of another task": Case(
        "study.toml: task.metrics[0]",
        "'mae'",
        "one that fits binary-classification",
        "",
        ("batch_size = 8", 'metrics = ["mae"]'),
    ),
    "stopping early without validation rows": Case(
        "study.toml: data.split.validation",
        "0",
        "a fraction above 0",
        "Write validation = 0.1",
        ("[plan]", f"{CRITERIA}\n[acceptance.early_stopping]\npatience = 1\n\n[plan]"),
    ),
    "privacy that is not there": Case(
        "study.toml: privacy.secure_sum",
        "'secagg'",
        '"none"',
        "Remove the key",
        ("[plan]", '[privacy]\nsecure_sum = "secagg"\n\n[plan]'),
    ),
    "trust that is not there": Case(
        "study.toml: study.trust",
        "'non-trusted'",
        '"trusted"',
        "not there yet",
        ('name = "small"', 'name = "small"\ntrust = "non-trusted"'),
    ),
    "nothing to evaluate": Case(
        "study.toml: task.initial_model",
        "nothing",
        "the model",
        "rounds = 1 or more",
        ("rounds = 3", "rounds = 0"),
    ),
    "out of range": Case(
        "study.toml: task.batch_size", "0", "at least 1", "", ("batch_size = 8", "batch_size = 0")
    ),
    "wrong type": Case(
        "study.toml: task.batch_size",
        "'8'",
        "a whole number",
        "",
        ("batch_size = 8", 'batch_size = "8"'),
    ),
    "not a number": Case(
        "study.toml: task.optimizer.lr", "nan", "finite", "", ("lr = 0.1", "lr = nan")
    ),
    "name that is a path": Case(
        "study.toml: study.name", "'../small'", "text of the form", "", ('"small"', '"../small"')
    ),
    "invalid TOML": Case(
        "study.toml", "invalid TOML, at line", "TOML", "cohortium new DIR", ("lr = 0.1", "lr = ")
    ),
}

FEDERATION = {
    "site without data": Case(
        "study.toml: plan.sites",
        "'east'",
        "sites with data: north, south, west",
        "bring its data",
        plan('sites = ["north", "east"]'),
    ),
    "watching site without data": Case(
        "study.toml: plan.evaluation_only",
        "'east'",
        "sites with data",
        "bring its data",
        plan('evaluation_only = ["east"]'),
    ),
    "site named twice": Case(
        "study.toml: plan.sites[1]",
        "'north' again",
        "each site once",
        "",
        plan('sites = ["north", "north"]'),
    ),
    "nobody trains": Case(
        "study.toml: plan.evaluation_only",
        "no site that trains",
        "at least one",
        "Remove a site",
        plan('evaluation_only = ["north", "south", "west"]'),
    ),
    "quorum larger than the federation": Case(
        "study.toml: plan.participation.quorum",
        "4",
        "at most 3",
        "Lower it",
        plan("participation = {quorum = 4}"),
    ),
    "quorum larger than a round's sample": Case(
        "study.toml: plan.participation.quorum",
        "3",
        "at most 2",
        "raise plan.participation.fraction",
        plan("participation = {quorum = 3, fraction = 0.5}"),
    ),
    "graph that is not connected": Case(
        "study.toml: plan.topology",
        "the graph is not connected: no path joins 'north' and 'west'",
        "a topology that fits",
        "Add edges",
        topology('{kind = "gossip", graph = "edges", edges = [["north", "south"]]}'),
    ),
    "graph of strangers": Case(
        "study.toml: plan.topology",
        "`edges` names east",
        "a topology that fits",
        "Change plan.topology",
        topology('{kind = "gossip", graph = "edges", edges = [["north", "east"]]}'),
    ),
    "graph of groups that is not connected": Case(
        "study.toml: plan.topology",
        "`edges` names z",
        "a topology that fits",
        "Change plan.topology",
        topology(
            '{kind = "hybrid", outer = {kind = "gossip", graph = "edges", edges = [["x", "z"]]}, '
            f"{GROUPS}}}"
        ),
    ),
    "graph that no number of sites gives": Case(
        "study.toml: plan.topology",
        "3 sites have no regular graph of degree 4",
        "a topology that fits",
        "Change plan.topology",
        topology('{kind = "gossip", graph = "random-regular", degree = 4}'),
    ),
    "sampling among peers": Case(
        "study.toml: plan.participation.fraction",
        "0.5",
        "1, where every site keeps a model of its own",
        "Leave it out",
        topology('{kind = "gossip"}', fraction="0.5"),
    ),
    "graph in a group that sampling tears": Case(
        "study.toml: plan.participation.fraction",
        "0.5",
        '1 with graph = "random-regular"',
        "Remove the fraction",
        topology(
            '{kind = "hybrid", outer = "star", groups = [{name = "x", sites = ["north", "south", '
            '"west"], topology = {kind = "gossip", graph = "random-regular", degree = 2}}]}',
            fraction="0.5",
        ),
    ),
    "graph that sampling tears": Case(
        "study.toml: plan.participation.fraction",
        "0.5",
        '1 with graph = "edges"',
        "Remove the fraction",
        topology(
            '{kind = "gossip", graph = "edges", edges = [["north", "south"], ["south", "west"]]}',
            fraction="0.5",
        ),
    ),
    "tree that would be a star": Case(
        "study.toml: plan.topology",
        "`outer` is a tree",
        "settings that fit together",
        "",
        topology(f'{{kind = "hybrid", outer = {{kind = "tree", branching = 2}}, {GROUPS}}}'),
    ),
    "site in no group": Case(
        "study.toml: plan.topology",
        "no group names the sites west",
        "a topology that fits",
        "Change plan.topology",
        topology('{kind = "tree", groups = {n = ["north"], s = ["south"]}}'),
    ),
    "too few sites for the rule": Case(
        "study.toml: plan.aggregation",
        "'krum', and 3 sites",
        "at least 5 updates",
        "Lower its settings",
        plan('aggregation = {kind = "krum", byzantine = 1}'),
    ),
    "no dataset": Case(
        "study.toml: data.dataset",
        "nothing",
        "a dataset",
        "Name one",
        ('dataset = "hospitals"', ""),
    ),
}

DATA = {
    "column missing": Case(
        "data/south.csv: column 'b'",
        "no such column",
        "it in the header",
        "Its columns: a, y.",
        data={"south": "a,y\n1,0\n2,1\n"},
    ),
    "column misspelt": Case(
        "data/north.csv: column 'aa'",
        "no such column",
        "it in the header",
        "'a'?",
        ('name = "a"', 'name = "aa"'),
    ),
    "target missing": Case(
        "data/north.csv: column 'died'",
        "no such column",
        "it in the header",
        "Its columns: a, b, y.",
        ('target = "y"', 'target = "died"'),
    ),
    "column of the wrong type": Case(
        "data/south.csv: column 'b'",
        "another value in row 3",
        "a finite number",
        "Correct the file",
        data={"south": "a,b,y\n1,2,0\n2,high,1\n"},
    ),
    "infinite value": Case(
        "data/south.csv: column 'a'",
        "another value in row 2",
        "a finite number",
        "Correct the file",
        data={"south": "a,b,y\ninf,2,0\n2,3,1\n"},
    ),
    "value out of range": Case(
        "data/south.csv: column 'a'",
        "another value in row 2 and in 1 more",
        "a number in [-9, 9]",
        "Correct the file",
        data={"south": "a,b,y\n77,2,0\n78,3,1\n"},
    ),
    "target of another kind": Case(
        "data/south.csv: column 'y'",
        "another value in row 3",
        "0 or 1",
        "data.positive",
        data={"south": "a,b,y\n1,2,0\n2,3,7\n"},
    ),
    "one class over all training data": Case(
        "study.toml: data.target",
        "class 1 in all 72 training rows of all sites",
        "at least two classes",
        "Check data.target",
        data=ONE_CLASS,
    ),
    "header only": Case(
        "data/south.csv",
        "no rows",
        "one row per patient",
        "Check that it is the right file",
        data={"south": "a,b,y\n"},
    ),
    "empty file": Case(
        "data/south.csv",
        "an empty file",
        "a header and rows",
        "Check the export",
        data={"south": ""},
    ),
    "blank lines only": Case(
        "data/south.csv",
        "an empty file",
        "a header and rows",
        "Check the export",
        data={"south": "\n\n\n"},
    ),
    "semicolons": Case(
        "data/south.csv: header",
        "another separator",
        "commas",
        "Save it with commas",
        data={"south": "a;b;y\n1;2;0\n"},
    ),
    "row too short": Case(
        "data/south.csv: row 3",
        "2 values",
        "3, one for each column",
        "Check for a comma",
        data={"south": "a,b,y\n1,2,0\n3,1\n"},
    ),
    "nothing complete": Case(
        "data/south.csv: site 'south'",
        "2 rows in the cohort, none of them complete",
        "at least 1 training row",
        "missing values",
        data={"south": "a,b,y\n?,2,0\n3,,1\n"},
    ),
    "nobody in the cohort": Case(
        "data/north.csv: site 'north'",
        "no row in the cohort",
        "at least 1 training row",
        "Check data.cohort",
        ("[plan]", '[[data.cohort]]\ncolumn = "a"\nmin = 9\n\n[plan]'),
    ),
    "no row to train on": Case(
        "site 'south'",
        "1 rows, of which 1 test",
        "at least 1 training row",
        "Give the site more rows",
        data={"south": "a,b,y\n1,2,0\n"},
    ),
    "no deviation of one row": Case(
        "site 'south'",
        "1 training row",
        "at least 2",
        "Leave the site out",
        data={"south": "a,b,y\n1,2,0\n2,3,1\n"},
    ),
    "name that is no site's": Case(
        "data/@home.csv",
        "the site name '@home'",
        "a letter or digit",
        "Rename it",
        data={"@home": rows(9, 1)},
    ),
    "no file at all": Case(
        "data",
        "no records",
        "one <site>.csv per site",
        "Check --data DIR",
        data=dict.fromkeys(hospitals()),
    ),
}

MODEL = {
    "missing file": Case(
        "study.toml: task.model.file",
        "'model.py', which is not there",
        "a file beside the study",
        "correct the path",
        ('"linear"', '{kind = "code", file = "model.py", build = "Net"}'),
    ),
    "path that leaves the bundle": Case(
        "study.toml: task.initial_model",
        "'../secret.safetensors'",
        "a relative path inside the study's folder",
        "Move the file",
        ("batch_size = 8", 'initial_model = "../secret.safetensors"'),
    ),
    "absolute path": Case(
        "study.toml: task.initial_model",
        "'/etc/passwd'",
        "a relative path inside the study's folder",
        "Move the file",
        ("batch_size = 8", 'initial_model = "/etc/passwd"'),
    ),
    "initial model that is none": Case(
        "first.safetensors",
        "header too small",
        "a safetensors file",
        "Start from a model",
        ("batch_size = 8", 'initial_model = "first.safetensors"'),
        bundle={"first.safetensors": b"hello"},
    ),
    "initial model of another shape": Case(
        "first.safetensors: weight",
        "shape (1, 3)",
        "shape (1, 2)",
        "Start from a model",
        ("batch_size = 8", 'initial_model = "first.safetensors"'),
        bundle={
            "first.safetensors": save(
                {"weight": np.zeros((1, 3), np.float32), "bias": np.zeros(1, np.float32)}
            )
        },
    ),
    "outputs of the wrong shape": code(
        "study.toml: task.model at north",
        "a tensor of shape (8, 3)",
        "an output of shape (8, 1)",
        "one row of outputs",
        "def Net():\n    return torch.nn.Linear(2, 3)",
    ),
    "inputs of the wrong shape": code(
        "study.toml: task.model at north",
        "RuntimeError for a tensor of shape (8, 2)",
        "a module that trains",
        "",
        "def Net():\n    return torch.nn.Linear(5, 1)",
    ),
    "loss that is NaN at once": code(
        "study.toml: task.model at north",
        "a loss of nan",
        "a finite loss",
        "Look at the features' scale",
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self):\n        super().__init__(2, 1)\n"
        "    def forward(self, x):\n        return super().forward(x) * float('nan')",
    ),
    "code that raises": code("model.py", "ZeroDivisionError", "a file that runs", "", "1 / 0"),
    "code that ends the program": code(
        "study.toml: task.model",
        "exit 0",
        "code that returns",
        "Remove the call of sys.exit",
        "import sys\nsys.exit(0)",
    ),
    "code without the class": code(
        "model.py: Net",
        "nothing to call",
        "a torch.nn.Module class",
        "Correct task.model.build",
        "class Other: ...",
    ),
    "code that gives no module": code(
        "model.py: Net",
        "a int from the call",
        "a torch.nn.Module",
        "",
        "def Net():\n    return 3",
    ),
    "argument that nobody takes": code(
        "model.py: model",
        "an unknown argument 'width'",
        "Net()",
        "Give its arguments",
        "def Net():\n    return 3",
        args="{width = 2}",
    ),
}

CASES = STUDY_FILE | FEDERATION | DATA | MODEL


def told(answer: Answer, *, place: str, got: str, expected: str, advice: str = "") -> None:
    """Check that an answer refuses, and says what it must."""
    assert answer.code == 2, answer
    assert answer.out == ""
    lines = answer.err.splitlines()
    problems = [PROBLEM.fullmatch(line) for line in lines if line != NEXT_STEP]
    (found,) = [p for p in problems if p is None or p["place"] == place] or [None]
    assert found, answer.err
    assert got in found["got"]
    assert expected in found["expected"]
    if advice:
        assert advice in (found["advice"] or "")
    else:
        assert found["advice"] or NEXT_STEP in lines


@pytest.mark.parametrize(
    "verb", [("simulate", "--out", "out"), ("simulate", "--dry-run")], ids=" ".join
)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_is_refused_in_words_and_nothing_is_written(
    desk: Desk, case: Case, verb: tuple[str, ...]
) -> None:
    desk.study(*([case.change] if case.change else []))
    files = {**hospitals(), **case.data}
    desk.data({site: text for site, text in files.items() if text is not None})
    for name, content in case.bundle.items():
        (desk.folder / name).write_bytes(content)
    before = desk.files()
    answer = desk.run(*verb, "study.toml", "--data", "data")
    told(answer, place=case.place, got=case.got, expected=case.expected, advice=case.advice)
    assert desk.files() == before


def test_all_that_is_wrong_is_said_at_once(desk: Desk) -> None:
    desk.study(("batch_size = 8", "batch_size = 0"), ('"linear"', '"lineer"'), ("rounds", "runds"))
    answer = desk.run("simulate", "study.toml")
    keys = [line.split(": ")[2] for line in answer.err.splitlines() if line.startswith("invalid")]
    assert sorted(keys) == ["plan.rounds", "plan.runds", "task.batch_size", "task.model"]


def test_no_value_of_a_patient_is_shown(desk: Desk) -> None:
    desk.data({**hospitals(), "south": "a,b,y\n8675309,2,0\n2,secret,1\n"})
    answer = desk.run("simulate", "study.toml", "--data", "data")
    assert answer.code == 2
    assert "8675309" not in answer.err
    assert "secret" not in answer.err


def test_a_study_file_of_100_mb_is_not_even_read(desk: Desk) -> None:
    (desk.folder / "large.toml").touch()
    os.truncate(desk.folder / "large.toml", 100_000_000)
    answer = desk.run("simulate", "large.toml", "--out", "out")
    expected = "at most 1000000 bytes"
    told(answer, place="large.toml", got="100000000 bytes", expected=expected)
    assert not (desk.folder / "out").exists()


def test_a_link_that_leaves_the_bundle(desk: Desk) -> None:
    desk.study(("batch_size = 8", 'initial_model = "first.safetensors"'))
    (desk.folder / "first.safetensors").symlink_to("/etc/passwd")
    answer = desk.run("simulate", "study.toml", "--data", "data", "--out", "out")
    told(
        answer,
        place="study.toml: task.initial_model",
        got="leads outside the study's folder",
        expected="a file inside it",
        advice="Copy the file there",
    )
    assert not (desk.folder / "out").exists()


PATHS = {
    "absent": ("absent.toml", "absent.toml", "no such file", "cohortium new DIR"),
    "a folder": ("data", "data", "a folder", "Name the file in it"),
    "no name": ("", ".", "a folder", "Name the file in it"),
    "a device": ("/dev/zero", "zero", "something that is not a plain file", ""),
    "below a file": ("study.toml/x.toml", "x.toml", "cannot be read", ""),
    "a name without end": ("x" * 300, "x" * 300, "cannot be read", ""),
}


@pytest.mark.parametrize("verb", [["simulate"], ["compare"], ["plan"], ["simulate", "--dry-run"]])
@pytest.mark.parametrize(("path", "place", "got", "advice"), PATHS.values(), ids=PATHS)
def test_what_is_no_study_file(
    desk: Desk, verb: list[str], path: str, place: str, got: str, advice: str
) -> None:
    answer = desk.run(*verb, path)
    told(answer, place=place, got=got, expected="a study file", advice=advice)
    assert not (desk.folder / "out").exists()


def test_a_study_without_a_byte_is_told_what_it_needs(desk: Desk) -> None:
    (desk.folder / "empty.toml").touch()
    answer = desk.run("simulate", "empty.toml")
    for section in ("study", "task", "plan"):
        told(answer, place=f"empty.toml: {section}", got="nothing", expected="a value")


ARGUMENTS = {
    "engine": (["--engine", "warp"], "arguments: engine", "'warp'", "auto, sequential", "auto"),
    "engine misspelt": (
        ["--engine", "sequentiel"],
        "arguments: engine",
        "'sequentiel'",
        "vectorised",
        "'sequential'?",
    ),
    "seed too large": (
        ["--seed", "4294967296"],
        "arguments: study.seed",
        "4294967296",
        "below 4294967296",
        "",
    ),
    "no such folder of data": (
        ["--data", "nowhere"],
        "nowhere: --data",
        "no such folder",
        "the dataset's folder",
        "Check it",
    ),
    "data that is a file": (
        ["--data", "study.toml"],
        "study.toml: --data",
        "a file",
        "the dataset's folder",
        "Check it",
    ),
    "out that is a file": (
        ["--out", "study.toml"],
        "study.toml: --out",
        "a file",
        "a folder for the results",
        "Choose another",
    ),
    "out below a file": (
        ["--out", "study.toml/deep/er"],
        "study.toml/deep/er: --out",
        "a file",
        "a folder for the results",
        "Choose another",
    ),
    "out where nobody may write": (
        ["--out", "/proc/cohortium"],
        "/proc/cohortium: --out",
        "No such file or directory",
        "a folder for the results",
        "Choose another",
    ),
    "out with a name without end": (
        ["--out", "deep/" + "x" * 300],
        "deep/" + "x" * 300 + ": --out",
        "File name too long",
        "a folder for the results",
        "Choose another",
    ),
}


@pytest.mark.parametrize(
    "verb", [["simulate"], ["compare"], ["simulate", "--dry-run"]], ids=" ".join
)
@pytest.mark.parametrize(
    ("options", "place", "got", "expected", "advice"), ARGUMENTS.values(), ids=ARGUMENTS
)
def test_a_wrong_argument_is_refused_before_anything_runs(
    desk: Desk,
    verb: list[str],
    options: list[str],
    place: str,
    got: str,
    expected: str,
    advice: str,
) -> None:
    before = desk.files()
    data = [] if "--data" in options else ["--data", "data"]
    answer = desk.run(*verb, "study.toml", *data, *options)
    told(answer, place=place, got=got, expected=expected, advice=advice)
    assert desk.files() == before


ARMS = {
    "unknown": ("x", "'x'", "some of pooled, federated", "compare --help"),
    "misspelt": ("federatd", "'federatd'", "some of pooled", "'federated'?"),
    "other separator": ("pooled;single", "'pooled;single'", "separated by commas", "Did you mean"),
    "none": (" , ", "none", "some of pooled", "Name at least one"),
    "twice": ("single,pooled,single", "an arm twice", "each arm once", "Leave out one"),
}


@pytest.mark.parametrize(("arms", "got", "expected", "advice"), ARMS.values(), ids=ARMS)
def test_arms_that_are_not_there(
    desk: Desk, arms: str, got: str, expected: str, advice: str
) -> None:
    answer = desk.run("compare", "study.toml", "--data", "data", "--arms", arms)
    told(answer, place="arguments: arms", got=got, expected=expected, advice=advice)
    assert not (desk.folder / "out").exists()


def test_an_arm_that_cannot_run_is_refused_before_the_others_run(desk: Desk) -> None:
    desk.study(plan("participation = {quorum = 3}"))
    before = desk.files()
    arms = "pooled,federated,leave-one-out"
    answer = desk.run("compare", "study.toml", "--data", "data", "--arms", arms)
    told(
        answer,
        place="study.toml: plan.participation.quorum",
        got="3 in the arm 'leave-one-out'",
        expected="at most 2",
        advice="leave out the arm",
    )
    assert desk.files() == before


def test_a_study_that_only_evaluates_has_no_other_arms(desk: Desk) -> None:
    first = {"weight": np.zeros((1, 2), np.float32), "bias": np.zeros(1, np.float32)}
    (desk.folder / "first.safetensors").write_bytes(save(first))
    start = ("batch_size = 8", 'initial_model = "first.safetensors"')
    desk.study(start, ("rounds = 3", "rounds = 0"))
    answer = desk.run("compare", "study.toml", "--data", "data")
    told(answer, place="study: plan.rounds", got="plan.rounds = 0", expected="a study that trains")


USAGE = {
    "no verb": [],
    "unknown verb": ["simulat"],
    "unknown option": ["simulate", "study.toml", "--foo"],
    "no study": ["simulate"],
    "two studies": ["simulate", "study.toml", "study.toml"],
    "no value": ["simulate", "study.toml", "--out"],
    "negative seed": ["simulate", "study.toml", "--seed", "-1"],
    "seed that is no number": ["demo", "--seed", "x"],
    "no verb of data": ["data"],
    "unknown verb of data": ["data", "fetch"],
    "no name of a dataset": ["data", "get"],
    "no folder": ["new"],
    "option of another verb": ["plan", "study.toml", "--seed", "1"],
}


@pytest.mark.parametrize("words", USAGE.values(), ids=USAGE)
def test_wrong_usage_is_told_with_the_way_to_help(desk: Desk, words: list[str]) -> None:
    before = desk.files()
    answer = desk.run(*words)
    assert answer.code == 2
    if words in ([], ["data"]):
        assert "Usage: cohortium" in answer.out + answer.err, "the help itself"
    else:
        assert answer.out == ""
        assert re.search("^Error: ", answer.err, re.MULTILINE)
    assert desk.files() == before


def test_markup_in_names_is_only_text(desk: Desk) -> None:
    """What a person wrote reaches the terminal as it was written."""
    odd = "[bold]a[/bold]"
    desk.study(("[plan]", "[data.split]\ntest = 0.5\n\n[plan]"), ('name = "a"', f'name = "{odd}"'))
    text = "a,b,y\n" + "1,2,0\n" * 4 + "2,2,1\n" * 4
    desk.data({site: text.replace("a,", f"{odd},", 1) for site in hospitals()})
    shutil.copytree(desk.folder / "data", desk.folder / "[red]data")
    answer = desk.run("simulate", "study.toml", "--data", "[red]data", "--out", "[red]out")
    assert answer.code == 0, answer.err
    assert "[red]out/report.html" in answer.out
    answer = desk.run("new", "[/b]")
    assert answer.code == 0
    assert "[/b]/study.toml" in answer.out

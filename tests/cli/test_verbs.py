"""The other verbs: a study to start from, its plan, the datasets, and this machine."""

from __future__ import annotations

import hashlib
import json
import socket
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

import cohortium
from cohortium.data.download import ORIGINS, Origin, Pin

from .conftest import SITES, Desk, hospitals, rows

VERBS = ["demo", "simulate", "compare", "plan", "new", "doctor", "data", "data get", "data list"]
VERBS += ["data write", "try"]


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_every_verb_has_help(desk: Desk, verb: str) -> None:
    answer = desk.run(*verb.split(), "--help")
    assert answer.code == 0
    assert answer.out.startswith("Usage: cohortium")
    assert answer.err == ""


def test_the_help_names_every_verb_and_where_to_start(desk: Desk) -> None:
    answer = desk.run("--help")
    for verb in (*("demo", "simulate", "compare", "plan", "new", "doctor", "data"), "try"):
        assert f"\n  {verb} " in answer.out
    assert "Start with: cohortium demo" in answer.out


def test_version(desk: Desk) -> None:
    answer = desk.run("--version")
    assert (answer.code, answer.out) == (0, f"{cohortium.__version__}\n")


# -- new -------------------------------------------------------------------------------------------


def test_a_new_study_runs_as_it_is_and_offline(desk: Desk) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("something wants the network")

    for name in ("connect", "connect_ex"):
        desk.patch.setattr(socket.socket, name, refuse)
    answer = desk.run("new", "my study")
    assert answer.code == 0, answer.err
    command = next(line for line in answer.out.splitlines() if "cohortium simulate" in line)
    assert command.strip() == "cohortium simulate 'my study/study.toml'", "to be copied as it is"
    for words in (
        ["plan", "my study/study.toml", "--draw", "plan.svg"],
        ["simulate", "my study/study.toml", "--dry-run"],
        ["simulate", "my study/study.toml"],
    ):
        answer = desk.run(*words)
        assert answer.code == 0, answer.err
    found = json.loads((desk.folder / "out/my-study/result.json").read_text("utf-8"))
    assert all(criterion["met"] for criterion in found["acceptance"])


def test_a_new_study_explains_itself(desk: Desk) -> None:
    desk.run("new", "deep/er")
    text = (desk.folder / "deep/er/study.toml").read_text("utf-8")
    comments = sum("#" in line for line in text.splitlines())
    assert comments > 30
    assert (desk.folder / "deep/er").is_dir()
    assert [path.name for path in (desk.folder / "deep/er").iterdir()] == ["study.toml"]


def test_a_new_study_may_go_into_a_folder_that_is_there(desk: Desk) -> None:
    assert desk.run("new", "data").code == 0
    assert {f"{site}.csv" for site in SITES} < {p.name for p in (desk.folder / "data").iterdir()}


PLACES = {
    "an existing study": (".", ".: DIR: got a study.toml in it"),
    "a file": ("study.toml", "study.toml: DIR: got a file of that name"),
    "below a file": ("study.toml/new", "study.toml/new/study.toml: DIR: got a file"),
    "a link to nowhere": ("nowhere", "nowhere: DIR: got a file of that name"),
    "where nobody may write": ("/proc/new", "/proc/new/study.toml: DIR: got No such file"),
    "a name without end": ("x" * 300, "DIR: got File name too long"),
}


@pytest.mark.parametrize(("place", "told"), PLACES.values(), ids=PLACES)
def test_a_new_study_replaces_nothing(desk: Desk, place: str, told: str) -> None:
    (desk.folder / "nowhere").symlink_to("absent")
    before = desk.files()
    answer = desk.run("new", place)
    assert answer.code == 2
    assert told in answer.err
    assert "; expected " in answer.err
    assert "Choose another" in answer.err
    assert desk.files() == before


# -- plan ------------------------------------------------------------------------------------------


def test_a_plan_prints_its_digest_and_its_steps(desk: Desk) -> None:
    before = desk.files()
    answer = desk.run("plan", "study.toml", "--data", "data")
    assert answer.code == 0, answer.err
    found = json.loads(desk.run("plan", "study.toml", "--data", "data", "--json").out)
    assert f"digest {found['digest']}" in answer.out.splitlines()
    steps = [step["id"] for step in found["steps"]]
    assert steps[:3] == [f"train/{site}" for site in SITES]
    assert steps[-1] == "outcome"
    listed = [line.split()[0] for line in answer.out.splitlines() if line.startswith(" ")]
    assert listed == ["step", *steps]
    assert desk.files() == before


def test_the_digest_sees_what_matters_and_nothing_else(desk: Desk) -> None:
    def digest() -> str:
        found: str = json.loads(desk.run("plan", "study.toml", "--data", "data", "--json").out)[
            "digest"
        ]
        return found

    plain = digest()
    desk.study(("[plan]", "# a comment\n\n\n[plan]"), ("lr = 0.1", "lr   =  0.10"))
    assert digest() == plain
    desk.study(("lr = 0.1", "lr = 0.2"))
    assert digest() != plain


def test_a_plan_is_drawn(desk: Desk) -> None:
    answer = desk.run("plan", "study.toml", "--data", "data", "--draw", "deep/plan.svg")
    assert answer.code == 0, answer.err
    assert "drawn in deep/plan.svg" in answer.out
    text = (desk.folder / "deep/plan.svg").read_text("utf-8")
    assert ET.fromstring(text).tag.endswith("svg")
    for site in SITES:
        assert site in text
    assert [path.name for path in (desk.folder / "deep").iterdir()] == ["plan.svg"]


DRAWINGS = {
    "a folder": ("data.svg", "data.svg: --draw: got Is a directory"),
    "below a file": ("study.toml/plan.svg", "study.toml/plan.svg: --draw: got a file"),
    "where nobody may write": ("/proc/plan.svg", "/proc/plan.svg: --draw: got No such file"),
    "a name without end": ("x" * 300 + ".svg", "--draw: got File name too long"),
    "another format": ("plan.png", "arguments: --draw: got 'plan.png'; expected a file that ends"),
}


@pytest.mark.parametrize(("place", "told"), DRAWINGS.values(), ids=DRAWINGS)
def test_a_plan_that_cannot_be_drawn_there(desk: Desk, place: str, told: str) -> None:
    (desk.folder / "data.svg").mkdir()
    before = desk.files()
    answer = desk.run("plan", "study.toml", "--data", "data", "--draw", place)
    assert answer.code == 2
    assert told in answer.err
    assert answer.out == ""
    assert desk.files() == before


def test_a_long_plan_is_cut_and_says_so(desk: Desk) -> None:
    desk.data({f"s{number}": rows(9, number) for number in range(30)})
    answer = desk.run("plan", "study.toml", "--data", "data")
    assert "… train/s9 (30 in all)" in answer.out
    assert "more; --json prints all" in answer.out
    whole = json.loads(desk.run("plan", "study.toml", "--data", "data", "--json").out)
    assert len(whole["steps"]) == 30 + 30 + 4


# -- data ------------------------------------------------------------------------------------------


@pytest.fixture
def published(desk: Desk) -> Path:
    """A folder with the files of the dataset `heart-disease`, as it is published here."""
    folder = desk.folder / "shelf"
    folder.mkdir()
    (folder / "processed.va.data").write_bytes(b"1,2,3\n")
    pin = Pin(hashlib.sha256(b"1,2,3\n").hexdigest(), 6)
    origin = Origin("https://127.0.0.1:9/", {"processed.va.data": pin})
    desk.patch.setitem(ORIGINS, "heart-disease", origin)
    return folder


def test_data_is_taken_from_a_folder_once_it_is_right(desk: Desk, published: Path) -> None:
    answer = desk.run("data", "get", "heart-disease", "--from", str(published))
    assert answer.code == 0, answer.err
    kept = desk.folder / "kept/heart-disease"
    assert answer.out == f"heart-disease is in {kept}\n"
    assert (kept / "processed.va.data").read_bytes() == b"1,2,3\n"
    (published / "processed.va.data").unlink()
    again = desk.run("data", "get", "heart-disease", "--from", str(published))
    assert again == answer, "what is there and right is not fetched again"


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "got No such file"), (b"1,2,4\n", "got other content"), (b"1\n", "got 2 bytes")],
)
def test_data_that_is_not_the_published_is_refused(
    desk: Desk, published: Path, content: bytes | None, told: str
) -> None:
    (published / "processed.va.data").unlink()
    if content is not None:
        (published / "processed.va.data").write_bytes(content)
    answer = desk.run("data", "get", "heart-disease", "--from", str(published))
    assert answer.code == 2
    assert told in answer.err
    assert "check --from DIR" in answer.err
    assert not (desk.folder / "kept/heart-disease").exists()


def test_a_download_that_fails_is_a_failure_with_a_next_step(desk: Desk, published: Path) -> None:
    answer = desk.run("data", "get", "heart-disease")
    assert answer.code == 1
    failed, step = answer.err.splitlines()
    assert failed.startswith("failed: https://127.0.0.1:9/processed.va.data could not be read")
    assert step.startswith("next step: ")
    assert "cohortium data get heart-disease --from DIR" in step
    assert not (desk.folder / "kept/heart-disease").exists()


@pytest.mark.parametrize(
    ("name", "advice"), [("hearts", "--data DIR"), ("breast-cancer", "comes with scikit-learn")]
)
def test_data_that_nobody_publishes(desk: Desk, name: str, advice: str) -> None:
    answer = desk.run("data", "get", name)
    assert answer.code == 2
    assert f"NAME: got '{name}'; expected heart-disease. " in answer.err
    assert advice in answer.err
    assert not (desk.folder / "kept").exists()


def test_data_that_is_not_here_says_how_to_get_it(desk: Desk) -> None:
    desk.study(('"hospitals"', '"heart-disease"'))
    answer = desk.run("simulate", "study.toml")
    assert answer.code == 2
    assert "Run cohortium data get heart-disease" in answer.err


def test_the_list_of_datasets_tells_which_are_here(desk: Desk, published: Path) -> None:
    def here() -> dict[str, bool]:
        found = json.loads(desk.run("data", "list", "--json").out)
        return {row["name"]: row["here"] for row in found}

    assert here() == {"breast-cancer": True, "heart-disease": False}
    desk.run("data", "get", "heart-disease", "--from", str(published))
    assert here() == {"breast-cancer": True, "heart-disease": True}
    answer = desk.run("data", "list")
    assert answer.code == 0
    assert "cohortium data get heart-disease" in answer.out


# -- doctor ----------------------------------------------------------------------------------------


def test_the_doctor_says_what_is_here(desk: Desk) -> None:
    answer = desk.run("doctor")
    assert answer.code == 0, answer.err
    for word in ("torch", "scikit-learn", "processor", "disk", "cohortium data get heart-disease"):
        assert word in answer.out
    found = json.loads(desk.run("doctor", "--json").out)
    assert found["environment"]["cohortium"] == cohortium.__version__
    checks = {check["check"]: check for check in found["checks"]}
    assert not checks["datasets"]["ok"]
    assert all(check["ok"] for check in checks.values() if check["needed"])


def test_hospitals_are_read_in_the_order_of_their_names(desk: Desk) -> None:
    desk.data(dict(reversed(list(hospitals().items()))))
    found = json.loads(desk.run("plan", "study.toml", "--data", "data", "--json").out)
    assert [step["party"] for step in found["steps"][:3]] == sorted(SITES)

"""The verbs of a coordinator, a hospital and a researcher, against a hub that runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.hub.running import Hub, new_folder, running
from tests.node.federation import LOOSE, Node
from typer.main import get_command

from cohortium.cli.main import app
from cohortium.cli.rehearsal import _free_port as free_port
from cohortium.node.folder import Home

from .conftest import STUDY, Answer, Desk

SITES = ("north", "south")
HUB_VERBS = (
    *("init", "up", "invite", "sites", "revoke", "studies", "extend", "exclude", "readmit"),
    *("backup", "restore", "rotate-keys"),
)
NODE_VERBS = (
    *("join", "data add", "data list", "data remove", "study list", "study show"),
    *("study approve", "study decline", "preview", "up", "stop", "status", "doctor"),
    *("rotate-keys", "backup", "restore"),
)
STUDY_VERBS = (
    *("join", "submit", "list", "show", "start", "watch", "pause", "resume", "stop", "result"),
)
NETWORK = STUDY.replace("[plan]", '[plan]\nsites = ["north", "south"]')


@dataclass
class Alliance:
    """A hub that runs, and whoever sits at a desk beside it."""

    hub: Hub
    desk: Desk

    def run(self, *words: str) -> Answer:
        """Type a command that must succeed."""
        answer = self.desk.run(*words)
        assert answer.code == 0, (words, answer.err)
        return answer

    def refused(self, *words: str) -> str:
        """Type a command that must not succeed; return what it says, with its exit code."""
        answer = self.desk.run(*words)
        assert answer.code in (1, 2), (words, answer)
        assert "Traceback" not in answer.err
        return f"{answer.code} {answer.err}"

    def code(self, name: str, role: str = "site") -> str:
        return self.run("hub", "invite", name, "--role", role, "--home", "hub").out.strip()

    def join(self, site: str) -> None:
        (self.desk.folder / site).mkdir()
        (self.desk.folder / site / "node.toml").write_text(LOOSE)
        self.run("node", "join", self.hub.url, self.code(site), "--home", site)
        self.run("node", "data", "add", "records", f"data/{site}.csv", "--home", site)

    def join_all(self) -> None:
        """Let two sites and rosa, a researcher, join."""
        for site in SITES:
            self.join(site)
        self.run("study", "join", self.hub.url, self.code("rosa", "researcher"), "--home", "rosa")
        self.desk.study(text=NETWORK)

    def approve(self) -> str:
        """Let all sites approve the study; return its digest."""
        said = self.run("study", "submit", "study.toml", "--home", "rosa", "--json").out
        for site in SITES:
            self.run("node", "study", "approve", "small", "--yes", "--home", site)
        return str(json.loads(said)["digest"])

    def nodes(self) -> list[Node]:
        return [Node(Home.at(self.desk.folder / s), Path(f"data/{s}.csv")) for s in SITES]


@pytest.fixture
def alliance(desk: Desk) -> Iterator[Alliance]:
    folder = new_folder(desk.folder / "hub", listen=f"127.0.0.1:{free_port()}")
    with running(folder) as hub:
        yield Alliance(hub, desk)


@pytest.mark.parametrize(
    ("group", "verbs"), [("hub", HUB_VERBS), ("node", NODE_VERBS), ("study", STUDY_VERBS)]
)
def test_every_verb_has_help_that_teaches(desk: Desk, group: str, verbs: tuple[str, ...]) -> None:
    commands: Any = get_command(app)
    for verb in verbs:
        command = commands.commands[group]
        for word in verb.split():
            command = command.commands[word]
        answer = desk.run(group, *verb.split(), "--help")
        assert (answer.code, answer.err) == (0, "")
        assert len(command.help.split()) > 4, verb
        assert all(parameter.help for parameter in command.params if parameter.name != "help")


# -- from nothing to a result ----------------------------------------------------------------------


def test_the_verbs_carry_a_study_to_its_result(alliance: Alliance) -> None:
    alliance.join_all()
    digest = alliance.approve()
    _members_see_each_other(alliance)
    _hospitals_know_what_they_sign(alliance, digest)
    with ExitStack() as stack:
        for node in alliance.nodes():
            stack.enter_context(node.up())
        started = alliance.run("study", "start", "small", "--home", "rosa").out
        assert "cohortium study watch small" in started
        _watched(alliance)
        status = json.loads(alliance.run("node", "status", "--home", "north", "--json").out)
        assert status["pid"] is not None
    _the_result_is_a_simulations(alliance)
    assert "finished" in alliance.run("node", "status", "--home", "north").out
    assert "finished" in alliance.run("hub", "studies", "--home", "hub").out


def _members_see_each_other(alliance: Alliance) -> None:
    members = {m["name"]: m for m in json.loads(_json(alliance, "hub", "sites", "hub"))}
    assert {"coordinator", "north", "south", "rosa"} <= members.keys()
    shown = alliance.run("hub", "sites", "--home", "hub").out
    assert members["north"]["fingerprint"] in shown
    listed = json.loads(_json(alliance, "study", "list", "rosa"))
    assert listed[0]["granted"] == ["north", "south"]
    answers = alliance.run("study", "show", "small", "--home", "rosa").out
    assert "24 training rows of records" in answers
    assert "the hub, as @aggregator, reads each single update of north, south" in answers


def _hospitals_know_what_they_sign(alliance: Alliance, digest: str) -> None:
    shown = alliance.run("node", "study", "show", digest[:8], "--home", "north").out
    assert "its operator can see your updates" in shown
    assert "See the command line at work." in shown
    leaves = alliance.run("node", "preview", "small", "--home", "north").out
    assert "weight  float32  1 x 2" in leaves
    assert "in all 12 bytes, and its number of training rows" in leaves
    assert "Nothing has left." in leaves
    found = json.loads(_json(alliance, "node", "study list", "north"))
    assert (found[0]["digest"], found[0]["decision"]) == (digest, "approved")
    datasets = json.loads(_json(alliance, "node", "data list", "north"))
    assert (datasets[0]["name"], datasets[0]["rows"], datasets[0]["problem"]) == ("records", 30, "")


def _watched(alliance: Alliance) -> None:
    lines = alliance.run("study", "watch", "small", "--home", "rosa").out.splitlines()
    assert [line.partition(",")[0] for line in lines if line.startswith("round")] == [
        f"round {n} of 3" for n in (1, 2, 3)
    ]
    assert "  cohortium study result small --out DIR" in lines
    told = [
        json.loads(line) for line in _json(alliance, "study", "watch small", "rosa").splitlines()
    ]
    assert [line["round"] for line in told[:-1]] == [1, 2, 3]
    assert told[-1] == {"status": "finished", "reason": ""}
    assert told[0]["sites"]["north"]["status"] == "in"
    terminal = Console(file=StringIO(), force_terminal=True, width=100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cohortium.cli.study_verbs.console", terminal)
        alliance.run("study", "watch", "small", "--home", "rosa")
    shown = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "round 3 of 3" in shown
    assert "finished" in shown
    assert all(site in shown for site in SITES)


def _the_result_is_a_simulations(alliance: Alliance) -> None:
    alliance.run("study", "result", "small", "--home", "rosa", "--out", "result")
    data = alliance.desk.folder / "data"
    (data / "west.csv").unlink()  # it takes no part
    simulate = ("simulate", "study.toml", "--data", "data", "--engine", "sequential")
    alliance.run(*simulate, "--out", "simulated")
    one, other = (alliance.desk.folder / name for name in ("result", "simulated"))
    assert {path.name for path in one.iterdir()} == {
        *("model.safetensors", "plan.svg", "report.html", "result.json")
    }
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    found, simulated = (json.loads((path / "result.json").read_text()) for path in (one, other))
    assert found["engine"] == "network"
    assert found["participation"] == simulated["participation"]
    assert found["arms"]["federated"]["metrics"] == simulated["arms"]["federated"]["metrics"]
    printed = alliance.run("study", "result", "small", "--home", "rosa", "--out", "r", "--json").out
    assert json.loads(printed)["model_digest"] == simulated["model_digest"]


def _json(alliance: Alliance, group: str, verb: str, home: str) -> str:
    return alliance.run(group, *verb.split(), "--home", home, "--json").out


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("node", "study", "list"),
        ("node", "up"),
        ("node", "rotate-keys"),
        ("study", "list"),
        ("study", "submit", "study.toml"),
    ],
)
def test_who_has_not_joined_is_told_how(desk: Desk, words: tuple[str, ...]) -> None:
    answer = desk.run(*words, "--home", "nobody")
    assert answer.code == 2
    group = words[0]
    assert f"cohortium {group} join URL CODE" in answer.err


def test_where_there_is_no_hub_it_says_so(desk: Desk) -> None:
    answer = desk.run("hub", "invite", "north", "--home", "nowhere")
    assert answer.code == 2
    assert "cohortium hub init" in answer.err
    assert not (desk.folder / "nowhere").exists()


def test_codes_that_do_not_fit_are_refused(alliance: Alliance) -> None:
    url, code = alliance.hub.url, alliance.code("north")
    researcher = alliance.code("rosa", "researcher")
    assert "2 invalid: <invitation>" in alliance.refused("node", "join", url, code[:-3])
    wrong = alliance.refused("node", "join", url, researcher, "--home", "n")
    assert "cohortium study join URL CODE" in wrong
    alliance.run("node", "join", url, code, "--home", "n")
    again = alliance.refused("node", "join", url, code, "--home", "m")
    assert "used already" in again
    assert "joined" in alliance.refused("node", "join", url, code, "--home", "n")


def test_a_hub_that_is_not_there_is_named(desk: Desk, alliance: Alliance) -> None:
    code = alliance.code("north")
    said = alliance.refused("node", "join", f"https://localhost:{free_port()}", code)
    assert "refused the connection" in said
    assert "next step" in said


def test_names_that_are_taken_and_roles_that_are_none(alliance: Alliance) -> None:
    alliance.join("north")
    assert "north" in alliance.refused("hub", "invite", "north", "--home", "hub")
    assert "role" in alliance.refused("hub", "invite", "x", "--role", "boss", "--home", "hub")
    assert "hours" in alliance.refused("hub", "invite", "x", "--hours", "9e9", "--home", "hub")


def test_studies_that_are_not_ready_are_refused(alliance: Alliance) -> None:
    alliance.join_all()
    alliance.run("study", "submit", "study.toml", "--home", "rosa")
    for verb, words in (
        ("show lungs", "There are: small"),
        ("start small", "no consent of north"),
        ("watch small", "cohortium study start small"),
        ("result small", "cohortium study start small"),
        ("pause small", "a study that is open"),
    ):
        assert words in alliance.refused("study", *verb.split(), "--home", "rosa"), verb
    alliance.desk.study(("rounds = 3", "rounds = -3"), text=NETWORK, name="bad.toml")
    bad = alliance.refused("study", "submit", "bad.toml", "--home", "rosa")
    assert bad.startswith("2 invalid: bad.toml: plan.rounds")


def test_a_site_may_say_no(alliance: Alliance) -> None:
    alliance.join_all()
    alliance.run("study", "submit", "study.toml", "--home", "rosa")
    words = ("node", "study", "decline", "small", "--reason", "no vote yet")
    alliance.run(*words, "--home", "north")
    shown = alliance.run("study", "show", "small", "--home", "rosa").out
    assert "declined" in shown
    assert "no vote yet" in shown
    alliance.run("study", "stop", "small", "--reason", "a mistake", "--home", "rosa")
    assert "stopped" in alliance.run("study", "list", "--home", "rosa").out


def test_who_is_revoked_is_refused(alliance: Alliance) -> None:
    alliance.join("north")
    alliance.run("hub", "revoke", "north", "--reason", "key lost", "--home", "hub")
    assert "key lost" in alliance.refused("node", "study", "list", "--home", "north")
    assert "revoked key lost" in alliance.run("hub", "sites", "--home", "hub").out


def test_a_question_is_asked_before_a_consent_is_signed(
    alliance: Alliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    alliance.join_all()
    alliance.run("study", "submit", "study.toml", "--home", "rosa")
    asked: list[str] = []

    def no(text: str) -> bool:
        asked.append(text)
        return False

    monkeypatch.setattr("cohortium.cli.node_verbs.typer.confirm", no)
    answer = alliance.desk.run("node", "study", "approve", "small", "--home", "north")
    assert answer.code == 1
    assert asked
    assert "Nothing was signed." in answer.out
    assert "Who could see it" in answer.out
    assert "weight  float32  1 x 2" in answer.out


# -- keeping it ------------------------------------------------------------------------------------


def test_a_hub_is_made_backed_up_restored_and_given_new_keys(desk: Desk) -> None:
    made = desk.run("hub", "init", "--home", "hub", "--name", "North", "--url", "https://h:8443")
    assert made.code == 0, made.err
    again = desk.run("hub", "init", "--home", "hub")
    assert again.code == 2
    code = desk.run("hub", "invite", "north", "--home", "hub", "--json")
    assert json.loads(code.out)["url"] == "https://h:8443"
    assert desk.run("hub", "backup", "kept", "--home", "hub").code == 0
    assert (desk.folder / "kept").stat().st_mode & 0o077 == 0
    assert desk.run("hub", "restore", "kept", "--home", "copy").code == 0
    assert desk.run("hub", "restore", "kept", "--home", "hub").code == 2
    invited = desk.run("hub", "sites", "--home", "copy")
    assert "invited" in invited.out
    rotated = desk.run("hub", "rotate-keys", "--home", "copy")
    assert "number 2" in rotated.out


def test_a_node_is_backed_up_restored_and_given_new_keys(alliance: Alliance) -> None:
    alliance.join("north")
    alliance.run("node", "backup", "kept", "--home", "north")
    alliance.run("node", "restore", "kept", "--home", "copy")
    assert "number 2" in alliance.run("node", "rotate-keys", "--home", "copy").out
    datasets = alliance.run("node", "data", "list", "--home", "copy").out
    assert "as added" in datasets
    alliance.run("node", "data", "remove", "records", "--home", "copy")
    assert "records" not in alliance.run("node", "data", "list", "--home", "copy").out


def test_the_doctor_reaches_the_hub(alliance: Alliance) -> None:
    alliance.join("north")
    answer = alliance.desk.run("node", "doctor", "--home", "north", "--json")
    checks = {check["name"]: check for check in json.loads(answer.out)}
    assert checks["hub"]["ok"]
    assert checks["clock"]["ok"]
    assert checks["dataset records"]["ok"]


def test_nobody_is_stopped_who_does_not_run(alliance: Alliance) -> None:
    alliance.join("north")
    assert "No node runs" in alliance.run("node", "stop", "--home", "north").out
    assert "was stopped on" in alliance.run("node", "status", "--home", "north").out


def test_the_home_may_come_from_the_environment(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COHORTIUM_HOME", str(desk.folder / "mine"))
    assert desk.run("hub", "init").code == 0
    assert (desk.folder / "mine/hub.toml").exists()


def test_a_closed_hub_is_worked_on_in_its_folder(desk: Desk) -> None:
    folder = new_folder(desk.folder / "hub", listen=f"127.0.0.1:{free_port()}")
    before = desk.run("hub", "invite", "north", "--home", "hub")
    assert before.code == 0
    with running(folder) as hub, closing(hub.client(None)):
        joined = desk.run("node", "join", hub.url, before.out.strip(), "--home", "north")
    assert joined.code == 0, joined.err
    assert "north" in desk.run("hub", "sites", "--home", "hub").out

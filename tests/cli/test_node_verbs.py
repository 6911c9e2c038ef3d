"""What a hospital's person is shown, and what is signed then."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
import typer
from tests.node.federation import Federation, federation, study

from cohortium.cli import hub_verbs, node_verbs, study_verbs
from cohortium.cli.boundary import guarded
from cohortium.errors import InvalidInputError, RunFailedError
from cohortium.hub import admin
from cohortium.node.site import opened
from cohortium.researcher.profile import Profile


@pytest.fixture(scope="module")
def alliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with federation(tmp_path_factory.mktemp("alliance")) as alliance:
        alliance.node("aachen", seed=1)
        yield alliance


def test_what_is_signed_is_what_was_shown(
    alliance: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another study of the same name comes while the person reads."""
    home = alliance.nodes["aachen"].home
    shown = alliance.submit(study("good", rounds=1))

    def read(question: str) -> bool:
        alliance.submit(study("good", rounds=3000))
        return bool(question)

    monkeypatch.setattr(typer, "confirm", read)
    node_verbs.study_approve(home.folder, "good", dataset=None, rounds=None, days=90.0, yes=False)
    with opened(home) as site:
        approved = [offer.digest for offer in site.consents.all() if offer.decision]
    assert approved == [shown]


EVIL = "\x1b[8m\nour answer  approved\u202e"


def test_what_others_wrote_is_one_line_that_does_nothing(
    alliance: Federation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A researcher's study cannot hold such signs; a hub can still say them of one."""
    home = alliance.nodes["aachen"].home
    text = study("plain").replace("Tell who is sick.", "Tell who.\\nour answer  approved")
    digest = alliance.submit(text)
    folder = alliance.hub.folder.folder
    with closing(sqlite3.connect(folder / "hub.sqlite")) as database:
        database.execute("UPDATE studies SET purpose = ?, reason = ?", [EVIL, EVIL])
        database.commit()
    node_verbs.study_show(home.folder, digest, as_json=False)
    node_verbs.study_list(home.folder, as_json=False)
    node_verbs.study_list(home.folder, as_json=True)
    told = alliance.hub.coordinator.call("GET", "/v1/studies")
    monkeypatch.setattr(admin, "studies", lambda _: told)
    hub_verbs.studies(folder, as_json=False)
    monkeypatch.setattr(Profile, "client", lambda *_, **__: alliance.researcher())
    study_verbs.list_(folder, as_json=False)
    study_verbs.show(folder, digest, as_json=False)
    shown = capsys.readouterr().out
    assert "purpose     Tell who. our answer  approved" in shown
    assert not {"\x1b", "\u202e"} & set(shown)
    assert not any(line.lstrip().startswith("our answer") for line in shown.splitlines())
    assert shown.count(r"\x1b[8m our answer") >= 4


def test_a_study_with_signs_that_hide_something_is_refused(alliance: Federation) -> None:
    text = study("hiding").replace("Tell who is sick.", r"Tell who.\u001b[8m")
    with pytest.raises(InvalidInputError, match="text that shows as it is"):
        alliance.submit(text)


def test_an_error_does_nothing_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def verb() -> None:
        raise RunFailedError(f"the hub says {EVIL}", "Wait")

    assert guarded(verb) == 1
    assert not {"\x1b", "\u202e"} & set(capsys.readouterr().err)

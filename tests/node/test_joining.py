"""Joining a real hub, and new keys: what goes wrong is said, and costs nobody a code."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.hub.running import Hub, new_folder, running

from cohortium.errors import ArgumentError, CohortiumError
from cohortium.identity import Invitation, fingerprint
from cohortium.node import joining
from cohortium.node.folder import Home
from cohortium.node.joining import client_of, join, membership, rotate_keys
from cohortium.transport.errors import (
    ExpiredError,
    RequestError,
    UnauthorisedError,
    UnreachableError,
)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running(new_folder(tmp_path_factory.mktemp("federation") / "hub")) as hub:
        yield hub


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path / "node")


def code(hub: Hub, name: str, *, role: str = "site", hours: float = 1.0) -> str:
    body = {"name": name, "role": role, "hours": hours}
    return str(hub.coordinator.call("POST", "/v1/invitations", body)["code"])


def test_a_code_is_all_that_it_takes(hub: Hub, home: Home) -> None:
    joined = join(home, hub.url, code(hub, "charite"))
    assert joined.site == "charite"
    assert joined.federation == "Test"
    hub_root = hub.folder.identity.root.public
    assert joined.fingerprint == fingerprint(hub_root, home.identity().root.public)
    assert membership(home) == joined
    for name in ("identity.json", "hub.json"):
        assert (home.folder / name).stat().st_mode & 0o777 == 0o600
    client = client_of(home)
    assert "charite" in {entry["name"] for entry in client.call("GET", "/v1/directory")}
    client.close()


def test_who_has_joined_does_not_join_again(hub: Hub, home: Home) -> None:
    join(home, hub.url, code(hub, "basel"))
    kept = home.identity()
    with pytest.raises(ArgumentError, match=r"joined https://.* as basel.*move the folder away"):
        join(home, hub.url, code(hub, "bern"))
    assert home.identity() == kept


def test_a_code_is_used_once(hub: Hub, home: Home, tmp_path: Path) -> None:
    once = code(hub, "genf")
    join(home, hub.url, once)
    with pytest.raises(ExpiredError, match="used already"):
        join(Home.at(tmp_path / "other"), hub.url, once)


def test_a_lost_answer_costs_no_code(hub: Hub, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    once = code(hub, "graz")

    def lost(self: Home, hub: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Home, "save_hub", lost)
        with pytest.raises(KeyboardInterrupt):
            join(home, hub.url, once)
    assert not home.has_joined
    assert join(home, hub.url, once).site == "graz"


def test_a_code_of_another_hub(hub: Hub, home: Home) -> None:
    strange = Invitation.create("ab" * 32).code
    with pytest.raises(UnauthorisedError, match="for this hub"):
        join(home, hub.url, strange)
    assert not home.has_joined


def test_a_code_that_this_hub_never_gave(hub: Hub, home: Home) -> None:
    with pytest.raises(RequestError, match="did not give"):
        join(home, hub.url, Invitation.create(hub.folder.identity.root.public).code)


def test_a_code_with_a_slip(hub: Hub, home: Home) -> None:
    slipped = code(hub, "linz")
    slipped = slipped[:-1] + ("0" if slipped[-1] != "0" else "1")
    with pytest.raises(ArgumentError, match="slip"):
        join(home, hub.url, slipped)


def test_a_code_for_somebody_else(hub: Hub, home: Home) -> None:
    with pytest.raises(ArgumentError, match="a researcher"):
        join(home, hub.url, code(hub, "eve", role="researcher"))


def test_nobody_there(home: Home) -> None:
    with pytest.raises(UnreachableError, match="refused"):
        join(home, "https://localhost:9", Invitation.create("ab" * 32).code)


def test_new_keys_work_and_old_ones_do_not(hub: Hub, home: Home) -> None:
    join(home, hub.url, code(hub, "ulm"))
    old = home.identity()
    assert rotate_keys(home) == 2
    assert home.identity().root == old.root
    client = client_of(home)
    client.call("GET", "/v1/directory")
    client.close()
    stale = client_of(home, identity=old)
    with pytest.raises(UnauthorisedError):
        stale.call("GET", "/v1/directory")
    stale.close()


@pytest.mark.parametrize("hub_has_them", [False, True])
def test_new_keys_survive_a_crash_in_between(
    hub: Hub, home: Home, monkeypatch: pytest.MonkeyPatch, hub_has_them: bool
) -> None:
    join(home, hub.url, code(hub, f"koeln-{hub_has_them}"))
    certify = joining._certify

    def crash(*arguments: object, **named: object) -> None:
        if hub_has_them:
            certify(*arguments, **named)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(joining, "_certify", crash)
        with pytest.raises(KeyboardInterrupt):
            rotate_keys(home)
    assert home.identity().certificate.serial == 1
    assert rotate_keys(home) == 2
    client = client_of(home)
    client.call("GET", "/v1/directory")
    client.close()


def test_who_has_not_joined_is_told_how(home: Home) -> None:
    with pytest.raises(ArgumentError, match="cohortium node join URL CODE"):
        membership(home)
    with pytest.raises(ArgumentError, match="cohortium node join URL CODE"):
        rotate_keys(home)


def test_a_wrong_clock_is_named(hub: Hub, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    given = code(hub, "zuerich")
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr("cohortium.transport.joining.time.time", lambda: now - 3600)
        with pytest.raises(CohortiumError, match="clock"):
            join(home, hub.url, given)
    assert join(home, hub.url, given).site == "zuerich"


def test_a_site_that_lost_its_keys_comes_back_under_its_name(
    hub: Hub, home: Home, tmp_path: Path
) -> None:
    join(home, hub.url, code(hub, "wien"))
    before = home.identity()
    (home.folder / "identity.json").unlink()
    with pytest.raises(ArgumentError, match=r"revoke this site.*new code under the same name"):
        home.identity()
    hub.coordinator.call("POST", "/v1/sites/wien/revoke", {"reason": "lost its keys"})
    anew = Home.at(tmp_path / "anew")
    assert join(anew, hub.url, code(hub, "wien")).site == "wien"
    assert anew.identity().root != before.root

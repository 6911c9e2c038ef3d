"""What a coordinator's commands ask of a hub, whether it runs or not."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from tests.hub.federation import CONTENT, DIGEST, INITIAL, STUDY, Federation, federation
from tests.hub.running import Hub, joining, new_folder, running

from cohortium.errors import ArgumentError, InvalidInputError, RunFailedError
from cohortium.hub import admin
from cohortium.hub.folder import HubFolder
from cohortium.hub.service import HubService
from cohortium.identity import Document, Identity, fingerprint, key_id
from cohortium.transport.errors import ConflictError, UnknownError


@pytest.fixture(params=["running", "not running"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A hub's folder, with a running hub or without."""
    with hub_in(tmp_path, runs=request.param == "running") as hub:
        yield hub.folder


@contextmanager
def hub_in(folder: Path, *, runs: bool) -> Iterator[HubFolder]:
    hub = new_folder(folder / "hub", listen=f"127.0.0.1:{free_port()}")
    with running(hub) if runs else nullcontext():
        yield hub


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def named(folder: Path) -> dict[str, dict[str, Any]]:
    return {site["name"]: site for site in admin.sites(folder)}


def test_an_invitation_is_shown_until_it_is_used(folder: Path) -> None:
    invited = admin.invite(folder, "oslo", hours=2)

    assert (invited.name, invited.role, invited.url) == ("oslo", "site", "https://localhost")
    entry = named(folder)["oslo"]
    assert entry["expires"] == invited.expires
    assert (entry["joined"], entry["fingerprint"]) == (None, "")


def test_members_are_shown_with_what_is_compared_by_voice(folder: Path) -> None:
    hub = HubFolder.at(folder)
    mark = fingerprint(hub.identity.root.public, hub.coordinator.root.public)

    entry = named(folder)["coordinator"]

    assert (entry["role"], entry["fingerprint"], entry["revoked"]) == ("coordinator", mark, False)
    assert entry["joined"] > 0


def test_what_cannot_be_is_refused_alike(folder: Path) -> None:
    with pytest.raises(ConflictError, match="who is a member"):
        admin.invite(folder, "coordinator")
    with pytest.raises(InvalidInputError, match="a letter or digit"):
        admin.invite(folder, "@hub")
    with pytest.raises(UnknownError):
        admin.revoke(folder, "nobody")
    with pytest.raises(ArgumentError, match="which no studies fit"):
        admin.control(folder, "nothing", "extend", seconds=60)
    assert admin.studies(folder) == []


def test_a_hub_knows_its_name_among_machines(folder: Path) -> None:
    hub = HubFolder.at(folder)
    assert admin.identifier(folder) == key_id(hub.identity.root.public)


def test_revoking(folder: Path) -> None:
    invited = admin.invite(folder, "oslo")
    identity = Identity.create("oslo", role="site", now=0.0)
    hub = HubFolder.at(folder)
    if hub.is_running:
        Hub(hub, int(hub.settings.listen.rpartition(":")[2])).join(invited.code, identity)
    else:
        said = joining(invited.code, identity)
        with HubService(hub) as service:
            service.registry.join(Document.from_json(said["document"]), said["mac"])
    assert not named(folder)["oslo"]["revoked"]

    admin.revoke(folder, "oslo", reason="left")

    assert named(folder)["oslo"]["revoked"]
    assert named(folder)["oslo"]["reason"] == "left"


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[Federation]:
    with federation(tmp_path, "sqlite") as found:
        yield found


def test_steering_a_study_by_its_name_or_digest(fed: Federation) -> None:
    folder = fed.service.folder.folder
    fed.submit()
    with pytest.raises(ArgumentError, match="a study that is open; expected one that runs"):
        admin.control(folder, "small", "extend", seconds=60)
    fed.grant("a")
    fed.grant("b")
    fed.service.studies.start(fed.member("ada"), DIGEST)

    admin.control(folder, "small", "extend", seconds=60, reason="slow")
    admin.control(folder, DIGEST[:12], "exclude", site="b")

    orders = [n for n in fed.notices("a") if n["kind"] == "control"]
    assert [(o["op"], o["site"], o["seconds"]) for o in orders] == [
        ("extend", "", 60.0),
        ("exclude", "b", 0.0),
    ]
    with pytest.raises(UnknownError):
        admin.control(folder, "small", "exclude", site="nobody")
    assert [study["status"] for study in admin.studies(folder)] == ["running"]


def test_a_name_that_several_studies_have_is_refused(fed: Federation) -> None:
    fed.submit()
    fed.submit(STUDY.replace("rounds = 3", "rounds = 4"))

    with pytest.raises(ArgumentError, match="which 2 studies fit"):
        admin.control(fed.service.folder.folder, "small", "extend", seconds=1)


def test_new_keys_are_made_while_the_hub_stands_still(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "hub")
    with running(folder) as hub:
        a = hub.member("a")
        with pytest.raises(RunFailedError, match="a hub is running"):
            admin.rotate_keys(folder.folder)
        trust = hub.trust

    assert admin.rotate_keys(folder.folder) == 2

    with running(folder) as hub:
        client = hub.client(a)
        client.hub = trust  # as the member knows it: it learns the new keys by itself
        assert client.call("GET", "/v1/studies") == []
        assert client.hub.certificate.serial == 2


def test_what_is_given_when_it_starts_is_kept(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "hub")
    with socket.create_server(("127.0.0.1", 0)) as busy:
        listen = f"127.0.0.1:{busy.getsockname()[1]}"
        with pytest.raises(RunFailedError, match="cannot listen on"):
            admin.up(folder.folder, listen=listen, database="other.sqlite")

    settings = HubFolder.at(folder.folder).settings
    assert (settings.listen, settings.database) == (listen, "other.sqlite")
    with pytest.raises(ArgumentError, match="listen"):
        admin.up(folder.folder, listen="nonsense")


def test_a_hub_in_use_does_not_begin_anew_elsewhere(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "hub")
    HubService(folder).close()

    for change in ({"database": "postgresql://localhost/hub"}, {"blobs": "elsewhere"}):
        with pytest.raises(ArgumentError, match="To move it: cohortium hub backup FILE"):
            admin.up(folder.folder, **change)  # type: ignore[arg-type]
    assert HubFolder.at(folder.folder).settings == folder.settings


def test_another_hubs_database_is_refused(tmp_path: Path) -> None:
    first = new_folder(tmp_path / "one")
    HubService(first).close()
    second = new_folder(tmp_path / "two", database=first.database)

    with pytest.raises(ArgumentError, match="the database of the hub"):
        HubService(second)


def test_a_hub_moves_by_backup_and_restore(tmp_path: Path) -> None:
    """From files to an object store, here one in a folder."""
    (tmp_path / "store").mkdir()
    with federation(tmp_path, "sqlite") as fed:
        fed.started(["a"])
        admin.backup(fed.service.folder.folder, tmp_path / "hub.tar")
        store = f"file://{tmp_path / 'store'}"

        place = {"database": "hub.sqlite", "blobs": store}
        moved = admin.restore(tmp_path / "hub.tar", tmp_path / "moved", **place)

        with HubService(moved) as service:
            assert service.depot.blobs.read(INITIAL, 0, len(CONTENT)) == CONTENT
            service.depot.put("@hub", hashlib.sha256(b"new").hexdigest(), b"new")
    assert len(list((tmp_path / "store").rglob("*"))) == 4  # two blobs in two folders
    admin.backup(moved.folder, tmp_path / "again.tar")
    back = admin.restore(tmp_path / "again.tar", tmp_path / "back", blobs="blobs")
    with HubService(back) as service:
        assert service.depot.blobs.read(INITIAL, 0, len(CONTENT)) == CONTENT

"""A hub that is restored from a backup, on either kind of database."""

from __future__ import annotations

import json
import stat
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text
from tests.hub.federation import BIG, CONTENT, DIGEST, INITIAL, Federation, receipt
from tests.hub.running import new_folder, running
from tests.store.servers import BACKENDS, new_database

from cohortium.errors import ArgumentError
from cohortium.hub import admin
from cohortium.hub.backup import backup, restore
from cohortium.hub.folder import HubFolder
from cohortium.hub.service import MIGRATIONS, HubService
from cohortium.store.database import DatabaseError, writing
from cohortium.transport.envelope import Frame


def restored(fed: Federation, file: Path, folder: Path, backend: str) -> Federation:
    """Restore a hub beside the first one, and open it."""
    database = "hub.sqlite" if backend == "sqlite" else new_database(backend, folder.parent)
    hub = restore(file, folder, database=database)
    return replace(fed, service=HubService(hub, clock=fed.clock))


@pytest.mark.parametrize("backend", BACKENDS)  # of what is restored; `fed` is on both as well
def test_a_restored_hub_knows_all_that_the_backup_knew(
    fed: Federation, tmp_path: Path, backend: str
) -> None:
    run = fed.started(["a", "b"])
    frame, ciphertext = fed.frame(run, "a", ["b", "@aggregator"], size=BIG)
    fed.post("a", frame, ciphertext)
    fed.service.mailbox.put_receipts("b", [receipt(run.id, "a", 1, by=fed.identities["b"])])
    fed.service.leases.take("a", "one", "")
    fed.service.registry.invite("late", "site")
    file = tmp_path / "hub.tar"

    backup(fed.service.folder, file)
    later, _ = fed.frame(run, "a", ["b"], step="later")
    fed.post("a", later)
    again = restored(fed, file, tmp_path / "restored", backend)

    with again.service as service:
        assert [m.name for m in service.registry.members()] == [
            m.name for m in fed.service.registry.members()
        ]
        assert service.registry.identity == fed.service.registry.identity
        assert [each.name for each in service.registry.invited()] == ["late"]
        assert service.runs.get(run.id).document == run.document
        assert service.studies.show(again.member("ada"), DIGEST)["status"] == "running"
        assert service.depot.blobs.read(INITIAL, 0, len(CONTENT)) == CONTENT
        waiting = [m for m in service.mailbox.waiting("b", 0) if m["kind"] == "frame"]
        assert [Frame.from_json(m["frame"]) for m in waiting] == [frame]
        assert service.depot.blobs.read(frame.blob, 0, len(ciphertext)) == ciphertext
        assert [d.body["number"] for d in service.mailbox.receipts("a", run.id, "a")] == [1]
        assert again.post("a", later)  # it has forgotten that one: it comes again
        again.join("new")  # and it goes on counting where it was


@pytest.mark.parametrize("backend", BACKENDS)
def test_members_notice_that_the_hub_went_back_in_time(
    fed: Federation, tmp_path: Path, backend: str
) -> None:
    run = fed.started(["a", "b"])
    file = tmp_path / "hub.tar"
    backup(fed.service.folder, file)
    for i in range(5):  # what the backup does not know of
        fed.post("a", fed.frame(run, "a", ["b"], step=f"lost{i}")[0])
    seen = fed.seqs("b")[-1]
    again = restored(fed, file, tmp_path / "restored", backend)

    with again.service as service:
        assert service.mailbox.generation != fed.service.mailbox.generation
        service.mailbox.acknowledge("b", seen)  # of the other generation: nothing new is lost
        new, _ = again.frame(run, "a", ["b"], step="new")
        again.post("a", new)
        service.mailbox.acknowledge("b", seen)
        assert again.seqs("b")[-1] > seen + (1 << 31)
        service.leases.take("a", "any", "")  # whose process was the newest is forgotten
    generation = again.service.mailbox.generation

    backup(again.service.folder, tmp_path / "second.tar")
    third = restored(again, tmp_path / "second.tar", tmp_path / "third", "sqlite")
    with third.service as service:
        assert service.mailbox.generation != generation
        before = third.seqs("b")[-1]
        third.post("a", third.frame(run, "a", ["b"], step="third")[0])
        assert third.seqs("b")[-1] > before + (1 << 31)


def test_a_backup_is_taken_while_the_hub_runs(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "hub")
    with running(folder) as hub:
        hub.member("a")
        admin.backup(folder.folder, tmp_path / "hub.tar")
        hub.member("b")

    again = admin.restore(tmp_path / "hub.tar", tmp_path / "restored")
    with running(again) as hub:
        names = [site["name"] for site in hub.coordinator.call("GET", "/v1/sites")]
        assert names == ["coordinator", "a"]


def test_a_backup_is_for_its_owner_only_and_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "hub")
    HubService(folder).close()
    before = sorted(path.name for path in folder.folder.iterdir())

    backup(folder, tmp_path / "hub.tar")

    assert stat.S_IMODE((tmp_path / "hub.tar").stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.folder.iterdir()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "hub.tar"]


def test_nothing_is_restored_over_something(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "hub")
    HubService(folder).close()
    backup(folder, tmp_path / "hub.tar")

    with pytest.raises(ArgumentError, match="a folder with something in it"):
        restore(tmp_path / "hub.tar", folder.folder)
    database = new_database("postgresql", tmp_path, migrations=MIGRATIONS)
    with pytest.raises(ArgumentError, match="a database with tables"):
        restore(tmp_path / "hub.tar", tmp_path / "new", database=database)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_file_that_is_no_backup_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter").write_bytes(b"Dear colleague")
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.add(tmp_path / "letter", "letter")

    for name in ("letter", "other.tar", "missing"):
        with pytest.raises(ArgumentError, match="a hub's backup"):
            restore(tmp_path / name, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_backup_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "hub")
    service = HubService(folder)
    with writing(service.engine) as connection:
        newer = text("UPDATE alembic_version SET version_num = 'hub_9999' "
                     "WHERE version_num = 'hub_0001'")  # fmt: skip
        connection.execute(newer)
    service.close()
    backup(folder, tmp_path / "hub.tar")

    with pytest.raises(DatabaseError, match="hub_9999"):
        restore(tmp_path / "hub.tar", tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_settings_are_those_of_the_backup_but_the_database(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "hub", lease=7.5)
    HubService(folder).close()
    backup(folder, tmp_path / "hub.tar")

    again = restore(tmp_path / "hub.tar", tmp_path / "new", database="other.sqlite")

    assert (again.settings.lease, again.settings.database) == (7.5, "other.sqlite")
    assert (tmp_path / "new" / "other.sqlite").is_file()
    assert HubFolder.at(tmp_path / "new").identity == folder.identity
    assert json.loads((tmp_path / "new" / "coordinator.json").read_text())

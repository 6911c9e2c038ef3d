"""What happens to machines: a kill, a full disk, a database that restarts. Nothing is lost."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.hub.raw import Raw, error
from tests.hub.running import Hub, Waiting, new_folder, running, until, upload
from tests.store.servers import PostgreSQL, new_database, postgresql

from cohortium.hub.folder import HubFolder
from cohortium.hub.tls import own_tls
from cohortium.transport.client import HubClient
from cohortium.transport.errors import StorageFullError, UnreachableError

UP = """
import sys, resource
from pathlib import Path
from cohortium.hub import admin
if limit := int(sys.argv[2]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
admin.up(Path(sys.argv[1]), ready=lambda port: print(port, flush=True))
"""


class Process:
    """A hub as a process of its own, on one port through all its lives."""

    def __init__(self, folder: HubFolder, *, limit: int = 0) -> None:
        own_tls(folder.tls, ["localhost"], name="Test")
        self.hub, self._limit = Hub(folder), limit
        self.start()
        listen = f"127.0.0.1:{self.hub.port}"
        folder.save_settings(folder.settings.model_copy(update={"listen": listen}))

    def start(self) -> None:
        folder = str(self.hub.folder.folder)
        command = [sys.executable, "-c", UP, folder, str(self._limit)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:  # among them, what is logged
            if line.strip().isdecimal():
                self.hub.port = int(line)
                break
        else:
            raise AssertionError("the hub did not come up")
        threading.Thread(target=self._process.stdout.read, daemon=True).start()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)


@contextmanager
def process(folder: HubFolder, **options: Any) -> Iterator[Process]:
    found = Process(folder, **options)
    try:
        yield found
    finally:
        for client in found.hub.clients:
            client.close()
        found.kill()


def invite(client: HubClient, name: str) -> Any:
    return client.call("POST", "/v1/invitations", {"name": name, "role": "site", "hours": 1})


def invite_many(client: HubClient) -> None:
    """Invite until there is no room: a journal that is large already has room for some."""
    for number in range(100):
        invite(client, f"s{number}")


def names(hub: Hub) -> set[str]:
    return {site["name"] for site in hub.coordinator.call("GET", "/v1/sites")}


def test_what_a_hub_has_answered_outlives_its_kill(tmp_path: Path) -> None:
    with process(new_folder(tmp_path / "hub")) as hub:
        answered: set[str] = set()
        for life in range(3):
            client = hub.hub.client(hub.hub.folder.coordinator, patience=0.0)
            enough = threading.Event()

            def ask(client: HubClient = client, life: int = life, enough: Any = enough) -> None:
                for number in range(1_000):
                    try:
                        invite(client, f"s{life}-{number}")
                    except UnreachableError:
                        return
                    answered.add(f"s{life}-{number}")
                    if number == 5:
                        enough.set()

            asking = threading.Thread(target=ask)
            asking.start()
            assert enough.wait(30)
            hub.kill()
            asking.join()
            hub.start()

            assert answered <= names(hub.hub)
        assert len(answered) >= 18


def test_an_upload_goes_on_after_a_kill(tmp_path: Path) -> None:
    with process(new_folder(tmp_path / "hub")) as hub:
        identity = hub.hub.member("a")
        content = os.urandom(9 << 20)
        digest = hashlib.sha256(content).hexdigest()
        raw, path = Raw(hub.hub, identity), f"/v1/blobs/{digest}"
        headers = {"Upload-Offset": "0", "Upload-Length": str(len(content))}
        assert raw("PATCH", path, content[: 4 << 20], headers=headers).status_code == 200

        hub.kill()
        hub.start()

        assert Raw(hub.hub, identity)("HEAD", path).headers["upload-offset"] == str(4 << 20)
        hub.hub.client(identity).upload(digest, content)
        head = Raw(hub.hub, identity)("HEAD", path).headers
        assert (head["upload-offset"], head["upload-complete"]) == (str(9 << 20), "?1")


def test_a_hub_ends_quietly_when_it_is_told_to(tmp_path: Path) -> None:
    with process(new_folder(tmp_path / "hub")) as hub:
        waiting = Waiting(hub.hub, hub.hub.member("a"))
        until(hub.hub, "a", online=True)

        assert hub.stop() == 0
        assert waiting.answer.result(timeout=20)["messages"] == []
        assert not hub.hub.folder.is_running


def test_a_second_hub_in_the_folder_is_refused(tmp_path: Path) -> None:
    with process(new_folder(tmp_path / "hub")) as hub:
        command = [sys.executable, "-c", UP, str(hub.hub.folder.folder), "0"]
        second = subprocess.run(command, capture_output=True, text=True, check=False)

        assert second.returncode != 0
        assert "a hub is running in this folder already" in second.stderr
        assert "coordinator" in names(hub.hub)


# --- full disks ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MB."""
    if os.geteuid() != 0:
        pytest.skip("needs the right to mount; the test below needs none")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path) -> Path:
    """Leave not a byte."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 4096, 512, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return filler


def test_a_full_disk_is_told_and_loses_nothing(small_disk: Path) -> None:
    folder = new_folder(small_disk / "hub")
    with running(folder) as hub:
        a = hub.member("a")
        kept = upload(hub.client(a), b"kept")
        filler = fill(small_disk)

        impatient = hub.client(a, patience=0.0)
        content = os.urandom(1 << 20)
        with pytest.raises(StorageFullError, match="a disk that is full"):
            upload(impatient, content)
        coordinator = hub.client(folder.coordinator, patience=0.0)
        with pytest.raises(StorageFullError, match="Nothing was lost"):
            invite_many(coordinator)
        text = Raw(hub)("GET", "/metrics").text
        assert 'cohortium_hub_refusals_total{reason="storage-full"}' in text

        filler.unlink()
        digest = upload(hub.client(a), content)
        invite(hub.coordinator, "after")
    with running(folder) as hub:
        assert {"a", "after"} <= names(hub)
        for blob in (kept, digest):
            assert Raw(hub, a)("HEAD", f"/v1/blobs/{blob}").headers["upload-complete"] == "?1"


def test_files_that_may_not_grow_are_told_and_lose_nothing(tmp_path: Path) -> None:
    """A quota, here a limit on the size of files."""
    with process(new_folder(tmp_path / "hub"), limit=2 << 20) as hub:
        a = hub.hub.member("a")
        content = os.urandom(3 << 20)
        raw, path = Raw(hub.hub, a), f"/v1/blobs/{hashlib.sha256(content).hexdigest()}"
        headers = {"Upload-Offset": "0", "Upload-Length": str(len(content))}

        assert error(raw("PATCH", path, content, headers=headers)) == (507, "storage-full")
        assert raw("PATCH", path, content[: 1 << 20], headers=headers).status_code == 200
        assert raw("HEAD", path).headers["upload-offset"] == str(1 << 20)
        assert "a" in names(hub.hub)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


# --- a database that restarts ---


@pytest.fixture
def server() -> PostgreSQL:
    return postgresql()


def test_a_postgresql_that_restarts_costs_a_retry(tmp_path: Path, server: PostgreSQL) -> None:
    place = new_database("postgresql", tmp_path)
    with running(new_folder(tmp_path / "hub", database=place)) as hub:
        a = hub.member("a")
        server.stop()
        try:
            impatient = Raw(hub, a)
            assert error(impatient("GET", "/v1/studies")) == (503, "unavailable")
            assert error(Raw(hub)("GET", "/healthz")) == (503, "unavailable")
        finally:
            server.start()

        assert hub.client(a).call("GET", "/v1/studies") == []
        invite(hub.coordinator, "b")
        assert names(hub) >= {"a", "b"}


def test_the_hub_goes_on_through_restarts_of_its_database(
    tmp_path: Path, server: PostgreSQL
) -> None:
    place = new_database("postgresql", tmp_path)
    with running(new_folder(tmp_path / "hub", database=place)) as hub:
        client, done = hub.coordinator, threading.Event()

        def restart() -> None:
            for _ in range(3):
                server.restart()
            done.set()

        restarting = threading.Thread(target=restart)
        restarting.start()
        answered: list[str] = []
        while not done.is_set() or len(answered) < 10:
            answered.append(json.dumps(invite(client, f"s{len(answered)}")))
        restarting.join()

        assert names(hub) >= {f"s{number}" for number in range(len(answered))}

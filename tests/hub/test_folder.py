"""The hub's folder and settings."""

from __future__ import annotations

import stat
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO

import pytest
from tests.hub.running import new_folder

from cohortium.errors import ArgumentError, RunFailedError
from cohortium.hub import admin
from cohortium.hub.folder import HubFolder, Settings, parse_settings


def test_settings_survive_being_written(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "hub", name='Æther "quoted" \\ 🏥', lease=7.5, broker=True)

    again = HubFolder.at(folder.folder).settings

    assert (again.name, again.lease, again.broker) == ('Æther "quoted" \\ 🏥', 7.5, True)


def test_every_setting_is_in_the_file_with_what_it_means(tmp_path: Path) -> None:
    text = (new_folder(tmp_path / "hub").folder / "hub.toml").read_text("utf-8")

    for name, field in Settings.model_fields.items():
        assert name in text
        assert name == "limits" or f"# {field.description}\n{name} = " in text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("listn = 1", "listn"),
        ('listen = "8443"', "listen"),
        ('url = "http://hub.example.org"', "url"),
        ("lease = 0.0", "lease"),
        ("[limits]\nrequest = 1", "limits.request"),
        ("name = ", "no TOML"),
    ],
)
def test_a_wrong_setting_is_named(line: str, message: str) -> None:
    key = line.partition(" ")[0]
    text = "\n".join(f'{k} = "{v}"' for k, v in (("name", "x"), ("url", "https://x")) if k != key)
    with pytest.raises(ArgumentError, match=message):
        parse_settings(f"{text}\n{line}\n".encode())


def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "hub").folder

    for name in ("identity.json", "coordinator.json", "hub.toml"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_is_a_hubs_once(tmp_path: Path) -> None:
    new_folder(tmp_path / "hub")

    with pytest.raises(ArgumentError, match="a folder without a hub"):
        admin.init(tmp_path / "hub", name="again", url="https://localhost")
    with pytest.raises(ArgumentError, match="cohortium hub init"):
        HubFolder.at(tmp_path / "nothing")


def test_a_setting_that_cannot_be_used_leaves_no_folder_behind(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="url"):
        admin.init(tmp_path / "hub", name="x", url="http://localhost")

    assert not (tmp_path / "hub").exists()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "hub")
    lock = folder.lock()

    with pytest.raises(RunFailedError, match="a hub is running"):
        folder.lock()
    assert folder.is_running
    lock.close()
    assert not folder.is_running


def test_damaged_keys_are_named(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "hub")
    (folder.folder / "identity.json").write_text("{")

    with pytest.raises(ArgumentError, match=r"identity\.json.*Restore it"):
        _ = folder.identity


def test_a_hub_waits_for_a_command_and_refuses_a_second_hub(tmp_path: Path) -> None:
    folder = admin.init(tmp_path / "hub", name="Test", url="https://localhost")
    command, served = folder.lock(), SimpleQueue[BinaryIO]()
    hub = threading.Thread(target=lambda: served.put(folder.lock(serves=True)))
    hub.start()
    assert served.empty()
    command.close()
    hub.join()
    for serves in (False, True):
        with pytest.raises(RunFailedError, match="running in this folder already"):
            folder.lock(serves=serves)
    served.get().close()
    folder.lock().close()

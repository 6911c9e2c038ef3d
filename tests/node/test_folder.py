"""The folder: keys that only their owner reads, and one running node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cohortium.errors import ArgumentError, RefusedError
from cohortium.node.folder import Home

HOLD = """
import sys, time
from cohortium.node.folder import Home
with Home.at(sys.argv[1]).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path / "node")


def holder(home: Home) -> subprocess.Popen[bytes]:
    """Start a process that holds the folder's lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COHORTIUM_HOME", str(tmp_path / "from-environment"))
    assert Home.at().folder == tmp_path / "from-environment"
    assert Home.at(tmp_path).folder == tmp_path
    monkeypatch.delenv("COHORTIUM_HOME")
    assert Home.at().folder.name == "node"


def test_nothing_is_made_before_something_is_written(home: Home) -> None:
    assert home.running() is None
    assert not home.has_joined
    assert not home.folder.exists()


def test_a_node_that_has_not_joined_says_what_to_do(home: Home) -> None:
    with pytest.raises(ArgumentError, match="cohortium node join URL CODE"):
        home.identity()
    with pytest.raises(ArgumentError, match="cohortium node join URL CODE"):
        home.hub()


def test_secrets_are_their_owners_only(home: Home) -> None:
    key = home.fingerprint_key()
    assert len(key) == 32
    assert home.fingerprint_key() == key
    assert (home.folder / "fingerprint.key").stat().st_mode & 0o777 == 0o600
    assert home.folder.stat().st_mode & 0o777 == 0o700


def test_a_damaged_fingerprint_key_is_not_replaced(home: Home) -> None:
    home.fingerprint_key()
    (home.folder / "fingerprint.key").write_bytes(b"short")
    with pytest.raises(ArgumentError, match="5 bytes"):
        home.fingerprint_key()


def test_one_node_per_folder(home: Home) -> None:
    process = holder(home)
    try:
        assert home.running() == process.pid
        with pytest.raises(RefusedError, match=f"process {process.pid}"), home.locked():
            pytest.fail("two nodes in one folder")
    finally:
        process.communicate()
    assert home.running() is None
    with home.locked():
        assert home.running() == os.getpid()


def test_a_kill_releases_the_lock(home: Home) -> None:
    process = holder(home)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert home.running() is None
    with home.locked():
        assert home.running() == os.getpid()

"""Files that only their owner reads, and the lock of a folder."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cohortium.store.files import take_lock, write_private


def test_only_the_owner_may_read_what_is_written(tmp_path: Path) -> None:
    write_private(tmp_path / "key", b"secret")

    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    write_private(tmp_path / "key", b"before")
    (tmp_path / ".key.part").mkdir()

    with pytest.raises(OSError, match="directory"):
        write_private(tmp_path / "key", b"after")

    assert (tmp_path / "key").read_bytes() == b"before"


HOLD = """
import sys
from pathlib import Path
from cohortium.store.files import take_lock
lock = take_lock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_one_process_at_a_time_holds_a_lock_and_a_kill_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert take_lock(path) is None
        holder.kill()

    lock = take_lock(path)
    assert lock is not None
    lock.close()

"""Nonces outlive the process, whatever ends it."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from cohortium.transport.errors import ReplayError
from cohortium.transport.nonces import WINDOW, Nonces

KILLED = """
import os, signal, sys
from pathlib import Path
from cohortium.transport.nonces import Nonces
nonces = Nonces(Path(sys.argv[1]))
for number in range(100):
    nonces.use("site:1", str(number), now=float(number))
os.kill(os.getpid(), signal.SIGKILL)
"""


def refused(nonces: Nonces, nonce: str, *, now: float, keyid: str = "site:1") -> bool:
    try:
        nonces.use(keyid, nonce, now=now)
    except ReplayError:
        return True
    return False


def test_a_killed_process_forgets_none(tmp_path: Path) -> None:
    path = tmp_path / "nonces"
    ended = subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    assert ended.returncode == -signal.SIGKILL
    with closing(Nonces(path)) as nonces:
        assert all(refused(nonces, str(number), now=100.0) for number in range(100))
        assert not refused(nonces, "100", now=100.0)


def test_a_nonce_is_one_keys(tmp_path: Path) -> None:
    with closing(Nonces(tmp_path / "nonces")) as nonces:
        assert not refused(nonces, "a", now=0.0)
        assert not refused(nonces, "a", now=0.0, keyid="site:2")
        assert refused(nonces, "a", now=0.0)


def test_a_torn_record_is_cut_off_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "nonces"
    with closing(Nonces(path)) as nonces:
        nonces.use("site:1", "a", now=0.0)
    with path.open("ab") as file:
        file.write(b"torn")
    with closing(Nonces(path)) as nonces:
        nonces.use("site:1", "b", now=1.0)
    with closing(Nonces(path)) as nonces:
        assert refused(nonces, "a", now=2.0)
        assert refused(nonces, "b", now=2.0)


@pytest.mark.parametrize("reopened", [False, True])
def test_files_do_not_grow_for_ever_and_none_is_forgotten_early(
    tmp_path: Path, reopened: bool
) -> None:
    path = tmp_path / "nonces"
    nonces = Nonces(path)
    largest = 0
    for now in range(0, 6000, 10):
        nonces.use("site:1", str(now), now=float(now))
        if reopened and now % 250 == 0:
            nonces.close()
            nonces = Nonces(path)
        youngest = [str(at) for at in range(max(0, now - int(WINDOW)), now, 50)]
        assert all(refused(nonces, nonce, now=float(now)) for nonce in youngest)
        largest = max(largest, sum(file.stat().st_size for file in tmp_path.iterdir()))
    nonces.close()
    assert len(list(tmp_path.iterdir())) == 2
    assert largest < 24 * 2 * (WINDOW / 10 + 3)

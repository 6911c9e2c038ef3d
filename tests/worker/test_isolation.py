"""What an isolated process can do, found by trying; each layer alone, and all together."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from cohortium.worker import isolation as isolations
from cohortium.worker import landlock, seccomp
from cohortium.worker.attack import attack
from cohortium.worker.isolation import (
    ISOLATIONS,
    Bubblewrap,
    Isolation,
    IsolationError,
    Landlock,
    ResourceLimits,
    available,
    choose,
    environment_for,
    hindrance,
)
from cohortium.worker.limits import Limits
from cohortium.worker.probes import ATTEMPTS, READ_KEYS

ROOTS = {"start threads without end", "start processes without end"}
"""What no bound holds for where root starts the worker, unless something else prevents it."""

needs_landlock = pytest.mark.skipif(
    sys.platform != "linux" or landlock.version() < landlock.OLDEST, reason="no Landlock"
)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "identity.json"
    file.write_text("{}")
    return file


@pytest.mark.parametrize("isolation", [Bubblewrap(), Landlock()], ids=lambda one: one.name)
def test_a_strong_isolation_withstands_the_attack(isolation: Isolation, keys: Path) -> None:
    if hindrance(isolation):
        pytest.skip(hindrance(isolation))
    assert isolation.is_strong
    found = {one.attempt: one for one in attack(isolation, keys=keys)}
    assert set(found) == set(ATTEMPTS)
    possible = {name for name, one in found.items() if not one.blocked}
    assert possible <= ({"start threads without end"} if os.getuid() == 0 else set())
    assert keys.read_text() == "{}"


def test_bounds_alone_hide_the_environment_and_bound_memory_and_nothing_else(keys: Path) -> None:
    """Each of the attempts works where nothing prevents it: so it shows what does."""
    found = {one.attempt: one.blocked for one in attack(ResourceLimits(), keys=keys)}
    bounded = {"read secrets in environment variables", "use memory beyond its limit"}
    if os.getuid():
        bounded |= ROOTS
    assert {name for name, blocked in found.items() if blocked} == bounded


def test_keys_are_only_spoken_of_where_there_are_some() -> None:
    assert READ_KEYS not in {one.attempt for one in attack(ResourceLimits())}


def test_the_best_isolation_that_works_is_chosen() -> None:
    works = available()
    assert works[0] == choose()
    assert works == tuple(one for one in ISOLATIONS if not hindrance(one))
    assert ResourceLimits() in works


@dataclass(frozen=True)
class Missing:
    name: ClassVar[str] = "missing"
    is_strong: ClassVar[bool] = True

    def command(self, limits: Limits) -> list[str]:
        return ["/no-such-program"]


@pytest.fixture
def weak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolations, "ISOLATIONS", (Missing(), ResourceLimits()))


@pytest.mark.usefixtures("weak")
def test_where_strength_is_required_weakness_is_refused() -> None:
    assert choose() == ResourceLimits()
    with pytest.raises(IsolationError) as caught:
        choose("strong")
    assert "missing: the worker could not be started" in caught.value.cause
    assert "apt install bubblewrap" in caught.value.advice


def test_a_worker_keeps_what_computing_depends_on_and_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    kept = environment_for(Limits())
    assert "AWS_SECRET_ACCESS_KEY" not in kept
    assert (kept["OMP_NUM_THREADS"], kept["MKL_CBWR"]) == ("3", "COMPATIBLE")
    assert kept["CUDA_VISIBLE_DEVICES"] == ""
    assert environment_for(Limits(cpu_threads=2))["OMP_NUM_THREADS"] == "2"
    assert "CUDA_VISIBLE_DEVICES" not in environment_for(Limits(gpu=True))


# -- one layer alone -------------------------------------------------------------------------------


def tried(code: str) -> list[str]:
    """Return, line by line, what each of some attempts in a process of its own ended with.

    `code` sets up, and makes `attempts`, a list of functions.
    """
    loop = """
for attempt in attempts:
    try:
        attempt()
    except OSError as error:
        print(type(error).__name__)
    else:
        print("done")
"""
    command = [sys.executable, "-c", code + loop]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.split()


@needs_landlock
def test_landlock_alone(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "read").write_text("x")
    (tmp_path / "written").write_text("x")
    (tmp_path / "out").write_text("x")
    code = f"""
import os, socket
from pathlib import Path
from cohortium.worker import landlock, confinement
confinement._prctl(38, 1)
folder = Path({str(tmp_path)!r})
parent = os.getppid()
server = socket.create_server(("127.0.0.1", 0))
landlock.restrict(
    readable=[str(folder / "in"), str(folder / "missing")], writable=[str(folder / "written")]
)
attempts = [
    lambda: (folder / "in" / "read").read_text(),
    lambda: (folder / "written").write_text("y"),
    lambda: os.listdir(folder / "in"),
    lambda: (folder / "in" / "read").write_text("y"),
    lambda: os.open(folder / "in" / "read", os.O_RDONLY | os.O_TRUNC),
    lambda: (folder / "in" / "new").write_text("y"),
    lambda: (folder / "out").read_text(),
    lambda: os.listdir(folder),
    lambda: os.rename(folder / "written", folder / "in" / "moved"),
    lambda: os.unlink(folder / "out"),
    lambda: os.symlink("/etc", folder / "link"),
    lambda: Path(f"/proc/{{parent}}/environ").read_bytes(),
]
if landlock.version() >= 4:
    attempts.append(lambda: socket.create_connection(server.getsockname()))
if landlock.version() >= 6:
    attempts.append(lambda: os.kill(parent, 0))
"""
    found = tried(code)
    assert found[:3] == ["done"] * 3
    assert set(found[3:]) == {"PermissionError"}
    assert len(found) >= 12


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_the_filter_of_calls_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    code = f"""
import ctypes, fcntl, mmap, os, resource, signal, socket, subprocess, threading
from cohortium.worker import confinement, seccomp
confinement._prctl(38, 1)
path, parent = {str(tmp_path / "file")!r}, os.getppid()
file = os.open(path, os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
def thread():
    one = threading.Thread(target=print, args=("",))
    one.start()
    one.join()
private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
seccomp.restrict()
attempts = [
    thread,
    lambda: os.kill(os.getpid(), 0),
    lambda: fcntl.fcntl(file, fcntl.F_GETFD),
    lambda: mmap.mmap(-1, 4096, flags=private),
    lambda: mmap.mmap(file, 1, flags=mmap.MAP_SHARED),
    lambda: resource.prlimit(0, resource.RLIMIT_CORE),
    lambda: os.listdir("/"),

    lambda: os.kill(parent, 0),
    lambda: os.kill(0, 0),
    lambda: signal.pidfd_send_signal(file, 0),
    lambda: os.fork(),
    lambda: subprocess.run(["/bin/true"]),
    lambda: os.execv("/bin/true", ["true"]),
    lambda: socket.socket(),
    lambda: socket.socket(socket.AF_UNIX),
    lambda: socket.socketpair(),
    lambda: mmap.mmap(-1, 4096, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS),
    lambda: mmap.mmap(-1, 4096, flags=private | 0x100),
    lambda: os.memfd_create("x"),
    lambda: fcntl.fcntl(file, fcntl.F_SETOWN, parent),
    lambda: fcntl.fcntl(file, fcntl.F_SETSIG, 9),
    lambda: resource.prlimit(parent, resource.RLIMIT_CORE),
    lambda: os.chmod(path, 0o777),
    lambda: os.chown(path, -1, -1),
    lambda: os.utime(path),
    lambda: os.truncate(path, 0),
    lambda: os.setpriority(os.PRIO_PROCESS, parent, 19),
    lambda: os.sched_setaffinity(parent, [0]),
    lambda: os.setsid(),
    lambda: confinement._prctl(1, 0),
    lambda: call(425, 1, None),  # io_uring_setup
    lambda: call(101 if os.uname().machine == "x86_64" else 117, 16, parent, 0, 0),  # ptrace
    lambda: call(435, None, 0),  # clone3
    lambda: call(9999),
    lambda: call(0x40000000 + 39),  # x86's third set of numbers
]
"""
    found = tried(code)
    assert found[:7] == ["done"] * 7
    assert set(found[7:]) <= {"PermissionError", "OSError"}
    assert found[-3:] == ["OSError"] * 3
    assert len(found) == 35
    assert (tmp_path / "file").read_text() == "x"


def test_the_lists_of_calls_agree() -> None:
    """Names are the same on every processor, numbers are not; none is allowed twice."""
    x86, arm = seccomp._CALLS["x86_64"], seccomp._CALLS["aarch64"]
    assert set(arm) < set(x86)
    for calls in (x86, arm):
        assert len(set(calls.values())) == len(calls)
        assert max(calls.values()) < seccomp._NEWER
        assert set(seccomp._rules(own=1)) < set(calls)
    dangerous = {"socket", "execve", "fork", "ptrace", "bpf", "keyctl", "mount", "chmod", "shmget"}
    assert not dangerous & set(x86)

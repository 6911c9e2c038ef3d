"""How a worker process is kept from everything but its records: three ways, the best that works.

| | files | network and other processes | needs |
|---|---|---|---|
| `bubblewrap` | sees the interpreter, and a small `/tmp` | sees none | `bwrap` |
| `landlock` | reads the interpreter, writes nothing | is refused them | Linux 6.2 |
| `limits` | all that its user has | all | Unix |

The first two also filter system calls: no sockets, no new processes or programs. All of them bound
memory and threads, clean the environment, and die with the process that started them.
"""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from cohortium.errors import RunFailedError
from cohortium.worker.confinement import Confinement
from cohortium.worker.limits import Limits
from cohortium.worker.process import Process, WorkerError

Strength = Literal["any", "strong"]

SYSTEM = (
    "/usr",
    "/bin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/gnu/store",
    "/nix/store",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
)
"""What an interpreter reads of a Unix system, as far as it is there. Nothing of a person's."""

DEVICES = ("/dev/null", "/dev/random", "/dev/urandom")
COMPUTING = ("OMP_", "MKL_", "OPENBLAS_", "KMP_", "GOMP_", "DNNL_", "ONEDNN_", "ATEN_", "NPY_")
"""Beginnings of the environment variables that a worker keeps: on them results may depend."""


class IsolationError(RunFailedError):
    """No isolation of the demanded strength works on this machine."""


class Isolation(Hashable, Protocol):
    """A way of starting worker processes.

    Attributes:
        name: for people.
        is_strong: whether study code that wants to do harm is kept from it.
    """

    name: ClassVar[str]
    is_strong: ClassVar[bool]

    def command(self, limits: Limits) -> list[str]:
        """Return the command line of a worker process."""


@dataclass(frozen=True)
class Bubblewrap:
    """Linux namespaces, set up by bubblewrap (`bwrap`, 0.7 or later), and a filter of calls."""

    name: ClassVar[str] = "bubblewrap"
    is_strong: ClassVar[bool] = True

    def command(self, limits: Limits) -> list[str]:
        devices = (*DEVICES, *_graphics()) if limits.gpu else DEVICES
        views = [
            *(word for path in _readable() for word in ("--ro-bind-try", path, path)),
            *(word for path in devices for word in ("--dev-bind-try", path, path)),
        ]
        confinement = Confinement(
            limits.memory_bytes, limits.tmp_bytes, limits.tasks, limits.nice, filters=True
        )
        return [
            shutil.which("bwrap") or "bwrap",
            "--unshare-all", "--unshare-user", "--die-with-parent", "--cap-drop", "ALL",
            "--proc", "/proc", "--size", str(limits.tmp_bytes), "--tmpfs", "/tmp",  # noqa: S108
            *views, "--chdir", "/", "--hostname", "worker", "--", *_interpreter(confinement),
        ]  # fmt: skip


@dataclass(frozen=True)
class Landlock:
    """Landlock and a filter of calls, which a process sets up for itself. No temporary files."""

    name: ClassVar[str] = "landlock"
    is_strong: ClassVar[bool] = True

    def command(self, limits: Limits) -> list[str]:
        own = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/sys/vm/overcommit_memory")
        confinement = Confinement(
            limits.memory_bytes,
            0,
            limits.tasks + _running(),
            limits.nice,
            readable=(*_readable(), *own),
            writable=(*DEVICES, *_graphics()) if limits.gpu else DEVICES,
            filters=True,
        )
        return _interpreter(confinement)


@dataclass(frozen=True)
class ResourceLimits:
    """Bounds on memory, threads and files only: against mistakes, not against who means harm."""

    name: ClassVar[str] = "limits"
    is_strong: ClassVar[bool] = False

    def command(self, limits: Limits) -> list[str]:
        confinement = Confinement(
            limits.memory_bytes, limits.tmp_bytes, limits.tasks + _running(), limits.nice
        )
        return _interpreter(confinement)


ISOLATIONS: tuple[Isolation, ...] = (Bubblewrap(), Landlock(), ResourceLimits())
"""In order of preference."""


@cache
def hindrance(isolation: Isolation) -> str:
    """Return why worker processes cannot be started in this way, found by starting one; or ""."""
    try:
        Process(isolation.command(Limits()), environment_for(Limits()), seconds=60).close()
    except WorkerError as error:
        return error.cause
    return ""


def available() -> tuple[Isolation, ...]:
    """Return the isolations that work here, the best one first."""
    return tuple(isolation for isolation in ISOLATIONS if not hindrance(isolation))


def choose(required: Strength = "any") -> Isolation:
    """Return the best isolation that works here.

    Raises:
        IsolationError: none of the required strength does.
    """
    for isolation in ISOLATIONS:
        if (isolation.is_strong or required == "any") and not hindrance(isolation):
            return isolation
    found = "; ".join(f"{isolation.name}: {hindrance(isolation)}" for isolation in ISOLATIONS)
    raise IsolationError(
        f"study code cannot be isolated on this machine ({found})",
        "Install bubblewrap (Debian and Ubuntu: apt install bubblewrap; Fedora and Red Hat: dnf "
        "install bubblewrap) and let it use user namespaces, or run Linux 6.2 or later with "
        "Landlock switched on",
    )


def environment_for(limits: Limits) -> dict[str, str]:
    """Return the environment variables of a worker process: nothing that could be a secret."""
    beginnings = (*COMPUTING, "CUDA_", "NVIDIA_") if limits.gpu else COMPUTING
    kept = {name: value for name, value in os.environ.items() if name.startswith(beginnings)}
    fixed = {
        "HOME": "/nonexistent",
        "LANG": "C.UTF-8",
        "LOGNAME": "worker",
        "PATH": "/usr/bin:/bin",
        "PYTHONHASHSEED": "0",  # so that a restart changes nothing
    }
    if site.ENABLE_USER_SITE and site.USER_BASE:
        fixed["PYTHONUSERBASE"] = site.USER_BASE
    if str(_PACKAGE) not in _paths():
        fixed["PYTHONPATH"] = str(_PACKAGE)
    if limits.cpu_threads is not None:
        fixed["OMP_NUM_THREADS"] = str(limits.cpu_threads)
    if not limits.gpu:
        fixed["CUDA_VISIBLE_DEVICES"] = ""
    return kept | fixed


_PACKAGE = Path(__file__).resolve().parents[2]


def _interpreter(confinement: Confinement) -> list[str]:
    """Return the command line of a worker process without what is around it.

    -P: the working folder is none of the places from which modules are imported.
    """
    return [sys.executable, "-B", "-P", "-u", "-m", "cohortium.worker", confinement.to_json()]


@cache
def _readable() -> tuple[str, ...]:
    """Return the paths that the interpreter and its packages lie in; none holds a home folder."""
    prefixes = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parents[1])}
    found = {*prefixes, *_paths(), str(_PACKAGE)}
    return tuple(sorted({*SYSTEM, *(path for path in found if not home().is_relative_to(path))}))


def home() -> Path:
    """Return the user's home folder; a user of a container may have none, and `~` is no folder."""
    return Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home raises there


@cache
def _paths() -> tuple[str, ...]:
    """Return the folders from which a clean interpreter imports."""
    command = [sys.executable, "-P", "-c", "import json, sys; print(json.dumps(sys.path))"]
    unset = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")
    clean = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=True)
    return tuple(path for path in json.loads(done.stdout) if path)


def _graphics() -> list[str]:
    return [str(path) for path in sorted(Path("/dev").glob("nvidia*"))]


def _running() -> int:
    """Return how many threads this user has: the kernel's bound counts all of them."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == os.getuid():
                found += len(os.listdir(process / "task"))  # noqa: PTH208 - only their number
        except OSError:  # it has ended
            continue
    return found

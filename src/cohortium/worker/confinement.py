"""What a worker process does to itself before anything else: dies with its parent, gives rights up.

It must happen while the process has one thread and has read nothing, so this module imports the
standard library only.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from cohortium.worker import landlock, seccomp

_SET_DEATH_SIGNAL, _NO_NEW_PRIVILEGES = 1, 38  # prctl(2)


@dataclass(frozen=True)
class Confinement:
    """What a worker process locks itself into.

    Attributes:
        memory_bytes: of private memory; None is no limit.
        file_bytes: largest file that it may write.
        tasks: threads and processes that its user may have; not enforced for root.
        nice: added to its niceness.
        readable: paths that it may read; None leaves files to the isolation around it.
        writable: files that it may write.
        filters: whether it gives up system calls.
    """

    memory_bytes: int | None
    file_bytes: int
    tasks: int
    nice: int
    readable: tuple[str, ...] | None = None
    writable: tuple[str, ...] = ()
    filters: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Confinement:
        return cls(**json.loads(text))

    def apply(self) -> None:
        """Lock this process in, for ever.

        Raises:
            OSError: the system refuses a part of it; nothing may run then.
        """
        if sys.platform == "linux":
            _prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
            # where memory ends, the kernel takes a worker and not who started it
            Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
        os.nice(self.nice)
        self._limit()
        if self.readable is None and not self.filters:
            return
        _prctl(_NO_NEW_PRIVILEGES, 1)
        _drop_capabilities()
        if self.readable is not None:
            landlock.restrict(readable=self.readable, writable=self.writable)
        if self.filters:
            seccomp.restrict()

    def _limit(self) -> None:
        _set_limit(resource.RLIMIT_CORE, 0)
        _set_limit(resource.RLIMIT_FSIZE, self.file_bytes)
        _set_limit(resource.RLIMIT_NOFILE, 256)
        _set_limit(resource.RLIMIT_NPROC, self.tasks)
        if self.memory_bytes is not None:  # of addresses, it would count what is only reserved
            _set_limit(resource.RLIMIT_DATA, self.memory_bytes)


def _set_limit(kind: int, value: int) -> None:
    _, most = resource.getrlimit(kind)
    value = value if most == resource.RLIM_INFINITY else min(value, most)
    resource.setrlimit(kind, (value, value))


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _drop_capabilities() -> None:
    """Give up what root may: a worker started by root is a user like any other. capset(2)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    none = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(header, none):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))

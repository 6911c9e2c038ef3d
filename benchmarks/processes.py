"""A command and everything it starts, seen from outside: CPU seconds and memory of the whole tree.

CPU seconds are the user and system time of every process of the tree. Systems such as Ray ignore
SIGCHLD, which makes the kernel forget the CPU time of their children, so `getrusage` alone would
miss most of it: on Linux the tree is read from /proc, with this process as the subreaper of
orphans; elsewhere only `getrusage` is available and the JSON says so (`cpu_from`).

Memory is the sum of proportional set sizes, so that pages shared by processes count once.
"""

from __future__ import annotations

import bisect
import ctypes
import fcntl
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CPU_INTERVAL, MEMORY_INTERVAL = 0.05, 0.25
SPARING = 10
"""A look is followed by this many times its length, so that many processes are seen less often."""
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
MB = 1e6
ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Watched:
    """What was seen of a process tree from outside."""

    started: float
    ended: float = 0.0
    rusage_s: float = 0.0
    peak_mb: float = 0.0
    processes: int = 0
    cpu: list[tuple[float, float]] = field(default_factory=list)
    memory: dict[tuple[int, str], list[tuple[float, float, float]]] = field(default_factory=dict)
    """(process id, command line) to (moment, resident MB, highest resident MB so far)."""
    starts: list[float] = field(default_factory=list)
    """When every process was first seen."""
    programs: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    """Process id of what the command started itself to (moment, CPU seconds of that and of all
    that it started in turn)."""
    program_of: dict[int, int] = field(default_factory=dict)
    """Process id to that of the program it belongs to."""
    bytes: list[tuple[float, float]] = field(default_factory=list)
    """(moment, bytes that went over loopback), where the command had a network of its own."""

    @property
    def cpu_s(self) -> float:
        return max(self.rusage_s, self.cpu[-1][1] if self.cpu else 0.0)

    def cpu_at(self, moment: float) -> float:
        """Return the CPU seconds spent up to a moment, interpolated between samples."""
        seen = self.cpu or [(self.ended, self.cpu_s)]
        return interpolated([(self.started, 0.0), *seen], moment)

    def started_between(self, begin: float, end: float) -> int:
        """Return how many processes were first seen after one moment and up to another."""
        return sum(begin < moment <= end for moment in self.starts)

    def program_cpu_s(self, program: int, begin: float, end: float) -> float:
        """Return the CPU seconds of a program, with all it started, between two moments."""
        samples = self.programs[program]
        return interpolated(samples, end) - interpolated(samples, begin)

    def program_peak_mb(self, program: int) -> list[float]:
        """Return the highest resident MB of a program's own process, then of what it started."""
        peaks = [
            (pid != program, -samples[-1][2])
            for (pid, _), samples in self.memory.items()
            if self.program_of.get(pid) == program
        ]
        return [-peak for _, peak in sorted(peaks)]

    def growth_mb(self, since: float, command: str) -> float:
        """Return how much a process whose command line has these words grew since a moment."""
        grown = [0.0]
        for (_, words), samples in self.memory.items():
            if command in words:
                base = next((s for s in reversed(samples) if s[0] <= since), samples[0])
                grown.append(samples[-1][2] - base[1])
        return max(grown)

    def bytes_at(self, moment: float) -> float:
        """Return how many bytes went over loopback up to a moment; 0 where nobody could count."""
        return interpolated(self.bytes or [(moment, 0.0)], moment)


def interpolated(samples: Sequence[tuple[float, float]], moment: float) -> float:
    """Return the value at a moment of what was sampled at others, in order of time."""
    place = bisect.bisect(samples, (moment, float("inf")))
    before, after = samples[max(place - 1, 0)], samples[min(place, len(samples) - 1)]
    share = (moment - before[0]) / max(after[0] - before[0], 1e-9)
    return before[1] + min(max(share, 0.0), 1.0) * (after[1] - before[1])


def watch(
    command: list[str], *, output: Any, own_network: bool = False, timeout: float = 900
) -> tuple[int, Watched]:
    """Run a command and sample its process tree until nothing of it is left.

    Args:
        command: and its arguments.
        output: a file for what it says.
        own_network: give it a network with nothing but a loopback device, so that bytes can be
            counted; needs root on Linux, elsewhere it gets the network that there is.
        timeout: seconds.

    Raises:
        TimeoutError: it ran longer than `timeout` seconds; it and all it started were killed.
    """
    _adopt_orphans()
    before = _children_rusage()
    tree = _Tree(os.getpid(), Watched(time.monotonic()))
    child = subprocess.Popen(
        command,
        stdout=output,
        stderr=output,
        cwd=ROOT,
        env=quiet(),
        preexec_fn=_leave_network if own_network and sys.platform == "linux" else None,
    )
    tree.command = child.pid
    try:
        while child.poll() is None:
            looked = time.monotonic()
            tree.sample()
            if looked - tree.seen.started > timeout:
                raise TimeoutError(f"{command} ran longer than {timeout} s")
            time.sleep(max(CPU_INTERVAL, SPARING * (time.monotonic() - looked)))
    except BaseException:
        tree.clear(patience=0)
        raise
    tree.seen.ended = time.monotonic()
    tree.clear(patience=10)
    tree.seen.rusage_s = _children_rusage() - before
    return child.returncode, tree.seen


class _Tree:
    """The processes below one process, and the CPU time that each was last seen with."""

    def __init__(self, root: int, seen: Watched) -> None:
        self.root, self.seen, self.command = root, seen, 0
        self._ticks: dict[tuple[int, int], int] = {}
        self._memory_due = 0.0

    def sample(self) -> list[int]:
        """Record CPU time, now and then memory; return the process ids that are alive."""
        if not Path("/proc/self/stat").exists():
            return []
        now = time.monotonic()
        members = self._members()
        self.seen.starts += [now] * len(members.keys() - self._ticks.keys())
        self._ticks |= members
        self.seen.cpu.append((now, sum(self._ticks.values()) / TICKS))
        self.seen.processes = len(self._ticks)
        self._sample_programs(now)
        self._sample_bytes(now)
        if now >= self._memory_due:
            self._memory_due = now + MEMORY_INTERVAL
            self._sample_memory(now, [pid for pid, _ in members])
        return [pid for pid, _ in members]

    def clear(self, patience: float) -> None:
        """Wait for what is left of the tree, kill it when patience is over, and reap it."""
        until = time.monotonic() + patience
        while alive := self.sample():
            if time.monotonic() > until:
                for pid in alive:
                    _kill(pid)
            _reap()
            time.sleep(CPU_INTERVAL)

    def _members(self) -> dict[tuple[int, int], int]:
        """Return (process id, start time) to user plus system ticks, of all descendants."""
        parents, ticks = {}, {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (fields := _stat(int(entry.name))):
                pid = int(entry.name)
                parents[pid] = int(fields[1])
                ticks[pid] = (int(fields[19]), int(fields[11]) + int(fields[12]), fields[0])
        members, generation = {}, {self.root}
        while generation:
            generation = {pid for pid, parent in parents.items() if parent in generation}
            for pid in generation:
                start, used, state = ticks[pid]
                self._assign(pid, parents[pid])
                if state == "Z":
                    self._ticks[pid, start] = max(used, self._ticks.get((pid, start), 0))
                    continue
                members[pid, start] = used
        return members

    def _assign(self, pid: int, parent: int) -> None:
        """Note which program a process belongs to; it stays so when it becomes an orphan."""
        own = parent in (self.root, self.command)
        self.seen.program_of.setdefault(pid, pid if own else self.seen.program_of[parent])

    def _sample_programs(self, now: float) -> None:
        ticks: dict[int, int] = {}
        for (pid, _), used in self._ticks.items():
            program = self.seen.program_of[pid]
            ticks[program] = ticks.get(program, 0) + used
        for program, used in ticks.items():
            self.seen.programs.setdefault(program, []).append((now, used / TICKS))

    def _sample_bytes(self, now: float) -> None:
        if (counted := _loopback_bytes(self.command)) is not None:
            self.seen.bytes.append((now, counted))

    def _sample_memory(self, now: float, pids: list[int]) -> None:
        total = 0.0
        for pid in pids:
            total += _field(pid, "smaps_rollup", "Pss:")
            resident, highest = _field(pid, "status", "VmRSS:"), _field(pid, "status", "VmHWM:")
            if resident:
                key = (pid, _read(pid, "cmdline").replace("\0", " "))
                self.seen.memory.setdefault(key, []).append((now, resident, highest))
        self.seen.peak_mb = max(self.seen.peak_mb, total)


def quiet() -> dict[str, str]:
    """Return an environment with one thread per process and nobody calling home."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).strip(":"),
    }


def _adopt_orphans() -> None:
    """Become the subreaper (prctl 36): orphans of the tree stay below this process."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0)


def _leave_network() -> None:
    """Move this process to a network of its own (CLONE_NEWNET), its loopback device up.

    Without the right to do so it stays where it is.
    """
    if ctypes.CDLL(None).unshare(0x40000000) == 0:
        with socket.socket() as device:  # SIOCSIFFLAGS, IFF_UP
            fcntl.ioctl(device, 0x8914, struct.pack("16sh14x", b"lo", 1))


def _loopback_bytes(pid: int) -> float | None:
    """Return what a process's loopback device has carried; None if it is this process's, too."""
    try:
        if Path(f"/proc/{pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
            return None
    except OSError:
        return None
    lines = (line.split() for line in _read(pid, "net/dev").splitlines())
    return next((float(words[1]) for words in lines if words[0] == "lo:"), None)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _children_rusage() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the command's name: state, parent, ..."""
    return _read(pid, "stat").rpartition(")")[2].split()


def _field(pid: int, file: str, name: str) -> float:
    """Return a kB field of a /proc file in MB; 0 where the process is gone."""
    lines = (line for line in _read(pid, file).splitlines() if line.startswith(name))
    return next((int(line.split()[1]) * 1024 / MB for line in lines), 0.0)


def _read(pid: int, file: str) -> str:
    try:
        return Path("/proc", str(pid), file).read_text()
    except OSError:
        return ""

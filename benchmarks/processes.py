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
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CPU_INTERVAL, MEMORY_INTERVAL = 0.05, 0.25
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

    @property
    def cpu_s(self) -> float:
        return max(self.rusage_s, self.cpu[-1][1] if self.cpu else 0.0)

    def cpu_at(self, moment: float) -> float:
        """Return the CPU seconds spent up to a moment, interpolated between samples."""
        place = bisect.bisect(self.cpu, (moment, float("inf")))
        before = self.cpu[place - 1] if place else (self.started, 0.0)
        after = self.cpu[place] if place < len(self.cpu) else (self.ended, self.cpu_s)
        share = (moment - before[0]) / max(after[0] - before[0], 1e-9)
        return before[1] + min(max(share, 0.0), 1.0) * (after[1] - before[1])

    def growth_mb(self, since: float, command: str) -> float:
        """Return how much a process whose command line has these words grew since a moment."""
        grown = [0.0]
        for (_, words), samples in self.memory.items():
            if command in words:
                base = next((s for s in reversed(samples) if s[0] <= since), samples[0])
                grown.append(samples[-1][2] - base[1])
        return max(grown)


def watch(command: list[str], *, output: Any, timeout: float = 900) -> tuple[int, Watched]:
    """Run a command and sample its process tree until nothing of it is left.

    Raises:
        TimeoutError: it ran longer than `timeout` seconds; it and all it started were killed.
    """
    _adopt_orphans()
    before = _children_rusage()
    tree = _Tree(os.getpid(), Watched(time.monotonic()))
    child = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT, env=quiet())
    try:
        while child.poll() is None:
            tree.sample()
            if time.monotonic() - tree.seen.started > timeout:
                raise TimeoutError(f"{command} ran longer than {timeout} s")
            time.sleep(CPU_INTERVAL)
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
        self.root, self.seen = root, seen
        self._ticks: dict[tuple[int, int], int] = {}
        self._memory_due = 0.0

    def sample(self) -> list[int]:
        """Record CPU time, now and then memory; return the process ids that are alive."""
        if not Path("/proc/self/stat").exists():
            return []
        now = time.monotonic()
        members = self._members()
        self._ticks |= members
        self.seen.cpu.append((now, sum(self._ticks.values()) / TICKS))
        self.seen.processes = len(self._ticks)
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
                if state == "Z":
                    self._ticks[pid, start] = max(used, self._ticks.get((pid, start), 0))
                    continue
                members[pid, start] = used
        return members

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

"""What a run costs: wall and CPU seconds of a command and everything it started, and its memory.

A benchmark's `main` starts itself again as a child, so that interpreter start, imports, worker
processes and tear-down are all counted, and samples that child's process tree from outside. The
child reports the moments at which rounds ended; figures per round are interpolated at those.

CPU seconds are the user and system time of every process of the tree. Systems such as Ray ignore
SIGCHLD, which makes the kernel forget the CPU time of their children, so `getrusage` alone would
miss most of it: on Linux the tree is read from /proc, with this process as the subreaper of
orphans; elsewhere only `getrusage` is available and the JSON says so (`cpu_from`).

Memory is the sum of proportional set sizes, so that pages shared by processes count once.
"""

from __future__ import annotations

import argparse
import bisect
import ctypes
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workloads import Arrays, SmallSites

PEERS_PYTHON = "COHORTIUM_PEERS_PYTHON"
CPU_INTERVAL, MEMORY_INTERVAL = 0.05, 0.25
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
MB = 1e6


@dataclass(frozen=True)
class Size:
    """How much of a workload to run."""

    sites: int
    rounds: int
    rows: int = SmallSites.rows
    ragged: bool = False

    def w2(self) -> SmallSites:
        """Return W2 at this size."""
        return SmallSites(sites=self.sites, rounds=self.rounds, rows=self.rows, ragged=self.ragged)


@dataclass(frozen=True)
class Outcome:
    """What the measured child reports of itself.

    Attributes:
        version: of the system that was run.
        marks: `time.monotonic()` after imports and before anything is built, then at the end of
            every round.
        final: the model of the last round.
        settings: how the system was set up; copied into the JSON.
        aggregator: words of the command line of the process that aggregates; its own if empty.
        unloaded: when that process had its libraries but no model yet; the first mark if None.
    """

    version: str
    marks: list[float]
    final: Arrays
    settings: Mapping[str, Any] = field(default_factory=dict)
    aggregator: str = ""
    unloaded: float | None = None

    def save(self, folder: Path) -> None:
        """Write it for the measuring process, which verifies the model off the clock."""
        np.savez(folder / "final.npz", **self.final)  # type: ignore[arg-type]
        rest = {name: value for name, value in vars(self).items() if name != "final"}
        (folder / "outcome.json").write_text(json.dumps(rest))

    @classmethod
    def read(cls, folder: Path) -> Outcome:
        """Read what `save` wrote."""
        with np.load(folder / "final.npz") as final:
            return cls(**json.loads((folder / "outcome.json").read_text()), final=dict(final))


Verify = Callable[[Size, Arrays], Mapping[str, Any]]
"""(size, final model) to what shows that it really trained; raises SystemExit where it did not."""


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


def main(
    workload: str,
    system: str,
    run: Callable[[Size], Outcome],
    verify: Verify,
    *,
    sites: int,
    rounds: int,
    note: str | None = None,
) -> None:
    """Be a benchmark: measure `run` in a child process, verify it, and print one JSON line."""
    arguments = _arguments(workload, sites, rounds)
    size = Size(arguments.sites, arguments.rounds, arguments.rows, arguments.ragged)
    if arguments.inner:
        run(size).save(arguments.inner)
        return
    outcome, watched = _measure(size, verbose=arguments.verbose)
    line = summary(workload, system, size, outcome, watched)
    line |= {"final": verify(size, outcome.final)} | ({"note": note} if note else {})
    print(json.dumps(line | {"machine": machine()}))


def peer(module: str, *arguments: str) -> dict[str, Any]:
    """Run a peer's benchmark with the python that has it, and return what it printed.

    Returns:
        `{"peer": None, "why": ...}` where there is no such python or the peer failed.
    """
    python = os.environ.get(PEERS_PYTHON)
    if not python:
        return {"peer": None, "why": f"{PEERS_PYTHON} is not set: see benchmarks/README.md"}
    command = [python, "-m", f"benchmarks.peers.{module}", *arguments]
    ran = subprocess.run(
        command, capture_output=True, text=True, cwd=_root(), env=_quiet(), check=False
    )
    if ran.returncode:
        return {"peer": None, "why": f"{module} failed: {ran.stderr.strip()[-500:]}"}
    return {"peer": module, **json.loads(ran.stdout.splitlines()[-1])}


def summary(
    workload: str,
    system: str,
    size: Size,
    outcome: Outcome,
    watched: Watched,
) -> dict[str, Any]:
    """Return the figures of a run.

    `wall_s` and `cpu_s` are of the whole command with start-up and tear-down. `first_round_s` is
    from after the imports to the end of round 1. Figures per round, and `client_rounds_per_*`, are
    steady: over the rounds after the first (over the only one, where there is one).
    `aggregator_models` is how much the process that aggregates grew, in models.
    """
    begin, *ends = outcome.marks
    first = ends[0] if len(ends) > 1 else begin
    steady = max(len(ends) - 1, 1)
    wall = (ends[-1] - first) / steady
    cpu = (watched.cpu_at(ends[-1]) - watched.cpu_at(first)) / steady
    line: dict[str, Any] = {
        "workload": workload,
        "system": system,
        "version": outcome.version,
        "rounds": size.rounds,
        "sites": size.sites,
        "size": asdict(size) if workload == "W2" else {"sites": size.sites, "rounds": size.rounds},
        "wall_s": round(watched.ended - watched.started, 3),
        "cpu_s": round(watched.cpu_s, 3),
        "first_round_s": round(ends[0] - begin, 3),
        "wall_per_round_s": round(wall, 4),
        "cpu_per_round_s": round(cpu, 4),
        "client_rounds_per_cpu_s": round(size.sites / max(cpu, 1e-9), 2),
        "client_rounds_per_wall_s": round(size.sites / max(wall, 1e-9), 2),
        "client_rounds_per_cpu_s_total": round(
            size.sites * size.rounds / max(watched.cpu_s, 1e-9), 2
        ),
        "peak_rss_mb": round(watched.peak_mb, 1),
        "processes": watched.processes,
        "cpu_from": "proc" if watched.cpu else "getrusage",
    }
    if workload == "W3":
        model_mb = sum(value.nbytes for value in outcome.final.values()) / MB
        grown_mb = watched.growth_mb(outcome.unloaded or begin, outcome.aggregator or "--inner")
        line["aggregator_models"] = round(grown_mb / model_mb, 2)
    return line | {"settings": dict(outcome.settings)}


def machine() -> dict[str, Any]:
    """Describe where this ran."""
    linux = hasattr(os, "sched_getaffinity")
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if linux else os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "system": platform.system(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def watch(command: list[str], *, output: Any, timeout: float = 900) -> tuple[int, Watched]:
    """Run a command and sample its process tree until nothing of it is left.

    Raises:
        TimeoutError: it ran longer than `timeout` seconds; it and all it started were killed.
    """
    _adopt_orphans()
    before = _children_rusage()
    tree = _Tree(os.getpid(), Watched(time.monotonic()))
    child = subprocess.Popen(command, stdout=output, stderr=output, cwd=_root(), env=_quiet())
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


def _measure(size: Size, *, verbose: bool) -> tuple[Outcome, Watched]:
    """Run this benchmark's own `--inner` and watch it."""
    module = sys.modules["__main__"].__spec__.name  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        log = Path(folder, "log.txt")
        command = [sys.executable, "-m", module, "--inner", folder]
        command += [f"--sites={size.sites}", f"--rounds={size.rounds}", f"--rows={size.rows}"]
        command += ["--ragged"] if size.ragged else []
        with log.open("wb") as output:
            code, watched = watch(command, output=sys.stderr if verbose else output)
        if code:
            sys.stderr.write(log.read_text(errors="replace")[-4000:])
            raise SystemExit(f"{module} failed with exit code {code}")
        return Outcome.read(Path(folder)), watched


def _arguments(workload: str, sites: int, rounds: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=f"{workload}: prints one JSON line.")
    parser.add_argument("--sites", type=int, default=sites)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--rows", type=int, default=SmallSites.rows, help="W2: rows per site")
    parser.add_argument("--ragged", action="store_true", help="W2: lognormal numbers of rows")
    parser.add_argument("--verbose", action="store_true", help="show what the system logs")
    parser.add_argument("--inner", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _quiet() -> dict[str, str]:
    """Return an environment with one thread per process and nobody calling home."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "PYTHONPATH": os.pathsep.join([str(_root()), os.environ.get("PYTHONPATH", "")]).strip(":"),
    }


def _root() -> Path:
    return Path(__file__).resolve().parent.parent


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


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())

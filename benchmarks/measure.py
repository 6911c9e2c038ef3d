"""A benchmark's frame: run it in a child, verify what it trained, print one line of JSON.

`main` starts the benchmark again as a child, so that interpreter start, imports, worker processes
and tear-down are all counted, and watches that child's process tree from outside (`processes`). The
child reports the moments at which rounds ended; figures per round are differences between those.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.processes import MB, ROOT, Watched, quiet, watch
from benchmarks.workloads import Arrays, SmallSites

PEERS_PYTHON = "COHORTIUM_PEERS_PYTHON"


@dataclass(frozen=True)
class Size:
    """How much of a workload to run, and on which of our engines."""

    sites: int
    rounds: int
    rows: int = SmallSites.rows
    ragged: bool = False
    engine: str = "auto"

    def w2(self) -> SmallSites:
        """Return W2 at this size."""
        return SmallSites(sites=self.sites, rounds=self.rounds, rows=self.rows, ragged=self.ragged)

    def words(self) -> list[str]:
        """Return it as a command line's options."""
        words = [f"--sites={self.sites}", f"--rounds={self.rounds}", f"--rows={self.rows}"]
        return [*words, f"--engine={self.engine}", *(["--ragged"] if self.ragged else [])]


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
        cpu_marks: `time.process_time()` at the same moments, where one process does everything;
            then no sampling from outside blurs the figures per round.
        figures: further figures for the JSON.
        programs: role to the process ids of the long-lived programs of a federation that have it.
    """

    version: str
    marks: list[float]
    final: Arrays
    settings: Mapping[str, Any] = field(default_factory=dict)
    aggregator: str = ""
    unloaded: float | None = None
    cpu_marks: list[float] | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    programs: Mapping[str, Sequence[int]] = field(default_factory=dict)

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

Line = dict[str, Any]


def main(
    workload: str,
    system: str,
    run: Callable[[Size], Outcome],
    verify: Verify,
    *,
    sites: int,
    rounds: int,
    repeats: int = 1,
    beside: Sequence[str] = (),
    peers: Sequence[str] = (),
    note: str | None = None,
    own_network: bool = False,
) -> None:
    """Be a benchmark: measure `run` in a child process, verify it, and print one JSON line.

    Args:
        workload, system: names for the JSON.
        run: is the benchmark; runs in the child.
        verify: looks at the final model, off the clock.
        sites, rounds: the small size, from which options may depart.
        repeats: how many children; the figures are those of the median one by CPU per round.
        beside: modules that print a line of their own, run after this one at the same size.
        peers: modules of `benchmarks.peers`, run after those at the small size only.
        note: a remark for the JSON.
        own_network: run it where it has nothing but a loopback device, and count the bytes there.
    """
    arguments = _arguments(workload, sites, rounds, repeats)
    names = Size.__dataclass_fields__
    size = Size(**{name: value for name, value in vars(arguments).items() if name in names})
    if arguments.inner:
        run(size).save(arguments.inner)
        return
    line = _median_line(workload, system, size, verify, arguments, own_network=own_network)
    others = [] if arguments.alone else [alone(module, size) for module in beside]
    if size == Size(sites, rounds, engine=size.engine) and not arguments.alone:
        others += [peer(name) for name in peers]
    if others:
        line |= {
            "times_as_many_client_rounds_per_cpu_s": ratios(line, others),
            "times_as_fast": walls(line, others),
            "beside": others,
        }
    print(json.dumps(line | ({"note": note} if note else {}) | {"machine": machine()}))


def peer(module: str, *arguments: str) -> Line:
    """Run a peer's benchmark with the python that has it, and return what it printed.

    Returns:
        `{"peer": None, "why": ...}` where there is no such python or the peer failed.
    """
    python = os.environ.get(PEERS_PYTHON)
    if not python:
        return {"peer": None, "why": f"{PEERS_PYTHON} is not set: see benchmarks/README.md"}
    ran = _run(python, f"benchmarks.peers.{module}", *arguments)
    if ran.returncode:
        return {"peer": None, "why": f"{module} failed: {ran.stderr.strip()[-500:]}"}
    return {"peer": module, **json.loads(ran.stdout.splitlines()[-1])}


def alone(module: str, size: Size) -> Line:
    """Run one of our own benchmarks at a size, nothing beside it, and return what it printed.

    Raises:
        SystemExit: it failed.
    """
    ran = _run(sys.executable, module, *size.words(), "--alone")
    if ran.returncode:
        raise SystemExit(f"{module} failed: {ran.stderr.strip()[-2000:]}")
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def ratios(line: Line, others: Sequence[Line]) -> dict[str, dict[str, float]]:
    """Return, by system, how many times as many client-rounds a CPU second `line` gets done."""
    keys = {"steady": "client_rounds_per_cpu_s", "with start-up": "client_rounds_per_cpu_s_total"}
    return {
        other["system"]: {name: round(line[key] / other[key], 2) for name, key in keys.items()}
        for other in others
        if "system" in other
    }


def walls(line: Line, others: Sequence[Line]) -> dict[str, float]:
    """Return, by system, how many of our steady rounds pass on a wall in one of theirs."""
    ours = max(line["wall_per_round_s"], 1e-9)
    return {
        other["system"]: round(other["wall_per_round_s"] / ours, 2)
        for other in others
        if "system" in other
    }


def summary(
    workload: str,
    system: str,
    size: Size,
    outcome: Outcome,
    watched: Watched,
) -> Line:
    """Return the figures of a run.

    `wall_s` and `cpu_s` are of the whole command with start-up and tear-down. `first_round_s` is
    from after the imports to the end of round 1. Figures per round, and `client_rounds_per_*`, are
    steady: over the rounds after the first (over the only one, where there is one).
    `aggregator_models` is how much the process that aggregates grew, in models.
    """
    begin, *ends = outcome.marks
    wall = _steady(outcome.marks)
    cpu = _steady(outcome.cpu_marks or [watched.cpu_at(mark) for mark in outcome.marks])
    line: Line = {
        "workload": workload,
        "system": system,
        "version": outcome.version,
        "rounds": size.rounds,
        "sites": size.sites,
        "size": {key: asdict(size)[key] for key in _SIZE.get(workload, ("sites", "rounds"))},
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
    if workload == "W3" and "aggregator_models" not in outcome.figures:
        model_mb = sum(value.nbytes for value in outcome.final.values()) / MB
        grown_mb = watched.growth_mb(outcome.unloaded or begin, outcome.aggregator or "--inner")
        line["aggregator_models"] = round(grown_mb / model_mb, 2)
    if outcome.programs:
        line |= of_programs(outcome, watched)
    return line | dict(outcome.figures) | {"settings": dict(outcome.settings)}


def of_programs(outcome: Outcome, watched: Watched) -> Line:
    """Return what a federation of processes took per round, by role; the steady rounds' mean.

    CPU seconds and memory are of the mean program of a role, with the processes that it starts:
    memory is the highest resident MB of each, its own first. Bytes are those of all connections,
    with TLS and TCP; each counts once.
    """
    begin, *_, end = outcome.marks[1:] if len(outcome.marks) > 2 else outcome.marks
    rounds = max(len(outcome.marks) - 2, 1)
    roles = outcome.programs.items()
    carried = watched.bytes_at(end) - watched.bytes_at(begin)
    return {
        "cpu_per_round_s_of": {
            role: round(mean(watched.program_cpu_s(p, begin, end) for p in programs) / rounds, 4)
            for role, programs in roles
        },
        "peak_mb_of": {
            role: _means([watched.program_peak_mb(program) for program in programs])
            for role, programs in roles
        },
        "processes_started_per_round": watched.started_between(begin, end) / rounds,
        "bytes_per_round": round(carried / rounds) if watched.bytes else None,
    }


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean of each column, as many as the shortest row has."""
    return [round(mean(column), 1) for column in zip(*rows, strict=False)]


_SIZE = {"W2": ("sites", "rounds", "rows", "ragged")}
"""What describes a workload's size, where that is more than sites and rounds."""


def _steady(marks: Sequence[float]) -> float:
    """Return the mean difference of neighbours, without the first (but of an only) round."""
    rounds = marks[1:] if len(marks) > 2 else marks
    return (rounds[-1] - rounds[0]) / (len(rounds) - 1)


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


def _median_line(
    workload: str,
    system: str,
    size: Size,
    verify: Verify,
    arguments: argparse.Namespace,
    *,
    own_network: bool,
) -> Line:
    """Measure a run a few times; return the figures of the one with the median CPU per round."""
    lines = []
    for _ in range(arguments.repeats):
        outcome, watched = _measure(size, verbose=arguments.verbose, own_network=own_network)
        lines.append(summary(workload, system, size, outcome, watched))
    lines.sort(key=lambda line: float(line["cpu_per_round_s"]))
    line = lines[len(lines) // 2] | {"final": verify(size, outcome.final)}
    if len(lines) > 1:
        line["cpu_per_round_s_of_repeats"] = [line["cpu_per_round_s"] for line in lines]
    return line


def _measure(size: Size, *, verbose: bool, own_network: bool) -> tuple[Outcome, Watched]:
    """Run this benchmark's own `--inner` and watch it."""
    module = sys.modules["__main__"].__spec__.name  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        log = Path(folder, "log.txt")
        command = [sys.executable, "-m", module, "--inner", folder]
        command += size.words()
        with log.open("wb") as output:
            code, watched = watch(
                command, output=sys.stderr if verbose else output, own_network=own_network
            )
        if code:
            sys.stderr.write(log.read_text(errors="replace")[-4000:])
            raise SystemExit(f"{module} failed with exit code {code}")
        return Outcome.read(Path(folder)), watched


def _arguments(workload: str, sites: int, rounds: int, repeats: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=f"{workload}: prints one JSON line.")
    parser.add_argument("--sites", type=int, default=sites)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--rows", type=int, default=SmallSites.rows, help="W2: rows per site")
    parser.add_argument("--ragged", action="store_true", help="W2: lognormal numbers of rows")
    parser.add_argument("--engine", default="auto", help="of Cohortium")
    parser.add_argument("--repeats", type=int, default=repeats, help="children to measure")
    parser.add_argument("--alone", action="store_true", help="run nothing else beside it")
    parser.add_argument("--verbose", action="store_true", help="show what the system logs")
    parser.add_argument("--inner", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(python: str, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [python, "-m", module, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=quiet(), check=False
    )


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())

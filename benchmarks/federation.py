"""Cohortium as the benchmarks run it: `cohortium.simulate`, and somebody who looks at the clock."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import cohortium
from benchmarks.measure import Outcome
from benchmarks.processes import MB
from benchmarks.workloads import Arrays
from cohortium.runtime.engine import RoundLog

simulate = cohortium.simulate  # imports what it needs: marks begin after imports
Result = cohortium.Result


class Clock:
    """Looks at the clocks when it is made, and whenever a round has closed."""

    def __init__(self) -> None:
        self.marks, self.cpu_marks = [time.monotonic()], [time.process_time()]

    def run_started(self, title: str, rounds: int) -> None:
        pass

    def round_closed(self, log: RoundLog) -> None:  # noqa: ARG002
        self.marks.append(time.monotonic())
        self.cpu_marks.append(time.process_time())

    def step_run(self, round_: int, done: int, of: int) -> None:
        pass


def study(
    name: str, task: dict[str, Any], *, rounds: int, local: dict[str, int]
) -> dict[str, dict[str, Any]]:
    """Return the tables of a study that trains on whole arrays as they are, and measures nothing.

    Args:
        name: of the workload.
        task: the section, without what is said here.
        rounds: of training.
        local: a site's work in a round.
    """
    return {
        "study": {"name": name.lower(), "purpose": "Measure what a federation costs."},
        "task": {"evaluate": False, **task},
        "data": {"normalize": "none", "split": {"test": 0.0}},
        "plan": {"rounds": rounds, "local": local},
    }


def outcome(result: Result, clock: Clock, *, task: str, **figures: float) -> Outcome:
    """Return what the measuring process wants to know of a run."""
    settings = {
        "api": f"cohortium.simulate, own arrays, {task}",
        "engine": result.engine,
        "evaluation": "off",
    }
    return Outcome(
        cohortium.__version__,
        clock.marks,
        model(result),
        settings,
        cpu_marks=clock.cpu_marks,
        figures=figures,
    )


def model(result: Result) -> Arrays:
    """Return the final model by name; all models of the workloads are float32."""
    return {name: np.asarray(values, np.float32) for name, values in result.model.items()}


def resident_mb() -> float:
    """Return how much memory this process has now, or at its highest where only that is known."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / MB
    return highest_mb()


def highest_mb() -> float:
    """Return how much memory this process had at its highest."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB

"""W8: aggregation itself, through the contract that every rule has. 20 x 25M and 100 x 1M.

Beside it, in the same process, over the same updates: the least that a pass over memory can cost.
`read` reads each update once (a dot product with itself, by BLAS); `copy` reads each once and
writes it to one model; `add` adds each to one model as it arrives, unweighted, with numpy. Of the
median: `np.median` on a part of the coordinates.
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import numpy as np

import cohortium
from benchmarks import measure
from benchmarks.workloads import Floats
from cohortium.aggregation.rule import AGGREGATORS, Aggregator
from cohortium.types import ArraySpec, Layout, Params

CASES = ((20, 25_000_000), (100, 1_000_000))
SAMPLE = 100_000
"""Coordinates on which results are verified and `np.median` is timed."""


def case(updates: int, parameters: int, *, repeats: int) -> measure.Line:
    """Return the CPU seconds of mean and median, and of what they are compared with.

    Raises:
        SystemExit: an aggregate is wrong.
    """
    params = _updates(updates, parameters)
    rows = [np.asarray(update.buffers["float32"], np.float32) for update in params]
    sample: Floats = np.stack([row[:SAMPLE] for row in rows])
    passes = {name: _seconds(partial(work, rows), repeats) for name, work in PASSES.items()}
    mean = _rule("mean", params, sample, repeats)
    mean["times_a_pass"] = {name: round(mean["cpu_s"] / took, 2) for name, took in passes.items()}
    theirs = _seconds(partial(np.median, sample, axis=0), repeats) / sample.shape[1] * 1e9
    middle = _rule("median", params, sample, repeats)
    ours = middle["cpu_s"] / parameters * 1e9
    middle["ns_per_coordinate"] = {"ours": round(ours, 1), "np.median": round(theirs, 1)}
    middle["times_faster_than_numpy"] = round(theirs / ours, 2)
    return {
        "updates": updates,
        "parameters": parameters,
        "pass_cpu_s": {name: round(took, 4) for name, took in passes.items()},
        "mean": mean,
        "median": middle,
    }


def _updates(updates: int, parameters: int) -> list[Params]:
    layout = Layout((ArraySpec("layer", (parameters,), "float32"),))
    rng = np.random.default_rng(7)
    noise = rng.standard_normal(1_000_003, np.float32)
    shifts = rng.integers(0, len(noise), updates)
    return [
        Params(layout, {"float32": np.resize(np.roll(noise, shift), parameters)})
        for shift in shifts
    ]


def _rule(name: str, params: Sequence[Params], sample: Floats, repeats: int) -> measure.Line:
    rule: Aggregator = AGGREGATORS[name]()
    result = _fold(rule, params).buffers["float32"][:SAMPLE]
    weights = np.arange(1, len(params) + 1)
    expected = (
        np.average(sample, axis=0, weights=weights) if rule.additive else np.median(sample, 0)
    )
    if not np.allclose(result, expected, atol=1e-5):
        raise SystemExit(f"W8: the {name} is wrong")
    return {
        "cpu_s": round(_seconds(lambda: _fold(rule, params), repeats), 6),
        "memory_models": round(_peak(lambda: _fold(rule, params)) / params[0].nbytes, 2),
    }


def _fold(rule: Aggregator, params: Sequence[Params]) -> Params:
    fold = rule.begin(params[0])
    for index, update in enumerate(params):
        fold.add(index, update, float(index + 1))
    return fold.finish()[0]


def _seconds(work: Callable[[], object], repeats: int) -> float:
    found = []
    for _ in range(repeats):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return median(found)


def _peak(work: Callable[[], object]) -> int:
    """Return the most bytes that were allocated at one time beyond what there was before."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def _read(rows: Sequence[Floats]) -> None:
    for row in rows:
        np.dot(row, row)


def _copy(rows: Sequence[Floats]) -> None:
    model = np.empty_like(rows[0])
    for row in rows:
        np.copyto(model, row)


def _add(rows: Sequence[Floats]) -> None:
    model = np.zeros_like(rows[0])
    for row in rows:
        np.add(model, row, out=model)


PASSES: dict[str, Callable[[Sequence[Floats]], None]] = {"read": _read, "copy": _copy, "add": _add}


def main() -> None:
    """Print the line."""
    parser = argparse.ArgumentParser(description="W8: prints one JSON line.")
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    cases = [case(updates, parameters, repeats=repeats) for updates, parameters in CASES]
    line = {"workload": "W8", "system": "Cohortium", "version": cohortium.__version__}
    print(json.dumps(line | {"cases": cases, "machine": measure.machine()}))


if __name__ == "__main__":
    main()

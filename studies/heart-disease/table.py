"""The table of this study: each method's accuracy at every hospital, and on the pooled test.

    python studies/heart-disease/table.py [--data DIR] [--seeds 42-46] [--json FILE]

Every model is trained by the studies of this folder and measured by their own task; nothing here
trains or measures by itself. A hospital's test rows are on the hospital's own scale, those of the
pooled test on the scale of all training rows, as in the protocol (see README.md).
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from cohortium.cli.boundary import guarded
from cohortium.errors import ArgumentError, Problem
from cohortium.learning.models import join_members
from cohortium.records import SiteData
from cohortium.runtime.bench import Bench
from cohortium.runtime.environment import environment
from cohortium.runtime.simulation import compare, simulate
from cohortium.study.read import read
from cohortium.types import Params, SiteId, sum_statistics

HERE = Path(__file__).parent
FEDERATED = ("fedavg", "fedprox", "fedadam", "fedyogi", "fedadagrad")
SEQUENTIAL = ("iil", "ciil")
POOLED_TEST, MEAN = "pooled test", "mean of four"
ALONE, AT_HOME = " alone", "each alone, at home"

Row = Mapping[str, float]
"""Accuracy by test: a hospital's, or the pooled one."""

Table = dict[str, dict[int, Row]]
"""Method and seed to what was measured."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, and print it beside what FLamby published."""
    parser = argparse.ArgumentParser(description="Accuracy of every method, mean ± sd over seeds.")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the four files")
    parser.add_argument("--seeds", default="42-46", help="such as 42-46, or 42,44")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there, too")
    chosen = parser.parse_args(arguments)
    seeds = read_seeds(chosen.seeds)
    table = measure(seeds, chosen.data)
    print(f"Measured, seeds {chosen.seeds}: accuracy, mean ± sd over seeds\n\n{shown(table)}")
    theirs = published()
    if all(seed in rows for rows in theirs.values() for seed in seeds):
        theirs = {name: {seed: rows[seed] for seed in seeds} for name, rows in theirs.items()}
        print(f"\nPublished by FLamby, the same seeds\n\n{shown(theirs)}")
    if chosen.json:
        found = {"accuracy": table, "environment": environment()}
        chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def read_seeds(text: str) -> list[int]:
    """Return the seeds that "42-46" or "42,44" names."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            expected = "such as 42-46, or 42,44"
            raise ArgumentError(Problem("arguments", "seeds", repr(text), expected))
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


def measure(seeds: Sequence[int], data: Path | None) -> Table:
    """Return each method's accuracies, seed by seed."""
    table: Table = {}
    for seed in seeds:
        begun = time.perf_counter()
        for method, row in rows_of(seed, data):
            table.setdefault(method, {})[seed] = row
        print(f"seed {seed}: {time.perf_counter() - begun:.1f} s", file=sys.stderr)
    return table


def rows_of(seed: int, data: Path | None) -> Iterator[tuple[str, Row]]:
    """Yield every method with its accuracies, for one seed."""
    study = read(HERE / "fedavg.toml").override({"study.seed": seed})
    bench = Bench.of(study, data=data)
    pooled = compare(study, arms=("pooled",), data=data).model
    yield "pooled", row_of(bench, pooled, bench.pooled)
    yield "pooled, own scales", row_of(bench, pooled, bench.data)
    alone = compare(study, arms=("single",), data=data).models
    for site, model in alone.items():
        yield f"{site}{ALONE}", row_of(bench, model, bench.data)
    together = join_members(list(alone.values()))
    yield "ensemble", row_of(bench, together, bench.data, members=len(alone))
    for method in FEDERATED:
        model = simulate(HERE / f"{method}.toml", data=data, seed=seed).model
        yield method, row_of(bench, model, bench.data)
    for arm in SEQUENTIAL:
        yield arm, row_of(bench, compare(study, arms=(arm,), data=data).model, bench.data)


def row_of(
    bench: Bench, model: Params, data: Mapping[SiteId, SiteData], *, members: int | None = None
) -> Row:
    """Return a model's accuracy at each hospital on `data`, and on the pooled test.

    The pooled test's is that of the hospitals' summed statistics, all on the pooled scale.
    """
    task = bench.task(bench.study, members=members)

    def accuracy(source: Mapping[SiteId, SiteData], *sites: SiteId) -> float:
        parts = [task.evaluate(model, source[site].test) for site in sites]
        value = task.value("accuracy", sum_statistics(parts))
        assert value is not None  # every hospital has test rows
        return value

    row = {str(site): accuracy(data, site) for site in bench.sites}
    return {**row, POOLED_TEST: accuracy(bench.pooled, *bench.sites)}


def published() -> Table:
    """Return FLamby's own results; README.md says where they come from."""
    table: Table = {}
    with (HERE / "published.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            method, seed = line.pop("method"), int(line.pop("seed"))
            table.setdefault(method, {})[seed] = {test: float(v) for test, v in line.items()}
    return table


def with_home(table: Table) -> Table:
    """Return a table with what hospitals have without a federation: each its own model."""
    alone = [method for method in table if method.endswith(ALONE)]
    homes = {method: method.removesuffix(ALONE) for method in alone}
    seeds = table[alone[0]]
    row: dict[int, Row] = {
        seed: {homes[m]: table[m][seed][homes[m]] for m in alone} for seed in seeds
    }
    place = list(table).index(alone[-1]) + 1
    items = list(table.items())
    return dict([*items[:place], (AT_HOME, row), *items[place:]])


def shown(table: Table) -> str:
    """Return a table as aligned text, which is Markdown, too."""
    table = with_home(table)
    hospitals = [method.removesuffix(ALONE) for method in table if method.endswith(ALONE)]
    lines = [["method", *hospitals, MEAN, POOLED_TEST]]
    for method, by_seed in table.items():
        rows = list(by_seed.values())
        columns = [[row[test] for row in rows] for test in hospitals]
        columns.append([mean(row[test] for test in hospitals) for row in rows])
        columns.append([row[POOLED_TEST] for row in rows if POOLED_TEST in row])
        lines.append([method, *map(spread, columns)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        f"| {' | '.join(cell.ljust(w) for cell, w in zip(line, widths, strict=True))} |"
        for line in lines
    )


def spread(values: Sequence[float]) -> str:
    """Return mean and sample standard deviation, such as "0.754 ± 0.011"."""
    if not values:
        return "-"
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    sys.exit(guarded(main))

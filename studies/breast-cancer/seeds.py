"""The demo's claims over many seeds: those that it was made with, and others beside them.

    python studies/breast-cancer/seeds.py [--seeds 0-4,5-9]

The study is the demo's own (`cohortium demo`). A seed decides how each hospital's patients are
split into training and test, and how models train; the hospitals are always the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from cohortium.cli.boundary import guarded
from cohortium.errors import ArgumentError, Problem
from cohortium.runtime.result import Result
from cohortium.runtime.simulation import compare
from cohortium.study import example

ARMS = ("pooled", "federated", "single", "ensemble")
METRIC = "auroc"
HEAD = ("seed", "pooled", "federated", "of pooled", "elsewhere", "single elsewhere", "ensemble")


@dataclass(frozen=True)
class Row:
    """What one seed gave; AUROC over all hospitals' test patients unless it says elsewhere."""

    pooled: float
    federated: float
    share: float
    elsewhere: float
    single_elsewhere: float
    ensemble: float

    @classmethod
    def of(cls, result: Result) -> Row:
        """Return the figures of a comparison."""
        values = {arm: result.arms[arm].metrics[METRIC] for arm in ARMS}
        pooled, federated = defined(values["pooled"].overall), defined(values["federated"].overall)
        return cls(
            pooled=pooled,
            federated=federated,
            share=federated / pooled,
            elsewhere=defined(values["federated"].elsewhere),
            single_elsewhere=defined(values["single"].elsewhere),
            ensemble=defined(values["ensemble"].overall),
        )

    def shown(self, name: str) -> str:
        """Return the row as a line of the table."""
        figures = [f"{value:.4f}" for value in vars(self).values()]
        return line([name, *figures])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo's study with every seed, and print a table for each group of seeds."""
    parser = argparse.ArgumentParser(description="The demo's claims over many seeds.")
    parser.add_argument("--seeds", default="0-4,5-9", help="groups of seeds, such as 0-4,5-9")
    for group in parser.parse_args(arguments).seeds.split(","):
        print(f"\nseeds {group}\n{line(HEAD)}", flush=True)
        rows = []
        for seed in seeds_of(group):
            rows.append(Row.of(compare(example.demo(), arms=ARMS, seed=seed)))
            print(rows[-1].shown(str(seed)), flush=True)
        print(means(rows).shown("mean"))
        print(verdict(rows))


def seeds_of(group: str) -> range:
    """Return the seeds of a group such as "0-4" or "7".

    >>> list(seeds_of("3-5"))
    [3, 4, 5]
    """
    try:
        first, *last = (int(end) for end in group.split("-"))
        return range(first, [first, *last][-1] + 1)
    except ValueError as error:
        problem = Problem("arguments", "seeds", repr(group), "such as 0-4, or 7")
        raise ArgumentError(problem) from error


def means(rows: Sequence[Row]) -> Row:
    """Return the mean of every figure."""
    return Row(**{key: mean(vars(row)[key] for row in rows) for key in vars(rows[0])})


def verdict(rows: Sequence[Row]) -> str:
    """Say in how many of the seeds each claim holds, whatever that shows."""
    close = sum(row.share >= 0.99 for row in rows)
    general = sum(row.elsewhere > row.single_elsewhere for row in rows)
    return (
        f"federated reaches 99 % of pooled in {close} of {len(rows)}; generalises to the other "
        f"hospitals better than single-hospital models do on average in {general} of {len(rows)}"
    )


def defined(value: float | None) -> float:
    """Return a value that every seed has: the test patients of all hospitals have both classes."""
    assert value is not None
    return value


def line(cells: Sequence[str]) -> str:
    """Return cells as one line of a Markdown table."""
    return (
        f"| {' | '.join(cell.rjust(len(name)) for cell, name in zip(cells, HEAD, strict=True))} |"
    )


if __name__ == "__main__":
    sys.exit(guarded(main))

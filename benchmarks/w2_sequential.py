"""W2's sequential engine beside the plain loop, turn by turn in one process: an MLP, a small CNN.

Training one site after another is the reference for every kernel, and what a module gets that no
kernel fits: it must not be slower than the loop that anybody would write. A turn is a run of each;
ratios are of neighbours, which share what else the machine was doing.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from torch import nn

import cohortium
from benchmarks import federation, measure, plain, w2
from benchmarks.workloads import W2, Arrays, Floats, Ints, SmallSites, checksum, difference

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Case:
    """A module, the sites that train it, and the ratio to the plain loop that is wanted."""

    module: nn.Module
    data: Sequence[tuple[Floats, Ints]]
    target: float

    @property
    def workload(self) -> SmallSites:
        """W2 with as many sites."""
        return SmallSites(sites=len(self.data))


Run = tuple[float, Arrays]
"""Client-rounds per CPU second after the first round, and the final model."""


def mlp(sites: int) -> Case:
    """Return W2 itself."""
    workload = SmallSites(sites=sites)
    return Case(plain.mlp(workload), list(workload.data()), target=1.5)


def cnn(sites: int) -> Case:
    """Return a CNN with GroupNorm and 64 images of 28x28 per site."""
    torch.manual_seed(0)
    module = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(16 * 7 * 7, W2.classes)),
    )
    return Case(module, [_images(site) for site in range(sites)], target=0.95)


def beside(case: Case, *, rounds: int, turns: int) -> measure.Line:
    """Return how fast both are, and the median ratio of a turn.

    Raises:
        SystemExit: the final models differ by more than rounding.
    """
    pairs = [(_sequential(case, rounds), _plain(case, rounds)) for _ in range(turns)]
    away = difference(pairs[-1][0][1], pairs[-1][1][1])
    if not away <= TOLERANCE:
        raise SystemExit(f"the final model is {away} away from the plain loop's")
    return {
        "sites": len(case.data),
        "rounds": rounds,
        "parameters": sum(parameter.numel() for parameter in case.module.parameters()),
        "client_rounds_per_cpu_s": round(median(ours for (ours, _), _ in pairs), 1),
        "plain_client_rounds_per_cpu_s": round(median(theirs for _, (theirs, _) in pairs), 1),
        "ratio": round(median(ours / theirs for (ours, _), (theirs, _) in pairs), 3),
        "ratios_of_turns": [round(ours / theirs, 3) for (ours, _), (theirs, _) in pairs],
        "target": case.target,
        "final": {"checksum": checksum(pairs[-1][0][1]), "difference": away},
    }


def _sequential(case: Case, rounds: int) -> Run:
    clock = federation.Clock()
    result = federation.simulate(
        federation.study("W2", w2.TASK, rounds=rounds, local={"epochs": W2.epochs}),
        {w2.site_name(site): rows for site, rows in enumerate(case.data)},
        model=case.module,
        engine="sequential",
        observer=clock,
    )
    return _rate(case, clock.cpu_marks), federation.model(result)


def _plain(case: Case, rounds: int) -> Run:
    sites = [plain.tensors(site) for site in case.data]
    orders = functools.partial(w2.orders, case.workload)
    done = plain.run(case.module, sites, orders, rounds=rounds)
    return _rate(case, done.cpu_marks), done.state


def _rate(case: Case, cpu_marks: Sequence[float]) -> float:
    steady = cpu_marks[1:]
    return len(case.data) * (len(steady) - 1) / (steady[-1] - steady[0])


def _images(site: int) -> tuple[Floats, Ints]:
    rng = np.random.default_rng([7, 8, site])
    x = rng.standard_normal((W2.rows, 1, 28, 28)).astype(np.float32)
    y = rng.integers(0, W2.classes, W2.rows)
    x[y == 1, :, 7:21, 7:21] += 0.5
    return x, y


CASES: dict[str, tuple[Callable[[int], Case], int, int]] = {
    "mlp": (mlp, 50, 4),
    "cnn": (cnn, 10, 3),
}
"""Name to the case, and its sites and rounds."""


def main() -> None:
    """Print the line."""
    parser = argparse.ArgumentParser(description="W2, sequential: prints one JSON line.")
    parser.add_argument("--turns", type=int, default=5)
    turns = parser.parse_args().turns
    torch.set_num_threads(1)
    cases = {
        name: beside(case(sites), rounds=rounds, turns=turns)
        for name, (case, sites, rounds) in CASES.items()
    }
    line = {"workload": "W2", "system": "Cohortium", "version": cohortium.__version__}
    print(json.dumps(line | {"engine": "sequential", **cases, "machine": measure.machine()}))


if __name__ == "__main__":
    main()

"""W2: many small sites. An MLP 20-64-2, SGD, batches of 16, five local epochs, FedAvg.

The final model must equal the plain loop's, trained on the same rows in the same order.
"""

from __future__ import annotations

import functools

import numpy as np

from benchmarks import federation, measure, plain
from benchmarks.workloads import W2, Ints, SmallSites
from cohortium.types import derive_rng

STUDY_SEED = 0
TASK = {
    "kind": "multiclass-classification",
    "classes": W2.classes,
    "batch_size": W2.batch,
    "optimizer": {"kind": "sgd", "lr": W2.lr},
}


def run(size: measure.Size) -> measure.Outcome:
    """Run W2 through `cohortium.simulate`."""
    clock, workload = federation.Clock(), size.w2()
    result = federation.simulate(
        federation.study("W2", TASK, rounds=size.rounds, local={"epochs": workload.epochs}),
        {site_name(i): rows for i, rows in enumerate(workload.data())},
        model=plain.mlp(workload),
        engine=size.engine,
        seed=STUDY_SEED,
        observer=clock,
    )
    return federation.outcome(result, clock, task="a torch module")


def orders(workload: SmallSites, site: int, round_: int, rows: int) -> Ints:
    """Return the order in which Cohortium shows a site its rows: see `learning.batches`."""
    first = (round_ - 1) * workload.epochs
    epochs = range(first, first + workload.epochs)
    rngs = [derive_rng(STUDY_SEED, "batches", site_name(site), epoch) for epoch in epochs]
    return np.stack([rng.permutation(rows) for rng in rngs])


def site_name(site: int) -> str:
    """Return what the study calls a site."""
    return f"site-{site}"


if __name__ == "__main__":
    measure.main(
        "W2",
        "Cohortium",
        run,
        functools.partial(plain.verify, orders=orders),
        sites=W2.sites,
        rounds=W2.rounds,
        repeats=3,
        beside=("benchmarks.plain",),
        peers=("flower_w2", "pfl_w2", "nvflare_w2"),
    )

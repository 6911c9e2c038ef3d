"""W1: what a round costs around the training. 10 sites, 10 rounds, 1,000,000 parameters, add one.

The model and the training are a task of their own, handed to `cohortium.simulate`: no torch, no
learning, nothing but the federation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks import federation, measure
from benchmarks.processes import MB
from benchmarks.workloads import W1, AddOne
from cohortium.learning.task import Trained, TrainJob
from cohortium.records import Part
from cohortium.types import ArraySpec, Layout, Params, Statistics, Update


class AddOneTask:
    """Training that adds one.

    Args:
        workload: says what the model is.

    Attributes:
        unloaded_mb: memory of this process before it had a model.
        resident_mb: the same whenever a training began. No site held an update at those moments:
            beyond the model that all parties share, what there was is the aggregator's.
    """

    metrics = ("loss",)
    statistics: Mapping[str, tuple[int, ...]] = {}

    def __init__(self, workload: AddOne) -> None:
        names, shape = [f"layer{i}" for i in range(workload.arrays)], (workload.elements,)
        self.layout = Layout(tuple(ArraySpec(name, shape, "float32") for name in names))
        self.unloaded_mb, self.resident_mb = 0.0, list[float]()
        self._workload = workload

    def initial(self, seed: int) -> Params:  # noqa: ARG002
        """Return the workload's values."""
        self.unloaded_mb = self.unloaded_mb or federation.resident_mb()
        return Params(self.layout, {"float32": self._workload.flat()})

    def train(self, jobs: Sequence[TrainJob]) -> list[Trained]:
        """Add one."""
        self.resident_mb.append(federation.resident_mb())
        return [Trained(Update(self._plus_one(job.params), 1.0), job.cursor) for job in jobs]

    def block_size(self, job: TrainJob) -> int:  # noqa: ARG002
        """There is no kernel."""
        return 1

    def evaluate(self, params: Params, data: Part) -> Statistics:  # noqa: ARG002
        """There is nothing to measure."""
        return {}

    def value(self, metric: str, statistics: Statistics) -> None:
        """There is nothing to measure."""

    def _plus_one(self, params: Params) -> Params:
        return Params(self.layout, {"float32": np.add(params.buffers["float32"], np.float32(1))})


def run(workload: AddOne, size: measure.Size) -> measure.Outcome:
    """Run an add-one workload."""
    clock, task = federation.Clock(), AddOneTask(workload)
    kind = {"kind": "regression", "optimizer": {"kind": "sgd", "lr": 1.0}}
    row = (np.zeros((1, 1), np.float32), np.zeros(1, np.float32))
    result = federation.simulate(
        federation.study(workload.name, kind, rounds=size.rounds, local={"steps": 1}),
        {f"site-{i}": row for i in range(size.sites)},
        task=task,
        engine=size.engine,
        observer=clock,
    )
    figures = _memory(task, workload.nbytes / MB) if workload.name == "W3" else {}
    return federation.outcome(result, clock, task="a task of its own", **figures)


def _memory(task: AddOneTask, model_mb: float) -> dict[str, float]:
    """Return how much this process grew, in models: while no site held an update, and at most."""
    grown = {"aggregator_models": max(task.resident_mb), "process_models": federation.highest_mb()}
    return {name: round((mb - task.unloaded_mb) / model_mb, 2) for name, mb in grown.items()}


def main(workload: AddOne, *peers: str) -> None:
    """Measure an add-one workload."""
    measure.main(
        workload.name,
        "Cohortium",
        lambda size: run(workload, size),
        lambda size, final: workload.verify(size.rounds, final),
        sites=workload.sites,
        rounds=workload.rounds,
        repeats=3,
        peers=peers,
    )


if __name__ == "__main__":
    main(W1, "flower_w1", "nvflare_w1")

"""The yardstick: W2 as anybody would write it in PyTorch, one thread, no framework around it.

Every client gets a copy of the model and a `torch.optim.SGD`; the server averages state dicts by
rows. `train` is also what the peers run at their clients, so that a difference between systems is
never one of the training step.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks import measure
from benchmarks.workloads import W2, Arrays, Floats, Ints, Orders, SmallSites, checksum, difference

Site = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Run:
    """A finished run: final state, and the clock and CPU seconds when each round was over.

    Both clocks start with an entry for the moment before the first round.
    """

    state: Arrays
    marks: list[float]
    cpu_marks: list[float]


def mlp(workload: SmallSites = W2) -> nn.Module:
    """Return the MLP 20-64-2 with the workload's initial weights."""
    model = nn.Sequential(
        nn.Linear(workload.features, workload.hidden),
        nn.ReLU(),
        nn.Linear(workload.hidden, workload.classes),
    )
    load(model, workload.initial())
    return model


def load(model: nn.Module, state: Mapping[str, Floats]) -> None:
    """Set a model's weights from numpy arrays."""
    model.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})


def tensors(site: tuple[Floats, Ints]) -> Site:
    """Return a site's rows as tensors that share their memory."""
    return torch.from_numpy(site[0]), torch.from_numpy(site[1])


def train(model: nn.Module, site: Site, orders: Ints, *, lr: float, batch: int) -> float:
    """Train a model in place for `len(orders)` epochs and return the last batch's loss."""
    x, y = site
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    model.train()
    for order in torch.from_numpy(orders):
        for rows in order.split(batch):
            optimizer.zero_grad()
            loss = criterion(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
    return float(loss.item())


def run(
    model: nn.Module,
    sites: Sequence[Site],
    orders: Orders,
    *,
    rounds: int,
    lr: float = W2.lr,
    batch: int = W2.batch,
) -> Run:
    """Run FedAvg over all sites for some rounds, starting from the model's weights."""
    torch.set_num_threads(1)
    server = copy.deepcopy(model)
    marks, cpu_marks = [time.monotonic()], [time.process_time()]
    for round_ in range(1, rounds + 1):
        states = []
        for index, site in enumerate(sites):
            client = copy.deepcopy(server)
            train(client, site, orders(index, round_, len(site[1])), lr=lr, batch=batch)
            states.append(client.state_dict())
        server.load_state_dict(_average(states, [len(site[1]) for site in sites]))
        marks.append(time.monotonic())
        cpu_marks.append(time.process_time())
    return Run({k: v.numpy().copy() for k, v in server.state_dict().items()}, marks, cpu_marks)


def reference(workload: SmallSites, *, rounds: int, orders: Orders | None = None) -> Run:
    """Run the plain loop on W2 as it is given."""
    sites = [tensors(site) for site in workload.data()]
    return run(mlp(workload), sites, orders or workload.shuffled, rounds=rounds)


def _average(states: Sequence[Mapping[str, Tensor]], rows: Sequence[int]) -> dict[str, Tensor]:
    total = sum(rows)
    average = {name: torch.zeros_like(value) for name, value in states[0].items()}
    for state, weight in zip(states, rows, strict=True):
        for name, value in state.items():
            average[name] += value * (weight / total)
    return average


def verify(
    size: measure.Size,
    final: Arrays,
    *,
    orders: Callable[[SmallSites, int, int, int], Ints] = SmallSites.shuffled,
    tolerance: float = 1e-3,
) -> dict[str, float]:
    """Run the plain loop at the same size and return how a final model compares with it.

    `orders` is an `Orders` that is told the workload first.

    Raises:
        SystemExit: they differ by more than rounding, so the system trained something else.
    """
    workload = size.w2()
    theirs = functools.partial(orders, workload)
    expected = reference(workload, rounds=size.rounds, orders=theirs).state
    away = difference(final, expected)
    if not away <= tolerance:
        raise SystemExit(f"W2: the final model is {away} away from the plain loop's")
    return {
        "checksum": checksum(final),
        "plain_checksum": checksum(expected),
        "difference": away,
        "accuracy": workload.accuracy(final),
    }


def _measured(size: measure.Size) -> measure.Outcome:
    done = reference(size.w2(), rounds=size.rounds)
    return measure.Outcome(torch.__version__, done.marks, done.state, cpu_marks=done.cpu_marks)


if __name__ == "__main__":
    measure.main("W2", "plain loop", _measured, verify, sites=W2.sites, rounds=W2.rounds)

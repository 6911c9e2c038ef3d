"""The protocol once more, in plain PyTorch and without Cohortium, to hold its results against.

    python studies/heart-disease/transcription.py --data DIR [--seeds 42-46]

trains in the order in which PyTorch's `DataLoader` shuffles, as FLamby did, and compares with every
number that FLamby published. The tests train in Cohortium's order instead, and compare parameters.
"""

from __future__ import annotations

import argparse
import copy
import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from torch.utils.data import DataLoader

HERE = Path(__file__).parent
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
FILES_AS_FLAMBY_FOUND_THEM = ("cleveland", "switzerland", "hungarian", "va")
"""The one order of 24 in which pooled training gives the published numbers."""

Batches = Iterator[Tensor]
"""Row numbers of one batch after the other."""

Order = Callable[[str, int], Batches]
"""Hospital and number of its rows to its batches, without end."""

Server = Callable[[list[Tensor]], list[Tensor]]
"""Averaged change of each parameter to the change that is applied."""


@dataclass(frozen=True)
class Hospital:
    """Rows as they lie in the file, split."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


@dataclass(frozen=True)
class Method:
    """A federated method's settings."""

    lr: float
    mu: float = 0.0
    server: Callable[[], Server] = lambda: lambda change: change


def read(folder: Path, hospital: str) -> Hospital:
    """Return one hospital's rows: ten columns, complete rows, split by the protocol's seed."""
    lines = (folder / f"processed.{hospital}.data").read_text("utf-8").split()
    cells = [line.split(",") for line in lines]
    kept = [row[:10] + row[13:] for row in cells if "?" not in row[:10] + row[13:]]
    rows: NDArray[np.float64] = np.array(kept, float)
    levels = [rows[:, 2] == level for level in (2, 3, 4)] + [
        rows[:, 6] == level for level in (1, 2)
    ]
    x = torch.tensor(np.column_stack([rows[:, [0, 1, 3, 4, 5, 7, 8, 9]], *levels])).float()
    y = torch.tensor(rows[:, -1] > 0).float()
    rare = min(int(y.sum()), int((1 - y).sum())) <= 2
    train, test = train_test_split(
        np.arange(len(y)),
        test_size=1 - 0.66,
        train_size=0.66,
        random_state=43,
        shuffle=True,
        stratify=None if rare else y,
    )
    train, test = np.sort(train), np.sort(test)
    return Hospital(x[train], y[train], x[test], y[test])


def pool(hospitals: Sequence[Hospital]) -> Hospital:
    """Return all rows of several hospitals together."""
    parts = zip(*(vars(hospital).values() for hospital in hospitals), strict=True)
    return Hospital(*(torch.cat(part) for part in parts))


def scaled(x: Tensor, by: Hospital) -> Tensor:
    """Return inputs normalised with the mean and sample sd of a hospital's training rows."""
    return (x - by.train_x.mean(0)) / (by.train_x.std(0) + 1e-9)


def model_of(seed: int) -> nn.Module:
    """Return the model as the seed initialises it."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(13, 1), nn.Sigmoid(), nn.Flatten(0))


def federated(
    hospitals: Mapping[str, Hospital], method: Method, order: Order, *, seed: int, rounds: int = 15
) -> nn.Module:
    """Return the model after rounds of 100 updates at every hospital."""
    model = model_of(seed)
    batches = {name: order(name, len(h.train_y)) for name, h in hospitals.items()}
    torch.manual_seed(seed)
    server, rows = method.server(), sum(len(h.train_y) for h in hospitals.values())
    for _ in range(rounds):
        average = [torch.zeros_like(parameter) for parameter in model.parameters()]
        for name, hospital in hospitals.items():
            local = copy.deepcopy(model)
            optimizer = torch.optim.SGD(local.parameters(), method.lr)
            hundred = (next(batches[name]) for _ in range(100))
            descend(local, hospital, hundred, optimizer, mu=method.mu, anchor=model)
            pairs = zip(local.parameters(), model.parameters(), strict=True)
            share = len(hospital.train_y) / rows
            average = [
                total + share * (new - old).detach()
                for total, (new, old) in zip(average, pairs, strict=True)
            ]
        with torch.no_grad():
            for parameter, change in zip(model.parameters(), server(average), strict=True):
                parameter.add_(change)
    return model


def central(hospital: Hospital, epochs: Iterable[Iterable[Tensor]], *, seed: int) -> nn.Module:
    """Return the model that one party trains with Adam, epoch after epoch."""
    model = model_of(seed)
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), 0.001)
    descend(model, hospital, chain.from_iterable(epochs), optimizer)
    return model


def descend(
    model: nn.Module,
    hospital: Hospital,
    batches: Iterable[Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    mu: float = 0.0,
    anchor: nn.Module | None = None,
) -> None:
    """Update a model once for each batch; with mu, drawn towards the anchor (FedProx)."""
    x, y, loss_of = scaled(hospital.train_x, hospital), hospital.train_y, nn.BCELoss()
    fixed = parameters_to_vector((anchor or model).parameters()).detach().clone()
    for rows in batches:
        loss = loss_of(model(x[rows]), y[rows])
        if mu:
            drift = parameters_to_vector(model.parameters()) - fixed
            loss = loss + mu / 2 * drift.square().sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()


def adaptive(kind: str, lr: float) -> Callable[[], Server]:
    """Return a server of Reddi et al. 2021, Algorithm 2: beta 0.9 and 0.999, tau 1e-8."""
    rules: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "fedadam": lambda v, square: 0.999 * v + 0.001 * square,
        "fedyogi": lambda v, square: v - 0.001 * square * torch.sign(v - square),
        "fedadagrad": lambda v, square: v + square,
    }
    second = rules[kind]

    def begin() -> Server:
        m, v = [torch.zeros(1)] * 2, [torch.zeros(1)] * 2

        def step(change: list[Tensor]) -> list[Tensor]:
            for i, delta in enumerate(change):
                m[i] = 0.9 * m[i] + 0.1 * delta
                v[i] = second(v[i], delta * delta)
            return [lr * m[i] / (v[i].sqrt() + 1e-8) for i in range(2)]

        return step

    return begin


METHODS = {
    "fedavg": Method(0.001),
    "fedprox": Method(0.001, mu=0.01),
    "fedadam": Method(0.01, server=adaptive("fedadam", 0.01)),
    "fedyogi": Method(0.003162, server=adaptive("fedyogi", 0.01)),
    "fedadagrad": Method(0.003162, server=adaptive("fedadagrad", 0.316228)),
}


def shuffled(_: str, rows: int) -> Batches:
    """Return batches in PyTorch's order, from its global generator, as FLamby drew them."""
    loader = loader_of(rows)
    return chain(iter(loader), chain.from_iterable(repeat(loader)))


def loader_of(rows: int) -> DataLoader[int]:
    """Return PyTorch's shuffling loader of row numbers."""
    return DataLoader(range(rows), batch_size=4, shuffle=True)  # type: ignore[arg-type]


def accuracies(model: nn.Module, hospitals: Mapping[str, Hospital]) -> list[float]:
    """Return accuracy at each hospital on its own scale, then on the pooled test."""
    everyone = pool(list(hospitals.values()))
    pairs = [(h, h) for h in hospitals.values()] + [(everyone, everyone)]
    with torch.no_grad():
        right = [(model(scaled(h.test_x, by)) > 0.5) == (h.test_y > 0.5) for h, by in pairs]
    return [float(found.double().mean()) for found in right]


def reproduced(folder: Path, seed: int) -> Iterator[tuple[str, list[float]]]:
    """Yield every method that FLamby published, trained in FLamby's order."""
    hospitals = {name: read(folder, name) for name in HOSPITALS}
    everyone = pool([hospitals[name] for name in FILES_AS_FLAMBY_FOUND_THEM])
    alone = {f"{name} alone": hospital for name, hospital in hospitals.items()}
    for name, records in {"pooled, own scales": everyone, **alone}.items():
        model = central(records, repeat(loader_of(len(records.train_y)), 50), seed=seed)
        yield name, accuracies(model, hospitals)
    for name, method in METHODS.items():
        yield name, accuracies(federated(hospitals, method, shuffled, seed=seed), hospitals)


def main() -> int:
    """Compare with every published number; return 1 if any differs."""
    parser = argparse.ArgumentParser(description="FLamby's published numbers, from plain PyTorch.")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seeds", default="42-46", metavar="FIRST-LAST")
    chosen = parser.parse_args()
    first, last = (int(end) for end in (chosen.seeds.split("-") * 2)[:2])
    with (HERE / "published.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))[1:]
    theirs = {(name, int(seed)): [float(v) for v in values] for name, seed, *values in lines}
    torch.set_num_threads(1)
    equal = total = 0
    for seed in range(first, last + 1):
        for name, ours in reproduced(chosen.data, seed):
            same = [abs(a - b) < 6e-5 for a, b in zip(ours, theirs[name, seed], strict=True)]
            equal, total = equal + sum(same), total + len(same)
            shown = " ".join(f"{value:.4f}" for value in ours)
            print(f"seed {seed} {name:20} {shown}  {'equal' if all(same) else 'DIFFERENT'}")
    print(f"{equal} of {total} published numbers reproduced")
    return int(equal < total)


if __name__ == "__main__":
    sys.exit(main())

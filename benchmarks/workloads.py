"""What the benchmarks train: constants, data and batches of W1, W2 and W3, equal for every system.

numpy only, so that it imports beside any peer. Equal arguments give equal bytes: a site's data
depend on its index and not on how many sites there are or who asks first.

Legend: N rows of a site, F features, E local epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Arrays = dict[str, Floats]
Orders = Callable[[int, int, int], Ints]
"""(site index, round from 1, N) to the rows' order in each epoch, shape (E, N)."""

SEED = 7


@dataclass(frozen=True)
class AddOne:
    """W1 and W3: no learning at all, so that what is measured is the federation around it.

    Every site returns the model it got plus one, hence after r rounds the model is its initial
    value plus r, whatever the weights.
    """

    name: str
    sites: int
    rounds: int
    arrays: int
    elements: int

    @property
    def parameters(self) -> int:
        return self.arrays * self.elements

    @property
    def nbytes(self) -> int:
        return self.parameters * np.dtype(np.float32).itemsize

    def flat(self) -> Floats:
        """Return the model of round 0, its arrays end to end: values in [-1, 1), none of them
        special to a codec. Nothing of the model's size is made beside it.
        """
        values = np.random.default_rng(SEED).uniform(-1, 1, 9973).astype(np.float32)
        flat = np.empty(self.parameters, np.float32)
        whole = self.elements // len(values) * len(values)
        for array in flat.reshape(self.arrays, self.elements):
            array[:whole].reshape(-1, len(values))[:] = values
            array[whole:] = values[: self.elements - whole]
        return flat

    def initial(self) -> Arrays:
        """Return the model of round 0 by name."""
        arrays = self.flat().reshape(self.arrays, self.elements)
        return {f"layer{i}": array for i, array in enumerate(arrays)}

    def verify(self, rounds: int, final: Mapping[str, Floats]) -> dict[str, float]:
        """Return the checksum of a final model.

        Raises:
            SystemExit: it is not the initial model plus the number of rounds.
        """
        for name, before in self.initial().items():
            after = np.asarray(final[name]).reshape(-1)
            if after.shape != before.shape or not np.allclose(after, before + rounds, atol=1e-4):
                raise SystemExit(f"{self.name}: {name} is not its initial value plus {rounds}")
        return {"checksum": checksum(final)}


W1 = AddOne("W1", sites=10, rounds=10, arrays=1, elements=1_000_000)
W3 = AddOne("W3", sites=4, rounds=3, arrays=10, elements=2_500_000)
W3_MANY = AddOne("W3", sites=130, rounds=2, arrays=10, elements=1_000_000)


@dataclass(frozen=True)
class SmallSites:
    """W2: many small hospitals, an MLP 20-64-2, SGD, FedAvg weighted by rows."""

    name: str = "W2"
    sites: int = 100
    rounds: int = 10
    rows: int = 64
    features: int = 20
    hidden: int = 64
    classes: int = 2
    lr: float = 0.1
    batch: int = 16
    epochs: int = 5
    ragged: bool = False

    def size(self, site: int) -> int:
        """Return N: `rows`, or lognormal (sigma 1) around that mean, at least one batch."""
        if not self.ragged:
            return self.rows
        deviation = np.random.default_rng([SEED, 2, site]).standard_normal()
        return max(self.batch, round(self.rows * float(np.exp(deviation - 0.5))))

    def site(self, site: int) -> tuple[Floats, Ints]:
        """Return x of shape (N, F) and y of shape (N,): a common signal, shifted by the site."""
        rng = np.random.default_rng([SEED, 3, site])
        x = rng.standard_normal((self.size(site), self.features)) + 0.3 * rng.standard_normal()
        noise = 0.5 * rng.standard_normal(len(x))
        return x.astype(np.float32), (x @ self._signal() + noise > 0).astype(np.int64)

    def data(self) -> Iterator[tuple[Floats, Ints]]:
        """Yield every site's rows, in order."""
        return (self.site(site) for site in range(self.sites))

    def test(self, rows: int = 2000) -> tuple[Floats, Ints]:
        """Return rows that no site has, to see that a model learned the signal."""
        x = np.random.default_rng([SEED, 4]).standard_normal((rows, self.features))
        return x.astype(np.float32), (x @ self._signal() > 0).astype(np.int64)

    def initial(self) -> Arrays:
        """Return the weights all systems start from, named as in a torch `Sequential`."""
        rng = np.random.default_rng([SEED, 5])
        shapes = {
            "0.weight": (self.hidden, self.features),
            "0.bias": (self.hidden,),
            "2.weight": (self.classes, self.hidden),
            "2.bias": (self.classes,),
        }
        fan_in = {"0": self.features, "2": self.hidden}
        return {
            name: rng.uniform(-1, 1, shape).astype(np.float32) * np.float32(fan_in[name[0]] ** -0.5)
            for name, shape in shapes.items()
        }

    def shuffled(self, site: int, round_: int, rows: int) -> Ints:
        """Return a new order of the rows in every epoch; this is an `Orders`."""
        rng = np.random.default_rng([SEED, 6, site, round_])
        return rng.permuted(np.tile(np.arange(rows), (self.epochs, 1)), axis=1)

    def in_turn(self, site: int, round_: int, rows: int) -> Ints:  # noqa: ARG002
        """Return the order 0..N-1 in every epoch, for peers that do not shuffle."""
        return np.tile(np.arange(rows), (self.epochs, 1))

    def accuracy(self, model: Mapping[str, Floats]) -> float:
        """Return the share of the test rows that a model classifies correctly."""
        x, y = self.test()
        hidden = np.maximum(x @ model["0.weight"].T + model["0.bias"], 0)
        logits = hidden @ model["2.weight"].T + model["2.bias"]
        return float((logits.argmax(1) == y).mean())

    def _signal(self) -> NDArray[np.float64]:
        return np.random.default_rng([SEED, 1]).standard_normal(self.features)


W2 = SmallSites()


def checksum(model: Mapping[str, Floats]) -> float:
    """Return one number that two equal models share: position-weighted, summed in float64.

    >>> checksum({"w": np.array([1.0, 2.0], np.float32)})
    5.0
    """
    total, start = 0.0, 1
    for values in model.values():
        flat = np.asarray(values, np.float64).reshape(-1)
        total += float(flat @ (np.arange(flat.size) % 1009 + start))
        start += 1
    return total


def difference(model: Mapping[str, Floats], reference: Mapping[str, Floats]) -> float:
    """Return the largest difference of any element, relative to the largest element."""
    scale = max(float(np.abs(values).max()) for values in reference.values())
    return max(float(np.abs(model[k] - v).max()) for k, v in reference.items()) / scale

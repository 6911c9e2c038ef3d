"""What a site does with its records: train and evaluate. One contract for all frameworks, engines.

To add a local algorithm: a file beside this one, and a line in `algorithm.LOCAL_ALGORITHMS`.
To add a framework: a file beside this one that implements `LocalTask`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from cohortium.records import Part
from cohortium.types import Layout, Params, Statistics, Update

TaskKind = Literal["binary-classification", "multiclass-classification", "regression"]


@dataclass(frozen=True, slots=True)
class Work:
    """How much a site trains in a round: whole passes over its rows, optimiser updates, or time.

    Exactly one of the three is set. Seconds are those of the clock, for at least one update: such
    training cannot be repeated to the bit.
    """

    epochs: int | None = None
    steps: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a site's batch iterator stands; it goes on across rounds.

    `epoch` counts permutations begun before, `position` rows of the current one already used.
    """

    epoch: int = 0
    position: int = 0


@dataclass(frozen=True, slots=True)
class TrainJob:
    """One site's training in one round.

    All randomness derives from (seed, use, site, round or epoch) by `derive_seed`: never from the
    topology, the engine, or what ran before.
    """

    site: str
    round: int
    seed: int
    params: Params
    data: Part
    work: Work
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Trained:
    """An update (weight = training rows) and the batch iterator's new place."""

    update: Update
    cursor: Cursor


class LocalTask(Protocol):
    """Training and evaluation in one framework, for one study.

    Attributes:
        layout: the arrays that sites share.
        statistics: name and shape of every additive statistic that `evaluate` returns.
    """

    @property
    def layout(self) -> Layout: ...

    @property
    def statistics(self) -> Mapping[str, tuple[int, ...]]: ...

    def initial(self, seed: int) -> Params:
        """Return the parameters that every party starts from; equal seeds give equal bits."""

    def train(self, jobs: Sequence[TrainJob]) -> list[Trained]:
        """Train a block of sites, each from its own `params`; results in the order of `jobs`.

        A block of one is the reference. A larger block may use a kernel that trains many sites at
        once, equal to the reference within 1e-5 relative.
        """

    def block_size(self, job: TrainJob) -> int:
        """Return how many jobs like this are best trained together; 1 where there is no kernel."""

    def evaluate(self, params: Params, data: Part) -> Statistics:
        """Return the additive statistics of every declared metric over the rows."""

    def value(self, metric: str, statistics: Statistics) -> float | None:
        """Return a metric's value from summed statistics; None where it is undefined."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The declared metrics' names, "loss" among them."""

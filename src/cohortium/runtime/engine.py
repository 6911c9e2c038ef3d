"""What an engine is, and the table of all of them.

An engine carries out what actors ask for: it delivers releases, runs steps over records, keeps time
and journals. Which machines it uses is nobody else's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from cohortium.governance.gate import Gate
from cohortium.learning.task import Cursor, TrainJob
from cohortium.plan.plan import State
from cohortium.registry import Registry
from cohortium.runtime.actor import Actor, Snapshot
from cohortium.runtime.agreement import Agreement, Evaluation
from cohortium.runtime.training import Training
from cohortium.types import Params, PartyId, SiteId


@dataclass(frozen=True)
class Federation:
    """All that an in-process run consists of.

    Attributes:
        agreement: the plan and its parts.
        training: the task, and each site's records.
        initial: makes the model that round 1 starts from; only the parties keep it.
    """

    agreement: Agreement
    training: Training
    initial: Callable[[], Params]

    def gate(self, party: PartyId, *, released: int = 0) -> Gate:
        """Return a party's gate, which has made so many releases."""
        rows = self.agreement.plan.rows.get(SiteId(party), math.inf)
        return Gate(party, self.agreement.declaration, rows, released=released)

    def start(self) -> Snapshot:
        """Return where every party of a new run stands."""
        return Snapshot(State(self.agreement.plan.study), self.initial(), {})

    def actor(self, party: PartyId, snapshot: Snapshot | None = None) -> Actor:
        """Return a party's actor, at the start or where a snapshot stands."""
        at = snapshot or self.start()
        return Actor(party, self.agreement, self.gate(party, released=at.released), at)

    @property
    def has_kernel(self) -> bool:
        """Whether the task trains blocks of these sites at once."""
        site = self.agreement.plan.trainers[0]
        params, at = self.initial(), self.training
        job = TrainJob(site, 1, at.seed, params, at.data[site].train, at.work, Cursor())
        return at.task.block_size(job) > 1


@dataclass(frozen=True)
class RoundLog:
    """What an engine saw of one round.

    Attributes:
        state: the State that closed it.
        evaluation: each site's additive statistics; only of the last round, if it counted and was
            evaluated: those of all rounds would fill the memory.
        seconds: wall time.
        sent, received: bytes of releases by site. What goes to several readers is sent once, and
            received by each.
        reasons: (site, status) to the reason in the site's own log.
        evaluated: the sites that were evaluated.
        waited: seconds that each site had nothing to do, where an engine can tell.
    """

    state: State
    evaluation: Evaluation | None
    seconds: float
    sent: Mapping[str, int]
    received: Mapping[str, int]
    reasons: Mapping[tuple[str, str], str]
    evaluated: tuple[SiteId, ...] = ()
    waited: Mapping[str, float] = field(default_factory=dict)


class Observer(Protocol):
    """Watches a run; must not change it."""

    def run_started(self, title: str, rounds: int) -> None:
        """A run begins, such as the federated arm's; `rounds` at most."""

    def round_closed(self, log: RoundLog) -> None:
        """A round closed."""

    def step_run(self, round_: int, done: int, of: int) -> None:
        """Some of a round's steps have run."""


class Checkpoints(Protocol):
    """Where an engine keeps what it needs to go on after a kill."""

    def save(self, snapshots: Callable[[], Mapping[PartyId, Snapshot]], log: RoundLog) -> None:
        """Keep a consistent snapshot of all parties, taken between two rounds, if it is time."""


@dataclass(frozen=True)
class Finished:
    """How a run ended: the rounds' logs and the model of every party that holds one."""

    engine: str
    logs: tuple[RoundLog, ...]
    models: Mapping[PartyId, Params]


class Engine(Protocol):
    """Runs a federation to its end."""

    name: ClassVar[str]

    def run(
        self,
        federation: Federation,
        *,
        observer: Observer | None = None,
        checkpoints: Checkpoints | None = None,
        resume: tuple[Mapping[PartyId, Snapshot], tuple[RoundLog, ...]] | None = None,
    ) -> Finished:
        """Run until the closing State says that no round follows."""


ENGINES = Registry(
    "engine",
    group="cohortium.engines",
    builtin={
        "sequential": "cohortium.runtime.in_process:Sequential",
        "vectorised": "cohortium.runtime.in_process:Vectorised",
    },
)

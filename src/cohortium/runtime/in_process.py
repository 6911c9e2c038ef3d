"""Engines that run every party in this process.

Messages first, then work: all that has been sent is delivered before another block of steps runs.
So an aggregator folds an update as soon as it is there, and the blocks that train together do not
depend on the order of arrival. Time is virtual: the clock moves only when nothing else is left.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from cohortium.errors import RunFailedError
from cohortium.governance.gate import Release
from cohortium.plan.plan import State
from cohortium.runtime.actor import Actor, Snapshot
from cohortium.runtime.engine import Checkpoints, Federation, Finished, Observer, RoundLog
from cohortium.runtime.events import Arrived, Done, Effect, Record, Run, Send, TimedOut, Timer
from cohortium.types import Params, PartyId, SiteId

WINDOW = 1024
"""Most sites, in roster order, among which blocks are formed by size."""

WINDOW_BYTES = 64 << 20
"""Most bytes of the updates of such sites, beyond one block: they wait to be folded in order."""


class Sequential:
    """One step after another, each in the reference way."""

    name: ClassVar[str] = "sequential"

    def run(
        self,
        federation: Federation,
        *,
        observer: Observer | None = None,
        checkpoints: Checkpoints | None = None,
        resume: tuple[Mapping[PartyId, Snapshot], tuple[RoundLog, ...]] | None = None,
    ) -> Finished:
        """Run until the closing State says that no round follows.

        Raises:
            RunFailedError: the parties wait for each other with nothing left to wait for.
        """
        loop = _Loop(federation, self, observer, checkpoints, resume)
        loop.run()
        return Finished(self.name, tuple(loop.logs), loop.models())

    def blocks(self, federation: Federation, ready: Sequence[Run]) -> list[list[Run]]:
        """Return the ready steps in the blocks, and the order, in which they are to run."""
        del federation
        return [[run] for run in ready]


class Vectorised(Sequential):
    """Ready training steps of many sites become one block, where the task has a kernel for it."""

    name: ClassVar[str] = "vectorised"

    def blocks(self, federation: Federation, ready: Sequence[Run]) -> list[list[Run]]:
        """Return trainings in blocks of like size, and every other step alone."""
        trains = [run for run in ready if run.step.op == "train"]
        others = [[run] for run in ready if run.step.op != "train"]
        if not trains:
            return others
        training = federation.training
        size = training.task.block_size(training.job(trains[0]))
        rows = federation.agreement.plan.rows
        place = {site: i for i, site in enumerate(rows)}
        trains.sort(key=lambda run: place[SiteId(run.party)])
        sites = min(WINDOW, WINDOW_BYTES // training.task.layout.nbytes)
        width = size * max(1, sites // size)
        blocks = []
        for start in range(0, len(trains), width):
            window = trains[start : start + width]
            if size > 1:
                window.sort(key=lambda run: rows[SiteId(run.party)])
            blocks += [window[i : i + size] for i in range(0, len(window), size)]
        return blocks + others


class _Loop:
    """One run: the parties, what is under way between them, and what is ready."""

    def __init__(
        self,
        federation: Federation,
        engine: Sequential,
        observer: Observer | None,
        checkpoints: Checkpoints | None,
        resume: tuple[Mapping[PartyId, Snapshot], tuple[RoundLog, ...]] | None,
    ) -> None:
        self.federation, self.engine = federation, engine
        self.observer, self.checkpoints = observer, checkpoints
        parties = federation.agreement.plan.parties
        snapshots, logs = resume or (dict.fromkeys(parties, federation.start()), ())
        self.logs = list(logs)
        self.now = 0.0
        self.order = itertools.count()
        self.messages: deque[tuple[PartyId, Release]] = deque()
        self.ready: list[Run] = []
        self.blocks: deque[list[Run]] = deque()
        self.timers: list[tuple[float, int, PartyId, Timer]] = []
        self.actors: dict[PartyId, Actor] = {
            party: federation.actor(party, snapshots[party]) for party in parties
        }
        self._begin_round()

    def run(self) -> None:
        """Start every actor, then deliver, run and wait until the run has ended."""
        for party, actor in self.actors.items():
            self._carry_out(party, actor.start())
        while self._step():
            pass
        if not self.logs or self.logs[-1].state.status == "running":
            raise RunFailedError(
                "the parties wait for each other and nothing is under way",
                "This is a fault in the plan: please report it with the study file",
            )

    def models(self) -> dict[PartyId, Params]:
        """Return the consensus model of every party that was given one."""
        holders = self.logs[-1].state.models
        sites = self.federation.agreement.plan.rows
        return {p: a.model for p, a in self.actors.items() if p in holders or SiteId(p) in sites}

    def _step(self) -> bool:
        """Do the next thing; False when nothing is left."""
        if self.messages:
            party, release = self.messages.popleft()
            self._count(self.received, party, release.nbytes)
            self._carry_out(party, self.actors[party].handle(Arrived(release, self.now)))
        elif self._closing is not None:
            self._close_round(self._closing)
        elif self.blocks:
            self._run_block(self.blocks.popleft())
        elif self.ready:
            self.blocks.extend(self.engine.blocks(self.federation, self.ready))
            self.planned += len(self.ready)
            self.ready = []
        elif self.timers:
            self.now, _, party, timer = heapq.heappop(self.timers)
            event = TimedOut(timer.round, timer.attempt, timer.step, self.now)
            self._carry_out(party, self.actors[party].handle(event))
        else:
            return False
        return True

    def _carry_out(self, party: PartyId, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Run():
                    self.ready.append(effect)
                case Send():
                    self._count(self.sent, party, effect.release.nbytes)
                    self.messages.extend((reader, effect.release) for reader in effect.to)
                case Timer():
                    heapq.heappush(self.timers, (effect.due, next(self.order), party, effect))
                case Record():
                    self._record(effect)

    # -- work --------------------------------------------------------------------------------------

    def _run_block(self, runs: list[Run]) -> None:
        for run, done in zip(runs, self._perform(runs), strict=True):
            self._carry_out(run.party, self.actors[run.party].handle(done))
        self.done += len(runs)
        if self.observer is not None:
            self.observer.step_run(runs[0].round, self.done, self.planned + len(self.ready))

    def _perform(self, runs: list[Run]) -> list[Done]:
        """Run steps over records; a step whose code raises has failed, the run goes on."""
        training = self.federation.training
        if runs[0].step.op == "evaluate" or len(runs) == 1:
            return [training.perform(run, at=self.now) for run in runs]
        try:
            trained = training.task.train([training.job(run) for run in runs])
            pairs = zip(runs, trained, strict=True)
            return [training.trained(run, result, at=self.now) for run, result in pairs]
        except (Exception, SystemExit):  # noqa: BLE001 - study code; alone, the one that raises fails
            return [done for run in runs for done in self._perform([run])]

    # -- what is kept of a round -------------------------------------------------------------------

    def _begin_round(self) -> None:
        self.started = time.perf_counter()
        self._closing: Record | None = None
        self.sent: dict[str, int] = {}
        self.received: dict[str, int] = {}
        self.reasons: dict[tuple[str, str], str] = {}
        self.done, self.planned = 0, sum(map(len, self.blocks))

    def _record(self, record: Record) -> None:
        if record.kind == "round":
            self._closing = record
        else:
            self.reasons.setdefault((record.party, record.kind), record.reason)

    def _close_round(self, record: Record) -> None:
        """Keep what a closed round showed, once all parties have heard of it."""
        assert record.state is not None
        log = self._log(record, record.state)
        if self.logs:
            self.logs[-1] = replace(self.logs[-1], evaluation=None)
        self.logs.append(log)
        begun = (record.state.round + 1, record.state.attempt)
        self.timers = [t for t in self.timers if (t[3].round, t[3].attempt) == begun]
        heapq.heapify(self.timers)
        if record.state.status != "running":
            self.timers, self.ready = [], []
            self.blocks.clear()
        if self.checkpoints is not None:
            self.checkpoints.save(self._snapshots, log)
        if self.observer is not None:
            self.observer.round_closed(log)
        self._begin_round()

    def _log(self, record: Record, state: State) -> RoundLog:
        sites = self.federation.agreement.plan.rows
        return RoundLog(
            state,
            record.detail if state.metrics else None,  # not of a model that did not count
            time.perf_counter() - self.started,
            {site: self.sent.get(site, 0) for site in sites},
            {site: self.received.get(site, 0) for site in sites},
            self.reasons,
            tuple(record.detail or ()),
        )

    def _snapshots(self) -> dict[PartyId, Snapshot]:
        return {party: actor.snapshot() for party, actor in self.actors.items()}

    @staticmethod
    def _count(table: dict[str, int], party: PartyId, nbytes: int) -> None:
        table[party] = table.get(party, 0) + nbytes

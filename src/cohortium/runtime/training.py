"""A party's work over its records: from what an actor asks for to the event that it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cohortium.learning.task import Cursor, LocalTask, Trained, TrainJob, Work
from cohortium.records import SiteData
from cohortium.runtime.events import Done, Run
from cohortium.types import VALIDATION, Params, SiteId, Update


@dataclass(frozen=True)
class Training:
    """What trains and evaluates, and on which records.

    Attributes:
        task: trains and evaluates.
        data: the records of each site that works here.
        work: how much a site trains in a round.
        seed: the study's.
    """

    task: LocalTask
    data: Mapping[SiteId, SiteData]
    work: Work
    seed: int

    def perform(self, run: Run, *, at: float) -> Done:
        """Run one step; one whose code raises has failed, and says why.

        `at`: seconds on the engine's clock.
        """
        try:
            if run.step.op == "evaluate":
                return self.evaluated(run, at=at)
            return self.trained(run, self.task.train([self.job(run)])[0], at=at)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - study code; it is named
            reason = f"{type(error).__name__}: {error}"
            return Done(run.round, run.attempt, run.step.id, None, None, reason, at)

    def job(self, run: Run) -> TrainJob:
        """Return the training that a run asks for."""
        return TrainJob(
            site=run.party,
            round=run.round,
            seed=self.seed,
            params=run.params,
            data=self.data[SiteId(run.party)].train,
            work=self.work,
            cursor=run.slot or Cursor(),
        )

    def trained(self, run: Run, trained: Trained, *, at: float) -> Done:
        """Return the event of a training that ended."""
        update = trained.update
        if run.measure:
            statistics = self._evaluate(run, ("validation",), params=update.params)
            update = Update(update.params, update.weight, statistics)
        return Done(run.round, run.attempt, run.step.id, update, trained.cursor, "", at)

    def evaluated(self, run: Run, *, at: float) -> Done:
        """Evaluate, and return the event of it."""
        site = self.data[SiteId(run.party)]
        statistics = self._evaluate(run, ("test", "validation"), params=run.params)
        update = Update(None, float(len(site.test)), statistics)
        return Done(run.round, run.attempt, run.step.id, update, None, "", at)

    def _evaluate(
        self, run: Run, parts: tuple[str, ...], *, params: Params | None
    ) -> dict[str, Any]:
        assert params is not None
        site = self.data[SiteId(run.party)]
        found: dict[str, Any] = {}
        for part in parts:
            records = site.test if part == "test" else site.validation
            prefix = VALIDATION if part == "validation" else ""
            if part == "test" or len(records):
                statistics = self.task.evaluate(params, records)
                found |= {prefix + name: values for name, values in statistics.items()}
        return found

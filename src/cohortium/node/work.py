"""A study's work at this site: its records, and the isolated process that trains on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Lock

from cohortium.data.local import LocalDataset, prepare_local
from cohortium.data.prepare import Prepared
from cohortium.errors import CohortiumError
from cohortium.host.courier import Closed
from cohortium.node.limits import GIB, StoppedError, Turns
from cohortium.node.settings import Settings
from cohortium.runtime.events import Done, Run
from cohortium.study.bundle import Bundle
from cohortium.types import Params
from cohortium.worker.isolation import choose
from cohortium.worker.limits import Limits
from cohortium.worker.process import WorkerStoppedError
from cohortium.worker.worker import Assignment, Description, Worker


def make_worker(bundle: Bundle, prepared: Prepared, settings: Settings, *, party: str) -> Worker:
    """Return the isolated worker of a study; its process starts when it is first needed.

    Args:
        bundle: the study and its files.
        prepared: this site's records.
        settings: what the hospital allows.
        party: the site's name in the study.

    Raises:
        IsolationError: this machine cannot isolate study code as the settings demand.
    """
    memory = settings.limits.memory_gib
    limits = Limits(
        memory_bytes=None if memory is None else int(memory * GIB),
        cpu_threads=settings.limits.threads,
        gpu=settings.limits.gpu,
    )
    assignment = Assignment(bundle, party, prepared.data, prepared.raw.train.x.shape[1:])
    isolation = choose("strong" if settings.isolation == "strong" else "any")
    return Worker(assignment, limits=limits, isolation=isolation)


@dataclass(frozen=True)
class Trial:
    """A study, tried on this site's records; nothing has left.

    Attributes:
        prepared: the records as the study wants them.
        description: the task as its code built it.
        initial: the model that round 1 starts from.
    """

    prepared: Prepared
    description: Description
    initial: Params


@contextmanager
def _worker(bundle: Bundle, prepared: Prepared, settings: Settings, party: str) -> Iterator[Worker]:
    worker = make_worker(bundle, prepared, settings, party=party)
    try:
        yield worker
    finally:
        worker.stop(now=True)


def try_out(bundle: Bundle, dataset: LocalDataset, settings: Settings, *, party: str) -> Trial:
    """Prepare a site's records for a study and build its task in an isolated process.

    Raises:
        DataError: the records do not fit the study.
        ModelError: the model cannot be built, or does not fit the records.
        WorkerError, IsolationError: the process failed, or cannot be isolated.
    """
    prepared = prepare_local(dataset, bundle.study, site=party)
    with _worker(bundle, prepared, settings, party) as worker:
        return Trial(prepared, worker.describe(), worker.initial())


class StudyWork:
    """Runs a study's steps over this site's records, when it is the study's turn.

    Records are read, and compared with what was approved, when the first step needs them. A step
    that cannot run fails, and says why.

    Args:
        study: the digest; turns are shared by it.
        make: reads the records and makes the worker.
        turns: of this machine.
        failed: told why a step failed.
    """

    def __init__(
        self,
        study: str,
        make: Callable[[], Worker],
        turns: Turns,
        *,
        failed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.study = study
        self._make, self._turns, self._failed = make, turns, failed
        self._worker: Worker | None = None
        self._lock, self._stopped = Lock(), Event()

    def run(self, run: Run, *, at: Callable[[], float]) -> Done:
        """Return the event that a step has run, or why it failed; waits for the study's turn.

        Raises:
            Closed: the node stopped before the step had run.
        """
        try:
            with self._turns.turn(self.study):
                done = self._ready().run(run, at=at)
        except (StoppedError, WorkerStoppedError) as error:
            raise Closed from error
        except CohortiumError as error:
            done = _failure(run, str(error), at=at())
        if done.reason and not self._stopped.is_set():
            self._failed(done.reason)
        return done

    def stop(self, *, now: bool = False) -> None:
        """End the process. `now`: in the midst of a step."""
        self._stopped.set()
        with self._lock:
            worker = self._worker
        if worker is not None:
            worker.stop(now=now)

    def _ready(self) -> Worker:
        worker = self._worker or self._make()
        with self._lock:
            self._worker = worker
        if self._stopped.is_set():
            worker.stop(now=True)
        return worker


def _failure(run: Run, reason: str, *, at: float) -> Done:
    return Done(run.round, run.attempt, run.step.id, None, None, reason, at)

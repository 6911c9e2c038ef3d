"""A site's worker for one study: a process that stays warm, and is started anew when it is lost."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from cohortium.errors import ModelError
from cohortium.learning.task import Cursor
from cohortium.records import SiteData
from cohortium.runtime.events import Done, Run
from cohortium.study.bundle import Bundle
from cohortium.types import VALIDATION, Array, ArraySpec, Layout, Params, Statistics, Update
from cohortium.worker import wire
from cohortium.worker.isolation import Isolation, choose, environment_for
from cohortium.worker.limits import Limits, size_told
from cohortium.worker.process import (
    OutOfMemoryError,
    Process,
    WorkerError,
    WorkerStoppedError,
)

LARGEST_MODEL = 1 << 34
"""Bytes of a model that a worker may speak of, where its memory is not limited (16 GiB)."""

MOST_ARRAYS = 1 << 17
LARGEST_STATISTICS = 8 << 20
"""Bytes of all statistics of a step."""

_DTYPES = frozenset(
    {"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"}
)


@dataclass(frozen=True)
class Assignment:
    """What a worker is started for: everything that it will ever know.

    Attributes:
        bundle: the study and its files.
        site: the name under which it trains.
        records: prepared by the node: cohort, split, normalised; arrays, and no place on disk.
        inputs: shape of one row.
    """

    bundle: Bundle
    site: str
    records: SiteData
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Description:
    """What a study's task is, once it is built.

    Attributes:
        layout: the arrays that sites share.
        statistics: name and shape of every additive statistic of an evaluation.
        metrics: the metrics' names, "loss" among them.
        initial: `Params.digest` of the model that round 1 starts from.
        environment: versions of what computes, processor, system.
    """

    layout: Layout
    statistics: Mapping[str, tuple[int, ...]]
    metrics: tuple[str, ...]
    initial: str
    environment: Mapping[str, str]


class Worker:
    """Runs the steps of one study over one site's records, in a process of its own.

    The process is started when it is first needed, and again when it was lost; it dies with this
    one. Study code that raises, ends the process, asks for too much memory or takes too long fails
    its step with the reason. Steps run one at a time; `stop` may be called from any thread.

    Args:
        assignment: what it works on.
        limits: what it may use.
        isolation: how it is kept from everything else; by default the best that works here.

    Raises:
        IsolationError: none works here.
    """

    def __init__(
        self,
        assignment: Assignment,
        *,
        limits: Limits | None = None,
        isolation: Isolation | None = None,
    ) -> None:
        self.assignment, self.limits = assignment, limits or Limits()
        self.isolation = isolation or choose()
        self._turn = threading.Lock()
        self._process: Process | None = None
        self._description: Description | None = None
        self._starts, self._stopped = 0, False

    @property
    def pid(self) -> int | None:
        """The process's id; None before it is first needed."""
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        """Whether there is a process now."""
        return self._process is not None and self._process.alive

    @property
    def restarts(self) -> int:
        """How often the process was started again."""
        return max(0, self._starts - 1)

    @property
    def output(self) -> str:
        """The end of what the process printed. It may show records: never let it leave the site."""
        return "" if self._process is None else self._process.output

    def describe(self) -> Description:
        """Build the study's task, and try its model on this site's batches.

        Raises:
            ModelError: the model cannot be built, or does not fit the records.
            WorkerError: the process failed, or was stopped.
        """
        with self._turn:
            return self._ready()[1]

    def initial(self) -> Params:
        """Return the model that round 1 starts from.

        Raises:
            ModelError, WorkerError: as `describe`.
        """
        with self._turn:
            process, description = self._ready()
            process.ask(wire.Begin(), wire.Model, seconds=self.limits.start_seconds)
            params = _read_model(process, description.layout)
        if params.digest != description.initial:
            raise WorkerError("the model differs each time that the study makes it")
        return params

    def run(self, run: Run, *, at: Callable[[], float]) -> Done:
        """Run a step over the records; one that fails says why.

        Args:
            run: what the site's actor asks for.
            at: the engine's clock, in seconds.

        Raises:
            WorkerStoppedError: `stop` was called; the step has neither run nor failed.
        """
        try:
            with self._turn:
                update, cursor = self._perform(run)
        except WorkerStoppedError:
            raise
        except (WorkerError, ModelError) as error:
            return Done(run.round, run.attempt, run.step.id, None, None, str(error), at())
        return Done(run.round, run.attempt, run.step.id, update, cursor, "", at())

    def stop(self, *, now: bool = False) -> None:
        """End the process, and start none again.

        Args:
            now: kill it in the midst of a step; else the step ends first.
        """
        self._stopped = True
        if now and self._process is not None:
            self._process.kill()
        with self._turn:
            if self._process is not None:
                self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop(now=True)

    # -- one step ----------------------------------------------------------------------------------

    def _perform(self, run: Run) -> tuple[Update, Cursor | None]:
        if run.party != self.assignment.site:
            raise WorkerError(f"a step of {run.party!r} at {self.assignment.site!r}")
        step = run.step
        assert step.op in ("train", "evaluate")
        process, description = self._ready()
        if run.params.layout.specs != description.layout.specs:
            raise WorkerError("the model has other arrays than the study's")
        cursor = None if run.slot is None else (run.slot.epoch, run.slot.position)
        request = wire.Perform(run.round, run.attempt, step.id, step.op, cursor, run.measure)
        buffers = [run.params.buffers[dtype] for dtype in description.layout.sizes]
        try:
            performed = process.ask(
                request, wire.Performed, arrays=buffers, seconds=self.limits.seconds
            )
        except OutOfMemoryError as error:
            process.close()  # what is left of its memory is anybody's guess
            raise self._out_of_memory() from error
        params = _read_model(process, description.layout) if step.op == "train" else None
        weight, slot = self._checked(performed, run)
        return Update(params, weight, _statistics(performed, description)), slot

    def _checked(self, performed: wire.Performed, run: Run) -> tuple[float, Cursor | None]:
        """Return the weight and the cursor that a process reported, if they can be true."""
        records, trained = self.assignment.records, run.step.op == "train"
        rows = len(records.train if trained else records.test)
        weight, cursor = performed.weight, performed.cursor
        if not (math.isfinite(weight) and 0 <= weight <= rows):
            raise WorkerError(f"the worker reported a weight of {weight:g}, of {rows} rows")
        if trained != (cursor is not None):
            raise WorkerError("the worker reported no place in its batches, or a superfluous one")
        return weight, cursor and Cursor(*cursor)

    def _out_of_memory(self) -> WorkerError:
        limit = self.limits.memory_bytes
        told = "the machine's" if limit is None else f"limit {size_told(limit)}"
        return WorkerError(f"out of memory ({told})")

    # -- the process -------------------------------------------------------------------------------

    def _ready(self) -> tuple[Process, Description]:
        """Return a process that has built the task, and what that is."""
        if self._stopped:
            raise WorkerStoppedError
        if self._process is not None and self._description is not None and self._process.alive:
            return self._process, self._description
        if self._process is not None:
            self._process.close()
        command = self.isolation.command(self.limits)
        seconds = self.limits.start_seconds
        process = Process(command, environment_for(self.limits), seconds=seconds)
        self._process, self._starts = process, self._starts + 1
        try:
            return process, self._build(process)
        except (WorkerError, ModelError):
            process.close()
            raise

    def _build(self, process: Process) -> Description:
        if self._stopped:
            raise WorkerStoppedError
        request, arrays = _request(self.assignment)
        try:
            built = process.ask(
                request, wire.Built, arrays=arrays, seconds=self.limits.start_seconds
            )
        except OutOfMemoryError as error:
            raise self._out_of_memory() from error
        found = _description(built, self.limits)
        if self._description is not None and found != self._description:
            raise WorkerError("the study's code built another model than before")
        self._description = found
        return found


def _request(assignment: Assignment) -> tuple[wire.Assign, list[Array | bytes]]:
    bundle, records = assignment.bundle, assignment.records
    parts = (records.train, records.validation, records.test)
    arrays = [array for part in parts for array in (part.x, part.y)]
    request = wire.Assign(
        study=json.dumps(bundle.study.canonical()).encode(),
        digest=bundle.digest,
        fingerprint=bundle.model_fingerprint,
        where=bundle.where,
        files=[(path, len(content)) for path, content in bundle.files.items()],
        site=assignment.site,
        inputs=assignment.inputs,
        arrays=[(array.shape, array.dtype.name) for array in arrays],
    )
    return request, [*bundle.files.values(), *arrays]


def _description(built: wire.Built, limits: Limits) -> Description:
    """Return what a process built, if it is a model of a believable size."""
    names = [name for name, _, _ in built.arrays]
    if not 0 < len(names) <= MOST_ARRAYS or len(set(names)) != len(names):
        raise WorkerError(f"the worker spoke of {len(names)} arrays, or named one twice")
    unknown = sorted({dtype for _, _, dtype in built.arrays} - _DTYPES)
    if unknown:
        raise WorkerError(f"the worker spoke of arrays of {unknown[0]!r}")
    total = sum(_size(shape) * np.dtype(dtype).itemsize for _, shape, dtype in built.arrays)
    most = limits.memory_bytes or LARGEST_MODEL
    if total > most:
        raise WorkerError(f"the worker spoke of a model of {size_told(total)}")
    statistics = sum(8 * _size(shape) for shape in built.statistics.values())
    if statistics > LARGEST_STATISTICS:
        raise WorkerError(f"the worker spoke of statistics of {size_told(statistics)}")
    return Description(
        Layout(tuple(ArraySpec(*array) for array in built.arrays)),
        built.statistics,
        built.metrics,
        built.initial,
        built.environment,
    )


def _size(shape: tuple[int, ...]) -> int:
    """Return the number of elements; a side of none counts as one, or the others were unbounded."""
    return math.prod(max(1, side) for side in shape)


def _read_model(process: Process, layout: Layout) -> Params:
    buffers: dict[str, Array] = {d: np.empty(size, d) for d, size in layout.sizes.items()}
    for buffer in buffers.values():
        process.fill(buffer)
    return Params(layout, buffers)


def _statistics(performed: wire.Performed, description: Description) -> Statistics:
    """Return the statistics of a step, if they are declared; the gate looks at their values."""
    found = {}
    for name, content in performed.statistics.items():
        shape = description.statistics.get(name.removeprefix(VALIDATION))
        if shape is None or len(content) != 8 * math.prod(shape):
            raise WorkerError(f"the worker reported a statistic {name!r} that is not declared")
        found[name] = np.frombuffer(content, np.float64).reshape(shape)
    return found

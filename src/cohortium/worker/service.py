"""The worker process's own side: takes requests, builds the study's task, trains and evaluates."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np

from cohortium.errors import InvalidInputError
from cohortium.learning.pytorch import fitting_threads
from cohortium.learning.task import Cursor
from cohortium.plan.step import Step
from cohortium.records import Part, SiteData
from cohortium.runtime.agreeing import work_of
from cohortium.runtime.building import build, initial_model
from cohortium.runtime.environment import environment
from cohortium.runtime.events import Run
from cohortium.runtime.training import Training
from cohortium.study.bundle import Bundle
from cohortium.study.study import Study
from cohortium.types import Array, Params, PartyId, SiteId
from cohortium.worker import wire
from cohortium.worker.probes import attempt_all

LONGEST = 1000
"""Characters of an exception's message that are told."""

_MEMORY = ("MemoryError", "can't allocate memory", "bad_alloc", "out of memory")
"""What the reason of a step says that asked for more memory than there is."""


def serve(reading: int, writing: int) -> None:
    """Answer requests until the other end is closed.

    Args:
        reading: where requests come from.
        writing: where replies go.
    """
    wire.send(writing, wire.Ready(), wait=_at_once)
    job: _Job | None = None
    while True:
        try:
            request: wire.Request = wire.receive(reading, wire.Request, wait=_at_once)
        except EOFError:
            return
        arrays: Iterable[Array] = ()
        reply: wire.Reply
        match request:
            case wire.Assign():
                bundle, records = _read_assignment(request, reading)
                try:
                    job = _Job(bundle, request, records)
                    reply = job.built()
                except InvalidInputError as error:
                    reply = _refused(error)
                except (Exception, SystemExit) as error:  # noqa: BLE001 - study code; it is named
                    reply = _failed(f"{type(error).__name__}: {error}")
            case wire.Begin():
                assert job is not None
                reply, arrays = wire.Model(), job.initial().buffers.values()
            case wire.Perform():
                assert job is not None
                reply, arrays = job.perform(request, job.read_model(reading))
            case wire.Probe():
                reply = wire.Probed(attempt_all(request.targets))
        wire.send(writing, reply, arrays, wait=_at_once)


class _Job:
    """A study's task over a site's records: built once, warm from then on."""

    def __init__(self, bundle: Bundle, request: wire.Assign, records: SiteData) -> None:
        study, site = bundle.study, SiteId(request.site)
        trains = study.plan.rounds and site not in study.plan.evaluation_only
        self.bundle, self.site = bundle, site
        tried = {request.site: records.train} if trains else {}
        self.task = build(bundle, request.inputs, tried=tried)
        self.training = Training(self.task, {site: records}, work_of(study), study.study.seed)

    def built(self) -> wire.Built:
        """Describe the task."""
        specs = self.task.layout.specs
        return wire.Built(
            [(spec.name, spec.shape, spec.dtype) for spec in specs],
            dict(self.task.statistics),
            self.task.metrics,
            self.initial().digest,
            environment(),
        )

    def initial(self) -> Params:
        """Return the model that the study starts from."""
        return initial_model(self.bundle, self.task)

    def read_model(self, reading: int) -> Params:
        """Read a model."""
        sizes = self.task.layout.sizes
        buffers: dict[str, Array] = {dtype: np.empty(size, dtype) for dtype, size in sizes.items()}
        for buffer in buffers.values():
            wire.fill(reading, buffer, wait=_at_once)
        return Params(self.task.layout, buffers)

    def perform(
        self, request: wire.Perform, params: Params
    ) -> tuple[wire.Performed | wire.Failed, Iterable[Array]]:
        """Run a step; return the reply and the arrays that follow it."""
        party = PartyId(self.site)
        run = Run(
            party,
            request.round,
            request.attempt,
            Step(request.step, party, request.op),
            params,
            None if request.cursor is None else Cursor(*request.cursor),
            request.measure,
        )
        with fitting_threads(self.task.layout.nbytes):
            done = self.training.perform(run, at=0.0)
        if done.update is None:
            return _failed(done.reason), ()
        update, slot = done.update, done.slot
        statistics = {name: values.tobytes() for name, values in update.statistics.items()}
        cursor = None if slot is None else (slot.epoch, slot.position)
        arrays = () if update.params is None else update.params.buffers.values()
        return wire.Performed(update.weight, statistics, cursor), arrays


def _read_assignment(request: wire.Assign, reading: int) -> tuple[Bundle, SiteData]:
    files = {
        path: bytes(wire.fill_bytes(reading, size, wait=_at_once)) for path, size in request.files
    }
    arrays = [np.empty(shape, dtype) for shape, dtype in request.arrays]
    for array in arrays:
        wire.fill(reading, array, wait=_at_once)
    study = Study.from_dict(json.loads(request.study), where=request.where)
    bundle = Bundle(study, files, request.fingerprint, request.where)
    if bundle.digest != request.digest:
        raise RuntimeError(f"the study's digest is {bundle.digest} here, not {request.digest}")
    parts = [Part(x, y) for x, y in zip(arrays[::2], arrays[1::2], strict=True)]
    return bundle, SiteData(*parts)


def _refused(error: InvalidInputError) -> wire.Refused:
    return wire.Refused(
        [
            (_told(p.where), _told(p.key), _told(p.got), _told(p.expected), _told(p.advice))
            for p in error.problems[:100]
        ]
    )


def _failed(reason: str) -> wire.Failed:
    return wire.Failed(_told(reason), memory=any(word in reason for word in _MEMORY))


def _told(text: str) -> str:
    """Return what a message takes of a text: not too much, and nothing that is no UTF-8."""
    return text[:LONGEST].encode("utf-8", "replace").decode("utf-8")


def _at_once(fd: int, to_write: bool) -> None:
    """Wait for nothing: the process has nothing else to do."""
